// The interface that each of the two libraries implements behind the C functions. Sizes and pointers of arguments are
// checked before.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tvlt_deploy.h"

namespace tvlt::internal {

/// `tvlt_options` with its defaults filled in; texts without a default are empty.
struct Options {
    tvlt_input input = TVLT_CLIPS;
    int threads = 0;
    std::string backend = "onnxruntime";
    std::string device = "cpu";
    std::string provider;
    std::string precision;
    std::string onnxruntime;
    std::string python;
    std::string trust_engine;
};

/// One clip; count 0: absent. Strides are in bytes and lie within the caller's buffer.
struct Clip {
    const std::uint8_t* frames = nullptr;
    std::int64_t frame_count = 0, height = 0, width = 0;
    std::int64_t frame_stride = 0, row_stride = 0;
    const float* samples = nullptr;
    std::int64_t sample_count = 0;
    int sampling_rate = 0;
};

/// A row-major float32 array in the caller's memory.
struct TensorView {
    std::string name;
    std::vector<std::int64_t> shape;
    const float* data = nullptr;
    std::size_t count = 0;
};

struct Media {
    std::string path;
    std::optional<std::string> audio;
    double start = 0;
    std::optional<double> duration;
    bool strict = false;
};

struct Output {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};

/// Label names, and the array of pointers that C callers read.
class Labels {
public:
    explicit Labels(std::vector<std::string> names) : names_(std::move(names)) {
        for (const auto& name : names_) pointers_.push_back(name.c_str());
    }
    Labels(const Labels&) = delete;
    Labels& operator=(const Labels&) = delete;

    std::size_t size() const { return names_.size(); }
    const std::string& operator[](std::size_t index) const { return names_[index]; }
    const char* const* pointers() const { return pointers_.data(); }

private:
    std::vector<std::string> names_;
    std::vector<const char*> pointers_;
};

struct Answer {
    std::shared_ptr<const Labels> labels;
    std::vector<double> scores;  ///< one for each label
    std::string label;
    double score = 0;
};

/// Outputs of one clip.
struct Row {
    std::vector<Output> outputs;
    std::optional<Answer> answer;  ///< for tasks with labels
};

using Rows = std::vector<Row>;

/// An input or output of a session.
struct TensorInfo {
    std::string name;
    std::vector<std::int64_t> shape;  ///< -1: dynamic
    tvlt_dtype dtype = TVLT_FLOAT32;
};

/// What a session accepts and returns.
struct Signature {
    std::vector<TensorInfo> inputs, outputs;  ///< outputs are those of one clip, without the batch axis
    std::shared_ptr<const Labels> labels;     ///< never null; empty for tasks without labels
};

/// A bundle opened on an engine. `run` is called from several threads at a time.
class Model {
public:
    Model() = default;
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;
    virtual ~Model() = default;
    virtual const Signature& signature() const = 0;
    virtual Rows run(const std::vector<Clip>& clips) = 0;
    virtual Rows run(const std::vector<TensorView>& inputs) = 0;
    virtual Rows run(const std::vector<Media>& media) = 0;
};

std::unique_ptr<Model> open_model(const std::string& bundle, const Options& options);

}  // namespace tvlt::internal
