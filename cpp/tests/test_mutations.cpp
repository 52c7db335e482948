// Random invalid calls: a status and a message, never a crash.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "cases.hpp"

TEST_SUITE_BEGIN("mutations");

namespace {

/// The random changes of one test.
class Changes {
public:
    std::size_t pick(std::size_t count) { return static_cast<std::size_t>(random_() % count); }
    std::uint64_t bits() { return random_(); }

    template <typename T>
    void mutate(T& number) {
        const auto bits = static_cast<std::uint64_t>(number);  // may wrap
        const T edges[] = {0,
                           1,
                           static_cast<T>(-1),
                           2,
                           3,
                           std::numeric_limits<T>::max(),
                           std::numeric_limits<T>::min(),
                           static_cast<T>(bits + 1),
                           static_cast<T>(bits - 1),
                           static_cast<T>(bits * 2),
                           static_cast<T>(random_())};
        number = edges[pick(std::size(edges))];
    }

    /// A size of memory may only become smaller: no library can detect that memory ends before its stated size.
    template <typename T>
    void shrink(T& size) {
        size = static_cast<T>(random_() % (static_cast<std::uint64_t>(size) + 1));
    }

    /// A struct_size that no header has, or one field more, for which `array` has room.
    void resize(std::uint32_t& size) {
        const std::uint32_t edges[] = {0,        1,        3,    size - 8,   size - 1,
                                       size + 1, size + 8, 4104, 0xFFFFFFFF, static_cast<std::uint32_t>(random_() | 1)};
        size = edges[pick(std::size(edges))];
    }

private:
    std::mt19937_64 random_{20250101};
};

/// Elements with a zero element after the last.
template <typename T>
std::vector<T> array(std::vector<T> elements) {
    elements.push_back(T{});
    return elements;
}

tvlt_status run_mutated_clips(Changes& changes, tvlt_session* session, const Case& one, tvlt_result** result) {
    const auto count = 1 + changes.pick(3);
    auto clips = array(std::vector<tvlt_clip>(count, one.clip()));
    auto& clip = clips[changes.pick(count)];
    auto samples = one.samples;
    for (std::size_t change = 0; change <= changes.pick(3); ++change) switch (changes.pick(11)) {
            case 0: changes.resize(clip.struct_size); break;
            case 1: changes.mutate(clip.sampling_rate); break;
            case 2: clip.frames = nullptr; break;
            case 3: changes.shrink(clip.frames_size); break;
            case 4: changes.mutate(clip.frame_count); break;
            case 5: changes.mutate(clip.height); break;
            case 6: changes.mutate(clip.width); break;
            case 7: changes.mutate(clip.frame_stride); break;
            case 8: changes.mutate(clip.row_stride); break;
            case 9: clip.samples = nullptr; break;
            default: changes.shrink(clip.sample_count);
        }
    if (changes.pick(4) == 0) {
        auto& bits = samples[changes.pick(samples.size())];
        const auto raw = static_cast<std::uint32_t>(changes.bits());
        std::memcpy(&bits, &raw, sizeof bits);
        if (clip.samples != nullptr) clip.samples = samples.data();
    }
    return tvlt_run(session, clips.data(), changes.pick(8) == 0 ? 0 : count, result);
}

tvlt_status run_mutated_tensors(Changes& changes, tvlt_session* session, const Case& one, tvlt_result** result) {
    const char* const names[] = {nullptr, "", "logits", "pixel_values", "audio_mask", "%s%n", "\xff\xfe"};
    auto tensors = array(one.tensors());
    const auto all = tensors.size() - 1;
    auto& tensor = tensors[changes.pick(all)];
    std::vector<std::int64_t> shape(tensor.shape, tensor.shape + tensor.rank);
    tensor.shape = shape.data();
    for (std::size_t change = 0; change <= changes.pick(3); ++change) switch (changes.pick(8)) {
            case 0: changes.resize(tensor.struct_size); break;
            case 1: changes.shrink(tensor.rank); break;
            case 2: tensor.name = names[changes.pick(std::size(names))]; break;
            case 3: changes.mutate(shape[changes.pick(shape.size())]); break;
            case 4: changes.shrink(tensor.size); break;
            case 5: tensor.data = nullptr; break;
            case 6: std::swap(tensors[0], tensors[all - 1]); break;
            default: changes.mutate(shape[changes.pick(shape.size())]);
        }
    return tvlt_run_tensors(session, tensors.data(), changes.pick(8) == 0 ? changes.pick(all + 1) : all, result);
}

tvlt_session* open_for(const Case& one) {
    tvlt_session* session = nullptr;
    const auto options = test_options(one.input());
    REQUIRE(tvlt_open(bundle_path(one.bundle).c_str(), &options, &session) == TVLT_OK);
    return session;
}

}  // namespace

TEST_CASE("2,000 random mutations of a call") {
    const auto tensor_case = load_cases("tensors").front();
    const auto clip_cases = load_cases("clips");
    const auto clip_case = *std::find_if(clip_cases.begin(), clip_cases.end(), [](const Case& one) {
        return !one.frames.values.empty() && !one.samples.empty();
    });
    auto* const for_tensors = open_for(tensor_case);
    auto* const for_clips = open_for(clip_case);
    Changes changes;
    int refused = 0, answered = 0;
    for (int round = 0; round < 2000; ++round) {
        CAPTURE(round);
        tvlt_result* result = nullptr;
        const auto status = round % 2 == 0 ? run_mutated_clips(changes, for_clips, clip_case, &result)
                                           : run_mutated_tensors(changes, for_tensors, tensor_case, &result);
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
    // The sessions still work.
    const auto inputs = tensor_case.tensors();
    tvlt_result* result = nullptr;
    REQUIRE(tvlt_run_tensors(for_tensors, inputs.data(), inputs.size(), &result) == TVLT_OK);
    CHECK(tensor_case.agrees(tvlt::Result(result)));
    tvlt_close(for_tensors);
    tvlt_close(for_clips);
}

TEST_SUITE_END();
