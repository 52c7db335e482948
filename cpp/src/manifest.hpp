// The content of manifest.json: docs/reference/bundle.md describes the format.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace tvlt::internal {

/// A fixed size, or the name of a dynamic one.
using Axis = std::variant<std::int64_t, std::string>;

struct Spec {
    std::string name;
    std::vector<Axis> shape;
};

/// One graph of the bundle.
struct Graph {
    std::string precision, form, path;
    std::vector<std::string> files;
};

/// What a file of the bundle must be.
struct File {
    std::string sha256;
    std::int64_t size = 0;
};

/// What turns logits into scores.
enum class Activation { none, sigmoid, softmax };

/// Limits of the model's inputs. All are at least 1.
struct Limits {
    std::int64_t max_frames = 1, image_height = 1, image_width = 1, patches_per_frame = 1;
    std::int64_t max_rows = 1, patch_rows = 1, patches_per_step = 1;
    /// Of pre-processing; absent in bundles without it, `shortest_edge` also where frames are resized to a fixed size.
    std::optional<std::int64_t> sampling_rate, min_samples, max_samples, shortest_edge, max_resized_pixels,
        max_amplitude;
};

struct Manifest {
    std::string task;
    std::optional<Activation> activation;  ///< absent for tasks without labels
    std::vector<std::string> labels;       ///< empty for tasks without labels
    std::vector<std::string> sign_labels;  ///< of a value below 0 and from 0 on, or empty
    Limits limits;
    std::vector<Spec> inputs, outputs;  ///< in the order of the graph
    std::vector<Graph> graphs;
    std::map<std::string, File> files;
};

/// Parse and check the text of a manifest. name: the file, for messages. Throws `Failure` (TVLT_FILE) for anything that
/// is not a manifest of this schema, and for a path that leaves the bundle or has no hash.
Manifest parse_manifest(const std::string& text, const std::string& name);

}  // namespace tvlt::internal
