"""The user's cache for data of this machine: compiled models, timings, scores, trusted engines.

Everything is below `$XDG_CACHE_HOME/tvlt-deploy` (by default `~/.cache/tvlt-deploy`) and can be deleted at any time;
engines built here then have to be trusted or built again.
"""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(*parts: str) -> Path:
    """A directory of the user's cache, created if it does not exist (mode 0o700).

    Args:
        parts: Names of the subdirectories, from the outermost on.

    Returns:
        The directory's path.

    Raises:
        OSError: The directory cannot be created.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification requires that a relative path is ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    directory = root.joinpath("tvlt-deploy", *parts)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory
