"""What differs between TensorRT 8.5 to 11 and TensorRT-RTX, in one place.

| release | network flags | precision |
|---|---|---|
| 8.5, 8.6 (JetPack 5, 6.0) | EXPLICIT_BATCH | FP16, INT8 permitted where the graph's types ask for it |
| 10.0 - 10.11 (JetPack 6.1) | none | the same |
| 10.12 - 10.x | STRONGLY_TYPED | the graph's types |
| 11.x, TensorRT-RTX | none: its enum value became 0 | the graph's types |

| release | newest opset that the ONNX parser reads | functions of a model |
|---|---|---|
| 8.5, 8.6 | 17 | unknown: a call is taken for a plugin |
| 9.x | 19 | read from 9.0 on, but new there: inlined by us |
| 10.x, 11.x, TensorRT-RTX | 20 at least | read |

Source: onnx/onnx-tensorrt, branches 8.5-GA to 10.1-GA: docs/operators.md, docs/Changelog.md, ModelImporter.cpp.
Up to 11.1 at least its parser takes the mode "linear", which GridSample has from opset 20 on, for "nearest" and says
nothing (pull request 1060 there, NVIDIA/TensorRT issue 4646). So the exporter writes no mode: linear is the default.

| what | from | before |
|---|---|---|
| `IProgressMonitor`, names of nodes in parser errors | 10.0 | a build shows no progress; errors give the node's number |
| contexts that share an optimisation profile | 10.0 | one context for an engine with a free batch axis |
| `device_memory_size_v2`, `set_device_memory` with a size | 10.0 | the same without `_v2` and size |
| contexts without memory by a strategy | 11, TensorRT-RTX | a method of its own, gone in 11 |
| `builder_optimization_level` | 8.6 | the release's own level |
| `nptype` that works with NumPy 1.24 to 1.26 | 8.6.1 | `numpy_dtype` replaces it everywhere |
| `ILayer.precision` | gone in 11 | only touched below 10.12 |

Everything else in edgeseg uses only the named-tensor interface, which all of them share.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.errors import BackendUnavailable
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.progress import Progress

__all__ = [
    "FLAVOURS",
    "Layer",
    "context_without_memory",
    "count_precisions",
    "give_memory",
    "import_tensorrt",
    "is_rtx",
    "is_strongly_typed",
    "layers_in_engine",
    "layers_in_log",
    "network_flags",
    "newest_opset",
    "numpy_dtype",
    "permit_precisions",
    "precisions_in_engine",
    "precisions_in_network",
    "progress_monitor",
    "reads_functions",
    "scratch_bytes",
    "shares_profiles",
    "vendor_errors",
    "vendor_logger",
    "version_of",
]

FLAVOURS = ("tensorrt", "tensorrt_rtx")
MINIMUM = (8, 5)  # named tensors: execute_async_v3
READS_FUNCTIONS = (10,)
NEWEST_OPSETS = (((9,), 17), ((10,), 19))
"""Release, and the newest opset that the ONNX parsers before it read."""

Layer = tuple[str, str]
"""A layer of an engine: its type, and the words for the types that it reads, writes and keeps."""

_INSTALL = {
    "tensorrt": "pip install tensorrt (on Jetson: apt install python3-libnvinfer, and a venv with "
    "--system-site-packages)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
_NUMPY_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
# How the engine inspector writes a type: "Half" without an execution context, "... FP16 format"
# with one. The order is that of the search: a layer counts as the lowest that it touches.
_PRECISION_WORDS = {
    "int8": re.compile(r"\bint8\b"),
    "fp16": re.compile(r"\b(half|fp16)\b"),
    "bf16": re.compile(r"\b(bfloat16|bf16)\b"),
    "fp32": re.compile(r"\b(float|fp32)\b"),
}
_DATA_MOVERS = frozenset(
    {"reformat", "noop", "constant", "shape", "signal", "wait", "memset", "copy", "cjmp"}
)
# "CaskConvolution", "correlation", "gemm", "MatrixMultiply", and "runtime_fusion", which is one of them with a cast:
# the work, of which every layer remains one.
_PRODUCTS = re.compile(r"conv|correlation|gemm|matmul|matrix|runtime_fusion", re.IGNORECASE)
_LOGGED_LAYER = re.compile(r"^Name: .*?, LayerType: (\w+), (.*)$", re.MULTILINE)
_LOGGED_TYPE = re.compile(r"\bDatatype: (\w+)")
_logger = logging.getLogger(__name__)


def import_tensorrt(flavour: str) -> Any:
    """Return the module `tensorrt` or `tensorrt_rtx`.

    Raises:
        BackendUnavailable: if it is not installed, does not load, or is too old.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour is {flavour!r}; expected one of {', '.join(FLAVOURS)}")
    try:
        trt = import_library(flavour)
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


def newest_opset(trt: Any) -> int | None:
    """Return the newest opset that the ONNX parser reads, or None if it reads all that edgeseg writes."""
    if is_rtx(trt):
        return None
    return next((opset for end, opset in NEWEST_OPSETS if version_of(trt) < end), None)


def reads_functions(trt: Any) -> bool:
    """Tell whether the ONNX parser knows functions that a model defines."""
    return is_rtx(trt) or version_of(trt) >= READS_FUNCTIONS


def permit_precisions(trt: Any, network: Any, config: Any) -> list[str]:
    """Permit, before strong typing, the precisions that occur in the parsed graph.

    The flags only allow a precision, so layers that the graph keeps in float32 beside float16
    ones are pinned to it.

    Returns:
        The names of the builder flags set; empty from TensorRT 10.12 on.
    """
    if is_strongly_typed(trt):
        return []
    asked = precisions_in_network(trt, network)
    flags = ["INT8"] if "int8" in asked else []
    if "fp16" in asked:
        flags += ["FP16", "PREFER_PRECISION_CONSTRAINTS"]
        quantize = (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
        for layer in _layers(network):
            if layer.type not in quantize and _output_dtype(layer) == trt.DataType.FLOAT:
                layer.precision = trt.DataType.FLOAT
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    return flags


def precisions_in_network(trt: Any, network: Any) -> dict[str, int]:
    """Return which of "int8" and "fp16" a parsed graph asks for.

    With each the number of convolutions and matrix products that have to run in it. It is 0 if
    only other layers ask for it: those may vanish in their neighbours.
    """
    kinds = trt.LayerType
    products = (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY)
    asked: Counter[str] = Counter()
    dequantized = set()
    for layer in _layers(network):
        is_product = layer.type in products
        if layer.type in (kinds.QUANTIZE, kinds.DEQUANTIZE):
            asked["int8"] += 0
            dequantized.add(layer.get_output(0).name)
        elif is_product and _input_names(layer) <= dequantized:
            asked["int8"] += 1
        elif _output_dtype(layer) == trt.DataType.HALF:
            asked["fp16"] += is_product
    return dict(asked)


def precisions_in_engine(trt: Any, engine: Any) -> dict[str, int]:
    """Count an engine's layers by precision; see `count_precisions`."""
    return count_precisions(layers_in_engine(trt, engine))


def count_precisions(layers: Iterable[Layer], *, only_products: bool = False) -> dict[str, int]:
    """Count layers by the lowest precision that each reads, writes or keeps weights in.

    Layers that only move data do not count, nor do those that say nothing about their types.

    Args:
        layers: of an engine.
        only_products: count only convolutions and matrix products.
    """
    found = Counter(
        _precision(words)
        for kind, words in layers
        if kind.lower() not in _DATA_MOVERS and (not only_products or _PRODUCTS.search(kind))
    )
    return {name: found[name] for name in _PRECISION_WORDS if found[name]}


def layers_in_engine(trt: Any, engine: Any) -> list[Layer]:
    """Return an engine's layers; none if it was built without detailed information about them."""
    inspector = engine.create_engine_inspector()
    document = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    layers = [layer for layer in document.get("Layers", ()) if isinstance(layer, dict)]
    return [(str(layer.get("LayerType", "")), _types(layer)) for layer in layers]


def layers_in_log(trt: Any) -> list[Layer]:
    """Return, and forget, the layers of the last engine that this thread built.

    TensorRT-RTX finishes an engine on the user's GPU, so where it is built there is nothing to
    inspect. But its builder logs the layers, in one verbose message (read from 1.7). None if it
    does not.
    """
    logger = vendor_logger(trt)
    text = getattr(logger.listing, "text", "")
    logger.listing.text = ""
    return [
        (kind, " ".join(_LOGGED_TYPE.findall(rest))) for kind, rest in _LOGGED_LAYER.findall(text)
    ]


def _types(layer: Mapping[str, Any]) -> str:
    """Return the inspector's words for the types of a layer."""
    tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
    texts = [str(tensor.get("Format/Datatype", "")) for tensor in tensors]
    texts += [
        str(layer[part].get("Type", ""))
        for part in ("Weights", "Bias")
        if isinstance(layer.get(part), dict)
    ]
    return "; ".join(texts)


def _precision(words: str) -> str | None:
    text = words.lower()
    return next((name for name, form in _PRECISION_WORDS.items() if form.search(text)), None)


def numpy_dtype(dtype: Any) -> npt.DTypeLike:
    """Return NumPy's type for a `DataType`.

    TensorRT's own `nptype` raises AttributeError before 8.6.1 with NumPy 1.24 to 1.26.

    Raises:
        ValueError: if NumPy has no such type.
    """
    try:
        return _NUMPY_DTYPES[dtype.name]
    except KeyError as error:
        raise ValueError(f"NumPy has no type for TensorRT's {dtype.name}") from error


def shares_profiles(trt: Any) -> bool:
    """Tell whether several contexts may use the same optimisation profile."""
    return is_rtx(trt) or version_of(trt) >= (10,)


def scratch_bytes(engine: Any) -> int:
    """Return the device memory that a context needs for activations, with any of its profiles."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def context_without_memory(trt: Any, engine: Any) -> Any:
    """Return an execution context that is given its memory for activations; None if it cannot be made."""
    if hasattr(engine, "create_execution_context_without_device_memory"):
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def give_memory(context: Any, address: int, size_bytes: int) -> None:
    """Give a context its memory for activations, at an address that is a multiple of 256."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size_bytes)
    else:
        context.device_memory = address


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _input_names(layer: Any) -> set[str]:
    """Return the names of a layer's inputs; weights, which are not tensors, have the name ''."""
    tensors = [layer.get_input(index) for index in range(2)]
    return {tensor.name if tensor is not None else "" for tensor in tensors}


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
            self.listing = threading.local()  # of the layers that each thread has built

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level >= logging.ERROR:
                self.errors.append(message.strip())
            if message.startswith("Layers:"):
                self.listing.text = message
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
    """Return a progress monitor for a builder's configuration, or None before TensorRT 10.0.

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
