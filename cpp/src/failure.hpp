// Errors on their way to the caller.
#pragma once

#include <stdexcept>
#include <string>

#include "tvlt_deploy.h"

namespace tvlt::internal {

class Failure : public std::runtime_error {
public:
    Failure(tvlt_status kind, const std::string& message, const std::string& hint = "")
        : std::runtime_error(hint.empty() ? message : message + " (" + hint + ")"), status(kind) {}

    const tvlt_status status;
};

}  // namespace tvlt::internal
