"""The tensors that stay with an engine, for engines that hand them out as objects of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.graphs import Graph, staying_outputs

__all__ = ["KeptTensors"]

Value = TypeVar("Value")
Array = npt.NDArray[Any]


class KeptTensors(Generic[Value]):
    """A `State` of an engine's own tensors; see there for their names.

    Args:
        graphs: of the model.
        to_host: copies a tensor into an array.
        from_host: copies an array into a tensor.

    Attributes:
        values: the tensors by name. They are exchanged, never copied, when a graph writes new ones.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        to_host: Callable[[Value], Array],
        from_host: Callable[[Array], Value],
    ) -> None:
        self._graphs = graphs
        self._to_host = to_host
        self._from_host = from_host
        self.values: dict[str, Value] = {}

    def fetch(self) -> Tensors:
        """Return copies of all tensors, by name."""
        return {name: self._to_host(value) for name, value in self.values.items()}

    def put(self, values: Tensors) -> None:
        """Replace tensors by copies of these, by name."""
        self.values |= {name: self._from_host(array) for name, array in values.items()}

    def close(self) -> None:
        """Free the tensors; calling it twice is allowed."""
        self.values = {}

    def feed(self, name: str, rows: int | None = None) -> dict[str, Value]:
        """Return what a graph takes and reads, by its inputs' names; of free rows the first so many.

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
        found = {wanted: self.values[source] for wanted, source in sources.items()}
        for spec in graph.inputs:
            if spec.has_rows and spec.name in found:
                whole = self._to_host(found[spec.name])
                found[spec.name] = self._from_host(np.ascontiguousarray(whole[:, :rows]))
        return found

    def keep(self, name: str, outputs: Mapping[str, Value]) -> None:
        """Take over those of a graph's outputs that later graphs or frames use."""
        writes = self._graphs[name].writes
        for output in staying_outputs(self._graphs, name):
            self.values[f"{name}.{output}"] = outputs[output]
            if output in writes:
                self.values[writes[output]] = outputs[output]
