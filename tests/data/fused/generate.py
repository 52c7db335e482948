"""Write golden.json: what transformers 4.40.2 answers for one deterministic clip, from frames and sound to outputs.

Run from the repository root with transformers 4.40.2: `python -m tests.data.fused.generate`. It uses `init_checkpoint`
of this package, whose weights are stored as a SHA-256; pre-processing and model are those of transformers.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_name("golden.json")
RATE = 44100
SEED = 40402
CONFIG: dict[str, Any] = {
    "image_size": 32,
    "spectrogram_length": 112,
    "frequency_length": 32,
    "num_frames": 4,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
}
ARCHITECTURES = {
    "feature-extraction": "TvltModel",
    "audio-visual-classification": "TvltForAudioVisualClassification",
}


def frames() -> np.ndarray:
    """Three frames (3, 45, 61, 3) uint8: ramps in every axis, computed in integers."""
    time, row, column, channel = np.ogrid[:3, :45, :61, :3]
    return np.asarray((37 * time + 5 * row + 3 * column * (channel + 1) + row * column // 7) % 256, np.uint8)


def waveform() -> np.ndarray:
    """0.6 s (26460,) float32: a triangle wave that rises in pitch and falls in loudness, computed in integers."""
    n = np.arange(RATE * 6 // 10, dtype=np.int64)
    phase = (n * (400 + n // 50)) % RATE
    triangle = np.abs(2 * phase - RATE) * 2 - RATE
    return (triangle * (30000 - n) / (RATE * 40000)).astype(np.float32)


def write_checkpoint(directory: Path, task: str) -> str:
    """Write the seeded checkpoint of a task, and return the SHA-256 of its weights in the order of their names."""
    from safetensors.numpy import load_file

    from tvlt_deploy.reference import TvltConfig, init_checkpoint

    init_checkpoint(directory, TvltConfig(**CONFIG), SEED, ARCHITECTURES[task])
    weights = load_file(directory / "model.safetensors")
    return hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()


def picked(values: np.ndarray) -> dict[str, Any]:
    """The shape, the sum of magnitudes, and sixteen values spread over an array."""
    flat = np.asarray(values, np.float64).reshape(-1)
    places = np.linspace(0, flat.size - 1, min(16, flat.size)).astype(int)
    return {
        "shape": list(np.shape(values)),
        "magnitude": float(np.abs(flat).sum()),
        "values": [round(float(value), 7) for value in flat[places]],
    }


def main() -> None:
    import torch
    import transformers

    size = CONFIG["image_size"]
    image_processor = transformers.TvltImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, num_frames=CONFIG["num_frames"]
    )
    feature_extractor = transformers.TvltFeatureExtractor(
        spectrogram_length=CONFIG["spectrogram_length"], feature_size=CONFIG["frequency_length"]
    )
    image = image_processor(list(frames()), return_tensors="pt")
    sound = feature_extractor(waveform(), sampling_rate=RATE, return_tensors="pt")
    inputs = {name: tensor.float() for name, tensor in {**image, **sound}.items()}
    golden: dict[str, Any] = {
        "transformers": transformers.__version__,
        "inputs": {name: picked(tensor.numpy()) for name, tensor in inputs.items()},
    }
    for task, architecture in ARCHITECTURES.items():
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            digest = write_checkpoint(Path(folder), task)
            model = getattr(transformers, architecture).from_pretrained(folder).eval()
            output = model(**inputs)
        names = [name for name in ("logits", "last_hidden_state") if name in output]
        golden[task] = {"sha256": digest, "outputs": {name: picked(output[name].numpy()) for name in names}}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
