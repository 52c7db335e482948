// Many threads on one session, and many calls.
#include <doctest/doctest.h>

#include <unistd.h>
#include <atomic>
#include <fstream>
#include <thread>

#include "cases.hpp"

namespace {

/// The cases of the first case's bundle: calls of mixed shapes for one session.
std::vector<Case> mixed_cases(const std::string& kind) {
    std::vector<Case> mixed;
    for (auto& one : load_cases(kind))
        if (mixed.empty() || one.bundle == mixed.front().bundle) mixed.push_back(std::move(one));
    return mixed;
}

/// Tensors with the outputs of the Python runtime, and raw clips with those of sequential calls.
std::vector<std::vector<Case>> mixed_calls() {
    auto clips = mixed_cases("clips");
    const tvlt::Session session(bundle_path(clips.front().bundle), test_options(TVLT_CLIPS));
    for (auto& one : clips) one.expect(one.run(session));
    return {mixed_cases("tensors"), clips};
}

std::size_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    std::size_t total = 0, resident = 0;
    file >> total >> resident;
    return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

TEST_SUITE_BEGIN("threads");

TEST_CASE("8 threads with many calls of mixed shapes get the outputs of sequential calls, bit for bit") {
    for (const auto& cases : mixed_calls()) {
        REQUIRE(cases.size() > 4);
        const tvlt::Session session(bundle_path(cases.front().bundle), test_options(cases.front().input()));
        std::atomic<int> wrong{0}, failed{0}, done{0};
        std::vector<std::thread> threads;
        for (std::size_t thread = 0; thread < 8; ++thread)
            threads.emplace_back([&, thread] {
                for (std::size_t call = 0; call < TVLT_CALLS; ++call) try {
                        const auto& one = cases[(call * 7 + thread) % cases.size()];
                        wrong += one.agrees(one.run(session)) ? 0 : 1;
                        ++done;
                    } catch (const tvlt::Error&) {
                        ++failed;
                    }
            });
        for (auto& thread : threads) thread.join();
        CHECK(done == 8 * TVLT_CALLS);
        CHECK(wrong == 0);
        CHECK(failed == 0);
    }
}

TEST_CASE("the last error belongs to the calling thread") {
    const auto one = mixed_cases("tensors").front();
    const tvlt::Session session(bundle_path(one.bundle), test_options());
    tvlt_session* none = nullptr;
    REQUIRE(tvlt_open("/nowhere", nullptr, &none) != TVLT_OK);
    const std::string before = tvlt_last_error();
    std::thread([&] {
        CHECK(std::string(tvlt_last_error()).empty());
        CHECK(one.agrees(one.run(session)));
    }).join();
    CHECK(tvlt_last_error() == before);
    CHECK(one.agrees(one.run(session)));
    CHECK(std::string(tvlt_last_error()) != before);
}

TEST_CASE("sessions open and close side by side") {
    const auto one = mixed_cases("tensors").front();
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread)
        threads.emplace_back([&] {
            for (int round = 0; round < 5; ++round) {
                const tvlt::Session session(bundle_path(one.bundle), test_options());
                right += one.agrees(one.run(session)) ? 1 : 0;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(right == 20);
}

TEST_SUITE_END();
TEST_SUITE_BEGIN("memory");

TEST_CASE("2,000 calls of mixed shapes grow the resident memory by less than 20 MB in the second half") {
    for (const auto& cases : mixed_calls()) {
        const tvlt::Session session(bundle_path(cases.front().bundle), test_options(cases.front().input()));
        std::size_t half = 0;
        for (std::size_t call = 0; call < 2000; ++call) {
            if (call == 1000) half = resident_bytes();
            const auto& one = cases[call % cases.size()];
            CHECK(one.agrees(one.run(session)));
        }
        CHECK(resident_bytes() < half + 20'000'000);
    }
}

TEST_CASE("50 sessions, opened and closed, leave less than 20 MB in the second half") {
    const auto one = mixed_cases("tensors").front();
    std::size_t half = 0;
    for (int round = 0; round < 50; ++round) {
        if (round == 25) half = resident_bytes();
        CHECK(one.agrees(one.run(tvlt::Session(bundle_path(one.bundle), test_options()))));
    }
    CHECK(resident_bytes() < half + 20'000'000);
}

TEST_SUITE_END();
