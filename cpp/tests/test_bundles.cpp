// Bundles and ONNX Runtimes that cannot be used: a status and a message, never a crash.
#include <doctest/doctest.h>

#include <filesystem>

#include "copies.hpp"

namespace fs = std::filesystem;

TEST_SUITE_BEGIN("bundles");

TEST_CASE("no bundle") {
    CHECK(open_and_close("/nowhere", test_options()) == TVLT_FILE);
    CHECK(said("/nowhere is not a directory"));
    CHECK(open_and_close(fs::temp_directory_path(), test_options()) == TVLT_FILE);
    CHECK(said("has no manifest.json"));
}

TEST_CASE("a flipped byte in any file that is opened") {
    const std::pair<tvlt_input, std::vector<std::string>> opened[] = {
        {TVLT_TENSORS, {"fp32/model.onnxruntime-cpu.onnx", "fp32/model.onnx.data"}},
        {TVLT_CLIPS, {"fused/model.onnx", "fused/model.onnx.data"}},
    };
    const Copy copy(load_cases("tensors").front().bundle);
    for (const auto& [input, names] : opened) {
        const auto options = test_options(input);
        REQUIRE(open_and_close(copy.path, options) == TVLT_OK);
        for (const auto& name : names) {
            CAPTURE(name);
            const auto content = read_file(copy.path / name);
            for (const auto place : {std::size_t{0}, content.size() / 2, content.size() - 1}) {
                auto altered = content;
                altered[place] = static_cast<char>(altered[place] ^ 1);
                write_file(copy.path / name, altered);
                CHECK(open_and_close(copy.path, options) == TVLT_FILE);
                CHECK(said(name));
                CHECK(said("has SHA-256"));
            }
            write_file(copy.path / name, content.substr(1));
            CHECK(open_and_close(copy.path, options) == TVLT_FILE);
            CHECK(said("bytes; the manifest says"));
            fs::remove(copy.path / name);
            CHECK(open_and_close(copy.path, options) == TVLT_FILE);
            CHECK(said("is missing from the bundle"));
            const auto outside = copy.path.string() + ".outside";
            write_file(outside, content);
            fs::create_symlink(outside, copy.path / name);
            CHECK(open_and_close(copy.path, options) == TVLT_FILE);
            CHECK(said("leads out of the bundle"));
            fs::remove(outside);
            fs::remove(copy.path / name);
            write_file(copy.path / name, content);
        }
        CHECK(open_and_close(copy.path, options) == TVLT_OK);
    }
}

TEST_CASE("ONNX Runtimes") {
    const auto one = load_cases("tensors").front();
    auto options = test_options();
    options.onnxruntime = "/nowhere/libonnxruntime.so.1";
    CHECK(open_and_close(bundle_path(one.bundle), options) == TVLT_ENVIRONMENT);
    CHECK(said("/nowhere/libonnxruntime.so.1"));
    CHECK(said("--print-ort"));
    options.onnxruntime = "libm.so.6";
    CHECK(open_and_close(bundle_path(one.bundle), options) == TVLT_ENVIRONMENT);
    CHECK(said("is not ONNX Runtime"));
    options.onnxruntime = OLD_ONNXRUNTIME;
    CHECK(open_and_close(bundle_path(one.bundle), options) == TVLT_ENVIRONMENT);
    CHECK(said("ONNX Runtime 1.16.3"));
    CHECK(said("too old"));
}

TEST_SUITE_END();
