"""Measured numbers against their limits."""

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
    least_cosine,
    max_difference,
)
from tvlt_deploy.tasks import Task, Tolerance


@dataclass(frozen=True)
class Row:
    """One measured number: what was checked on which output, the value, and the limit it has to keep."""

    check: str
    output: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value keeps the limit; a NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def missed_by(self) -> float:
        """How far the value is on the wrong side of the limit; negative when it is kept."""
        return self.limit - self.value if self.at_least else self.value - self.limit

    @property
    def text(self) -> str:
        """The number, its limit and by how much it misses."""
        sign = ">=" if self.at_least else "<="
        text = f"{self.check} of {self.output}: {self.value:.3g}, wanted {sign} {self.limit:.3g}"
        return text if self.passed else f"{text} (missed by {self.missed_by:.3g})"


@dataclass
class Verdict:
    """All numbers of one graph (or of the torch model in another precision) on one backend."""

    backend: str
    device: str
    precision: str
    form: str | None
    path: str | None
    rows: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every row keeps its limit."""
        return all(row.passed for row in self.rows)

    @property
    def name(self) -> str:
        """Backend, device, precision and form in one phrase."""
        return " ".join(part for part in (self.backend, self.device, self.precision, self.form) if part)

    def to_dict(self) -> dict[str, Any]:
        """For the manifest and `--json`; a number that is not finite is written as text."""
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
    """The verdicts of a bundle."""

    bundle: str
    task: str
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def raise_on_failure(self, hint: str = "tvlt-deploy verify BUNDLE prints every number") -> None:
        """Raise `VerdictError` naming every missed limit and by how much."""
        misses = [f"{v.name}: {row.text}" for v in self.verdicts for row in v.rows if not row.passed]
        if misses:
            raise VerdictError(
                f"{len(misses)} of {sum(len(v.rows) for v in self.verdicts)} checks missed: " + "; ".join(misses),
                hint=hint,
            )

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "bundle": self.bundle,
            "task": self.task,
            "verdict": "pass" if self.passed else "fail",
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


def fidelity(
    task: Task, config: TvltConfig, limits: Tolerance, found: Sequence[Outputs], wanted: Sequence[Outputs]
) -> Iterator[Row]:
    """Rows for every output over all cases: what was found, against what was wanted."""
    for name in task.output_names:
        pairs = [(f[name], w[name]) for f, w in zip(found, wanted, strict=True)]
        worst = max(max_difference(f, w) for f, w in pairs)
        if name.endswith("_label_mask"):
            yield Row("difference", name, worst, 0.0)
        elif is_hidden(name):
            if limits.absolute_hidden is not None:
                yield Row("difference", name, worst, limits.absolute_hidden)
            if pairs[0][1].shape[-1] >= LONG_ROW:
                yield Row("least cosine", name, min(least_cosine(f, w) for f, w in pairs), limits.cosine, True)
        else:
            reference = np.concatenate([w for _, w in pairs])
            yield Row("difference / deviation", name, worst / deviation(wanted, name), limits.relative)
            if limits.absolute_logits is not None:
                yield Row("difference", name, worst, limits.absolute_logits)
            tie = limits.absolute_logits or limits.relative * deviation(wanted, name)
            exclusive = task.activation(config) == "softmax"
            agreement = label_agreement(np.concatenate([f for f, _ in pairs]), reference, exclusive, tie)
            yield Row("label agreement", name, agreement, limits.agreement, True)
