// The C functions: every exception becomes a status and a message.
#include "tvlt_deploy.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "failure.hpp"
#include "model.hpp"
#include "structs.hpp"

using namespace tvlt::internal;

struct tvlt_session {
    std::unique_ptr<Model> model;
};

struct tvlt_result {
    Rows rows;
};

namespace {

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
        return fail(TVLT_ENVIRONMENT, "out of memory");
    } catch (const std::exception& error) {
        return fail(TVLT_INTERNAL, error.what());
    } catch (...) {
        return fail(TVLT_INTERNAL, "an unknown exception");
    }
}

/// Read the inputs with `parse` and run the session on them.
template <typename Input, typename Parse>
tvlt_status run(tvlt_session* session, const Input* inputs, std::size_t count, tvlt_result** result, const char* name,
                Parse parse) {
    if (result != nullptr) *result = nullptr;
    return guarded([&] {
        not_null(result, "result");
        not_null(session, "session");
        if (count == 0) refuse("count is 0; expected at least 1");
        not_null(inputs, name);
        auto outputs = std::make_unique<tvlt_result>();
        outputs->rows = session->model->run(parse(inputs, count));
        *result = outputs.release();
    });
}

const Row& row_of(const tvlt_result* result, std::size_t clip) {
    const auto& rows = not_null(result, "result")->rows;
    if (clip >= rows.size())
        refuse("clip is " + std::to_string(clip) + "; expected less than " + std::to_string(rows.size()) +
               ", the number of clips in the result");
    return rows[clip];
}

const Signature& signature_of(const tvlt_session* session) { return not_null(session, "session")->model->signature(); }

/// One part of a signature: its size. 0 with a message for a null pointer.
template <typename Part>
std::size_t count_of(const tvlt_session* session, Part part) {
    std::size_t count = 0;
    guarded([&] { count = part(signature_of(session)).size(); });
    return count;
}

/// Element `index` of one part of a signature.
template <typename Values>
const auto& element_of(const Values& values, std::size_t index, const char* part) {
    if (index >= values.size())
        refuse("index is " + std::to_string(index) + "; expected less than " + std::to_string(values.size()) +
               ", the number of " + part);
    return values[index];
}

void fill_info(const TensorInfo& from, tvlt_tensor_info* info) {
    tvlt_tensor_info view{};
    view.rank = static_cast<std::uint32_t>(from.shape.size());
    view.name = from.name.c_str();
    view.shape = from.shape.data();
    view.dtype = from.dtype;
    fill_struct(info, "info", view);
}

const auto inputs_in = [](const Signature& signature) -> const auto& { return signature.inputs; };
const auto outputs_in = [](const Signature& signature) -> const auto& { return signature.outputs; };
const auto labels_in = [](const Signature& signature) -> const auto& { return *signature.labels; };

}  // namespace

extern "C" {

uint32_t tvlt_abi_version(void) { return TVLT_ABI_VERSION; }

const char* tvlt_version(void) { return TVLT_VERSION; }

const char* tvlt_last_error(void) { return last_error.c_str(); }

tvlt_status tvlt_open(const char* path, const tvlt_options* options, tvlt_session** session) {
    if (session != nullptr) *session = nullptr;
    return guarded([&] {
        not_null(session, "session");
        not_null(path, "path");
        auto opened = std::make_unique<tvlt_session>();
        opened->model = open_model(path, options_of(options));
        *session = opened.release();
    });
}

size_t tvlt_session_input_count(const tvlt_session* session) { return count_of(session, inputs_in); }

tvlt_status tvlt_session_input(const tvlt_session* session, size_t index, tvlt_tensor_info* info) {
    return guarded([&] { fill_info(element_of(signature_of(session).inputs, index, "inputs"), info); });
}

size_t tvlt_session_output_count(const tvlt_session* session) { return count_of(session, outputs_in); }

tvlt_status tvlt_session_output(const tvlt_session* session, size_t index, tvlt_tensor_info* info) {
    return guarded([&] { fill_info(element_of(signature_of(session).outputs, index, "outputs"), info); });
}

size_t tvlt_session_label_count(const tvlt_session* session) { return count_of(session, labels_in); }

const char* tvlt_session_label(const tvlt_session* session, size_t index) {
    const char* label = nullptr;
    guarded([&] { label = element_of(*signature_of(session).labels, index, "labels").c_str(); });
    return label;
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
        std::string known;
        for (const auto& candidate : row_of(result, clip).outputs) {
            if (name == nullptr || candidate.name == name) {
                tvlt_tensor view{};
                view.name = candidate.name.c_str();
                view.rank = static_cast<uint32_t>(candidate.shape.size());
                view.shape = candidate.shape.data();
                view.data = candidate.values.data();
                view.size = candidate.values.size() * sizeof(float);
                fill_struct(output, "output", view);
                return;
            }
            known += (known.empty() ? "" : ", ") + candidate.name;
        }
        refuse("there is no output '" + std::string(name == nullptr ? "" : name) + "'; expected one of " + known);
    });
}

tvlt_status tvlt_result_answer(const tvlt_result* result, size_t clip, tvlt_answer* answer) {
    return guarded([&] {
        const auto& from = row_of(result, clip).answer;
        if (!from) refuse("the bundle's task returns arrays, not labels", "read them with tvlt_result_get");
        tvlt_answer view{};
        view.label_count = static_cast<uint32_t>(from->labels->size());
        view.label = from->label.c_str();
        view.score = from->score;
        view.labels = from->labels->pointers();
        view.scores = from->scores.data();
        fill_struct(answer, "answer", view);
    });
}

void tvlt_result_free(tvlt_result* result) { delete result; }

void tvlt_close(tvlt_session* session) { delete session; }

}  // extern "C"
