// The outputs are those of transformers: golden.json, which `python -m tests.cpp.golden` wrote once.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cases.hpp"

TEST_SUITE_BEGIN("golden");

namespace {

using Json = nlohmann::json;

constexpr double tolerance = 1e-4;

std::vector<std::int64_t> shape_of(const Json& array) { return array.at("shape").get<std::vector<std::int64_t>>(); }

/// The bytes of an array that golden.json describes.
std::vector<std::uint8_t> pattern(const Json& array) {
    const auto shape = shape_of(array);
    const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    std::vector<std::uint8_t> bytes;
    auto index = array.at("first").get<std::uint32_t>();
    for (std::int64_t value = 0; value < count; ++value)
        bytes.push_back(static_cast<std::uint8_t>((index++ * 2654435761U) >> 24));
    return bytes;
}

std::vector<float> uniform(const Json& array, float scale) {
    std::vector<float> values;
    for (const auto byte : pattern(array)) values.push_back((2 * static_cast<float>(byte) - 255) / scale);
    return values;
}

Case case_of(const Json& entry) {
    Case one;
    one.bundle = entry.at("bundle");
    if (entry.contains("tensors")) {
        for (const auto& [name, array] : entry.at("tensors").items())
            one.inputs[name] = {shape_of(array), array.contains("values") ? array["values"].get<std::vector<float>>()
                                                                          : uniform(array, 255)};
    } else {
        one.frames = {shape_of(entry.at("frames")), pattern(entry.at("frames"))};
        one.samples = uniform(entry.at("samples"), 1020);
    }
    return one;
}

/// Value at a position of the first output of a batch.
float value_at(const tvlt::Result& result, std::size_t position) {
    const auto size = result.output().size / sizeof(float);
    return result.output(position / size).data[position % size];
}

}  // namespace

TEST_CASE("prepared tensors and raw clips give the outputs of transformers") {
    std::ifstream file(TVLT_GOLDEN);
    const auto content = Json::parse(file);
    int compared = 0;
    for (const auto& entry : content.at("cases")) {
        const auto one = case_of(entry);
        CAPTURE(one.bundle);
        CAPTURE(one.inputs.size());
        const tvlt::Session session(bundle_path(one.bundle), test_options(one.input()));
        const auto result = one.run(session);
        for (std::size_t index = 0; index < entry.at("values").size(); ++index, ++compared) {
            const double expected = entry["values"][index];
            CHECK(std::abs(value_at(result, entry["positions"][index]) - expected) < tolerance);
        }
    }
    CHECK(compared > 30);
}

TEST_SUITE_END();
