"""The Python side of `libtvlt_deploy_python`; re-exports `tvlt_deploy.inference.c_api`.

Builds of the C++ library that import this module by its name keep working.
"""

from tvlt_deploy.inference.c_api import EmbeddedPipeline, describe

__all__ = ["EmbeddedPipeline", "describe"]
