// ONNX Runtime, loaded at run time: only its C header is needed to build.
//
// The library is not linked: the symbols of the Python wheel have its exact version (VERS_1.31.1), so a program linked
// against one release does not start with another. `OrtGetApiBase` is looked up instead and returns all functions.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model.hpp"

namespace tvlt::internal {

/// One graph on one provider. `run` is called from several threads at a time.
class OrtGraph {
public:
    struct Feed {
        const char* name;
        const void* data;
        std::size_t bytes;
        std::vector<std::int64_t> shape;
        ONNXTensorElementDataType type;
    };

    /// Throws `Failure`: TVLT_ENVIRONMENT for a library or provider that is missing, TVLT_USAGE for an unknown name,
    /// TVLT_FILE for a graph that does not load.
    OrtGraph(const std::string& path, const Options& options);

    std::vector<std::string> input_names() const;

    /// The named outputs, which must be float32. Throws `Failure` (TVLT_INTERNAL) with ONNX Runtime's message.
    std::vector<Output> run(const std::vector<Feed>& feeds, const std::vector<std::string>& outputs) const;

private:
    template <typename T>
    struct Release {
        void (*release)(T*);
        void operator()(T* value) const { release(value); }
    };
    template <typename T>
    using Handle = std::unique_ptr<T, Release<T>>;

    void check(OrtStatus* status, tvlt_status kind, const std::string& what, const std::string& hint = "") const;
    void check_provider(const std::string& name) const;
    void append_providers(OrtSessionOptions* session_options, const Options& options) const;
    Output output_of(const std::string& name, OrtValue* value) const;

    std::string library_;  ///< version and file of the library, for messages
    const OrtApi* api_ = nullptr;
    Handle<OrtEnv> environment_;
    Handle<OrtMemoryInfo> memory_;
    Handle<OrtSession> session_;
};

}  // namespace tvlt::internal
