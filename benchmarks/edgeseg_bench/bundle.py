"""Benchmarks a bundle: opens its engines and its PyTorch model, and measures them together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg_bench.categories import categories_of_classes
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.checked import skipped_pictures
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_bench.memory import peak_memory
from edgeseg_bench.results import BenchReport
from edgeseg_bench.runner import run_bench
from edgeseg_bench.system import default_threads
from edgeseg_runtime import Manifest, Predictor, load
from edgeseg_runtime.backends import BACKENDS
from edgeseg_runtime.progress import Progress

TORCH = "torch"
TORCH_OPENER = "edgeseg_bench.bundle:open_torch"
TENSORRT = "tensorrt"  # and tensorrt_rtx


def benchmark(
    folder: Path,
    *,
    data: str,
    backends: Sequence[str],
    model: str | None,
    weights: str | None,
    weights_key: str | None = None,
    limit: int | None,
    is_quick: bool,
    score: float,
    match: str | None = None,
    threads: int | None,
    engines_folder: Path | None,
    progress: Progress,
) -> BenchReport:
    """Measure a bundle on several engines.

    Args:
        folder: the bundle.
        data: see `edgeseg_bench.datasets.open_dataset`.
        backends: "torch" for the original model, and engines of the runtime.
        model: what the PyTorch model is rebuilt from, MODULE:NAME, if it is of a module outside edgeseg.
        weights: the exported checkpoint, if it has moved since.
        weights_key: the part of it, if it is not the one that was exported.
        limit: use only the first pictures; None = all.
        is_quick: measure for seconds rather than a minute.
        score: from which score the reference's detections count for agreement.
        match: how the model's classes are those of the data set: by "name" or "id".
        threads: of every engine on the CPU, torch included; None = `default_threads`, so that all have as many.
        engines_folder: of TensorRT engines that the user built.
        progress: called as progress(stage, done, total).

    Raises:
        ValueError: an unknown backend or data set, or a model that cannot be rebuilt.
        EdgesegError: a damaged bundle, another checkpoint than the exported one, a failing engine.
    """
    unknown = [name for name in backends if name != TORCH and name not in BACKENDS]
    if unknown:
        raise ValueError(
            f"--backends {unknown[0]!r} found, expected some of {', '.join([TORCH, *BACKENDS])}"
        )
    threads = default_threads() if threads is None else threads
    manifest = Manifest.load(folder)
    dataset = open_dataset(
        data,
        limit=limit,
        kind=dataset_kind(manifest),
        on_picture=functools.partial(progress, "check the pictures"),
    )
    categories_of_classes(manifest, dataset.categories, match=match)  # before anything is opened
    with contextlib.ExitStack() as stack:
        predictors: dict[str, Predictor[Any]] = {}
        for done, name in enumerate(backends):
            progress("load", done, len(backends))
            if name == TORCH:
                predictor = open_torch(
                    folder, model=model, weights=weights, weights_key=weights_key, threads=threads
                )
            else:
                predictor = load(
                    folder, backend=name, threads=threads, **_options(name, engines_folder)
                )
            predictors[name] = stack.enter_context(predictor)
        memory: dict[str, int] = {}
        for done, name in enumerate(backends):
            progress("memory", done, len(backends))
            if engines_folder is None or not name.startswith(TENSORRT):
                options: dict[str, Any] = {"threads": threads}
                if name == TORCH:
                    options |= {"model": model, "weights": weights, "weights_key": weights_key}
                memory[name] = _peak_bytes(folder, name, options)
        return run_bench(
            predictors,
            dataset,
            limit=limit,
            quick=is_quick,
            score_threshold=score,
            match=match,
            peak_memory_bytes=memory,
            settings={
                "threads": threads,
                "backends": list(backends),
                "data": data,
                **skipped_pictures(dataset),
            },
            on_progress=progress,
        )


def open_torch(
    folder: Path,
    *,
    model: str | None,
    weights: str | None,
    weights_key: str | None = None,
    threads: int | None,
) -> Predictor[Any]:
    """Return the PyTorch model of a bundle as a predictor.

    Args:
        folder: the bundle.
        model: see `benchmark`.
        weights: see `benchmark`.
        weights_key: see `benchmark`.
        threads: of torch in the whole process; None = its own choice.

    Raises:
        ValueError: the model cannot be rebuilt.
        EdgesegError: a damaged bundle, or another checkpoint than the exported one.
    """
    import torch

    from edgeseg.models.provenance import rebuild_model
    from edgeseg.models.torch_backend import torch_predictor

    if threads is not None:
        torch.set_num_threads(threads)
    manifest = Manifest.load(folder)
    return torch_predictor(
        rebuild_model(manifest, name=model, weights=weights, weights_key=weights_key)
    )


def _peak_bytes(folder: Path, name: str, options: Mapping[str, Any]) -> int:
    if name != TORCH:
        return peak_memory(folder, {"backend": name, **options}).peak_bytes
    return peak_memory(folder, options, opener=TORCH_OPENER).peak_bytes


def _options(name: str, engines_folder: Path | None) -> dict[str, Any]:
    """Return the options of a backend; a folder of engines concerns TensorRT only."""
    if engines_folder is None or not name.startswith(TENSORRT):
        return {}
    return {"engines_folder": engines_folder}
