"""What an engine depends on: the model, the library, the GPUs and the caller's options.

**One file for several targets.** TensorRT-RTX compiles ahead of time without a GPU and finishes on
the user's. An engine for sm86, sm89 and sm120 together is as large as one for a single of them
(measured: 11.8 MB, within 1 KB), so the targets share a file. Turing (sm75) gets a file of its own:
NVIDIA discourages mixing it with later architectures because that costs them speed.
Source: TensorRT-RTX documentation, "CPU-Only AOT and TensorRT-RTX Engines"; support matrix.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeseg_runtime.errors import BackendUnavailable
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda

__all__ = [
    "PORTABLE",
    "EngineKey",
    "EngineOptions",
    "group_targets",
    "key_for_device",
    "key_for_targets",
]

PORTABLE = "portable"
"""Target of a TensorRT-RTX engine that runs on every supported GPU from Ampere on."""

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")

_TURING = "sm75"


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
        buckets: numbers of rows that it has a profile for each; none for a graph without rows.
    """

    onnx_sha256: str
    flavour: str
    version: str
    targets: tuple[str, ...]
    platform: str
    device: str = ""
    driver: str = ""
    options: EngineOptions = EngineOptions()
    buckets: tuple[int, ...] = ()

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
    onnx: bytes,
    trt: Any,
    targets: Sequence[str],
    options: EngineOptions,
    buckets: tuple[int, ...] = (),
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
        buckets=buckets,
    )


def key_for_device(
    onnx: bytes,
    trt: Any,
    device: cuda.DeviceInfo,
    options: EngineOptions,
    buckets: tuple[int, ...] = (),
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
        return key_for_targets(onnx, trt, (device.sm,), options, buckets)
    return EngineKey(
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        flavour="tensorrt",
        version=trt.__version__,
        targets=(device.sm,),
        platform=f"{sys.platform}-{platform.machine().lower()}",
        device=device.name,
        driver=device.driver_version,
        options=options,
        buckets=buckets,
    )


def _covers(targets: Sequence[str], target: str) -> bool:
    return target in targets or (PORTABLE in targets and target in RTX_TARGETS[1:])
