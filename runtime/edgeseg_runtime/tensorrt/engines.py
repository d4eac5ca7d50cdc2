"""Compiles TensorRT engines from a bundle's ONNX files."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg_runtime.bundle.files import read_limited, write_atomic
from edgeseg_runtime.bundle.graph_files import GraphOrigin, all_graphs, read_graph
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import (
    BackendUnavailable,
    BundleError,
    EngineBuildError,
    OutOfMemory,
)
from edgeseg_runtime.onnx.check import check_encoding
from edgeseg_runtime.onnx.fields import opset_of
from edgeseg_runtime.onnx.inline import inline_functions
from edgeseg_runtime.progress import Progress
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda
from edgeseg_runtime.tensorrt.key import (
    PORTABLE,
    EngineKey,
    EngineOptions,
    group_targets,
    key_for_device,
    key_for_targets,
)
from edgeseg_runtime.tensorrt.store import (
    EngineFile,
    cache_folder,
    check_writable,
    find_engine,
    is_private,
    locked,
    store_engine,
)

__all__ = [
    "attach_timing_cache",
    "build_bundle",
    "build_engine",
    "check_batch",
    "check_precisions",
    "configure",
    "is_out_of_memory",
    "layers_of_new_engine",
    "load_or_build",
    "naming",
    "parse",
    "save_timing_cache",
    "with_workspace",
    "workspace_bytes_from_free",
]

MAX_PARSER_ERRORS = 20
MIN_WORKSPACE_BYTES = 64 * 2**20
MIN_SHARE = 0.5
"""Below this share of the products that a graph asks for in a precision, a warning says so."""

_NEWER = "Use TensorRT 10.12 or newer, which follows the model's types, or "

_logger = logging.getLogger(__name__)


def build_bundle(
    folder: str | os.PathLike[str],
    *,
    flavour: str | None = None,
    targets: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    options: EngineOptions | None = None,
    allow_operators: Collection[str] = (),
    progress: Progress | None = None,
) -> list[EngineFile]:
    """Compile every graph of a bundle, of every variant: `edgeseg build`.

    Without targets, for the GPU of this machine, into the cache where loading the bundle finds
    it. With targets, ahead of time for other machines (TensorRT-RTX only, no GPU needed), into
    `out` or BUNDLE/engines; on the device load with `engines_folder=<that folder>`.

    Args:
        folder: the bundle.
        flavour: "tensorrt" or "tensorrt_rtx"; None takes TensorRT-RTX if there are targets, else
            TensorRT if it is installed, else TensorRT-RTX.
        targets: compute capabilities such as "sm86", or `PORTABLE`.
        out: folder for the engines.
        force: build again what is there already.
        options: see `EngineOptions`.
        allow_operators: operators that the caller vouches for, see `onnx.check.check_graph`.
        progress: called during the build; what it raises cancels the build.

    Returns:
        For each graph one engine file per group of targets that can share one.

    Raises:
        BundleError: if the bundle is damaged, or its model holds what no bundle may hold.
        EngineBuildError: if the model does not compile.
        BackendUnavailable: if the library is missing, or a GPU is needed and missing.
        OSError: if `out` cannot be written.
        ValueError: for an unknown target, or a batch of a model with rows.
    """
    manifest = Manifest.load(folder)
    options = options or EngineOptions()
    check_batch(manifest, options)
    # Every file is checked before a build begins, and read again for it: together they may be large.
    models: dict[tuple[str, tuple[int, ...]], list[GraphOrigin]] = {}
    for origin in all_graphs(manifest):
        onnx = read_graph(folder, origin.view, origin.name, allow_operators=allow_operators)
        buckets = origin.view.graphs[origin.name].buckets
        models.setdefault((hashlib.sha256(onnx).hexdigest(), buckets), []).append(origin)
    trt = trt_compat.import_tensorrt(flavour or _default_flavour(targets))
    if targets is None:
        machines = [key_for_device(b"", trt, cuda.probe(), options)]
        destination = Path(out) if out is not None else cache_folder()
    else:
        machines = [key_for_targets(b"", trt, group, options) for group in group_targets(targets)]
        destination = Path(out) if out is not None else Path(folder) / "engines"
    is_for_others = out is not None or targets is not None
    if is_for_others:
        destination.mkdir(mode=0o755, parents=True, exist_ok=True)
        check_writable(destination)
    files = []
    for (digest, buckets), origins in models.items():
        onnx = read_graph(folder, origins[0].view, origins[0].name, allow_operators=allow_operators)
        for machine in machines:
            with naming(origins[0].label, manifest):
                _, file = load_or_build(
                    onnx,
                    dataclasses.replace(machine, onnx_sha256=digest, buckets=buckets),
                    store=destination,
                    needs_privacy=not is_for_others,
                    force=force,
                    progress=progress,
                )
            labels = tuple(origin.label for origin in origins)
            files.append(dataclasses.replace(file, graphs=labels))
    return files


def check_batch(manifest: Manifest, options: EngineOptions) -> None:
    """Refuse a batch for a model with rows: the first rows of a batch do not lie side by side.

    Raises:
        ValueError: if there is a stage with rows and the batch is not 1.
    """
    if options.batch > 1 and any(item.view.graphs[item.name].rows for item in all_graphs(manifest)):
        raise ValueError(
            f"batch is {options.batch}; expected 1, because {manifest.name} has a stage that runs "
            "once for each detection. Export it with --stages off for a batch"
        )


@contextlib.contextmanager
def naming(graph: str, manifest: Manifest) -> Iterator[None]:
    """Let errors say of which graph an engine is, where a model has several."""
    try:
        yield
    except (EngineBuildError, OutOfMemory) as error:
        if len(manifest.graphs) == 1 and not manifest.variants:
            raise
        raise type(error)(f"graph {graph!r}: {error}") from error


def build_engine(
    onnx: bytes,
    *,
    flavour: str,
    targets: Sequence[str] = (),
    options: EngineOptions | None = None,
    buckets: Sequence[int] = (),
    timing_cache: Path | None = None,
    device: int = 0,
    progress: Progress | None = None,
) -> bytes:
    """Compile an ONNX model into a plan.

    Args:
        onnx: the model, with its weights inside. What a bundle may hold is checked where bundles
            are read.
        flavour: "tensorrt" needs the GPU that will run the engine; "tensorrt_rtx" needs none.
        targets: for TensorRT-RTX: compute capabilities that the engine must run on; none, or
            `PORTABLE`, means every supported GPU from Ampere on.
        options: see `EngineOptions`.
        buckets: sizes of a free second axis; the engine has an optimisation profile for each.
        timing_cache: file of measured kernel times that speeds up later builds; TensorRT only.
        device: CUDA ordinal of the GPU to build on; TensorRT only.
        progress: called during the build; what it raises cancels the build.

    Raises:
        BundleError: if the bytes are no ONNX model, or it refers to other files.
        EngineBuildError: if the parser or the builder refuses the model; names the node, or the
            opset.
        BackendUnavailable: if the library is missing, or TensorRT finds no GPU.
        OutOfMemory: if the build ran out of memory.
    """
    check_encoding(onnx)
    trt = trt_compat.import_tensorrt(flavour)
    options = options or EngineOptions()
    if trt_compat.is_rtx(trt):
        # Checked before anything is built; TensorRT-RTX has no effect from a timing cache.
        capabilities = _compute_capabilities(trt, targets)
        return _compile(trt, onnx, options, buckets, capabilities=capabilities, progress=progress)
    if targets:
        raise ValueError(
            f"targets are {', '.join(targets)}, but TensorRT compiles only for the GPU it runs on; "
            "use flavour 'tensorrt_rtx', or build on the device"
        )
    # Needs a GPU: without one TensorRT's own message would speak of an internal error.
    with contextlib.closing(cuda.CudaDevice(device)) as gpu:
        options = with_workspace(options, gpu)
        gpu.activate()  # TensorRT builds for, and measures on, the current one
        return _compile(trt, onnx, options, buckets, timing_cache=timing_cache, progress=progress)


def _compile(
    trt: Any,
    onnx: bytes,
    options: EngineOptions,
    buckets: Sequence[int],
    *,
    capabilities: Sequence[Any] = (),
    timing_cache: Path | None = None,
    progress: Progress | None,
) -> bytes:
    """Parse, configure, build and check; see `build_engine`."""
    trt_compat.vendor_errors(trt)  # forget older ones
    builder = trt.Builder(trt_compat.vendor_logger(trt))
    network = builder.create_network(trt_compat.network_flags(trt))
    parse(trt, network, onnx)
    asked = trt_compat.precisions_in_network(trt, network)
    config = builder.create_builder_config()
    configure(trt, builder, network, config, options, buckets)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    timings = attach_timing_cache(config, timing_cache)
    monitor = trt_compat.progress_monitor(trt, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise _vendor_error(
            trt,
            "compile the model",
            trt_compat.vendor_errors(trt),
            "Use backend='onnxruntime', or report the node named above.",
        )
    if timings is not None and timing_cache is not None:
        save_timing_cache(config, timing_cache)
    if trt_compat.is_rtx(trt):
        layers = trt_compat.layers_in_log(trt)
    else:
        runtime = trt.Runtime(trt_compat.vendor_logger(trt))
        layers = layers_of_new_engine(trt, runtime.deserialize_cuda_engine(bytes(plan)))
    check_precisions(trt, layers, asked)
    return bytes(plan)


def load_or_build(
    onnx: bytes,
    key: EngineKey,
    *,
    store: Path,
    trusted: Sequence[Path] = (),
    needs_privacy: bool = True,
    force: bool = False,
    device: int = 0,
    progress: Progress | None = None,
) -> tuple[bytes, EngineFile]:
    """Return the plan for a key: from a folder if it is there, else built and kept.

    One builder works at a time, in whatever process; the others wait and take its result. If the
    store cannot be used (read-only, full, not private) the engine is built in memory and a warning
    says so.

    Args:
        onnx: the model.
        key: what to build.
        store: folder to look in and to write to.
        trusted: folders that the caller vouches for, looked in before the store.
        needs_privacy: make no use of a store that other users can write to.
        force: build even if there is one.
        device: CUDA ordinal of the GPU that the key describes.
        progress: see `build_engine`.
    """
    is_safe = not needs_privacy or is_private(store)
    for folder in () if force else (*trusted, *([store] if is_safe else [])):
        found = find_engine(folder, key)
        if found is not None:
            return found
    with locked(store, needs_privacy=needs_privacy) as is_usable:
        if is_usable and not force:
            found = find_engine(store, key)  # built by another process while we waited
            if found is not None:
                return found
        started = time.monotonic()
        plan = build_engine(
            onnx,
            flavour=key.flavour,
            targets=key.targets if key.flavour == "tensorrt_rtx" else (),
            options=key.options,
            buckets=key.buckets,
            timing_cache=store / _timing_file(key) if is_usable else None,
            device=device,
            progress=progress,
        )
        build_s = time.monotonic() - started
        path = store_engine(store, key, plan) if is_usable else None
    return plan, EngineFile(
        key=key,
        path=path,
        sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=len(plan),
        build_s=build_s,
        is_new=True,
    )


def _default_flavour(targets: Sequence[str] | None) -> str:
    if targets is not None:
        return "tensorrt_rtx"
    try:
        trt_compat.import_tensorrt("tensorrt")
    except BackendUnavailable:
        return "tensorrt_rtx"
    return "tensorrt"


def _compute_capabilities(trt: Any, targets: Sequence[str]) -> list[Any]:
    if not targets or tuple(targets) == (PORTABLE,):
        return []
    known = {
        name.lower(): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise ValueError(f"target is {unknown[0]!r}; expected one of {', '.join(known)}")
    return [known[target] for target in targets]


def parse(trt: Any, network: Any, onnx: bytes) -> None:
    """Fill a network with a model.

    Raises:
        EngineBuildError: if the parser refuses the model, or reads only older opsets.
    """
    readable = _readable(trt, onnx)
    parser = trt.OnnxParser(network, trt_compat.vendor_logger(trt))
    if parser.parse(readable):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [_text_of_parser_error(error) for error in errors[:MAX_PARSER_ERRORS]]
    if len(errors) > len(lines):
        lines.append(f"and {len(errors) - len(lines)} more")
    raise EngineBuildError(
        f"{trt.__name__} {trt.__version__} cannot read the model: "
        f"{'; '.join(lines) or trt_compat.vendor_errors(trt)}. "
        "Export it again with this edgeseg, or use backend='onnxruntime'."
    )


def _readable(trt: Any, onnx: bytes) -> bytes:
    """Return a model in the form that this release's parser can read."""
    found, newest = opset_of(onnx), trt_compat.newest_opset(trt)
    if newest is not None and found > newest:
        raise EngineBuildError(
            f"found a model of opset {found}, but TensorRT {trt.__version__} reads up to opset "
            f"{newest}. Export it again with --opset 17, or use backend='onnxruntime'."
        )
    return onnx if trt_compat.reads_functions(trt) else inline_functions(onnx)


def _text_of_parser_error(error: Any) -> str:
    """Describe a parser error; TensorRT 8.5 does not know the node's name."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = f"node {error.node()} {name!r} ({operator or 'operator unknown'}): "
    return f"{where if error.node() >= 0 else ''}{error.desc()}"


def configure(
    trt: Any,
    builder: Any,
    network: Any,
    config: Any,
    options: EngineOptions,
    buckets: Sequence[int] = (),
) -> None:
    """Set everything that a build's result depends on.

    Args:
        trt: the module.
        builder: makes the optimisation profiles.
        network: the parsed model.
        config: is changed.
        options: see `EngineOptions`.
        buckets: sizes of a free second axis, with an optimisation profile for each.

    Raises:
        EngineBuildError: if another axis than the batch is free, and is not that of the rows.
    """
    flags = trt_compat.permit_precisions(trt, network, config)
    if flags:
        _logger.info("precisions permitted: %s", ", ".join(flags))
    if not options.allow_tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    # Else the inspector gives the layers' names only, and TensorRT-RTX logs none.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if hasattr(config, "builder_optimization_level"):  # from 8.6 on
        config.builder_optimization_level = options.optimization_level
    for bucket in buckets or (None,):
        _add_profile(builder, network, config, options.batch, bucket)


def _add_profile(builder: Any, network: Any, config: Any, batch: int, rows: int | None) -> None:
    """Fix the sizes of free axes; without any there is nothing to do."""
    profile = None
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        sizes = {0: batch} if rows is None else {0: batch, 1: rows}
        fixed = tuple(
            sizes.get(axis, size) if size < 0 else size for axis, size in enumerate(shape)
        )
        if any(size < 0 for size in fixed):
            raise EngineBuildError(
                f"the input {tensor.name!r} has the shape {shape}; only the first axis may be "
                "free. Export the model with a fixed image size."
            )
        if fixed != shape:
            profile = profile or builder.create_optimization_profile()
            profile.set_shape(tensor.name, fixed, fixed, fixed)
    if profile is not None:
        config.add_optimization_profile(profile)


def with_workspace(options: EngineOptions, gpu: cuda.CudaDevice) -> EngineOptions:
    """Return the options with a bound for scratch memory.

    TensorRT's own is the whole memory, of which on a Jetson the system and all programs live.
    """
    if options.workspace_bytes is not None:
        return options
    free, _ = gpu.memory_info()
    return dataclasses.replace(options, workspace_bytes=workspace_bytes_from_free(free))


def workspace_bytes_from_free(free_bytes: int) -> int:
    """Return the bound of a build's scratch memory: weights and buffers need room beside it."""
    return max(free_bytes * 3 // 4, MIN_WORKSPACE_BYTES)


def _timing_file(key: EngineKey) -> str:
    """Return the name of the file of kernel times; they hold for one release on one kind of GPU."""
    return f"{key.flavour}-{key.version}.{'+'.join(key.targets)}.timing"


def attach_timing_cache(config: Any, file: Path | None) -> Any:
    """Give a build the kernel times of earlier ones; from scratch if TensorRT refuses those."""
    if file is None:
        return None
    content = b""
    with contextlib.suppress(OSError, BundleError):
        content = read_limited(file.parent, file.name, max_bytes=256 * 2**20)
    for timings in (content, b"") if content else (b"",):
        cache = config.create_timing_cache(timings)
        # False: refuse what was measured on another GPU.
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        _logger.info("%s is refused and begun anew", file)
    return None


def save_timing_cache(config: Any, file: Path) -> None:
    """Write the kernel times of a build; their loss only costs time."""
    try:
        write_atomic(file, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        _logger.info("%s is not written: %s", file, error)


def layers_of_new_engine(trt: Any, engine: Any) -> list[trt_compat.Layer]:
    """Return the layers of an engine that was just built and loaded; None means it cannot be.

    Raises:
        EngineBuildError: if it cannot be loaded.
        OutOfMemory: if it does not fit into the GPU's memory.
    """
    if engine is None:
        raise _vendor_error(
            trt,
            "load the engine that it has just built",
            trt_compat.vendor_errors(trt),
            "Update the GPU's driver, or use backend='onnxruntime'.",
        )
    return trt_compat.layers_in_engine(trt, engine)


def check_precisions(
    trt: Any, layers: Sequence[trt_compat.Layer], asked: Mapping[str, int]
) -> dict[str, int]:
    """Return how many layers of an engine compute in each precision; log them.

    Where less than `MIN_SHARE` of the products (convolutions, matrix products) run in the
    precision that the graph asks for, a warning says so. It is not an error: before strong typing
    TensorRT takes what is fastest, and it may list products that it joined as one layer.

    Args:
        trt: the module.
        layers: of the engine.
        asked: number of products by precision, see `compat.precisions_in_network`.

    Raises:
        EngineBuildError: if a precision that products ask for does not occur. Without strong
            typing TensorRT may run a whole half-precision model in float32, at a quarter of the
            speed.
    """
    found = trt_compat.count_precisions(layers)
    if not found:
        if asked:
            _logger.warning("the precision of the engine's layers cannot be read back")
        return {}
    text = _text_from_counts(found)
    _logger.info("layers of the engine: %s", text)
    missing = sorted(name for name, num_asked in asked.items() if num_asked and name not in found)
    if missing:
        raise EngineBuildError(
            f"{trt.__name__} {trt.__version__} built an engine without any layer in "
            f"{' or '.join(missing)}, which the model asks for (layers: {text}). "
            f"{'Export' if trt_compat.is_rtx(trt) else _NEWER + 'export'} it in fp32."
        )
    products = trt_compat.count_precisions(layers, only_products=True)
    for name, num_asked in asked.items():
        if products.get(name, 0) < MIN_SHARE * num_asked:
            _logger.warning(
                "the model asks for %d convolutions and products in %s, the engine has %s; another "
                "precision may be faster on this GPU",
                num_asked,
                name,
                _text_from_counts({name: products.get(name, 0)} | products),
            )
    return found


def _text_from_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in counts.items())


def is_out_of_memory(reason: str) -> bool:
    """Tell from TensorRT's messages whether memory was what it lacked."""
    return bool(re.search(r"out ?of ?memory|bad_alloc", reason, re.IGNORECASE))


def _vendor_error(trt: Any, doing: str, reason: str, advice: str) -> EngineBuildError | OutOfMemory:
    """Return the error for what TensorRT refused, which its messages give the reason for."""
    if is_out_of_memory(reason):
        return OutOfMemory(
            f"{trt.__name__} ran out of memory while it was to {doing}: {reason}. Close other "
            "programs, limit the workspace, or export the model at a smaller --image-size."
        )
    return EngineBuildError(f"{trt.__name__} {trt.__version__} cannot {doing}: {reason}. {advice}")
