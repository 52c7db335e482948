/**
 * @file tvlt_deploy.hpp
 * tvlt_deploy.h for C++17: handles that close themselves, errors as exceptions. Header only.
 */
#ifndef TVLT_DEPLOY_HPP
#define TVLT_DEPLOY_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tvlt_deploy.h"

namespace tvlt {

/** A failed call: its message and its status. */
class Error : public std::runtime_error {
public:
    Error(tvlt_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
    tvlt_status status() const noexcept { return status_; }

private:
    tvlt_status status_;
};

/** A struct of the C interface with its size set and every other field zero. */
template <typename T>
T make() {
    T value{};
    value.struct_size = sizeof(T);
    return value;
}

/** Throws Error unless the status is TVLT_OK. */
inline void check(tvlt_status status) {
    if (status != TVLT_OK) throw Error(status, tvlt_last_error());
}

/** Release of the library, such as "0.2.0". */
inline std::string version() { return tvlt_version(); }

/** Name, shape and type of an input or output; -1: the size may differ from call to call. */
struct TensorInfo {
    std::string name;
    std::vector<std::int64_t> shape;
    tvlt_dtype dtype = TVLT_FLOAT32;
};

/** Outputs of one call. Views are valid until the result is destroyed. */
class Result {
public:
    explicit Result(tvlt_result* handle) : handle_(handle) {}

    /**
     * One output of one clip.
     *
     * @param clip  index of the clip
     * @param name  name of the output; nullptr for the first one
     * @return its shape, without the batch axis, and values
     */
    tvlt_tensor output(std::size_t clip = 0, const char* name = nullptr) const {
        auto view = make<tvlt_tensor>();
        check(tvlt_result_get(handle_.get(), clip, name, &view));
        return view;
    }

    /** Label and scores of one clip. Throws Error for tasks without labels. */
    tvlt_answer answer(std::size_t clip = 0) const {
        auto view = make<tvlt_answer>();
        check(tvlt_result_answer(handle_.get(), clip, &view));
        return view;
    }

private:
    struct Free {
        void operator()(tvlt_result* handle) const { tvlt_result_free(handle); }
    };
    std::unique_ptr<tvlt_result, Free> handle_;
};

/** An open bundle. Several threads may call the same session at the same time. */
class Session {
public:
    /**
     * Open a bundle.
     *
     * @param bundle   directory of the bundle
     * @param options  how to open it
     * @throws Error   as tvlt_open, and for a library of another ABI version
     */
    explicit Session(const std::string& bundle, const tvlt_options& options = make<tvlt_options>()) {
        if (tvlt_abi_version() != TVLT_ABI_VERSION)
            throw Error(TVLT_ENVIRONMENT, "the tvlt_deploy library has ABI version " +
                                              std::to_string(tvlt_abi_version()) + "; expected " +
                                              std::to_string(TVLT_ABI_VERSION) + ", that of the program");
        tvlt_session* handle = nullptr;
        check(tvlt_open(bundle.c_str(), &options, &handle));
        handle_.reset(handle);
    }

    /** Inputs, in the order of the graph. */
    std::vector<TensorInfo> inputs() const { return list(tvlt_session_input_count, tvlt_session_input); }

    /** Outputs of one clip, without the batch axis. */
    std::vector<TensorInfo> outputs() const { return list(tvlt_session_output_count, tvlt_session_output); }

    /** Labels in the order of tvlt_answer.labels; none for tasks without labels. */
    std::vector<std::string> labels() const {
        std::vector<std::string> names;
        const auto count = tvlt_session_label_count(handle_.get());
        for (std::size_t index = 0; index < count; ++index)
            names.emplace_back(tvlt_session_label(handle_.get(), index));
        return names;
    }

    /** Run raw clips, prepared tensors or media files. Throws Error for input that is refused. */
    Result run(const tvlt_clip& clip) const { return call(tvlt_run, &clip, 1); }
    Result run(const std::vector<tvlt_clip>& clips) const { return call(tvlt_run, clips.data(), clips.size()); }
    Result run(const std::vector<tvlt_tensor>& inputs) const {
        return call(tvlt_run_tensors, inputs.data(), inputs.size());
    }
    Result run(const tvlt_media& media) const { return call(tvlt_run_media, &media, 1); }
    Result run(const std::vector<tvlt_media>& media) const { return call(tvlt_run_media, media.data(), media.size()); }

private:
    template <typename Count, typename Get>
    std::vector<TensorInfo> list(Count count, Get get) const {
        std::vector<TensorInfo> infos;
        for (std::size_t index = 0; index < count(handle_.get()); ++index) {
            auto info = make<tvlt_tensor_info>();
            check(get(handle_.get(), index, &info));
            infos.push_back({info.name, {info.shape, info.shape + info.rank}, static_cast<tvlt_dtype>(info.dtype)});
        }
        return infos;
    }

    template <typename Function, typename Input>
    Result call(Function function, const Input* inputs, std::size_t count) const {
        tvlt_result* result = nullptr;
        check(function(handle_.get(), inputs, count, &result));
        return Result(result);
    }

    struct Close {
        void operator()(tvlt_session* handle) const { tvlt_close(handle); }
    };
    std::unique_ptr<tvlt_session, Close> handle_;
};

}  // namespace tvlt

#endif
