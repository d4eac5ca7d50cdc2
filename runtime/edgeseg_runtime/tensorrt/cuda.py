"""The few CUDA calls that running an engine needs, through the driver's own library.

`libcuda.so.1` comes with every NVIDIA driver, on Jetson too, and its interface has been stable
since CUDA 4; the CUDA runtime (`libcudart`) would be one more package to find and to match. The
device's primary context is used: the one that TensorRT uses.

Function names and error codes: CUDA Driver API reference, cuda.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass

from edgeseg_runtime.errors import BackendError, BackendUnavailable, DeviceLost, OutOfMemory

__all__ = ["CudaDevice", "DeviceInfo", "probe"]

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
# Errors after which every further call in this process fails: ECC, NVLink, kernel faults
# (CUDA_ERROR_ILLEGAL_ADDRESS and following) and CUDA_ERROR_UNKNOWN.
_STICKY = frozenset({214, 220, 700, 702, 709, 710, *range(714, 720), 999})
_COMPUTE_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_COMPUTE_CAPABILITY_MINOR = 76
_STREAM_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1  # other threads may allocate meanwhile

_ADVICE = (
    "Install the NVIDIA driver and check it with nvidia-smi (in a container: start it with "
    "--gpus all), or use backend='onnxruntime'."
)

_int_p = ctypes.POINTER(ctypes.c_int)
_handle_p = ctypes.POINTER(ctypes.c_void_p)
_size_p = ctypes.POINTER(ctypes.c_size_t)
_address_p = ctypes.POINTER(ctypes.c_uint64)  # CUdeviceptr
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_int_p,),
    "cuDeviceGetCount": (_int_p,),
    "cuDeviceGet": (_int_p, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_int_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceTotalMem_v2": (_size_p, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_handle_p, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (ctypes.c_void_p,),
    "cuMemGetInfo_v2": (_size_p, _size_p),
    "cuMemAlloc_v2": (_address_p, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemHostAlloc": (_handle_p, ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (ctypes.c_void_p,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
    "cuMemcpyDtoHAsync_v2": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p),
    "cuStreamCreate": (_handle_p, ctypes.c_uint),
    "cuStreamSynchronize": (ctypes.c_void_p,),
    "cuStreamDestroy_v2": (ctypes.c_void_p,),
    "cuStreamBeginCapture_v2": (ctypes.c_void_p, ctypes.c_int),
    "cuStreamEndCapture": (ctypes.c_void_p, _handle_p),
    "cuGraphInstantiateWithFlags": (_handle_p, ctypes.c_void_p, ctypes.c_ulonglong),
    "cuGraphLaunch": (ctypes.c_void_p, ctypes.c_void_p),
    "cuGraphDestroy": (ctypes.c_void_p,),
    "cuGraphExecDestroy": (ctypes.c_void_p,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """What distinguishes one GPU from another, as far as an engine is concerned.

    Attributes:
        index: CUDA ordinal.
        name: such as "NVIDIA GeForce RTX 4090" or "Orin".
        sm: compute capability as a target name, such as "sm89".
        driver_version: newest CUDA version that the driver serves, such as "13.0".
        memory_bytes: total device memory.
    """

    index: int
    name: str
    sm: str
    driver_version: str
    memory_bytes: int


def probe(index: int = 0, *, library: str = LIBRARY) -> DeviceInfo:
    """Describe a GPU without creating a context on it.

    Raises:
        BackendUnavailable: if there is no driver, or no GPU of that index.
    """
    return _describe(_Driver(library), index)


class CudaDevice:
    """A GPU: memory, copies and streams. Addresses and streams are plain integers.

    Every method may be called from any thread. Whoever allocates frees; `close` gives back only
    the context.

    Args:
        index: CUDA ordinal.
        library: the driver's library; only tests give another.

    Raises:
        BackendUnavailable: if there is no driver, or no GPU of that index.
    """

    def __init__(self, index: int = 0, *, library: str = LIBRARY) -> None:
        self._driver = _Driver(library)
        self.info = _describe(self._driver, index)
        self._ordinal = ctypes.c_int()
        self._driver.call("cuDeviceGet", ctypes.byref(self._ordinal), index)
        self._context = ctypes.c_void_p()
        self._driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._ordinal)
        self._is_open = True

    def activate(self) -> None:
        """Make this GPU the current one of the calling thread, as TensorRT requires."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def memory_info(self) -> tuple[int, int]:
        """Return free and total device memory in bytes."""
        self.activate()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory.

        Raises:
            OutOfMemory: if the device has no such block free.
        """
        self.activate()
        address = ctypes.c_uint64()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), size_bytes, size=size_bytes)
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.activate()
        self._driver.call("cuMemFree_v2", address)

    def allocate_host(self, size_bytes: int) -> int:
        """Return the address of new page-locked host memory, which copies asynchronously.

        Raises:
            OutOfMemory: if the host has no such block free.
        """
        self.activate()
        address = ctypes.c_void_p()
        self._driver.call("cuMemHostAlloc", ctypes.byref(address), size_bytes, 0, size=size_bytes)
        return address.value or 0

    def free_host(self, address: int) -> None:
        """Give page-locked host memory back."""
        self.activate()
        self._driver.call("cuMemFreeHost", address)

    def copy_to_device(self, target: int, source: int, size_bytes: int, *, stream: int) -> None:
        """Enqueue a copy from host to device memory."""
        self.activate()
        self._driver.call("cuMemcpyHtoDAsync_v2", target, source, size_bytes, stream)

    def copy_to_host(self, target: int, source: int, size_bytes: int, *, stream: int) -> None:
        """Enqueue a copy from device to host memory."""
        self.activate()
        self._driver.call("cuMemcpyDtoHAsync_v2", target, source, size_bytes, stream)

    def create_stream(self) -> int:
        """Return a new stream that does not wait for the default stream."""
        self.activate()
        stream = ctypes.c_void_p()
        self._driver.call("cuStreamCreate", ctypes.byref(stream), _STREAM_NON_BLOCKING)
        return stream.value or 0

    def synchronize(self, stream: int) -> None:
        """Wait until everything enqueued on a stream is done.

        Raises:
            DeviceLost: if a kernel faulted; the process must be restarted.
        """
        self.activate()
        self._driver.call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self.activate()
        self._driver.call("cuStreamDestroy_v2", stream)

    def capture_graph(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return, as one graph to launch, what a function enqueues on a stream; nothing runs.

        Raises:
            BackendError: if something in it cannot be captured; the stream stays usable.
        """
        self.activate()
        self._driver.call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            try:
                enqueue()
            finally:  # whatever happened, the stream has to leave its capture
                self._driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
            self._driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            if graph.value:
                self._driver.call("cuGraphDestroy", graph)
        return executable.value or 0

    def launch_graph(self, graph: int, stream: int) -> None:
        """Enqueue a captured graph."""
        self.activate()
        self._driver.call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a captured graph back."""
        self.activate()
        self._driver.call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Give the context back; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._driver.call("cuDevicePrimaryCtxRelease_v2", self._ordinal)


class _Driver:
    """The driver's library: every call is checked and its error translated here."""

    def __init__(self, library: str) -> None:
        try:
            self._library = ctypes.CDLL(library)
            for name, arguments in _SIGNATURES.items():
                function = getattr(self._library, name)
                function.argtypes = arguments
                function.restype = ctypes.c_int
        except (OSError, AttributeError) as error:
            raise BackendUnavailable(
                f"no CUDA device: the NVIDIA driver library {library} was not found ({error}); "
                f"expected an NVIDIA GPU and its driver. {_ADVICE}"
            ) from error
        code = self._library.cuInit(0)
        if code:
            raise BackendUnavailable(
                f"no CUDA device: found {library}, but it reports {self._text(code)}; "
                f"expected a driver with a GPU. {_ADVICE}"
            )

    def call(self, name: str, *arguments: object, size: int | None = None) -> None:
        """Call a function of the driver.

        Args:
            name: the function.
            arguments: what it takes.
            size: bytes asked for, for the message of a failed allocation.
        """
        code: int = getattr(self._library, name)(*arguments)
        if not code:
            return
        text = f"{name} failed: {self._text(code)}"
        if code == _OUT_OF_MEMORY:
            wanted = "" if size is None else f" ({size / 2**20:.1f} MiB asked for)"
            raise OutOfMemory(
                f"{text}{wanted}. Close other programs on the GPU, export the model at a smaller "
                "--image-size, or use backend='onnxruntime'."
            )
        if code in _STICKY:
            raise DeviceLost(
                f"{text}. The GPU's context is lost: nothing in this process can use the GPU any "
                "more. Restart the process; if it happens again, check dmesg for Xid errors."
            )
        raise BackendError(f"{text}. Check the GPU with nvidia-smi.")

    def _text(self, code: int) -> str:
        parts = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            if getattr(self._library, function)(code, ctypes.byref(text)) == 0 and text.value:
                parts.append(text.value.decode("utf-8", "replace"))
        return ": ".join(parts) or f"CUDA error {code}"


def _describe(driver: _Driver, index: int) -> DeviceInfo:
    count = ctypes.c_int()
    driver.call("cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        raise BackendUnavailable(
            f"no CUDA device {index}: the driver found {count.value} device(s); expected an index "
            f"in 0..{count.value - 1}. Check CUDA_VISIBLE_DEVICES."
            if count.value
            else f"no CUDA device: the driver found none; expected at least one GPU. {_ADVICE}"
        )
    device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.call("cuDeviceGet", ctypes.byref(device), index)
    driver.call("cuDeviceGetName", name, len(name), device)
    driver.call("cuDriverGetVersion", ctypes.byref(version))
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    for target, attribute in (
        (major, _COMPUTE_CAPABILITY_MAJOR),
        (minor, _COMPUTE_CAPABILITY_MINOR),
    ):
        driver.call("cuDeviceGetAttribute", ctypes.byref(target), attribute, device)
    return DeviceInfo(
        index=index,
        name=name.value.decode("utf-8", "replace"),
        sm=f"sm{major.value}{minor.value}",
        driver_version=f"{version.value // 1000}.{version.value % 1000 // 10}",
        memory_bytes=memory.value,
    )
