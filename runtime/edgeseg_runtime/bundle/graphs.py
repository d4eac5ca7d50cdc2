"""The graphs of a model: what each takes and gives, and which of them run in which frame.

Most models have one graph. A model that does something once for each instance has a stage of its own for
it, whose number of rows is free; a model of videos carries tensors from frame to frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeseg_runtime.bundle.values import (
    as_mapping,
    as_tuple,
    check_choice,
    check_int,
    check_name,
    is_int,
    refuse,
)

__all__ = [
    "DTYPES",
    "MAIN",
    "Graph",
    "Rows",
    "Schedule",
    "TensorSpec",
    "check_graphs",
    "fed_of",
    "given_of",
    "one_graph",
    "staying_outputs",
    "taken_outputs",
]

DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")
MAIN = "main"
"""Name of the graph of a model that has one."""
MAX_GRAPHS = 16
MAX_TENSORS = 256


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, dtype and shape of one tensor at a graph's border.

    Attributes:
        name: the tensor's name in the graph.
        dtype: one of `DTYPES`.
        shape: sizes; -1 on the first axis means a free batch size, -1 on the second axis, in a
            graph with `rows`, as many instances as were found.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_tuple("shape", self.shape))
        check_name("name", self.name)
        check_choice("dtype", self.dtype, DTYPES)
        if len(self.shape) > 8:
            refuse("shape", self.shape, "at most 8 axes")
        for axis, size in enumerate(self.shape):
            if not (axis < 2 and is_int(size) and size == -1):
                check_int(f"shape[{axis}]", size, 1, 2**31 - 1)
        if math.prod(abs(size) for size in self.shape) >= 2**31:
            refuse("shape", self.shape, "fewer than 2^31 elements")

    @property
    def has_rows(self) -> bool:
        """Whether the second axis is as long as instances were found."""
        return self.shape[1:2] == (-1,)

    @property
    def has_free_axis(self) -> bool:
        """Whether the size of an axis is known only when it is run."""
        return -1 in self.shape

    def with_rows(self, rows: int) -> TensorSpec:
        """Return the spec for so many rows; itself where the second axis is not free."""
        return (
            replace(self, shape=(self.shape[0], rows, *self.shape[2:])) if self.has_rows else self
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows a stage runs with: one for each instance that was found.

    That is up to the last one whose score is above the score threshold, but no more than `maximum`;
    with a batch, the fullest picture decides. Without any the stage does not run.

    Attributes:
        counts: output (B, K) of an earlier graph of the frame: the scores, falling, 0 where there is
            nothing.
        maximum: the most rows that the stage runs with: K, or less if only the best are worth it.
        buckets: numbers of rows, ascending, the last one `maximum`, that engines of fixed shapes
            are built for; they run the next larger one.
    """

    counts: str
    maximum: int
    buckets: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", as_tuple("buckets", self.buckets))
        check_name("counts", self.counts)
        check_int("maximum", self.maximum, 1, 2**15)
        if not 1 <= len(self.buckets) <= 16:
            refuse("buckets", f"{len(self.buckets)} numbers", "1..16 numbers of rows")
        for index, bucket in enumerate(self.buckets):
            check_int(f"buckets[{index}]", bucket, 1, self.maximum)
        if list(self.buckets) != sorted(set(self.buckets)) or self.buckets[-1] != self.maximum:
            refuse("buckets", self.buckets, f"ascending numbers up to {self.maximum}")

    def bucket(self, rows: int) -> int:
        """Return the smallest bucket that holds so many rows."""
        return next(bucket for bucket in self.buckets if bucket >= rows)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One graph of a model.

    Attributes:
        artifact: key of the manifest's artifacts.
        inputs: tensors that the graph takes.
        outputs: tensors that the graph gives.
        takes: input -> "graph.output" of an earlier graph of the same frame; stays on the engine.
        reads: input -> state tensor, as an earlier frame or graph left it.
        writes: output -> state tensor.
        kept: outputs that no result is read from: they stay with the engine, for a later graph or
            the next frame.
        rows: of a stage that runs once for each instance.
        weights: key of the artifact with the weights that graphs share; None if this graph holds
            all of its own.
    """

    artifact: str = "onnx"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    writes: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    rows: Rows | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        check_name("artifact", self.artifact)
        if self.weights is not None:
            check_name("weights", self.weights)
        for key in ("inputs", "outputs", "kept"):
            object.__setattr__(self, key, as_tuple(key, getattr(self, key)))
        for key in ("takes", "reads", "writes"):
            object.__setattr__(self, key, as_mapping(key, getattr(self, key)))
        for key in ("inputs", "outputs"):
            _check_specs(key, getattr(self, key))
        if self.rows is not None and not isinstance(self.rows, Rows):
            refuse("rows", self.rows, "a Rows")
        self._check_references()
        for spec in self.fed:
            if spec.has_rows:
                refuse(
                    "inputs", f"{spec.name} with free rows", "only taken or read ones to have them"
                )
        is_free = any(spec.has_rows for spec in (*self.inputs, *self.outputs))
        if is_free != (self.rows is not None):
            refuse(
                "rows",
                self.rows,
                "given if and only if the second axis of a tensor is free (-1)",
            )

    def _check_references(self) -> None:
        inputs = {spec.name for spec in self.inputs}
        outputs = {spec.name for spec in self.outputs}
        for key, names in (("takes", inputs), ("reads", inputs), ("writes", outputs)):
            for name, other in getattr(self, key).items():
                check_name(key, other)
                if name not in names:
                    refuse(key, name, f"one of {', '.join(sorted(names))}")
        both = sorted(self.takes.keys() & self.reads.keys())
        if both:
            refuse("reads", both[0], "an input that is not taken as well")
        if len(set(self.writes.values())) != len(self.writes):
            refuse("writes", sorted(self.writes.values()), "each state tensor once")
        for index, name in enumerate(self.kept):
            check_name(f"kept[{index}]", name)
            if name not in outputs:
                refuse("kept", name, f"one of {', '.join(sorted(outputs))}")

    @property
    def fed(self) -> tuple[TensorSpec, ...]:
        """The inputs that come from the picture."""
        return tuple(
            spec
            for spec in self.inputs
            if spec.name not in self.takes and spec.name not in self.reads
        )

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """The outputs that results are read from."""
        return tuple(spec for spec in self.outputs if spec.name not in self.kept)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The numbers of rows that engines of fixed shapes are built for; none without rows."""
        return () if self.rows is None else self.rows.buckets

    @property
    def needs_state(self) -> bool:
        """Whether something must be kept between this graph and another, or between frames."""
        return bool(self.takes or self.reads or self.writes)

    def input(self, name: str) -> TensorSpec:
        """Return the spec of an input."""
        return next(spec for spec in self.inputs if spec.name == name)

    def output(self, name: str) -> TensorSpec:
        """Return the spec of an output."""
        return next(spec for spec in self.outputs if spec.name == name)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which graphs run, in their order.

    Attributes:
        first: in the first frame of a stream and in key frames.
        then: in all other frames.
        first_every: every how many frames a key frame comes; None for no further one.
    """

    first: tuple[str, ...] = (MAIN,)
    then: tuple[str, ...] = (MAIN,)
    first_every: int | None = None

    def __post_init__(self) -> None:
        for key in ("first", "then"):
            object.__setattr__(self, key, as_tuple(key, getattr(self, key)))
            names = getattr(self, key)
            if not 1 <= len(names) <= MAX_GRAPHS:
                refuse(key, f"{len(names)} graphs", f"1..{MAX_GRAPHS} graphs")
            for index, name in enumerate(names):
                check_name(f"{key}[{index}]", name)
            if len(set(names)) != len(names):
                refuse(key, names, "each graph once")
        if self.first_every is not None:
            check_int("first_every", self.first_every, 1, 2**31 - 1)

    def graphs(self, frame: int) -> tuple[str, ...]:
        """Return the graphs of a frame, by its number since the last key frame, which has 0."""
        return self.first if frame == 0 else self.then

    @property
    def num_kinds(self) -> int:
        """How many kinds of frames there are: 2 where others than key frames run graphs of their own."""
        return 1 if self.first == self.then else 2

    def following(self, frame: int) -> int:
        """Return the number of the frame after this one."""
        return 0 if frame + 1 == self.first_every else frame + 1


def one_graph(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, artifact: str = "onnx"
) -> dict[str, Graph]:
    """Return the graphs of a model that has one."""
    return {MAIN: Graph(artifact=artifact, inputs=tuple(inputs), outputs=tuple(outputs))}


def check_graphs(graphs: Mapping[str, Graph], schedule: Schedule) -> None:
    """Refuse graphs that do not fit each other or their schedule.

    Raises:
        ManifestError: if a graph is missing or never runs, takes or reads what does not exist yet or
            has another dtype or shape, or if the frames do not all give the same outputs.
    """
    if not 1 <= len(graphs) <= MAX_GRAPHS:
        refuse("graphs", f"{len(graphs)} graphs", f"1..{MAX_GRAPHS} graphs")
    for name, graph in graphs.items():
        check_name("graphs", name)
        if "." in name:
            refuse("graphs", name, "a name without a dot")
        if not isinstance(graph, Graph):
            refuse(f"graphs.{name}", graph, "a Graph")
    for key in ("first", "then"):
        for name in getattr(schedule, key):
            if name not in graphs:
                refuse(f"schedule.{key}", name, f"one of {', '.join(graphs)}")
    idle = [name for name in graphs if name not in {*schedule.first, *schedule.then}]
    if idle:
        refuse("schedule", f"no {idle[0]}", "every graph in it")
    _merged("inputs", (graph.fed for graph in graphs.values()))
    state = _check_frame(graphs, schedule.first, {})
    _check_frame(graphs, schedule.then, state)
    first, then = (given_of(graphs, getattr(schedule, key)) for key in ("first", "then"))
    if set(first) != set(then):
        names = sorted(spec.name for spec in set(first) ^ set(then))
        refuse("schedule", f"{names[0]} in some frames only", "the same outputs in every frame")


def fed_of(graphs: Mapping[str, Graph]) -> tuple[TensorSpec, ...]:
    """Return what the picture gives all graphs, each tensor once."""
    return _merged("inputs", (graph.fed for graph in graphs.values()))


def given_of(graphs: Mapping[str, Graph], names: Iterable[str]) -> tuple[TensorSpec, ...]:
    """Return the outputs of a frame's graphs that results are read from; free rows at their maximum."""
    specs: list[TensorSpec] = []
    for name in names:
        rows = graphs[name].rows
        specs += [
            spec if rows is None else spec.with_rows(rows.maximum) for spec in graphs[name].given
        ]
    twice = _repeated(spec.name for spec in specs)
    if twice:
        refuse("outputs", twice, "each name from one graph of a frame")
    return tuple(specs)


def staying_outputs(graphs: Mapping[str, Graph], name: str) -> frozenset[str]:
    """Return the outputs of a graph that later graphs or frames use."""
    return taken_outputs(graphs, name) | graphs[name].writes.keys()


def taken_outputs(graphs: Mapping[str, Graph], name: str) -> frozenset[str]:
    """Return the outputs of a graph that later graphs of the frame take."""
    taken = {source for graph in graphs.values() for source in graph.takes.values()}
    return frozenset(spec.name for spec in graphs[name].outputs if f"{name}.{spec.name}" in taken)


def _merged(where: str, groups: Iterable[Sequence[TensorSpec]]) -> tuple[TensorSpec, ...]:
    """Return the specs of all groups; what has one name must be one tensor."""
    found: dict[str, TensorSpec] = {}
    for group in groups:
        for spec in group:
            if found.setdefault(spec.name, spec) != spec:
                refuse(where, f"{spec.name} in two forms", "one dtype and shape for each name")
    return tuple(found.values())


def _check_frame(
    graphs: Mapping[str, Graph], names: Sequence[str], before: Mapping[str, TensorSpec]
) -> dict[str, TensorSpec]:
    """Follow a frame's graphs and return the state tensors that there are at its end."""
    state = dict(before)
    made: dict[str, TensorSpec] = {}
    given: dict[str, TensorSpec] = {}
    for name in names:
        graph = graphs[name]
        for key, sources in (("takes", made), ("reads", state)):
            for wanted, source in getattr(graph, key).items():
                if source not in sources:
                    refuse(f"graphs.{name}.{key}", source, "what exists by then")
                _check_same(f"graphs.{name}.{key}", graph, wanted, sources[source])
        if graph.rows is not None:
            _check_counts(name, graph.rows, given)
        for output, target in graph.writes.items():
            spec = graph.output(output)
            known = state.setdefault(target, spec)
            if (known.dtype, known.shape) != (spec.dtype, spec.shape) or spec.has_rows:
                refuse(f"graphs.{name}.writes", target, "one dtype and shape, without free rows")
        made |= {f"{name}.{spec.name}": spec for spec in graph.outputs}
        given |= {spec.name: spec for spec in graph.given}
    return state


def _check_same(where: str, graph: Graph, name: str, source: TensorSpec) -> None:
    """Refuse a tensor that is not what a graph's input takes; its first rows may be."""
    wanted = graph.input(name)
    if graph.rows is not None:
        wanted = wanted.with_rows(max(graph.rows.maximum, *source.shape[1:2]))
    if (wanted.dtype, wanted.shape) != (source.dtype, source.shape):
        refuse(
            where,
            f"{source.dtype} {list(source.shape)} for {name}",
            f"{wanted.dtype} {list(wanted.shape)}",
        )


def _check_counts(name: str, rows: Rows, given: Mapping[str, TensorSpec]) -> None:
    spec = given.get(rows.counts)
    if spec is None or spec.dtype != "float32" or not _has_rows(spec, rows.maximum):
        refuse(
            f"graphs.{name}.rows.counts",
            rows.counts,
            f"an output float32 [1, {rows.maximum}], or longer, of an earlier graph of the frame",
        )


def _has_rows(spec: TensorSpec, least: int) -> bool:
    return len(spec.shape) == 2 and spec.shape[1] >= least


def _check_specs(where: str, specs: Sequence[Any]) -> None:
    if not 1 <= len(specs) <= MAX_TENSORS:
        refuse(where, f"{len(specs)} tensors", f"1..{MAX_TENSORS} tensors")
    for index, spec in enumerate(specs):
        if not isinstance(spec, TensorSpec):
            refuse(f"{where}[{index}]", spec, "a TensorSpec")
    twice = _repeated(spec.name for spec in specs)
    if twice:
        refuse(where, twice, "each name once")


def _repeated(names: Iterable[str]) -> str | None:
    """Return a name that occurs more than once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
