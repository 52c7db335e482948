// Structs of callers that were built with an earlier or a later header.
//
// The caller's struct_size states how many bytes its struct has. Structs only grow at the end, so the part that both
// sides have is always the beginning.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "failure.hpp"

namespace tvlt::internal {

/// Size of a struct in the first release that had it: the smallest that is accepted. Specialize it for every struct.
template <typename T>
constexpr std::size_t first_size = 0;

/// Larger sizes are refused unread: they come from memory that was not initialized.
constexpr std::size_t max_struct_size = 4096;

/// struct_size of a caller's struct. Throws `Failure` (TVLT_USAGE) for NULL and for a size that no release has.
template <typename T>
std::size_t struct_size(const void* from, const std::string& name) {
    static_assert(first_size<T> >= sizeof(std::uint32_t) && first_size<T> <= sizeof(T) && sizeof(T) <= max_struct_size);
    if (from == nullptr) throw Failure(TVLT_USAGE, name + " is NULL");
    std::uint32_t size = 0;  // the first field of every struct
    std::memcpy(&size, from, sizeof size);
    if (size < first_size<T> || size > max_struct_size || size % alignof(T) != 0)
        throw Failure(TVLT_USAGE,
                      name + ".struct_size is " + std::to_string(size) + "; expected " + std::to_string(sizeof(T)),
                      "set it to sizeof the struct");
    return size;
}

/// A caller's struct in this library's layout: fields that the caller's does not have are zero. Throws `Failure`
/// (TVLT_USAGE) as `struct_size`, and for a larger struct that uses a field which this library does not have.
template <typename T>
T read_struct(const void* from, const std::string& name) {
    const auto size = struct_size<T>(from, name);
    const auto* const bytes = static_cast<const unsigned char*>(from);
    if (size > sizeof(T) && std::any_of(bytes + sizeof(T), bytes + size, [](auto byte) { return byte != 0; }))
        throw Failure(TVLT_USAGE,
                      name + " sets a field that this release (" TVLT_VERSION ") does not have: its struct_size is " +
                          std::to_string(size) + "; expected " + std::to_string(sizeof(T)) +
                          ", or zeros beyond that size",
                      "update the library, or leave the new fields zero");
    T value{};
    std::memcpy(&value, from, std::min(size, sizeof(T)));
    return value;
}

/// The elements of a caller's array, whose stride is the struct_size of the first. Throws `Failure` as `read_struct`,
/// and for an element of another size.
template <typename T>
std::vector<T> read_structs(const T* from, std::size_t count, const std::string& name) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
    std::vector<T> values;
    for (std::size_t index = 0; index < count; ++index) {
        const auto element = name + "[" + std::to_string(index) + "]";
        const auto stride = index == 0 ? struct_size<T>(from, element) : values.front().struct_size;
        values.push_back(read_struct<T>(bytes + index * stride, element));
        if (values.back().struct_size != stride)
            throw Failure(TVLT_USAGE, element + ".struct_size is " + std::to_string(values.back().struct_size) +
                                          "; expected " + std::to_string(stride) + ", as in " + name + "[0]");
    }
    return values;
}

/// Fill a caller's struct: as many bytes as its struct_size states, which stays as it is. What the caller's struct has
/// beyond this library's becomes zero. Throws `Failure` (TVLT_USAGE) as `struct_size`; the struct is then unchanged.
template <typename T>
void fill_struct(T* to, const std::string& name, T value) {
    const auto size = struct_size<T>(to, name);
    value.struct_size = static_cast<std::uint32_t>(size);
    std::array<unsigned char, max_struct_size> bytes{};
    std::memcpy(bytes.data(), &value, sizeof value);
    std::memcpy(static_cast<void*>(to), bytes.data(), size);
}

}  // namespace tvlt::internal
