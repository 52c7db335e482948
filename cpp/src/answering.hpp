// Labels and scores from a task's first output.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "model.hpp"

namespace tvlt::internal {

/// The same as tvlt_deploy.Pipeline.answers.
class Answering {
public:
    explicit Answering(const Manifest& manifest);

    const std::shared_ptr<const Labels>& labels() const { return labels_; }

    /// The answer of one clip; empty for tasks without labels. Throws `Failure` (TVLT_FILE) if the output does not have
    /// one value per label.
    std::optional<Answer> operator()(const Output& output) const;

private:
    std::shared_ptr<const Labels> labels_;
    std::vector<std::string> signs_;
    std::optional<Activation> activation_;
    bool matching_;
};

}  // namespace tvlt::internal
