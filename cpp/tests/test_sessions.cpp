// What a session lists: inputs, outputs and labels.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "cases.hpp"

TEST_SUITE_BEGIN("sessions");

namespace {

bool fits(const tvlt::TensorInfo& info, const std::int64_t* shape, std::size_t rank) {
    if (info.shape.size() != rank) return false;
    for (std::size_t axis = 0; axis < rank; ++axis)
        if (info.shape[axis] != -1 && info.shape[axis] != shape[axis]) return false;
    return true;
}

}  // namespace

TEST_CASE("inputs, outputs and labels of every task are those of its calls") {
    std::set<std::string> seen;
    for (const auto& one : load_cases("tensors")) {
        CAPTURE(one.name);
        const tvlt::Session session(bundle_path(one.bundle), test_options());
        if (!seen.insert(one.bundle).second) continue;
        const auto inputs = session.inputs();
        REQUIRE(inputs.size() == one.inputs.size());
        for (const auto& info : inputs) {
            CAPTURE(info.name);
            const auto& shape = one.inputs.at(info.name).shape;
            CHECK(fits(info, shape.data(), shape.size()));
            CHECK(info.shape.front() == -1);
            CHECK(info.dtype == TVLT_FLOAT32);
        }
        CHECK(inputs.front().name == "pixel_values");
        const auto result = one.run(session);
        const auto outputs = session.outputs();
        REQUIRE(outputs.size() == one.outputs.front().size());
        for (const auto& info : outputs) {
            CAPTURE(info.name);
            const auto view = result.output(0, info.name.c_str());
            CHECK(fits(info, view.shape, view.rank));
        }
        CHECK(outputs.front().name == result.output().name);
        const auto labels = session.labels();
        CHECK(labels.size() == (one.answers.empty() ? 0 : one.answers.front().scores.size()));
        if (one.answers.empty()) continue;
        const auto answer = result.answer();
        CHECK(labels == std::vector<std::string>(answer.labels, answer.labels + answer.label_count));
    }
    CHECK(seen.size() > 4);
}

TEST_CASE("inputs of raw clips") {
    const tvlt::Session session(bundle_path(load_cases("clips").front().bundle), test_options(TVLT_CLIPS));
    const auto inputs = session.inputs();
    REQUIRE(inputs.size() == 2);
    CHECK(inputs[0].name == "frames");
    CHECK(inputs[0].shape == std::vector<std::int64_t>{-1, -1, -1, 3});
    CHECK(inputs[0].dtype == TVLT_UINT8);
    CHECK(inputs[1].name == "waveform");
    CHECK(inputs[1].shape == std::vector<std::int64_t>{-1});
    CHECK(inputs[1].dtype == TVLT_FLOAT32);
}

TEST_CASE("indices out of range and null pointers") {
    const auto one = load_cases("tensors").front();
    tvlt_session* session = nullptr;
    const auto options = test_options();
    REQUIRE(tvlt_open(bundle_path(one.bundle).c_str(), &options, &session) == TVLT_OK);
    const auto said = [](const std::string& part) {
        return std::string(tvlt_last_error()).find(part) != std::string::npos;
    };
    auto info = tvlt::make<tvlt_tensor_info>();
    CHECK(tvlt_session_input(session, 4, &info) == TVLT_USAGE);
    CHECK(said("index is 4; expected less than 4, the number of inputs"));
    CHECK(tvlt_session_output(session, 99, &info) == TVLT_USAGE);
    CHECK(said("index is 99; expected less than 1, the number of outputs"));
    CHECK(tvlt_session_label(session, 2) == nullptr);
    CHECK(said("index is 2; expected less than 2, the number of labels"));
    CHECK(tvlt_session_input(session, 0, nullptr) == TVLT_USAGE);
    CHECK(said("info is NULL"));
    CHECK(tvlt_session_input_count(session) == 4);
    CHECK(std::string(tvlt_last_error()).empty());
    tvlt_close(session);
    CHECK(tvlt_session_input_count(nullptr) == 0);
    CHECK(said("session is NULL"));
    CHECK(tvlt_session_label(nullptr, 0) == nullptr);
    CHECK(said("session is NULL"));
}

TEST_CASE("the version is that of the package") { CHECK(tvlt::version() == TVLT_VERSION); }

TEST_SUITE_END();
