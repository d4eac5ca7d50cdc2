"""Times edgeseg's Mask R-CNN beside what one would use instead: same weights, same picture, taking turns.

    python benchmarks/rivals/maskrcnn.py --torchvision-python .venv-rival/bin/python \
        --out benchmarks/results/rivals_maskrcnn

Every contender goes from a picture in memory to boxes, scores, labels and boolean masks in the picture's pixels.
Before anything is timed, each one's detections are compared with those of edgeseg's PyTorch model. The picture has
by default the size that torchvision resizes others to: nobody resizes, and every network sees 800x1344.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

import edgeseg
import edgeseg_runtime
from edgeseg.models.maskrcnn.spec import key_table
from edgeseg.models.reference import ReferenceModel
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.interference import interference_between
from edgeseg_bench.latency import (
    Latency,
    Plan,
    Ratio,
    measure_interleaved,
    paired_ratio,
    warm_up,
)
from edgeseg_bench.metrics.agreement import Agreement, agreement_ap
from edgeseg_bench.system import read_counters
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import Environment, portable, read_environment
from edgeseg_runtime.results import Instances
from maskrcnn_profile import make_model

MODEL = "maskrcnn_resnet50_fpn"
NETWORK_SIZE = "800x1344"
EXPORT_SCRIPT = Path(__file__).with_name("export_torchvision.py")

TORCHVISION = "torchvision ONNX"
EAGER, COMPILED = "torch eager", "torch.compile"
FP32, INT8 = "edgeseg fp32", "edgeseg int8"
COMPARISONS = (
    (TORCHVISION, FP32),
    (EAGER, FP32),
    (COMPILED, FP32),
    (FP32, INT8),
    (TORCHVISION, INT8),
)
"""The first one's time is divided by the second one's."""
SCORE_THRESHOLD = 0.05  # torchvision's own

Picture = npt.NDArray[np.uint8]
Contender = Callable[[Picture], Instances]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was measured.

    Attributes:
        settings: of the command line.
        exporter: versions of torch and torchvision that exported torchvision's graph.
        sha256: contender -> digest of its graph.
        agreement: contender -> how far its detections are those of `EAGER`.
        latencies: contender -> sample r of each belongs to the same round.
        others_share: of the usable cores' time, what other processes used meanwhile; None = not known.
        environment: where it ran, read before.
    """

    settings: dict[str, Any]
    exporter: dict[str, str]
    sha256: dict[str, str]
    agreement: dict[str, Agreement]
    latencies: dict[str, Latency]
    others_share: float | None
    environment: Environment

    def ratios(self) -> dict[tuple[str, str], Ratio]:
        """Return the time ratio of every comparison whose contenders both ran."""
        samples = {name: latency.samples_ns for name, latency in self.latencies.items()}
        return {
            (slow, fast): paired_ratio(samples[slow], samples[fast])
            for slow, fast in COMPARISONS
            if slow in samples and fast in samples
        }


def main() -> None:
    """Exports what is not there yet, compares, measures and records."""
    arguments = parse_arguments()
    console = Console()
    environment = read_environment()
    torch.set_num_threads(arguments.threads)
    height, width = (int(side) for side in arguments.size.split("x"))
    picture = make_picture(height, width)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.exports or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        console.print("Exporting")
        model = make_model(MODEL, NETWORK_SIZE)
        graphs = export_all(model, picture, folder, arguments)
        contenders = open_all(model, graphs, arguments)
        console.print("Comparing detections")
        found = {name: contender(picture) for name, contender in contenders.items()}
        agreement = {name: compare(found[EAGER], each) for name, each in found.items()}
        console.print("Measuring")
        latencies, others_share = measure(contenders, picture, arguments)
        record = Record(
            settings={key: portable(str(value)) for key, value in vars(arguments).items()},
            exporter=exporter_versions(arguments.torchvision_python),
            sha256={name: file_sha256(path) for name, path in graphs.items()},
            agreement=agreement,
            latencies=latencies,
            others_share=others_share,
            environment=environment,
        )
    console.print(markdown(record), markup=False)
    if arguments.out is not None:
        write_atomic(arguments.out.with_suffix(".json"), to_json(record).encode())
        write_atomic(arguments.out.with_suffix(".md"), markdown(record).encode())


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--torchvision-python", type=Path, help="of a venv as export_torchvision.py says"
    )
    parser.add_argument("--exports", type=Path, help="folder that keeps exports for another run")
    parser.add_argument("--size", default="800x1333", help="height x width of the picture")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--num-calibration", type=int, default=4, help="pictures for int8")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="results to write, as .json and .md")
    return parser.parse_args()


def make_picture(height: int, width: int) -> Picture:
    """A drawn picture."""
    (sample,) = open_dataset("shapes", limit=1)
    return np.asarray(cv2.resize(sample.image, (width, height)), np.uint8)


def export_all(
    model: ReferenceModel, picture: Picture, folder: Path, arguments: argparse.Namespace
) -> dict[str, Path]:
    """Return the graph of each contender that has one; graphs that are there already are taken."""
    training = open_dataset("shapes", split="train", limit=arguments.num_calibration)
    calibration = [sample.image for sample in training]
    for name, options in {
        "fp32": {},
        "int8": {"precision": "int8", "calibration": calibration},
    }.items():
        if not (folder / name).exists():
            edgeseg.export_bundle(
                model,
                folder / name,
                images=[picture],
                allow_mismatch=True,  # of untrained weights; the table shows how many detections match
                **options,
            )
    graphs = {FP32: folder / "fp32/model.onnx", INT8: folder / "int8/model.onnx"}
    if arguments.torchvision_python is not None:
        graphs[TORCHVISION] = folder / f"torchvision_{arguments.size}.onnx"
        if not graphs[TORCHVISION].exists():
            weights = folder / "torchvision.pt"
            torch.save(torchvision_state(model), weights)
            command = [arguments.torchvision_python, EXPORT_SCRIPT, "--weights", weights]
            command += ["--size", arguments.size, "--out", graphs[TORCHVISION]]
            subprocess.run(command, check=True)
    return graphs


def exporter_versions(python: Path | None) -> dict[str, str]:
    """What torchvision's graph was exported with; empty without it."""
    if python is None:
        return {}
    names = ("torch", "torchvision")
    code = f"from importlib.metadata import version; print(*map(version, {names}))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def torchvision_state(model: ReferenceModel) -> dict[str, torch.Tensor]:
    """The model's weights under torchvision's names."""
    table = key_table(model.name)
    state = {}
    for name, value in model.state_dict().items():
        original = table.original_from_ours(name)
        if original is None:
            raise ValueError(f"{name} has no name in torchvision; expected one in the key table")
        state[original] = value
    return state


def open_all(
    model: ReferenceModel, graphs: Mapping[str, Path], arguments: argparse.Namespace
) -> dict[str, Contender]:
    """Return the contenders; each gives its masks already pasted."""
    contenders: dict[str, Contender] = {}
    if TORCHVISION in graphs:
        contenders[TORCHVISION] = open_torchvision(graphs[TORCHVISION], arguments.threads)
    contenders[EAGER] = pasting(edgeseg.torch_predictor(model))
    if not arguments.no_compile:
        compiled = make_model(MODEL, NETWORK_SIZE)
        compiled.compile()
        contenders[COMPILED] = pasting(edgeseg.torch_predictor(compiled))
    for name in (FP32, INT8):
        predictor = edgeseg_runtime.load(
            graphs[name].parent, backend="onnxruntime", threads=arguments.threads
        )
        contenders[name] = pasting(predictor)
    return contenders


def pasting(predictor: Contender) -> Contender:
    """A predictor that does not leave the pasting of masks until they are read."""

    def predict(picture: Picture) -> Instances:
        result = predictor(picture)
        _ = result.masks
        return result

    return predict


def open_torchvision(path: Path, threads: int) -> Contender:
    """The graph of torchvision in ONNX Runtime, with what its user has to write around it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(picture: Picture) -> Instances:
        image = cv2.dnn.blobFromImage(picture, 1 / 255, swapRB=True)[0]
        outputs = session.run(["boxes", "scores", "labels", "masks"], {"image": image})
        boxes, scores, labels, masks = outputs
        return Instances(boxes, scores, labels, masks=masks[:, 0] > 0.5)

    return predict


def compare(reference: Instances, found: Instances) -> Agreement:
    """How far two results of one picture agree, boxes and masks."""
    assert reference.image_size is not None
    height, width = reference.image_size
    return agreement_ap(
        to_coco(reference),
        to_coco(found),
        images=[{"id": 1, "height": height, "width": width}],
        kinds=("bbox", "segm"),
        score_threshold=SCORE_THRESHOLD,
    )


def to_coco(result: Instances) -> list[dict[str, Any]]:
    """COCO results by label number, whatever categories a contender knows."""
    plain = Instances(result.boxes, result.scores, result.labels, masks=result.masks)
    return plain.to_coco(image_id=1)


def measure(
    contenders: Mapping[str, Contender], picture: Picture, arguments: argparse.Namespace
) -> tuple[dict[str, Latency], float | None]:
    """Return the times of all contenders in turns, and the share of the usable cores that others took."""
    plan = Plan(
        warmup_runs=2,
        warmup_seconds=0,
        max_warmup_seconds=20,
        min_queries=arguments.rounds,
        min_seconds=0,
        max_seconds=None,
    )
    calls = {
        name: lambda _round, contender=contender: contender(picture)
        for name, contender in contenders.items()
    }
    for call in calls.values():
        warm_up(call, plan)
    before = read_counters()
    latencies = measure_interleaved(calls, plan)
    return latencies, interference_between(before, read_counters()).others_share


def file_sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def to_json(record: Record) -> str:
    """Everything, with every sample."""
    entries = dataclasses.asdict(record)
    entries["ratios"] = {
        f"{slow} / {fast}": dataclasses.asdict(ratio)
        for (slow, fast), ratio in record.ratios().items()
    }
    return json.dumps(entries, indent=1) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def markdown(record: Record) -> str:
    """The result as a page."""
    settings, environment = record.settings, record.environment
    rounds = len(next(iter(record.latencies.values())).samples_ns)
    caption = (
        f"Picture of {settings['size']}, network {NETWORK_SIZE}, {settings['threads']} threads, "
        f"{rounds} rounds in turns, picture in memory to masks in its pixels. Matched, box AP and mask "
        f"AP: detections of score {SCORE_THRESHOLD} and more, those of {EAGER} in the place of labels. The "
        "weights are random, which int8 suits badly: what it costs a trained model, maskrcnn_tiny_int8.md tells."
    )
    lines = [
        f"# {MODEL} beside its rivals",
        "",
        caption,
        "",
        "| contender | p50 ms | min..max ms | matched | box AP | mask AP |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, latency in record.latencies.items():
        agreement = record.agreement[name]
        lines.append(
            f"| {name} | {latency.p50_ms:.0f} | {latency.min_ms:.0f}..{latency.max_ms:.0f} "
            f"| {agreement.num_matched} of {agreement.num_reference} "
            f"| {_number(agreement.ap['bbox'])} | {_number(agreement.ap['segm'])} |"
        )
    lines += [
        "",
        "| time of | over time of | median ratio | 95 % interval |",
        "|---|---|---:|---:|",
    ]
    lines += [
        f"| {slow} | {fast} | {ratio.median:.2f} | {ratio.interval_text(2)} |"
        for (slow, fast), ratio in record.ratios().items()
    ]
    exporter = " with ".join(f"{name} {version}" for name, version in record.exporter.items())
    others = "unknown" if record.others_share is None else f"{record.others_share:.0%}"
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    lines += [
        "",
        f"- machine: {environment.cpu} ({', '.join(environment.cpu_flags)}), {environment.num_usable_cores} cores",
        f"- cores' time that other processes took while measuring: {others}",
        f"- exported torchvision's graph: {exporter or 'nobody'}",
        f"- packages: {versions}; Python {environment.python}",
        f"- command: `python {' '.join(('benchmarks/rivals/' + environment.command_line[0], *environment.command_line[1:]))}`",
        f"- time: {environment.time_utc}, git revision {environment.git_revision}",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
