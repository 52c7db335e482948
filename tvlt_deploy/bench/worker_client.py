"""A worker process, seen from the process that measures."""

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
    """A worker could not do what it was asked for; the message says why."""


class Worker(Closing):
    """A new process that serves `tvlt_deploy.bench.worker`. Use with `with`: at the end the process is killed.

    It has its own session, so that an interrupt at the terminal reaches only its parent, which then ends it.
    """

    def __init__(self) -> None:
        # The child imports what its parent imports, and nothing from the working directory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tvlt_deploy.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> Any:
        """Send a request.

        Args:
            request: Name of a method of `tvlt_deploy.bench.worker.Session`, or `open`.
            arguments: Its arguments, in JSON types.

        Returns:
            The answer, in JSON types.

        Raises:
            WorkerError: The request failed, or the process ended.
            BundleError: The bundle was altered.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([request, arguments]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._exit_reason())
        answer = json.loads(line)
        if "error" not in answer:
            return answer["ok"]
        message, hint = answer["error"]["message"], answer["error"]["hint"]
        if answer["error"]["type"] == BundleError.__name__:
            raise BundleError(message, hint=hint)
        raise WorkerError(f"{message} ({hint})" if hint else message)

    def _exit_reason(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed, probably because memory ran out"
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._stderr.close()
