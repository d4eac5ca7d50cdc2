"""A small model, a GPU and keys for the tests of engines."""

import dataclasses

from tiny_bundle import tiny_model

from edgeseg_runtime.tensorrt.cuda import DeviceInfo
from edgeseg_runtime.tensorrt.key import EngineKey

ONNX = tiny_model().SerializeToString()
RTX_4090 = DeviceInfo(
    index=0,
    name="NVIDIA GeForce RTX 4090",
    sm="sm89",
    driver_version="13.0",
    memory_bytes=24 * 2**30,
)


def key_of(targets=("sm86",), **changes):
    key = EngineKey(
        onnx_sha256="ab" * 32,
        flavour="tensorrt_rtx",
        version="1.7.1.116",
        targets=targets,
        platform="any-x86_64",
    )
    return dataclasses.replace(key, **changes)
