"""Golden vectors of every stage; re-exports `tvlt_deploy.workflows.golden_vectors`."""

from tvlt_deploy.workflows.golden_vectors import Comparison, Stage, check_dump, raise_on_difference, write_vectors

__all__ = ["Comparison", "Stage", "check_dump", "raise_on_difference", "write_vectors"]
