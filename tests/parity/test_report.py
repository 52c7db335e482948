"""Values against limits, and reports that can be stored as JSON."""

from __future__ import annotations

import json

from tvlt_deploy.parity.report import Report, Row, Verdict

NAN, INF = float("nan"), float("inf")


def test_a_row_keeps_or_misses_its_limit() -> None:
    assert Row("difference", "logits", 1e-4, 1e-4).passed
    assert not Row("difference", "logits", NAN, 1e-4).passed
    assert not Row("min cosine", "logits", NAN, 0.9, at_least=True).passed
    assert Row("min cosine", "logits", 0.99, 0.99, at_least=True).text == "min cosine of logits: 0.99, expected >= 0.99"
    assert Row("difference", "logits", 3e-4, 1e-4).text == (
        "difference of logits: 0.0003, expected <= 0.0001 (missed by 0.0002)"
    )
    assert Row("label agreement", "logits", 0.5, 1.0, at_least=True).text.endswith("expected >= 1 (missed by 0.5)")


def test_a_report_survives_json() -> None:
    rows = [Row("difference", "logits", INF, 1e-4), Row("min cosine", "logits", 1.0, 0.9, at_least=True)]
    report = Report("b", "feature-extraction", [Verdict("torch", "cpu", "bf16", None, None, rows)])
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values == report.to_dict()
    assert values["verdict"] == values["verdicts"][0]["verdict"] == "fail"
    assert values["verdicts"][0]["rows"] == [
        {"check": "difference", "output": "logits", "value": "inf", "limit": 1e-4, "at_least": False, "passed": False},
        {"check": "min cosine", "output": "logits", "value": 1.0, "limit": 0.9, "at_least": True, "passed": True},
    ]
    assert Report("b", "feature-extraction", [Verdict("torch", "cpu", "bf16", None, None, rows[1:])]).passed
