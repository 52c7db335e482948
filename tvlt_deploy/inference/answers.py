"""From logits to labels and scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.tasks import Task

MATCHING = "audio-visual-matching"


@dataclass(frozen=True)
class Answer:
    """The model's answer to one clip.

    Attributes:
        label: the label with the highest score. For matching `match` or `mismatch`. For a regression with one output
            the name of its sign (such as `positive` or `negative`) where the configuration has one, otherwise the name
            of the output.
        score: the probability of the label; for a regression the predicted value.
        scores: the score of every label, in the order of the model. They add up to 1 for exclusive labels (softmax) and
            for matching. Otherwise each is a probability of its own (sigmoid), and labels from 0.5 apply.
    """

    label: str
    score: float
    scores: dict[str, float]


def has_labels(task: Task) -> bool:
    """Whether the task is answered with labels; otherwise with arrays."""
    return task.labelled or task.name == MATCHING


def label_names(task: Task, config: TvltConfig) -> tuple[str, ...]:
    """The labels of a task, in the order of `Answer.scores`; empty for a task without labels."""
    return task.labels(config) or ()


def answers_of(task: Task, config: TvltConfig, logits: np.ndarray) -> list[Answer]:
    """Turn logits into answers.

    Args:
        task: a task with labels.
        config: the configuration of the model, with the names of the labels.
        logits: (clips, labels); for matching (clips, 1).

    Returns:
        One answer for each clip.
    """
    values = _scores(logits.astype(np.float64), task.activation(config))
    if task.name == MATCHING:
        values = np.concatenate([values, 1 - values], axis=1)
    names, signs = label_names(task, config), config.sign_labels if task.labelled else None
    answers = []
    for row in values:
        scores = dict(zip(names, (float(value) for value in row), strict=True))
        best = max(scores, key=lambda name: scores[name])
        answers.append(Answer(best if signs is None else signs[scores[best] >= 0], scores[best], scores))
    return answers


def _scores(logits: np.ndarray, activation: str | None) -> np.ndarray:
    if activation == "sigmoid":
        scores: np.ndarray = 0.5 * (1 + np.tanh(logits / 2))  # without overflow
    elif activation == "softmax":
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    else:
        scores = logits
    return scores
