"""What differs between TensorRT 8.5 to 11 and TensorRT-RTX, in one place.

| release | network flags | precision |
|---|---|---|
| 8.5, 8.6 (JetPack 5, 6.0) | EXPLICIT_BATCH | FP16, INT8 permitted where the graph's types ask for it |
| 10.0 - 10.11 (JetPack 6.1) | none | the same |
| 10.12 - 10.x | STRONGLY_TYPED | the graph's types |
| 11.x, TensorRT-RTX | none: its enum value became 0 | the graph's types |

Everything else in edgeseg uses only the named-tensor interface, which all of them share.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from edgeseg_runtime.errors import BackendUnavailable

__all__ = [
    "FLAVOURS",
    "Progress",
    "import_tensorrt",
    "network_flags",
    "permit_precisions",
    "progress_monitor",
    "vendor_errors",
    "vendor_logger",
    "version_of",
]

FLAVOURS = ("tensorrt", "tensorrt_rtx")
MINIMUM = (8, 5)  # named tensors: execute_async_v3

Progress = Callable[[str, int, int], None]
"""Called with the name of a phase, the steps done and the steps in all."""

_INSTALL = {
    "tensorrt": "pip install tensorrt (on Jetson: apt install python3-libnvinfer, and a venv with "
    "--system-site-packages)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
_logger = logging.getLogger(__name__)


def import_tensorrt(flavour: str) -> Any:
    """Return the module `tensorrt` or `tensorrt_rtx`.

    Raises:
        BackendUnavailable: if it is not installed, does not load, or is too old.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour is {flavour!r}; expected one of {', '.join(FLAVOURS)}")
    try:
        trt = importlib.import_module(flavour)
    except ImportError as error:
        raise BackendUnavailable(
            f"{flavour} cannot be imported ({error}); install it: {_INSTALL[flavour]}"
        ) from error
    if flavour == "tensorrt" and version_of(trt) < MINIMUM:
        raise BackendUnavailable(
            f"found tensorrt {trt.__version__}, expected 8.5 or newer (JetPack 5.1); upgrade it"
        )
    return trt


def version_of(trt: Any) -> tuple[int, ...]:
    """Return the release as numbers, such as (10, 3, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", trt.__version__)[:3])


def is_rtx(trt: Any) -> bool:
    """Tell TensorRT-RTX from TensorRT."""
    return bool(trt.__name__ == "tensorrt_rtx")


def is_strongly_typed(trt: Any) -> bool:
    """Tell whether this release takes every layer's precision from the graph."""
    return is_rtx(trt) or version_of(trt) >= (10, 12)


def network_flags(trt: Any) -> int:
    """Return the argument of `Builder.create_network`."""
    flag = trt.NetworkDefinitionCreationFlag
    if version_of(trt) < (10,) and not is_rtx(trt):
        return 1 << int(flag.EXPLICIT_BATCH)
    if (10, 12) <= version_of(trt) < (11,) and not is_rtx(trt):
        return 1 << int(flag.STRONGLY_TYPED)
    return 0


def permit_precisions(trt: Any, network: Any, config: Any) -> list[str]:
    """Permit, before strong typing, the precisions that occur in the parsed graph.

    The flags only allow a precision, so layers that the graph keeps in float32 beside float16
    ones are pinned to it.

    Returns:
        The names of the builder flags set; empty from TensorRT 10.12 on.
    """
    if is_strongly_typed(trt):
        return []
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantize = (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
    flags = []
    if any(layer.type in quantize for layer in layers):
        flags.append("INT8")
    if any(_output_dtype(layer) == trt.DataType.HALF for layer in layers):
        flags += ["FP16", "PREFER_PRECISION_CONSTRAINTS"]
        for layer in layers:
            if layer.type not in quantize and _output_dtype(layer) == trt.DataType.FLOAT:
                layer.precision = trt.DataType.FLOAT
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    return flags


def _output_dtype(layer: Any) -> Any:
    return layer.get_output(0).dtype if layer.num_outputs else None


@functools.cache
def vendor_logger(trt: Any) -> Any:
    """Return the logger to hand to TensorRT; its messages go to Python's `logging`.

    There is one for the whole process: TensorRT keeps the first that it is given.
    """

    class VendorLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=64)

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level >= logging.ERROR:
                self.errors.append(message.strip())
            # An error ends up in the exception that is raised for it; here it is a detail.
            _logger.log(min(level, logging.INFO), "%s: %s", trt.__name__, message.strip())

    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.CRITICAL,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.INFO,  # "layer norm in half precision ...": not the user's concern
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.NOTSET,
    }
    return VendorLogger()


def vendor_errors(trt: Any) -> str:
    """Return, and forget, what TensorRT has reported since the last call, for a message."""
    errors = vendor_logger(trt).errors
    found = list(dict.fromkeys(errors))
    errors.clear()
    return "; ".join(found) or "TensorRT gave no reason"


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """Return a progress monitor for a builder's configuration, or None before TensorRT 8.6.

    Python code called from inside the builder must not raise. What `progress` raises, a keyboard
    interrupt too, is kept in the attribute `error` and cancels the build at its next step.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self.totals: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            self.totals[phase] = num_steps
            self.report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self.report(phase, step + 1)
            return self.error is None

        def phase_finish(self, phase: str) -> None:
            self.report(phase, self.totals.get(phase, 0))

        def report(self, phase: str, step: int) -> None:
            try:
                if self.error is None:
                    progress(phase, step, self.totals.get(phase, 0))
            except BaseException as error:  # noqa: BLE001  raised again when the build has ended
                self.error = error

    return Monitor()
