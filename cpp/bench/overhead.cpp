// Overhead of tvlt_run_tensors over ONNX Runtime itself: the same graph, inputs and settings, in alternation.
//
//   tvlt_overhead BUNDLE [ROUNDS]     $TVLT_ONNXRUNTIME is the library; 1 frame and 10 s of sound, 2 threads
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <tvlt_deploy.hpp>
#include <vector>

namespace {

constexpr int threads = 2;
// TVLT-base: 196 patches of a frame; 10 s are 861 rows, 54 steps of 8 patches.
constexpr std::int64_t patches = 196, rows = 864, steps = 54;

struct Input {
    const char* name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};

std::vector<Input> make_inputs() {
    std::vector<Input> inputs{{"pixel_values", {1, 1, 3, 224, 224}, {}},
                              {"audio_values", {1, 1, rows, 128}, {}},
                              {"pixel_mask", {1, patches}, {}},
                              {"audio_mask", {1, steps * 8}, {}}};
    for (auto& input : inputs) {
        std::size_t count = 1;
        for (const auto size : input.shape) count *= static_cast<std::size_t>(size);
        input.values.assign(count, 1.0F);
    }
    for (std::size_t index = 0; index < 2; ++index)
        for (std::size_t place = 0; place < inputs[index].values.size(); ++place)
            inputs[index].values[place] = static_cast<float>(place % 255) / 127.0F - 1;
    return inputs;
}

/// A session of ONNX Runtime with the settings of the library.
class Bare {
public:
    explicit Bare(const std::string& graph) {
        void* const library = dlopen(std::getenv("TVLT_ONNXRUNTIME"), RTLD_NOW);
        api_ = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"))()->GetApi(ORT_API_VERSION);
        OrtEnv* environment = nullptr;
        OrtSessionOptions* options = nullptr;
        check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bare", &environment));
        check(api_->CreateSessionOptions(&options));
        check(api_->DisableMemPattern(options));
        check(api_->SetIntraOpNumThreads(options, threads));
        check(api_->CreateSession(environment, graph.c_str(), options, &session_));
        check(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
    }

    void run(const std::vector<Input>& inputs) const {
        std::vector<const char*> names;
        std::vector<OrtValue*> values;
        for (const auto& input : inputs) {
            names.push_back(input.name);
            values.push_back(nullptr);
            check(api_->CreateTensorWithDataAsOrtValue(
                memory_, const_cast<float*>(input.values.data()), input.values.size() * sizeof(float),
                input.shape.data(), input.shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &values.back()));
        }
        const char* const output = "logits";
        OrtValue* answer = nullptr;
        check(api_->Run(session_, nullptr, names.data(), values.data(), values.size(), &output, 1, &answer));
        for (auto* const value : values) api_->ReleaseValue(value);
        api_->ReleaseValue(answer);
    }

private:
    void check(OrtStatus* status) const {
        if (status == nullptr) return;
        std::fprintf(stderr, "error: %s\n", api_->GetErrorMessage(status));
        std::exit(1);
    }

    const OrtApi* api_ = nullptr;
    OrtSession* session_ = nullptr;
    OrtMemoryInfo* memory_ = nullptr;
};

template <typename Call>
double milliseconds(Call call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> times) {
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2 || std::getenv("TVLT_ONNXRUNTIME") == nullptr) {
        std::fprintf(stderr, "usage: TVLT_ONNXRUNTIME=LIBRARY %s BUNDLE [ROUNDS]\n", arguments[0]);
        return 2;
    }
    const std::string bundle = arguments[1];
    const int rounds = count > 2 ? std::atoi(arguments[2]) : 30;
    auto options = tvlt::make<tvlt_options>();
    options.input = TVLT_TENSORS;
    options.threads = threads;
    const tvlt::Session session(bundle, options);
    const Bare bare(bundle + "/fp32/model.onnxruntime-cpu.onnx");
    const auto inputs = make_inputs();
    std::vector<tvlt_tensor> tensors;
    for (const auto& input : inputs) {
        auto tensor = tvlt::make<tvlt_tensor>();
        tensor.name = input.name;
        tensor.rank = static_cast<std::uint32_t>(input.shape.size());
        tensor.shape = input.shape.data();
        tensor.data = input.values.data();
        tensor.size = input.values.size() * sizeof(float);
        tensors.push_back(tensor);
    }
    std::vector<double> ours, theirs;
    for (int round = -2; round < rounds; ++round) {  // the first two are warm-up
        double times[2];
        for (int turn = 0; turn < 2; ++turn)  // in changing order
            if ((turn + round) % 2 == 0)
                times[0] = milliseconds([&] { session.run(tensors); });
            else
                times[1] = milliseconds([&] { bare.run(inputs); });
        if (round < 0) continue;
        ours.push_back(times[0]);
        theirs.push_back(times[1]);
    }
    const auto report = [&](const char* name, double time, double bare_time) {
        std::printf("image10, %d rounds, %s: tvlt_run_tensors %.2f ms, ONNX Runtime %.2f ms (%+.2f %%)\n", rounds, name,
                    time, bare_time, 100 * (time / bare_time - 1));
    };
    report("median", median(ours), median(theirs));
    report("min", *std::min_element(ours.begin(), ours.end()), *std::min_element(theirs.begin(), theirs.end()));
}
