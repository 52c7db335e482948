#include "arguments.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tvlt::internal {
namespace {

constexpr std::int32_t max_threads = 1024;
constexpr std::uint32_t max_rank = 8;

std::string element(const char* name, std::size_t index) {
    return std::string(name) + "[" + std::to_string(index) + "]";
}

/// a * b of sizes that are not negative.
std::int64_t product(std::int64_t a, std::int64_t b, const std::string& name) {
    std::int64_t result = 0;
    if (__builtin_mul_overflow(a, b, &result)) refuse(name + " is larger than the address space");
    return result;
}

std::int64_t sum(std::int64_t a, std::int64_t b, const std::string& name) {
    std::int64_t result = 0;
    if (__builtin_add_overflow(a, b, &result)) refuse(name + " is larger than the address space");
    return result;
}

void put_frames(const tvlt_clip& from, const std::string& name, Clip& clip) {
    const auto actual = [&](const char* field, std::int64_t value) {
        return name + "." + field + " is " + std::to_string(value);
    };
    if (from.frames == nullptr) refuse(name + ".frames is NULL, but " + actual("frame_count", from.frame_count));
    if (from.frame_count < 0) refuse(actual("frame_count", from.frame_count) + "; expected 0 or more");
    if (from.height < 1) refuse(actual("height", from.height) + "; expected 1 or more");
    if (from.width < 1) refuse(actual("width", from.width) + "; expected 1 or more");
    const auto row = product(from.width, 3, name);
    const auto row_stride = from.row_stride == 0 ? row : from.row_stride;
    if (row_stride < row)
        refuse(actual("row_stride", row_stride) + "; expected at least " + std::to_string(row) +
               " for a row of pixels");
    const auto frame = sum(product(from.height - 1, row_stride, name), row, name);
    const auto frame_stride = from.frame_stride == 0 ? product(from.height, row_stride, name) : from.frame_stride;
    if (frame_stride < frame)
        refuse(actual("frame_stride", frame_stride) + "; expected at least " + std::to_string(frame) + " for a frame");
    const auto needed = sum(product(from.frame_count - 1, frame_stride, name), frame, name);
    if (static_cast<std::uint64_t>(needed) > from.frames_size)
        refuse(name + ".frames_size is " + std::to_string(from.frames_size) + "; expected at least " +
               std::to_string(needed) + " for its frames");
    clip.frames = from.frames;
    clip.frame_count = from.frame_count;
    clip.height = from.height;
    clip.width = from.width;
    clip.frame_stride = frame_stride;
    clip.row_stride = row_stride;
}

/// shape and data of a tensor whose name is known.
void put_values(const tvlt_tensor& from, const std::string& name, TensorView& tensor) {
    if (from.rank > max_rank)
        refuse(name + ".rank is " + std::to_string(from.rank) + "; expected at most " + std::to_string(max_rank));
    if (from.rank > 0) not_null(from.shape, name + ".shape");
    std::int64_t values = 1;
    for (std::uint32_t axis = 0; axis < from.rank; ++axis) {
        if (from.shape[axis] < 1)
            refuse(name + ".shape contains " + std::to_string(from.shape[axis]) + "; expected sizes of at least 1");
        values = product(values, from.shape[axis], name);
        tensor.shape.push_back(from.shape[axis]);
    }
    const auto needed = product(values, sizeof(float), name);
    if (static_cast<std::uint64_t>(needed) > from.size)
        refuse(name + ".size is " + std::to_string(from.size) + "; expected at least " + std::to_string(needed) +
               " for its shape");
    tensor.data = not_null(from.data, name + ".data");
    tensor.count = static_cast<std::size_t>(values);
}

}  // namespace

void refuse(const std::string& message, const std::string& hint) { throw Failure(TVLT_USAGE, message, hint); }

Options options_of(const tvlt_options* options) {
    Options read;
    if (options == nullptr) return read;
    const auto from = read_struct<tvlt_options>(options, "options");
    if (from.input != TVLT_CLIPS && from.input != TVLT_TENSORS)
        refuse("options.input is " + std::to_string(from.input) + "; expected TVLT_CLIPS or TVLT_TENSORS");
    if (from.threads < 0 || from.threads > max_threads)
        refuse("options.threads is " + std::to_string(from.threads) + "; expected 0 to " + std::to_string(max_threads));
    read.input = static_cast<tvlt_input>(from.input);
    read.threads = from.threads;
    for (auto [to, text] : {std::pair{&read.backend, from.backend},
                            {&read.device, from.device},
                            {&read.provider, from.provider},
                            {&read.precision, from.precision},
                            {&read.onnxruntime, from.onnxruntime},
                            {&read.python, from.python},
                            {&read.trust_engine, from.trust_engine}})
        if (text != nullptr) *to = text;
    return read;
}

std::vector<Clip> clips_of(const tvlt_clip* clips, std::size_t count) {
    std::vector<Clip> read;
    for (const auto& from : read_structs(clips, count, "clips")) {
        const auto name = element("clips", read.size());
        Clip clip;
        if (from.frame_count != 0) put_frames(from, name, clip);
        if (from.sample_count != 0) {
            if (from.sample_count < 0)
                refuse(name + ".sample_count is " + std::to_string(from.sample_count) + "; expected 0 or more");
            if (from.samples == nullptr) refuse(name + ".samples is NULL, but its sample_count is not 0");
            clip.samples = from.samples;
            clip.sample_count = from.sample_count;
            clip.sampling_rate = from.sampling_rate;
        }
        if (clip.frame_count == 0 && clip.sample_count == 0)
            refuse(name + " has neither frames nor samples", "leave it out");
        read.push_back(clip);
    }
    return read;
}

std::vector<TensorView> tensors_of(const tvlt_tensor* tensors, std::size_t count) {
    std::vector<TensorView> read;
    for (const auto& from : read_structs(tensors, count, "inputs")) {
        auto name = element("inputs", read.size());
        TensorView tensor;
        tensor.name = not_null(from.name, name + ".name");
        name += " (" + tensor.name + ")";
        for (const auto& other : read)
            if (other.name == tensor.name) refuse(name + " occurs twice; expected every input once");
        put_values(from, name, tensor);
        read.push_back(std::move(tensor));
    }
    return read;
}

std::vector<Media> media_of(const tvlt_media* media, std::size_t count) {
    std::vector<Media> read;
    for (const auto& from : read_structs(media, count, "media")) {
        const auto name = element("media", read.size());
        Media one;
        one.path = not_null(from.path, name + ".path");
        if (from.audio != nullptr) one.audio = from.audio;
        for (const auto& [field, value] : {std::pair{".start", from.start}, {".duration", from.duration}})
            if (!std::isfinite(value) || value < 0)
                refuse(name + field + " is " + std::to_string(value) + "; expected 0 or more seconds");
        one.start = from.start;
        if (from.duration > 0) one.duration = from.duration;
        one.strict = from.strict != 0;
        read.push_back(std::move(one));
    }
    return read;
}

}  // namespace tvlt::internal
