// Outputs are those of the Python runtime on the same graph of the same bundle, and of the Python pipeline.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "cases.hpp"

TEST_SUITE_BEGIN("answers");

namespace {

/// The session for a case; one for each bundle.
class Sessions {
public:
    const tvlt::Session& of(const Case& one) {
        return opened_.try_emplace(one.bundle, bundle_path(one.bundle), test_options(one.input())).first->second;
    }

private:
    std::map<std::string, tvlt::Session> opened_;
};

void check_all(const std::string& kind) {
    const auto cases = load_cases(kind);
    REQUIRE(!cases.empty());
    Sessions sessions;
    for (const auto& one : cases) {
        CAPTURE(one.name);
        CHECK(one.agrees(one.run(sessions.of(one))));
    }
}

}  // namespace

TEST_CASE("prepared tensors, every task") { check_all("tensors"); }

TEST_CASE("raw clips") { check_all("clips"); }

TEST_CASE("raw clips that the Python pipeline refuses") {
    const auto cases = load_cases("refused");
    REQUIRE(!cases.empty());
    Sessions sessions;
    for (const auto& one : cases) {
        CAPTURE(one.name);
        try {
            one.run(sessions.of(one));
            FAIL_CHECK("it is not refused");
        } catch (const tvlt::Error& error) {
            CHECK(error.status() == one.status);
            CHECK_MESSAGE(std::string(error.what()).find(one.text) != std::string::npos, error.what());
        }
    }
}

TEST_CASE("several clips in one call, in order") {
    const auto cases = load_cases("clips");
    const tvlt::Session session(bundle_path(cases.front().bundle), test_options(TVLT_CLIPS));
    std::vector<tvlt_clip> clips;
    std::vector<const Case*> sources;
    for (const auto& one : cases)
        if (one.bundle == cases.front().bundle && one.media.empty()) {
            clips.push_back(one.clip());
            sources.push_back(&one);
        }
    REQUIRE(clips.size() > 2);
    const auto result = session.run(clips);
    for (std::size_t index = 0; index < sources.size(); ++index) {
        CAPTURE(sources[index]->name);
        const auto single = sources[index]->run(session);
        const auto alone = single.output(), together = result.output(index);
        REQUIRE(together.size == alone.size);
        for (std::size_t value = 0; value < alone.size / sizeof(float); ++value)
            CHECK(together.data[value] == doctest::Approx(alone.data[value]).epsilon(1e-5));
    }
}

TEST_CASE("padded rows and frames give the same answer as packed ones") {
    Sessions sessions;
    for (const auto& one : load_cases("clips")) {
        if (one.frames.values.empty()) continue;
        CAPTURE(one.name);
        auto clip = one.clip();
        const auto row = clip.width * 3;
        clip.row_stride = row + 5;
        clip.frame_stride = clip.height * clip.row_stride + 11;
        std::vector<std::uint8_t> padded(static_cast<std::size_t>(clip.frame_count * clip.frame_stride), 255);
        for (std::int64_t frame = 0; frame < clip.frame_count; ++frame)
            for (std::int64_t line = 0; line < clip.height; ++line)
                std::copy_n(clip.frames + (frame * clip.height + line) * row, row,
                            padded.begin() + frame * clip.frame_stride + line * clip.row_stride);
        clip.frames = padded.data();
        // The buffer may end with the last pixel.
        clip.frames_size = padded.size() - 5 - 11;
        CHECK(one.agrees(sessions.of(one).run(clip)));
    }
}

TEST_CASE("a result outlives its session") {
    const auto one = load_cases("tensors").front();
    auto session = std::make_unique<tvlt::Session>(bundle_path(one.bundle), test_options());
    const auto result = one.run(*session);
    session.reset();
    CHECK(one.agrees(result));
}

TEST_CASE("a task without labels has no answer") {
    for (const auto& one : load_cases("tensors")) {
        if (!one.answers.empty()) continue;
        const auto result = one.run(tvlt::Session(bundle_path(one.bundle), test_options()));
        CHECK_THROWS_WITH_AS(result.answer(), doctest::Contains("arrays, not labels"), tvlt::Error);
        return;
    }
    FAIL("no such case");
}

TEST_SUITE_END();
