#include "ort.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "failure.hpp"

namespace tvlt::internal {
namespace {

constexpr const char* where_to_find =
    "set options.onnxruntime or $TVLT_ONNXRUNTIME to the library's file; `tvlt-deploy cpp --print-ort` prints the one "
    "of a Python environment";

std::string library_file(const Options& options) {
    if (!options.onnxruntime.empty()) return options.onnxruntime;
    const char* const named = std::getenv("TVLT_ONNXRUNTIME");
    return named != nullptr && *named != '\0' ? named : "libonnxruntime.so.1";
}

/// The library's entry point. It is never unloaded: its threads and static objects do not survive dlclose.
const OrtApiBase* load(const std::string& file) {
    void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
        throw Failure(TVLT_ENVIRONMENT, std::string("ONNX Runtime cannot be loaded: ") + dlerror(), where_to_find);
    const auto entry = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (entry == nullptr) {
        dlclose(library);
        throw Failure(TVLT_ENVIRONMENT, file + " is not ONNX Runtime: it has no OrtGetApiBase", where_to_find);
    }
    return entry();
}

/// (kind, index) of `cpu`, `cuda` or `cuda:N`.
std::pair<std::string, std::string> parse_device(const std::string& device) {
    if (device == "cpu" || device == "cuda") return {device, "0"};
    const std::string prefix = "cuda:", index = device.substr(std::min(prefix.size(), device.size()));
    const bool is_number = !index.empty() && index.find_first_not_of("0123456789") == std::string::npos;
    if (device.compare(0, prefix.size(), prefix) != 0 || !is_number || index.size() > 4)
        throw Failure(TVLT_USAGE, "device is '" + device + "'; expected cpu, cuda or cuda:N");
    return {"cuda", index};
}

}  // namespace

OrtGraph::OrtGraph(const std::string& path, const Options& options) {
    if (options.backend != "onnxruntime")
        throw Failure(TVLT_USAGE, "backend is '" + options.backend + "'; expected onnxruntime",
                      "libtvlt_deploy_python runs the others");
    const auto file = library_file(options);
    const auto* const base = load(file);
    const std::string version = base->GetVersionString();
    library_ = "ONNX Runtime " + version + " (" + file + ")";
    // GetApi prints to stderr if the version is too old: compare the version text first.
    if (std::atoi(version.c_str()) == 1 && std::atoi(version.c_str() + 2) >= ORT_API_VERSION)
        api_ = base->GetApi(ORT_API_VERSION);
    if (api_ == nullptr)
        throw Failure(TVLT_ENVIRONMENT, library_ + " is too old; expected 1." + std::to_string(ORT_API_VERSION) +
                                            " or newer, the version of the headers of this build");

    const auto memory = [&](OrtStatus* status) { check(status, TVLT_ENVIRONMENT, "starting"); };
    OrtEnv* environment = nullptr;
    memory(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "tvlt_deploy", &environment));
    environment_ = {environment, {api_->ReleaseEnv}};
    OrtMemoryInfo* info = nullptr;
    memory(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    memory_ = {info, {api_->ReleaseMemoryInfo}};
    OrtSessionOptions* created = nullptr;
    memory(api_->CreateSessionOptions(&created));
    const Handle<OrtSessionOptions> session_options(created, {api_->ReleaseSessionOptions});
    memory(api_->SetSessionLogSeverityLevel(created, ORT_LOGGING_LEVEL_ERROR));
    // ONNX Runtime would keep a memory plan for every new input shape.
    memory(api_->DisableMemPattern(created));
    if (options.threads > 0) memory(api_->SetIntraOpNumThreads(created, options.threads));
    append_providers(created, options);
    OrtSession* session = nullptr;
    check(api_->CreateSession(environment, path.c_str(), created, &session), TVLT_FILE, "loading " + path);
    session_ = {session, {api_->ReleaseSession}};
}

void OrtGraph::check(OrtStatus* status, tvlt_status kind, const std::string& what, const std::string& hint) const {
    if (status == nullptr) return;
    const Handle<OrtStatus> held(status, {api_->ReleaseStatus});
    throw Failure(kind, library_ + " failed at " + what + ": " + api_->GetErrorMessage(status), hint);
}

void OrtGraph::check_provider(const std::string& name) const {
    char** names = nullptr;
    int count = 0;
    check(api_->GetAvailableProviders(&names, &count), TVLT_ENVIRONMENT, "listing its providers");
    std::string listed;
    for (int each = 0; each < count; ++each) listed += (each == 0 ? "" : ", ") + std::string(names[each]);
    const bool available = std::find(names, names + count, name) != names + count;
    check(api_->ReleaseAvailableProviders(names, count), TVLT_ENVIRONMENT, "listing its providers");
    if (!available)
        throw Failure(TVLT_ENVIRONMENT, library_ + " has no " + name + "; it has " + listed,
                      "load a build with it: onnxruntime-gpu has CUDA and TensorRT");
}

void OrtGraph::append_providers(OrtSessionOptions* session_options, const Options& options) const {
    const auto [kind, index] = parse_device(options.device);
    const std::string provider = options.provider.empty() ? kind : options.provider;
    if (kind == "cpu" && provider == "cpu") return;
    const std::map<std::string, std::string> known{{"cuda", "CUDAExecutionProvider"},
                                                   {"tensorrt", "TensorrtExecutionProvider"},
                                                   {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"}};
    const auto entry = known.find(provider);
    if (entry == known.end() || kind == "cpu")
        throw Failure(TVLT_USAGE, "provider is '" + provider + "' on " + options.device +
                                      "; expected cuda, tensorrt or tensorrt-rtx, on a CUDA device");
    check_provider(entry->second);

    const char* const keys[] = {"device_id", "use_tf32"};
    const char* const values[] = {index.c_str(), "0"};  // TF32 has 10 bits of mantissa only
    const auto appended = [&, name = entry->second](OrtStatus* status) {
        check(status, TVLT_ENVIRONMENT, "opening " + name,
              "check the driver with nvidia-smi, and that the provider's CUDA and TensorRT libraries are found");
    };
    if (provider == "tensorrt-rtx") {
        appended(api_->SessionOptionsAppendExecutionProvider(session_options, "NvTensorRtRtx", keys, values, 1));
        return;
    }
    if (provider == "tensorrt") {
        OrtTensorRTProviderOptionsV2* created = nullptr;
        appended(api_->CreateTensorRTProviderOptions(&created));
        const Handle<OrtTensorRTProviderOptionsV2> provider_options(created, {api_->ReleaseTensorRTProviderOptions});
        appended(api_->UpdateTensorRTProviderOptions(created, keys, values, 1));
        appended(api_->SessionOptionsAppendExecutionProvider_TensorRT_V2(session_options, created));
    }
    // After TensorRT, CUDA runs the nodes that are left.
    OrtCUDAProviderOptionsV2* created = nullptr;
    appended(api_->CreateCUDAProviderOptions(&created));
    const Handle<OrtCUDAProviderOptionsV2> provider_options(created, {api_->ReleaseCUDAProviderOptions});
    appended(api_->UpdateCUDAProviderOptions(created, keys, values, 2));
    appended(api_->SessionOptionsAppendExecutionProvider_CUDA_V2(session_options, created));
}

std::vector<std::string> OrtGraph::input_names() const {
    const auto checked = [&](OrtStatus* status) { check(status, TVLT_INTERNAL, "listing the inputs"); };
    OrtAllocator* allocator = nullptr;
    checked(api_->GetAllocatorWithDefaultOptions(&allocator));
    std::size_t count = 0;
    checked(api_->SessionGetInputCount(session_.get(), &count));
    std::vector<std::string> names;
    for (std::size_t index = 0; index < count; ++index) {
        char* name = nullptr;
        checked(api_->SessionGetInputName(session_.get(), index, allocator, &name));
        names.emplace_back(name);
        allocator->Free(allocator, name);
    }
    return names;
}

std::vector<Output> OrtGraph::run(const std::vector<Feed>& feeds, const std::vector<std::string>& outputs) const {
    std::vector<Handle<OrtValue>> held;
    std::vector<const OrtValue*> values;
    std::vector<const char*> feed_names, output_names;
    for (const auto& feed : feeds) {
        static char nothing = 0;  // ONNX Runtime refuses a null pointer, also for an empty tensor
        void* const data = feed.data == nullptr ? &nothing : const_cast<void*>(feed.data);  // inputs are only read
        OrtValue* value = nullptr;
        check(api_->CreateTensorWithDataAsOrtValue(memory_.get(), data, feed.bytes, feed.shape.data(),
                                                   feed.shape.size(), feed.type, &value),
              TVLT_INTERNAL, std::string("reading ") + feed.name);
        held.push_back({value, {api_->ReleaseValue}});
        values.push_back(value);
        feed_names.push_back(feed.name);
    }
    for (const auto& name : outputs) output_names.push_back(name.c_str());
    std::vector<OrtValue*> answered(outputs.size(), nullptr);
    check(api_->Run(session_.get(), nullptr, feed_names.data(), values.data(), values.size(), output_names.data(),
                    output_names.size(), answered.data()),
          TVLT_INTERNAL, "running the graph");
    std::vector<Handle<OrtValue>> results;
    for (auto* const value : answered) results.push_back({value, {api_->ReleaseValue}});
    std::vector<Output> read;
    for (std::size_t index = 0; index < outputs.size(); ++index)
        read.push_back(output_of(outputs[index], results[index].get()));
    return read;
}

Output OrtGraph::output_of(const std::string& name, OrtValue* value) const {
    const auto checked = [&](OrtStatus* status) { check(status, TVLT_INTERNAL, "reading " + name); };
    OrtTensorTypeAndShapeInfo* created = nullptr;
    checked(api_->GetTensorTypeAndShape(value, &created));
    const Handle<OrtTensorTypeAndShapeInfo> info(created, {api_->ReleaseTensorTypeAndShapeInfo});
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    checked(api_->GetTensorElementType(created, &type));
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
        throw Failure(TVLT_FILE, "the graph's output " + name + " is not float32", "export the bundle again");
    std::size_t rank = 0, count = 0;
    checked(api_->GetDimensionsCount(created, &rank));
    Output output{name, std::vector<std::int64_t>(rank), {}};
    checked(api_->GetDimensions(created, output.shape.data(), rank));
    checked(api_->GetTensorShapeElementCount(created, &count));
    void* data = nullptr;
    checked(api_->GetTensorMutableData(value, &data));
    const auto* const values = static_cast<const float*>(data);
    output.values.assign(values, values + count);
    return output;
}

}  // namespace tvlt::internal
