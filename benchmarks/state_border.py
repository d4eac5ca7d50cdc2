"""Measures a video model whose state stays with the engine beside the same with its state handed out and in.

    python benchmarks/state_border.py --out benchmarks/results/state_border.json
    python benchmarks/state_border.py BUNDLE --engines onnxruntime

Without a bundle a small one of the tests is written, whose state is enlarged to some MB: what it computes is
little, so that what it copies shows. Both ways see the same frames and take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg_bench.latency import QUICK, measure_interleaved, paired_ratio, warm_up
from edgeseg_runtime import Manifest
from edgeseg_runtime.backends import CheckedBackend, State, Tensors, open_backend
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.session import run_frame
from edgeseg_runtime.tasks import create_task

HELPER = Path(__file__).parents[1] / "tests" / "helpers" / "stateful_bundle.py"
MEMORY = (1, 64, 128, 128)
"""Shape of the enlarged state tensor: 4 MiB."""
KEPT, HANDED = "kept by the engine", "fetched and put"
NUM_FRAMES = 8


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="of a video model")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="samples to write, as .json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.bundle or write_example(Path(scratch))
        records = [
            measure(folder, engine, arguments.threads) for engine in arguments.engines.split(",")
        ]
    if arguments.out is not None:
        document = {"environment": dataclasses.asdict(read_environment()), "engines": records}
        write_atomic(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


def write_example(folder: Path) -> Path:
    """Writes the tests' model that reads and writes its state in every frame."""
    spec = importlib.util.spec_from_file_location(HELPER.stem, HELPER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_stateful_bundle(folder, "seed_main", memory=MEMORY)
    return folder


def measure(folder: Path, engine: str, threads: int) -> dict[str, Any]:
    """Measures both ways on one engine in turns, prints the ratio, and returns it with the samples."""
    manifest = Manifest.load(folder)
    if not manifest.is_stateful:
        raise ValueError(
            f"{folder} holds no video model; expected one that carries something along"
        )
    backend = open_backend(engine, folder, manifest.views[0], threads=threads)
    frames = example_frames(manifest)
    state, num_passed = warm_state(backend, frames[0])
    num_handed = num_passed + 2 * sum(array.nbytes for array in state.fetch().values())
    calls = {way: caller(backend, frames, hands_out=way == HANDED) for way in (KEPT, HANDED)}
    for call in calls.values():
        warm_up(call, QUICK)
    found = measure_interleaved(calls, QUICK)
    ratio = paired_ratio(found[KEPT].samples_ns, found[HANDED].samples_ns)
    print(
        f"{manifest.name} on {engine}: {num_passed / 1024:.0f} KiB a frame over the border instead "
        f"of {num_handed / 1024:.0f}, {found[KEPT].p50_ms:.2f} ms instead of "
        f"{found[HANDED].p50_ms:.2f}, {KEPT} / {HANDED} {ratio.median:.3f} "
        f"[{ratio.low:.3f}, {ratio.high:.3f}]"
    )
    backend.close()
    return {
        "model": manifest.name,
        "engine": engine,
        "threads": threads,
        "bytes_per_frame": {KEPT: num_passed, HANDED: num_handed},
        **dataclasses.asdict(ratio),
        "samples_ns": {way: latency.samples_ns for way, latency in found.items()},
    }


def example_frames(manifest: Manifest) -> list[Tensors]:
    """Returns the model's inputs for pictures of noise."""
    rng, task = np.random.default_rng(0), create_task(manifest.views[0])
    size = manifest.preprocess.height, manifest.preprocess.width
    return [
        task.preprocess(rng.integers(0, 256, (*size, 3), dtype=np.uint8))[0]
        for _ in range(NUM_FRAMES)
    ]


def warm_state(backend: CheckedBackend, frame: Tensors) -> tuple[State, int]:
    """Returns a state behind its first two frames, and what the second one passes in and out in bytes."""
    state = backend.open_state()
    assert state is not None
    given: Tensors = {}
    for number in range(2):
        given = run_frame(backend.manifest, backend, frame, state, frame=number)
    graphs = [backend.manifest.graphs[name] for name in backend.manifest.schedule.graphs(1)]
    fed = sum(frame[spec.name].nbytes for graph in graphs for spec in graph.fed)
    return state, fed + sum(array.nbytes for array in given.values())


def caller(
    backend: CheckedBackend, frames: list[Tensors], *, hands_out: bool
) -> Callable[[int], object]:
    """Returns what runs frame after frame of one stream, after its first one."""
    state, _ = warm_state(backend, frames[0])

    def call(number: int) -> object:
        if hands_out:
            state.put(state.fetch())
        return run_frame(backend.manifest, backend, frames[number % NUM_FRAMES], state, frame=1)

    return call


if __name__ == "__main__":
    main()
