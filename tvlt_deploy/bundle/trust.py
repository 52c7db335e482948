"""Which engines this user trusts. An engine is code: only one built here, or vouched for by its hash, is run."""

from __future__ import annotations

from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle.bundle import Bundle
from tvlt_deploy.errors import FileRefusedError


def trust(sha256: str) -> None:
    """Remember the SHA-256 of an engine that was built here.

    It is the file's and not the manifest's, which changes with every verdict.
    """
    (user_cache("trusted-engines") / sha256).touch()


def check_trust(bundle: Bundle, path: str, trust_engine: str | None = None) -> None:
    """Raise `FileRefusedError` for an engine of a bundle that was neither built here nor vouched for.

    trust_engine: the SHA-256 of the engine or of the bundle's manifest, from whoever built it.
    """
    found: str = bundle.manifest["files"][path]["sha256"]
    if trust_engine is not None:
        if trust_engine.lower() in (found, bundle.digest):
            return
        raise FileRefusedError(
            f"{bundle.path(path)} has SHA-256 {found}; trusted is {trust_engine}",
            hint="ask whoever built the engine for its SHA-256",
        )
    if not (user_cache("trusted-engines") / found).is_file():
        raise FileRefusedError(
            f"{bundle.path(path)} was not built here, and an engine is code that runs with your rights",
            hint=f"build it here with tvlt-deploy build, or if you trust its source pass --trust-engine {found}",
        )
