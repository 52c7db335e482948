#include "cases.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace {

const std::string data = TVLT_TEST_DATA;

nlohmann::json read_cases() {
    std::ifstream file(data + "/cases.json");
    return nlohmann::json::parse(file);
}

template <typename T>
std::vector<T> read_values(const nlohmann::json& array) {
    std::ifstream file(data + "/" + array.at("file").get<std::string>(), std::ios::binary | std::ios::ate);
    std::vector<T> values(static_cast<std::size_t>(file.tellg()) / sizeof(T));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
    if (!file) throw std::runtime_error("cannot read " + array.dump());
    return values;
}

std::map<std::string, Array> read_arrays(const nlohmann::json& arrays) {
    std::map<std::string, Array> read;
    for (const auto& [name, array] : arrays.items()) read[name] = {array.at("shape"), read_values<float>(array)};
    return read;
}

}  // namespace

std::vector<Case> load_cases(const std::string& kind) {
    std::vector<Case> cases;
    const auto content = read_cases();
    for (const auto& entry : content.at("cases").at(TVLT_LIBRARY).at(kind)) {
        Case one;
        one.name = entry.at("name");
        one.bundle = entry.at("bundle");
        one.tolerance = entry.at("tolerance");
        one.status = entry.at("status");
        one.text = entry.at("text");
        if (entry.contains("inputs")) one.inputs = read_arrays(entry.at("inputs"));
        if (entry.contains("frames"))
            one.frames = {entry.at("frames").at("shape"), read_values<std::uint8_t>(entry.at("frames"))};
        if (entry.contains("samples")) one.samples = read_values<float>(entry.at("samples"));
        if (entry.contains("media")) one.media = data + "/" + entry.at("media").get<std::string>();
        for (const auto& outputs : entry.at("outputs")) one.outputs.push_back(read_arrays(outputs));
        for (const auto& answer : entry.at("answers"))
            one.answers.push_back({answer.at("label"), answer.at("score"), answer.at("scores")});
        cases.push_back(std::move(one));
    }
    return cases;
}

std::string bundle_path(const std::string& name) { return data + "/" + name; }

tvlt_options test_options(tvlt_input input) {
    static const auto cases = read_cases();
    static const std::string onnxruntime = cases.at("onnxruntime"), python = cases.at("python");
    auto options = tvlt::make<tvlt_options>();
    options.input = input;
    options.threads = 2;
    options.onnxruntime = onnxruntime.c_str();
    options.python = python.c_str();
    return options;
}

tvlt_clip Case::clip() const {
    auto clip = tvlt::make<tvlt_clip>();
    if (!frames.values.empty()) {
        clip.frames = frames.values.data();
        clip.frames_size = frames.values.size();
        clip.frame_count = frames.shape[0];
        clip.height = frames.shape[1];
        clip.width = frames.shape[2];
    }
    clip.samples = samples.data();
    clip.sample_count = static_cast<std::int64_t>(samples.size());
    clip.sampling_rate = 44100;
    return clip;
}

std::vector<tvlt_tensor> Case::tensors() const {
    std::vector<tvlt_tensor> tensors;
    for (const auto& [input_name, array] : inputs) {
        auto tensor = tvlt::make<tvlt_tensor>();
        tensor.name = input_name.c_str();
        tensor.rank = static_cast<std::uint32_t>(array.shape.size());
        tensor.shape = array.shape.data();
        tensor.data = array.values.data();
        tensor.size = array.values.size() * sizeof(float);
        tensors.push_back(tensor);
    }
    return tensors;
}

tvlt::Result Case::run(const tvlt::Session& session) const {
    if (!inputs.empty()) return session.run(tensors());
    if (media.empty()) return session.run(clip());
    auto file = tvlt::make<tvlt_media>();
    file.path = media.c_str();
    return session.run(file);
}

void Case::expect(const tvlt::Result& result) {
    tolerance = 0;
    for (std::size_t clip = 0; clip < outputs.size(); ++clip) {
        for (auto& [output_name, array] : outputs[clip]) {
            const auto view = result.output(clip, output_name.c_str());
            array.shape.assign(view.shape, view.shape + view.rank);
            array.values.assign(view.data, view.data + view.size / sizeof(float));
        }
        if (answers.empty()) continue;
        const auto view = result.answer(clip);
        answers[clip] = {view.label, view.score, {}};
        for (std::uint32_t label = 0; label < view.label_count; ++label)
            answers[clip].scores[view.labels[label]] = view.scores[label];
    }
}

bool Case::agrees(const tvlt::Result& result) const {
    const auto near = [&](double actual, double expected) { return std::abs(actual - expected) <= tolerance; };
    const auto rounded = [&](double actual, double expected) {
        return std::abs(actual - expected) <= tolerance + 1e-12;
    };
    for (std::size_t clip = 0; clip < outputs.size(); ++clip) {
        for (const auto& [output_name, expected] : outputs[clip]) {
            const auto actual = result.output(clip, output_name.c_str());
            if (std::vector<std::int64_t>(actual.shape, actual.shape + actual.rank) != expected.shape) return false;
            if (actual.size != expected.values.size() * sizeof(float)) return false;
            const auto differs = [&] { return std::memcmp(actual.data, expected.values.data(), actual.size) != 0; };
            if (tolerance == 0 && actual.size > 0 && differs()) return false;
            for (std::size_t index = 0; index < expected.values.size(); ++index)
                if (!near(actual.data[index], expected.values[index])) return false;
        }
        if (answers.empty()) continue;
        const auto answer = result.answer(clip);
        const auto& expected = answers[clip];
        if (expected.label != answer.label || !rounded(answer.score, expected.score)) return false;
        if (answer.label_count != expected.scores.size()) return false;
        for (std::uint32_t label = 0; label < answer.label_count; ++label)
            if (!rounded(answer.scores[label], expected.scores.at(answer.labels[label]))) return false;
    }
    try {
        result.output(outputs.size());
        return false;  // more clips than the call had
    } catch (const tvlt::Error& error) {
        return error.status() == TVLT_USAGE;
    }
}
