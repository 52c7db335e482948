"""The output of a processor: a dict of arrays with its entries as attributes."""

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
            raise AttributeError(f"there is no {name!r}; expected one of {', '.join(self)}") from None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], return_tensors: str | None = None) -> BatchFeature:
        """Wrap arrays.

        Args:
            arrays: The arrays by name.
            return_tensors: None or "np" for arrays, "pt" for torch tensors that share their memory.

        Raises:
            UsageError: `return_tensors` is something else. It is a `ValueError`.
            EnvironmentLackError: torch is missing.
        """
        if return_tensors in (None, "np"):
            return cls(arrays)
        if return_tensors != "pt":
            raise UsageError(f"return_tensors is {return_tensors!r}; expected None, 'np' or 'pt'")
        try:
            import torch
        except ImportError as error:
            raise EnvironmentLackError(
                "return_tensors='pt' needs torch, which is not installed", hint="pip install torch, or use 'np'"
            ) from error
        return cls({name: torch.from_numpy(array) for name, array in arrays.items()})
