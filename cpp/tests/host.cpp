// A host without Python: loads a library with RTLD_LOCAL and opens a bundle.
//
// Usage: tvlt_host LIBRARY PYTHON BUNDLE. Prints the status and the message.
#include <dlfcn.h>

#include <cstdio>

#include "tvlt_deploy.h"

int main(int count, char** arguments) {
    if (count != 4) return 2;
    void* const library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::puts(dlerror());
        return 2;
    }
    const auto open = reinterpret_cast<decltype(&tvlt_open)>(dlsym(library, "tvlt_open"));
    const auto close = reinterpret_cast<decltype(&tvlt_close)>(dlsym(library, "tvlt_close"));
    const auto last_error = reinterpret_cast<decltype(&tvlt_last_error)>(dlsym(library, "tvlt_last_error"));
    tvlt_options options{};
    options.struct_size = sizeof options;
    options.python = arguments[2];
    tvlt_session* session = nullptr;
    for (int attempt = 0; attempt < 2; ++attempt) {  // both attempts must have the same result
        const auto status = open(arguments[3], &options, &session);
        std::printf("%d %s\n", status, last_error());
        close(session);
    }
    return 0;
}
