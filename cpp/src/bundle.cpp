#include "bundle.hpp"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>

#include "failure.hpp"

namespace fs = std::filesystem;

namespace tvlt::internal {
namespace {

constexpr const char* manifest_file = "manifest.json";
constexpr int schema_version = 1;

[[noreturn]] void refuse(const std::string& message, const std::string& hint) {
    throw Failure(TVLT_FILE, message, hint);
}

std::ifstream open_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) refuse("cannot read " + path.string() + ": " + std::strerror(errno), "copy the bundle whole");
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

Bundle::Bundle(const fs::path& directory) : directory_(directory) {
    const char* const way = "make a bundle with `tvlt-deploy export CHECKPOINT BUNDLE`";
    std::error_code ignored;
    if (!fs::is_directory(directory_, ignored)) refuse(directory_.string() + " is not a directory", way);
    const auto manifest = path(manifest_file);
    if (!fs::is_regular_file(manifest, ignored)) refuse(directory_.string() + " holds no " + manifest_file, way);
    try {
        parse(read_text(manifest));
    } catch (const nlohmann::json::parse_error& error) {
        refuse(manifest.string() + " is not JSON: " + error.what(), "export the bundle again");
    } catch (const nlohmann::json::exception& error) {
        refuse(manifest.string() + " lacks or misshapes a field: " + error.what(), "export the bundle again");
    }
}

void Bundle::parse(const std::string& text) {
    const auto manifest = nlohmann::ordered_json::parse(text);  // inputs and outputs stand in the graph's order
    const auto name = path(manifest_file).string();
    if (const auto version = manifest.value("schema_version", nlohmann::ordered_json()); version != schema_version)
        refuse(name + " has schema_version " + version.dump() + "; this release reads " +
                   std::to_string(schema_version),
               "export the bundle again, or use the release that wrote it");
    manifest.at("task").get_to(task_);
    for (const auto& [file, entry] : manifest.at("files").items())
        files_[file] = {entry.at("sha256").get<std::string>(), entry.at("size").get<std::uintmax_t>()};
    for (const auto& [input, entry] : manifest.at("inputs").items()) {
        Spec spec{input, {}};
        if (entry.at("dtype") != "float32") refuse(name + " has the input " + input + ", which is not float32", "");
        for (const auto& axis : entry.at("shape"))
            if (axis.is_string())
                spec.shape.emplace_back(axis.get<std::string>());
            else
                spec.shape.emplace_back(axis.get<std::int64_t>());
        inputs_.push_back(std::move(spec));
    }
    for (const auto& item : manifest.at("outputs").items()) outputs_.push_back(item.key());
    for (const auto& entry : manifest.at("variants")) {
        Graph graph{entry.at("precision"), entry.at("form"), entry.at("path"), entry.at("files")};
        check_path(graph.path);
        for (const auto& file : graph.files) check_path(file);
        graphs_.push_back(std::move(graph));
    }
}

void Bundle::check_path(const std::string& name) const {
    const fs::path relative(name);
    bool inside = relative.is_relative() && name.find('\\') == std::string::npos;
    for (const auto& part : relative) inside = inside && part != "..";
    const auto manifest = path(manifest_file).string();
    if (!inside) refuse(manifest + " names '" + name + "', which is outside the bundle", "do not use this bundle");
    if (files_.count(name) == 0)
        refuse(manifest + " uses '" + name + "' but lists no hash for it", "export the bundle again");
}

bool Bundle::holds(const std::string& precision, const std::string& form) const {
    for (const auto& graph : graphs_)
        if (graph.precision == precision && graph.form == form) return true;
    return false;
}

const Graph& Bundle::graph(const std::string& precision, const std::string& form) const {
    std::string held;
    for (const auto& graph : graphs_) {
        if (graph.precision == precision && graph.form == form) return graph;
        held += (held.empty() ? "" : ", ") + graph.precision + " (" + graph.form + ")";
    }
    throw Failure(TVLT_USAGE,
                  directory_.string() + " holds no " + precision + " graph in the " + form + " form; it holds " +
                      (held.empty() ? "none" : held),
                  form == "fused" ? "add it with `tvlt-deploy fuse`, or prepare tensors (options.input)" : "");
}

void Bundle::check(const std::string& name) const {
    const auto wanted = files_.find(name);
    if (wanted == files_.end())
        refuse(directory_.string() + " lists no file '" + name + "'", "export the bundle again");
    const auto file = path(name);
    std::error_code ignored;
    if (!fs::is_regular_file(file, ignored))
        refuse(file.string() + " is missing from the bundle", "copy the bundle whole, or export again");
    const auto inside = fs::canonical(file).lexically_relative(fs::canonical(directory_));
    if (inside.empty() || *inside.begin() == "..")
        refuse(file.string() + " leads out of the bundle", "do not use this bundle");
    if (const auto size = fs::file_size(file); size != wanted->second.size)
        refuse(file.string() + " has " + std::to_string(size) + " bytes; the manifest says " +
                   std::to_string(wanted->second.size),
               "the copy is incomplete or altered: copy the bundle again");
    if (const auto digest = sha256_of(file); digest != wanted->second.sha256)
        refuse(file.string() + " has SHA-256 " + digest + "; the manifest says " + wanted->second.sha256,
               "the file was altered: copy the bundle again");
}

nlohmann::json Bundle::read_json(const std::string& name) const {
    check(name);
    try {
        return nlohmann::json::parse(read_text(path(name)));
    } catch (const nlohmann::json::parse_error& error) {
        refuse(path(name).string() + " is not JSON: " + error.what(), "export the bundle again");
    }
}

}  // namespace tvlt::internal
