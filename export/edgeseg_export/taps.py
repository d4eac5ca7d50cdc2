"""Measures how far the values inside two graphs of one model differ, node by node.

Graphs of different precisions share the names of their nodes. A node's value is compared as its readers see it: behind
the QuantizeLinear of an int8 graph, in float16 where it is that. Two things are measured at each tap:

accumulated    the candidate runs on the picture; what differs at a tap has come from all nodes before it
own            the candidate's readers get the reference's values at all other taps; what differs is this node's doing

Which rows survive TopK and suppression depends on the last bit. The candidate takes the reference's selection, so that
values behind it belong to the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeseg_export.calibration import groups_that_fit
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes.drop_outputs import drop_outputs
from edgeseg_export.sessions import cpu_session
from edgeseg_runtime.onnx.quantized import bytes_for_cpu

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Tensors = Mapping[str, npt.NDArray[Any]]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
JOINING = frozenset({"Add", "Concat"})
"""Operators with an int8 scale of their own; tapped inside modules only, not in decoding."""
ACTIVATIONS = frozenset({"Clip", "HardSwish", "LeakyRelu", "PRelu", "Relu"})
"""Operators that are compared together with the one before: int8 saturates what they clear."""
CASTS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
OWN_DOMAIN = "edgeseg"
SUPPRESSION = "Nms"

MAX_SNR_DB = 200.0
"""Of equal values; float32 itself ends at about 150."""
MAX_LEVEL = 127
BAD_SNR_DB = 20.0
"""A node's own noise has a tenth of its signal's amplitude; sound int8 nodes are beyond 30."""


@dataclass(frozen=True, kw_only=True)
class TapDifference:
    """How far a candidate's value is from the reference's, over all pictures.

    Attributes:
        name: of the node, such as "backbone.stem.0.conv/Conv"; with the activation behind it.
        operator: of the node.
        precision: in which the candidate holds the value: "int8", "fp16" or "fp32".
        cosine: of the angle between both; 1 where only the size differs.
        snr_db: the reference's energy over that of the accumulated difference, in decibels.
        own_snr_db: the same for what this node alone adds.
        max_error: largest accumulated difference; None if the candidate has infinite numbers or NaN.
        largest: largest magnitude of the reference.
        num_levels: of the 127 int8 levels of a sign, how many the reference's values reach; None without int8.
    """

    name: str
    operator: str
    precision: str
    cosine: float
    snr_db: float
    own_snr_db: float
    max_error: float | None
    largest: float
    num_levels: int | None = None

    @property
    def is_bad(self) -> bool:
        """Whether this node alone spoils its result."""
        return self.own_snr_db < BAD_SNR_DB


@dataclass(frozen=True, kw_only=True)
class _Value:
    """Where a graph keeps the result of a node, and in which form.

    Attributes:
        name: of the value that the node computes.
        fetched: of what to look at: the same, or the int8 levels behind it.
        precision: "int8", "fp16" or "fp32".
        scale: of int8 levels.
        zero_point: level that means 0 on this machine.
    """

    name: str
    fetched: str
    precision: str
    scale: float = 1.0
    zero_point: int = 0

    def floats(self, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what readers see."""
        floats = array.astype(np.float32)
        if self.precision == "int8":
            return (floats - self.zero_point) * np.float32(self.scale)
        return floats


@dataclass(frozen=True, kw_only=True)
class _Tap:
    node: NodeProto
    reference: _Value
    candidate: _Value


@dataclass
class _Sums:
    """Energies in double precision."""

    dot: float = 0.0
    reference: float = 0.0
    candidate: float = 0.0
    error: float = 0.0
    own_error: float = 0.0
    max_error: float = 0.0
    largest: float = 0.0


class TapMeter:
    """Adds up the differences of two graphs over pictures.

    Args:
        reference: a complete graph.
        candidate: one of the same model, in another precision.
    """

    def __init__(self, reference: OnnxModel, candidate: OnnxModel) -> None:
        self._taps = _common_taps(reference.graph, candidate.graph)
        by_value = {tap.reference.name: tap for tap in self._taps}
        self._groups = [
            _Group(reference, candidate, [by_value[value] for value in group], self._taps)
            for group in groups_that_fit(reference, list(by_value))
            if group
        ]
        self._sums = {tap.node.name: _Sums() for tap in self._taps}

    def add(self, inputs: Tensors) -> None:
        """Run both graphs on the inputs of one picture."""
        for group in self._groups:
            for tap, expected, found, own in group.run(inputs):
                _add(self._sums[tap.node.name], expected, found, own)

    def differences(self) -> list[TapDifference]:
        """Return what was found, in the graph's order."""
        return [_difference(tap, self._sums[tap.node.name]) for tap in self._taps]


def first_bad(taps: Sequence[TapDifference]) -> TapDifference | None:
    """Return the first node, in the graph's order, that spoils its result; None if there is none."""
    return next((tap for tap in taps if tap.is_bad), None)


class _Group:
    """Some taps that fit into the memory together, and the sessions that fetch them."""

    def __init__(
        self,
        reference: OnnxModel,
        candidate: OnnxModel,
        taps: Sequence[_Tap],
        all_taps: Sequence[_Tap],
    ) -> None:
        self._taps = taps
        fetched = [tap.candidate.fetched for tap in taps]
        selected, choices = _with_given_choices(candidate, reference)
        cut, given = _with_given_values(selected, all_taps)
        self._accumulated = cpu_session(_reduced(selected, fetched))
        self._own = cpu_session(_reduced(cut, fetched))
        self._fetched = fetched
        used = {value.name for s in (self._accumulated, self._own) for value in s.get_inputs()}
        self._choices = {name: value for name, value in choices.items() if name in used}
        self._given = {name: tap for name, tap in given.items() if name in used}
        needed = [
            *(tap.reference.fetched for tap in taps),
            *(tap.reference.fetched for tap in self._given.values()),
            *self._choices.values(),
        ]
        self._needed = list(dict.fromkeys(needed))
        self._reference = cpu_session(_reduced(reference, self._needed))

    def run(
        self, inputs: Tensors
    ) -> Iterator[
        tuple[_Tap, npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]
    ]:
        """Yield every tap with the reference's values, the candidate's, and those of its own doing."""
        found = self._reference.run(self._needed, _feed(self._reference, inputs))
        reference = dict(zip(self._needed, found, strict=True))
        feed = dict(inputs)
        feed |= {name: reference[value] for name, value in self._choices.items()}
        for name, tap in self._given.items():
            value = tap.reference.floats(reference[tap.reference.fetched])
            feed[name] = value.astype(np.float16) if tap.candidate.precision == "fp16" else value
        accumulated = self._accumulated.run(self._fetched, _feed(self._accumulated, feed))
        own = self._own.run(self._fetched, _feed(self._own, feed))
        for tap, whole, part in zip(self._taps, accumulated, own, strict=True):
            expected = tap.reference.floats(reference[tap.reference.fetched])
            yield tap, expected, tap.candidate.floats(whole), tap.candidate.floats(part)


def _common_taps(reference: onnx.GraphProto, candidate: onnx.GraphProto) -> list[_Tap]:
    """Return the tapped nodes that both graphs have, in the reference's order."""
    others = {node.name: node for node in candidate.node}
    readers = _readers(reference)
    values = [_int8_values(graph) for graph in (reference, candidate)]
    floats = _float_values(reference)
    taps: dict[str, _Tap] = {}
    for node in reference.node:
        if not _is_tapped(node):
            continue
        last = _with_activation(node, readers)
        other = others.get(last.name)
        is_float = node.op_type in WEIGHTED or last.output[0] in floats
        if other is None or not is_float:
            continue
        taps[node.name] = _Tap(
            node=node,
            reference=values[0].get(last.output[0]) or _plain_value(last),
            candidate=values[1].get(other.output[0]) or _plain_value(other),
        )
    return list(taps.values())


def _is_tapped(node: NodeProto) -> bool:
    if node.domain == OWN_DOMAIN:
        return not node.op_type.startswith(SUPPRESSION)
    if node.op_type in WEIGHTED:
        return bool(node.name)
    return node.op_type in JOINING and "/" in node.name


def _with_activation(node: NodeProto, readers: Mapping[str, list[NodeProto]]) -> NodeProto:
    """Return the activation that is a node's only reader, past changes of precision; else the node."""
    value = node.output[0]
    while len(readers.get(value, ())) == 1:
        (reader,) = readers[value]
        if reader.op_type in ACTIVATIONS:
            return reader
        if reader.op_type not in CASTS:
            break
        value = reader.output[0]
    return node


def _readers(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _int8_values(graph: onnx.GraphProto) -> dict[str, _Value]:
    """Return the values that are kept in int8, by the names of their float forms."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    quantizers = [
        node
        for node in graph.node
        if node.op_type == "QuantizeLinear" and set(node.input[1:]) <= set(constants)
    ]
    zero_points = _zero_points([constants[node.input[2]] for node in quantizers])
    return {
        node.input[0]: _Value(
            name=node.input[0],
            fetched=node.output[0],
            precision="int8",
            scale=float(numpy_helper.to_array(constants[node.input[1]])),
            zero_point=zero_points[node.input[2]],
        )
        for node in quantizers
    }


def _zero_points(tensors: Sequence[TensorProto]) -> dict[str, int]:
    """Return the scalars as ONNX Runtime is given them on this machine, by name."""
    scalars = {tensor.name: tensor for tensor in tensors}
    graph = helper.make_graph([], "zero points", [], [], list(scalars.values()))
    content = bytes_for_cpu(helper.make_model(graph).SerializeToString())
    changed = onnx.load_model_from_string(content).graph.initializer
    return {tensor.name: int(numpy_helper.to_array(tensor)) for tensor in changed}


def _plain_value(node: NodeProto) -> _Value:
    name = node.output[0]
    return _Value(name=name, fetched=name, precision="fp16" if name.endswith("_half") else "fp32")


def _float_values(graph: onnx.GraphProto) -> set[str]:
    kinds = {TensorProto.FLOAT, TensorProto.FLOAT16}
    return {
        info.name
        for info in (*graph.value_info, *graph.output)
        if info.type.tensor_type.elem_type in kinds
    }


def _with_given_choices(model: OnnxModel, reference: OnnxModel) -> tuple[OnnxModel, dict[str, str]]:
    """Return a copy that takes the outcome of TopK and suppression as inputs.

    Also returns the name of each such input -> the reference's value for it.
    """
    copy = model.copy()
    others = {node.name: node for node in reference.graph.node if _is_selection(node)}
    nodes: list[NodeProto] = []
    choices: dict[str, str] = {}
    for node in copy.graph.node:
        other = others.get(node.name) if _is_selection(node) else None
        if other is None:
            nodes.append(node)
            continue
        is_top_k = node.op_type == "TopK"
        types = (TensorProto.INT64,) if is_top_k else (TensorProto.INT64, TensorProto.BOOL)
        outputs = list(node.output)[-len(types) :]
        for output, value, kind in zip(
            outputs, list(other.output)[-len(types) :], types, strict=True
        ):
            name = f"{output}/given"
            choices[name] = value
            copy.graph.input.append(helper.make_tensor_value_info(name, kind, None))
            nodes.append(helper.make_node("Identity", [name], [output]))
        if is_top_k:
            axis = {item.name: item.i for item in node.attribute}.get("axis", -1)
            gathered = [node.input[0], f"{outputs[0]}/given"]
            nodes.append(helper.make_node("GatherElements", gathered, [node.output[0]], axis=axis))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy, choices


def _is_selection(node: NodeProto) -> bool:
    if node.domain == OWN_DOMAIN:
        return node.op_type.startswith(SUPPRESSION)
    return node.op_type == "TopK"


def _with_given_values(model: OnnxModel, taps: Sequence[_Tap]) -> tuple[OnnxModel, dict[str, _Tap]]:
    """Return a copy in which all readers of a tapped value take it as an input; and tap by input."""
    copy = model.copy()
    given: dict[str, _Tap] = {}
    of_value: dict[str, str] = {}
    for tap in taps:
        value = tap.candidate
        name = f"{value.name}/given"
        kind = TensorProto.FLOAT16 if value.precision == "fp16" else TensorProto.FLOAT
        copy.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        given[name] = tap
        of_value[value.name] = name
    levels = {t.candidate.fetched: t.candidate for t in taps if t.candidate.precision == "int8"}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in levels:
            of_value[node.output[0]] = of_value[levels[node.input[0]].name]
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in levels:
            continue  # belongs to the node whose result it rounds
        for index, name in enumerate(node.input):
            if name in of_value:
                node.input[index] = of_value[name]
    return copy, given


def _reduced(model: OnnxModel, values: Sequence[str]) -> OnnxModel:
    """Return a copy that computes these values and nothing else."""
    watched = model.copy()
    del watched.graph.output[:]
    # Without a type, which the engine infers: int8 levels are uint8 on some processors.
    watched.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    slim = drop_outputs(watched, values)
    used = {name for node in slim.graph.node for name in node.input}
    inputs = [value for value in slim.graph.input if value.name in used]
    del slim.graph.input[:]
    slim.graph.input.extend(inputs)
    return slim


def _feed(session: InferenceSession, values: Tensors) -> dict[str, npt.NDArray[Any]]:
    return {value.name: values[value.name] for value in session.get_inputs()}


def _add(
    sums: _Sums,
    expected: npt.NDArray[np.float32],
    found: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
) -> None:
    if found.shape != expected.shape:
        raise ValueError(
            f"a value of shape {found.shape} found, expected {expected.shape}: the graphs are not "
            "of one model and size"
        )
    a, b, c = (array.astype(np.float64).ravel() for array in (expected, found, own))
    with np.errstate(all="ignore"):  # what is not finite stays so in the sums
        error = b - a
        sums.dot += float(a @ b)
        sums.reference += float(a @ a)
        sums.candidate += float(b @ b)
        sums.error += float(error @ error)
        sums.own_error += float((c - a) @ (c - a))
        sums.max_error = float(np.maximum(sums.max_error, np.abs(error).max(initial=0.0)))
        sums.largest = max(sums.largest, float(np.abs(a).max(initial=0.0)))


def _difference(tap: _Tap, sums: _Sums) -> TapDifference:
    length = np.sqrt(sums.reference * sums.candidate)
    if sums.error == 0:
        cosine = 1.0
    else:
        cosine = sums.dot / length if np.isfinite(length) and length > 0 else 0.0
    return TapDifference(
        name=tap.node.name,
        operator=tap.node.op_type,
        precision=tap.candidate.precision,
        cosine=float(cosine),
        snr_db=_snr_db(sums.reference, sums.error),
        own_snr_db=_snr_db(sums.reference, sums.own_error),
        max_error=sums.max_error if np.isfinite(sums.max_error) else None,
        largest=sums.largest,
        num_levels=_num_levels(tap.candidate, sums.largest),
    )


def _num_levels(value: _Value, largest: float) -> int | None:
    """Return the level of the largest magnitude; a scale for much larger values leaves most unused."""
    if value.precision != "int8":
        return None
    return round(min(largest / value.scale, MAX_LEVEL)) if value.scale else 0


def _snr_db(signal: float, noise: float) -> float:
    if noise == 0:
        return MAX_SNR_DB
    if signal == 0 or not np.isfinite(noise):
        return -MAX_SNR_DB
    return float(np.clip(10 * np.log10(signal / noise), -MAX_SNR_DB, MAX_SNR_DB))
