"""An engine without a GPU: ONNX Runtime computes, in the memory of a fake CUDA driver.

What TensorRT forbids fails here too: an output where an input lies, and memory that nobody gave.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SCRATCH_BYTES = 4096
DTYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(int32)": "INT32"}


def compile_driver(folder: Path) -> str | None:
    """Return the path of a driver whose device memory is host memory; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or os.name != "posix":
        return None
    source, target = Path(__file__).with_name("fake_cuda.c"), folder / "libfakecuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    return str(target)


def open_driver(file: str) -> SimpleNamespace:
    """Return a driver's file and its library, with what it counts."""
    library = ctypes.CDLL(file)
    library.fake_set_limit.argtypes = (ctypes.c_size_t,)
    for name in ("fake_bytes_to_host", "fake_bytes_to_device"):
        getattr(library, name).restype = ctypes.c_size_t
    return SimpleNamespace(file=file, library=library)


class OnnxEngine:
    """An engine with a module's enumerations that runs an ONNX model."""

    def __init__(self, trt, onnx, driver, *, buckets=()):
        import onnxruntime

        self.trt, self.driver, self.buckets = trt, driver, buckets
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.model = onnxruntime.InferenceSession(onnx, options, ["CPUExecutionProvider"])
        self.inputs = {item.name: item for item in self.model.get_inputs()}
        self.outputs = {item.name: item for item in self.model.get_outputs()}
        self.names = [*self.outputs, *self.inputs]  # a session must not rely on the order
        self.contexts = []
        self.is_failing = False

    num_io_tensors = property(lambda self: len(self.names))
    device_memory_size_v2 = SCRATCH_BYTES

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        mode = self.trt.TensorIOMode
        return mode.INPUT if name in self.inputs else mode.OUTPUT

    def get_tensor_dtype(self, name):
        return getattr(self.trt.DataType, DTYPES[{**self.inputs, **self.outputs}[name].type])

    def get_tensor_shape(self, name):
        shape = {**self.inputs, **self.outputs}[name].shape
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    def get_tensor_profile_shape(self, name, profile):
        shape = tuple(
            self.buckets[profile] if size == -1 else size for size in self.get_tensor_shape(name)
        )
        return shape, shape, shape

    def create_execution_context(self, strategy=None):
        context = OnnxContext(self, has_memory=strategy is None)
        self.contexts.append(context)
        return context


class OnnxContext:
    """Runs the model on what lies at the addresses; a stream that is captured only notes it."""

    def __init__(self, engine, *, has_memory):
        self.engine, self.profile, self.has_memory = engine, 0, has_memory
        self.scratch = None
        self.addresses, self.shapes, self.kernels = {}, {}, []

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return profile < len(self.engine.buckets)

    def set_device_memory(self, address, size):
        assert size >= SCRATCH_BYTES
        self.scratch, self.has_memory = address, True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return shape == self.engine.get_tensor_profile_shape(name, self.profile)[1]

    def get_tensor_shape(self, name):
        free = self.engine.buckets[self.profile] if self.shapes else -1
        return tuple(free if size == -1 else size for size in self.engine.get_tensor_shape(name))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        if self.engine.is_failing:
            return False
        assert self.has_memory
        addresses = dict(self.addresses)
        kernel = ctypes.CFUNCTYPE(None)(lambda: self.compute(addresses))
        self.kernels.append(kernel)  # a captured one runs again
        self.engine.driver.library.fake_launch_kernel(kernel)
        return True

    def view(self, name, address):
        dtype = np.dtype(self.engine.trt.nptype(self.engine.get_tensor_dtype(name)))
        shape = self.shapes.get(name) or self.get_tensor_shape(name)
        size = int(np.prod(shape))
        memory = (ctypes.c_ubyte * (size * dtype.itemsize)).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def compute(self, addresses):
        engine = self.engine
        read = {addresses[name] for name in engine.inputs}
        assert not read & {addresses[name] for name in engine.outputs}
        if self.scratch is not None:
            ctypes.memset(self.scratch, 0xAB, SCRATCH_BYTES)
        inputs = {name: self.view(name, addresses[name]).copy() for name in engine.inputs}
        for name, array in zip(
            engine.outputs, engine.model.run(list(engine.outputs), inputs), strict=True
        ):
            self.view(name, addresses[name])[...] = array
