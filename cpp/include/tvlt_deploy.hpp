// tvlt_deploy.hpp - tvlt_deploy.h for C++17: handles that close themselves, errors as exceptions. Header only.
#ifndef TVLT_DEPLOY_HPP
#define TVLT_DEPLOY_HPP

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tvlt_deploy.h"

namespace tvlt {

/// A call that failed: its text and its status.
class Error : public std::runtime_error {
public:
    Error(tvlt_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
    tvlt_status status() const noexcept { return status_; }

private:
    tvlt_status status_;
};

/// A struct of the C interface: its size set, every other field zero.
template <typename T>
T make() {
    T value{};
    value.struct_size = sizeof(T);
    return value;
}

inline void check(tvlt_status status) {
    if (status != TVLT_OK) throw Error(status, tvlt_last_error());
}

/// Answers. Views last as long as the result.
class Result {
public:
    explicit Result(tvlt_result* handle) : handle_(handle) {}

    /// An output of one clip, by default the task's first.
    tvlt_tensor output(std::size_t clip = 0, const char* name = nullptr) const {
        auto view = make<tvlt_tensor>();
        check(tvlt_result_get(handle_.get(), clip, name, &view));
        return view;
    }

    /// Labels and scores of one clip.
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

/// A bundle ready to answer. `run` may be called from several threads at a time.
class Session {
public:
    explicit Session(const std::string& bundle, const tvlt_options& options = make<tvlt_options>()) {
        if (tvlt_abi_version() != TVLT_ABI_VERSION)
            throw Error(TVLT_ENVIRONMENT, "the tvlt_deploy library found has ABI version " +
                                              std::to_string(tvlt_abi_version()) + "; the program was built for " +
                                              std::to_string(TVLT_ABI_VERSION));
        tvlt_session* handle = nullptr;
        check(tvlt_open(bundle.c_str(), &options, &handle));
        handle_.reset(handle);
    }

    Result run(const tvlt_clip& clip) const { return take(tvlt_run, &clip, 1); }
    Result run(const std::vector<tvlt_clip>& clips) const { return take(tvlt_run, clips.data(), clips.size()); }
    Result run(const std::vector<tvlt_tensor>& inputs) const {
        return take(tvlt_run_tensors, inputs.data(), inputs.size());
    }
    Result run(const tvlt_media& media) const { return take(tvlt_run_media, &media, 1); }
    Result run(const std::vector<tvlt_media>& media) const { return take(tvlt_run_media, media.data(), media.size()); }

private:
    template <typename Function, typename Input>
    Result take(Function function, const Input* inputs, std::size_t count) const {
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
