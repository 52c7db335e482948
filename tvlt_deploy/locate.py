"""Find the first layer that is out of tolerance; re-exports `tvlt_deploy.workflows.locate`."""

from tvlt_deploy.workflows.locate import (
    Graph,
    LayerError,
    Location,
    compare_layers,
    input_limits,
    layer_outputs,
    locate,
    rank_layers,
    row_error,
    smooth_alike,
)

__all__ = [
    "Graph",
    "LayerError",
    "Location",
    "compare_layers",
    "input_limits",
    "layer_outputs",
    "locate",
    "rank_layers",
    "row_error",
    "smooth_alike",
]
