// libtvlt_deploy_python: the Python pipeline in an interpreter inside the host's process.
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model.hpp"
#include "python.hpp"

namespace tvlt::internal {
namespace {

/// The caller's memory that Python reads during a call.
class Views {
public:
    /// A new reference to a read-only view.
    PyObject* add(const void* data, std::size_t size) {
        auto* const bytes = const_cast<char*>(static_cast<const char*>(data));  // PyBUF_READ: nobody writes
        views_.push_back(checked(PyMemoryView_FromMemory(bytes, static_cast<Py_ssize_t>(size), PyBUF_READ)));
        Py_INCREF(views_.back().get());
        return views_.back().get();
    }

    /// End Python's access to the memory. Throws if an array on it still exists.
    void release() {
        for (const auto& view : views_)
            if (!release(view.get())) {
                PyGC_Collect();  // only a reference cycle may refer to it
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

std::vector<std::string> texts_of(PyObject* list) {
    std::vector<std::string> texts;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); ++index) {
        const char* const text = PyUnicode_AsUTF8(PyList_GET_ITEM(list, index));
        if (text == nullptr) throw python_failure();
        texts.emplace_back(text);
    }
    return texts;
}

std::optional<Answer> answer_of(PyObject* scores) {
    if (scores == Py_None) return std::nullopt;
    PyObject *labels = nullptr, *values = nullptr;
    const char* label = nullptr;
    Answer answer;
    if (PyArg_ParseTuple(scores, "O!O!sd", &PyList_Type, &labels, &PyList_Type, &values, &label, &answer.score) == 0)
        throw python_failure();
    answer.label = label;
    answer.labels = std::make_shared<Labels>(texts_of(labels));
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(values); ++index)
        answer.scores.push_back(PyFloat_AsDouble(PyList_GET_ITEM(values, index)));
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

/// Inputs or outputs from a list of (name, shape, dtype).
std::vector<TensorInfo> infos_of(PyObject* list) {
    std::vector<TensorInfo> infos;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); ++index) {
        const char *name = nullptr, *dtype = nullptr;
        PyObject* shape = nullptr;
        if (PyArg_ParseTuple(PyList_GET_ITEM(list, index), "sO!s", &name, &PyTuple_Type, &shape, &dtype) == 0)
            throw python_failure();
        TensorInfo info{name, {}, std::string(dtype) == "uint8" ? TVLT_UINT8 : TVLT_FLOAT32};
        for (Py_ssize_t axis = 0; axis < PyTuple_GET_SIZE(shape); ++axis)
            info.shape.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(shape, axis)));
        infos.push_back(std::move(info));
    }
    if (PyErr_Occurred() != nullptr) throw python_failure();
    return infos;
}

Signature signature_of(const Object& pipeline, tvlt_input input) {
    const auto parts =
        checked(PyObject_CallMethod(pipeline.get(), "signature", "O", input == TVLT_CLIPS ? Py_True : Py_False));
    PyObject *inputs = nullptr, *outputs = nullptr, *labels = nullptr;
    auto* const list = &PyList_Type;
    if (PyArg_ParseTuple(parts.get(), "O!O!O!", list, &inputs, list, &outputs, list, &labels) == 0)
        throw python_failure();
    return {infos_of(inputs), infos_of(outputs), std::make_shared<Labels>(texts_of(labels))};
}

class PythonModel : public Model {
public:
    PythonModel(const std::string& bundle, const Options& options) {
        const Gil gil;
        const auto module = checked(PyImport_ImportModule(python_module));
        const Object threads(options.threads > 0 ? PyLong_FromLong(options.threads) : none());
        const auto text_or_none = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
        auto pipeline = checked(PyObject_CallMethod(
            module.get(), "EmbeddedPipeline", "ssszOz", bundle.c_str(), options.backend.c_str(), options.device.c_str(),
            text_or_none(options.precision), threads.get(), text_or_none(options.trust_engine)));
        signature_ = signature_of(pipeline, options.input);
        pipeline_ = std::move(pipeline);
    }

    ~PythonModel() override {
        if (Py_IsInitialized() == 0) {  // a Python host is shutting down and has freed the objects
            pipeline_.release();
            return;
        }
        const Gil gil;
        const Object closed(PyObject_CallMethod(pipeline_.get(), "close", nullptr));
        if (!closed) PyErr_Clear();
        pipeline_ = Object();
    }

    const Signature& signature() const override { return signature_; }

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
    /// Call a method of the pipeline with a list of the inputs as `build` converts them.
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
    Signature signature_;
};

}  // namespace

std::unique_ptr<Model> open_model(const std::string& bundle, const Options& options) {
    if (!options.provider.empty())
        throw Failure(TVLT_USAGE, "options.provider is for libtvlt_deploy only", "set options.backend instead");
    start_interpreter(options.python);
    return std::make_unique<PythonModel>(bundle, options);
}

}  // namespace tvlt::internal
