// Copies of bundles that a test alters.
#pragma once

#include <filesystem>
#include <string>

#include "cases.hpp"

/// A copy of a test bundle, removed in the end.
class Copy {
public:
    explicit Copy(const std::string& bundle);
    ~Copy();
    Copy(const Copy&) = delete;
    Copy& operator=(const Copy&) = delete;

    const std::filesystem::path path;
};

/// Open and close a bundle. Checks that session and message fit the status.
tvlt_status open_and_close(const std::filesystem::path& path, const tvlt_options& options);

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& content);

/// Whether the last call's message contains a text.
bool said(const std::string& part);
