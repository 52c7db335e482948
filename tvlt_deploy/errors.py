"""All errors that the package raises on purpose, with their exit codes.

`docs/reference/errors.md` explains each class: its cause and what to do.
"""

from __future__ import annotations


class TvltError(Exception):
    """Base class of all errors that the package raises on purpose.

    `str(error)` is the message, which names the thing, the actual value and the expected value, followed by the hint.

    Args:
        message: What is wrong.
        hint: What to do about it.

    Attributes:
        hint: What to do about it; may be empty.
        exit_code: Exit code of the command `tvlt-deploy` for this error.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message

    @property
    def message(self) -> str:
        """The message without the hint."""
        return super().__str__()

    @property
    def reference(self) -> str:
        """The entry of this type in the documentation."""
        return f"docs/reference/errors.md#{type(self).__name__}"


class UsageError(TvltError, ValueError):
    """A call or an option that cannot be carried out as requested. Correct the argument. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value that no model can have. Correct the field that the message names."""


class InputError(UsageError):
    """Arrays that the processors or a runtime cannot accept: wrong shape, dtype or sampling rate, or NaN."""


class VerdictError(TvltError):
    """A measured number is out of tolerance. The message lists value and limit of each failed check. Exit code 3."""

    exit_code = 3


class EnvironmentLackError(TvltError, RuntimeError):
    """The machine or the Python environment is missing something. The hint says how to get it. Exit code 4."""

    exit_code = 4


class FileRefusedError(TvltError, ValueError):
    """A file that is corrupt, untrusted or not what it claims to be. Get the file again. Exit code 5."""

    exit_code = 5


class CheckpointError(FileRefusedError):
    """A checkpoint that cannot be loaded as requested: missing or unknown weights, wrong shapes, NaN."""


class BundleError(FileRefusedError):
    """A bundle that is incomplete, altered or of another schema version. Copy or export it again."""


class MediaError(FileRefusedError):
    """A media file without usable frames or sound within the limits. Convert it, or raise a limit."""
