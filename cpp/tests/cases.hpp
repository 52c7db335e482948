// The cases of `python -m tests.cpp.data DIR`: inputs, and the outputs of the Python runtime.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tvlt_deploy.hpp>
#include <vector>

struct Array {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};

struct Frames {
    std::vector<std::int64_t> shape;  // frames, height, width, 3
    std::vector<std::uint8_t> values;
};

/// Label and scores of a clip, for tasks with labels.
struct Labelled {
    std::string label;
    double score;
    std::map<std::string, double> scores;  // by label
};

/// One call: a batch of tensors, or one clip.
struct Case {
    std::string name, bundle;
    std::map<std::string, Array> inputs;                // of a batch of tensors
    Frames frames;                                      // of a clip
    std::vector<float> samples;                         // of a clip
    std::string media;                                  // of a media file
    std::vector<std::map<std::string, Array>> outputs;  // by clip and name
    std::vector<Labelled> answers;                      // by clip; empty for tasks without labels
    double tolerance = 0;
    tvlt_status status = TVLT_OK;  // of a call that is refused, with a message that contains `text`
    std::string text;

    tvlt_input input() const { return inputs.empty() ? TVLT_CLIPS : TVLT_TENSORS; }
    tvlt_clip clip() const;
    std::vector<tvlt_tensor> tensors() const;

    /// Run a session that accepts this kind of input.
    tvlt::Result run(const tvlt::Session& session) const;

    /// From now on expect these outputs, bit for bit.
    void expect(const tvlt::Result& result);

    /// Whether outputs and answers are the expected ones, bit for bit if the tolerance is 0.
    bool agrees(const tvlt::Result& result) const;
};

/// The cases of one kind, for the library that this program is linked to.
std::vector<Case> load_cases(const std::string& kind);

std::string bundle_path(const std::string& name);

/// Two threads, with the ONNX Runtime or the Python environment that wrote the cases.
tvlt_options test_options(tvlt_input input = TVLT_TENSORS);
