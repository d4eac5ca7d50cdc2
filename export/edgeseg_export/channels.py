"""Finds which channels of a model's values may be scaled, and which of them only together.

A convolution's input and output may be measured in other units in every channel, if its weights are too. ReLU,
LeakyReLU, pooling and resizing pass a factor on, an addition needs one factor for all that it adds. Where anything else
reads or gives a value, its channels stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from edgeseg_export.onnx_model import Array, OnnxModel, attribute
from edgeseg_export.passes.quantize import WEIGHT_AXES

Classes = npt.NDArray[np.intp]
"""Of each channel of a value, the number of its class: channels of a class have one factor."""

PASSING = frozenset(
    {
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "Relu",
        "Resize",
    }
)
"""f(s x) = s f(x) for s > 0, channel by channel."""
FIXED = 0
"""The class of all channels that stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A node whose weights can take up factors.

    Attributes:
        graph: name of its graph.
        node: it.
        inputs: class of each channel that it reads.
        outputs: class of each channel that it gives.
    """

    graph: str
    node: NodeProto
    inputs: Classes
    outputs: Classes

    @property
    def groups(self) -> int:
        """In how many parts its channels fall."""
        return int(attribute(self.node, "group", 1))


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channels of a model.

    Attributes:
        num_classes: how many there are; the first one stays as it is.
        values: (graph, value) -> class of each channel.
        convolutions: in the graphs' order.
    """

    num_classes: int
    values: Mapping[tuple[str, str], Classes]
    convolutions: tuple[Convolution, ...]


def channels_of(graphs: Mapping[str, OnnxModel]) -> Channels:
    """Return the classes of a model's channels.

    Convolutions with the same weights, be it in two graphs, change together, so that a bundle still holds
    the weights once.

    Args:
        graphs: of the model, in float32, edgeseg's operators without bodies.
    """
    joined = _Joined()
    values: dict[tuple[str, str], Classes] = {}
    found: list[tuple[str, NodeProto, Classes, Classes]] = []
    of_constants: dict[tuple[str, str], tuple[Classes, ...]] = {}
    owners = _Owners(graphs)
    for name, model in graphs.items():
        known: dict[str, Classes] = {}
        kept = {value.name for value in model.graph.output}
        for node in model.graph.node:
            shape = owners.shape(name, node)
            if shape is not None:
                inputs = known.setdefault(node.input[0], joined.fixed(shape[0]))
                if len(inputs) != shape[0]:  # of another axis
                    joined.fix(inputs)
                    continue
                outputs = joined.new(shape[1])
                known[node.output[0]] = outputs
                changed = ((inputs, outputs), (outputs,))  # by weights, by a bias
                for constant, mine in zip(node.input[1:], changed, strict=False):
                    first = of_constants.setdefault(owners.key(name, constant), mine)
                    for one, other in zip(mine, first, strict=True):
                        joined.join(one, other)
                found.append((name, node, inputs, outputs))
                continue
            passed = _passed(node, known, joined)
            if passed is None:
                for value in _read_by(node):
                    if value in known:
                        joined.fix(known[value])
            else:
                known[node.output[0]] = passed
        for value in kept & known.keys():
            joined.fix(known[value])
        values |= {(name, value): classes for value, classes in known.items()}
    numbers = joined.numbers()
    return Channels(
        num_classes=int(numbers.max(initial=0)) + 1,
        values={key: numbers[classes] for key, classes in values.items()},
        convolutions=tuple(
            Convolution(graph=name, node=node, inputs=numbers[ins], outputs=numbers[outs])
            for name, node, ins, outs in found
        ),
    )


def scaled_weight(convolution: Convolution, weight: Array, factors: Array) -> Array:
    """Return the weights that read x / s and give y / t, where ``weight`` reads x and gives y.

    Args:
        convolution: whose weights they are.
        weight: (out, in / groups, ...), of a transposed convolution (in, out, ...).
        factors: of all classes; s and t are those of its channels.
    """
    taken, given = factors[convolution.inputs], factors[convolution.outputs]
    is_transposed = convolution.node.op_type == "ConvTranspose"
    ratio = by_input(convolution, taken) / given[:, None]
    ratio = ratio.T if is_transposed else ratio
    scaled = weight * ratio.reshape(*ratio.shape, *[1] * (weight.ndim - 2))
    return scaled.astype(weight.dtype)


def by_input(convolution: Convolution, values: Array) -> Array:
    """Return (out, in / groups): for every weight of a convolution the entry of the channel that it reads."""
    groups = convolution.groups
    of_groups = values.reshape(groups, -1)
    return np.repeat(of_groups, len(convolution.outputs) // groups, axis=0)


class _Owners:
    """Says which nodes are convolutions with constant weights, and which of them share those."""

    def __init__(self, graphs: Mapping[str, OnnxModel]) -> None:
        self._graphs = graphs
        self._constants = {
            name: {tensor.name: tensor for tensor in model.graph.initializer}
            for name, model in graphs.items()
        }
        self._first: dict[str, list[tuple[str, Array]]] = {}
        self._read_otherwise = {
            value
            for model in graphs.values()
            for node in model.graph.node
            for value in (node.input[:1] if node.op_type in WEIGHT_AXES else _read_by(node))
        }

    def shape(self, graph: str, node: NodeProto) -> tuple[int, int] | None:
        """Return how many channels a convolution reads and gives; None for what is none."""
        constants = self._constants[graph]
        if node.domain or node.op_type not in WEIGHT_AXES or len(node.input) < 2:
            return None
        if not all(
            value in constants and value not in self._read_otherwise for value in node.input[1:]
        ):
            return None
        dims = constants[node.input[1]].dims
        groups = int(attribute(node, "group", 1))
        if node.op_type == "Conv":
            return dims[1] * groups, dims[0]
        return (dims[0], dims[1]) if groups == 1 else None

    def key(self, graph: str, name: str) -> tuple[str, str]:
        """Return the first graph that has an initializer of this name and content, and the name."""
        value = self._graphs[graph].array(self._constants[graph][name])
        holders = self._first.setdefault(name, [])
        for holder, other in holders:
            if other is value or (other.shape == value.shape and np.array_equal(other, value)):
                return holder, name
        holders.append((graph, value))
        return graph, name


class _Joined:
    """Classes that become one, class by class (union-find). The first one is fixed."""

    def __init__(self) -> None:
        self._parents: list[int] = [FIXED]

    def new(self, count: int) -> Classes:
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def fixed(self, count: int) -> Classes:
        return np.full(count, FIXED)

    def fix(self, classes: Classes) -> None:
        self.join(classes, self.fixed(len(classes)))

    def join(self, one: Classes, other: Classes) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def numbers(self) -> Classes:
        """Return the number of each class after all joining, from 0 on without gaps."""
        roots = np.array([self._root(number) for number in range(len(self._parents))])
        return np.unique(roots, return_inverse=True)[1].astype(np.intp)

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def _read_by(node: NodeProto) -> list[str]:
    """Return the values that a node reads, those of the graphs inside it among them."""
    inner = [item.g for item in node.attribute if item.HasField("g")]
    return [*node.input, *(value for graph in inner for n in graph.node for value in _read_by(n))]


def _passed(node: NodeProto, known: Mapping[str, Classes], joined: _Joined) -> Classes | None:
    """Return the classes of a node's output if factors go through it, else None."""
    if node.domain or len(node.output) != 1:
        return None
    if node.op_type in PASSING:
        return known.get(node.input[0])
    values = [known.get(value) for value in node.input]
    given = [classes for classes in values if classes is not None]
    if len(given) < len(values) or not given:
        return None
    if node.op_type == "Concat" and attribute(node, "axis", 0) == 1:
        return np.concatenate(given)
    if node.op_type == "Add" and len({len(classes) for classes in given}) == 1:
        joined.join(given[0], given[1])
        return given[0]
    return None
