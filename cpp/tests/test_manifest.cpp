// Manifests that are not of this schema: a status and a message with the field, its value and what was expected.
#include <doctest/doctest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "copies.hpp"

TEST_SUITE_BEGIN("manifest");

namespace {

using Json = nlohmann::ordered_json;

/// A copy of a bundle whose manifest is altered, one change at a time.
class Altered {
public:
    explicit Altered(const std::string& bundle)
        : copy_(bundle), content_(Json::parse(read_file(copy_.path / "manifest.json"))) {}

    /// Set the value at a JSON pointer and open the bundle.
    tvlt_status set(const std::string& pointer, const Json& value, tvlt_input input = TVLT_TENSORS) const {
        auto changed = content_;
        changed[Json::json_pointer(pointer)] = value;
        return open(changed.dump(), input);
    }

    tvlt_status remove(const std::string& field, const std::string& parent = "") const {
        auto changed = content_;
        (parent.empty() ? changed : changed[parent]).erase(field);
        return open(changed.dump(), TVLT_TENSORS);
    }

    tvlt_status open(const std::string& text, tvlt_input input = TVLT_TENSORS) const {
        write_file(copy_.path / "manifest.json", text);
        return open_and_close(copy_.path, test_options(input));
    }

    std::string text() const { return content_.dump(1); }
    const Json& content() const { return content_; }

private:
    Copy copy_;
    Json content_;
};

const char* const classification = "audio-visual-classification";

}  // namespace

TEST_CASE("versions") {
    const Altered bundle(classification);
    CHECK(bundle.set("/schema_version", 1) == TVLT_FILE);
    CHECK(
        said("manifest.json has schema_version 1; expected 2 (upgrade a bundle that has weights with "
             "`tvlt-deploy export OLD NEW`)"));
    for (const auto& version : {Json(3), Json("2"), Json(nullptr), Json(2.5)}) {
        CHECK(bundle.set("/schema_version", version) == TVLT_FILE);
        CHECK(said("has schema_version " + version.dump() + "; expected 2 (use the release that wrote it"));
    }
    CHECK(bundle.remove("schema_version") == TVLT_FILE);
    CHECK(said("has schema_version null; expected 2"));
}

TEST_CASE("paths") {
    const Altered bundle(classification);
    CHECK(bundle.set("/variants/1/path", "../model.onnx") == TVLT_FILE);
    CHECK(said("outside the bundle"));
    CHECK(bundle.set("/variants/1/files/0", "/model.onnx") == TVLT_FILE);
    CHECK(said("outside the bundle"));
    CHECK(bundle.set("/variants/1/path", "fp32/other.onnx") == TVLT_FILE);
    CHECK(said("lists no hash for it"));
}

TEST_CASE("every field that is read is required") {
    const Altered bundle(classification);
    for (const auto* const field :
         {"task", "activation", "labels", "sign_labels", "limits", "inputs", "outputs", "files", "variants"}) {
        CHECK(bundle.remove(field) == TVLT_FILE);
        CHECK(said(std::string("manifest.json has no field ") + field));
    }
    CHECK(bundle.content().at("limits").size() == 13);
    for (const auto& limit : bundle.content().at("limits").items()) {
        CHECK(bundle.remove(limit.key(), "limits") == TVLT_FILE);
        CHECK(said("manifest.json: limits has no field " + limit.key()));
    }
}

TEST_CASE("limits are integers from 1 on") {
    const Altered bundle(classification);
    const Json values[] = {0,
                           -1,
                           1.0,
                           "1",
                           true,
                           std::numeric_limits<std::int64_t>::min(),
                           std::numeric_limits<std::uint64_t>::max(),
                           Json::array({1})};
    for (const auto& limit : bundle.content().at("limits").items())
        for (const auto& value : values) {
            CHECK(bundle.set("/limits/" + limit.key(), value) == TVLT_FILE);
            CHECK(said("manifest.json: limits: " + limit.key() + " is " + value.dump() +
                       "; expected an integer from 1 to 2147483647 (export the bundle again)"));
        }
    CHECK(bundle.set("/limits/patch_rows", nullptr) == TVLT_FILE);
}

TEST_CASE("limits of pre-processing may be null, except for raw clips") {
    const Altered bundle(classification);
    for (const auto* const limit : {"sampling_rate", "min_samples", "max_amplitude"}) {
        CHECK(bundle.set(std::string("/limits/") + limit, nullptr) == TVLT_OK);
        CHECK(bundle.set(std::string("/limits/") + limit, nullptr, TVLT_CLIPS) == TVLT_FILE);
        CHECK(said("no limits of pre-processing"));
    }
    CHECK(bundle.set("/limits/shortest_edge", nullptr, TVLT_CLIPS) == TVLT_OK);
}

TEST_CASE("answers") {
    const Altered bundle(classification);
    const auto refused = [&](const std::string& field, const Json& value, const std::string& part) {
        CHECK(bundle.set("/" + field, value) == TVLT_FILE);
        CHECK_MESSAGE(said(part), tvlt_last_error());
    };
    refused("activation", "relu", R"(activation is "relu"; expected "none", "sigmoid", "softmax" or null)");
    refused("activation", 1, "activation is 1; expected a text");
    refused("activation", nullptr, "expected null, as activation is null");
    refused("labels", nullptr, "labels is null; expected the names of the labels");
    refused("labels", Json::array(), "labels is []; expected the names of the labels");
    refused("labels", Json::array({"a", 2}), "labels[1] is 2; expected a text");
    refused("sign_labels", Json::array({"a", "b"}), "expected two names for a regression with one output, or null");
    const Altered signs("signs");
    CHECK(signs.set("/sign_labels", Json::array({"a"})) == TVLT_FILE);
    CHECK(signs.set("/sign_labels", nullptr) == TVLT_OK);
    CHECK(Altered("audio-visual-matching").set("/labels", Json::array({"match"})) == TVLT_FILE);
    CHECK(said("expected two labels"));
}

TEST_CASE("shapes, types and files") {
    const Altered bundle(classification);
    const auto refused = [&](const std::string& pointer, const Json& value, const std::string& part) {
        CHECK(bundle.set(pointer, value) == TVLT_FILE);
        CHECK_MESSAGE(said(part), tvlt_last_error());
    };
    refused("/inputs/pixel_values/dtype", "float16", R"(inputs: pixel_values: dtype is "float16"; expected "float32")");
    refused("/inputs/pixel_values/shape/3", 0, "inputs: pixel_values: shape[3] is 0; expected an integer from 1");
    refused("/inputs/pixel_values/shape", 3, "inputs: pixel_values: shape is 3; expected a list");
    refused("/outputs", Json::object(), "outputs is {}; expected at least one output");
    refused("/outputs/logits/shape", Json::array(), "expected a list of axes");
    refused("/files", Json::array(), "files is []; expected an object");
    refused("/files/config.json/size", -1, "files: config.json: size is -1; expected an integer from 0");
    refused("/files/config.json/sha256", 1, "files: config.json: sha256 is 1; expected a text");
    refused("/variants", nullptr, "variants is null; expected a list");
}

TEST_CASE("texts that are no manifest, and damaged bytes") {
    const Altered bundle(classification);
    const auto content = bundle.text();
    const std::vector<std::string> texts{
        "", "{", "[]", "null", "\xff\xfe", std::string(100000, '['), content.substr(0, content.size() / 2)};
    for (const auto& text : texts) CHECK(bundle.open(text) == TVLT_FILE);
    // The library survives every damaged byte, whatever the text then means.
    std::mt19937 random(7);
    int refused = 0;
    for (int round = 0; round < 300; ++round) {
        auto altered = content;
        altered[random() % altered.size()] = static_cast<char>(random() % 256);
        refused += bundle.open(altered) != TVLT_OK ? 1 : 0;
    }
    CHECK(refused > 100);
}

TEST_SUITE_END();
