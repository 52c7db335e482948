"""The TVLT models in plain torch: every export is compared with them."""

from __future__ import annotations

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.checkpoint import Checkpoint, open_checkpoint
from tvlt_deploy.reference.heads import TvltForAudioVisualClassification, TvltForPreTraining
from tvlt_deploy.reference.model import TvltModel
from tvlt_deploy.reference.original.checkpoint import OriginalCheckpoint, convert
from tvlt_deploy.reference.seeded import init_checkpoint
from tvlt_deploy.reference.weights import held_tasks

__all__ = [
    "Checkpoint",
    "OriginalCheckpoint",
    "PretrainedModule",
    "TvltConfig",
    "TvltForAudioVisualClassification",
    "TvltForPreTraining",
    "TvltModel",
    "convert",
    "held_tasks",
    "init_checkpoint",
    "open_checkpoint",
]
