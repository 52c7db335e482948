"""Limits of the inputs as the manifest lists them, from the configuration and the pre-processing."""

from __future__ import annotations

from dataclasses import replace

from tvlt_deploy.bundle.manifest import Limits
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors import Processor, TvltProcessor
from tvlt_deploy.processors.image import MAX_RESIZED_PIXELS
from tvlt_deploy.processors.waveform import MAX_AMPLITUDE


def input_limits(config: TvltConfig, processor: Processor | None) -> Limits:
    """The limits of a model's inputs.

    Args:
        config: The model's configuration.
        processor: Its pre-processing; None where it has none, which leaves the last six limits None.

    Returns:
        The entry of the manifest.
    """
    height, width = config.image_shape
    limits = Limits(
        max_frames=config.num_frames,
        image_height=height,
        image_width=width,
        patches_per_frame=config.patches_per_frame,
        max_rows=config.time_patches * config.audio_patch[0],
        patch_rows=config.audio_patch[0],
        patches_per_step=config.frequency_patches,
        sampling_rate=None,
        min_samples=None,
        max_samples=None,
        shortest_edge=None,
        max_resized_pixels=None,
        max_amplitude=None,
    )
    if processor is None:
        return limits
    sound = processor.feature_extractor
    limits = replace(
        limits,
        sampling_rate=sound.sampling_rate,
        min_samples=sound.min_samples,
        max_samples=sound.max_samples,
        max_amplitude=MAX_AMPLITUDE,
    )
    if isinstance(processor, TvltProcessor) and processor.image_processor.do_resize:
        edge = processor.image_processor.size.get("shortest_edge")
        limits = replace(limits, shortest_edge=edge, max_resized_pixels=MAX_RESIZED_PIXELS)
    return limits
