#include "python.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

namespace fs = std::filesystem;

namespace tvlt::internal {
namespace {

/// The pending exception, which is cleared; null if there is none.
Object take_exception() {
#if PY_VERSION_HEX >= 0x030C0000
    return Object(PyErr_GetRaisedException());
#else
    PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (value != nullptr && trace != nullptr) PyException_SetTraceback(value, trace);
    const Object held_type(type), held_trace(trace);
    return Object(value);
#endif
}

}  // namespace

Failure python_failure() {
    const auto exception = take_exception();
    const Object module(PyImport_ImportModule(python_module));
    if (module && exception) {
        const Object described(PyObject_CallMethod(module.get(), "describe", "O", exception.get()));
        int status = 0;
        const char* text = nullptr;
        if (described && PyArg_ParseTuple(described.get(), "is", &status, &text) != 0)
            return {static_cast<tvlt_status>(status), text};
    }
    PyErr_Clear();
    const Object text(exception ? PyObject_Str(exception.get()) : nullptr);
    const char* const message = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    PyErr_Clear();
    return {TVLT_ENVIRONMENT, message == nullptr ? "an unknown Python exception" : message,
            "is tvlt-deploy of this version installed in the virtual environment?"};
}

Object checked(PyObject* owned) {
    if (owned == nullptr) throw python_failure();
    return Object(owned);
}

namespace {

/// Major and minor version: 3.11 for 3.11.7.
std::string minor_version(const std::string& version) {
    return version.substr(0, version.find('.', version.find('.') + 1));
}

/// Python version (such as 3.11) of a virtual environment; empty for an interpreter outside of one.
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
                      python.string() + " is Python " + version + "; expected Python " + own +
                          ", which this library was built for",
                      "build it with -DPython3_EXECUTABLE set to that file");
}

/// Extension modules look for Python's symbols among the global ones: make them global, even where the host loaded
/// this library with RTLD_LOCAL.
void make_symbols_global() {
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&Py_InitializeFromConfig), &info) != 0 && info.dli_fname != nullptr)
        dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

void check_status(const PyStatus& status) {
    if (PyStatus_Exception(status) != 0)
        throw Failure(TVLT_ENVIRONMENT, std::string("Python cannot be started: ") +
                                            (status.err_msg == nullptr ? "unknown reason" : status.err_msg));
}

/// Initialise an isolated interpreter with the packages of the environment of `python`. The host's signal handlers,
/// locale and standard streams stay as they are, and its PYTHON* variables are ignored.
void initialize(const fs::path& python) {
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;  // else the encoding of paths depends on the host's locale
    check_status(Py_PreInitialize(&before));
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    auto status = PyConfig_SetBytesString(&config, &config.program_name, python.c_str());
    if (PyStatus_Exception(status) == 0) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    check_status(status);
}

/// Python silently uses another environment when it cannot use the one that was set.
void check_prefix(const fs::path& python) {
    PyObject* const prefix = PySys_GetObject("prefix");
    const char* const actual = prefix == nullptr ? nullptr : PyUnicode_AsUTF8(prefix);
    const auto expected = fs::weakly_canonical(python.parent_path().parent_path());
    if (actual == nullptr || fs::weakly_canonical(actual) != expected)
        throw Failure(TVLT_ENVIRONMENT,
                      "Python uses the environment " + std::string(actual == nullptr ? "" : actual) + "; expected " +
                          expected.string(),
                      "options.python is bin/python of a virtual environment with tvlt-deploy");
}

}  // namespace

void start_interpreter(const std::string& option) {
    static std::mutex mutex;
    static bool started = false;
    static std::string failure;  // of the only attempt of the process
    static fs::path running;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failure.empty()) throw Failure(TVLT_ENVIRONMENT, failure);
    if (!started && Py_IsInitialized() != 0) return;  // the host is a Python program
    const char* const named = std::getenv("TVLT_PYTHON");
    if (option.empty() && named == nullptr && !started)
        throw Failure(TVLT_ENVIRONMENT, "no Python environment is set",
                      "set options.python or $TVLT_PYTHON to bin/python of a virtual environment with tvlt-deploy");
    const auto python = !option.empty() ? fs::absolute(option) : started ? running : fs::absolute(named);
    if (started) {
        if (python != running)
            throw Failure(TVLT_USAGE, "options.python is " + python.string() + "; expected " + running.string(),
                          "one process has one interpreter");
        return;
    }
    check_environment(python);
    make_symbols_global();
    try {
        initialize(python);
        started = true;
        running = python;
        check_prefix(python);
    } catch (const Failure& error) {
        failure = error.what();
    }
    if (started) PyEval_SaveThread();  // release the lock, which initialisation acquired
    if (!failure.empty()) throw Failure(TVLT_ENVIRONMENT, failure);
}

}  // namespace tvlt::internal
