// The embedded interpreter, and Python objects in C++.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string>
#include <utility>

#include "failure.hpp"

namespace tvlt::internal {

/// The Python module behind the C functions.
constexpr const char* python_module = "tvlt_deploy.inference.c_api";

/// An owned reference; it may be null.
class Object {
public:
    Object() = default;
    explicit Object(PyObject* owned) : object_(owned) {}
    Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Object& operator=(Object&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;
    ~Object() { Py_XDECREF(object_); }

    PyObject* get() const { return object_; }
    PyObject* release() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

private:
    PyObject* object_ = nullptr;
};

/// Python's lock, held by this thread.
class Gil {
public:
    Gil() : state_(PyGILState_Ensure()) {}
    ~Gil() { PyGILState_Release(state_); }
    Gil(const Gil&) = delete;
    Gil& operator=(const Gil&) = delete;

private:
    PyGILState_STATE state_;
};

/// The pending Python exception as a `Failure`. It is cleared, and with it everything that its traceback refers to.
Failure python_failure();

/// An owned reference. Throws the pending exception if it is null.
Object checked(PyObject* owned);

/// Start the interpreter of the process, once. It is never finalised: numpy cannot be loaded a second time, and a
/// thread inside Python aborts the process during finalisation. python: bin/python of a virtual environment; empty for
/// $TVLT_PYTHON, or the interpreter that runs already. Throws `Failure` (TVLT_ENVIRONMENT, TVLT_USAGE).
void start_interpreter(const std::string& python);

}  // namespace tvlt::internal
