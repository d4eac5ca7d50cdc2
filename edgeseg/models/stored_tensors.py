"""Finds the tensors in what a pickle describes; their numbers are read when they are asked for."""

from __future__ import annotations

import functools
import io
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from edgeseg.models.inert_pickle import Inert, Reference

Opener = Callable[[], BinaryIO]

MAX_DEPTH = 32
"""How deep containers, or modules, may lie in one another; what lies deeper is not seen."""
MAX_PARTS = 200_000
"""Tensors and containers that are looked at; a checkpoint of 1000 parameters has 10 000."""
_MAX_WRAPPERS = 4
_MAX_RANK = 16
_BLOCK_BYTES = 1 << 20


class DamagedError(ValueError):
    """Bytes are not what they should be."""


@dataclass(frozen=True)
class Span:
    """A stretch of bytes in a file, or of what takes its place.

    Attributes:
        open: gives a stream of the file.
        start: of the stretch in the file.
        size: in bytes.
        crc: its CRC-32, where the file has one.
    """

    open: Opener = field(repr=False)
    start: int
    size: int
    crc: int | None = None

    def read(self, first: int, size: int) -> bytearray:
        """Return some of the bytes.

        Raises:
            DamagedError: they are not there, or not those that were written.
        """
        if not self._is_intact:
            raise DamagedError("its checksum is wrong: some of its bits have changed")
        data = bytearray(size)
        with self.open() as stream:
            stream.seek(self.start + first)
            if stream.readinto(data) != size:  # type: ignore[attr-defined]
                raise DamagedError("it ends before its numbers do")
        return data

    def read_all(self) -> bytearray:
        """Return all of the bytes.

        Raises:
            DamagedError: as :meth:`read` does.
        """
        return self.read(0, self.size)

    @functools.cached_property
    def _is_intact(self) -> bool:
        if self.crc is None:
            return True
        crc, left = 0, self.size
        with self.open() as stream:
            stream.seek(self.start)
            while left > 0 and (block := stream.read(min(left, _BLOCK_BYTES))):
                crc, left = zlib.crc32(block, crc), left - len(block)
        return left == 0 and crc == self.crc


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        dtype: of its elements.
        shape: of the tensor.
        strides: in elements.
        offset: of its first element, in elements.
        span: where the elements are.
        is_swapped: the bytes of an element are in the order of another kind of computer.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    span: Span
    is_swapped: bool = False

    def read(self) -> Tensor:
        """Return the tensor.

        Raises:
            DamagedError: the file is.
        """
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        count = _extent(self.shape, self.strides)
        size = self.dtype.itemsize
        data = self.span.read(self.offset * size, count * size)
        if self.is_swapped:
            data = bytearray(np.frombuffer(data, f"u{size}").byteswap().tobytes())
        flat = torch.frombuffer(data, dtype=self.dtype)
        return flat.as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class Opaque:
    """Something in the place of a tensor that is not a tensor.

    Attributes:
        kind: what it is, such as "str".
        is_tensor: it should be one, but is damaged or of a sort that serves no model.
    """

    kind: str
    is_tensor: bool = False


@dataclass(frozen=True, kw_only=True)
class Storages:
    """The storages of a file, which its pickle refers to.

    Attributes:
        spans: by key.
        is_big_endian: order of the bytes of a number.
        load_embedded: reads a file that stands inside the pickle as bytes.
    """

    spans: Mapping[str, Span]
    is_big_endian: bool = False
    load_embedded: Callable[[bytes], Any]


def plain_from_inert(root: Any, storages: Storages) -> Any:
    """Return what a pickle describes as dicts, lists, :class:`StoredTensor` and :class:`Opaque`.

    Whole modules become their state dicts, other objects dicts of their attributes. Containers
    without a tensor become None, so that the size of the result is bounded by the number of tensors
    and of ways that lead to them; these may still be many.
    """
    return _Plain(storages).convert(root)


def element_size_of_storage(reference: Reference) -> tuple[str, int] | None:
    """Return the key of the storage that is referred to, and the bytes of an element of it."""
    if not isinstance(reference.id, tuple) or len(reference.id) < 5:
        return None
    _, kind, key, *_ = reference.id
    dtype = _STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Inert) else None
    return (key, dtype.itemsize) if dtype is not None and isinstance(key, str) else None


class _Plain:
    """Converts each object once, however often it is referred to."""

    def __init__(self, storages: Storages) -> None:
        self.storages = storages
        self.known: dict[int, Any] = {}
        self.embedded: dict[int, Any] = {}
        self.num_parts = 0

    def convert(self, node: Any, depth: int = 0) -> Any:
        if isinstance(node, dict | list | tuple | Inert):
            if id(node) not in self.known:
                self.known[id(node)] = None  # what contains itself ends here
                if depth <= MAX_DEPTH:
                    self.known[id(node)] = self.container(node, depth)
            return self.known[id(node)]
        return _opaque("None" if node is None else type(node).__name__)

    def container(self, node: Any, depth: int) -> Any:
        if isinstance(node, Inert):
            tensor = self.tensor_of(node)
            if tensor is not None:
                return tensor
            if _is_module(node):
                state: dict[str, Any] = {}
                self.add_module(state, "", node, 0)
                return state or None
            node = _content(node)
            if node is None:
                return _opaque("an object")
        if isinstance(node, dict):
            values: Any = {str(key): self.convert(value, depth + 1) for key, value in node.items()}
            return values if any(_has_tensors(value) for value in values.values()) else None
        values = [self.convert(value, depth + 1) for value in node]
        return values if any(map(_has_tensors, values)) else None

    def add_module(self, state: dict[str, Any], prefix: str, module: Inert, depth: int) -> None:
        """Put the state dict of a pickled module into ``state``."""
        tensors, children = _parts_of_module(module)
        self.num_parts += 1 + len(tensors) + len(children)
        if self.num_parts > MAX_PARTS or depth > MAX_DEPTH:
            return
        for key, value in tensors.items():
            tensor = self.tensor_of(value) if isinstance(value, Inert) else None
            if tensor is not None:
                state[f"{prefix}{key}"] = tensor
        for key, child in children.items():
            if isinstance(child, Inert) and _is_module(child):
                self.add_module(state, f"{prefix}{key}.", child, depth + 1)

    def tensor_of(self, node: Inert) -> StoredTensor | Opaque | None:
        """Return the tensor that an object is, or None if it is not a tensor."""
        try:
            for _ in range(_MAX_WRAPPERS):
                if node.name not in _WRAPPERS or not node.args:
                    break
                inner = node.args[_WRAPPERS[node.name]]
                if isinstance(inner, Inert) and inner.args is None:  # a function and its arguments
                    inner = Inert(inner.name, node.args[2])
                node = inner
            read = _TENSORS.get(node.name)
            return None if read is None or node.args is None else read(self, node)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            why = (
                str(error) if isinstance(error, DamagedError) else "it is not as PyTorch writes it"
            )
            return Opaque(f"a damaged tensor: {why}", is_tensor=True)

    def torch_tensor(self, node: Inert, dtype: torch.dtype | None = None) -> StoredTensor | Opaque:
        assert node.args is not None
        storage, offset, shape, strides = node.args[:4]
        found = self.storage(storage)
        if isinstance(found, Opaque):
            return found
        stored_as, span, count, first = found
        if dtype is not None:  # of untyped bytes
            stored_as, count, first = dtype, span.size // dtype.itemsize, first // dtype.itemsize
        return _checked(
            StoredTensor(
                stored_as,
                _numbers(shape),
                _numbers(strides),
                _number(offset) + first,
                span,
                is_swapped=self.storages.is_big_endian and stored_as.itemsize > 1,
            ),
            count,
        )

    def torch_tensor_with_dtype(self, node: Inert) -> StoredTensor | Opaque:
        assert node.args is not None
        return self.torch_tensor(node, _DTYPES[node.args[6].name])

    def storage(self, node: Any) -> tuple[torch.dtype, Span, int, int] | Opaque:
        """Return dtype, bytes, number of elements and first element of a storage."""
        if isinstance(node, Inert) and node.name == _EMBEDDED and node.args:
            raw = node.args[0]
            if id(raw) not in self.embedded:
                self.embedded[id(raw)] = self.storages.load_embedded(_bytes(raw))
            root, inner = self.embedded[id(raw)]
            if not isinstance(root, Reference):
                raise DamagedError("its storage is not valid")
            return _Plain(inner).storage(root)
        _, kind, key, _, count, *view = node.id
        name = kind.name.rpartition(".")[2]
        if name not in _STORAGES:
            return Opaque(f"a tensor of {name[:40]}", is_tensor=True)
        if str(key) not in self.storages.spans:
            raise DamagedError("its numbers are missing in the file")
        dtype, span, first = _STORAGES[name], self.storages.spans[str(key)], 0
        if view and view[0] is not None:  # a part of another storage, in files before torch 0.4
            _, first, _ = view[0]
        if _number(count) * dtype.itemsize > span.size:
            raise DamagedError("its storage is shorter than it says")
        return dtype, span, span.size // dtype.itemsize, _number(first)

    def numpy_array(self, node: Inert) -> StoredTensor | Opaque:
        _, shape, dtype, is_fortran, raw = node.state
        return _array(raw, dtype, shape, is_fortran=bool(is_fortran))

    def numpy_buffer(self, node: Inert) -> StoredTensor | Opaque:
        assert node.args is not None
        raw, dtype, shape, order = node.args
        return _array(raw, dtype, shape, is_fortran=order == "F")


_EMBEDDED = "torch.storage._load_from_bytes"
_NN_MODULE = {"_parameters", "_buffers", "_modules"}
_WRAPPERS = {  # what is made of a tensor -> which argument that is
    "torch._utils._rebuild_parameter": 0,
    "torch._utils._rebuild_parameter_with_state": 0,
    "torch._utils._rebuild_device_tensor_from_numpy": 0,
    "torch._tensor._rebuild_from_type_v2": 0,
    "torch._tensor._rebuild_from_type": 0,
}
_TENSORS: dict[str, Callable[[_Plain, Inert], StoredTensor | Opaque]] = {
    "torch._utils._rebuild_tensor": _Plain.torch_tensor,
    "torch._utils._rebuild_tensor_v2": _Plain.torch_tensor,
    "torch._utils._rebuild_tensor_v3": _Plain.torch_tensor_with_dtype,
    "numpy.core.multiarray._reconstruct": _Plain.numpy_array,
    "numpy._core.multiarray._reconstruct": _Plain.numpy_array,
    "numpy.core.numeric._frombuffer": _Plain.numpy_buffer,
    "numpy._core.numeric._frombuffer": _Plain.numpy_buffer,
}
_DTYPES = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_BYTES = ("_codecs.encode", "__builtin__.bytes", "builtins.bytes")
"""How bytes are written in the pickles that Python 2 can read: as text, and what to do with it."""
_NUMPY_DTYPE = re.compile(r"[<>=|]?([fiu])([1248])|[|]?b1")


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor whose last index runs fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _checked(tensor: StoredTensor, count: int) -> StoredTensor:
    """Return the tensor.

    Raises:
        DamagedError: it reaches beyond the ``count`` elements of its storage.
    """
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > _MAX_RANK:
        raise DamagedError("its shape and strides do not belong together")
    if 0 not in tensor.shape and tensor.offset + _extent(tensor.shape, tensor.strides) > count:
        raise DamagedError(f"{_listed(tensor.shape)} elements in a storage of {count}")
    return tensor


def _array(raw: Any, dtype: Any, shape: Any, *, is_fortran: bool) -> StoredTensor | Opaque:
    name = dtype.args[0]
    if not isinstance(name, str) or not _NUMPY_DTYPE.fullmatch(name):
        return Opaque(f"an array of {name[:20] if isinstance(name, str) else 'objects'}")
    order: Any = dtype.state[1] if dtype.state else "="
    kind = np.dtype(name).newbyteorder(order)
    if isinstance(raw, Inert) and raw.name in _BYTES and raw.args is not None:
        raw = raw.args[0] if raw.args else b""
    if not isinstance(raw, str | bytes | bytearray):
        return Opaque("an array of objects")
    if isinstance(raw, str) and raw and max(raw) > "\xff":
        return Opaque("an array with text in the place of its bytes")
    shape = _numbers(shape)
    tensor = StoredTensor(
        torch.from_numpy(np.empty(0, kind.newbyteorder("="))).dtype,
        shape,
        contiguous_strides(shape[::-1])[::-1] if is_fortran else contiguous_strides(shape),
        0,
        Span(functools.partial(_open_bytes, raw), 0, len(raw)),
        is_swapped=not kind.isnative,
    )
    return _checked(tensor, len(raw) // kind.itemsize)


def _open_bytes(raw: Any) -> BinaryIO:
    return io.BytesIO(_bytes(raw))


def _bytes(raw: str | bytes | bytearray) -> bytes:
    return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _parts_of_module(module: Inert) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return what may be a module's tensors and its children, by name."""
    attributes = _attributes(module)
    if not attributes.keys() >= _NN_MODULE:  # TorchScript's: both are among its attributes
        return attributes, attributes
    buffers = _entries(attributes["_buffers"])
    hidden = _content(attributes.get("_non_persistent_buffers_set")) or ()
    for name in filter(_is_text, hidden):
        buffers.pop(name, None)
    return {**buffers, **_entries(attributes["_parameters"])}, _entries(attributes["_modules"])


def _content(node: Any) -> Any:
    """Return the dict or list that an object holds, None if it holds none."""
    if not isinstance(node, Inert):
        return node if isinstance(node, dict | list | tuple) else None
    if node.items or node.elements:
        return node.items or node.elements
    attributes = _attributes(node)
    if attributes:
        return attributes
    first = node.args[0] if node.args else None
    if isinstance(first, list) and all(isinstance(e, list | tuple) and len(e) == 2 for e in first):
        return {e[0]: e[1] for e in first if _is_text(e[0])}  # OrderedDict of Python 2
    return first if isinstance(first, dict | list | tuple) else None


def _attributes(node: Inert) -> dict[Any, Any]:
    parts = node.state if isinstance(node.state, tuple) else (node.state,)
    merged: dict[Any, Any] = {}
    for part in parts[:2]:  # __dict__ and __slots__
        if isinstance(part, dict):
            merged |= part
    return merged


def _entries(node: Any) -> dict[Any, Any]:
    content = _content(node)
    return content if isinstance(content, dict) else {}


def _is_module(node: Inert) -> bool:
    state = node.state
    return isinstance(state, dict) and (state.keys() >= _NN_MODULE or "training" in state)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, StoredTensor | dict | list) or (
        isinstance(value, Opaque) and value.is_tensor
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many elements of a storage a tensor spans, from its first one."""
    return 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))


def _numbers(value: Any) -> tuple[int, ...]:
    if isinstance(value, Inert) and value.args:  # torch.Size
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > _MAX_RANK:
        raise DamagedError("a shape that is not valid")
    return tuple(map(_number, value))


def _number(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise DamagedError("a length or position that is not valid")
    return value


def _listed(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


@functools.cache
def _opaque(kind: str) -> Opaque:
    return Opaque(kind)
