"""Measured values compared with their limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import VerdictError
from tvlt_deploy.parity.metrics import (
    LONG_ROW,
    Outputs,
    deviation,
    is_hidden,
    label_agreement,
    max_difference,
    min_cosine,
)
from tvlt_deploy.tasks import Task, Tolerance


@dataclass(frozen=True)
class Row:
    """One measured value and its limit.

    Attributes:
        check: name of the metric or invariant.
        output: name of the model output that was measured, or of the graph value for activation ranges.
        value: the measured value.
        limit: the upper bound of the value, or its lower bound with `at_least`.
        at_least: whether `limit` is a lower bound.
    """

    check: str
    output: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit; False for NaN."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def missed_by(self) -> float:
        """Distance from the limit to the value; negative for a value within the limit."""
        return self.limit - self.value if self.at_least else self.value - self.limit

    @property
    def text(self) -> str:
        """Check, output, value and limit in one line, with the distance to a missed limit."""
        sign = ">=" if self.at_least else "<="
        text = f"{self.check} of {self.output}: {self.value:.3g}, expected {sign} {self.limit:.3g}"
        return text if self.passed else f"{text} (missed by {self.missed_by:.3g})"


@dataclass
class Verdict:
    """The pass/fail result of one graph, engine or torch model on one backend.

    Attributes:
        backend: runtime that ran it, such as `onnxruntime`.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: such as `fp16`.
        form: form of the graph where the bundle has several; None for torch and engines.
        path: path of the graph or engine in the bundle; None for torch.
        rows: the measured values.
    """

    backend: str
    device: str
    precision: str
    form: str | None
    path: str | None
    rows: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every value is within its limit."""
        return all(row.passed for row in self.rows)

    @property
    def name(self) -> str:
        """Backend, device, precision and form, separated by spaces."""
        return " ".join(part for part in (self.backend, self.device, self.precision, self.form) if part)

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the manifest and `--json`; a value that is not finite becomes a string."""
        finite = lambda value: value if np.isfinite(value) else str(value)  # noqa: E731
        return {
            "verdict": "pass" if self.passed else "fail",
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "form": self.form,
            "rows": [{**asdict(row), "value": finite(row.value), "passed": row.passed} for row in self.rows],
        }


@dataclass
class Report:
    """The verdicts of a bundle.

    Attributes:
        bundle: directory of the bundle.
        task: name of its task.
        verdicts: one for each graph, engine or torch model, in the order of the run.
    """

    bundle: str
    task: str
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def raise_on_failure(self, hint: str = "tvlt-deploy verify BUNDLE prints every number") -> None:
        """Raise an error that lists every missed limit.

        Args:
            hint: what to do next, for the error.

        Raises:
            VerdictError: a value is outside its limit.
        """
        misses = [f"{v.name}: {row.text}" for v in self.verdicts for row in v.rows if not row.passed]
        if misses:
            raise VerdictError(
                f"{len(misses)} of {sum(len(v.rows) for v in self.verdicts)} checks missed: " + "; ".join(misses),
                hint=hint,
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values for `--json`."""
        return {
            "bundle": self.bundle,
            "task": self.task,
            "verdict": "pass" if self.passed else "fail",
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


def fidelity(
    task: Task, config: TvltConfig, limits: Tolerance, actual: Sequence[Outputs], expected: Sequence[Outputs]
) -> Iterator[Row]:
    """Compare outputs with those of the reference.

    Args:
        task: the task, which decides how each output is compared.
        config: the configuration of the model.
        limits: the tolerance of the precision.
        actual: the measured outputs of each case.
        expected: the outputs of the reference, in the same order.

    Yields:
        The rows of each output, over all cases.
    """
    for name in task.output_names:
        pairs = [(a[name], e[name]) for a, e in zip(actual, expected, strict=True)]
        worst = max(max_difference(a, e) for a, e in pairs)
        if name.endswith("_label_mask"):
            yield Row("difference", name, worst, 0.0)
        elif is_hidden(name):
            if limits.absolute_hidden is not None:
                yield Row("difference", name, worst, limits.absolute_hidden)
            if pairs[0][1].shape[-1] >= LONG_ROW:
                yield Row("min cosine", name, min(min_cosine(a, e) for a, e in pairs), limits.cosine, True)
        else:
            reference = np.concatenate([e for _, e in pairs])
            yield Row("difference / deviation", name, worst / deviation(expected, name), limits.relative)
            if limits.absolute_logits is not None:
                yield Row("difference", name, worst, limits.absolute_logits)
            tie = limits.absolute_logits or limits.relative * deviation(expected, name)
            exclusive = task.activation(config) == "softmax"
            agreement = label_agreement(np.concatenate([a for a, _ in pairs]), reference, exclusive, tie)
            yield Row("label agreement", name, agreement, limits.agreement, True)
