#include "bundle.hpp"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "failure.hpp"

namespace fs = std::filesystem;

namespace tvlt::internal {
namespace {

constexpr const char* manifest_file = "manifest.json";

[[noreturn]] void refuse(const std::string& message, const std::string& hint) {
    throw Failure(TVLT_FILE, message, hint);
}

std::ifstream open_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) refuse("cannot read " + path.string() + ": " + std::strerror(errno), "copy the complete bundle");
    return file;
}

std::string read_text(const fs::path& path) {
    auto file = open_file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string sha256_of(const fs::path& path) {
    auto file = open_file(path);
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    bool good = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
    std::vector<char> block(1 << 20);
    while (good && file) {
        file.read(block.data(), static_cast<std::streamsize>(block.size()));
        good = EVP_DigestUpdate(context.get(), block.data(), static_cast<std::size_t>(file.gcount())) == 1;
    }
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int length = 0;
    if (!good || EVP_DigestFinal_ex(context.get(), digest.data(), &length) != 1)
        throw Failure(TVLT_ENVIRONMENT, "OpenSSL's libcrypto cannot compute SHA-256");
    std::string text;
    for (unsigned int index = 0; index < length; ++index) {
        text += "0123456789abcdef"[digest[index] >> 4];
        text += "0123456789abcdef"[digest[index] & 15];
    }
    return text;
}

}  // namespace

Bundle::Bundle(fs::path directory) : directory_(std::move(directory)) {
    const char* const hint = "create a bundle with `tvlt-deploy export CHECKPOINT BUNDLE`";
    std::error_code ignored;
    if (!fs::is_directory(directory_, ignored)) refuse(directory_.string() + " is not a directory", hint);
    const auto file = path(manifest_file);
    if (!fs::is_regular_file(file, ignored)) refuse(directory_.string() + " has no " + manifest_file, hint);
    manifest_ = parse_manifest(read_text(file), file.string());
}

bool Bundle::has_graph(const std::string& precision, const std::string& form) const {
    for (const auto& graph : manifest_.graphs)
        if (graph.precision == precision && graph.form == form) return true;
    return false;
}

const Graph& Bundle::graph(const std::string& precision, const std::string& form) const {
    std::string listed;
    for (const auto& graph : manifest_.graphs) {
        if (graph.precision == precision && graph.form == form) return graph;
        listed += (listed.empty() ? "" : ", ") + graph.precision + " (" + graph.form + ")";
    }
    throw Failure(TVLT_USAGE,
                  directory_.string() + " has no " + precision + " graph in the " + form + " form; it has " +
                      (listed.empty() ? "none" : listed),
                  form == "fused" ? "add it with `tvlt-deploy fuse`, or prepare tensors (options.input)" : "");
}

void Bundle::check(const std::string& name) const {
    const auto expected = manifest_.files.find(name);
    if (expected == manifest_.files.end())
        refuse(directory_.string() + " lists no file '" + name + "'", "export the bundle again");
    const auto file = path(name);
    std::error_code ignored;
    if (!fs::is_regular_file(file, ignored))
        refuse(file.string() + " is missing from the bundle", "copy the complete bundle, or export it again");
    const auto inside = fs::canonical(file).lexically_relative(fs::canonical(directory_));
    if (inside.empty() || *inside.begin() == "..")
        refuse(file.string() + " leads out of the bundle", "do not use this bundle");
    if (const auto size = fs::file_size(file); size != static_cast<std::uintmax_t>(expected->second.size))
        refuse(file.string() + " has " + std::to_string(size) + " bytes; the manifest says " +
                   std::to_string(expected->second.size),
               "the copy is incomplete or altered: copy the bundle again");
    if (const auto digest = sha256_of(file); digest != expected->second.sha256)
        refuse(file.string() + " has SHA-256 " + digest + "; the manifest says " + expected->second.sha256,
               "the file was altered: copy the bundle again");
}

}  // namespace tvlt::internal
