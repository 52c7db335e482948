"""Frames and sound to the input arrays of a TVLT model: numpy in, numpy out, with Hugging Face's call signatures.

There are two recipes. The `Tvlt` classes reproduce transformers 4.40.2; every difference is listed in
`docs/reference/differences-processors.md`. The `Original` classes reproduce the original TVLT code; see
`docs/reference/original-preprocessing.md`.
"""

from tvlt_deploy.processors.audio import TvltFeatureExtractor
from tvlt_deploy.processors.image import TvltImageProcessor
from tvlt_deploy.processors.mel import mel_filter_bank
from tvlt_deploy.processors.original.audio import OriginalFeatureExtractor
from tvlt_deploy.processors.original.image import OriginalImageProcessor
from tvlt_deploy.processors.original.masks import original_masks
from tvlt_deploy.processors.original.processor import OriginalProcessor
from tvlt_deploy.processors.original.resample import resample
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.processor import Processor, TvltProcessor

__all__ = [
    "BatchFeature",
    "OriginalFeatureExtractor",
    "OriginalImageProcessor",
    "OriginalProcessor",
    "Processor",
    "TvltFeatureExtractor",
    "TvltImageProcessor",
    "TvltProcessor",
    "mel_filter_bank",
    "original_masks",
    "resample",
]
