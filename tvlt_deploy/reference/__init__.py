"""The TVLT models in plain torch, readable in one sitting: what every export is measured against."""

from __future__ import annotations

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.heads import TvltForAudioVisualClassification, TvltForPreTraining
from tvlt_deploy.reference.loading import init_checkpoint, load_model
from tvlt_deploy.reference.model import TvltModel
from tvlt_deploy.reference.original.checkpoint import OriginalCheckpoint, convert
from tvlt_deploy.reference.weights import held_tasks

__all__ = [
    "OriginalCheckpoint",
    "PretrainedModule",
    "TvltConfig",
    "TvltForAudioVisualClassification",
    "TvltForPreTraining",
    "TvltModel",
    "convert",
    "held_tasks",
    "init_checkpoint",
    "load_model",
]
