// Invalid calls: a status and a message, never a crash.
#include <doctest/doctest.h>

#include <functional>
#include <limits>

#include "cases.hpp"

TEST_SUITE_BEGIN("arguments");

namespace {

Case first(const std::string& kind) { return load_cases(kind).front(); }

/// A clip with both parts.
Case whole_clip() {
    for (auto& one : load_cases("clips"))
        if (!one.frames.values.empty() && !one.samples.empty()) return std::move(one);
    throw std::runtime_error("no such case");
}

/// Check that a call is refused as a usage error whose message contains `part`.
template <typename Call>
void check_refused(Call call, const std::string& part) {
    CAPTURE(part);
    CHECK(call() == TVLT_USAGE);
    CHECK(std::string(tvlt_last_error()).find(part) != std::string::npos);
    CAPTURE(tvlt_last_error());
}

class Open {
public:
    explicit Open(const Case& one) {
        const auto options = test_options(one.input());
        REQUIRE(tvlt_open(bundle_path(one.bundle).c_str(), &options, &handle) == TVLT_OK);
    }
    ~Open() { tvlt_close(handle); }
    tvlt_session* handle = nullptr;
};

}  // namespace

TEST_CASE("null pointers") {
    const auto one = first("tensors");
    const Open session(one);
    const auto tensors = one.tensors();
    tvlt_result* result = nullptr;
    tvlt_session* opened = nullptr;
    check_refused([&] { return tvlt_open(nullptr, nullptr, &opened); }, "path is NULL");
    check_refused([&] { return tvlt_open("bundle", nullptr, nullptr); }, "session is NULL");
    check_refused([&] { return tvlt_run_tensors(nullptr, tensors.data(), 4, &result); }, "session is NULL");
    check_refused([&] { return tvlt_run_tensors(session.handle, nullptr, 4, &result); }, "inputs is NULL");
    check_refused([&] { return tvlt_run_tensors(session.handle, tensors.data(), 4, nullptr); }, "result is NULL");
    check_refused([&] { return tvlt_run(session.handle, nullptr, 1, &result); }, "clips is NULL");
    check_refused([&] { return tvlt_run_media(session.handle, nullptr, 1, &result); }, "media is NULL");
    check_refused([&] { return tvlt_run_tensors(session.handle, tensors.data(), 0, &result); }, "count is 0");
    auto view = tvlt::make<tvlt_tensor>();
    check_refused([&] { return tvlt_result_get(nullptr, 0, nullptr, &view); }, "result is NULL");
    REQUIRE(tvlt_run_tensors(session.handle, tensors.data(), tensors.size(), &result) == TVLT_OK);
    check_refused([&] { return tvlt_result_get(result, 0, nullptr, nullptr); }, "output is NULL");
    check_refused([&] { return tvlt_result_get(result, 0, "no", &view); }, "there is no output 'no'");
    check_refused([&] { return tvlt_result_get(result, 99, nullptr, &view); }, "clip is 99");
    check_refused([&] { return tvlt_result_answer(result, 0, nullptr); }, "answer is NULL");
    view.struct_size = 8;
    check_refused([&] { return tvlt_result_get(result, 0, nullptr, &view); }, "output.struct_size is 8; expected");
    tvlt_result_free(result);
}

TEST_CASE("invalid clips") {
    const auto one = whole_clip();
    const Open session(one);
    const auto try_clip = [&](const std::string& part, const std::function<void(tvlt_clip&)>& change) {
        auto clip = one.clip();
        change(clip);
        auto* result = reinterpret_cast<tvlt_result*>(&clip);
        check_refused([&] { return tvlt_run(session.handle, &clip, 1, &result); }, part);
        CHECK(result == nullptr);
    };
    try_clip("struct_size is 0", [](tvlt_clip& clip) { clip.struct_size = 0; });
    try_clip("frames is NULL", [](tvlt_clip& clip) { clip.frames = nullptr; });
    try_clip("samples is NULL", [](tvlt_clip& clip) { clip.samples = nullptr; });
    try_clip("height is 0", [](tvlt_clip& clip) { clip.height = 0; });
    try_clip("width is -3", [](tvlt_clip& clip) { clip.width = -3; });
    try_clip("frame_count is -1", [](tvlt_clip& clip) { clip.frame_count = -1; });
    try_clip("frames_size is", [](tvlt_clip& clip) { clip.frames_size -= 1; });
    try_clip("frames_size is", [](tvlt_clip& clip) { clip.frame_count += 1; });
    try_clip("row_stride is 2; expected at least", [](tvlt_clip& clip) { clip.row_stride = 2; });
    try_clip("row_stride is -1", [](tvlt_clip& clip) { clip.row_stride = -1; });
    try_clip("frame_stride is 100", [](tvlt_clip& clip) { clip.frame_stride = 100; });
    try_clip("larger than the address space",
             [](tvlt_clip& clip) { clip.width = std::numeric_limits<int64_t>::max(); });
    try_clip("sampling_rate is 16000; expected 44100", [](tvlt_clip& clip) { clip.sampling_rate = 16000; });
    try_clip("samples; expected at least 512", [](tvlt_clip& clip) { clip.sample_count = 511; });
    try_clip("sample_count is -1", [](tvlt_clip& clip) { clip.sample_count = -1; });
    try_clip("neither frames nor samples", [](tvlt_clip& clip) { clip.frame_count = clip.sample_count = 0; });
    const std::vector<std::uint8_t> sliver(3 << 20);
    try_clip("more than 134217728 pixels", [&](tvlt_clip& clip) {
        clip.frames = sliver.data();
        clip.frames_size = sliver.size();
        clip.frame_count = clip.height = 1;
        clip.width = 1 << 20;
    });
    auto loud = one.samples;
    const auto try_sample = [&](float value, const std::string& part) {
        loud[loud.size() / 2] = value;
        try_clip(part, [&](tvlt_clip& clip) { clip.samples = loud.data(); });
    };
    try_sample(std::numeric_limits<float>::quiet_NaN(), "NaN or infinite");
    try_sample(-std::numeric_limits<float>::infinity(), "NaN or infinite");
    try_sample(20000.0F, "divide 16-bit samples");
}

TEST_CASE("more frames than the model accepts") {
    const auto one = whole_clip();
    const Open session(one);
    const std::vector<std::uint8_t> pixels(100 * 3);
    auto clip = tvlt::make<tvlt_clip>();
    clip.frames = pixels.data();
    clip.frames_size = pixels.size();
    clip.frame_count = 100;
    clip.height = clip.width = 1;
    tvlt_result* result = nullptr;
    check_refused([&] { return tvlt_run(session.handle, &clip, 1, &result); }, "100 frames; expected at most");
}

TEST_CASE("invalid tensors") {
    const auto one = first("tensors");
    const Open session(one);
    using Change = std::function<void(std::vector<tvlt_tensor>&)>;
    const auto try_tensors = [&](const std::string& part, const Change& change) {
        auto tensors = one.tensors();
        change(tensors);
        tvlt_result* result = nullptr;
        check_refused([&] { return tvlt_run_tensors(session.handle, tensors.data(), tensors.size(), &result); }, part);
    };
    const std::int64_t shape[] = {1, 2, 3, 4, 5};
    // By name: audio_mask, audio_values, pixel_mask, pixel_values.
    try_tensors("pixel_values is missing", [](auto& tensors) { tensors.pop_back(); });
    try_tensors("(pixel_values) occurs twice", [](auto& tensors) { tensors.push_back(tensors.back()); });
    try_tensors("there is no input 'pixels'", [](auto& tensors) { tensors[0].name = "pixels"; });
    try_tensors("name is NULL", [](auto& tensors) { tensors[0].name = nullptr; });
    try_tensors("shape is NULL", [](auto& tensors) { tensors[0].shape = nullptr; });
    try_tensors("data is NULL", [](auto& tensors) { tensors[0].data = nullptr; });
    try_tensors("rank is 9", [](auto& tensors) { tensors[0].rank = 9; });
    try_tensors("size is 3", [](auto& tensors) { tensors[0].size = 3; });
    try_tensors("has shape (1)", [&](auto& tensors) { tensors[1].rank = 1, tensors[1].shape = shape; });
    try_tensors("struct_size", [](auto& tensors) { tensors[2].struct_size += 8; });
    const std::int64_t empty[] = {1, 0};
    try_tensors("shape contains 0", [&](auto& tensors) { tensors[0].shape = empty; });
    const std::int64_t huge[] = {1LL << 40, 1LL << 40};
    try_tensors("larger than the address space", [&](auto& tensors) { tensors[0].shape = huge; });
}

TEST_CASE("a session accepts the kind of input that it was opened for") {
    const auto tensors = first("tensors"), clip = whole_clip();
    const Open for_tensors(tensors), for_clips(clip);
    const auto inputs = tensors.tensors();
    const auto raw = clip.clip();
    auto media = tvlt::make<tvlt_media>();
    media.path = "clip.mp4";
    tvlt_result* result = nullptr;
    check_refused([&] { return tvlt_run(for_tensors.handle, &raw, 1, &result); }, "accepts tensors");
    check_refused([&] { return tvlt_run_tensors(for_clips.handle, inputs.data(), 4, &result); }, "accepts clips");
    CHECK(tvlt_run_media(for_clips.handle, &media, 1, &result) == TVLT_ENVIRONMENT);
    CHECK(std::string(tvlt_last_error()).find("libtvlt_deploy_python") != std::string::npos);
}

TEST_CASE("options") {
    const auto one = first("tensors");
    using Change = std::function<void(tvlt_options&)>;
    const auto try_options = [&](tvlt_status status, const std::string& part, const Change& change) {
        auto options = test_options();
        change(options);
        tvlt_session* session = nullptr;
        CAPTURE(part);
        CHECK(tvlt_open(bundle_path(one.bundle).c_str(), &options, &session) == status);
        CHECK(session == nullptr);
        CHECK(std::string(tvlt_last_error()).find(part) != std::string::npos);
    };
    try_options(TVLT_USAGE, "struct_size", [](auto& options) { options.struct_size = 4; });
    try_options(TVLT_USAGE, "threads is -1", [](auto& options) { options.threads = -1; });
    try_options(TVLT_USAGE, "threads is 2147483647", [](auto& options) { options.threads = 2147483647; });
    try_options(TVLT_USAGE, "input is 7", [](auto& options) { options.input = 7; });
    try_options(TVLT_USAGE, "device is 'gpu'", [](auto& options) { options.device = "gpu"; });
    try_options(TVLT_USAGE, "backend is 'torch'", [](auto& options) { options.backend = "torch"; });
    try_options(TVLT_USAGE, "has no int8 graph", [](auto& options) { options.precision = "int8"; });
    try_options(TVLT_USAGE, "provider is 'cuda' on cpu", [](auto& options) { options.provider = "cuda"; });
    try_options(TVLT_USAGE, "provider is 'rocm' on cuda", [](auto& options) {
        options.provider = "rocm";
        options.device = "cuda";
    });
}

TEST_CASE("a bundle without the fused graph accepts no clips") {
    const auto options = test_options(TVLT_CLIPS);
    tvlt_session* session = nullptr;
    check_refused([&] { return tvlt_open(bundle_path("masked-reconstruction").c_str(), &options, &session); },
                  "has no fp32 graph in the fused form");
}

TEST_CASE("a missing provider is named, with the available ones") {
    const auto one = first("tensors");
    for (const auto& [name, provider] : {std::pair{"cuda", "CUDAExecutionProvider"},
                                         {"tensorrt", "TensorrtExecutionProvider"},
                                         {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"}}) {
        auto options = test_options();
        options.provider = name;
        options.device = "cuda:0";
        tvlt_session* session = nullptr;
        CHECK(tvlt_open(bundle_path(one.bundle).c_str(), &options, &session) == TVLT_ENVIRONMENT);
        const std::string text = tvlt_last_error();
        CAPTURE(text);
        CHECK(text.find(provider) != std::string::npos);
        CHECK(text.find("CPUExecutionProvider") != std::string::npos);
    }
}

TEST_SUITE_END();
