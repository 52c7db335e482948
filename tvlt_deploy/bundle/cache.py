"""Files made from exactly one bundle, in the cache of the user."""

from __future__ import annotations

from pathlib import Path

from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle.bundle import Bundle


def bundle_cache(bundle: Bundle, *parts: str) -> Path:
    """A directory for what was made from exactly this bundle: another manifest, another directory."""
    return user_cache("bundles", bundle.digest, *parts)
