"""Golden vectors of every stage from frames and sound to answers, and the first stage where another program differs.

The files are described in docs/how-to/golden-vectors.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal.atomic import staged_directory, write_json
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import ONNXRUNTIME_CPU_FORM
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.errors import BundleError, FileRefusedError, UsageError, VerdictError
from tvlt_deploy.inference.pipeline import Pipeline, load
from tvlt_deploy.parity.cases import RawCase, raw_cases
from tvlt_deploy.parity.metrics import is_hidden
from tvlt_deploy.processors import TvltFeatureExtractor, TvltProcessor
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE
from tvlt_deploy.processors.spectrogram import DYNAMIC_RANGE, LEAST_POWER
from tvlt_deploy.tasks import TOLERANCES

INDEX_FILE = "index.json"
FORMAT = 1
GIVEN = ("frames", "waveform", "pixel_noise", "audio_noise")
"""Arrays that a program reads; all others are what it must give."""


@dataclass(frozen=True)
class Stage:
    """What one stage gives and how far another program's may be from it.

    tolerance: limit on the largest absolute difference; with `relative`, as a share of the largest value.
    """

    name: str
    description: str
    tolerance: float
    relative: bool = False


STAGES = (
    Stage("resized", "(frames, 3, height, width) levels 0..255 after resize and centre crop", 0.0),
    Stage("pixel_values", "(1, frames, 3, height, width) after rescaling and normalising", 1e-6),
    Stage("spectrum", "(1 + samples // hop, n_fft / 2 + 1) squared magnitudes of the windowed transform", 1e-6, True),
    Stage("mel", "(1 + samples // hop, filters) mel power", 1e-6, True),
    Stage("decibel", "(rows, filters) dB, 80 dB below the loudest at least", 2e-3),
    Stage(
        "audio_values", "(1, 1, padded rows, filters) clip((dB - 20) / 40, -2, 0) + 1, padded to whole patches", 5e-5
    ),
    Stage("pixel_mask", "(1, patches) 1 for patches of frames, 0 for an absent picture", 0.0),
    Stage("audio_mask", "(1, patches) 1 for patches of sound, 0 for absent sound", 0.0),
)
"""In the order in which errors travel; the task's outputs follow."""


@dataclass(frozen=True)
class Comparison:
    """One stage of one program over all clips that it has dumped.

    difference: the largest, in the stage's measure; infinite for another shape. clip: where it is. clips: compared.
    """

    stage: str
    difference: float
    tolerance: float
    clip: str
    clips: int
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference keeps the tolerance; a NaN never does."""
        return self.difference <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """For `--json`; a difference that is not finite is text."""
        finite = self.difference if np.isfinite(self.difference) else str(self.difference)
        return {**asdict(self), "difference": finite, "passed": self.passed}


# Writing -------------------------------------------------------------------------------------------------------------


def write_vectors(
    bundle: BundleLike,
    directory: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Write golden vectors of a bundle into a new directory: `index.json`, and an .npy file for each array.

    They are what the pipeline computes on ONNX Runtime in fp32 for made-up clips of many sizes. Returns the index.
    Raises `UsageError` for a directory that is not empty, and for a bundle without pre-processing of this kind.
    """
    opened = open_bundle(bundle)
    target = Path(directory)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"{target} is not empty", hint="name another place for the vectors")
    with load(opened, threads=threads) as pipeline, staged_directory(target) as stage:
        processor = pipeline.processor
        if not isinstance(processor, TvltProcessor):
            raise UsageError(
                f"{opened.directory} is pre-processed by {processor.file_name}; wanted {PREPROCESSOR_FILE}"
            )
        extractor = processor.feature_extractor
        clips = []
        for index, case in enumerate(raw_cases(opened.config, extractor.hop_length, extractor.max_rows)):
            progress(f"clip {index + 1}: {case.name}")
            place = stage / f"{index:02d}"
            place.mkdir()
            arrays = {}
            for name, values in _arrays(pipeline, processor, case):
                np.save(place / f"{name}.npy", np.ascontiguousarray(values))
                file = f"{place.name}/{name}.npy"
                arrays[name] = {"file": file, "dtype": values.dtype.name, "shape": list(values.shape)}
            clips.append({"name": case.name, "arrays": arrays})
        write_json(
            stage / INDEX_FILE,
            {
                "format": FORMAT,
                "created_by": f"tvlt-deploy {__version__}",
                "task": opened.task.name,
                "source": _source(opened),
                "sampling_rate": extractor.sampling_rate,
                "given": list(GIVEN),
                "stages": [asdict(item) for item in _stages(opened)],
                "clips": clips,
            },
        )
    return target / INDEX_FILE


def _source(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of what the vectors depend on."""
    names = (CONFIG_FILE, PREPROCESSOR_FILE, *bundle.variant("fp32", ONNXRUNTIME_CPU_FORM).files)
    return {name: bundle.manifest["files"][name]["sha256"] for name in names if name in bundle.manifest["files"]}


def _stages(bundle: Bundle) -> tuple[Stage, ...]:
    """All stages of a bundle's task."""
    limits = TOLERANCES["fp32"]
    outputs = []
    for name in bundle.task.output_names:
        limit = limits.absolute_hidden if is_hidden(name) else limits.absolute_logits
        exact = name.endswith("_label_mask")
        outputs.append(Stage(name, "(1, ...) as the pipeline gives it", 0.0 if exact else float(limit or 0)))
    return (*STAGES, *outputs)


def _arrays(pipeline: Pipeline, processor: TvltProcessor, case: RawCase) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a clip, by name."""
    frames, wave, rate = case.frames, case.waveform, processor.feature_extractor.sampling_rate
    if frames is not None:
        yield "frames", frames
        levels = processor.image_processor(
            [list(frames)], do_rescale=False, do_normalize=False, input_data_format="channels_last"
        )
        yield "resized", levels["pixel_values"][0].astype(np.uint8)
    if wave is not None:
        yield "waveform", wave
        yield from _sound_stages(processor.feature_extractor, wave)
    feeds = pipeline.inputs(frames, wave, rate)
    absent = {"pixel_values"} if frames is None else {"audio_values"} if wave is None else set()
    yield from ((name, values) for name, values in feeds.items() if name not in absent)
    for name, outputs in pipeline([frames], [wave], rate).items():
        yield name, np.asarray(outputs[0])[None]


def _sound_stages(extractor: TvltFeatureExtractor, wave: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    log_mel = extractor.log_mel
    count = log_mel.frames(len(wave))
    spectrum = log_mel.spectrum(wave, 0, count)
    yield "spectrum", spectrum.real**2 + spectrum.imag**2
    mel = log_mel.mel(wave, 0, count)
    yield "mel", mel
    rows = min(count - 1, extractor.max_rows)
    floor = np.float32(max(LEAST_POWER, float(mel.max()) * DYNAMIC_RANGE))
    yield "decibel", 10 * np.log10(np.maximum(mel[:rows], floor))


# Checking ------------------------------------------------------------------------------------------------------------


def check_dump(bundle: BundleLike, directory: str | os.PathLike[str], dump: str | os.PathLike[str]) -> list[Comparison]:
    """Compare another program's arrays with the golden vectors, stage by stage in the order in which errors travel.

    directory: what `write_vectors` made of this bundle. dump: a directory of .npy files of the same names, as many of
    them as the program gives. A stage that it has for no clip is left out; one that it has for some must be there for
    all. Raises `UsageError` when it has none at all, `FileRefusedError` for files that cannot be read and vectors of
    another bundle.
    """
    opened = open_bundle(bundle)
    vectors, other = Path(directory), Path(dump)
    index = _read_index(vectors, opened)
    if not other.is_dir():
        raise UsageError(f"{other} is not a directory", hint="name the one that your program wrote its arrays into")
    found = []
    for stage in _stages(opened):
        compared = [
            _compare(stage, clip["name"], _load(other / file), _load(vectors / file))
            for clip in index["clips"]
            if (file := clip["arrays"].get(stage.name, {}).get("file")) and (other / file).exists()
        ]
        if compared:
            worst = max(compared, key=lambda item: np.inf if np.isnan(item.difference) else item.difference)
            missing = [
                (clip["name"], file)
                for clip in index["clips"]
                if (file := clip["arrays"].get(stage.name, {}).get("file")) and not (other / file).exists()
            ]
            if missing and worst.passed:
                clip, file = missing[0]
                detail = f": the dump holds this stage of {len(compared)} clips, but no {file}"
                worst = replace(worst, clip=clip, difference=float("inf"), detail=detail)
            found.append(replace(worst, clips=len(compared)))
    if not found:
        raise UsageError(
            f"{other} holds no array of any stage; wanted files such as 00/{STAGES[0].name}.npy",
            hint=f"{vectors / INDEX_FILE} lists them",
        )
    return found


def raise_on_difference(comparisons: list[Comparison]) -> None:
    """Raise `VerdictError` naming the first stage that differs and by how much."""
    for item in comparisons:
        if not item.passed:
            raise VerdictError(
                f"the first stage that differs is {item.stage}: {item.difference:.3g} in the clip {item.clip!r}, "
                f"wanted at most {item.tolerance:.3g}{item.detail}",
                hint="look there first: what comes after builds on it",
            )


def _read_index(directory: Path, bundle: Bundle) -> dict[str, Any]:
    path = directory / INDEX_FILE
    try:
        index = json.loads(path.read_bytes())
        known = index["format"] == FORMAT
        files = [array["file"] for clip in index["clips"] for array in clip["arrays"].values()]
        inside = all(isinstance(file, str) and ".." not in Path(file).parts for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileRefusedError(
            f"{path} is no index of golden vectors: {error}", hint="write them with tvlt-deploy conformance BUNDLE DIR"
        ) from error
    if not known or not inside:
        raise FileRefusedError(f"{path} has another format than {FORMAT}", hint="write the vectors again")
    if index["source"] != _source(bundle):
        raise BundleError(f"{directory} was written from another bundle than {bundle.directory}")
    return dict(index)


def _load(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif":
            raise ValueError(f"it holds {getattr(values, 'dtype', type(values).__name__)}")
    except (OSError, ValueError, EOFError) as error:
        raise FileRefusedError(f"{path} is no .npy file of real numbers: {error}") from error
    return values


def _compare(stage: Stage, clip: str, found: np.ndarray, wanted: np.ndarray) -> Comparison:
    if found.shape != wanted.shape:
        detail = f"; its shape is {found.shape}, wanted {wanted.shape}"
        return Comparison(stage.name, float("inf"), stage.tolerance, clip, 1, detail)
    difference = np.abs(found.astype(np.float64) - wanted)
    if not difference.size:
        return Comparison(stage.name, 0.0, stage.tolerance, clip, 1)
    place = np.unravel_index(int(difference.argmax()), difference.shape)  # the first NaN, if there is one
    value = float(difference[place])
    if stage.relative:
        value /= max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
    at = ", ".join(str(int(index)) for index in place)
    detail = f"; found {found[place]:.6g} at [{at}], wanted {wanted[place]:.6g}"
    return Comparison(stage.name, value, stage.tolerance, clip, 1, detail)
