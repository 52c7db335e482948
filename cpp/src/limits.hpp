// Inputs that the model or its pre-processing does not accept.
//
// Every function throws `Failure` (TVLT_USAGE) with the actual and the expected value.
#pragma once

#include <string>
#include <vector>

#include "manifest.hpp"
#include "model.hpp"

namespace tvlt::internal {

/// name: of the clip, for messages. The limits of pre-processing must be present.
void check_clip(const Limits& limits, const Clip& clip, const std::string& name);

/// That every input is present and that the shapes fit together: ONNX Runtime reports a wrong length of a mask, or rows
/// that are not whole patches, only deep inside the graph or not at all.
void check_tensors(const Manifest& manifest, const std::vector<TensorView>& inputs);

}  // namespace tvlt::internal
