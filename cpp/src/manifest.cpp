#include "manifest.hpp"

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "failure.hpp"

namespace tvlt::internal {
namespace {

using Json = nlohmann::ordered_json;  // inputs and outputs keep the order of the graph

constexpr int schema_version = 2;
constexpr std::int64_t max_limit = std::numeric_limits<std::int32_t>::max();  // so that products fit 64 bits
constexpr std::int64_t max_size = std::numeric_limits<std::int64_t>::max();

/// A value of the manifest, with its place in the file for messages.
class Node {
public:
    Node(const Json& value, std::string place) : value_(value), place_(std::move(place)) {}

    [[noreturn]] void refuse(const std::string& expected) const {
        throw Failure(TVLT_FILE,
                      place_ + " is " + value_.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 100) +
                          "; expected " + expected,
                      "export the bundle again");
    }

    bool is_null() const { return value_.is_null(); }
    bool is_text() const { return value_.is_string(); }

    Node operator[](const char* key) const {
        if (!value_.is_object()) refuse("an object");
        const auto entry = value_.find(key);
        if (entry == value_.end()) throw Failure(TVLT_FILE, place_ + " has no field " + key, "export the bundle again");
        return {*entry, place_ + ": " + key};
    }

    std::string text() const {
        if (!is_text()) refuse("a text");
        return value_.get<std::string>();
    }

    std::int64_t integer(std::int64_t min, std::int64_t max) const {
        const bool fits =
            value_.is_number_integer() &&
            (!value_.is_number_unsigned() || value_.get<std::uint64_t>() <= static_cast<std::uint64_t>(max));
        if (!fits || value_.get<std::int64_t>() < min || value_.get<std::int64_t>() > max)
            refuse("an integer from " + std::to_string(min) + " to " + std::to_string(max));
        return value_.get<std::int64_t>();
    }

    std::vector<Node> elements() const {
        if (!value_.is_array()) refuse("a list");
        std::vector<Node> nodes;
        for (const auto& element : value_)
            nodes.emplace_back(element, place_ + "[" + std::to_string(nodes.size()) + "]");
        return nodes;
    }

    std::vector<std::pair<std::string, Node>> items() const {
        if (!value_.is_object()) refuse("an object");
        std::vector<std::pair<std::string, Node>> nodes;
        for (const auto& item : value_.items())
            nodes.emplace_back(item.key(), Node(item.value(), place_ + ": " + item.key()));
        return nodes;
    }

    std::vector<std::string> texts() const {
        std::vector<std::string> read;
        for (const auto& element : elements()) read.push_back(element.text());
        return read;
    }

private:
    const Json& value_;
    std::string place_;
};

std::vector<Spec> specs_of(const Node& table) {
    std::vector<Spec> specs;
    for (const auto& [name, entry] : table.items()) {
        if (entry["dtype"].text() != "float32") entry["dtype"].refuse("\"float32\"");
        Spec spec{name, {}};
        for (const auto& axis : entry["shape"].elements())
            spec.shape.push_back(axis.is_text() ? Axis(axis.text()) : Axis(axis.integer(1, max_limit)));
        if (spec.shape.empty()) entry["shape"].refuse("a list of axes");
        specs.push_back(std::move(spec));
    }
    return specs;
}

Limits limits_of(const Node& table) {
    Limits limits;
    for (const auto& [name, field] : {std::pair{"max_frames", &Limits::max_frames},
                                      {"image_height", &Limits::image_height},
                                      {"image_width", &Limits::image_width},
                                      {"patches_per_frame", &Limits::patches_per_frame},
                                      {"max_rows", &Limits::max_rows},
                                      {"patch_rows", &Limits::patch_rows},
                                      {"patches_per_step", &Limits::patches_per_step}})
        limits.*field = table[name].integer(1, max_limit);
    for (const auto& [name, field] : {std::pair{"sampling_rate", &Limits::sampling_rate},
                                      {"min_samples", &Limits::min_samples},
                                      {"max_samples", &Limits::max_samples},
                                      {"shortest_edge", &Limits::shortest_edge},
                                      {"max_resized_pixels", &Limits::max_resized_pixels},
                                      {"max_amplitude", &Limits::max_amplitude}})
        if (const auto value = table[name]; !value.is_null()) limits.*field = value.integer(1, max_limit);
    return limits;
}

/// How the task answers: activation, labels and names of signs, which must fit each other.
void put_answer(const Node& root, Manifest& manifest) {
    if (const auto value = root["activation"]; !value.is_null()) {
        const std::map<std::string, Activation> known{
            {"none", Activation::none}, {"sigmoid", Activation::sigmoid}, {"softmax", Activation::softmax}};
        const auto entry = known.find(value.text());
        if (entry == known.end()) value.refuse("\"none\", \"sigmoid\", \"softmax\" or null");
        manifest.activation = entry->second;
    }
    const auto labels = root["labels"];
    if (!labels.is_null()) manifest.labels = labels.texts();
    if (manifest.labels.empty() == manifest.activation.has_value())
        labels.refuse(manifest.activation ? "the names of the labels" : "null, as activation is null");
    if (manifest.task == "audio-visual-matching" && manifest.labels.size() != 2) labels.refuse("two labels");
    const auto signs = root["sign_labels"];
    if (!signs.is_null()) manifest.sign_labels = signs.texts();
    const bool has_sign = manifest.activation == Activation::none && manifest.labels.size() == 1;
    if (!signs.is_null() && (manifest.sign_labels.size() != 2 || !has_sign))
        signs.refuse("two names for a regression with one output, or null");
}

/// Throws unless a path of the manifest stays inside the bundle and has a hash.
void check_path(const Manifest& manifest, const std::string& path, const std::string& name) {
    const std::filesystem::path relative(path);
    bool inside = relative.is_relative() && path.find('\\') == std::string::npos;
    for (const auto& part : relative) inside = inside && part != "..";
    if (!inside)
        throw Failure(TVLT_FILE, name + " names '" + path + "', which is outside the bundle", "do not use this bundle");
    if (manifest.files.count(path) == 0)
        throw Failure(TVLT_FILE, name + " uses '" + path + "' but lists no hash for it", "export the bundle again");
}

void check_version(const Json& content, const std::string& name) {
    const auto version = content.is_object() ? content.value("schema_version", Json()) : Json();
    if (version == schema_version) return;
    throw Failure(TVLT_FILE,
                  name + " has schema_version " + version.dump(-1, ' ', false, Json::error_handler_t::replace) +
                      "; expected " + std::to_string(schema_version),
                  version == 1 ? "upgrade a bundle that has weights with `tvlt-deploy export OLD NEW`"
                               : "use the release that wrote it, or export the bundle again");
}

}  // namespace

Manifest parse_manifest(const std::string& text, const std::string& name) try {
    const auto content = Json::parse(text);
    check_version(content, name);
    const Node root(content, name);
    Manifest manifest;
    manifest.task = root["task"].text();
    put_answer(root, manifest);
    manifest.limits = limits_of(root["limits"]);
    manifest.inputs = specs_of(root["inputs"]);
    manifest.outputs = specs_of(root["outputs"]);
    if (manifest.outputs.empty()) root["outputs"].refuse("at least one output");
    for (const auto& [path, entry] : root["files"].items())
        manifest.files[path] = {entry["sha256"].text(), entry["size"].integer(0, max_size)};
    for (const auto& entry : root["variants"].elements()) {
        Graph graph{entry["precision"].text(), entry["form"].text(), entry["path"].text(), entry["files"].texts()};
        check_path(manifest, graph.path, name);
        for (const auto& file : graph.files) check_path(manifest, file, name);
        manifest.graphs.push_back(std::move(graph));
    }
    return manifest;
} catch (const nlohmann::json::exception& error) {
    throw Failure(TVLT_FILE, name + " is not JSON: " + error.what(), "export the bundle again");
}

}  // namespace tvlt::internal
