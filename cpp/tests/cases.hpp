// The cases that `python -m tests.cpp.data DIR` wrote: inputs, and what the Python runtime answered to them.
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

/// What is said of a clip, by tasks with labels.
struct Said {
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
    std::vector<Said> answers;                          // by clip; empty for tasks without labels
    double tolerance = 0;
    tvlt_status status = TVLT_OK;  // of a call that is refused, with a text that holds `text`
    std::string text;

    tvlt_input input() const { return inputs.empty() ? TVLT_CLIPS : TVLT_TENSORS; }
    tvlt_clip clip() const;
    std::vector<tvlt_tensor> tensors() const;

    /// Ask a session, which takes this kind of input.
    tvlt::Result run(const tvlt::Session& session) const;

    /// Expect this answer from now on, bit for bit.
    void expect(const tvlt::Result& result);

    /// Whether an answer is the expected one: bit for bit, where the tolerance is 0.
    bool agrees(const tvlt::Result& result) const;
};

/// Of one kind, for the library that this program is linked to.
std::vector<Case> load_cases(const std::string& kind);

std::string bundle_path(const std::string& name);

/// Two threads of the ONNX Runtime, or the Python environment, that the cases were written with.
tvlt_options test_options(tvlt_input input = TVLT_TENSORS);
