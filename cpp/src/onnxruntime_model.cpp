// libtvlt_deploy: a graph of the bundle on ONNX Runtime.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>

#include "answering.hpp"
#include "bundle.hpp"
#include "failure.hpp"
#include "limits.hpp"
#include "model.hpp"
#include "ort.hpp"

namespace tvlt::internal {
namespace {

/// One row for each clip of a batch of outputs.
Rows rows_of(std::vector<Output> outputs, const Answering& answering) {
    Rows rows;
    for (auto& output : outputs) {
        const auto batch = output.shape.empty() ? std::int64_t{0} : output.shape.front();
        if (rows.empty()) rows.resize(static_cast<std::size_t>(batch));
        if (batch < 1 || static_cast<std::size_t>(batch) != rows.size())
            throw Failure(TVLT_FILE, "the graph's output " + output.name + " has no batch axis",
                          "export the bundle again");
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

/// Inputs of the fused graph.
std::vector<TensorInfo> raw_inputs() {
    return {{"frames", {-1, -1, -1, 3}, TVLT_UINT8}, {"waveform", {-1}, TVLT_FLOAT32}};
}

/// Names and shapes of the manifest, from axis `first` on.
std::vector<TensorInfo> infos_of(const std::vector<Spec>& specs, std::ptrdiff_t first) {
    std::vector<TensorInfo> infos;
    for (const auto& spec : specs) {
        TensorInfo info{spec.name, {}, TVLT_FLOAT32};
        std::transform(spec.shape.begin() + first, spec.shape.end(), std::back_inserter(info.shape),
                       [](const Axis& axis) {
                           const auto* const size = std::get_if<std::int64_t>(&axis);
                           return size == nullptr ? -1 : *size;
                       });
        infos.push_back(std::move(info));
    }
    return infos;
}

class OnnxRuntimeModel : public Model {
public:
    OnnxRuntimeModel(const Bundle& bundle, const Options& options)
        : input_(options.input),
          manifest_(bundle.manifest()),
          answering_(manifest_),
          signature_{input_ == TVLT_CLIPS ? raw_inputs() : infos_of(manifest_.inputs, 0),
                     infos_of(manifest_.outputs, 1), answering_.labels()},
          graph_(checked_graph(bundle, options), options) {
        for (const auto& output : manifest_.outputs) output_names_.push_back(output.name);
        auto actual = graph_.input_names();
        std::vector<std::string> expected;
        for (const auto& info : signature_.inputs) expected.push_back(info.name);
        std::sort(actual.begin(), actual.end());
        std::sort(expected.begin(), expected.end());
        if (actual != expected)
            throw Failure(TVLT_FILE, "the graph's inputs are not those of its task", "export the bundle again");
    }

    const Signature& signature() const override { return signature_; }

    Rows run(const std::vector<Clip>& clips) override {
        if (input_ != TVLT_CLIPS)
            throw Failure(TVLT_USAGE, "this session accepts tensors", "open one with options.input = TVLT_CLIPS");
        for (std::size_t index = 0; index < clips.size(); ++index)
            check_clip(manifest_.limits, clips[index], "clips[" + std::to_string(index) + "]");
        Rows rows;
        for (const auto& clip : clips) rows.push_back(std::move(run_clip(clip).front()));
        return rows;
    }

    Rows run(const std::vector<TensorView>& inputs) override {
        if (input_ != TVLT_TENSORS)
            throw Failure(TVLT_USAGE, "this session accepts clips", "open one with options.input = TVLT_TENSORS");
        check_tensors(manifest_, inputs);
        std::vector<OrtGraph::Feed> feeds;
        for (const auto& tensor : inputs)
            feeds.push_back({tensor.name.c_str(), tensor.data, tensor.count * sizeof(float), tensor.shape,
                             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT});
        return rows_of(graph_.run(feeds, output_names_), answering_);
    }

    Rows run(const std::vector<Media>&) override {
        throw Failure(TVLT_ENVIRONMENT, "this library decodes no media files",
                      "link libtvlt_deploy_python, or decode them and call tvlt_run");
    }

private:
    /// The file of the graph for this input and device, compared with the manifest.
    static std::string checked_graph(const Bundle& bundle, const Options& options) {
        const auto precision = options.precision.empty() ? "fp32" : options.precision;
        std::string form = "fused";
        if (options.input == TVLT_TENSORS) {
            form = options.device == "cpu" ? "onnxruntime-cpu" : "fp16-twin";
            if (!bundle.has_graph(precision, form)) form = "standard";
        }
        const auto& graph = bundle.graph(precision, form);
        const auto& limits = bundle.manifest().limits;
        if (form == "fused" && !(limits.sampling_rate && limits.min_samples && limits.max_amplitude))
            throw Failure(TVLT_FILE,
                          bundle.path("manifest.json").string() +
                              " has a fused graph, but no limits of pre-processing (sampling_rate, min_samples, "
                              "max_amplitude)",
                          "export the bundle again");
        for (const auto& file : graph.files) bundle.check(file);
        return bundle.path(graph.path).string();
    }

    Rows run_clip(const Clip& clip) const {
        // An absent part has length 0; the other sizes of absent frames are the model's.
        const bool has_frames = clip.frame_count > 0;
        const auto height = has_frames ? clip.height : manifest_.limits.image_height;
        const auto width = has_frames ? clip.width : manifest_.limits.image_width;
        const auto row = static_cast<std::size_t>(width) * 3;
        const auto bytes = static_cast<std::size_t>(clip.frame_count * height) * row;
        std::vector<std::uint8_t> packed;
        const std::uint8_t* frames = clip.frames;
        const auto row_stride = static_cast<std::size_t>(clip.row_stride);
        if (has_frames && (row_stride != row || clip.frame_stride != clip.height * clip.row_stride)) {
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
            {"waveform",
             clip.samples,
             static_cast<std::size_t>(clip.sample_count) * sizeof(float),
             {clip.sample_count},
             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
        };
        auto rows = rows_of(graph_.run(feeds, output_names_), answering_);
        if (rows.size() != 1)
            throw Failure(TVLT_FILE, "the fused graph returns more than one clip", "export the bundle again");
        return rows;
    }

    const tvlt_input input_;
    const Manifest manifest_;
    const Answering answering_;
    const Signature signature_;
    std::vector<std::string> output_names_;
    const OrtGraph graph_;
};

}  // namespace

std::unique_ptr<Model> open_model(const std::string& bundle, const Options& options) {
    return std::make_unique<OnnxRuntimeModel>(Bundle(bundle), options);
}

}  // namespace tvlt::internal
