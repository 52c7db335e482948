#include "answering.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "failure.hpp"

namespace tvlt::internal {

Answering::Answering(const Manifest& manifest)
    : labels_(std::make_shared<Labels>(manifest.labels)),
      signs_(manifest.sign_labels),
      activation_(manifest.activation),
      matching_(manifest.task == "audio-visual-matching") {}

std::optional<Answer> Answering::operator()(const Output& output) const {
    if (!activation_) return std::nullopt;
    std::vector<double> scores(output.values.begin(), output.values.end());
    if (scores.size() != (matching_ ? 1 : labels_->size()))
        throw Failure(TVLT_FILE,
                      "the graph's output " + output.name + " has " + std::to_string(scores.size()) +
                          " values per clip; expected " + std::to_string(matching_ ? 1 : labels_->size()),
                      "export the bundle again");
    if (activation_ == Activation::sigmoid) {
        for (auto& score : scores) score = 0.5 * (1 + std::tanh(score / 2));  // does not overflow
    } else if (activation_ == Activation::softmax) {
        const double max = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (auto& score : scores) total += score = std::exp(score - max);
        for (auto& score : scores) score /= total;
    }
    if (matching_) scores.push_back(1 - scores.front());  // match, mismatch
    const auto best = static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    const double score = scores[best];
    auto label = signs_.empty() ? (*labels_)[best] : signs_[score >= 0 ? 1 : 0];
    return Answer{labels_, std::move(scores), std::move(label), score};
}

}  // namespace tvlt::internal
