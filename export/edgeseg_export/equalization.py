"""Measures a model's channels in units in which one int8 scale for all of them fits.

One scale for a whole activation leaves channels with small values a few levels only. Here every channel gets a factor,
which the weights before and behind it take up, so that the float32 results stay the same (Nagel et al., Data-free
quantization through weight equalization and bias correction, ICCV 2019). Weights have a scale for each output channel:
the convolution before bears every factor, a depthwise one behind it, too. For any other one behind it, small channels
that are made large make its weights unequal: the exponent between both (Xiao et al., SmoothQuant, ICML 2023) is the one
with the least noise by a model of both roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from edgeseg_export.channels import Channels, Convolution, by_input, channels_of, scaled_weight
from edgeseg_export.feeds import feeds_of
from edgeseg_export.onnx_model import Array, OnnxModel
from edgeseg_export.passes.quantize import LEVELS, values_to_calibrate
from edgeseg_export.precision import Assignments
from edgeseg_export.sessions import Graphs, cpu_session
from edgeseg_runtime.image import Image
from edgeseg_runtime.manifest import Manifest

PRE={}
Doubles = npt.NDArray[np.float64]
Value = tuple[str, str]
"""Names of a graph and of a value in it."""

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""0: the weights behind become equal, 1: the activations do."""
QUIET = 1 / 256
"""Channels that stay below this share of the largest are not trusted to do so on other pictures."""


@dataclass(frozen=True, kw_only=True)
class ChannelSizes:
    """How large a value becomes in each of its channels, over all pictures.

    Attributes:
        largest: magnitude.
        mean_square: over all places.
    """

    largest: Doubles
    mean_square: Doubles


def equalize(
    plain: Graphs,
    reference: Graphs,
    manifest: Manifest,
    assignments: Assignments,
    pictures: Sequence[Image],
    *,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Array]]:
    """Return new contents for initializers of each graph, by their names.

    Args:
        plain: the float32 graphs, edgeseg's operators without bodies.
        reference: the same, complete.
        manifest: of the model.
        assignments: which of the nodes will be int8.
        pictures: (H, W, 3) uint8 BGR, like those that the model will see.
        on_picture: called as on_picture(done, total).
    """
    channels = channels_of(plain)
    rounded = rounded_values(plain, channels, assignments)
    watched = {key: channels.values[key] for key in rounded}
    sizes = channel_sizes(reference, manifest, pictures, watched, on_picture=on_picture)
    factors = channel_factors(plain, channels, assignments, sizes)
    return scaled_initializers(plain, channels, factors)


def rounded_values(
    plain: Graphs, channels: Channels, assignments: Assignments
) -> dict[Value, Array]:
    """Return the values that int8 nodes read or give, with the classes of their channels.

    What a LeakyReLU reads is not among them: it is rounded on the scale of what comes behind.
    """
    found: dict[Value, Array] = {}
    for name, graph in plain.items():
        PRE.update({n.output[0]: n.input[0] for n in graph.graph.node if n.op_type == "LeakyRelu"})
        behind = {n.input[0]: n.output[0] for n in graph.graph.node if n.op_type == "LeakyRelu"}
        for value in values_to_calibrate(graph, _int8_nodes(assignments.get(name, {}))):
            for value in (value, behind.get(value)):
              if (name, value) in channels.values:
                found[name, value] = channels.values[name, value]
    return found


def channel_sizes(
    reference: Graphs,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Collection[Value],
    *,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Value, ChannelSizes]:
    """Return how large values become on pictures; the graphs themselves reduce them.

    Args:
        reference: complete graphs in float32.
        manifest: of the model.
        pictures: (H, W, 3) uint8 BGR; a video model takes them as one clip.
        values: (N, C, ...) each.
        on_picture: called as on_picture(done, total).
    """
    wanted = {name: [value for graph, value in values if graph == name] for name in reference}
    sessions = {
        name: cpu_session(_with_sizes(reference[name], names))
        for name, names in wanted.items()
        if names
    }
    largest: dict[Value, Doubles] = {}
    squares: dict[Value, Doubles] = {}
    counts: dict[str, int] = dict.fromkeys(sessions, 0)
    for done, feeds in enumerate(feeds_of(reference, manifest, pictures), 1):
        for name in feeds.keys() & sessions.keys():
            names = [f"{value}/{kind}" for value in wanted[name] for kind in ("largest", "square")]
            found = sessions[name].run(names, feeds[name])
            counts[name] += 1
            for value, top, square in zip(wanted[name], found[::2], found[1::2], strict=True):
                tops, means = (_by_channel(array) for array in (top, square))
                key = name, value
                largest[key] = np.maximum(largest.get(key, 0.0), tops.max(0))
                squares[key] = squares.get(key, 0.0) + means.mean(0)
        on_picture(done, len(pictures))
    return {
        key: ChannelSizes(largest=top, mean_square=squares[key] / counts[key[0]])
        for key, top in largest.items()
    }


def channel_factors(
    plain: Graphs,
    channels: Channels,
    assignments: Assignments,
    sizes: Mapping[Value, ChannelSizes],
) -> Doubles:
    """Return the factor of each class: what x was is x / factor from now on.

    Args:
        plain: the float32 graphs.
        channels: of them.
        assignments: which of the nodes will be int8.
        sizes: of the values that will be int8.
    """
    factors = np.ones(channels.num_classes)
    activations = _sizes_of_classes(channels, sizes)
    readers = [
        _Reader.of(plain[each.graph], each, sizes, is_int8=_is_int8(each, assignments))
        for each in channels.convolutions
        if (each.graph, each.node.input[0]) in sizes and each.inputs.any()
    ]
    for group in _groups(channels, sizes):
        behind = [each for each in readers if each.reads(group)]
        _choose(factors, group, activations[group], behind, channels, sizes)
    return factors


def scaled_initializers(
    plain: Graphs, channels: Channels, factors: Doubles
) -> dict[str, dict[str, Array]]:
    """Return the weights and biases that change, of each graph, by their names."""
    changed: dict[str, dict[str, Array]] = {name: {} for name in plain}
    for each in channels.convolutions:
        if (factors[each.inputs] == 1).all() and (factors[each.outputs] == 1).all():
            continue
        model = plain[each.graph]
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        weight, *biases = (model.array(tensors[name]) for name in each.node.input[1:])
        found = changed[each.graph]
        found[each.node.input[1]] = scaled_weight(each, weight, factors)
        for bias in biases:
            found[each.node.input[2]] = (bias / factors[each.outputs]).astype(bias.dtype)
    return changed


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """A convolution behind values that change their factors, O x I weights seen as (out, in / groups).

    Attributes:
        classes: (O, I) of what each weight reads.
        largest: (O, I) magnitude of a kernel.
        energy: (O, I) sum of squares of a kernel.
        signal: (O, I) mean square of what each reads.
        num_taps: of a kernel.
        value: what it reads.
        is_int8: whether its weights are rounded.
    """

    classes: Array
    largest: Doubles
    energy: Doubles
    signal: Doubles
    num_taps: int
    value: Value
    is_int8: bool

    @classmethod
    def of(
        cls,
        model: OnnxModel,
        convolution: Convolution,
        sizes: Mapping[Value, ChannelSizes],
        *,
        is_int8: bool,
    ) -> _Reader:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        weight = model.array(tensors[convolution.node.input[1]]).astype(np.float64)
        if convolution.node.op_type == "ConvTranspose":
            weight = weight.swapaxes(0, 1)
        kernels = weight.reshape(*weight.shape[:2], -1)
        value = convolution.graph, convolution.node.input[0]
        return cls(
            classes=by_input(convolution, convolution.inputs),
            largest=np.abs(kernels).max(2),
            energy=(kernels**2).sum(2),
            signal=by_input(convolution, sizes[value].mean_square),
            num_taps=kernels.shape[2],
            value=value,
            is_int8=is_int8,
        )

    def reads(self, group: Array) -> bool:
        return bool(np.isin(self.classes, group).any())

    def columns(self, num_classes: int) -> Doubles:
        """Return how large the weights of each class are for their rows; 0 of those that it does not read."""
        rows = self.largest.max(1, keepdims=True)
        shares = np.divide(self.largest, rows, out=np.zeros_like(self.largest), where=rows > 0)
        found = np.zeros(num_classes)
        np.maximum.at(found, self.classes.ravel(), shares.ravel())
        return found

    def noise(self, factors: Doubles, sizes: Mapping[Value, ChannelSizes], classes: Array) -> float:
        """Return the noise of both roundings over the signal."""
        taken = factors[self.classes]
        step = (sizes[(self.value[0],PRE.get(self.value[1],self.value[1]))].largest / factors[classes]).max() / LEVELS
        noise = step**2 * float((self.energy * taken**2).sum())
        if self.is_int8:
            steps = (self.largest * taken).max(1) / LEVELS
            noise += self.num_taps * float((steps**2 * (self.signal / taken**2).sum(1)).sum())
        signal = float((self.energy * self.signal).sum())
        return noise / signal if signal > 0 else 0.0


def _choose(
    factors: Doubles,
    group: Array,
    activations: Doubles,
    readers: Sequence[_Reader],
    channels: Channels,
    sizes: Mapping[Value, ChannelSizes],
) -> None:
    """Give the classes of a group those factors of which least noise is expected."""
    if not readers:
        return
    columns = [each.columns(channels.num_classes)[group] for each in readers if each.is_int8]
    weights = _geometric_mean(columns, len(group))
    best = np.inf
    chosen = factors[group]
    for exponent in EXPONENTS:
        tried = activations**exponent / weights ** (1 - exponent)
        tried *= (activations / tried).max() / activations.max()
        factors[group] = tried
        noise = sum(
            each.noise(factors, sizes, channels.values[each.value]) for each in readers
        )
        if noise < best:
            best, chosen = noise, tried; e=exponent
    factors[group] = chosen
    import os
    if os.environ.get('V'): print(len(group),e,len(readers),activations.min(),activations.max())


def _groups(channels: Channels, sizes: Collection[Value]) -> list[Array]:
    """Return the classes that have to be chosen together: those of values that share a scale."""
    owner = np.arange(channels.num_classes)

    def root(number: int) -> int:
        while owner[number] != number:
            number = int(owner[number])
        return number

    for key in sizes:
        members = [root(number) for number in np.unique(channels.values[key]) if number]
        if members:
            owner[members] = min(members)
    roots = np.array([root(number) for number in range(channels.num_classes)])
    seen = {number for key in sizes for number in np.unique(channels.values[key]) if number}
    groups = [np.flatnonzero(roots == number) for number in np.unique(roots[sorted(seen)])]
    return [group for group in groups if group[0]]


def _sizes_of_classes(channels: Channels, sizes: Mapping[Value, ChannelSizes]) -> Doubles:
    """Return how large each class is: the geometric mean over the values that it is part of."""
    found = []
    import os
    for key, size in sizes.items():
        if (key[0], PRE.get(key[1])) in sizes: continue
        k=float(os.environ.get("RK","0"))
        top=size.largest
        if k>0: top = np.minimum(top, k*np.sqrt(size.mean_square))
        if k<0: top = np.sqrt(top * np.sqrt(size.mean_square))
        tops = np.maximum(top, QUIET * top.max(initial=0.0))
        of_classes = np.zeros(channels.num_classes)
        np.maximum.at(of_classes, channels.values[key], tops)
        found.append(of_classes)
    return _geometric_mean(found, channels.num_classes)


def _geometric_mean(rows: Sequence[Doubles], size: int) -> Doubles:
    """Return the geometric mean of the entries above 0, column by column; 1 where there are none."""
    logs, counts = np.zeros(size), np.zeros(size)
    for row in rows:
        logs += np.log(row, out=np.zeros(size), where=row > 0)
        counts += row > 0
    return np.exp(logs / np.maximum(counts, 1))


def _is_int8(convolution: Convolution, assignments: Assignments) -> bool:
    return assignments.get(convolution.graph, {}).get(convolution.node.name) == "int8"


def _int8_nodes(assignment: Mapping[str, str]) -> set[str]:
    return {name for name, precision in assignment.items() if precision == "int8"}


def _with_sizes(model: OnnxModel, values: Sequence[str]) -> OnnxModel:
    """Return a graph that gives the largest magnitude and the mean square of every channel of values."""
    watched = model.copy()
    del watched.graph.output[:]
    for value in values:
        steps = (
            ("Abs", [value], f"{value}/magnitude"),
            ("GlobalMaxPool", [f"{value}/magnitude"], f"{value}/largest"),
            ("Mul", [value, value], f"{value}/squared"),
            ("GlobalAveragePool", [f"{value}/squared"], f"{value}/square"),
        )
        watched.graph.node.extend(helper.make_node(kind, i, [o]) for kind, i, o in steps)
        watched.graph.output.extend(
            helper.make_tensor_value_info(f"{value}/{kind}", TensorProto.FLOAT, None)
            for kind in ("largest", "square")
        )
    return watched


def _by_channel(array: Array) -> Doubles:
    """Return (N, C, 1, ...) as (N, C)."""
    return array.astype(np.float64).reshape(array.shape[0], -1)
