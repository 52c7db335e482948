"""A PNG per clip with what the model received and answered: frames, spectrogram, and masked and reconstructed patches.

Everything is drawn from the model inputs, which the processors of the bundle turn back into images, so that a wrong
crop, a wrong sampling rate or missing sound is visible. It is drawn with Pillow, to need no plotting library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.inference.files import FileAnswer
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.inference.prepared import Prepared
from tvlt_deploy.processors.mel import MAX_FREQUENCY, hertz_to_mel
from tvlt_deploy.processors.processor import Processor

Levels = NDArray[np.uint8]

FRAMES_PER_ROW = 8
MIN_SIDE = 224
"""Min length of the short side of a frame, in pixels."""
FULL_WIDTH = 1848
"""Width in pixels of a row of frames at the default size, and of a spectrogram with its axis."""
SPECTROGRAM_HEIGHT = 256

_PAPER, _INK, _PALE = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_HIDDEN = np.full(3, 205, np.uint8)
"""Grey, which is not among the colours of the spectrogram."""
_MARGIN, _GAP, _AXIS = 24, 8, 96

# The authors' demo paints patches that were visible like this where it shows the reconstruction of the hidden ones,
# in the units of the model's values (zinengtang/TVLT, Demo_Video_Audio_MAE.ipynb).
_VISIBLE_FRAMES, _VISIBLE_SOUND = 0.2, -0.7

# Viridis at nine evenly spaced values, from dark (quiet) to bright (loud).
_COLOURS = np.array([
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
    (170, 220, 50), (253, 231, 37),
])  # fmt: skip


def png_files(pipeline: Pipeline, folder: Path) -> Callable[[FileAnswer], None]:
    """Write a contact sheet for each answer that is not an error.

    Args:
        pipeline: the pipeline that answers.
        folder: directory of the files, which are named MEDIA.png and written atomically.

    Returns:
        A function that writes the sheet of one answer.
    """

    def add(answer: FileAnswer) -> None:
        if answer.prepared is None or answer.error is not None:
            return
        sheet = draw(pipeline, answer)
        with staged_file(folder / f"{answer.media.name}.png") as temporary:
            sheet.save(temporary, format="PNG")

    return add


def draw(pipeline: Pipeline, answer: FileAnswer) -> Image.Image:
    """Draw the contact sheet of a clip: title and answer, the frames, and the spectrogram with its axes.

    For masked reconstruction there are four versions of frames and spectrogram: original; masked, with hidden patches
    in grey; the hidden patches as reconstructed, with the visible ones painted over; all patches as reconstructed.

    Args:
        pipeline: the pipeline that answered.
        answer: an answer with `prepared`.

    Returns:
        An RGB image.
    """
    prepared = answer.prepared
    assert prepared is not None
    reconstructed = pipeline.task.needs_noise
    panels = [_text([answer.media.name], 26), _text(_summary(pipeline, answer), 18, _PALE)]
    if prepared.has_picture:
        shown = (
            _reconstructed_frames(pipeline, answer, prepared) if reconstructed else _input_frames(pipeline, prepared)
        )
        strips = [_stack([_text([title], 18), _strip(frames, answer.frame_times)]) for title, frames in shown]
        panels += _rows(strips)
    else:
        panels.append(_text(["no frames"], 18))
    if prepared.has_sound:
        for title, colours in (
            _reconstructed_sound(pipeline, answer, prepared) if reconstructed else _input_sound(prepared)
        ):
            panels += [_text([title], 18), _spectrogram(colours, answer.start, pipeline.processor)]
        panels.append(_scale())
    else:
        panels.append(_text(["no sound"], 18))
    sheet = _stack(panels)
    framed = Image.new("RGB", (sheet.width + 2 * _MARGIN, sheet.height + 2 * _MARGIN), _PAPER)
    framed.paste(sheet, (_MARGIN, _MARGIN))
    return framed


def _summary(pipeline: Pipeline, answer: FileAnswer) -> list[str]:
    lines = [
        f"{answer.start:.2f} to {answer.start + answer.duration:.2f} s, "
        f"{answer.frames} frame{'s' * (answer.frames != 1)}, {'sound' if answer.has_sound else 'no sound'}; "
        f"{pipeline.task.name}, {pipeline.runtime.backend} {pipeline.runtime.precision}"
    ]
    if answer.answer is not None:
        best = sorted(answer.answer.scores.items(), key=lambda item: -item[1])[:6]
        lines.append("answer: " + ", ".join(f"{label} {score:.4f}" for label, score in best))
    elif pipeline.task.needs_noise:
        masks = (answer.outputs[name] for name in ("pixel_label_mask", "audio_label_mask"))
        hidden = [f"{int(mask.sum())} of {len(mask)}" for mask in masks]
        lines.append(f"hidden: {hidden[0]} patches of the frames, {hidden[1]} of the sound")
    else:
        shapes = (f"{name} {'x'.join(map(str, values.shape))}" for name, values in answer.outputs.items())
        lines.append("outputs: " + ", ".join(shapes))
    return lines + [f"warning: {warning}" for warning in answer.warnings]


# What is shown ---------------------------------------------------------------------------------------------------


def _input_frames(pipeline: Pipeline, prepared: Prepared) -> Iterator[tuple[str, Levels]]:
    yield "frames as the model saw them", pipeline.processor.image_processor.levels(prepared.pixel_values)


def _input_sound(prepared: Prepared) -> Iterator[tuple[str, Levels]]:
    yield "log-mel spectrogram as the model saw it", _colours(prepared.audio_values[0])


def unpatchify(patches: NDArray[np.float32], grid: tuple[int, int, int], patch: tuple[int, int]) -> NDArray[np.float32]:
    """Join patches to images, the inverse of `patchify` of the reference.

    Args:
        patches: (patches, height * width * channels of a patch) float32.
        grid: number of images, and of patches along the height and the width of an image.
        patch: height and width of a patch.

    Returns:
        (images, channels, height, width) float32.
    """
    images, down, across = grid
    parts = patches.reshape(images, down, across, *patch, -1).transpose(0, 5, 1, 3, 2, 4)
    return parts.reshape(images, parts.shape[1], down * patch[0], across * patch[1])


def _frame_grid(config: TvltConfig, prepared: Prepared) -> tuple[int, int, int]:
    (height, width), (patch_height, patch_width) = config.image_shape, config.image_patch
    return prepared.frames, height // patch_height, width // patch_width


def _spread(mask: NDArray[np.float32], grid: tuple[int, int, int], patch: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of patches as a mask of pixels, (images, height, width)."""
    pixels: NDArray[np.bool_] = mask.reshape(grid).repeat(patch[0], 1).repeat(patch[1], 2) > 0.5
    return pixels


def _reconstructed_frames(pipeline: Pipeline, answer: FileAnswer, prepared: Prepared) -> Iterator[tuple[str, Levels]]:
    config, levels = pipeline.config, pipeline.processor.image_processor.levels
    grid = _frame_grid(config, prepared)
    original = levels(prepared.pixel_values)
    reconstructed = unpatchify(answer.outputs["pixel_logits"], grid, config.image_patch)
    hidden = _spread(answer.outputs["pixel_label_mask"], grid, config.image_patch)
    yield "frames: original", original
    yield "masked: what the encoder saw", np.where(hidden[..., None], _HIDDEN, original)
    yield (
        "reconstructed: the hidden patches",
        levels(np.where(hidden[:, None], reconstructed, np.float32(_VISIBLE_FRAMES))),
    )
    yield "reconstructed: all patches", levels(reconstructed)


def _reconstructed_sound(pipeline: Pipeline, answer: FileAnswer, prepared: Prepared) -> Iterator[tuple[str, Levels]]:
    config = pipeline.config
    grid = 1, prepared.rows // config.audio_patch[0], config.frequency_patches
    original = prepared.audio_values[0]
    reconstructed = unpatchify(answer.outputs["audio_logits"], grid, config.audio_patch)[0, 0]
    hidden = _spread(answer.outputs["audio_label_mask"], grid, config.audio_patch)[0]
    yield "log-mel spectrogram: original", _colours(original)
    yield "masked: what the encoder saw", np.where(hidden[..., None], _HIDDEN, _colours(original))
    yield "reconstructed: the hidden patches", _colours(np.where(hidden, reconstructed, np.float32(_VISIBLE_SOUND)))
    yield "reconstructed: all patches", _colours(reconstructed)


def _colours(values: NDArray[np.float32]) -> Levels:
    """Colours (..., 3) of values in [-1, 1]; values outside are clipped."""
    places = np.clip((values + 1) / 2, 0, 1) * (len(_COLOURS) - 1)
    steps = np.arange(len(_COLOURS))
    return np.stack([np.interp(places, steps, channel) for channel in _COLOURS.T], axis=-1).round().astype(np.uint8)


# Panels ----------------------------------------------------------------------------------------------------------


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text(lines: Sequence[str], size: int, ink: tuple[int, int, int] = _INK) -> Image.Image:
    font, step = _font(size), round(1.4 * size)
    width = max(int(np.ceil(font.getlength(line))) for line in lines)
    panel = Image.new("RGB", (width + 1, step * len(lines)), _PAPER)
    pen = ImageDraw.Draw(panel)
    for index, line in enumerate(lines):
        pen.text((0, step * index), line, ink, font)
    return panel


def _strip(frames: Levels, times: Sequence[float]) -> Image.Image:
    """Frames side by side, each with its time below. Small frames are enlarged by an integer factor.

    If the pre-processing repeats or drops frames of the file, they are numbered instead.
    """
    labels = [f"{time:.2f} s" for time in times]
    if len(times) != len(frames):
        labels = [f"frame {number}" for number in range(1, len(frames) + 1)]
    zoom = -(-MIN_SIDE // min(frames.shape[1:3]))
    height, width = (side * zoom for side in frames.shape[1:3])
    label, font = 26, _font(16)
    columns, rows = min(len(frames), FRAMES_PER_ROW), -(-len(frames) // FRAMES_PER_ROW)
    panel = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + label)), _PAPER)
    pen = ImageDraw.Draw(panel)
    for index, (frame, text) in enumerate(zip(frames, labels, strict=True)):
        left, top = index % FRAMES_PER_ROW * (width + _GAP), index // FRAMES_PER_ROW * (height + label)
        panel.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, top))
        pen.text((left + width / 2, top + height + 3), text, _PALE, font, anchor="ma")
    return panel


def _spectrogram(colours: Levels, start: float, processor: Processor) -> Image.Image:
    """Colours (rows, bins, 3) with time to the right in seconds of the file and frequency upwards in Hz."""
    extractor, (rows, bins, _) = processor.feature_extractor, colours.shape
    height = SPECTROGRAM_HEIGHT * max(1, round(bins / SPECTROGRAM_HEIGHT))
    width = FULL_WIDTH - _AXIS
    image = Image.fromarray(np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1]))
    font, below = _font(16), 34
    panel = Image.new("RGB", (_AXIS + width, height + below), _PAPER)
    panel.paste(image.resize((width, height), Image.Resampling.NEAREST), (_AXIS, 0))
    pen = ImageDraw.Draw(panel)

    top = hertz_to_mel(min(MAX_FREQUENCY, extractor.sampling_rate / 2))
    for hertz in (100, 500, 1000, 2000, 4000, 8000, 16000):
        # The filters are centred on all but the outer ones of `bins + 2` even steps of mel.
        centre = hertz_to_mel(hertz) / top * (bins + 1) - 1
        y = height * (1 - (centre + 0.5) / bins)
        if 0 <= y < height:
            pen.line([(_AXIS - 7, y), (_AXIS - 1, y)], _INK)
            text = f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
            pen.text((_AXIS - 11, y), text, _PALE, font, anchor="rm")

    seconds = rows * extractor.hop_length / extractor.sampling_rate
    step = _step(seconds / 8)
    for index in range(int(np.ceil(start / step)), int((start + seconds) / step) + 1):
        x = _AXIS + (index * step - start) / seconds * width
        pen.line([(x, height), (x, height + 6)], _INK)
        pen.text((x, height + 9), f"{index * step:g} s", _PALE, font, anchor="ma" if x < _AXIS + width - 20 else "ra")
    return panel


def _step(minimum: float) -> float:
    """The smallest number that is at least `minimum` and 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(minimum))
    return float(next(digit * power for digit in (1, 2, 5, 10) if digit * power >= minimum))


def _scale() -> Image.Image:
    """The colour scale of the spectrogram."""
    font, width = _font(16), 200
    bar = np.repeat(_colours(np.linspace(-1, 1, width, dtype=np.float32))[None], 14, axis=0)
    panel = Image.new("RGB", (_AXIS + width + 420, 24), _PAPER)
    panel.paste(Image.fromarray(bar), (_AXIS + 30, 4))
    pen = ImageDraw.Draw(panel)
    pen.text((_AXIS + 22, 11), "-1", _PALE, font, anchor="rm")
    pen.text((_AXIS + 38 + width, 11), "1, log-mel power in the model's units", _PALE, font, anchor="lm")
    return panel


def _stack(panels: Sequence[Image.Image]) -> Image.Image:
    """The panels in one column."""
    height = sum(panel.height + _GAP for panel in panels) - _GAP
    sheet, top = Image.new("RGB", (max(panel.width for panel in panels), height), _PAPER), 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height + _GAP
    return sheet


def _rows(panels: Sequence[Image.Image]) -> list[Image.Image]:
    """Panels of equal height, arranged in rows of at most the width of the sheet."""
    step = max(panel.width for panel in panels) + 3 * _GAP
    across = max(1, (FULL_WIDTH + 3 * _GAP) // step)
    rows = []
    for start in range(0, len(panels), across):
        row = panels[start : start + across]
        rows.append(Image.new("RGB", ((len(row) - 1) * step + row[-1].width, row[0].height), _PAPER))
        for index, panel in enumerate(row):
            rows[-1].paste(panel, (index * step, 0))
    return rows
