"""The Python side of the C library: memory of a caller in, plain values out."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import truth
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.embedding import EmbeddedPipeline, describe
from tvlt_deploy.errors import InputError, MediaError, UsageError

RATE = 44100


@pytest.fixture(scope="module")
def embedded(bundle_of: Callable[..., Bundle]) -> Iterator[EmbeddedPipeline]:
    bundle = bundle_of("audio-visual-classification")
    embedded = EmbeddedPipeline(str(bundle.directory), "onnxruntime", "cpu", None, 2, None)
    yield embedded
    embedded.close()


def frames_of(count: int, seed: int = 0, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    return np.random.default_rng([seed, count]).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def sound_of(samples: int, seed: int = 0) -> np.ndarray:
    return (0.3 * np.random.default_rng([seed, samples]).standard_normal(samples)).astype(np.float32)


def view(frames: np.ndarray | None, samples: np.ndarray | None, rate: int = RATE) -> Any:
    """What the library passes for one clip without gaps between its rows."""
    shape = (0, 0, 0) if frames is None else frames.shape[:3]
    strides = (0, 0) if frames is None else frames.strides[:2]
    parts = [None if part is None else memoryview(part.tobytes()) for part in (frames, samples)]
    return parts[0], shape, strides, parts[1], 0 if samples is None else rate


def outputs_of(row: Any) -> dict[str, np.ndarray]:
    outputs, _ = row
    assert all(values.dtype == np.float32 and values.flags.c_contiguous for _, values in outputs)
    return dict(outputs)


def test_the_signature_lists_inputs_outputs_of_one_clip_and_labels(embedded: EmbeddedPipeline) -> None:
    inputs, outputs, labels = embedded.signature(raw=False)
    assert inputs[0] == ("pixel_values", (-1, -1, 3, 32, 32), "float32")
    assert [name for name, _, _ in inputs] == ["pixel_values", "audio_values", "pixel_mask", "audio_mask"]
    assert (outputs, labels) == ([("logits", (2,), "float32")], ["LABEL_0", "LABEL_1"])
    raw = [("frames", (-1, -1, -1, 3), "uint8"), ("waveform", (-1,), "float32")]
    assert embedded.signature(raw=True) == (raw, outputs, labels)


def test_clips_come_back_in_order_with_scores(embedded: EmbeddedPipeline) -> None:
    clips = [view(frames_of(4), sound_of(50_000)), view(frames_of(1), None), view(None, sound_of(9_000))]
    rows = embedded.run_clips(clips)
    backwards = embedded.run_clips(clips[::-1])
    assert len({outputs_of(row)["logits"].tobytes() for row in rows}) == 3
    for row, same in zip(rows, backwards[::-1], strict=True):
        logits = outputs_of(row)["logits"]
        np.testing.assert_allclose(outputs_of(same)["logits"], logits, rtol=0, atol=1e-5)
        names, scores, label, score = row[1]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert names == ["LABEL_0", "LABEL_1"]
        assert scores == pytest.approx(probabilities, abs=1e-6)
        assert (label, score) == (f"LABEL_{logits.argmax()}", max(scores))


def test_frames_may_have_gaps_between_rows_and_between_frames(embedded: EmbeddedPipeline) -> None:
    frames = frames_of(3)
    buffer = np.full((3, 50, 64, 3), 77, np.uint8)  # rows of 64 pixels, frames of 50 rows
    buffer[:, :40, :48] = frames
    content = memoryview(buffer.tobytes())
    gaps = (content, (3, 40, 48), buffer.strides[:2], None, 0)
    np.testing.assert_array_equal(
        outputs_of(embedded.run_clips([gaps])[0])["logits"],
        outputs_of(embedded.run_clips([view(frames, None)])[0])["logits"],
    )
    content.release()  # raises if an array on it still exists


def test_the_memory_of_the_caller_is_free_after_a_call(embedded: EmbeddedPipeline) -> None:
    clip = view(frames_of(2), sound_of(20_000))
    rows = embedded.run_clips([clip])
    before = outputs_of(rows[0])["logits"].copy()
    clip[0].release()
    clip[3].release()
    np.testing.assert_array_equal(outputs_of(rows[0])["logits"], before)


def test_tensors_are_answered_as_transformers_answers_them(
    embedded: EmbeddedPipeline, checkpoint_of: Callable[..., Path]
) -> None:
    feeds = truth.feeds(embedded.pipeline.config, 3, 2, 5, "padded both")
    rows = embedded.run_tensors([(name, values.shape, memoryview(values.tobytes())) for name, values in feeds.items()])
    checkpoint = checkpoint_of("TvltForAudioVisualClassification")
    expected = truth.hf_answers("audio-visual-classification", checkpoint, feeds)["logits"]
    np.testing.assert_allclose([outputs_of(row)["logits"] for row in rows], expected, rtol=0, atol=1e-4)
    assert [row[1][2] for row in rows] == [f"LABEL_{index}" for index in expected.argmax(axis=1)]


def test_tasks_without_labels_have_arrays_only(bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of("feature-extraction")
    embedded = EmbeddedPipeline(str(bundle.directory), "onnxruntime", "cpu", "fp32", 1, None)
    long, short = embedded.run_clips([view(frames_of(4), sound_of(3 * 8192)), view(None, sound_of(8192))])
    assert long[1] is short[1] is None
    assert outputs_of(long)["last_hidden_state"].shape == (1 + 4 * 4 + 3 * 2, 64)
    assert outputs_of(short)["last_hidden_state"].shape == (1 + 2, 64)
    embedded.close()
    with pytest.raises(InputError, match="closed"):
        embedded.run_clips([view(frames_of(1), None)])


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def test_media_files_have_a_window_and_may_be_strict(embedded: EmbeddedPipeline, tmp_path: Path) -> None:
    pytest.importorskip("av")
    sound = sound_of(2 * RATE)
    entire = write_wav(tmp_path / "entire.wav", sound)
    part = write_wav(tmp_path / "part.wav", sound[RATE // 2 : RATE])
    window, alone = embedded.run_media([(str(entire), None, 0.5, 0.5, False), (str(part), None, 0.0, None, False)])
    np.testing.assert_array_equal(outputs_of(window)["logits"], outputs_of(alone)["logits"])
    assert window[1] == alone[1]

    cut = write_wav(tmp_path / "cut.wav", sound[:RATE])
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 2])
    assert len(embedded.run_media([(str(cut), None, 0.0, None, False)])) == 1
    with pytest.raises(MediaError, match=r"cut\.wav.*without --strict this is a warning"):
        embedded.run_media([(str(cut), None, 0.0, None, True)])
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        embedded.run_media(
            [(str(entire), None, 0.0, None, False), (str(tmp_path / "nowhere.mp4"), None, 0.0, None, False)]
        )


def test_a_clip_of_another_rate_is_refused_wherever_it_is(embedded: EmbeddedPipeline) -> None:
    good, bad = view(None, sound_of(9_000)), view(None, sound_of(9_000), rate=16_000)
    for clips in ([bad], [good, bad], [bad, good]):
        with pytest.raises(InputError, match="resampl"):
            embedded.run_clips(clips)


def test_an_error_is_the_exit_code_of_the_command_and_its_message() -> None:
    assert describe(UsageError("wrong", hint="right")) == (2, "wrong (right)")
    assert describe(MediaError("damaged")) == (5, "damaged")
    assert describe(FileNotFoundError(2, "No such file", "x")) == (4, "FileNotFoundError: [Errno 2] No such file: 'x'")
    assert describe(MemoryError("full")) == (4, "MemoryError: full")
    try:
        raise KeyError("name")
    except KeyError as error:
        code, text = describe(error)
    assert code == 1
    assert text.startswith("Traceback")
    assert text.endswith("KeyError: 'name'\n")
