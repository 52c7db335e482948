"""The measuring side's hold on a worker process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from tvlt_deploy.errors import BundleError
from tvlt_deploy.runtimes.base import Closing


class WorkerError(Exception):
    """Why a worker could not measure."""


class Worker(Closing):
    """A fresh process that serves `tvlt_deploy.bench.worker`. Use with `with`: leaving kills it, whatever it does.

    It is a session of its own, so that an interrupt at the terminal reaches its parent alone, which then ends it.
    """

    def __init__(self) -> None:
        # The child imports what its parent imports, and nothing that happens to lie in the working directory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tvlt_deploy.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> Any:
        """The worker's answer. Raises `WorkerError` saying why there is none, `BundleError` for an altered bundle."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([request, arguments]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" not in answer:
            return answer["ok"]
        message, hint = answer["error"]["message"], answer["error"]["hint"]
        if answer["error"]["type"] == BundleError.__name__:
            raise BundleError(message, hint=hint)
        raise WorkerError(f"{message} ({hint})" if hint else message)

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed, as happens when memory runs out"
        self._complaints.seek(0)
        lines = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._complaints.close()
