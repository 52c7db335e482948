"""Every error a user can meet: one family, each with a way out and the exit code the command line gives it."""

from __future__ import annotations


class TvltError(Exception):
    """Base of all errors raised on purpose.

    `str(error)` names the thing, the value found and the value wanted; `hint` says what to do about it.
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
        """The text without the hint."""
        return super().__str__()


class UsageError(TvltError, ValueError):
    """A call or an option that cannot mean anything: exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value that no model can have."""


class InputError(UsageError):
    """Arrays that the processors or a runtime cannot take (shape, dtype, rate, NaN)."""


class VerdictError(TvltError):
    """A measured number is outside its tolerance: exit code 3."""

    exit_code = 3


class EnvironmentLackError(TvltError, RuntimeError):
    """The machine or the Python environment lacks something, named with the way to get it: exit code 4."""

    exit_code = 4


class FileRefusedError(TvltError, ValueError):
    """A file that is corrupt, untrusted or not what it claims to be: exit code 5."""

    exit_code = 5


class CheckpointError(FileRefusedError):
    """A checkpoint that cannot be loaded as asked."""


class BundleError(FileRefusedError):
    """A bundle that is incomplete, altered or of another schema."""


class MediaError(FileRefusedError):
    """A media file that gives no usable frames or sound within the limits."""
