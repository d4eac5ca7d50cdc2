"""Rewrites 3x3 convolutions of stride 1 as Winograd's F(4x4, 3x3) in standard operators.

Four by four results take 36 products for each pair of channels instead of 144. Source: Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", 2016, with the points 0, 1, -1, 2, -2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx.fields import VARINT, delimited, fields_of
from edgeseg_runtime.onnx.infer import values_of
from edgeseg_runtime.onnx.model import Graph, Node, Tensor, read_model

__all__ = ["Layer", "rewrite"]

_FLOAT, _INT64 = 1, 7  # onnx.TensorProto.DataType
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_G[0, 0] = 1 / 4
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


class Layer(NamedTuple):
    """A convolution that can be rewritten: channels in and out, and the map it gives."""

    channels: int
    out: int
    height: int
    width: int


def rewrite(onnx: bytes, gains: Callable[[Layer], bool]) -> tuple[bytes, int]:
    """Return the graph with the convolutions rewritten that gain, and how many these are.

    Bodies of loops and functions, and graphs whose inputs have a free axis, stay as they are.

    Args:
        onnx: an encoded model.
        gains: whether a layer is faster in the other form.
    """
    graph = read_model(onnx).graph
    if any(info.shape is None or None in info.shape for info in graph.inputs):
        return onnx, 0  # a free axis is not told from one of size 1 below
    writer = _Writer(graph)
    values = values_of(read_model(onnx))
    replaced: dict[int, bytes] = {}
    for index, node in enumerate(graph.nodes):
        value = values.get(node.inputs[0]) if node.inputs else None
        weight = writer.weight(node)
        if weight is None or value is None or value.shape is None or value.dtype != _FLOAT:
            continue
        top, left, bottom, right = node.attribute("pads", (0, 0, 0, 0))
        height, width = value.shape[2] + top + bottom - 2, value.shape[3] + left + right - 2
        if gains(Layer(weight.shape[1], weight.shape[0], height, width)):
            replaced[index] = writer.replacement(node, weight, value.shape, height, width)
    if not replaced:
        return onnx, 0
    return _assembled(onnx, graph, replaced, writer.constants), len(replaced)


class _Writer:
    """Writes nodes and constants; what convolutions share is written once."""

    def __init__(self, graph: Graph) -> None:
        self._weights = {tensor.name: tensor for tensor in graph.initializers}
        self._tiles: dict[tuple[Any, ...], str] = {}
        self.constants: dict[str, bytes] = {}

    def weight(self, node: Node) -> npt.NDArray[np.float32] | None:
        """Return the weights (out, in, 3, 3) of a convolution that can be rewritten, else None."""
        if node.operator != "Conv" or node.domain or node.inputs[1] not in self._weights:
            return None
        tensor = self._weights[node.inputs[1]]
        fits = (
            tensor.shape[2:] == (3, 3)
            and len(tensor.shape) == 4
            and tensor.dtype == _FLOAT
            and node.attribute("group", 1) == 1
            and tuple(node.attribute("strides", (1, 1))) == (1, 1)
            and tuple(node.attribute("dilations", (1, 1))) == (1, 1)
            and node.attribute("auto_pad", b"NOTSET") == b"NOTSET"
        )
        return _array(tensor) if fits else None

    def replacement(
        self,
        node: Node,
        weight: npt.NDArray[np.float32],
        shape: Sequence[int],
        height: int,
        width: int,
    ) -> bytes:
        """Return the encoded nodes that take a convolution's place."""
        out, name = len(weight), f"{node.outputs[0]}/winograd"
        batch, rows, columns = shape[0], -(-height // 4), -(-width // 4)
        tiles, nodes = self._transformed(node, shape, rows, columns)
        products = np.einsum("ai,ocij,bj->aboc", _G, weight.astype(np.float64), _G)
        weights = self._constant(f"{name}/weights", products.reshape(36, out, -1))
        back = np.einsum("ia,jb->ijab", _A, _A).reshape(16, 36)
        nodes += _node("MatMul", [weights, tiles], f"{name}/products")
        nodes += _node("Transpose", [f"{name}/products"], f"{name}/places", perm=[0, 2, 1, 3])
        nodes += _node(
            "MatMul", [self._constant("winograd/out", back), f"{name}/places"], f"{name}/blocks"
        )
        blocks = self._sizes(f"{name}/as_blocks", [batch * out, 16, rows, columns])
        nodes += _node("Reshape", [f"{name}/blocks", blocks], f"{name}/planes")
        nodes += _node("DepthToSpace", [f"{name}/planes"], f"{name}/maps", blocksize=4)
        maps = self._sizes(f"{name}/as_maps", [batch, out, 4 * rows, 4 * columns])
        result = f"{name}/sum" if len(node.inputs) > 2 and node.inputs[2] else node.outputs[0]
        whole = f"{name}/whole" if (4 * rows, 4 * columns) != (height, width) else result
        nodes += _node("Reshape", [f"{name}/maps", maps], whole)
        if whole != result:
            ends = [
                self._sizes(f"{name}/{key}", sizes)
                for key, sizes in (("start", [0, 0]), ("end", [height, width]), ("axes", [2, 3]))
            ]
            nodes += _node("Slice", [whole, *ends], result)
        if result != node.outputs[0]:
            column = self._sizes("winograd/column", [1, -1, 1, 1])
            nodes += _node("Reshape", [node.inputs[2], column], f"{name}/bias")
            nodes += _node("Add", [result, f"{name}/bias"], node.outputs[0])
        return nodes

    def _transformed(
        self, node: Node, shape: Sequence[int], rows: int, columns: int
    ) -> tuple[str, bytes]:
        """Return the name of the tiles (N, 36, C, P) of a map, and the nodes if they are new."""
        batch, channels, height, width = shape
        top, left, _, _ = pads = tuple(node.attribute("pads", (0, 0, 0, 0)))
        key = (node.inputs[0], pads)
        if key in self._tiles:
            return self._tiles[key], b""
        name = self._tiles[key] = f"{node.outputs[0]}/winograd/tiles"
        kernel = self._constant(
            "winograd/in", np.einsum("ai,bj->abij", _B, _B).reshape(36, 1, 6, 6)
        )
        planes = self._sizes(f"{name}/as_planes", [batch * channels, 1, height, width])
        as_tiles = self._sizes(f"{name}/as_tiles", [batch, channels, 36, rows * columns])
        ends = [4 * rows + 2 - height - top, 4 * columns + 2 - width - left]
        nodes = _node("Reshape", [node.inputs[0], planes], f"{name}/planes")
        nodes += _node(
            "Conv",
            [f"{name}/planes", kernel],
            f"{name}/conv",
            kernel_shape=[6, 6],
            strides=[4, 4],
            pads=[top, left, *ends],
        )
        nodes += _node("Reshape", [f"{name}/conv", as_tiles], f"{name}/channels")
        return name, nodes + _node("Transpose", [f"{name}/channels"], name, perm=[0, 2, 1, 3])

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self.constants.setdefault(name, _tensor(name, values.astype("<f4"), _FLOAT))
        return name

    def _sizes(self, name: str, sizes: Sequence[int]) -> str:
        self.constants.setdefault(name, _tensor(name, np.array(sizes, "<i8"), _INT64))
        return name


def _array(tensor: Tensor) -> npt.NDArray[np.float32] | None:
    if not len(tensor.elements):
        return None
    if isinstance(tensor.elements, memoryview):
        return np.frombuffer(tensor.elements, "<f4").reshape(tensor.shape)
    return tensor.elements.astype(np.float32).reshape(tensor.shape)


def _assembled(
    onnx: bytes, graph: Graph, replaced: dict[int, bytes], constants: dict[str, bytes]
) -> bytes:
    """Return the model with nodes replaced, without the weights that nothing reads any more."""
    left = [node for index, node in enumerate(graph.nodes) if index not in replaced]
    gone = {graph.nodes[index].inputs[1] for index in replaced}
    gone -= {name for node in left for name in node.inputs}
    gone -= {info.name for info in (*graph.inputs, *graph.outputs)}
    if any(isinstance(item, Graph) for node in left for _, item in node.attributes.values()):
        gone = set()  # a body may read them
    model = []
    for number, field, content in fields_of(onnx):
        if number != 7:
            model.append(field)
            continue
        parts, index = [], 0
        for kind, part, inner in fields_of(content):
            if kind == 1:
                part, index = replaced.get(index, part), index + 1
            elif kind == 5 and _name(inner) in gone:
                continue
            parts.append(part)
        parts += [delimited(5, tensor) for tensor in constants.values()]
        model.append(delimited(7, b"".join(parts)))
    return b"".join(model)


def _name(tensor: bytes) -> str:
    return next((text.decode() for number, _, text in fields_of(tensor) if number == 8), "")


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> bytes:
    parts = [delimited(1, name.encode()) for name in inputs]
    parts += [delimited(2, output.encode()), delimited(3, output.encode())]
    parts.append(delimited(4, operator.encode()))
    for name, value in attributes.items():
        if isinstance(value, int):
            content = _number(3, value) + _number(20, 2)
        else:
            content = b"".join(_number(8, item) for item in value) + _number(20, 7)
        parts.append(delimited(5, delimited(1, name.encode()) + content))
    return delimited(1, b"".join(parts))


def _tensor(name: str, array: npt.NDArray[Any], dtype: int) -> bytes:
    sizes = b"".join(_number(1, size) for size in array.shape)
    return sizes + _number(2, dtype) + delimited(8, name.encode()) + delimited(9, array.tobytes())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*data, value))
