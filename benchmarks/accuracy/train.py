"""Train the judge's model from a seed, write its checkpoint and print its accuracy.

    python -m benchmarks.accuracy.train [DIRECTORY] [--seed N] [--steps N] [--sounds N]

About five minutes on one core; the same seed results in the same weights on the same machine and versions.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import nn

from benchmarks.accuracy.judge import CHECKPOINT, evaluate
from benchmarks.accuracy.synthetic import CLASSES, CONFIG, Clips, make_clips, trim
from tvlt_deploy.reference import TvltForAudioVisualClassification

BATCH = 64
PEAK_RATE = 1e-3
WARM_UP = 100  # steps
MIXED = 0.4  # share of the steps in which two of three batches contain one modality only


def draw_batch(clips: Clips, random: np.random.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """A batch of random pairs of frames and sound, which multiplies the clips: inputs, what is seen, what is heard."""
    seen, heard = random.integers(len(clips), size=(2, BATCH))
    feeds = trim({name: values[seen if name.startswith("pixel") else heard] for name, values in clips.feeds.items()})
    tensors = {name: torch.from_numpy(values) for name, values in feeds.items()}
    return tensors, torch.from_numpy(clips.seen[seen]), torch.from_numpy(clips.heard[heard])


def only(sense: str, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with the other modality replaced by one masked frame or row of patches."""
    if sense == "pixel":
        values, mask = feeds["audio_values"][:, :, : CONFIG.audio_patch[0]], feeds["audio_mask"]
        other, count = "audio", CONFIG.frequency_patches
    else:
        values, mask = feeds["pixel_values"][:, :1], feeds["pixel_mask"]
        other, count = "pixel", CONFIG.patches_per_frame
    return feeds | {f"{other}_values": torch.zeros_like(values), f"{other}_mask": torch.zeros_like(mask[:, :count])}


def train(clips: Clips, seed: int, steps: int) -> TvltForAudioVisualClassification:
    """Train a model on random pairs of frames and sounds of the clips.

    One modality alone does not lower the loss of the sum. Therefore two more heads predict what is seen and what is
    heard during training, and many of the first steps contain one modality only.
    """
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    model = TvltForAudioVisualClassification(CONFIG, generator)
    for name, parameter in model.named_parameters():
        if "embed" in name and "projection" not in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    heads = nn.ModuleDict({sense: nn.Linear(CONFIG.hidden_size, CLASSES) for sense in ("pixel", "audio")})
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.05)
    decay = lambda step: min(1.0, 2 * (1 - step / steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARM_UP, decay(step)))
    started, means = time.monotonic(), dict.fromkeys(("pixel", "audio", "both"), math.log(CLASSES))
    for step in range(steps):
        feeds, *kinds = draw_batch(clips, random)
        targets = dict(zip(heads, kinds, strict=True))
        if step < MIXED * steps:
            sense = ("pixel", "audio", "both")[step % 3]
            if sense in targets:
                feeds, targets = only(sense, feeds), {sense: targets[sense]}
        token = model.tvlt(**feeds).last_hidden_state[:, 0]
        losses = {sense: F.cross_entropy(heads[sense](token), kind) for sense, kind in targets.items()}
        if len(targets) == 2:
            losses["both"] = F.cross_entropy(model.classifier(token), sum(targets.values()) % CLASSES)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        for name, loss in losses.items():
            means[name] += 0.05 * (loss.item() - means[name])
        if (step + 1) % 100 == 0:
            listed = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            print(f"step {step + 1}/{steps}: losses {listed}; {time.monotonic() - started:.0f} s", flush=True)
    return model.eval()


def save(model: TvltForAudioVisualClassification, directory: Path) -> None:
    """Write a checkpoint with weights rounded to half precision, to halve its size."""
    model.save_pretrained(directory)
    file = directory / "model.safetensors"
    state = {name: tensor.half() for name, tensor in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})


def main() -> None:
    """Train, save, load and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=CHECKPOINT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--sounds", type=int, default=7000, help="clips to draw frames and sounds from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"rendering {options.sounds} clips", flush=True)
    save(train(make_clips("train", options.sounds), options.seed, options.steps), options.directory)
    model = TvltForAudioVisualClassification.from_pretrained(options.directory)
    held_out = make_clips("held-out", 1000)
    print(f"held-out accuracy {evaluate(model, held_out):.4f}")
    for sense in ("pixel", "audio"):
        print(f"without {sense}: {evaluate(model, held_out.without(sense)):.4f} (chance {1 / CLASSES:.4f})")


if __name__ == "__main__":
    main()
