"""OpenVINO on the CPU: the same answers, in the precision asked for, compiled once."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import EnvironmentLackError, InputError
from tvlt_deploy.parity.cases import add_noise, fidelity_cases
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.tasks import TASKS
from tvlt_deploy.workflows.verify import verify

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_passes_its_verdicts_in_fp32_and_bf16(bundle_of: Callable[..., Bundle], task: str) -> None:
    report = verify(bundle_of(task), backends=["openvino"], precisions=["fp32", "bf16"])
    assert [verdict.precision for verdict in report.verdicts] == ["fp32", "bf16"]
    report.raise_on_failure()


def test_fp32_is_not_silently_bf16(matching: Bundle) -> None:
    case = next(iter(fidelity_cases(matching.task, matching.config)))
    answers = {}
    for backend, precision in (("torch", "fp32"), ("openvino", "fp32")):
        with open_runtime(matching, backend, precision=precision) as runtime:
            answers[backend] = runtime.run(case.feeds)["matching_logits"]
    np.testing.assert_allclose(answers["openvino"], answers["torch"], atol=2e-6)


def test_the_compiled_model_is_kept_in_the_users_cache(matching: Bundle, cache: Path) -> None:
    with open_runtime(matching, "openvino"):
        pass
    assert [file for file in cache.rglob("*") if file.is_file() and matching.digest in str(file)]


def test_threads_answer_as_one_after_another(matching: Bundle) -> None:
    feeds = [add_noise(matching.task, matching.config, c.feeds) for c in fidelity_cases(matching.task, matching.config)]
    with open_runtime(matching, "openvino", threads=2) as runtime:
        serial = [runtime.run(feed)["matching_logits"] for feed in feeds]
        parallel: dict[int, np.ndarray] = {}

        def work(start: int) -> None:
            for index in range(start, len(feeds), 4):
                parallel[index] = runtime.run(feeds[index])["matching_logits"]

        threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(serial[index], parallel[index]) for index in range(len(feeds)))


def test_an_answer_is_not_overwritten_by_the_next(matching: Bundle) -> None:
    first, second = [case.feeds for case in fidelity_cases(matching.task, matching.config)][:2]
    with open_runtime(matching, "openvino") as runtime:
        kept = runtime.run(first)["matching_logits"]
        copy = kept.copy()
        runtime.run(second)
    assert np.array_equal(kept, copy)


def test_a_closed_runtime_says_so(matching: Bundle) -> None:
    runtime = open_runtime(matching, "openvino")
    runtime.close()
    with pytest.raises(InputError, match="this runtime is closed"):
        runtime.run({})


def test_there_is_no_openvino_on_cuda(matching: Bundle) -> None:
    with pytest.raises(EnvironmentLackError, match="openvino on cuda does not run fp32; it runs nothing there"):
        open_runtime(matching, "openvino", "cuda")


def test_a_fallback_to_the_cpu_is_for_those_who_asked(matching: Bundle) -> None:
    case = next(iter(fidelity_cases(matching.task, matching.config)))
    with open_runtime(matching, "openvino", "cuda", allow_fallback=True) as runtime:
        assert (runtime.backend, runtime.device) == ("openvino", "cpu")
        assert runtime.run(case.feeds)["matching_logits"].shape[1] == 1
    with pytest.raises(EnvironmentLackError, match="openvino on cpu does not run fp16"):
        open_runtime(matching, "openvino", "cuda", "fp16", allow_fallback=True)
