"""Progress on a terminal, in a file, and with -q."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.test_commands import write_wav
from tvlt_deploy._internal.progress import Step
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli.progress import ProgressDisplay

ESCAPE = "\x1b"


def on_terminal(arguments: list[str], term: str = "xterm-256color") -> tuple[str, str, int]:
    """Standard output through a pipe, standard error as a terminal of 100 columns shows it, and the exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = {**os.environ, "TERM": term}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the end of a terminal
            break
        if not chunk:
            break
        shown += chunk
    assert process.stdout is not None
    out = process.stdout.read().decode()
    os.close(ours)
    return out, shown.decode(), process.wait(timeout=60)


def script(code: str) -> list[str]:
    setup = (
        "import time\n"
        "from tvlt_deploy._internal.progress import Step\n"
        "from tvlt_deploy.cli.progress import ProgressDisplay\n"
    )
    return [sys.executable, "-c", setup + code]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_a_bar_and_keeps_nothing_of_it(matching: Bundle, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_wav(tmp_path / f"{name}.wav", seconds=0.1)
    command = [sys.executable, "-m", "tvlt_deploy", "run", str(matching.directory), str(tmp_path), "--json"]
    out, shown, code = on_terminal(command)
    assert code == 0, shown
    assert len(out.splitlines()) == 3
    assert ESCAPE not in out
    assert "opening the bundle" in plain(shown)
    assert re.search(r"three\.wav +\S+ +2/3", plain(shown)), plain(shown)
    assert shown.rstrip().endswith("\x1b[2K"), "the line is cleared at the end"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is visible again"


def test_steps_show_count_and_time_left() -> None:
    out, shown, _ = on_terminal(script(
        "with ProgressDisplay(False) as progress:\n"
        "    progress('opening')\n"
        "    time.sleep(0.3)\n"
        "    for done in range(5):\n"
        "        progress(Step(f'case {done + 1}/5: [bold]', done, 5))\n"
        "        time.sleep(0.4)\n"
    ))  # fmt: skip
    assert out == ""
    lines = [line.strip() for line in plain(shown).replace("\r", "\n").splitlines() if line.strip()]
    assert any(re.search(r"opening +0:00:0\d$", line) for line in lines), lines
    assert any(re.search(r"case: \[bold\] +\S+ +4/5 +0:00:0\d$", line) for line in lines), lines


@pytest.mark.parametrize(
    ("ending", "code"), [("raise KeyboardInterrupt", 1), ("raise ValueError('x')", 1), ("raise SystemExit(7)", 7)]
)
def test_the_cursor_comes_back_however_the_work_ends(ending: str, code: int) -> None:
    _, shown, actual = on_terminal(script(
        f"with ProgressDisplay(False) as progress:\n    progress('working')\n    {ending}\n"
    ))  # fmt: skip
    assert actual in (code, -2)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_dumb_terminal_gets_plain_lines() -> None:
    _, shown, _ = on_terminal(script("with ProgressDisplay(False) as progress: progress('working')"), term="dumb")
    assert shown == "working\r\n"


def test_a_file_gets_plain_lines_without_escape_codes(matching: Bundle, tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "one.wav", seconds=0.1)
    errors = tmp_path / "errors.txt"
    command = [sys.executable, "-m", "tvlt_deploy", "run", str(matching.directory), str(sound)]
    environment = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    with errors.open("w") as file:
        subprocess.run(command, stdout=subprocess.PIPE, stderr=file, check=True, env=environment)
    assert errors.read_text() == "opening the bundle\n1/1 one.wav\n"


def test_quiet_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(quiet=True) as progress:
        progress("working")
        progress(Step("case 1/2", 0, 2))
    assert capfd.readouterr() == ("", "")
