"""A TensorRT that refuses every model, and says on which GPU and with how much workspace it built.

A test copies it to `tensorrt.py`, beside `fake_cuda.c` compiled to `libcuda.so.1`.
"""

import ctypes
from types import SimpleNamespace

__version__ = "11.4.0"

BuilderFlag = SimpleNamespace(TF32="TF32")
LayerType = SimpleNamespace(CONVOLUTION=0, DECONVOLUTION=1, MATRIX_MULTIPLY=2)
MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
NetworkDefinitionCreationFlag = SimpleNamespace()
ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")


class ILogger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)


class Runtime:
    def __init__(self, logger):
        pass


class OnnxParser:
    def __init__(self, network, logger):
        pass

    def parse(self, onnx):
        return True


class Config:
    def clear_flag(self, flag):
        pass

    def set_memory_pool_limit(self, pool, size_bytes):
        self.workspace_bytes = size_bytes

    def create_timing_cache(self, content):
        return content

    def set_timing_cache(self, cache, ignore_mismatch):
        return True


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return SimpleNamespace(num_layers=0, num_inputs=0)

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        device = ctypes.CDLL("libcuda.so.1").fake_current_device()
        text = f"built on GPU {device} with {config.workspace_bytes} bytes"
        self.logger.log(ILogger.Severity.ERROR, text)
