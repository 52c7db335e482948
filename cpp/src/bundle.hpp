// A bundle opened for reading: docs/reference/bundle.md describes the format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

namespace tvlt::internal {

/// One graph of the bundle.
struct Graph {
    std::string precision, form, path;
    std::vector<std::string> files;
};

/// A fixed size, or the name of a dynamic one.
using Axis = std::variant<std::int64_t, std::string>;

struct Spec {
    std::string name;
    std::vector<Axis> shape;
};

class Bundle {
public:
    /// Reads the manifest only. Throws `Failure` (TVLT_FILE) for anything that is not a bundle of this schema.
    explicit Bundle(const std::filesystem::path& directory);

    const std::string& task() const { return task_; }
    const std::vector<Spec>& inputs() const { return inputs_; }
    const std::vector<std::string>& outputs() const { return outputs_; }
    std::filesystem::path path(const std::string& name) const { return directory_ / name; }
    bool holds(const std::string& precision, const std::string& form) const;

    /// Throws `Failure` (TVLT_USAGE) naming the graphs there are.
    const Graph& graph(const std::string& precision, const std::string& form) const;

    /// Compare size and SHA-256 of a file with the manifest. Throws `Failure` (TVLT_FILE).
    void check(const std::string& name) const;

    /// A JSON file of the bundle, checked before it is parsed.
    nlohmann::json read_json(const std::string& name) const;

private:
    struct File {
        std::string sha256;
        std::uintmax_t size = 0;
    };

    void parse(const std::string& text);
    void check_path(const std::string& path) const;

    std::filesystem::path directory_;
    std::string task_;
    std::vector<Spec> inputs_;
    std::vector<std::string> outputs_;
    std::vector<Graph> graphs_;
    std::map<std::string, File> files_;
};

}  // namespace tvlt::internal
