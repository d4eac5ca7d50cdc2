"""Measures a model's channels in units in which one int8 scale fits all of a value.

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
from edgeseg_export.factors import nearest_factors, with_factors
from edgeseg_export.feeds import feeds_of
from edgeseg_export.onnx_model import Array, OnnxModel
from edgeseg_export.passes.quantize import LEVELS, scale_sources, values_to_calibrate
from edgeseg_export.precision import Assignments, nodes_in
from edgeseg_export.sessions import Graphs, cpu_session
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image

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


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """What equalising changes in graphs, by names that all variants of a model have.

    Attributes:
        initializers: of each graph, new weights and biases.
        factors: of each graph, value -> what each of its channels is divided by.
    """

    initializers: Mapping[str, Mapping[str, Array]]
    factors: Mapping[str, Mapping[str, Array]]

    def applied(self, graphs: Graphs) -> dict[str, OnnxModel]:
        """Return copies of float32 graphs with these weights, whose metadata tell the factors."""
        return {
            name: with_factors(
                _with_initializers(graph, self.initializers[name]), self.factors[name]
            )
            for name, graph in graphs.items()
        }


def equalize(
    plain: Graphs,
    reference: Graphs,
    manifest: Manifest,
    assignments: Assignments,
    pictures: Sequence[Image],
    *,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Equalization:
    """Find factors for a model's channels.

    Args:
        plain: the float32 graphs, edgeseg's operators without bodies.
        reference: the same, complete.
        manifest: of the model.
        assignments: which of the nodes will be int8.
        pictures: (H, W, 3) uint8 BGR, like those that the model will see.
        on_picture: called as on_picture(done, total).
    """
    channels = channels_of(plain)
    in_int8 = {name: nodes_in(assignments.get(name, {}), "int8") for name in plain}
    rounded = [
        (name, value)
        for name, graph in plain.items()
        for value in values_to_calibrate(graph, in_int8[name])
        if (name, value) in channels.values
    ]
    sources = {
        (name, value): (name, source)
        for name, graph in plain.items()
        for value, source in scale_sources(graph, in_int8[name]).items()
    }
    sizes = channel_sizes(reference, manifest, pictures, rounded, on_picture=on_picture)
    factors = channel_factors(plain, channels, assignments, sizes, sources)
    of_values = {key: factors[classes] for key, classes in channels.values.items()}
    return Equalization(
        initializers=_scaled_initializers(plain, channels, factors),
        factors={
            name: {value: f for (graph, value), f in of_values.items() if graph == name}
            for name in plain
        },
    )


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
            outputs = [
                f"{value}/{kind}" for value in wanted[name] for kind in ("largest", "square")
            ]
            found = [_by_channel(array) for array in sessions[name].run(outputs, feeds[name])]
            counts[name] += 1
            for value, tops, means in zip(wanted[name], found[::2], found[1::2], strict=True):
                key = name, value
                largest[key] = np.maximum(largest.get(key, 0.0), tops.max(0))
                squares[key] = squares.get(key, 0.0) + means.mean(0)
        on_picture(done, len(pictures))
    return {
        key: ChannelSizes(largest=tops, mean_square=squares[key] / counts[key[0]])
        for key, tops in largest.items()
    }


def channel_factors(
    plain: Graphs,
    channels: Channels,
    assignments: Assignments,
    sizes: Mapping[Value, ChannelSizes],
    sources: Mapping[Value, Value],
) -> Doubles:
    """Return the factor of each class: what was x is x / factor from now on.

    Args:
        plain: the float32 graphs.
        channels: of them.
        assignments: which of the nodes will be int8.
        sizes: of the values that will be int8.
        sources: values that have the scale of another one -> which.
    """
    factors = np.ones(channels.num_classes)
    ranged = {key: size for key, size in sizes.items() if sources.get(key, key) == key}
    activations = _sizes_of_classes(channels, ranged)
    readers = [
        _Reader.of(
            plain[each.graph],
            each,
            sizes,
            scaled_as=sources.get(value, value),
            is_int8=assignments.get(each.graph, {}).get(each.node.name) == "int8",
        )
        for each in channels.convolutions
        if (value := (each.graph, each.node.input[0])) in sizes and each.inputs.any()
    ]
    for group in _groups(channels, sizes):
        behind = [each for each in readers if np.isin(each.classes, group).any()]
        if behind:
            _choose(factors, group, activations[group], behind, channels, sizes)
    return nearest_factors(factors)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """A convolution of O x I kernels behind values that change their factors.

    Attributes:
        classes: (O, I) of what each kernel reads.
        largest: (O, I) magnitude of a kernel.
        energy: (O, I) sum of squares of a kernel.
        signal: (O, I) mean square of what each reads.
        num_taps: of a kernel.
        scaled_as: the value whose scale that has what is read.
        is_int8: whether the weights are rounded.
    """

    classes: Array
    largest: Doubles
    energy: Doubles
    signal: Doubles
    num_taps: int
    scaled_as: Value
    is_int8: bool

    @classmethod
    def of(
        cls,
        model: OnnxModel,
        convolution: Convolution,
        sizes: Mapping[Value, ChannelSizes],
        *,
        scaled_as: Value,
        is_int8: bool,
    ) -> _Reader:
        """Return what matters of a convolution."""
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        weight = model.array(tensors[convolution.node.input[1]]).astype(np.float64)
        if convolution.node.op_type == "ConvTranspose":
            weight = weight.swapaxes(0, 1)
        kernels = weight.reshape(*weight.shape[:2], -1)
        read = sizes[convolution.graph, convolution.node.input[0]]
        return cls(
            classes=by_input(convolution, convolution.inputs),
            largest=np.abs(kernels).max(2),
            energy=(kernels**2).sum(2),
            signal=by_input(convolution, read.mean_square),
            num_taps=kernels.shape[2],
            scaled_as=scaled_as,
            is_int8=is_int8,
        )

    def columns(self, num_classes: int) -> Doubles:
        """Return how large the kernels of each class are for their rows; 0 of those that it does not read."""
        rows = self.largest.max(1, keepdims=True)
        shares = np.divide(self.largest, rows, out=np.zeros_like(self.largest), where=rows > 0)
        found = np.zeros(num_classes)
        np.maximum.at(found, self.classes.ravel(), np.maximum(shares, QUIET).ravel())
        return found

    def noise(self, factors: Doubles, sizes: Mapping[Value, ChannelSizes], classes: Array) -> float:
        """Return the noise of both roundings over the signal, were all inputs independent.

        Args:
            factors: of all classes.
            sizes: of the values that will be int8.
            classes: of the channels of `scaled_as`.
        """
        taken = factors[self.classes]
        step = (sizes[self.scaled_as].largest / factors[classes]).max() / LEVELS
        noise = step**2 * float((self.energy * taken**2).sum())
        if self.is_int8:
            steps = (self.largest * taken).max(1) / LEVELS
            noise += self.num_taps * float(steps**2 @ (self.signal / taken**2).sum(1))
        signal = float((self.energy * self.signal).sum())
        return float(noise / signal) if signal > 0 else 0.0


def _choose(
    factors: Doubles,
    group: Array,
    activations: Doubles,
    readers: Sequence[_Reader],
    channels: Channels,
    sizes: Mapping[Value, ChannelSizes],
) -> None:
    """Give the classes of a group those factors of which least noise is expected."""
    columns = [each.columns(channels.num_classes)[group] for each in readers if each.is_int8]
    weights = _geometric_mean(columns, len(group))

    def noise(tried: Doubles) -> float:
        factors[group] = tried
        return sum(each.noise(factors, sizes, channels.values[each.scaled_as]) for each in readers)

    def of_exponent(exponent: float) -> Doubles:
        tried = activations**exponent / weights ** (1 - exponent)
        # The largest activation stays what it is, for what is not scaled and for float16.
        return tried * (activations / tried).max() / activations.max()

    factors[group] = min(map(of_exponent, EXPONENTS), key=noise)


def _groups(channels: Channels, values: Collection[Value]) -> list[Array]:
    """Return the classes that have to be chosen together: those of values that share a scale."""
    owner = np.arange(channels.num_classes)

    def root(number: int) -> int:
        while owner[number] != number:
            number = int(owner[number])
        return number

    seen: set[int] = set()
    for key in values:
        members = [int(number) for number in np.unique(channels.values[key]) if number]
        roots = [root(number) for number in members]
        owner[roots] = min(roots, default=0)
        seen.update(members)
    numbers = np.array(sorted(seen), dtype=np.intp)
    roots_of = np.array([root(number) for number in numbers])
    return [numbers[roots_of == number] for number in np.unique(roots_of)]


def _sizes_of_classes(channels: Channels, sizes: Mapping[Value, ChannelSizes]) -> Doubles:
    """Return how large each class is: the geometric mean over the values that it is part of."""
    found = []
    for key, size in sizes.items():
        tops = np.maximum(size.largest, QUIET * size.largest.max(initial=0.0))
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


def _scaled_initializers(
    plain: Graphs, channels: Channels, factors: Doubles
) -> dict[str, dict[str, Array]]:
    """Return the weights and biases that change, of each graph."""
    tensors = {
        name: {tensor.name: tensor for tensor in graph.graph.initializer}
        for name, graph in plain.items()
    }
    changed: dict[str, dict[str, Array]] = {name: {} for name in plain}
    for each in channels.convolutions:
        if (factors[each.inputs] == 1).all() and (factors[each.outputs] == 1).all():
            continue
        names = each.node.input[1:]
        weight, *biases = (plain[each.graph].array(tensors[each.graph][name]) for name in names)
        scaled = [scaled_weight(each, weight, factors)]
        scaled += [(bias / factors[each.outputs]).astype(bias.dtype) for bias in biases]
        changed[each.graph] |= dict(zip(names, scaled, strict=True))
    return changed


def _with_initializers(model: OnnxModel, values: Mapping[str, Array]) -> OnnxModel:
    """Return a copy in which some initializers have another content."""
    changed = model.copy()
    kept = {tensor.name for tensor in changed.graph.initializer} - values.keys()
    changed.keep_initializers(kept)
    for name, value in values.items():
        changed.add_initializer(name, value)
    return changed


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
    return array.astype(np.float64).reshape(array.shape[:2])
