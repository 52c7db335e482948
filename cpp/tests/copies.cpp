#include "copies.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

namespace fs = std::filesystem;

Copy::Copy(const std::string& bundle) : path(fs::temp_directory_path() / ("tvlt_bundle_" + std::to_string(getpid()))) {
    fs::remove_all(path);
    fs::copy(bundle_path(bundle), path, fs::copy_options::recursive);
}

Copy::~Copy() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
}

tvlt_status open_and_close(const fs::path& path, const tvlt_options& options) {
    tvlt_session* session = nullptr;
    const auto status = tvlt_open(path.c_str(), &options, &session);
    CHECK((session != nullptr) == (status == TVLT_OK));
    CHECK(std::string(tvlt_last_error()).empty() == (status == TVLT_OK));
    tvlt_close(session);
    return status;
}

std::string read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const fs::path& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

bool said(const std::string& part) { return std::string(tvlt_last_error()).find(part) != std::string::npos; }
