"""Which engines this user trusts. An engine is code: it runs only if it was built here or its hash is given."""

from __future__ import annotations

from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle.bundle import Bundle
from tvlt_deploy.errors import FileRefusedError


def trust(sha256: str) -> None:
    """Record an engine that was built here.

    Args:
        sha256: SHA-256 of the engine file; the manifest's changes with every verdict.

    Raises:
        OSError: The user's cache cannot be written.
    """
    (user_cache("trusted-engines") / sha256).touch()


def check_trust(bundle: Bundle, path: str, trust_engine: str | None = None) -> None:
    """Check that an engine of a bundle may run.

    Args:
        bundle: The bundle.
        path: The engine, relative to the bundle.
        trust_engine: SHA-256 of the engine or of the bundle's manifest, from whoever built it; None trusts engines
            that were built here.

    Raises:
        FileRefusedError: The engine was not built here, or has another SHA-256 than `trust_engine`.
    """
    actual = bundle.manifest.files[path].sha256
    if trust_engine is not None:
        if trust_engine.lower() in (actual, bundle.digest):
            return
        raise FileRefusedError(
            f"{bundle.path(path)} has SHA-256 {actual}; expected {trust_engine}",
            hint="ask whoever built the engine for its SHA-256",
        )
    if not (user_cache("trusted-engines") / actual).is_file():
        raise FileRefusedError(
            f"{bundle.path(path)} was not built here, and an engine is code that runs with your rights",
            hint=f"build it here with tvlt-deploy build, or if you trust its source pass --trust-engine {actual}",
        )
