"""Compare transformers 4.40.2, its plain ONNX export on ONNX Runtime and OpenVINO, and tvlt_deploy in one run.

    python benchmarks/peers.py [--config base|small] [--repeats N] [--threads N] [--scenario PART] [--json FILE]
        [--folder DIR]

All contenders load the same seeded random weights, use the same number of threads and are called in turns. Both int8
models are calibrated on the same clips. Targets are printed next to the ratios; nothing is asserted. The int8 peer on
OpenVINO needs `pip install nncf` and is skipped with a message without it.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
import transformers
from rich.console import Console
from rich.table import Table

import tvlt_deploy
from tvlt_deploy._internal import machine
from tvlt_deploy._internal.atomic import write_json
from tvlt_deploy.bench.system_load import SystemLoad, system_load_text
from tvlt_deploy.bench.workloads import Workload, make_workload
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.parity.cases import synthetic_clip
from tvlt_deploy.reference import init_checkpoint
from tvlt_deploy.workflows.quantize import quantize

RATE = 44100
CLASSIFIER = "TvltForAudioVisualClassification"
CONFIGS = {
    "base": {},
    "small": {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768},
}
EAGER, NAIVE, OURS = "transformers eager", "plain ONNX export", "tvlt_deploy"
OPENVINO, OURS_FP32 = "plain export, OpenVINO bf16", "tvlt_deploy fp32"
NNCF = {False: "plain export, NNCF int8", True: "plain export, NNCF int8 but attention"}
NAMES = {
    "eager": EAGER,
    "naive": NAIVE,
    "nncf": NNCF[True],
    "fp32": OURS_FP32,
    "np": "transformers np",
    "pt": "transformers pt",
    "features": "transformers",
}
PAUSE = 0.05  # seconds between calls, so that the threads of one contender stop spinning before the next starts
IMPORT_TARGET, MEMORY_TARGET = 0.2, 1.6e9

Calls = dict[str, Callable[[], np.ndarray]]


@dataclass
class Scenario:
    """Results of one scenario: seconds of each call, and the max difference of the answers."""

    name: str
    seconds: dict[str, list[float]]
    difference: float
    targets: dict[str, float]

    def median(self, contender: str) -> float:
        return statistics.median(self.seconds[contender])

    def ratio(self, contender: str) -> float:
        return self.median(contender) / self.median(OURS)

    def min_ratio(self, contender: str) -> float:
        """Ratio of the min times, which other load on the machine affects least."""
        return min(self.seconds[contender]) / min(self.seconds[OURS])


@dataclass
class Results:
    """All results of a run."""

    config: str
    threads: int
    repeats: int
    machine: dict[str, Any]
    versions: dict[str, str]
    scenarios: list[Scenario] = field(default_factory=list)
    bystander_cores: float | None = None
    import_seconds: float = 0.0
    import_loads_torch: bool = False
    peak_memory: int = 0


def compare(name: str, calls: Calls, repeats: int, **targets: float) -> Scenario:
    """Call each contender once unmeasured, then once per round for `repeats` rounds, in alternating order."""
    say(f"{name}: {', '.join(calls)}")
    answers = {contender: call() for contender, call in calls.items()}
    difference = max(float(np.abs(answer - answers[OURS]).max()) for answer in answers.values())
    del answers
    seconds: dict[str, list[float]] = {contender: [] for contender in calls}
    for turn in range(repeats):
        for contender in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            gc.collect()
            time.sleep(PAUSE)
            start = time.perf_counter()
            calls[contender]()
            seconds[contender].append(time.perf_counter() - start)
    scenario = Scenario(name, seconds, difference, {NAMES[key]: value for key, value in targets.items()})
    say("    " + ", ".join(f"{contender} {1000 * scenario.median(contender):.1f} ms" for contender in calls))
    return scenario


def naive_export(model: torch.nn.Module, feeds: dict[str, np.ndarray], path: Path) -> None:
    """Export the model as the exporter's documentation describes: one call, dynamic axes."""
    axes = {
        "pixel_values": {0: "batch", 1: "frames"},
        "audio_values": {0: "batch", 2: "rows"},
        "pixel_mask": {0: "batch", 1: "pixel_patches"},
        "audio_mask": {0: "batch", 1: "audio_patches"},
    }
    arguments = {name: torch.from_numpy(np.concatenate([feeds[name]] * 2)) for name in axes}
    torch.onnx.export(
        model,
        (),
        str(path),
        kwargs=arguments,
        dynamo=True,
        opset_version=18,
        dynamic_shapes={name: dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC) for name, dynamic in axes.items()},
        input_names=list(axes),
        output_names=["logits"],
        external_data=True,
        verbose=False,
    )


def is_attention(node: openvino.Node) -> bool:
    """Whether a node multiplies two activations."""

    def constant(value: openvino.Node) -> bool:
        kind, views = value.get_type_name(), ("Convert", "Reshape", "Transpose")
        return kind == "Constant" or (kind in views and constant(value.input_value(0).node))

    return node.get_type_name() == "MatMul" and not any(constant(node.input_value(side).node) for side in (0, 1))


class Peers:
    """All contenders, loaded."""

    def __init__(self, folder: Path, config: TvltConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        checkpoint, bundle, naive = folder / "checkpoint", folder / "bundle", folder / "naive" / "model.onnx"
        if not checkpoint.exists():
            say("writing the checkpoint")
            init_checkpoint(checkpoint, config, architecture=CLASSIFIER)
        if not bundle.exists():
            say("exporting the bundle")
            tvlt_deploy.export(checkpoint, bundle, task="audio-visual-classification", verify=False)
        self.bundle = bundle
        self.ours = tvlt_deploy.load(bundle, threads=threads)
        self.image_processor = transformers.TvltImageProcessor()
        self.feature_extractor = transformers.TvltFeatureExtractor()
        self.model = getattr(transformers, CLASSIFIER).from_pretrained(checkpoint).eval()
        if not naive.exists():
            say("exporting transformers' model")
            naive.parent.mkdir()
            naive_export(self.model, self.feeds(make_workload("clip10", 8, 24.0, RATE), "np"), naive)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(naive), options, providers=["CPUExecutionProvider"])
        clips = self.calibration_clips()
        if "int8" not in Bundle(bundle).precisions:
            say("calibrating the bundle")
            quantize(bundle, clips, verify=False)
        self.naive, self.threads = naive, threads
        self.clips = clips

    def calibration_clips(self) -> list[dict[str, np.ndarray]]:
        """Calibration clips of both int8 models."""
        config = Bundle(self.bundle).config
        sizes = [(frames, min(steps, config.time_patches)) for frames, steps in ((1, 5), (2, 27), (4, 20), (8, 54))]
        return [synthetic_clip(config, *size, 300 + index) for index, size in enumerate(sizes)]

    def openvino(self, model: openvino.Model, precision: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        """Compile the model as OpenVINO's documentation describes for one stream."""
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        threads = {"INFERENCE_NUM_THREADS": self.threads}
        request = openvino.Core().compile_model(model, "CPU", {**hints, **threads}).create_infer_request()

        def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
            request.infer(feeds, share_inputs=True)
            logits: np.ndarray = request.get_output_tensor(0).data.copy()
            return logits

        return run

    def nncf(self, keep_attention: bool) -> openvino.Model | None:
        """Quantize the plain export as NNCF's documentation describes for a transformer. None without NNCF.

        `keep_attention` excludes products of two activations, as tvlt_deploy does.
        """
        try:
            import nncf
        except ImportError:
            say("nncf is not installed; its int8 model is skipped")
            return None
        say("quantizing the plain export with NNCF")
        model, dataset = openvino.Core().read_model(self.naive), nncf.Dataset(self.clips)
        kept = [node.get_friendly_name() for node in model.get_ops() if is_attention(node)] if keep_attention else []
        return nncf.quantize(
            model,
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(self.clips),
            ignored_scope=nncf.IgnoredScope(names=kept),
        )

    def half(self, workload: Workload) -> Calls:
        """bf16: the plain export on OpenVINO, and tvlt_deploy."""
        feeds, eager = self.feeds(workload, "np"), self.model_only(workload)[EAGER]
        plain = self.openvino(openvino.Core().read_model(self.naive), "bf16")
        ours = tvlt_deploy.load(self.bundle, "openvino", precision="bf16", threads=self.threads).runtime
        return {EAGER: eager, OPENVINO: lambda: plain(feeds), OURS: lambda: ours.run(feeds)["logits"]}

    def quantized(self, workload: Workload) -> Calls:
        """int8 on OpenVINO: the plain export quantized with NNCF, and tvlt_deploy."""
        feeds, eager = self.feeds(workload, "np"), self.model_only(workload)[EAGER]
        ours = tvlt_deploy.load(self.bundle, "openvino", precision="int8", threads=self.threads).runtime
        calls: Calls = {EAGER: eager, OURS: lambda: ours.run(feeds)["logits"]}
        for keep_attention, name in NNCF.items():
            model = self.nncf(keep_attention)
            if model is not None:
                calls[name] = functools.partial(self.openvino(model, "bf16"), feeds)
        return calls

    def quantized_onnxruntime(self, workload: Workload) -> Calls:
        """tvlt_deploy on ONNX Runtime: fp32 and int8."""
        feeds = self.feeds(workload, "np")
        ours = tvlt_deploy.load(self.bundle, precision="int8", threads=self.threads).runtime
        return {OURS_FP32: lambda: self.ours.runtime.run(feeds)["logits"], OURS: lambda: ours.run(feeds)["logits"]}

    def feeds(self, workload: Workload, return_tensors: str) -> dict[str, Any]:
        """Inputs of one clip from transformers' processors."""
        pixels = self.image_processor([list(workload.images[0])], return_tensors=return_tensors)
        sound = self.feature_extractor(list(workload.audio), sampling_rate=RATE, return_tensors=return_tensors)
        feeds = {**pixels, **sound}
        if return_tensors == "np":
            feeds["pixel_mask"] = feeds["pixel_mask"].astype(np.float32)
        return feeds

    def padded_feeds(self, workload: Workload) -> dict[str, np.ndarray]:
        """All clips as one batch. Frames are padded here, because transformers' image processor cannot."""
        sound = self.feature_extractor(list(workload.audio), sampling_rate=RATE, return_tensors="np")
        videos = [self.image_processor([list(clip)], return_tensors="np") for clip in workload.images]
        longest = max(video["pixel_values"].shape[1] for video in videos)
        pixels = np.zeros((len(videos), longest, *videos[0]["pixel_values"].shape[2:]), np.float32)
        mask = np.zeros(
            (len(videos), videos[0]["pixel_mask"].shape[1] // len(workload.images[0]) * longest), np.float32
        )
        for row, video in enumerate(videos):
            pixels[row, : video["pixel_values"].shape[1]] = video["pixel_values"][0]
            mask[row, : video["pixel_mask"].shape[1]] = video["pixel_mask"][0]
        return {"pixel_values": pixels, "pixel_mask": mask, **sound}

    def run_eager(self, tensors: dict[str, torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = self.model(**tensors).logits.numpy()
        return logits

    def run_naive(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        feeds = {name: np.ascontiguousarray(array, np.float32) for name, array in feeds.items()}
        logits: np.ndarray = self.session.run(["logits"], feeds)[0]
        return logits

    def run_ours(self, workload: Workload) -> np.ndarray:
        outputs = self.ours(images=list(workload.images), audio=list(workload.audio), sampling_rate=RATE)
        return np.asarray(outputs["logits"])

    def model_only(self, workload: Workload) -> Calls:
        feeds = self.feeds(workload, "np")
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in feeds.items()}
        return {
            EAGER: lambda: self.run_eager(tensors),
            NAIVE: lambda: self.run_naive(feeds),
            OURS: lambda: self.ours.runtime.run(feeds)["logits"],
        }

    def end_to_end(self, workload: Workload) -> Calls:
        return {
            EAGER: lambda: self.run_eager(self.feeds(workload, "pt")),
            NAIVE: lambda: self.run_naive(self.feeds(workload, "np")),
            OURS: lambda: self.run_ours(workload),
        }

    def ragged(self, workload: Workload) -> Calls:
        return {NAIVE: lambda: self.run_naive(self.padded_feeds(workload)), OURS: lambda: self.run_ours(workload)}

    def features(self, workload: Workload) -> Calls:
        sound = {"raw_speech": [workload.audio[0]], "sampling_rate": RATE, "return_tensors": "np"}
        ours = self.ours.processor.feature_extractor
        return {
            NAMES["features"]: lambda: self.feature_extractor(**sound)["audio_values"],
            OURS: lambda: ours(**sound)["audio_values"],
        }

    def images(self, workload: Workload) -> Calls:
        frames, ours = list(workload.images[0]), self.ours.processor.image_processor
        return {
            NAMES["np"]: lambda: self.image_processor([frames], return_tensors="np")["pixel_values"],
            NAMES["pt"]: lambda: self.image_processor([frames], return_tensors="pt")["pixel_values"].numpy(),
            OURS: lambda: ours([frames], return_tensors="np")["pixel_values"],
        }


def import_time(repeats: int) -> tuple[float, bool]:
    """Median seconds of `import tvlt_deploy` in a new interpreter, and whether it loads torch."""
    code = (
        "import sys, time; start = time.perf_counter(); import tvlt_deploy; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    runs = [fresh(code).split() for _ in range(max(3, repeats))]
    return statistics.median(float(seconds) for seconds, _ in runs), any(torch == "True" for _, torch in runs)


def peak_memory(bundle: Path, threads: int) -> int:
    """Peak bytes of a new process that loads the bundle and answers clip10 once."""
    return int(
        fresh(
            "import sys, tvlt_deploy; from tvlt_deploy.bench.memory import peak_memory; "
            "from tvlt_deploy.bench.workloads import make_workload; "
            f"clip = make_workload('clip10', 8, 24.0, {RATE}); "
            "pipe = tvlt_deploy.load(sys.argv[1], threads=int(sys.argv[2])); "
            f"pipe.predict(images=list(clip.images), audio=list(clip.audio), sampling_rate={RATE}); "
            "print(peak_memory())",
            str(bundle),
            str(threads),
        )
    )


def fresh(code: str, *arguments: str) -> str:
    """Output of the code in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def measure(folder: Path, options: argparse.Namespace) -> Results:
    described = machine.describe_machine()
    peers = Peers(folder, TvltConfig(**CONFIGS[options.config]), options.threads)
    versions = {**machine.imported_versions(), "transformers": transformers.__version__}
    results = Results(options.config, options.threads, options.repeats, described, versions)
    image10, clip10, ragged = (make_workload(name, 8, 24.0, RATE) for name in ("image10", "clip10", "ragged"))
    quick, slow = max(10, options.repeats), options.repeats
    scenarios: list[tuple[str, Callable[[], Calls], int, dict[str, float]]] = [
        ("10 s of sound, features", lambda: peers.features(clip10), quick, {"features": 2.5}),
        ("8 frames of 640x360", lambda: peers.images(clip10), quick, {"np": 1.0}),
        ("image10, model only", lambda: peers.model_only(image10), slow, {}),
        ("image10, end to end", lambda: peers.end_to_end(image10), slow, {}),
        ("clip10, model only", lambda: peers.model_only(clip10), slow, {"eager": 2.4, "naive": 1.1}),
        ("clip10, end to end", lambda: peers.end_to_end(clip10), slow, {"eager": 2.4, "naive": 1.1}),
        ("ragged, end to end", lambda: peers.ragged(ragged), slow, {"naive": 2.0}),
        ("clip10, bf16 on OpenVINO", lambda: peers.half(clip10), slow, {"eager": 5.0}),
        ("clip10, int8 on OpenVINO", lambda: peers.quantized(clip10), slow, {"eager": 7.0, "nncf": 1.08}),
        ("clip10, int8 on ONNX Runtime", lambda: peers.quantized_onnxruntime(clip10), slow, {"fp32": 1.3}),
    ]
    load = SystemLoad()
    for name, calls, repeats, targets in scenarios:
        if any(part in name for part in options.scenario or [""]):
            results.scenarios.append(compare(name, calls(), repeats, **targets))
    results.bystander_cores = load.other_cores()
    results.import_seconds, results.import_loads_torch = import_time(options.repeats)
    results.peak_memory = peak_memory(peers.bundle, options.threads)
    return results


def render(results: Results, console: Console) -> None:
    where = results.machine
    console.print(f"TVLT-{results.config}, {results.threads} threads, {results.repeats} repeats, medians")
    console.print(f"{where['cpu']}, {where['cores']} cores, {where['memory'] / 2**30:.0f} GiB; {where['os']}")
    console.print(system_load_text(results.bystander_cores))
    console.print(", ".join(f"{name} {version}" for name, version in results.versions.items()))
    table = Table("scenario", "contender")
    for title in ("median ms", "min ms", "speedup", "speedup, min", "target", "max difference"):
        table.add_column(title, justify="right")
    for scenario in results.scenarios:
        for contender, seconds in scenario.seconds.items():
            ours, target = contender == OURS, scenario.targets.get(contender)
            table.add_row(
                scenario.name if contender == next(iter(scenario.seconds)) else "",
                contender,
                f"{1000 * scenario.median(contender):.1f}",
                f"{1000 * min(seconds):.1f}",
                "" if ours else f"{scenario.ratio(contender):.2f}x",
                "" if ours else f"{scenario.min_ratio(contender):.2f}x",
                "" if target is None else f"{target:g}x",
                f"{scenario.difference:.1e}" if ours else "",
            )
        table.add_section()
    console.print(table)
    loads = "loads torch" if results.import_loads_torch else "without torch"
    console.print(f"import tvlt_deploy: {results.import_seconds:.3f} s, {loads} (target {IMPORT_TARGET} s, without)")
    console.print(
        f"peak memory of clip10 in a new process: {results.peak_memory / 1e9:.2f} GB (target {MEMORY_TARGET / 1e9} GB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="base", help="base: the default model; small: a quick run")
    parser.add_argument("--repeats", type=int, default=5, help="measured calls of each contender (default 5)")
    parser.add_argument("--threads", type=int, default=machine.usable_cores(), help="threads of each contender")
    parser.add_argument(
        "--scenario", action="append", metavar="PART", help="only scenarios named so in part; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep checkpoint, bundle and export for later runs")
    options = parser.parse_args()
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.folder is None else options.folder / options.config
        folder.mkdir(parents=True, exist_ok=True)
        results = measure(folder, options)
    render(results, Console() if sys.stdout.isatty() else Console(width=140))
    if options.json:
        write_json(options.json, asdict(results))


if __name__ == "__main__":
    main()
