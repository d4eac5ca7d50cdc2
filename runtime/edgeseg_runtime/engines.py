"""TensorRT engines: compile them from a bundle's ONNX file, and keep them in a private cache.

An engine (NVIDIA: "plan") is native code. Whoever can write one can run anything, and TensorRT's
own validity check does not notice a changed one. Therefore

* a bundle ships ONNX, and an engine is loaded only from a folder that the user alone can write:
  the cache `$EDGESEG_CACHE`, or `~/.cache/edgeseg/engines` (mode 0700), or a folder that the caller
  names and so vouches for (`engines=`, the output of `edgeseg build --out`). An engine that
  merely lies in a bundle is not looked at;
* beside each engine lies a record (`.json`) of its key and sha256, written last. An engine without
  a record, with another digest, or for another model, version, GPU or driver is not loaded;
* the file holds the plan and nothing else, so that trtexec and other tools can read it.

**One file for several targets.** TensorRT-RTX compiles ahead of time without a GPU and finishes on
the user's. An engine for sm86, sm89 and sm120 together is as large as one for a single of them
(measured: 11.8 MB, within 1 KB), so the targets share a file. Turing (sm75) gets a file of its own:
NVIDIA discourages mixing it with later architectures because that costs them speed.
Its fp32 matrix products do not compile (TensorRT-RTX 1.7.1): the exporter writes convolutions instead.
Source: TensorRT-RTX documentation, "CPU-Only AOT and TensorRT-RTX Engines"; support matrix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeseg_runtime import cuda, trt_compat
from edgeseg_runtime.errors import (
    BackendUnavailable,
    BundleError,
    EngineBuildError,
    OutOfMemory,
)
from edgeseg_runtime.files import read_limited, read_verified, write_atomic
from edgeseg_runtime.manifest import Artifact, Manifest, read_artifact
from edgeseg_runtime.onnx_check import check_self_contained
from edgeseg_runtime.trt_compat import Progress

__all__ = [
    "PORTABLE",
    "EngineFile",
    "EngineKey",
    "EngineOptions",
    "build_bundle",
    "build_engine",
    "cache_folder",
    "discard_engine",
    "find_engine",
    "list_engines",
    "load_or_build",
    "store_engine",
]

PORTABLE = "portable"
"""Target of a TensorRT-RTX engine that runs on every supported GPU from Ampere on."""

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
RECORD_SCHEMA = 1
MAX_RECORD_BYTES = 64 * 1024
MAX_PARSER_ERRORS = 20
MIN_WORKSPACE_BYTES = 64 * 2**20

_TURING = "sm75"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the caller chooses about a build; precision is the graph's own.

    Attributes:
        batch: size given to a free batch axis.
        workspace_bytes: bound of the builder's scratch memory, or None for three quarters of what
            is free on the GPU when the build starts.
        optimization_level: 0 (fast build) to 5 (fast engine).
        allow_tf32: let float32 products round their factors to 10 bits, as TensorRT does by
            itself: faster from Ampere on, and no longer what the other engines compute.
    """

    batch: int = 1
    workspace_bytes: int | None = None
    optimization_level: int = 3
    allow_tf32: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected at least 1")
        if self.workspace_bytes is not None and self.workspace_bytes < 2**20:
            raise ValueError(f"workspace_bytes is {self.workspace_bytes}; expected at least 1 MiB")
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level is {self.optimization_level}; expected 0..5")


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that an engine depends on. Equal keys mean interchangeable engines.

    Attributes:
        onnx_sha256: digest of the model it was compiled from.
        flavour: "tensorrt" or "tensorrt_rtx".
        version: of TensorRT, in full; no engine runs on another one.
        targets: compute capabilities such as "sm89", or `PORTABLE`.
        platform: operating system and processor, such as "linux-x86_64".
        device: the GPU's name; empty for TensorRT-RTX, whose engines fit any GPU of the targets.
        driver: CUDA version that the driver serves; empty for TensorRT-RTX.
        options: what the caller chose.
    """

    onnx_sha256: str
    flavour: str
    version: str
    targets: tuple[str, ...]
    platform: str
    device: str = ""
    driver: str = ""
    options: EngineOptions = EngineOptions()

    @property
    def file_name(self) -> str:
        """Name of the engine's file: readable parts, then what makes it unique."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
        targets = "+".join(self.targets)
        return f"{self.onnx_sha256[:16]}.{self.flavour}-{self.version}.{targets}.{digest}.engine"

    def serves(self, wanted: EngineKey) -> bool:
        """Tell whether an engine of this key can stand in for one of the wanted key."""
        same = dataclasses.replace(self, targets=wanted.targets) == wanted
        return same and all(_covers(self.targets, target) for target in wanted.targets)


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine that was built or found.

    Attributes:
        key: what it was made for.
        path: its file, or None if no folder could be written.
        sha256: digest of the plan.
        size_bytes: size of the plan.
        build_s: seconds that the build took; 0 if it was found in the cache.
        is_new: whether it was built just now.
    """

    key: EngineKey
    path: Path | None
    sha256: str
    size_bytes: int
    build_s: float = 0.0
    is_new: bool = False


def build_bundle(
    folder: str | os.PathLike[str],
    *,
    flavour: str | None = None,
    targets: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
) -> list[EngineFile]:
    """Compile a bundle's model: `edgeseg build`.

    Without targets, for the GPU of this machine, into the cache where loading the bundle finds
    it. With targets, ahead of time for other machines (TensorRT-RTX only, no GPU needed), into
    `out` or BUNDLE/engines; on the device load with `engines=<that folder>`.

    Args:
        folder: the bundle.
        flavour: "tensorrt" or "tensorrt_rtx"; None takes TensorRT-RTX if there are targets, else
            TensorRT if it is installed, else TensorRT-RTX.
        targets: compute capabilities such as "sm86", or `PORTABLE`.
        out: folder for the engines.
        force: build again what is there already.
        options: see `EngineOptions`.
        progress: called during the build; what it raises cancels the build.

    Returns:
        One engine file per group of targets that can share one.

    Raises:
        BundleError: if the bundle is damaged.
        EngineBuildError: if the model does not compile.
        BackendUnavailable: if the library is missing, or a GPU is needed and missing.
        OSError: if `out` cannot be written.
    """
    onnx = read_artifact(folder, Manifest.load(folder).artifact("onnx"))
    trt = trt_compat.import_tensorrt(flavour or _default_flavour(targets))
    options = options or EngineOptions()
    if targets is None:
        keys = [key_for_device(onnx, trt, cuda.probe(), options)]
        destination = Path(out) if out is not None else cache_folder()
    else:
        keys = [key_for_targets(onnx, trt, group, options) for group in group_targets(targets)]
        destination = Path(out) if out is not None else Path(folder) / "engines"
    is_for_others = out is not None or targets is not None
    if is_for_others:
        destination.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_writable(destination)
    return [
        load_or_build(
            onnx,
            key,
            store=destination,
            needs_privacy=not is_for_others,
            force=force,
            progress=progress,
        )[1]
        for key in keys
    ]


def build_engine(
    onnx: bytes,
    *,
    flavour: str,
    targets: Sequence[str] = (),
    options: EngineOptions | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Compile an ONNX model into a plan.

    Args:
        onnx: the model, with its weights inside.
        flavour: "tensorrt" needs the GPU that will run the engine; "tensorrt_rtx" needs none.
        targets: for TensorRT-RTX: compute capabilities that the engine must run on; none, or
            `PORTABLE`, means every supported GPU from Ampere on.
        options: see `EngineOptions`.
        timing_cache: file of measured kernel times that speeds up later builds; TensorRT only.
        progress: called during the build; what it raises cancels the build.

    Raises:
        BundleError: if the bytes are no ONNX model, or it refers to other files.
        EngineBuildError: if the parser or the builder refuses the model; names the node.
        BackendUnavailable: if the library is missing, or TensorRT finds no GPU.
        OutOfMemory: if the build ran out of memory.
    """
    check_self_contained(onnx)
    trt = trt_compat.import_tensorrt(flavour)
    options = options or EngineOptions()
    is_rtx = trt_compat.is_rtx(trt)
    if is_rtx:
        # Checked before anything is built; TensorRT-RTX has no effect from a timing cache.
        capabilities = _compute_capabilities(trt, targets)
        timing_cache = None
    elif targets:
        raise ValueError(
            f"targets are {', '.join(targets)}, but TensorRT compiles only for the GPU it runs on; "
            "use flavour 'tensorrt_rtx', or build on the device"
        )
    else:
        capabilities = []
        # Needs a GPU: without one TensorRT's own message would speak of an internal error.
        options = _with_workspace(options)
    trt_compat.vendor_errors(trt)  # forget older ones
    builder = trt.Builder(trt_compat.vendor_logger(trt))
    network = builder.create_network(trt_compat.network_flags(trt))
    _parse(trt, network, onnx)
    asked = trt_compat.precisions_in_network(trt, network)
    config = builder.create_builder_config()
    configure(trt, builder, network, config, options)
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
        _raise_build_error(trt, trt_compat.vendor_errors(trt))
    if timings is not None and timing_cache is not None:
        _save_quietly(timing_cache, bytes(config.get_timing_cache().serialize()))
    if not is_rtx:  # TensorRT-RTX follows the graph's types, and finishes on another machine
        runtime = trt.Runtime(trt_compat.vendor_logger(trt))
        check_precisions(trt, runtime.deserialize_cuda_engine(bytes(plan)), asked)
    return bytes(plan)


def load_or_build(
    onnx: bytes,
    key: EngineKey,
    *,
    store: Path,
    trusted: Sequence[Path] = (),
    needs_privacy: bool = True,
    force: bool = False,
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
        progress: see `build_engine`.
    """
    is_safe = not needs_privacy or _is_private(store)
    for folder in () if force else (*trusted, *([store] if is_safe else [])):
        found = find_engine(folder, key)
        if found is not None:
            return found
    with _locked(store, needs_privacy=needs_privacy) as is_usable:
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
            timing_cache=store / _timing_file(key) if is_usable else None,
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


def find_engine(folder: Path, wanted: EngineKey) -> tuple[bytes, EngineFile] | None:
    """Return a plan from a folder that serves the wanted key and is as recorded, or None.

    A damaged one is reported in the log and passed over; building replaces it. That the folder can
    be trusted is the caller's concern: who can write there can replace engine and record together.
    """
    pattern = f"{wanted.onnx_sha256[:16]}.{wanted.flavour}-*.engine.json"
    for path in sorted(folder.glob(pattern)):
        try:
            key, artifact = _read_record(folder, path.name)
            if not key.serves(wanted):
                continue
            plan = read_verified(
                folder, artifact.file, size_bytes=artifact.size_bytes, sha256=artifact.sha256
            )
        except (BundleError, ValueError, TypeError, KeyError) as error:
            _logger.warning("ignoring the cached engine %s: %s", path.name, error)
            continue
        return plan, EngineFile(
            key=key,
            path=folder / artifact.file,
            sha256=artifact.sha256,
            size_bytes=artifact.size_bytes,
        )
    return None


def list_engines(folder: Path, onnx_sha256: str) -> list[EngineFile]:
    """Return the engines of a model in a folder, whatever they were built for.

    Only their records are read; whether a plan is as recorded is checked when it is loaded.
    """
    found = []
    for path in sorted(folder.glob(f"{onnx_sha256[:16]}.*.engine.json")):
        try:
            key, artifact = _read_record(folder, path.name)
        except (BundleError, ValueError, TypeError, KeyError) as error:
            _logger.warning("ignoring the cached engine %s: %s", path.name, error)
            continue
        found.append(
            EngineFile(
                key=key,
                path=folder / artifact.file,
                sha256=artifact.sha256,
                size_bytes=artifact.size_bytes,
            )
        )
    return found


def store_engine(folder: Path, key: EngineKey, plan: bytes) -> Path | None:
    """Write an engine and then its record; return the engine's path, or None if that failed.

    The caller holds the folder's lock. A process that dies in the middle leaves an engine
    without a valid record, which is never loaded, and a temporary file that the next writer removes.
    """
    name = key.file_name
    path = folder / name
    record = {
        "schema": RECORD_SCHEMA,
        "key": dataclasses.asdict(key),
        "file": name,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "size_bytes": len(plan),
    }
    try:
        for litter in folder.glob(f".{name}*.tmp"):
            litter.unlink(missing_ok=True)
        _record_path(path).unlink(missing_ok=True)
        write_atomic(path, plan)
        write_atomic(_record_path(path), (json.dumps(record, indent=2) + "\n").encode("utf-8"))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _logger.warning(
            "the engine is not kept, because %s cannot be written (%s): it will be built again "
            "next time. Free some space, or set EDGESEG_CACHE to another folder.",
            folder,
            error.strerror or error,
        )
        return None
    return path


def discard_engine(engine: EngineFile) -> None:
    """Remove an engine that its library refused; its record goes first."""
    if engine.path is not None:
        with contextlib.suppress(OSError):
            _record_path(engine.path).unlink(missing_ok=True)
            engine.path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return where engines are kept: $EDGESEG_CACHE, or the user's cache folder.

    It is not created here.
    """
    chosen = os.environ.get("EDGESEG_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "edgeseg" / "engines"
    except RuntimeError:  # no home folder: a service account
        return Path(os.devnull) / "engines"


def group_targets(targets: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the targets in groups that share one engine file: Turing, and all later ones.

    Raises:
        ValueError: for a target that TensorRT-RTX does not know, or none.
    """
    chosen = list(dict.fromkeys(target.strip().lower() for target in targets))
    known = (*RTX_TARGETS, PORTABLE)
    unknown = [target for target in chosen if target not in known]
    if unknown or not chosen:
        raise ValueError(
            f"target is {unknown[0] if unknown else 'empty'!r}; expected one of {', '.join(known)}"
        )
    later = [PORTABLE] if PORTABLE in chosen else [t for t in RTX_TARGETS[1:] if t in chosen]
    turing = [_TURING] if _TURING in chosen else []
    return [tuple(group) for group in (turing, later) if group]


def key_for_targets(
    onnx: bytes, trt: Any, targets: Sequence[str], options: EngineOptions
) -> EngineKey:
    """Return the key of an engine compiled ahead of time.

    Raises:
        ValueError: if the library compiles only for the GPU it runs on.
    """
    if not trt_compat.is_rtx(trt):
        raise ValueError(
            f"targets are {', '.join(targets)}, but TensorRT compiles only for the GPU it runs on; "
            "use flavour 'tensorrt_rtx', or build on the device"
        )
    return EngineKey(
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        flavour="tensorrt_rtx",
        version=trt.__version__,
        targets=tuple(targets),
        platform="any-" + platform.machine().lower().replace("amd64", "x86_64"),
        options=options,
    )


def key_for_device(
    onnx: bytes, trt: Any, device: cuda.DeviceInfo, options: EngineOptions
) -> EngineKey:
    """Return the key of an engine for one GPU.

    Raises:
        BackendUnavailable: if the library does not support that GPU.
    """
    if trt_compat.is_rtx(trt):
        if device.sm not in RTX_TARGETS:
            raise BackendUnavailable(
                f"found {device.name} ({device.sm}), but TensorRT-RTX runs on "
                f"{', '.join(RTX_TARGETS)}; use backend='tensorrt'"
            )
        return key_for_targets(onnx, trt, (device.sm,), options)
    return EngineKey(
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        flavour="tensorrt",
        version=trt.__version__,
        targets=(device.sm,),
        platform=f"{sys.platform}-{platform.machine().lower()}",
        device=device.name,
        driver=device.driver_version,
        options=options,
    )


# ---------------------------------------------------------------- building


def _default_flavour(targets: Sequence[str] | None) -> str:
    if targets is not None:
        return "tensorrt_rtx"
    try:
        trt_compat.import_tensorrt("tensorrt")
    except BackendUnavailable:
        return "tensorrt_rtx"
    return "tensorrt"


def _covers(targets: Sequence[str], target: str) -> bool:
    return target in targets or (PORTABLE in targets and target in RTX_TARGETS[1:])


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


def _parse(trt: Any, network: Any, onnx: bytes) -> None:
    parser = trt.OnnxParser(network, trt_compat.vendor_logger(trt))
    if parser.parse(onnx):
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


def _text_of_parser_error(error: Any) -> str:
    """Describe a parser error; TensorRT 8.5 does not know the node's name."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = f"node {error.node()} {name!r} ({operator or 'operator unknown'}): "
    return f"{where if error.node() >= 0 else ''}{error.desc()}"


def configure(trt: Any, builder: Any, network: Any, config: Any, options: EngineOptions) -> None:
    """Set everything that a build's result depends on.

    Raises:
        EngineBuildError: if an axis other than the batch is free.
    """
    flags = trt_compat.permit_precisions(trt, network, config)
    if flags:
        _logger.info("precisions permitted: %s", ", ".join(flags))
    if not options.allow_tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if not trt_compat.is_rtx(trt):  # else the inspector gives the layers' names only
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if hasattr(config, "builder_optimization_level"):  # from 8.6 on
        config.builder_optimization_level = options.optimization_level
    profile = None
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape[1:]):
            raise EngineBuildError(
                f"the input {tensor.name!r} has the shape {shape}; only the first axis may be "
                "free. Export the model with a fixed image size."
            )
        if shape and shape[0] < 0:
            profile = profile or builder.create_optimization_profile()
            fixed = (options.batch, *shape[1:])
            profile.set_shape(tensor.name, fixed, fixed, fixed)
    if profile is not None:
        config.add_optimization_profile(profile)


def _with_workspace(options: EngineOptions) -> EngineOptions:
    """Return the options with a bound for scratch memory.

    TensorRT's own is the whole memory, of which on a Jetson the system and all programs live.

    Raises:
        BackendUnavailable: if there is no GPU.
    """
    device = cuda.CudaDevice()
    try:
        free, _ = device.memory_info()
    finally:
        device.close()
    if options.workspace_bytes is not None:
        return options
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


def check_precisions(trt: Any, engine: Any, asked: frozenset[str]) -> None:
    """Read back from an engine (None: it could not be loaded) in which precisions it computes.

    Raises:
        EngineBuildError: if one that the graph asks for does not occur. Without strong typing
            TensorRT may run a whole half-precision model in float32, at a quarter of the speed.
    """
    found = {} if engine is None else trt_compat.precisions_in_engine(trt, engine)
    if not found:
        _logger.warning("the precision of the engine's layers cannot be read back")
        return
    text = ", ".join(f"{count} in {name}" for name, count in found.items())
    _logger.info("layers of the engine: %s", text)
    missing = sorted(asked - set(found))
    if missing:
        raise EngineBuildError(
            f"{trt.__name__} {trt.__version__} built an engine without any layer in "
            f"{' or '.join(missing)}, which the model asks for (layers: {text}). Use TensorRT "
            "10.12 or newer, which follows the model's types, or export it in fp32."
        )


def is_out_of_memory(reason: str) -> bool:
    """Tell from TensorRT's messages whether memory was what it lacked."""
    return bool(re.search(r"out ?of ?memory|bad_alloc", reason, re.IGNORECASE))


def _raise_build_error(trt: Any, reason: str) -> None:
    if is_out_of_memory(reason):
        raise OutOfMemory(
            f"{trt.__name__} ran out of memory while building: {reason}. Close other programs, "
            "limit the workspace, or export the model at a smaller --image-size."
        )
    raise EngineBuildError(
        f"{trt.__name__} {trt.__version__} cannot compile the model: {reason}. "
        "Use backend='onnxruntime', or report the node named above."
    )


def _save_quietly(file: Path, content: bytes) -> None:
    """Write a file whose loss only costs time."""
    try:
        write_atomic(file, content)
    except OSError as error:
        _logger.info("%s is not written: %s", file, error)


# ---------------------------------------------------------------- the folder of engines


def _record_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def _read_record(folder: Path, name: str) -> tuple[EngineKey, Artifact]:
    """Read a record.

    Raises:
        BundleError: if it cannot be read, or names a path out of the folder.
        ValueError, TypeError, KeyError: if it is no record of this schema.
    """
    document = json.loads(read_limited(folder, name, max_bytes=MAX_RECORD_BYTES))
    if document["schema"] != RECORD_SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, expected {RECORD_SCHEMA}")
    key = dict(document["key"])
    key["targets"] = tuple(key["targets"])
    key["options"] = EngineOptions(**key["options"])
    artifact = Artifact(
        file=document["file"], sha256=document["sha256"], size_bytes=document["size_bytes"]
    )
    return EngineKey(**key), artifact


def _is_private(folder: Path) -> bool:
    """Tell whether only this user (or root) can change what is in a folder.

    One that does not exist yet counts as private: it is created with mode 0700.
    """
    try:
        status = folder.stat()
    except OSError:
        return True
    if os.name != "posix":  # Windows: the profile's access list protects the cache
        return True
    owned = status.st_uid in {0, os.getuid()}
    if owned and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    _logger.warning(
        "engines in %s are not used, because others can write there; run: chmod 700 %s",
        folder,
        folder,
    )
    return False


def _check_writable(folder: Path) -> None:
    """Raise OSError now rather than after a long build."""
    probe = folder / f".{os.getpid()}.probe"
    probe.touch()
    probe.unlink()


@contextlib.contextmanager
def _locked(folder: Path, *, needs_privacy: bool) -> Iterator[bool]:
    """Hold a folder's lock; yields False, with a warning, if the folder cannot be used.

    The lock is the operating system's, so it ends with its process, however that ends.
    """
    with contextlib.ExitStack() as stack:
        is_usable = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not needs_privacy or _is_private(folder):
                stream = stack.enter_context((folder / ".lock").open("ab"))
                _lock(stream)
                is_usable = True
        except OSError as error:
            _logger.warning(
                "engines cannot be kept in %s (%s): building in memory. Set EDGESEG_CACHE to a "
                "folder that can be written.",
                folder,
                error.strerror or error,
            )
        yield is_usable


def _lock(stream: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            with contextlib.suppress(OSError):  # LK_LOCK gives up after ten seconds
                msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
                return
    else:
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("waiting for another process that builds an engine")
            fcntl.flock(stream, fcntl.LOCK_EX)
