"""The `tvlt-deploy` command."""

from tvlt_deploy.cli.run import main

__all__ = ["main"]
