"""Golden vectors: the arrays of every stage from frames and sound to outputs, to check another program against.

docs/how-to/golden-vectors.md describes the files.
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
from tvlt_deploy._internal.progress import Progress, counted, silent
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
from tvlt_deploy.processors.spectrogram import DYNAMIC_RANGE, MIN_POWER
from tvlt_deploy.tasks import TOLERANCES

INDEX_FILE = "index.json"
FORMAT = 1
GIVEN = ("frames", "waveform", "pixel_noise", "audio_noise")
"""Arrays that a program reads. It computes the others."""


@dataclass(frozen=True)
class Stage:
    """One stage of the computation.

    Attributes:
        name: name of its array.
        description: shape and content of the array.
        tolerance: max absolute difference; with `relative`, as a share of the largest value.
        relative: whether the tolerance is relative.
    """

    name: str
    description: str
    tolerance: float
    relative: bool = False


STAGES = (
    Stage("resized", "(frames, 3, height, width) levels 0..255 after resize and centre crop", 0.0),
    Stage("pixel_values", "(1, frames, 3, height, width) after rescaling and normalization", 1e-6),
    Stage("spectrum", "(1 + samples // hop, n_fft / 2 + 1) squared magnitudes of the windowed transform", 1e-6, True),
    Stage("mel", "(1 + samples // hop, filters) mel power", 1e-6, True),
    Stage("decibel", "(rows, filters) dB, at least 80 dB below the loudest", 2e-3),
    Stage(
        "audio_values", "(1, 1, padded rows, filters) clip((dB - 20) / 40, -2, 0) + 1, padded to whole patches", 5e-5
    ),
    Stage("pixel_mask", "(1, patches) 1 for patches of frames, 0 for absent frames", 0.0),
    Stage("audio_mask", "(1, patches) 1 for patches of sound, 0 for absent sound", 0.0),
)
"""In the order of the computation, followed by the outputs of the task."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of one stage over all clips in a dump.

    Attributes:
        stage: name of the stage.
        difference: the largest difference, relative if the stage's tolerance is; infinity for another shape.
        tolerance: the max difference.
        clip: name of the clip with the largest difference.
        clips: number of clips that were compared.
        detail: where the difference is.
    """

    stage: str
    difference: float
    tolerance: float
    clip: str
    clips: int
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; False for NaN."""
        return self.difference <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """JSON values for `--json`; a difference that is not finite becomes a string."""
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
    """Write golden vectors of a bundle: what the pipeline computes on ONNX Runtime in fp32 for synthetic clips.

    Args:
        bundle: a bundle or its directory.
        directory: a new or empty directory for `index.json` and an .npy file for each array.
        threads: CPU threads, by default all cores.
        progress: called with a line of text for each clip.

    Returns:
        Path of `index.json`.

    Raises:
        UsageError: the directory is not empty, or the bundle has pre-processing of another kind.
        TvltError: as `tvlt_deploy.load`.
    """
    opened = open_bundle(bundle)
    target = Path(directory)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"{target} is not empty", hint="choose another directory for the vectors")
    with load(opened, threads=threads) as pipeline, staged_directory(target) as stage:
        processor = pipeline.processor
        if not isinstance(processor, TvltProcessor):
            raise UsageError(
                f"{opened.directory} is pre-processed by {processor.file_name}; expected {PREPROCESSOR_FILE}"
            )
        extractor = processor.feature_extractor
        clips = []
        cases = list(raw_cases(opened.config, extractor.hop_length, extractor.max_rows))
        for index, case in enumerate(counted(cases, "clip", progress, lambda case: case.name)):
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
    return {name: bundle.manifest.files[name].sha256 for name in names if name in bundle.manifest.files}


def _stages(bundle: Bundle) -> tuple[Stage, ...]:
    """All stages of a bundle's task."""
    limits = TOLERANCES["fp32"]
    outputs = []
    for name in bundle.task.output_names:
        limit = limits.absolute_hidden if is_hidden(name) else limits.absolute_logits
        exact = name.endswith("_label_mask")
        outputs.append(Stage(name, "(1, ...) as the pipeline returns it", 0.0 if exact else float(limit or 0)))
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
    floor = np.float32(max(MIN_POWER, float(mel.max()) * DYNAMIC_RANGE))
    yield "decibel", 10 * np.log10(np.maximum(mel[:rows], floor))


# Checking ------------------------------------------------------------------------------------------------------------


def check_dump(bundle: BundleLike, directory: str | os.PathLike[str], dump: str | os.PathLike[str]) -> list[Comparison]:
    """Compare the arrays of another program with the golden vectors.

    Args:
        bundle: a bundle or its directory.
        directory: the golden vectors that `write_vectors` wrote for this bundle.
        dump: a directory of .npy files of the same names. A stage may be missing, but not for some clips only.

    Returns:
        A comparison for each stage of the dump, in the order of the computation.

    Raises:
        UsageError: the dump is not a directory, or has no array of any stage.
        FileRefusedError: a file cannot be read.
        BundleError: the vectors were written for another bundle.
    """
    opened = open_bundle(bundle)
    vectors, other = Path(directory), Path(dump)
    index = _read_index(vectors, opened)
    if not other.is_dir():
        raise UsageError(
            f"{other} is not a directory", hint="give the directory that your program wrote its arrays into"
        )
    comparisons = []
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
                detail = f": the dump contains this stage of {len(compared)} clips, but no {file}"
                worst = replace(worst, clip=clip, difference=float("inf"), detail=detail)
            comparisons.append(replace(worst, clips=len(compared)))
    if not comparisons:
        raise UsageError(
            f"{other} contains no array of any stage; expected files such as 00/{STAGES[0].name}.npy",
            hint=f"{vectors / INDEX_FILE} lists them",
        )
    return comparisons


def raise_on_difference(comparisons: list[Comparison]) -> None:
    """Raise an error for the first stage that is out of tolerance.

    Args:
        comparisons: the result of `check_dump`.

    Raises:
        VerdictError: a stage is out of tolerance.
    """
    for item in comparisons:
        if not item.passed:
            raise VerdictError(
                f"the first stage that differs is {item.stage}: {item.difference:.3g} in the clip {item.clip!r}, "
                f"expected at most {item.tolerance:.3g}{item.detail}",
                hint="correct this stage first: later stages depend on it",
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
            f"{path} is not an index of golden vectors: {error}",
            hint="write them with tvlt-deploy conformance BUNDLE DIR",
        ) from error
    if not known or not inside:
        raise FileRefusedError(f"{path} has a format other than {FORMAT}", hint="write the vectors again")
    if index["source"] != _source(bundle):
        raise BundleError(f"{directory} was written from another bundle than {bundle.directory}")
    return dict(index)


def _load(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif":
            raise ValueError(f"it contains {getattr(values, 'dtype', type(values).__name__)}")
    except (OSError, ValueError, EOFError) as error:
        raise FileRefusedError(f"{path} is not an .npy file of real numbers: {error}") from error
    return values


def _compare(stage: Stage, clip: str, actual: np.ndarray, expected: np.ndarray) -> Comparison:
    if actual.shape != expected.shape:
        detail = f"; its shape is {actual.shape}, expected {expected.shape}"
        return Comparison(stage.name, float("inf"), stage.tolerance, clip, 1, detail)
    difference = np.abs(actual.astype(np.float64) - expected)
    if not difference.size:
        return Comparison(stage.name, 0.0, stage.tolerance, clip, 1)
    place = np.unravel_index(int(difference.argmax()), difference.shape)  # the first NaN, if there is one
    value = float(difference[place])
    if stage.relative:
        value /= max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    at = ", ".join(str(int(index)) for index in place)
    detail = f"; {actual[place]:.6g} at [{at}], expected {expected[place]:.6g}"
    return Comparison(stage.name, value, stage.tolerance, clip, 1, detail)
