"""Where this machine keeps what belongs to it and not to a bundle: compiled models, timings, scores, trust.

Everything lies below `$XDG_CACHE_HOME/tvlt-deploy` (by default `~/.cache/tvlt-deploy`) and can be deleted at any time,
except that trust in engines built here is then forgotten.
"""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(*parts: str) -> Path:
    """A directory of the user's cache, made when missing."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the specification wants a relative path ignored
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    directory = root.joinpath("tvlt-deploy", *parts)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory
