"""Rewrites 3x3 convolutions of stride 1 in Winograd's form, in standard operators.

Blocks of 4x4 results take 36 products for each pair of channels instead of 144 (F(4x4, 3x3)), blocks of 2x2 take 16
instead of 36 (F(2x2, 3x3)). Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016; the
matrices are those of the points 0, 1, -1, 2, -2 and infinity, or 0, 1, -1 and infinity.

Shape suffixes: N maps, C and O channels in and out, T places of a tile ((m + 2)^2), P tiles of a map, m side of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx.fields import Field, fields_between, opening
from edgeseg_runtime.onnx.infer import values_of
from edgeseg_runtime.onnx.model import Graph, Model, Node, Tensor, read_model
from edgeseg_runtime.onnx.rules.values import FLOAT, Value
from edgeseg_runtime.onnx.write import constant_field, node_field

__all__ = ["MAX_WEIGHT_BYTES", "TILES", "Choice", "Layer", "rewrite"]

Floats = npt.NDArray[np.floating[Any]]

_MODEL_GRAPH, _GRAPH_NODE = 7, 1
MAX_WEIGHT_BYTES = 512 << 20
"""Of all transformed weights of a graph, which are four times as large as the plain ones (F(4x4, 3x3)), and stay in memory."""


class Layer(NamedTuple):
    """A convolution that can be rewritten: channels in and out, how many maps it gives, and their size."""

    channels: int
    out: int
    maps: int
    height: int
    width: int

    def num_tiles(self, tile: int) -> int:
        """Return how many blocks of a side cover all maps."""
        return self.maps * -(-self.height // tile) * -(-self.width // tile)


Choice = Callable[[Layer], int | None]
"""Gives the side of the blocks that a layer is to be computed in, a key of `TILES`, or None to leave it."""


class _Chosen(NamedTuple):
    """A layer with each number of rows, the side of its blocks, and how many maps it reads; None if that is free."""

    layers: tuple[Layer, ...]
    tile: int
    maps: int | None


class _Transforms(NamedTuple):
    """Matrices of one dimension: of a tile (m + 2, m + 2), of weights (m + 2, 3), of results (m, m + 2)."""

    tile: Floats
    weights: Floats
    results: Floats


TILES: Mapping[int, _Transforms] = {
    2: _Transforms(
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
        np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
        np.array([[1, 1, 1, 0], [0, 1, -1, 1]]),
    ),
    4: _Transforms(
        np.array(
            [
                [4, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ]
        ),
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
        np.array(
            [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
        ),
    ),
}
"""Side of a block of results -> its transforms."""


def rewrite(
    onnx: bytes, choose: Choice, *, rows: Sequence[int] = (1,), shares_weights: bool = False
) -> tuple[bytes, int]:
    """Return the graph with the convolutions rewritten that gain, and how many these are.

    Transformed weights are written as nodes over the plain ones, which an engine computes once, when it loads the graph.
    Convolutions that read one map share its tiles. Those that would take more than `MAX_WEIGHT_BYTES`, those whose weights are not float32 constants of the graph, and those in
    the bodies of loops and functions, stay as they are.

    Args:
        onnx: an encoded model that `check_graph` has accepted.
        choose: how to compute a layer.
        rows: sizes of a free second axis of the inputs; a layer is rewritten if it gains with each of them.
        shares_weights: initializers may be empty.
    """
    model = read_model(onnx, shares_weights=shares_weights)
    candidates = _candidates(model.graph)
    if not candidates:
        return onnx, 0
    chosen: dict[int, _Chosen] = {}
    for index, (layers, has_free_maps) in _layers(model, candidates, rows).items():
        choices = [choose(layer) for layer in layers]
        tile = choices[-1]
        if tile is not None and None not in choices:
            chosen[index] = _Chosen(layers, tile, None if has_free_maps else layers[0].maps)
    writer = _Writer()
    replaced = {
        index: writer.replacement(model.graph.nodes[index], layers[0], maps, tile)
        for index, (layers, tile, maps) in _within_budget(chosen, candidates).items()
    }
    if not replaced:
        return onnx, 0
    return _assembled(onnx, replaced, writer.constants), len(replaced)


def _within_budget(
    chosen: Mapping[int, _Chosen], weights: Mapping[int, Tensor]
) -> dict[int, _Chosen]:
    """Return the layers whose transformed weights fit into `MAX_WEIGHT_BYTES`, in the order of the nodes.

    Those with most tiles come first: they save most for each byte.
    """
    falling = sorted(
        chosen, key=lambda index: -chosen[index].layers[-1].num_tiles(chosen[index].tile)
    )
    held: set[tuple[str, int]] = set()  # convolutions may share their weights
    kept, num_bytes = set(), 0
    for index in falling:
        layers, tile, _ = chosen[index]
        key = (weights[index].name, tile)
        more = 0 if key in held else 4 * (tile + 2) ** 2 * layers[0].channels * layers[0].out
        if num_bytes + more <= MAX_WEIGHT_BYTES:
            num_bytes += more
            held.add(key)
            kept.add(index)
    return {index: one for index, one in chosen.items() if index in kept}


def _candidates(graph: Graph) -> dict[int, Tensor]:
    """Return the convolutions that have another form, by their place among the nodes, with their weights."""
    weights = {
        tensor.name: tensor
        for tensor in graph.initializers
        if tensor.dtype == FLOAT and len(tensor.shape) == 4 and tensor.shape[2:] == (3, 3)
    }
    return {
        index: weights[node.inputs[1]]
        for index, node in enumerate(graph.nodes)
        if node.operator == "Conv"
        and not node.domain
        and node.inputs[1] in weights
        and node.attribute("group", 1) == 1
        and tuple(node.attribute("strides", (1, 1))) == (1, 1)
        and tuple(node.attribute("dilations", (1, 1))) == (1, 1)
        and node.attribute("auto_pad", b"NOTSET") == b"NOTSET"
    }


def _layers(
    model: Model, candidates: Mapping[int, Tensor], rows: Sequence[int]
) -> dict[int, tuple[tuple[Layer, ...], bool]]:
    """Return for each candidate what it is with each number of rows, and whether the number of its maps is free.

    A candidate is left out if its map has an unknown size, or one that depends on a free axis.
    """
    has_free_axis = any(info.shape is None or None in info.shape for info in model.graph.inputs)
    sizes = [(1, count) for count in rows] if has_free_axis else [(1, 1)]
    every = [values_of(model, free) for free in sizes]
    # A size that is the same for other axes, too, does not depend on them.
    other = values_of(model, (2, 3)) if has_free_axis else every[0]
    found = {}
    for index, weight in candidates.items():
        node = model.graph.nodes[index]
        shapes = [_map_shape(values, node) for values in (*every, other)]
        if None in shapes or len({shape[1:] for shape in shapes if shape}) > 1:
            continue
        top, left, bottom, right = _pads(node)
        layers = tuple(
            Layer(
                channels=weight.shape[1],
                out=weight.shape[0],
                maps=shape[0],
                height=shape[2] + top + bottom - 2,
                width=shape[3] + left + right - 2,
            )
            for shape in shapes
            if shape
        )
        found[index] = layers[:-1], len({layer.maps for layer in layers}) > 1
    return found


def _map_shape(values: Mapping[str, Value], node: Node) -> tuple[int, ...] | None:
    """Return the shape of what a convolution reads, or None if that is unknown or not float32."""
    value = values.get(node.inputs[0])
    return value.shape if value is not None and value.dtype == FLOAT else None


def _pads(node: Node) -> tuple[int, int, int, int]:
    """Return how much is added above, left, below and right."""
    top, left, bottom, right = node.attribute("pads", (0, 0, 0, 0))
    return top, left, bottom, right


@dataclass
class _Writer:
    """Writes the nodes that take the place of convolutions; what several need is written once.

    Attributes:
        constants: encoded initializers, by name.
    """

    constants: dict[str, bytes] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)
    _nodes: list[bytes] = field(default_factory=list)

    def replacement(self, node: Node, layer: Layer, maps: int | None, tile: int) -> bytes:
        """Return the encoded nodes.

        Args:
            node: the convolution.
            layer: its sizes.
            maps: that it reads; None if their number is free.
            tile: side of a block of results.
        """
        self._nodes = []
        name = f"{node.outputs[0]}/winograd"
        tiles = self._tiles(node.inputs[0], _pads(node), layer, maps, tile)
        weights = self._weights(node.inputs[1], layer, tile)
        products = self._add("MatMul", [weights, tiles], f"{name}/products")
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        if not bias:
            self._joined(products, layer, maps, tile, node.outputs[0])
        else:
            joined = self._joined(products, layer, maps, tile, f"{name}/sums")
            self._add("Add", [joined, self._bias(bias)], node.outputs[0])
        return b"".join(self._nodes)

    def _tiles(
        self, source: str, pads: Sequence[int], layer: Layer, maps: int | None, tile: int
    ) -> str:
        """Return the transformed tiles (T, C, N P) of maps."""
        name = f"{source}/winograd/{tile}/{'_'.join(map(str, pads))}"
        if name in self._written:
            return name
        self._written.add(name)
        top, left, bottom, right = pads
        height, width = layer.height + 2 - top - bottom, layer.width + 2 - left - right
        rows, columns = -(-layer.height // tile), -(-layer.width // tile)
        if maps != 1:
            source = self._add("Transpose", [source], f"{name}/by_channel", perm=[1, 0, 2, 3])
        # Channels and maps are depth: the places of a tile then come out before both, without a transposition.
        planes = self._shaped(source, [1, 1, -1, height, width], f"{name}/planes")
        kernel = np.kron(TILES[tile].tile, TILES[tile].tile).reshape(-1, 1, 1, tile + 2, tile + 2)
        places = self._add(
            "Conv",
            [planes, self._constant(f"winograd/{tile}/tile", kernel)],
            f"{name}/places",
            kernel_shape=[1, tile + 2, tile + 2],
            strides=[1, tile, tile],
            pads=[
                0,
                top,
                left,
                0,
                tile * rows + 2 - height - top,
                tile * columns + 2 - width - left,
            ],
        )
        return self._shaped(places, [(tile + 2) ** 2, layer.channels, -1], name)

    def _weights(self, source: str, layer: Layer, tile: int) -> str:
        """Return the transformed weights (T, O, C)."""
        name = f"{source}/winograd/{tile}"
        if name not in self._written:
            self._written.add(name)
            taps = self._shaped(source, [-1, 9], f"{name}/taps")
            matrix = np.kron(TILES[tile].weights, TILES[tile].weights)
            both = [self._constant(f"winograd/{tile}/weights", matrix), taps]
            places = self._add("Gemm", both, f"{name}/places", transB=1)
            self._shaped(places, [(tile + 2) ** 2, layer.out, layer.channels], name)
        return name

    def _joined(self, products: str, layer: Layer, maps: int | None, tile: int, output: str) -> str:
        """Return the maps (N, O, height, width) from products (T, O, N P)."""
        rows, columns = -(-layer.height // tile), -(-layer.width // tile)
        name = f"{output}/winograd"
        flat = self._shaped(products, [(tile + 2) ** 2, -1], f"{name}/flat")
        matrix = np.kron(TILES[tile].results, TILES[tile].results)
        back = self._constant(f"winograd/{tile}/results", matrix)
        blocks = self._add("MatMul", [back, flat], f"{name}/blocks")
        # All rows of tiles, of one map after the other, as if they were those of one map.
        stack = self._shaped(blocks, [1, tile**2 * layer.out, -1, columns], f"{name}/stack")
        is_whole = (rows * tile, columns * tile) == (layer.height, layer.width)
        steps: list[tuple[str, Sequence[str], dict[str, Any]]] = [
            ("DepthToSpace", (), {"blocksize": tile})
        ]
        if maps != 1:
            sizes = self._sizes([layer.out, -1, rows * tile, columns * tile])
            steps.append(("Reshape", (sizes,), {}))
        if not is_whole:
            ends = ([0, 0], [layer.height, layer.width], [2, 3])
            steps.append(("Slice", tuple(map(self._sizes, ends)), {}))
        if maps != 1:
            steps.append(("Transpose", (), {"perm": [1, 0, 2, 3]}))
        found = stack
        for number, (operator, others, attributes) in enumerate(steps):
            made = output if number == len(steps) - 1 else f"{name}/{operator.lower()}"
            found = self._add(operator, [found, *others], made, **attributes)
        return found

    def _bias(self, source: str) -> str:
        """Return the bias as (1, O, 1, 1)."""
        name = f"{source}/winograd"
        if name not in self._written:
            self._written.add(name)
            self._shaped(source, [1, -1, 1, 1], name)
        return name

    def _add(
        self, operator: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]
    ) -> str:
        self._nodes.append(node_field(operator, inputs, output, **attributes))
        return output

    def _shaped(self, source: str, sizes: Sequence[int], output: str) -> str:
        return self._add("Reshape", [source, self._sizes(sizes)], output)

    def _sizes(self, sizes: Sequence[int]) -> str:
        name = f"winograd/sizes/{'_'.join(map(str, sizes))}"
        self.constants.setdefault(name, constant_field(name, np.array(sizes, np.int64)))
        return name

    def _constant(self, name: str, values: Floats) -> str:
        self.constants.setdefault(name, constant_field(name, values.astype(np.float32)))
        return name


def _assembled(onnx: bytes, replaced: Mapping[int, bytes], constants: Mapping[str, bytes]) -> bytes:
    """Return the model with nodes replaced; nothing of it is copied but once."""
    view = memoryview(onnx)
    before: list[bytes | memoryview] = []
    graph: list[bytes | memoryview] = []
    after: list[bytes | memoryview] = []
    for entry in fields_between(onnx, 0, len(onnx)):
        if entry.number == _MODEL_GRAPH:
            graph += _pieces(onnx, entry, replaced)
        else:
            (after if graph else before).append(view[entry.start : entry.end])
    graph += constants.values()
    size = sum(map(len, graph))
    return b"".join([*before, opening(_MODEL_GRAPH, size), *graph, *after])


def _pieces(
    onnx: bytes, graph: Field, replaced: Mapping[int, bytes]
) -> Iterator[bytes | memoryview]:
    view, index = memoryview(onnx), 0
    for entry in fields_between(onnx, graph.content, graph.end):
        is_node = entry.number == _GRAPH_NODE
        yield (
            replaced.get(index, b"")
            if is_node and index in replaced
            else view[entry.start : entry.end]
        )
        index += is_node
