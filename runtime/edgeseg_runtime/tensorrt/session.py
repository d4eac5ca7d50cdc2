"""An engine of TensorRT at work: one execution context, its buffers and its CUDA graphs."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.graphs import TensorSpec
from edgeseg_runtime.errors import (
    BackendError,
    DeviceLost,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda

__all__ = ["EngineSession", "Scratch"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scratch:
    """Device memory for the activations of contexts that never run at the same time."""

    address: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Binding:
    """One tensor at the engine's border, with its memory on both sides.

    Attributes:
        name: of the tensor.
        is_input: whether the engine reads it.
        host: a view of page-locked memory; None for what never leaves the device.
        host_address: of that memory.
        device_address: None for memory that each run names.
    """

    name: str
    is_input: bool
    host: npt.NDArray[Any] | None = None
    host_address: int = 0
    device_address: int | None = None


class EngineSession:
    """An engine with a context, a stream and buffers, all allocated once.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engine: a deserialised engine; a free axis has its profile's size.
        gpu: the device that holds it; closed by the caller, after this.
        use_graph: from the second run on replay a CUDA graph, if the engine can be captured.
        profile: number of the optimisation profile.
        bound: tensors whose device memory each run is told, with what they must be.
        kept: outputs that are not copied to the host.
        stream: of the caller; a stream of its own if None.
        scratch: memory for activations, of the caller; the context's own if None.

    Raises:
        OutOfMemory: if the GPU's memory is exhausted.
        BackendError: if the context cannot be made, or a tensor is not what it must be.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        gpu: cuda.CudaDevice,
        *,
        use_graph: bool = True,
        profile: int = 0,
        bound: Mapping[str, TensorSpec] | None = None,
        kept: Collection[str] = (),
        stream: int | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self._trt = trt
        self._gpu = gpu
        self._profile = profile
        self._bound = bound or {}
        self._kept = kept
        self._graphs: dict[tuple[int, ...], int] = {}
        self._may_capture = use_graph
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._is_open = True
        self._engine = engine
        gpu.activate()
        with contextlib.ExitStack() as stack:
            self._context = self._make_context(scratch)
            if stream is None:
                stream = gpu.create_stream()
                stack.callback(gpu.destroy_stream, stream)
            self._stream = stream
            if profile:  # a context begins with the first one
                self._use_profile()
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            # Inputs first: the shape of an output may depend on them.
            names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
            self._bindings = [self._bind(name, stack) for name in names]
            stack.callback(self._destroy_graphs)
            self._memory = stack.pop_all()

    @property
    def has_graph(self) -> bool:
        """Whether runs replay a CUDA graph."""
        return bool(self._graphs)

    def run(self, inputs: Tensors, addresses: Mapping[str, int] | None = None) -> Tensors:
        """Return the outputs that are copied to the host, by name; see `TrtBackend.run`.

        Args:
            inputs: what comes from the host.
            addresses: device memory of each bound tensor.
        """
        with self._lock:
            if not self._is_open:
                raise ValueError("the backend is closed; load the bundle again")
            if self._failure is not None:
                raise DeviceLost(self._failure)
            try:
                return self._run(inputs, addresses or {})
            except DeviceLost as error:
                self._failure = str(error)
                raise

    def forget(self, addresses: Collection[int]) -> None:
        """Give back what was made for bound memory that is about to be freed."""
        with self._lock:
            for key in [key for key in self._graphs if not set(addresses).isdisjoint(key)]:
                self._gpu.destroy_graph(self._graphs.pop(key))

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            self._context = self._engine = None
            self._bindings = []  # the views end before their memory
            with contextlib.suppress(DeviceLost):  # the driver has freed it all
                self._memory.close()

    def _make_context(self, scratch: Scratch | None) -> Any:
        trt, gpu = self._trt, self._gpu
        if scratch is None:
            context = self._engine.create_execution_context()
        else:
            context = trt_compat.context_without_memory(trt, self._engine)
        if context is None:
            reason = trt_compat.vendor_errors(trt)
            free, total = gpu.memory_info()
            raise OutOfMemory(
                f"{trt.__name__} cannot make an execution context: {reason} ({free >> 20} of "
                f"{total >> 20} MiB free). Close other programs on the GPU, or export the "
                "model at a smaller --image-size."
            )
        if scratch is not None:
            trt_compat.give_memory(context, scratch.address, scratch.size_bytes)
        return context

    def _use_profile(self) -> None:
        context, trt = self._context, self._trt
        if not context.set_optimization_profile_async(self._profile, self._stream):
            raise BackendError(
                f"{trt.__name__} refuses the optimisation profile {self._profile}: "
                f"{trt_compat.vendor_errors(trt)}. Build the engine anew (edgeseg build --force)."
            )
        self._gpu.synchronize(self._stream)

    def _bind(self, name: str, stack: contextlib.ExitStack) -> _Binding:
        """Allocate a tensor's memory and tell the context about it."""
        trt, engine, context = self._trt, self._engine, self._context
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(engine.get_tensor_shape(name))
        if is_input and -1 in shape:
            shape = tuple(engine.get_tensor_profile_shape(name, self._profile)[2])
            context.set_input_shape(name, shape)
        elif not is_input:
            shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise BackendError(
                f"the engine's tensor {name!r} has the shape {list(shape)}, which depends on the "
                "data; export the model again with this edgeseg, whose graphs are static"
            )
        dtype = np.dtype(trt_compat.numpy_dtype(engine.get_tensor_dtype(name)))
        size_bytes = max(math.prod(shape) * dtype.itemsize, 1)
        host, host_address, device_address = None, 0, None
        if name in self._bound:
            _check_bound(self._bound[name], dtype, shape)
        else:
            device_address = self._gpu.allocate(size_bytes)
            stack.callback(self._gpu.free, device_address)
            self._set_address(name, device_address)
        if name not in (self._bound if is_input else self._kept):
            host_address = self._gpu.allocate_host(size_bytes)
            stack.callback(self._gpu.free_host, host_address)
            memory = (ctypes.c_ubyte * size_bytes).from_address(host_address)
            host = np.frombuffer(memory, dtype, count=math.prod(shape)).reshape(shape)
        return _Binding(
            name=name,
            is_input=is_input,
            host=host,
            host_address=host_address,
            device_address=device_address,
        )

    def _set_address(self, name: str, address: int) -> None:
        context, trt = self._context, self._trt
        if not context.set_tensor_address(name, address):
            raise BackendError(
                f"{trt.__name__} refuses the buffer of {name!r}: {trt_compat.vendor_errors(trt)}"
            )

    def _run(self, inputs: Tensors, addresses: Mapping[str, int]) -> Tensors:
        gpu, stream = self._gpu, self._stream
        gpu.activate()
        for binding in self._bindings:
            if binding.is_input and binding.host is not None:
                np.copyto(binding.host, _checked_input(inputs, binding.name, binding.host))
        key = tuple(addresses[name] for name in self._bound)
        graph = self._graphs.get(key)
        if graph is not None:
            gpu.launch_graph(graph, stream)
            gpu.synchronize(stream)  # raises DeviceLost if a kernel faulted
        else:
            for name in self._bound:
                self._set_address(name, addresses[name])
            try:
                self._enqueue(addresses)
            finally:
                gpu.synchronize(stream)
            if self._may_capture:
                self._capture(key, addresses)
        return {
            binding.name: binding.host.copy()
            for binding in self._bindings
            if not binding.is_input and binding.host is not None
        }

    def _enqueue(self, addresses: Mapping[str, int]) -> None:
        """Put copies and kernels on the stream."""
        gpu, stream = self._gpu, self._stream
        on_host = [binding for binding in self._bindings if binding.host is not None]
        for binding in on_host:
            if binding.is_input:
                target = _device_address(binding, addresses)
                gpu.copy_to_device(target, binding.host_address, _num_bytes(binding), stream=stream)
        if not self._context.execute_async_v3(stream):
            raise BackendError(
                f"{self._trt.__name__} failed to run the engine: "
                f"{trt_compat.vendor_errors(self._trt)}. Load the bundle again; if it happens "
                "again, build the engine anew (edgeseg build --force)."
            )
        for binding in on_host:
            if not binding.is_input:
                source = _device_address(binding, addresses)
                gpu.copy_to_host(binding.host_address, source, _num_bytes(binding), stream=stream)

    def _capture(self, key: tuple[int, ...], addresses: Mapping[str, int]) -> None:
        """Capture what a run enqueues, once, after a run without it as TensorRT asks for."""
        try:
            graph = self._gpu.capture_graph(self._stream, lambda: self._enqueue(addresses))
        except DeviceLost:
            raise
        except BackendError as error:
            self._may_capture = False
            _logger.info("runs without a CUDA graph, because the engine has none: %s", error)
            trt_compat.vendor_errors(self._trt)  # forget them
            return
        self._graphs[key] = graph

    def _destroy_graphs(self) -> None:
        while self._graphs:
            self._gpu.destroy_graph(self._graphs.popitem()[1])


def _check_bound(spec: TensorSpec, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """Refuse an engine of another border: what it is given would be memory of another size."""
    fits = len(shape) == len(spec.shape) and all(
        wanted in (-1, found) for wanted, found in zip(spec.shape, shape, strict=True)
    )
    if dtype != spec.dtype or not fits:
        raise BackendError(
            f"the engine's tensor {spec.name!r} is {dtype} of shape {list(shape)}; the manifest "
            f"says {spec.dtype} of shape {list(spec.shape)}. Export the bundle again."
        )


def _device_address(binding: _Binding, addresses: Mapping[str, int]) -> int:
    own = binding.device_address
    return addresses[binding.name] if own is None else own


def _num_bytes(binding: _Binding) -> int:
    assert binding.host is not None
    return binding.host.nbytes


def _checked_input(inputs: Tensors, name: str, host: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array = inputs.get(name)
    expected = f"{host.dtype} of shape {list(host.shape)}"
    if array is None:
        raise InputContractError(f"the input {name!r} is missing; the engine takes {expected}")
    if array.dtype != host.dtype or array.shape != host.shape:
        raise InputContractError(
            f"the input {name!r} is {array.dtype} of shape {list(array.shape)}; the "
            f"engine was built for {expected}. Build one for another batch size with "
            "options=EngineOptions(batch=...)."
        )
    return array
