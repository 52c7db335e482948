"""What a processor returns: a dict of arrays whose entries are attributes too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvlt_deploy.errors import EnvironmentLackError, UsageError


class BatchFeature(dict[str, Any]):
    """A dict of arrays or tensors; `features.pixel_values` is `features["pixel_values"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {', '.join(self)}") from None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], return_tensors: str | None = None) -> BatchFeature:
        """Wrap arrays as they are (None, "np") or as torch tensors that share their memory ("pt").

        Raises `UsageError` (a `ValueError`) for another kind, `EnvironmentLackError` when torch cannot be imported.
        """
        if return_tensors in (None, "np"):
            return cls(arrays)
        if return_tensors != "pt":
            raise UsageError(f"return_tensors is {return_tensors!r}; wanted None, 'np' or 'pt'")
        try:
            import torch
        except ImportError as error:
            raise EnvironmentLackError(
                "return_tensors='pt' needs torch, which is not installed", hint="pip install torch, or use 'np'"
            ) from error
        return cls({name: torch.from_numpy(array) for name, array in arrays.items()})
