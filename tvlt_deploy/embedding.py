"""The Python side of `libtvlt_deploy_python`. The C++ library imports this module by its name."""

from tvlt_deploy.inference.c_api import EmbeddedPipeline, describe

__all__ = ["EmbeddedPipeline", "describe"]
