// libtvlt_deploy: a graph of the bundle on ONNX Runtime.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "bundle.hpp"
#include "failure.hpp"
#include "model.hpp"
#include "ort.hpp"

namespace tvlt::internal {
namespace {

constexpr const char* config_file = "config.json";
constexpr const char* preprocessor_file = "preprocessor_config.json";

/// (first, second) of a size that is written as one number or two.
std::pair<std::int64_t, std::int64_t> pair_of(const nlohmann::json& value) {
    if (value.is_number_integer()) return {value.get<std::int64_t>(), value.get<std::int64_t>()};
    return {value.at(0).get<std::int64_t>(), value.at(1).get<std::int64_t>()};
}

/// What turns logits into scores, as tvlt_deploy.TvltConfig.activation.
enum class Activation { none, sigmoid, softmax };

/// What the model takes and how it answers: config.json.
struct Config {
    explicit Config(const nlohmann::json& values)
        : most_frames(values.at("num_frames")) {
        const auto image = pair_of(values.at("image_size")), patch = pair_of(values.at("image_patch_size"));
        const auto audio = pair_of(values.at("audio_patch_size"));
        height = image.first;
        width = image.second;
        patches_per_frame = (image.first / patch.first) * (image.second / patch.second);
        patch_rows = audio.first;
        patches_per_step = values.at("frequency_length").get<std::int64_t>() / audio.second;
        most_rows = values.at("spectrogram_length").get<std::int64_t>() / patch_rows * patch_rows;
        const auto& names = values.at("id2label");
        for (std::size_t index = 0; index < names.size(); ++index) labels.push_back(names.at(std::to_string(index)));
        const std::map<std::string, Activation> activations{{"regression", Activation::none},
                                                            {"multi_label_classification", Activation::sigmoid},
                                                            {"single_label_classification", Activation::softmax}};
        if (values.contains("problem_type") && !values["problem_type"].is_null())
            activation = activations.at(values["problem_type"]);
        else if (values.at("loss_type") == "classification" && labels.size() > 1)
            activation = Activation::softmax;
        if (values.contains("sign_labels") && !values["sign_labels"].is_null()) sign_labels = values["sign_labels"];
    }

    std::int64_t most_frames, height = 0, width = 0, patches_per_frame = 0;
    std::int64_t patch_rows = 0, patches_per_step = 0, most_rows = 0;
    std::vector<std::string> labels, sign_labels;  // of a value below 0 and from 0 on, or none
    Activation activation = Activation::none;
};

/// What pre-processing refuses: preprocessor_config.json. The limits are those of tvlt_deploy.processors.
struct Preprocessing {
    explicit Preprocessing(const nlohmann::json& values) {
        const auto& sound = values.at("feature_extractor");
        sampling_rate = sound.at("sampling_rate");
        least_samples = sound.at("hop_length").get<std::int64_t>() + sound.at("n_fft").get<std::int64_t>() % 2;
        const auto& size = values.at("image_processor").at("size");
        short_edge = size.value("shortest_edge", std::int64_t{0});
    }

    void check(const Clip& clip, const std::string& name) const {
        if (clip.frame_count > 0) {
            const auto [shorter, longer] = std::minmax(clip.height, clip.width);
            const double resized = std::floor(static_cast<double>(short_edge) * static_cast<double>(longer) /
                                              static_cast<double>(shorter));
            if (static_cast<double>(short_edge) * resized > most_pixels)
                throw Failure(TVLT_USAGE,
                              name + " has frames of " + std::to_string(clip.height) + "x" +
                                  std::to_string(clip.width) + ", which resize to more than " +
                                  std::to_string(most_pixels) + " pixels",
                              "crop them to a less extreme shape first");
        }
        if (clip.sample_count > 0) check_sound(clip, name);
    }

private:
    static constexpr int most_pixels = 1 << 27;  // of one resized frame
    static constexpr float loudest = 64;  // integer samples as floats get here, sound within [-1, 1] does not

    void check_sound(const Clip& clip, const std::string& name) const {
        if (clip.sampling_rate != sampling_rate)
            throw Failure(TVLT_USAGE,
                          name + ".sampling_rate is " + std::to_string(clip.sampling_rate) + "; wanted " +
                              std::to_string(sampling_rate),
                          "resample the sound first");
        if (clip.sample_count < least_samples)
            throw Failure(TVLT_USAGE,
                          name + " has " + std::to_string(clip.sample_count) + " samples; wanted at least " +
                              std::to_string(least_samples),
                          "pad it with zeros, or leave the clip's sound out");
        float peak = 0;
        bool finite = true;
        for (std::int64_t index = 0; index < clip.sample_count; ++index) {
            const float level = std::fabs(clip.samples[index]);
            finite = finite && level <= std::numeric_limits<float>::max();
            peak = std::max(peak, level);
        }
        if (!finite) throw Failure(TVLT_USAGE, name + " holds NaN or infinite samples; wanted finite numbers");
        if (peak > loudest)
            throw Failure(TVLT_USAGE, name + " has samples up to " + std::to_string(peak) + "; wanted -1 to 1",
                          "divide 16-bit samples by 32768");
    }

    std::int64_t short_edge = 0, least_samples = 0;
    int sampling_rate = 0;
};

/// Labels and scores from the first output of one clip, as tvlt_deploy.Pipeline.answers.
class Answering {
public:
    Answering(const std::string& task, const Config& config) : activation_(config.activation) {
        matching_ = task == "audio-visual-matching";
        if (matching_) {
            labels_ = std::make_shared<Labels>(std::vector<std::string>{"match", "mismatch"});
            activation_ = Activation::sigmoid;
        } else if (task == "audio-visual-classification") {
            labels_ = std::make_shared<Labels>(config.labels);
            signs_ = config.sign_labels;
        }
    }

    std::optional<Answer> operator()(const Output& output) const {
        if (labels_ == nullptr) return std::nullopt;
        std::vector<double> scores(output.values.begin(), output.values.end());
        if (activation_ == Activation::sigmoid) {
            for (auto& score : scores) score = 0.5 * (1 + std::tanh(score / 2));  // without overflow
        } else if (activation_ == Activation::softmax) {
            const double most = *std::max_element(scores.begin(), scores.end());
            double total = 0;
            for (auto& score : scores) total += score = std::exp(score - most);
            for (auto& score : scores) score /= total;
        }
        if (matching_) scores = {scores.at(0), 1 - scores.at(0)};
        if (scores.size() != labels_->size())
            throw Failure(TVLT_FILE,
                          "the graph gives " + std::to_string(scores.size()) + " scores for " +
                              std::to_string(labels_->size()) + " labels",
                          "export the bundle again");
        const auto best = static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
        const double score = scores[best];
        return Answer{labels_, std::move(scores), signs_.empty() ? (*labels_)[best] : signs_.at(score >= 0 ? 1 : 0),
                      score};
    }

private:
    std::shared_ptr<const Labels> labels_;
    std::vector<std::string> signs_;
    Activation activation_;
    bool matching_ = false;
};

/// One row for each clip of a batch of outputs.
Rows rows_of(std::vector<Output> outputs, const Answering& answering) {
    Rows rows;
    for (auto& output : outputs) {
        const auto batch = output.shape.empty() ? std::int64_t{0} : output.shape.front();
        if (rows.empty()) rows.resize(static_cast<std::size_t>(batch));
        if (batch < 1 || static_cast<std::size_t>(batch) != rows.size())
            throw Failure(TVLT_FILE, "the graph's output " + output.name + " has no batch axis", "export again");
        const std::vector<std::int64_t> shape(output.shape.begin() + 1, output.shape.end());
        const auto count = static_cast<std::ptrdiff_t>(output.values.size() / rows.size());
        for (std::size_t row = 0; row < rows.size(); ++row) {
            const auto begin = output.values.begin() + static_cast<std::ptrdiff_t>(row) * count;
            rows[row].outputs.push_back({output.name, shape, {begin, begin + count}});
        }
    }
    for (auto& row : rows) row.answer = answering(row.outputs.front());
    return rows;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const auto size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "(" + text + ")";
}

std::string shape_text(const Spec& spec) {
    std::string text;
    for (const auto& axis : spec.shape) {
        const auto* const name = std::get_if<std::string>(&axis);
        text += (text.empty() ? "" : ", ") + (name != nullptr ? *name : std::to_string(std::get<std::int64_t>(axis)));
    }
    return "(" + text + ")";
}

class OnnxRuntimeModel : public Model {
public:
    OnnxRuntimeModel(const Bundle& bundle, const Options& options)
        : input_(options.input),
          specs_(bundle.inputs()),
          outputs_(bundle.outputs()),
          config_(parsed<Config>(bundle, config_file)),
          answering_(bundle.task(), config_),
          graph_(checked_graph(bundle, options), options) {
        if (input_ == TVLT_CLIPS) preprocessing_ = parsed<Preprocessing>(bundle, preprocessor_file);
        auto names = graph_.input_names();
        std::vector<std::string> wanted{"frames", "waveform"};
        if (input_ == TVLT_TENSORS) {
            wanted.clear();
            for (const auto& spec : specs_) wanted.push_back(spec.name);
        }
        std::sort(names.begin(), names.end());
        std::sort(wanted.begin(), wanted.end());
        if (names != wanted)
            throw Failure(TVLT_FILE, "the graph's inputs are not those of its task", "export the bundle again");
    }

    Rows run(const std::vector<Clip>& clips) override {
        if (input_ != TVLT_CLIPS)
            throw Failure(TVLT_USAGE, "this session takes tensors", "open one with options.input = TVLT_CLIPS");
        for (std::size_t index = 0; index < clips.size(); ++index) check_clip(clips[index], index);
        Rows rows;
        for (const auto& clip : clips) rows.push_back(std::move(run_clip(clip).front()));
        return rows;
    }

    Rows run(const std::vector<TensorView>& inputs) override {
        if (input_ != TVLT_TENSORS)
            throw Failure(TVLT_USAGE, "this session takes clips", "open one with options.input = TVLT_TENSORS");
        check_tensors(inputs);
        std::vector<OrtGraph::Feed> feeds;
        for (const auto& tensor : inputs)
            feeds.push_back({tensor.name.c_str(), tensor.data, tensor.count * sizeof(float), tensor.shape,
                             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT});
        return rows_of(graph_.run(feeds, outputs_), answering_);
    }

    Rows run(const std::vector<Media>&) override {
        throw Failure(TVLT_ENVIRONMENT, "this library decodes no media files",
                      "link libtvlt_deploy_python, or decode them and call tvlt_run");
    }

private:
    template <typename T>
    static T parsed(const Bundle& bundle, const char* name) {
        const auto values = bundle.read_json(name);
        try {
            return T(values);
        } catch (const std::exception& error) {
            throw Failure(TVLT_FILE, bundle.path(name).string() + " lacks or misshapes a setting: " + error.what(),
                          "export the bundle again");
        }
    }

    /// The file of the graph that suits input and device, compared with the manifest.
    static std::string checked_graph(const Bundle& bundle, const Options& options) {
        const auto precision = options.precision.empty() ? "fp32" : options.precision;
        std::string form = "fused";
        if (options.input == TVLT_TENSORS) {
            form = options.device == "cpu" ? "onnxruntime-cpu" : "fp16-twin";
            if (!bundle.holds(precision, form)) form = "standard";
        }
        const auto& graph = bundle.graph(precision, form);
        for (const auto& file : graph.files) bundle.check(file);
        return bundle.path(graph.path).string();
    }

    void check_clip(const Clip& clip, std::size_t index) const {
        const auto name = "clips[" + std::to_string(index) + "]";
        if (clip.frame_count > config_.most_frames)
            throw Failure(TVLT_USAGE,
                          name + " has " + std::to_string(clip.frame_count) + " frames; wanted at most " +
                              std::to_string(config_.most_frames),
                          "pick frames evenly");
        preprocessing_->check(clip, name);
    }

    Rows run_clip(const Clip& clip) const {
        // An absent part has length 0; the other sizes of absent frames are those the model sees.
        const bool seen = clip.frame_count > 0;
        const auto height = seen ? clip.height : config_.height, width = seen ? clip.width : config_.width;
        const auto row = static_cast<std::size_t>(width) * 3;
        const auto bytes = static_cast<std::size_t>(clip.frame_count * height) * row;
        std::vector<std::uint8_t> packed;
        const std::uint8_t* frames = clip.frames;
        const auto row_stride = static_cast<std::size_t>(clip.row_stride);
        if (seen && (row_stride != row || clip.frame_stride != clip.height * clip.row_stride)) {
            packed.reserve(bytes);
            for (std::int64_t frame = 0; frame < clip.frame_count; ++frame)
                for (std::int64_t line = 0; line < height; ++line) {
                    const auto* const from = clip.frames + frame * clip.frame_stride + line * clip.row_stride;
                    packed.insert(packed.end(), from, from + row);
                }
            frames = packed.data();
        }
        const std::vector<OrtGraph::Feed> feeds{
            {"frames", frames, bytes, {clip.frame_count, height, width, 3}, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
            {"waveform", clip.samples, static_cast<std::size_t>(clip.sample_count) * sizeof(float),
             {clip.sample_count}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
        };
        auto rows = rows_of(graph_.run(feeds, outputs_), answering_);
        if (rows.size() != 1) throw Failure(TVLT_FILE, "the fused graph answers more than one clip", "export again");
        return rows;
    }

    /// Every input there and all of shapes that agree: ONNX Runtime reports a wrong mask length or a row count
    /// that is not whole patches only deep inside the graph, or not at all.
    void check_tensors(const std::vector<TensorView>& inputs) const {
        std::map<std::string, std::int64_t> sizes;
        const auto find = [&](const std::string& name) {
            const auto has_name = [&](const TensorView& tensor) { return tensor.name == name; };
            const auto found = std::find_if(inputs.begin(), inputs.end(), has_name);
            if (found == inputs.end())
                throw Failure(TVLT_USAGE, "the input " + name + " is missing; wanted " + input_list());
            return found;
        };
        for (const auto& tensor : inputs)
            if (std::none_of(specs_.begin(), specs_.end(), [&](const Spec& spec) { return spec.name == tensor.name; }))
                throw Failure(TVLT_USAGE, "there is no input '" + tensor.name + "'; wanted " + input_list());
        for (const auto& spec : specs_) {
            const auto tensor = find(spec.name);
            bool fits = tensor->shape.size() == spec.shape.size();
            for (std::size_t axis = 0; fits && axis < spec.shape.size(); ++axis) {
                const auto size = tensor->shape[axis];
                if (const auto* const fixed = std::get_if<std::int64_t>(&spec.shape[axis]))
                    fits = size == *fixed;
                else
                    fits = sizes.try_emplace(std::get<std::string>(spec.shape[axis]), size).first->second == size;
            }
            if (!fits)
                throw Failure(TVLT_USAGE, spec.name + " has shape " + shape_text(tensor->shape) + "; wanted " +
                                              shape_text(spec) + known_sizes(sizes));
        }
        const auto frames = sizes["frames"], rows = sizes["rows"];
        if (frames > config_.most_frames)
            throw Failure(TVLT_USAGE, "pixel_values has " + std::to_string(frames) + " frames; wanted 1 to " +
                                          std::to_string(config_.most_frames));
        if (rows > config_.most_rows || rows % config_.patch_rows != 0)
            throw Failure(TVLT_USAGE, "audio_values has " + std::to_string(rows) + " rows; wanted a multiple of " +
                                          std::to_string(config_.patch_rows) + " up to " +
                                          std::to_string(config_.most_rows));
        check_patches("pixel_mask", sizes["pixel_patches"], frames * config_.patches_per_frame);
        check_patches("audio_mask", sizes["audio_patches"], rows / config_.patch_rows * config_.patches_per_step);
    }

    static void check_patches(const char* name, std::int64_t found, std::int64_t wanted) {
        if (found != wanted)
            throw Failure(TVLT_USAGE, std::string(name) + " has " + std::to_string(found) + " patches; wanted " +
                                          std::to_string(wanted) + " for the frames or rows given");
    }

    static std::string known_sizes(const std::map<std::string, std::int64_t>& sizes) {
        std::string text;
        for (const auto& [name, size] : sizes) text += ", " + name + " " + std::to_string(size);
        return text;
    }

    std::string input_list() const {
        std::string names;
        for (const auto& spec : specs_) names += (names.empty() ? "" : ", ") + spec.name;
        return names;
    }

    const tvlt_input input_;
    const std::vector<Spec> specs_;
    const std::vector<std::string> outputs_;
    const Config config_;
    const Answering answering_;
    std::optional<Preprocessing> preprocessing_;
    const OrtGraph graph_;
};

}  // namespace

std::unique_ptr<Model> open_model(const std::string& bundle, const Options& options) {
    return std::make_unique<OnnxRuntimeModel>(Bundle(bundle), options);
}

}  // namespace tvlt::internal
