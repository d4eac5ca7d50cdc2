"""The tensors that stay with an engine, for engines that hand them out as objects of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.graphs import (
    Graph,
    Schedule,
    TensorSpec,
    staying_outputs,
    taken_outputs,
)
from edgeseg_runtime.pickling import Unpicklable

__all__ = ["ExchangedTensors", "KeptTensors", "first_rows", "typical_order"]

Value = TypeVar("Value")
Array = npt.NDArray[Any]


class KeptTensors(Unpicklable, Generic[Value]):
    """A `State` of an engine's own tensors; see there for their names.

    Args:
        graphs: of the model.
        to_host: copies a tensor into an array.
        from_host: copies an array into the tensor that is to be kept under a name.

    Attributes:
        values: the tensors by name. They are exchanged, never copied, when a graph writes new ones.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        to_host: Callable[[Value], Array],
        from_host: Callable[[str, Array], Value],
    ) -> None:
        self._graphs = graphs
        self._to_host = to_host
        self._from_host = from_host
        self.values: dict[str, Value] = {}

    def fetch(self) -> Tensors:
        """Return copies of all tensors, by name."""
        return {name: self._to_host(value) for name, value in self.values.items()}

    def put(self, values: Tensors) -> None:
        """Replace tensors by copies of these, by name.

        Raises:
            ValueError: if the model keeps no tensor of a name, or one of another dtype or shape.
        """
        for key, array in values.items():
            _, spec = self._origin(key)
            fits = array.ndim == len(spec.shape) and all(
                wanted in (-1, found) for wanted, found in zip(spec.shape, array.shape, strict=True)
            )
            if array.dtype != spec.dtype or not fits:
                raise ValueError(
                    f"{key!r} is {array.dtype} of shape {list(array.shape)}; the model keeps "
                    f"{spec.dtype} of shape {list(spec.shape)}"
                )
            self.values[key] = self._from_host(key, array)

    def close(self) -> None:
        """Free the tensors; calling it twice is allowed."""
        self.values = {}

    def sources(self, name: str) -> dict[str, Value]:
        """Return what a graph takes and reads, with all rows, by its inputs' names.

        Raises:
            ValueError: if a tensor is not there yet.
        """
        graph = self._graphs[name]
        sources = {**graph.takes, **graph.reads}
        missing = [source for source in sources.values() if source not in self.values]
        if missing:
            raise ValueError(
                f"the state holds no {missing[0]!r} yet; run the graphs in the order of the schedule"
            )
        return {wanted: self.values[source] for wanted, source in sources.items()}

    def keep(self, name: str, outputs: Mapping[str, Value]) -> None:
        """Take over those of a graph's outputs that later graphs or frames use."""
        for output in staying_outputs(self._graphs, name) & outputs.keys():
            self.values |= dict.fromkeys(self._names(name, output), outputs[output])

    def _origin(self, key: str) -> tuple[str, TensorSpec]:
        """Return a graph that gives what is kept under a name, and the output's spec."""
        known = {
            kept: (name, self._graphs[name].output(output))
            for name in self._graphs
            for output in staying_outputs(self._graphs, name)
            for kept in self._names(name, output)
        }
        if key not in known:
            raise ValueError(f"the model keeps no {key!r}, only {', '.join(sorted(known))}")
        return known[key]

    def _names(self, name: str, output: str) -> list[str]:
        """Return the names under which an output is kept: as state, for a later graph, or both."""
        names = [f"{name}.{output}"] if output in taken_outputs(self._graphs, name) else []
        writes = self._graphs[name].writes
        return [*names, writes[output]] if output in writes else names


class ExchangedTensors(KeptTensors[Value]):
    """The tensors of an engine that is told where to write; they are made once and serve again.

    A tensor that one graph both reads and writes needs two, which change places with every run;
    for all others one does.

    Args:
        graphs: of the model.
        to_host: copies a tensor into an array.
        fill: copies an array into a tensor.
        allocate: makes the tensor for an output, by the graph's name and its own.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        to_host: Callable[[Value], Array],
        fill: Callable[[Value, Array], None],
        allocate: Callable[[str, str], Value],
    ) -> None:
        super().__init__(graphs, to_host=to_host, from_host=self._filled)
        self._fill = fill
        self._allocate = allocate
        self._tensors: dict[str, list[Value]] = {}

    def close(self) -> None:
        """Forget the tensors; calling it twice is allowed."""
        super().close()
        self._tensors = {}

    def reserve(self, names: Iterable[str]) -> None:
        """Make the tensors that graphs need which run in this order."""
        for name in names:
            self.keep(name, self.targets(name, staying_outputs(self._graphs, name)))
        self.values = {}

    def targets(self, name: str, outputs: Collection[str]) -> dict[str, Value]:
        """Return where a graph is to write outputs: never what it reads, nor what is still needed."""
        graph = self._graphs[name]
        sources = {*graph.takes.values(), *graph.reads.values()}
        return {
            output: self._free(name, output, replaced={*self._names(name, output)} - sources)
            for output in outputs
        }

    def spoil(self, targets: Mapping[str, Value]) -> None:
        """Take away what a failed run may have half written."""
        written = {id(tensor) for tensor in targets.values()}
        self.values = {key: value for key, value in self.values.items() if id(value) not in written}

    def _filled(self, key: str, array: Array) -> Value:
        """Return the tensor that is to be kept under a name, with the content of an array."""
        name, spec = self._origin(key)
        target = self._free(name, spec.name, replaced={key})
        self._fill(target, array)
        return target

    def _free(self, name: str, output: str, *, replaced: Collection[str]) -> Value:
        """Return a tensor for an output that is in use under no other name; a new one if need be."""
        in_use = {id(value) for key, value in self.values.items() if key not in replaced}
        key = self._graphs[name].writes.get(output, f"{name}.{output}")
        same = self._tensors.setdefault(key, [])
        for tensor in same:
            if id(tensor) not in in_use:
                return tensor
        same.append(self._allocate(name, output))
        return same[-1]


def first_rows(
    graph: Graph, sources: Mapping[str, Value], cut: Callable[[Value], Value]
) -> dict[str, Value]:
    """Return what a graph takes and reads, with as many rows as it runs for.

    Args:
        graph: the graph.
        sources: by its inputs' names, with all rows.
        cut: copies the first rows of a tensor.
    """
    return {
        name: cut(tensor) if graph.input(name).has_rows else tensor
        for name, tensor in sources.items()
    }


def typical_order(schedule: Schedule) -> tuple[str, ...]:
    """Return the graphs of some frames in which every frame follows every other one that it can follow."""
    return (*schedule.first, *schedule.then, *schedule.then, *schedule.first, *schedule.first)
