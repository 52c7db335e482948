"""Deploy TVLT audio-visual transformers: export, verify, run and measure.

The public names below are imported on first use, so that `import tvlt_deploy` loads numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvlt_deploy._version import __version__

_MODULE_OF = {
    "TvltConfig": "tvlt_deploy.config",
    "TvltError": "tvlt_deploy.errors",
    "export": "tvlt_deploy.workflows.export",
    "fuse": "tvlt_deploy.workflows.fuse",
    "quantize": "tvlt_deploy.workflows.quantize",
    "load": "tvlt_deploy.inference.pipeline",
    "Pipeline": "tvlt_deploy.inference.pipeline",
    "Answer": "tvlt_deploy.inference.pipeline",
    "Bundle": "tvlt_deploy.bundle",
    "verify": "tvlt_deploy.workflows.verify",
    "retrieve": "tvlt_deploy.workflows.retrieve",
}
__all__ = [
    "Answer",
    "Bundle",
    "Pipeline",
    "TvltConfig",
    "TvltError",
    "__version__",
    "export",
    "fuse",
    "load",
    "quantize",
    "retrieve",
    "verify",
]

if TYPE_CHECKING:
    from tvlt_deploy.bundle import Bundle
    from tvlt_deploy.config import TvltConfig
    from tvlt_deploy.errors import TvltError
    from tvlt_deploy.inference.pipeline import Answer, Pipeline, load
    from tvlt_deploy.workflows.export import export
    from tvlt_deploy.workflows.fuse import fuse
    from tvlt_deploy.workflows.quantize import quantize
    from tvlt_deploy.workflows.retrieve import retrieve
    from tvlt_deploy.workflows.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tvlt_deploy' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
