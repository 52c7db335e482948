// The interpreter inside a host.
#include <doctest/doctest.h>

#include <clocale>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cases.hpp"

TEST_SUITE_BEGIN("python");

namespace {

tvlt_status open(const tvlt_options& options, const std::string& bundle, tvlt_session** session) {
    return tvlt_open(bundle.c_str(), &options, session);
}

void handler(int) {}

}  // namespace

TEST_CASE("the host's signals, locale and environment stay as they were") {
    struct sigaction before{}, after{};
    before.sa_handler = handler;
    sigaction(SIGINT, &before, nullptr);
    sigaction(SIGPIPE, nullptr, &before);
    const std::string locale = setlocale(LC_ALL, nullptr);
    setenv("PYTHONHOME", "/nowhere", 1);  // would prevent the start of the interpreter
    setenv("PYTHONPATH", "/nowhere", 1);
    const auto one = load_cases("clips").front();
    const tvlt::Session session(bundle_path(one.bundle), test_options(TVLT_CLIPS));
    CHECK(one.agrees(one.run(session)));
    sigaction(SIGINT, nullptr, &after);
    CHECK((after.sa_handler == handler));
    sigaction(SIGPIPE, nullptr, &after);
    CHECK((after.sa_handler == before.sa_handler));
    CHECK(setlocale(LC_ALL, nullptr) == locale);
    CHECK(std::string(getenv("PYTHONHOME")) == "/nowhere");
}

TEST_CASE("one session takes clips and tensors") {
    const auto tensors = load_cases("tensors").front();
    const tvlt::Session session(bundle_path(tensors.bundle), test_options());
    CHECK(tensors.agrees(tensors.run(session)));
    for (const auto& one : load_cases("clips"))
        if (one.bundle == tensors.bundle) CHECK(one.agrees(one.run(session)));
}

TEST_CASE("a Python exception is an error with its text and the exit code of the command") {
    auto one = load_cases("clips").front();
    tvlt_session* session = nullptr;
    CHECK(open(test_options(), "/nowhere", &session) == TVLT_FILE);
    CHECK(std::strstr(tvlt_last_error(), "/nowhere is not a directory") != nullptr);
    auto options = test_options();
    options.backend = "abacus";
    CHECK(open(options, bundle_path(one.bundle), &session) == TVLT_USAGE);
    CHECK(std::strstr(tvlt_last_error(), "'abacus'; expected one of torch") != nullptr);
    options = test_options();
    options.backend = "tensorrt";
    CHECK(open(options, bundle_path(one.bundle), &session) == TVLT_ENVIRONMENT);

    const tvlt::Session opened(bundle_path(one.bundle), test_options());
    one.samples.assign(one.samples.size(), 1e9F);
    CHECK_THROWS_WITH_AS(opened.run(one.clip()), doctest::Contains("divide 16-bit samples"), tvlt::Error);
    auto clip = one.clip();
    clip.sampling_rate = 8000;
    CHECK_THROWS_WITH_AS(opened.run(clip), doctest::Contains("sampling_rate is 8000; expected 44100"), tvlt::Error);
    auto media = tvlt::make<tvlt_media>();
    media.path = "/nowhere.mp4";
    CHECK_THROWS_WITH_AS(opened.run(media), doctest::Contains("/nowhere.mp4"), tvlt::Error);
}

TEST_CASE("the caller may free its memory as soon as a call returns") {
    const auto cases = load_cases("clips");
    const tvlt::Session session(bundle_path(cases.front().bundle), test_options());
    for (int round = 0; round < 5; ++round)
        for (const auto& one : cases) {
            if (one.bundle != cases.front().bundle) continue;
            auto copy = std::make_unique<Case>(one);
            const auto result = copy->run(session);
            copy.reset();  // AddressSanitizer detects a later access
            CHECK(one.agrees(result));
        }
}

TEST_CASE("sessions open and close") {
    const auto one = load_cases("tensors").front();
    for (int round = 0; round < 20; ++round)
        CHECK(one.agrees(one.run(tvlt::Session(bundle_path(one.bundle), test_options()))));
}

TEST_CASE("one process has one interpreter") {
    const auto one = load_cases("tensors").front();
    const tvlt::Session session(bundle_path(one.bundle), test_options());
    auto options = test_options();
    options.python = "/usr/bin/python3";
    tvlt_session* second = nullptr;
    CHECK(open(options, bundle_path(one.bundle), &second) == TVLT_USAGE);
    CHECK(std::strstr(tvlt_last_error(), "one process has one interpreter") != nullptr);
    options.python = nullptr;  // the running one
    CHECK(open(options, bundle_path(one.bundle), &second) == TVLT_OK);
    tvlt_close(second);
}

TEST_SUITE_END();
