// Arguments of the C functions, checked and in the library's own types.
//
// Every function throws `Failure` (TVLT_USAGE) that names the argument, its value and what was expected.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "failure.hpp"
#include "model.hpp"
#include "structs.hpp"

namespace tvlt::internal {

template <>
inline constexpr std::size_t first_size<tvlt_options> = offsetof(tvlt_options, trust_engine) + sizeof(const char*);
template <>
inline constexpr std::size_t first_size<tvlt_clip> = offsetof(tvlt_clip, sample_count) + sizeof(std::int64_t);
template <>
inline constexpr std::size_t first_size<tvlt_tensor> = offsetof(tvlt_tensor, size) + sizeof(std::size_t);
template <>
inline constexpr std::size_t first_size<tvlt_media> = offsetof(tvlt_media, duration) + sizeof(double);
template <>
inline constexpr std::size_t first_size<tvlt_answer> = offsetof(tvlt_answer, scores) + sizeof(const double*);
template <>
inline constexpr std::size_t first_size<tvlt_tensor_info> = offsetof(tvlt_tensor_info, reserved) + sizeof(std::int32_t);

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "");

template <typename T>
T* not_null(T* pointer, const std::string& name) {
    if (pointer == nullptr) refuse(name + " is NULL");
    return pointer;
}

/// options: may be NULL.
Options options_of(const tvlt_options* options);
std::vector<Clip> clips_of(const tvlt_clip* clips, std::size_t count);
std::vector<TensorView> tensors_of(const tvlt_tensor* tensors, std::size_t count);
std::vector<Media> media_of(const tvlt_media* media, std::size_t count);

}  // namespace tvlt::internal
