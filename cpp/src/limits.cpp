#include "limits.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>

#include "failure.hpp"

namespace tvlt::internal {
namespace {

using Sizes = std::map<std::string, std::int64_t>;  // of the dynamic axes

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
    throw Failure(TVLT_USAGE, message, hint);
}

std::string text_of(std::int64_t number) { return std::to_string(number); }

void check_frames(const Limits& limits, const Clip& clip, const std::string& name) {
    if (clip.frame_count > limits.max_frames)
        refuse(name + " has " + text_of(clip.frame_count) + " frames; expected at most " + text_of(limits.max_frames),
               "pick frames evenly");
    if (!limits.shortest_edge || !limits.max_resized_pixels) return;
    const auto [shorter, longer] = std::minmax(clip.height, clip.width);
    const auto edge = static_cast<double>(*limits.shortest_edge);
    const double resized = std::floor(edge * static_cast<double>(longer) / static_cast<double>(shorter));
    if (edge * resized > static_cast<double>(*limits.max_resized_pixels))
        refuse(name + ": a frame of " + text_of(clip.height) + "x" + text_of(clip.width) + " resizes to more than " +
                   text_of(*limits.max_resized_pixels) + " pixels",
               "crop it to a less extreme shape first");
}

void check_sound(const Limits& limits, const Clip& clip, const std::string& name) {
    if (clip.sampling_rate != limits.sampling_rate)
        refuse(name + ".sampling_rate is " + text_of(clip.sampling_rate) + "; expected " +
                   text_of(limits.sampling_rate.value()),
               "resample the sound first");
    if (clip.sample_count < limits.min_samples)
        refuse(name + " has " + text_of(clip.sample_count) + " samples; expected at least " +
                   text_of(limits.min_samples.value()),
               "pad it with zeros, or leave the clip's sound out");
    float peak = 0;
    bool finite = true;
    for (std::int64_t index = 0; index < clip.sample_count; ++index) {
        const float level = std::fabs(clip.samples[index]);
        finite = finite && level <= std::numeric_limits<float>::max();
        peak = std::max(peak, level);
    }
    if (!finite) refuse(name + " has NaN or infinite samples; expected finite numbers");
    if (peak > static_cast<float>(limits.max_amplitude.value()))  // integer samples as floats
        refuse(name + " reaches " + std::to_string(peak) + "; expected floats within [-1, 1]",
               "divide 16-bit samples by 32768");
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const auto size : shape) text += (text.empty() ? "" : ", ") + text_of(size);
    return "(" + text + ")";
}

std::string shape_text(const Spec& spec) {
    std::string text;
    for (const auto& axis : spec.shape) {
        const auto* const name = std::get_if<std::string>(&axis);
        text += (text.empty() ? "" : ", ") + (name != nullptr ? *name : text_of(std::get<std::int64_t>(axis)));
    }
    return "(" + text + ")";
}

std::string names_of(const std::vector<Spec>& specs) {
    std::string names;
    for (const auto& spec : specs) names += (names.empty() ? "" : ", ") + spec.name;
    return names;
}

/// Compare a tensor's shape with the manifest's, and keep the sizes of dynamic axes, which all inputs share.
void check_shape(const Spec& spec, const TensorView& tensor, Sizes& sizes) {
    bool fits = tensor.shape.size() == spec.shape.size();
    for (std::size_t axis = 0; fits && axis < spec.shape.size(); ++axis) {
        const auto size = tensor.shape[axis];
        if (const auto* const fixed = std::get_if<std::int64_t>(&spec.shape[axis]))
            fits = size == *fixed;
        else
            fits = sizes.try_emplace(std::get<std::string>(spec.shape[axis]), size).first->second == size;
    }
    if (fits) return;
    std::string known;
    for (const auto& [name, size] : sizes) known += ", " + name + " " + text_of(size);
    refuse(spec.name + " has shape " + shape_text(tensor.shape) + "; expected " + shape_text(spec) + known);
}

void check_patches(const char* name, std::int64_t actual, std::int64_t expected) {
    if (actual != expected)
        refuse(std::string(name) + " has " + text_of(actual) + " patches; expected " + text_of(expected) +
               " for these frames or rows");
}

}  // namespace

void check_clip(const Limits& limits, const Clip& clip, const std::string& name) {
    if (clip.frame_count > 0) check_frames(limits, clip, name);
    if (clip.sample_count > 0) check_sound(limits, clip, name);
}

void check_tensors(const Manifest& manifest, const std::vector<TensorView>& inputs) {
    const auto& specs = manifest.inputs;
    for (const auto& tensor : inputs)
        if (std::none_of(specs.begin(), specs.end(), [&](const Spec& spec) { return spec.name == tensor.name; }))
            refuse("there is no input '" + tensor.name + "'; expected " + names_of(specs));
    Sizes sizes;
    for (const auto& spec : specs) {
        const auto has_name = [&](const TensorView& tensor) { return tensor.name == spec.name; };
        const auto tensor = std::find_if(inputs.begin(), inputs.end(), has_name);
        if (tensor == inputs.end()) refuse("the input " + spec.name + " is missing; expected " + names_of(specs));
        check_shape(spec, *tensor, sizes);
    }
    const auto& limits = manifest.limits;
    const auto frames = sizes["frames"], rows = sizes["rows"];
    if (frames > limits.max_frames)
        refuse("pixel_values has " + text_of(frames) + " frames; expected 1 to " + text_of(limits.max_frames));
    if (rows > limits.max_rows || rows % limits.patch_rows != 0)
        refuse("audio_values has " + text_of(rows) + " rows; expected a multiple of " + text_of(limits.patch_rows) +
               " up to " + text_of(limits.max_rows));
    check_patches("pixel_mask", sizes["pixel_patches"], frames * limits.patches_per_frame);
    check_patches("audio_mask", sizes["audio_patches"], rows / limits.patch_rows * limits.patches_per_step);
}

}  // namespace tvlt::internal
