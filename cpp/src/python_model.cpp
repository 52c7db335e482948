// libtvlt_deploy_python: tvlt_deploy.inference.c_api in an interpreter inside the host's process.
//
// The interpreter is started by the first session and never finalised: numpy cannot be loaded a second time, and a
// thread that is inside Python during finalisation aborts the process.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <utility>

#include "failure.hpp"
#include "model.hpp"

namespace fs = std::filesystem;

namespace tvlt::internal {
namespace {

/// An owned reference.
class Object {
public:
    Object() = default;
    explicit Object(PyObject* owned) : object_(owned) {}
    Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Object& operator=(Object&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Object() { Py_XDECREF(object_); }

    PyObject* get() const { return object_; }
    PyObject* release() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

private:
    PyObject* object_ = nullptr;
};

class Gil {
public:
    Gil() : state_(PyGILState_Ensure()) {}
    ~Gil() { PyGILState_Release(state_); }
    Gil(const Gil&) = delete;
    Gil& operator=(const Gil&) = delete;

private:
    PyGILState_STATE state_;
};

/// The pending Python exception as a `Failure`. It is gone afterwards, and with it what its traceback kept alive.
Failure python_failure() {
    PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (value != nullptr && trace != nullptr) PyException_SetTraceback(value, trace);
    const Object held_type(type), held_value(value), held_trace(trace);
    const Object module(PyImport_ImportModule("tvlt_deploy.inference.c_api"));
    if (module && value != nullptr) {
        const Object described(PyObject_CallMethod(module.get(), "describe", "O", value));
        int status = 0;
        const char* text = nullptr;
        if (described && PyArg_ParseTuple(described.get(), "is", &status, &text) != 0)
            return {static_cast<tvlt_status>(status), text};
    }
    PyErr_Clear();
    const Object text(value == nullptr ? nullptr : PyObject_Str(value));
    const char* const message = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    PyErr_Clear();
    return {TVLT_ENVIRONMENT, message == nullptr ? "an unknown Python exception" : message,
            "is tvlt-deploy of this version installed in the virtual environment?"};
}

Object checked(PyObject* owned) {
    if (owned == nullptr) throw python_failure();
    return Object(owned);
}

// Starting the interpreter --------------------------------------------------------------------------------------------

/// 3.11 of 3.11.7.
std::string minor_version(const std::string& version) {
    return version.substr(0, version.find('.', version.find('.') + 1));
}

/// Version (as 3.11) that a virtual environment was made for; empty for an interpreter outside of one.
std::string environment_version(const fs::path& python) {
    std::ifstream settings(python.parent_path().parent_path() / "pyvenv.cfg");
    for (std::string line; std::getline(settings, line);) {
        std::istringstream words(line);
        std::string name, equals, value;
        if (words >> name >> equals >> value && (name == "version" || name == "version_info"))
            return minor_version(value);
    }
    return "";
}

void check_environment(const fs::path& python) {
    if (access(python.c_str(), X_OK) != 0)
        throw Failure(TVLT_ENVIRONMENT, "there is no executable " + python.string(),
                      "options.python is bin/python of a virtual environment with tvlt-deploy");
    const auto own = minor_version(Py_GetVersion());
    const auto version = environment_version(python);
    if (!version.empty() && version != own)
        throw Failure(TVLT_ENVIRONMENT,
                      python.string() + " is Python " + version + "; this library was built for Python " + own,
                      "build it with -DPython3_EXECUTABLE set to that file");
}

/// Extension modules look for Python's symbols among the global ones: make them global, even where the host loaded
/// this library with RTLD_LOCAL.
void make_symbols_global() {
    Dl_info found;
    if (dladdr(reinterpret_cast<void*>(&Py_InitializeFromConfig), &found) != 0 && found.dli_fname != nullptr)
        dlopen(found.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

void check_status(const PyStatus& status) {
    if (PyStatus_Exception(status) != 0)
        throw Failure(TVLT_ENVIRONMENT, std::string("Python does not start: ") +
                                            (status.err_msg == nullptr ? "unknown reason" : status.err_msg));
}

/// Initialise an isolated interpreter that takes its packages from the environment of `python`. The host's signal
/// handlers, locale, standard streams and PYTHON* variables stay out of it.
void initialise(const fs::path& python) {
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;  // or the encoding of paths would follow the host's locale
    check_status(Py_PreInitialize(&before));
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    auto status = PyConfig_SetBytesString(&config, &config.program_name, python.c_str());
    if (PyStatus_Exception(status) == 0) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    check_status(status);
}

/// Python takes another environment without a word when it cannot find the one it was told.
void check_prefix(const fs::path& python) {
    PyObject* const prefix = PySys_GetObject("prefix");
    const char* const found = prefix == nullptr ? nullptr : PyUnicode_AsUTF8(prefix);
    const auto wanted = fs::weakly_canonical(python.parent_path().parent_path());
    if (found == nullptr || fs::weakly_canonical(found) != wanted)
        throw Failure(TVLT_ENVIRONMENT,
                      "Python took the environment " + std::string(found == nullptr ? "" : found) + "; wanted " +
                          wanted.string(),
                      "options.python is bin/python of a virtual environment with tvlt-deploy");
}

void start_interpreter(const std::string& option) {
    static std::mutex mutex;
    static bool started = false;
    static std::string failure;  // of the one attempt that a process has
    static fs::path running;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failure.empty()) throw Failure(TVLT_ENVIRONMENT, failure);
    if (!started && Py_IsInitialized() != 0) return;  // the host is a Python program
    const char* const named = std::getenv("TVLT_PYTHON");
    if (option.empty() && named == nullptr && !started)
        throw Failure(TVLT_ENVIRONMENT, "no Python is given",
                      "set options.python or $TVLT_PYTHON to bin/python of a virtual environment with tvlt-deploy");
    const auto python = !option.empty() ? fs::absolute(option) : started ? running : fs::absolute(named);
    if (started) {
        if (python != running)
            throw Failure(TVLT_USAGE,
                          "options.python is " + python.string() + ", but the process runs " + running.string(),
                          "one process has one interpreter");
        return;
    }
    check_environment(python);
    make_symbols_global();
    try {
        initialise(python);
        started = true;
        running = python;
        check_prefix(python);
    } catch (const Failure& error) {
        failure = error.what();
    }
    if (started) PyEval_SaveThread();  // give up the lock that initialisation took
    if (!failure.empty()) throw Failure(TVLT_ENVIRONMENT, failure);
}

// Values --------------------------------------------------------------------------------------------------------------

/// Memory of the caller that Python reads during a call.
class Views {
public:
    /// A new reference to a read-only view.
    PyObject* add(const void* data, std::size_t size) {
        auto* const bytes = const_cast<char*>(static_cast<const char*>(data));  // PyBUF_READ: nobody writes
        views_.push_back(checked(PyMemoryView_FromMemory(bytes, static_cast<Py_ssize_t>(size), PyBUF_READ)));
        Py_INCREF(views_.back().get());
        return views_.back().get();
    }

    /// Take the memory away from Python. Throws when an array on it is still alive.
    void release() {
        for (const auto& view : views_)
            if (!release(view.get())) {
                PyGC_Collect();  // a cycle of references may be all that holds it
                if (!release(view.get()))
                    throw Failure(TVLT_INTERNAL, "Python keeps a view of the caller's memory after the call");
            }
    }

private:
    static bool release(PyObject* view) {
        const Object done(PyObject_CallMethod(view, "release", nullptr));
        if (!done) PyErr_Clear();
        return static_cast<bool>(done);
    }

    std::vector<Object> views_;
};

PyObject* none() {
    Py_INCREF(Py_None);
    return Py_None;
}

Output output_of(PyObject* pair) {
    const char* name = nullptr;
    PyObject* array = nullptr;
    if (PyArg_ParseTuple(pair, "sO", &name, &array) == 0) throw python_failure();
    Py_buffer buffer;
    if (PyObject_GetBuffer(array, &buffer, PyBUF_C_CONTIGUOUS) != 0) throw python_failure();
    Output output{name, {buffer.shape, buffer.shape + buffer.ndim}, {}};
    const auto* const values = static_cast<const float*>(buffer.buf);
    output.values.assign(values, values + static_cast<std::size_t>(buffer.len) / sizeof(float));
    PyBuffer_Release(&buffer);
    return output;
}

std::optional<Answer> answer_of(PyObject* scores) {
    if (scores == Py_None) return std::nullopt;
    PyObject *labels = nullptr, *values = nullptr;
    const char* label = nullptr;
    Answer answer;
    if (PyArg_ParseTuple(scores, "O!O!sd", &PyList_Type, &labels, &PyList_Type, &values, &label, &answer.score) == 0)
        throw python_failure();
    answer.label = label;
    std::vector<std::string> names;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(labels); ++index) {
        const char* const name = PyUnicode_AsUTF8(PyList_GET_ITEM(labels, index));
        if (name == nullptr) throw python_failure();
        names.emplace_back(name);
        answer.scores.push_back(PyFloat_AsDouble(PyList_GET_ITEM(values, index)));
    }
    answer.labels = std::make_shared<Labels>(std::move(names));
    return answer;
}

Rows rows_of(const Object& list) {
    Rows rows;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list.get()); ++index) {
        PyObject *outputs = nullptr, *scores = nullptr;
        if (PyArg_ParseTuple(PyList_GET_ITEM(list.get(), index), "O!O", &PyList_Type, &outputs, &scores) == 0)
            throw python_failure();
        Row row;
        for (Py_ssize_t each = 0; each < PyList_GET_SIZE(outputs); ++each)
            row.outputs.push_back(output_of(PyList_GET_ITEM(outputs, each)));
        row.answer = answer_of(scores);
        rows.push_back(std::move(row));
    }
    return rows;
}

class PythonModel : public Model {
public:
    PythonModel(const std::string& bundle, const Options& options) {
        const Gil gil;
        const auto module = checked(PyImport_ImportModule("tvlt_deploy.inference.c_api"));
        const Object threads(options.threads > 0 ? PyLong_FromLong(options.threads) : none());
        const auto text_or_none = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
        pipeline_ = checked(PyObject_CallMethod(
            module.get(), "EmbeddedPipeline", "ssszOz", bundle.c_str(), options.backend.c_str(),
            options.device.c_str(), text_or_none(options.precision), threads.get(),
            text_or_none(options.trust_engine)));
    }

    ~PythonModel() override {
        if (Py_IsInitialized() == 0) {  // a Python host that is shutting down took the objects with it
            pipeline_.release();
            return;
        }
        const Gil gil;
        const Object closed(PyObject_CallMethod(pipeline_.get(), "close", nullptr));
        if (!closed) PyErr_Clear();
        pipeline_ = Object();
    }

    Rows run(const std::vector<Clip>& clips) override {
        return call("run_clips", clips, [](const Clip& clip, Views& views) {
            const auto row = clip.width * 3;
            const auto frame = (clip.height - 1) * clip.row_stride + row;
            const auto bytes = static_cast<std::size_t>((clip.frame_count - 1) * clip.frame_stride + frame);
            auto* const frames = clip.frame_count > 0 ? views.add(clip.frames, bytes) : none();
            const auto sound = static_cast<std::size_t>(clip.sample_count) * sizeof(float);
            auto* const samples = clip.sample_count > 0 ? views.add(clip.samples, sound) : none();
            return Py_BuildValue("N(LLL)(LL)Ni", frames, static_cast<long long>(clip.frame_count),
                                 static_cast<long long>(clip.height), static_cast<long long>(clip.width),
                                 static_cast<long long>(clip.frame_stride), static_cast<long long>(clip.row_stride),
                                 samples, clip.sampling_rate);
        });
    }

    Rows run(const std::vector<TensorView>& inputs) override {
        return call("run_tensors", inputs, [](const TensorView& tensor, Views& views) {
            const auto shape = checked(PyTuple_New(static_cast<Py_ssize_t>(tensor.shape.size())));
            for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis)
                PyTuple_SET_ITEM(shape.get(), static_cast<Py_ssize_t>(axis),
                                 checked(PyLong_FromLongLong(tensor.shape[axis])).release());
            return Py_BuildValue("sON", tensor.name.c_str(), shape.get(),
                                 views.add(tensor.data, tensor.count * sizeof(float)));
        });
    }

    Rows run(const std::vector<Media>& media) override {
        return call("run_media", media, [](const Media& one, Views&) {
            auto* const duration = one.duration ? PyFloat_FromDouble(*one.duration) : none();
            return Py_BuildValue("szdNO", one.path.c_str(), one.audio ? one.audio->c_str() : nullptr, one.start,
                                 duration, one.strict ? Py_True : Py_False);
        });
    }

private:
    /// Call a method of the pipeline with a list of what `build` makes of each input.
    template <typename Input, typename Build>
    Rows call(const char* method, const std::vector<Input>& inputs, Build build) {
        const Gil gil;
        Views views;
        Rows rows;
        std::exception_ptr failure;
        try {
            const auto list = checked(PyList_New(0));
            for (const auto& input : inputs)
                if (PyList_Append(list.get(), checked(build(input, views)).get()) != 0) throw python_failure();
            rows = rows_of(checked(PyObject_CallMethod(pipeline_.get(), method, "O", list.get())));
        } catch (...) {
            failure = std::current_exception();
        }
        views.release();
        if (failure) std::rethrow_exception(failure);
        return rows;
    }

    Object pipeline_;
};

}  // namespace

std::unique_ptr<Model> open_model(const std::string& bundle, const Options& options) {
    if (!options.provider.empty())
        throw Failure(TVLT_USAGE, "options.provider is for libtvlt_deploy", "choose a backend instead");
    start_interpreter(options.python);
    return std::make_unique<PythonModel>(bundle, options);
}

}  // namespace tvlt::internal
