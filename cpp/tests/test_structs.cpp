// Structs of programs that were built with an earlier or a later header: the helper, and the library itself.
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "cases.hpp"
#include "structs.hpp"

using tvlt::internal::Failure;

namespace {

/// A struct of three releases: the fields of the first end with `second`.
struct Grown {
    std::uint32_t struct_size;
    std::int32_t first;
    std::int64_t second;
    std::int64_t third;
    const char* fourth;
};

/// The same in the first release, and in a release after this library's.
struct Old {
    std::uint32_t struct_size;
    std::int32_t first;
    std::int64_t second;
};

struct New {
    Grown known;
    std::int64_t fifth;
    std::int64_t sixth;
};

Grown read(const void* from) { return tvlt::internal::read_struct<Grown>(from, "it"); }

std::vector<Grown> read_all(const void* from, std::size_t count) {
    return tvlt::internal::read_structs(static_cast<const Grown*>(from), count, "it");
}

/// A struct of this release as a program of a later one has it.
template <typename T>
struct Later {
    T known;
    std::uint64_t future;
};

template <typename T>
Later<T> later(const T& known, std::uint64_t future = 0) {
    Later<T> value{known, future};
    value.known.struct_size = sizeof value;
    return value;
}

Case case_of(const std::string& kind) {
    for (auto& one : load_cases(kind))
        if (kind == "tensors" || (!one.frames.values.empty() && !one.samples.empty())) return std::move(one);
    throw std::runtime_error("no such case");
}

void check_unknown_field(tvlt_status status) {
    CHECK(status == TVLT_USAGE);
    CHECK(std::string(tvlt_last_error()).find("sets a field that this release") != std::string::npos);
}

}  // namespace

template <>
inline constexpr std::size_t tvlt::internal::first_size<Grown> = sizeof(Old);

TEST_SUITE_BEGIN("structs");

TEST_CASE("a smaller struct is read with zeros for the fields that it does not have") {
    const Old old{sizeof(Old), 7, 8};
    const auto value = read(&old);
    CHECK(value.first == 7);
    CHECK(value.second == 8);
    CHECK(value.third == 0);
    CHECK(value.fourth == nullptr);
    const Grown same{sizeof(Grown), 1, 2, 3, "4"};
    CHECK(read(&same).third == 3);
    CHECK(read(&same).fourth == same.fourth);
}

TEST_CASE("a larger struct is read if what this release does not have is zero") {
    New newer{{sizeof(New), 1, 2, 3, "4"}, 0, 0};
    CHECK(read(&newer).third == 3);
    newer.sixth = 1;
    CHECK_THROWS_WITH_AS(read(&newer),
                         doctest::Contains("it sets a field that this release (" TVLT_VERSION ") does not have: its "
                                           "struct_size is 48; expected 32, or zeros beyond that size"),
                         Failure);
}

TEST_CASE("sizes that no release has") {
    const auto memory = std::make_unique<Grown>(Grown{0, 1, 2, 3, "4"});
    auto& value = *memory;
    for (const std::uint32_t size : {0U, 3U, 4U, 8U, 15U, 17U, 31U, 33U, 4104U, 0xFFFFFFFFU}) {
        CAPTURE(size);
        value.struct_size = size;
        CHECK_THROWS_WITH_AS(read(&value), doctest::Contains("; expected 32 (set it to sizeof the struct)"), Failure);
        const auto before = value;
        CHECK_THROWS_AS(tvlt::internal::fill_struct(&value, "it", Grown{}), Failure);
        CHECK(std::memcmp(&before, &value, sizeof value) == 0);
    }
    CHECK_THROWS_WITH_AS(read(nullptr), "it is NULL", Failure);
}

TEST_CASE("the stride of an array is the caller's struct_size") {
    const std::vector<Old> olds{{sizeof(Old), 1, 10}, {sizeof(Old), 2, 20}, {sizeof(Old), 3, 30}};
    const auto from_old = read_all(olds.data(), olds.size());
    std::vector<New> news;
    for (std::int32_t index = 1; index <= 3; ++index)
        news.push_back({{sizeof(New), index, index * 10, 0, nullptr}, 0, 0});
    const auto from_new = read_all(news.data(), news.size());
    for (std::size_t index = 0; index < 3; ++index)
        for (const auto* values : {&from_old, &from_new}) {
            CHECK((*values)[index].first == static_cast<std::int32_t>(index + 1));
            CHECK((*values)[index].second == static_cast<std::int64_t>(10 * index + 10));
        }
    news[2].fifth = 1;
    CHECK_THROWS_WITH_AS(read_all(news.data(), 3), doctest::Contains("it[2] sets a field"), Failure);
    news[1].known.struct_size = sizeof(Grown);
    CHECK_THROWS_WITH_AS(read_all(news.data(), 3),
                         doctest::Contains("it[1].struct_size is 32; expected 48, as in it[0]"), Failure);
}

TEST_CASE("a struct is filled up to the caller's struct_size, and zero beyond this release's") {
    const Grown value{0, 7, 8, 9, "x"};
    std::vector<Old> old{{sizeof(Old), 0, 0}, {1, 2, 3}};
    tvlt::internal::fill_struct(reinterpret_cast<Grown*>(old.data()), "it", value);
    CHECK(old[0].struct_size == sizeof(Old));
    CHECK(old[0].second == 8);
    CHECK(old[1].struct_size == 1);  // what follows it is untouched
    CHECK(old[1].second == 3);
    std::vector<New> newer{{{sizeof(New), 0, 0, 0, nullptr}, 5, 5}, {{1, 2, 3, 4, nullptr}, 6, 6}};
    tvlt::internal::fill_struct(&newer[0].known, "it", value);
    CHECK(newer[0].known.struct_size == sizeof(New));
    CHECK(newer[0].known.third == 9);
    CHECK(newer[0].fifth == 0);
    CHECK(newer[0].sixth == 0);
    CHECK(newer[1].known.struct_size == 1);
    CHECK(newer[1].fifth == 6);
}

TEST_CASE("a program of a later release: options") {
    const auto one = case_of("tensors");
    tvlt_session* session = nullptr;
    auto options = later(test_options());
    REQUIRE(tvlt_open(bundle_path(one.bundle).c_str(), &options.known, &session) == TVLT_OK);
    tvlt_close(session);
    options.future = 1;
    check_unknown_field(tvlt_open(bundle_path(one.bundle).c_str(), &options.known, &session));
    CHECK(session == nullptr);
}

TEST_CASE("a program of a later release: arrays of clips") {
    auto one = case_of("clips");
    const tvlt::Session session(bundle_path(one.bundle), test_options(TVLT_CLIPS));
    one.expect(one.run(session));
    tvlt_session* handle = nullptr;
    const auto options = test_options(TVLT_CLIPS);
    REQUIRE(tvlt_open(bundle_path(one.bundle).c_str(), &options, &handle) == TVLT_OK);
    std::vector<Later<tvlt_clip>> clips{later(one.clip()), later(one.clip())};
    tvlt_result* result = nullptr;
    CHECK(tvlt_run(handle, &clips[0].known, 1, &result) == TVLT_OK);
    CHECK(one.agrees(tvlt::Result(result)));
    REQUIRE(tvlt_run(handle, &clips[0].known, 2, &result) == TVLT_OK);
    {
        const tvlt::Result both(result);
        const auto first = both.output(0), second = both.output(1);
        REQUIRE(first.size == second.size);
        CHECK(std::memcmp(first.data, second.data, first.size) == 0);
    }
    clips[1].future = 1;
    check_unknown_field(tvlt_run(handle, &clips[0].known, 2, &result));
    CHECK(result == nullptr);
    clips[1].known.struct_size = sizeof(tvlt_clip);
    CHECK(tvlt_run(handle, &clips[0].known, 2, &result) == TVLT_USAGE);
    CHECK(std::string(tvlt_last_error()).find("clips[1].struct_size is 80; expected 88") != std::string::npos);
    tvlt_close(handle);
}

TEST_CASE("a program of a later release: arrays of tensors, and structs that are filled") {
    const auto one = case_of("tensors");
    tvlt_session* session = nullptr;
    const auto options = test_options();
    REQUIRE(tvlt_open(bundle_path(one.bundle).c_str(), &options, &session) == TVLT_OK);
    std::vector<Later<tvlt_tensor>> inputs;
    for (const auto& tensor : one.tensors()) inputs.push_back(later(tensor));
    tvlt_result* result = nullptr;
    REQUIRE(tvlt_run_tensors(session, &inputs[0].known, inputs.size(), &result) == TVLT_OK);
    auto output = later(tvlt::make<tvlt_tensor>(), 9);
    CHECK(tvlt_result_get(result, 0, nullptr, &output.known) == TVLT_OK);
    CHECK(output.known.struct_size == sizeof output);
    CHECK(output.future == 0);
    auto answer = later(tvlt::make<tvlt_answer>(), 9);
    CHECK((tvlt_result_answer(result, 0, &answer.known) == TVLT_OK) == !one.answers.empty());
    CHECK(answer.future == (one.answers.empty() ? 9 : 0));
    CHECK(one.agrees(tvlt::Result(result)));
    auto info = later(tvlt::make<tvlt_tensor_info>(), 9);
    CHECK(tvlt_session_input(session, 0, &info.known) == TVLT_OK);
    CHECK(info.future == 0);
    inputs.back().future = 1;
    check_unknown_field(tvlt_run_tensors(session, &inputs[0].known, inputs.size(), &result));
    tvlt_close(session);
}

TEST_SUITE_END();
