"""Files derived from one bundle, in the user's cache."""

from __future__ import annotations

from pathlib import Path

from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle.bundle import Bundle


def bundle_cache(bundle: Bundle, *parts: str) -> Path:
    """A directory for files derived from a bundle.

    Args:
        bundle: The bundle. Its manifest's SHA-256 names the directory: another manifest has another one.
        parts: Names of the subdirectories, from the outermost on.

    Returns:
        The directory's path; it is created if it does not exist.

    Raises:
        OSError: The directory cannot be created.
    """
    return user_cache("bundles", bundle.digest, *parts)
