// The C functions: arguments checked for their form, and every exception turned into a status and a text.
#include "tvlt_deploy.h"

#include <cmath>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "failure.hpp"
#include "model.hpp"

using namespace tvlt::internal;

struct tvlt_session {
    std::unique_ptr<Model> model;
};

struct tvlt_result {
    Rows rows;
};

namespace {

constexpr std::int32_t most_threads = 1024;

thread_local std::string last_error;

tvlt_status fail(tvlt_status status, const char* text) {
    try {
        last_error = text;
    } catch (const std::bad_alloc&) {
        last_error.clear();
    }
    return status;
}

template <typename Body>
tvlt_status guarded(Body body) {
    try {
        last_error.clear();
        body();
        return TVLT_OK;
    } catch (const Failure& failure) {
        return fail(failure.status, failure.what());
    } catch (const std::filesystem::filesystem_error& error) {
        return fail(TVLT_FILE, error.what());
    } catch (const std::bad_alloc&) {
        return fail(TVLT_ENVIRONMENT, "the memory is exhausted");
    } catch (const std::exception& error) {
        return fail(TVLT_INTERNAL, error.what());
    } catch (...) {
        return fail(TVLT_INTERNAL, "an unknown exception");
    }
}

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
    throw Failure(TVLT_USAGE, message, hint);
}

template <typename T>
T* given(T* pointer, const char* name) {
    if (pointer == nullptr) refuse(std::string(name) + " is NULL");
    return pointer;
}

/// A caller's struct, refused when it has another size than this library's.
template <typename T>
T& sized(T* value, const std::string& name) {
    given(value, name.c_str());
    if (value->struct_size != sizeof(T))
        refuse(name + ".struct_size is " + std::to_string(value->struct_size) + "; wanted " + std::to_string(sizeof(T)),
               "set it to sizeof the struct; if it is, program and library are of different versions");
    return *value;
}

std::string element(const char* name, std::size_t index) {
    return std::string(name) + "[" + std::to_string(index) + "]";
}

/// a * b of sizes that are not negative.
std::int64_t product(std::int64_t a, std::int64_t b, const std::string& name) {
    std::int64_t result = 0;
    if (__builtin_mul_overflow(a, b, &result)) refuse(name + " is larger than any memory");
    return result;
}

std::int64_t sum(std::int64_t a, std::int64_t b, const std::string& name) {
    std::int64_t result = 0;
    if (__builtin_add_overflow(a, b, &result)) refuse(name + " is larger than any memory");
    return result;
}

Options options_of(const tvlt_options* given_options) {
    Options options;
    if (given_options == nullptr) return options;
    const auto& from = sized(given_options, "options");
    if (from.input != TVLT_CLIPS && from.input != TVLT_TENSORS)
        refuse("options.input is " + std::to_string(from.input) + "; wanted TVLT_CLIPS or TVLT_TENSORS");
    if (from.threads < 0 || from.threads > most_threads)
        refuse("options.threads is " + std::to_string(from.threads) + "; wanted 0 to " + std::to_string(most_threads));
    options.input = static_cast<tvlt_input>(from.input);
    options.threads = from.threads;
    for (auto [to, text] : {std::pair{&options.backend, from.backend}, {&options.device, from.device},
                            {&options.provider, from.provider}, {&options.precision, from.precision},
                            {&options.onnxruntime, from.onnxruntime}, {&options.python, from.python},
                            {&options.trust_engine, from.trust_engine}})
        if (text != nullptr) *to = text;
    return options;
}

void put_frames(const tvlt_clip& from, const std::string& name, Clip& clip) {
    const auto about = [&](const char* field, std::int64_t value) {
        return name + "." + field + " is " + std::to_string(value);
    };
    if (from.frames == nullptr) refuse(name + ".frames is NULL, but " + about("frame_count", from.frame_count));
    if (from.frame_count < 0) refuse(about("frame_count", from.frame_count) + "; wanted 0 or more");
    if (from.height < 1) refuse(about("height", from.height) + "; wanted 1 or more");
    if (from.width < 1) refuse(about("width", from.width) + "; wanted 1 or more");
    const auto row = product(from.width, 3, name);
    const auto row_stride = from.row_stride == 0 ? row : from.row_stride;
    if (row_stride < row)
        refuse(about("row_stride", row_stride) + "; wanted at least " + std::to_string(row) + " for a row of pixels");
    const auto frame = sum(product(from.height - 1, row_stride, name), row, name);
    const auto frame_stride = from.frame_stride == 0 ? product(from.height, row_stride, name) : from.frame_stride;
    if (frame_stride < frame)
        refuse(about("frame_stride", frame_stride) + "; wanted at least " + std::to_string(frame) + " for a frame");
    const auto needed = sum(product(from.frame_count - 1, frame_stride, name), frame, name);
    if (static_cast<std::uint64_t>(needed) > from.frames_size)
        refuse(name + ".frames_size is " + std::to_string(from.frames_size) + "; its frames take " +
               std::to_string(needed) + " bytes");
    clip.frames = from.frames;
    clip.frame_count = from.frame_count;
    clip.height = from.height;
    clip.width = from.width;
    clip.frame_stride = frame_stride;
    clip.row_stride = row_stride;
}

std::vector<Clip> clips_of(const tvlt_clip* clips, std::size_t count) {
    std::vector<Clip> read;
    for (std::size_t index = 0; index < count; ++index) {
        const auto name = element("clips", index);
        const auto& from = sized(clips + index, name);
        Clip clip;
        if (from.frame_count != 0) put_frames(from, name, clip);
        if (from.sample_count != 0) {
            if (from.sample_count < 0)
                refuse(name + ".sample_count is " + std::to_string(from.sample_count) + "; wanted 0 or more");
            if (from.samples == nullptr) refuse(name + ".samples is NULL, but its sample_count is not 0");
            clip.samples = from.samples;
            clip.sample_count = from.sample_count;
            clip.sampling_rate = from.sampling_rate;
        }
        if (clip.frame_count == 0 && clip.sample_count == 0)
            refuse(name + " has neither frames nor samples", "leave it out");
        read.push_back(clip);
    }
    return read;
}

std::vector<TensorView> tensors_of(const tvlt_tensor* tensors, std::size_t count) {
    constexpr std::uint32_t most_axes = 8;
    std::vector<TensorView> read;
    for (std::size_t index = 0; index < count; ++index) {
        auto name = element("inputs", index);
        const auto& from = sized(tensors + index, name);
        TensorView tensor;
        tensor.name = given(from.name, (name + ".name").c_str());
        name += " (" + tensor.name + ")";
        for (const auto& other : read)
            if (other.name == tensor.name) refuse(name + " is given twice");
        if (from.rank > most_axes)
            refuse(name + ".rank is " + std::to_string(from.rank) + "; wanted at most " + std::to_string(most_axes));
        if (from.rank > 0) given(from.shape, (name + ".shape").c_str());
        std::int64_t values = 1;
        for (std::uint32_t axis = 0; axis < from.rank; ++axis) {
            if (from.shape[axis] < 1)
                refuse(name + ".shape holds " + std::to_string(from.shape[axis]) + "; wanted sizes of at least 1");
            values = product(values, from.shape[axis], name);
            tensor.shape.push_back(from.shape[axis]);
        }
        const auto needed = product(values, sizeof(float), name);
        if (static_cast<std::uint64_t>(needed) > from.size)
            refuse(name + ".size is " + std::to_string(from.size) + "; its shape takes " + std::to_string(needed) +
                   " bytes");
        tensor.data = given(from.data, (name + ".data").c_str());
        tensor.count = static_cast<std::size_t>(values);
        read.push_back(std::move(tensor));
    }
    return read;
}

std::vector<Media> media_of(const tvlt_media* media, std::size_t count) {
    std::vector<Media> read;
    for (std::size_t index = 0; index < count; ++index) {
        const auto name = element("media", index);
        const auto& from = sized(media + index, name);
        Media one;
        one.path = given(from.path, (name + ".path").c_str());
        if (from.audio != nullptr) one.audio = from.audio;
        if (!std::isfinite(from.start) || from.start < 0) refuse(name + ".start is not a time within a file");
        if (!std::isfinite(from.duration) || from.duration < 0) refuse(name + ".duration is not a length of time");
        one.start = from.start;
        if (from.duration > 0) one.duration = from.duration;
        one.strict = from.strict != 0;
        read.push_back(std::move(one));
    }
    return read;
}

/// Read the inputs with `parse` and run the session on them.
template <typename Input, typename Parse>
tvlt_status run(tvlt_session* session, const Input* inputs, std::size_t count, tvlt_result** result, const char* name,
                Parse parse) {
    if (result != nullptr) *result = nullptr;
    return guarded([&] {
        given(result, "result");
        given(session, "session");
        if (count == 0) refuse("count is 0; wanted at least 1");
        given(inputs, name);
        auto answered = std::make_unique<tvlt_result>();
        answered->rows = session->model->run(parse(inputs, count));
        *result = answered.release();
    });
}

const Row& row_of(const tvlt_result* result, std::size_t clip) {
    const auto& rows = given(result, "result")->rows;
    if (clip >= rows.size())
        refuse("clip is " + std::to_string(clip) + "; the result has " + std::to_string(rows.size()) + " clips");
    return rows[clip];
}

}  // namespace

extern "C" {

uint32_t tvlt_abi_version(void) { return TVLT_ABI_VERSION; }

const char* tvlt_last_error(void) { return last_error.c_str(); }

tvlt_status tvlt_open(const char* path, const tvlt_options* options, tvlt_session** session) {
    if (session != nullptr) *session = nullptr;
    return guarded([&] {
        given(session, "session");
        given(path, "path");
        auto opened = std::make_unique<tvlt_session>();
        opened->model = open_model(path, options_of(options));
        *session = opened.release();
    });
}

tvlt_status tvlt_run(tvlt_session* session, const tvlt_clip* clips, size_t count, tvlt_result** result) {
    return run(session, clips, count, result, "clips", clips_of);
}

tvlt_status tvlt_run_tensors(tvlt_session* session, const tvlt_tensor* inputs, size_t count, tvlt_result** result) {
    return run(session, inputs, count, result, "inputs", tensors_of);
}

tvlt_status tvlt_run_media(tvlt_session* session, const tvlt_media* media, size_t count, tvlt_result** result) {
    return run(session, media, count, result, "media", media_of);
}

tvlt_status tvlt_result_get(const tvlt_result* result, size_t clip, const char* name, tvlt_tensor* output) {
    return guarded([&] {
        auto& view = sized(output, "output");
        const auto& outputs = row_of(result, clip).outputs;
        std::string known;
        for (const auto& found : outputs) {
            if (name == nullptr || found.name == name) {
                view.name = found.name.c_str();
                view.rank = static_cast<uint32_t>(found.shape.size());
                view.shape = found.shape.data();
                view.data = found.values.data();
                view.size = found.values.size() * sizeof(float);
                return;
            }
            known += (known.empty() ? "" : ", ") + found.name;
        }
        refuse("there is no output '" + std::string(name == nullptr ? "" : name) + "'; wanted one of " + known);
    });
}

tvlt_status tvlt_result_answer(const tvlt_result* result, size_t clip, tvlt_answer* answer) {
    return guarded([&] {
        auto& view = sized(answer, "answer");
        const auto& found = row_of(result, clip).answer;
        if (!found) refuse("the bundle's task gives arrays, not labels", "read them with tvlt_result_get");
        view.label_count = static_cast<uint32_t>(found->labels->size());
        view.label = found->label.c_str();
        view.score = found->score;
        view.labels = found->labels->pointers();
        view.scores = found->scores.data();
    });
}

void tvlt_result_free(tvlt_result* result) { delete result; }

void tvlt_close(tvlt_session* session) { delete session; }

}  // extern "C"
