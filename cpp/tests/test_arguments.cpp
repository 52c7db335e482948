// Calls that cannot mean anything: a status and a text, never a crash.
#include <doctest/doctest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <random>

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

/// That a call is refused as a usage error whose text holds `part`.
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
    check_refused([&] { return tvlt_result_get(result, 0, nullptr, &view); }, "output.struct_size is 8; wanted");
    tvlt_result_free(result);
}

TEST_CASE("clips that are no clips") {
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
    try_clip("row_stride is 2; wanted at least", [](tvlt_clip& clip) { clip.row_stride = 2; });
    try_clip("row_stride is -1", [](tvlt_clip& clip) { clip.row_stride = -1; });
    try_clip("frame_stride is 100", [](tvlt_clip& clip) { clip.frame_stride = 100; });
    try_clip("larger than any memory", [](tvlt_clip& clip) { clip.width = std::numeric_limits<int64_t>::max(); });
    try_clip("sampling_rate is 16000; wanted 44100", [](tvlt_clip& clip) { clip.sampling_rate = 16000; });
    try_clip("samples; wanted at least 512", [](tvlt_clip& clip) { clip.sample_count = 511; });
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

TEST_CASE("more frames than the model takes") {
    const auto one = whole_clip();
    const Open session(one);
    const std::vector<std::uint8_t> pixels(100 * 3);
    auto clip = tvlt::make<tvlt_clip>();
    clip.frames = pixels.data();
    clip.frames_size = pixels.size();
    clip.frame_count = 100;
    clip.height = clip.width = 1;
    tvlt_result* result = nullptr;
    check_refused([&] { return tvlt_run(session.handle, &clip, 1, &result); }, "100 frames; wanted at most");
}

TEST_CASE("tensors that do not fit") {
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
    try_tensors("(pixel_values) is given twice", [](auto& tensors) { tensors.push_back(tensors.back()); });
    try_tensors("there is no input 'pixels'", [](auto& tensors) { tensors[0].name = "pixels"; });
    try_tensors("name is NULL", [](auto& tensors) { tensors[0].name = nullptr; });
    try_tensors("shape is NULL", [](auto& tensors) { tensors[0].shape = nullptr; });
    try_tensors("data is NULL", [](auto& tensors) { tensors[0].data = nullptr; });
    try_tensors("rank is 9", [](auto& tensors) { tensors[0].rank = 9; });
    try_tensors("size is 3", [](auto& tensors) { tensors[0].size = 3; });
    try_tensors("has shape (1)", [&](auto& tensors) { tensors[1].rank = 1, tensors[1].shape = shape; });
    try_tensors("struct_size", [](auto& tensors) { tensors[2].struct_size += 1; });
    const std::int64_t empty[] = {1, 0};
    try_tensors("shape holds 0", [&](auto& tensors) { tensors[0].shape = empty; });
    const std::int64_t huge[] = {1LL << 40, 1LL << 40};
    try_tensors("larger than any memory", [&](auto& tensors) { tensors[0].shape = huge; });
}

TEST_CASE("a session takes the kind of input it was opened for") {
    const auto tensors = first("tensors"), clip = whole_clip();
    const Open for_tensors(tensors), for_clips(clip);
    const auto inputs = tensors.tensors();
    const auto raw = clip.clip();
    auto media = tvlt::make<tvlt_media>();
    media.path = "clip.mp4";
    tvlt_result* result = nullptr;
    check_refused([&] { return tvlt_run(for_tensors.handle, &raw, 1, &result); }, "takes tensors");
    check_refused([&] { return tvlt_run_tensors(for_clips.handle, inputs.data(), 4, &result); }, "takes clips");
    CHECK(tvlt_run_media(for_clips.handle, &media, 1, &result) == TVLT_ENVIRONMENT);
    CHECK(std::string(tvlt_last_error()).find("libtvlt_deploy_python") != std::string::npos);
}

TEST_CASE("2,000 random mutations of a call") {
    const auto tensor_case = first("tensors"), clip_case = whole_clip();
    const Open for_tensors(tensor_case), for_clips(clip_case);
    std::mt19937_64 random(20250101);
    const auto pick = [&](std::size_t count) { return static_cast<std::size_t>(random() % count); };
    const auto mutate = [&](auto& number) {
        using T = std::decay_t<decltype(number)>;
        const auto bits = static_cast<std::uint64_t>(number);  // which may wrap
        const T edges[] = {0, 1, static_cast<T>(-1), 2, 3, std::numeric_limits<T>::max(), std::numeric_limits<T>::min(),
                           static_cast<T>(bits + 1), static_cast<T>(bits - 1), static_cast<T>(bits * 2),
                           static_cast<T>(random())};
        number = edges[pick(std::size(edges))];
    };
    // A size of memory may only be understated: no library can tell that memory ends before its caller says so.
    const auto shrink = [&](auto& size) {
        size = static_cast<std::decay_t<decltype(size)>>(random() % (static_cast<std::uint64_t>(size) + 1));
    };
    const char* const names[] = {nullptr, "", "logits", "pixel_values", "audio_mask", "%s%n", "\xff\xfe"};
    int refused = 0, answered = 0;
    for (int round = 0; round < 2000; ++round) {
        tvlt_result* result = nullptr;
        tvlt_status status = TVLT_OK;
        if (round % 2 == 0) {
            std::vector<tvlt_clip> clips(1 + pick(3), clip_case.clip());
            auto& clip = clips[pick(clips.size())];
            auto samples = clip_case.samples;
            for (std::size_t change = 0; change <= pick(3); ++change) switch (pick(11)) {
                    case 0: mutate(clip.struct_size); break;
                    case 1: mutate(clip.sampling_rate); break;
                    case 2: clip.frames = nullptr; break;
                    case 3: shrink(clip.frames_size); break;
                    case 4: mutate(clip.frame_count); break;
                    case 5: mutate(clip.height); break;
                    case 6: mutate(clip.width); break;
                    case 7: mutate(clip.frame_stride); break;
                    case 8: mutate(clip.row_stride); break;
                    case 9: clip.samples = nullptr; break;
                    default: shrink(clip.sample_count);
                }
            if (pick(4) == 0) {
                auto& bits = samples[pick(samples.size())];
                const auto raw = static_cast<std::uint32_t>(random());
                std::memcpy(&bits, &raw, sizeof bits);
                if (clip.samples != nullptr) clip.samples = samples.data();
            }
            status = tvlt_run(for_clips.handle, clips.data(), pick(8) == 0 ? 0 : clips.size(), &result);
        } else {
            auto tensors = tensor_case.tensors();
            std::vector<std::int64_t> shape;
            auto& tensor = tensors[pick(tensors.size())];
            shape.assign(tensor.shape, tensor.shape + tensor.rank);
            tensor.shape = shape.data();
            for (std::size_t change = 0; change <= pick(3); ++change) switch (pick(8)) {
                    case 0: mutate(tensor.struct_size); break;
                    case 1: shrink(tensor.rank); break;
                    case 2: tensor.name = names[pick(std::size(names))]; break;
                    case 3: mutate(shape[pick(shape.size())]); break;
                    case 4: shrink(tensor.size); break;
                    case 5: tensor.data = nullptr; break;
                    case 6: std::swap(tensors.front(), tensors.back()); break;
                    default: mutate(shape[pick(shape.size())]);
                }
            const auto count = pick(8) == 0 ? pick(tensors.size() + 1) : tensors.size();
            status = tvlt_run_tensors(for_tensors.handle, tensors.data(), count, &result);
        }
        CAPTURE(round);
        if (status == TVLT_OK) {
            ++answered;
            auto view = tvlt::make<tvlt_tensor>();
            CHECK(tvlt_result_get(result, 0, nullptr, &view) == TVLT_OK);
            tvlt_result_free(result);
        } else {
            ++refused;
            CHECK(status == TVLT_USAGE);
            CHECK(result == nullptr);
            CHECK(std::string(tvlt_last_error()).size() > 10);
        }
    }
    CHECK(refused > 1000);
    CHECK(answered > 20);
    // The sessions are none the worse for it.
    const auto inputs = tensor_case.tensors();
    tvlt_result* result = nullptr;
    REQUIRE(tvlt_run_tensors(for_tensors.handle, inputs.data(), inputs.size(), &result) == TVLT_OK);
    CHECK(tensor_case.agrees(tvlt::Result(result)));
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
    try_options(TVLT_USAGE, "holds no int8 graph", [](auto& options) { options.precision = "int8"; });
    try_options(TVLT_USAGE, "provider is 'cuda' on cpu", [](auto& options) { options.provider = "cuda"; });
    try_options(TVLT_USAGE, "provider is 'rocm' on cuda", [](auto& options) {
        options.provider = "rocm";
        options.device = "cuda";
    });
}

TEST_CASE("a bundle without the fused graph takes no clips") {
    const auto options = test_options(TVLT_CLIPS);
    tvlt_session* session = nullptr;
    check_refused([&] { return tvlt_open(bundle_path("masked-reconstruction").c_str(), &options, &session); },
                  "holds no fp32 graph in the fused form");
}

TEST_CASE("a provider that this ONNX Runtime lacks is named, with those it has") {
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
