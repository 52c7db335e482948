// A bundle on disk: its manifest, and its files compared with it.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.hpp"

namespace tvlt::internal {

class Bundle {
public:
    /// Reads the manifest only. Throws `Failure` (TVLT_FILE) for anything that is not a bundle of this schema.
    explicit Bundle(std::filesystem::path directory);

    const Manifest& manifest() const { return manifest_; }
    std::filesystem::path path(const std::string& name) const { return directory_ / name; }
    bool has_graph(const std::string& precision, const std::string& form) const;

    /// Throws `Failure` (TVLT_USAGE) naming the graphs of the bundle.
    const Graph& graph(const std::string& precision, const std::string& form) const;

    /// Compare size and SHA-256 of a file with the manifest. Throws `Failure` (TVLT_FILE).
    void check(const std::string& name) const;

private:
    std::filesystem::path directory_;
    Manifest manifest_;
};

}  // namespace tvlt::internal
