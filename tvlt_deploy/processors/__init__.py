"""Frames and sound to the arrays a TVLT model takes: numpy in, numpy out, with Hugging Face's call signatures.

Numbers are those of transformers 4.40.2; where that library is wrong or silent the deviation is listed in
`docs/differences-processors.md`.
"""

from tvlt_deploy.processors.audio import TvltFeatureExtractor
from tvlt_deploy.processors.image import TvltImageProcessor
from tvlt_deploy.processors.mel import mel_filter_bank
from tvlt_deploy.processors.original import original_masks
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.processor import TvltProcessor

__all__ = [
    "BatchFeature",
    "TvltFeatureExtractor",
    "TvltImageProcessor",
    "TvltProcessor",
    "mel_filter_bank",
    "original_masks",
]
