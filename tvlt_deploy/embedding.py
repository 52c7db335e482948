"""The Python side of `libtvlt_deploy_python`, under the name that the library imports."""

from tvlt_deploy.inference.c_api import EmbeddedPipeline, describe

__all__ = ["EmbeddedPipeline", "describe"]
