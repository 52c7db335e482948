// Bundles and ONNX Runtimes that are not what they should be: a status and a text, never a crash.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "cases.hpp"

namespace fs = std::filesystem;

TEST_SUITE_BEGIN("bundles");

namespace {

/// A bundle's copy to alter.
class Copy {
public:
    explicit Copy(const std::string& bundle)
        : path(fs::temp_directory_path() / ("tvlt_bundle_" + std::to_string(getpid()))) {
        fs::remove_all(path);
        fs::copy(bundle_path(bundle), path, fs::copy_options::recursive);
    }
    ~Copy() { fs::remove_all(path); }

    const fs::path path;
};

tvlt_status open(const fs::path& path, const tvlt_options& options) {
    tvlt_session* session = nullptr;
    const auto status = tvlt_open(path.c_str(), &options, &session);
    CHECK((session != nullptr) == (status == TVLT_OK));
    CHECK(std::string(tvlt_last_error()).empty() == (status == TVLT_OK));
    tvlt_close(session);
    return status;
}

std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

bool said(const std::string& part) { return std::string(tvlt_last_error()).find(part) != std::string::npos; }

}  // namespace

TEST_CASE("no bundle") {
    CHECK(open("/nowhere", test_options()) == TVLT_FILE);
    CHECK(said("/nowhere is not a directory"));
    CHECK(open(fs::temp_directory_path(), test_options()) == TVLT_FILE);
    CHECK(said("holds no manifest.json"));
}

TEST_CASE("a flipped byte in any file that is opened") {
    const std::pair<tvlt_input, std::vector<std::string>> opened[] = {
        {TVLT_TENSORS, {"config.json", "fp32/model.onnxruntime-cpu.onnx", "fp32/model.onnx.data"}},
        {TVLT_CLIPS, {"config.json", "preprocessor_config.json", "fused/model.onnx", "fused/model.onnx.data"}},
    };
    const Copy copy(load_cases("tensors").front().bundle);
    for (const auto& [input, names] : opened) {
        const auto options = test_options(input);
        REQUIRE(open(copy.path, options) == TVLT_OK);
        for (const auto& name : names) {
            CAPTURE(name);
            const auto content = read(copy.path / name);
            for (const auto place : {std::size_t{0}, content.size() / 2, content.size() - 1}) {
                auto altered = content;
                altered[place] = static_cast<char>(altered[place] ^ 1);
                write(copy.path / name, altered);
                CHECK(open(copy.path, options) == TVLT_FILE);
                CHECK(said(name));
                CHECK(said("has SHA-256"));
            }
            write(copy.path / name, content.substr(1));
            CHECK(open(copy.path, options) == TVLT_FILE);
            CHECK(said("bytes; the manifest says"));
            fs::remove(copy.path / name);
            CHECK(open(copy.path, options) == TVLT_FILE);
            CHECK(said("is missing from the bundle"));
            const auto outside = copy.path.string() + ".outside";
            write(outside, content);
            fs::create_symlink(outside, copy.path / name);
            CHECK(open(copy.path, options) == TVLT_FILE);
            CHECK(said("leads out of the bundle"));
            fs::remove(outside);
            fs::remove(copy.path / name);
            write(copy.path / name, content);
        }
        CHECK(open(copy.path, options) == TVLT_OK);
    }
}

TEST_CASE("manifests") {
    const auto one = load_cases("tensors").front();
    const Copy copy(one.bundle);
    const auto content = read(copy.path / "manifest.json");
    const auto with = [&](const std::string& from, const std::string& to) {
        auto altered = content;
        const auto place = altered.find(from);
        REQUIRE(place != std::string::npos);
        write(copy.path / "manifest.json", altered.replace(place, from.size(), to));
        return open(copy.path, test_options());
    };
    CHECK(with("\"schema_version\": 1", "\"schema_version\": 2") == TVLT_FILE);
    CHECK(said("has schema_version 2; this release reads 1"));
    CHECK(with("\"path\": \"fp32/model.onnxruntime-cpu.onnx\"", "\"path\": \"../model.onnx\"") == TVLT_FILE);
    CHECK(said("outside the bundle"));
    CHECK(with("\"path\": \"fp32/model.onnxruntime-cpu.onnx\"", "\"path\": \"fp32/other.onnx\"") == TVLT_FILE);
    CHECK(said("lists no hash for it"));
    CHECK(with("\"variants\"", "\"graphs\"") == TVLT_FILE);
    CHECK(said("lacks or misshapes"));
    const std::vector<std::string> texts{"", "{", "[]", "null", "\xff\xfe", std::string(100000, '['),
                                         content.substr(0, content.size() / 2)};
    for (const auto& text : texts) {
        write(copy.path / "manifest.json", text);
        CHECK(open(copy.path, test_options()) == TVLT_FILE);
    }
    // Whatever a damaged byte does to the meaning, the library survives it and says why it does not open.
    std::mt19937 random(7);
    int refused = 0;
    for (int round = 0; round < 300; ++round) {
        auto altered = content;
        altered[random() % altered.size()] = static_cast<char>(random() % 256);
        write(copy.path / "manifest.json", altered);
        refused += open(copy.path, test_options()) != TVLT_OK ? 1 : 0;
    }
    CHECK(refused > 100);
}

TEST_CASE("ONNX Runtimes") {
    const auto one = load_cases("tensors").front();
    auto options = test_options();
    options.onnxruntime = "/nowhere/libonnxruntime.so.1";
    CHECK(open(bundle_path(one.bundle), options) == TVLT_ENVIRONMENT);
    CHECK(said("/nowhere/libonnxruntime.so.1"));
    CHECK(said("--print-ort"));
    options.onnxruntime = "libm.so.6";
    CHECK(open(bundle_path(one.bundle), options) == TVLT_ENVIRONMENT);
    CHECK(said("is not ONNX Runtime"));
    options.onnxruntime = OLD_ONNXRUNTIME;
    CHECK(open(bundle_path(one.bundle), options) == TVLT_ENVIRONMENT);
    CHECK(said("ONNX Runtime 1.16.3"));
    CHECK(said("too old"));
}

TEST_SUITE_END();
