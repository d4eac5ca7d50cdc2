"""Writes the nodes of an ONNX function body in the order in which they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 20  # of the default domain: what the bodies are written for

Step = Callable[..., tuple[tuple[str, ...], str]]


class Body:
    """Nodes under construction. A value is the name that the nodes know it by."""

    def __init__(self, outer: Body | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self._root: Body = outer._root if outer else self  # one pool of names and constants
        self._names = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        return self.ops(op_type, *inputs, num_outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, num_outputs: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs and return their names."""
        outputs = [self.name(op_type) for _ in range(num_outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, **attributes))
        return outputs

    def name(self, stem: str) -> str:
        """Return a name that no other value has."""
        self._root._names += 1
        return f"{stem}_{self._root._names}"

    def floats(self, values: npt.ArrayLike) -> str:
        """Return a float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def ints(self, *values: int) -> str:
        """Return a one-dimensional int64 constant: a shape, axes, bounds."""
        return self._constant(np.asarray(values, np.int64))

    def true(self) -> str:
        """Return the scalar true."""
        return self._constant(np.asarray(True))

    def reshape(self, value: str, *shape: int) -> str:
        """Return the value in another shape, where 0 keeps a dimension: the batch axis may be free."""
        return self.op("Reshape", value, self.ints(*shape))

    def slice(self, value: str, start: int, stop: int, *, axis: int) -> str:
        """Return value[start:stop] along the axis."""
        return self.op("Slice", value, self.ints(start), self.ints(stop), self.ints(axis))

    def split(self, value: str, count: int, *, axis: int) -> list[str]:
        """Return the slices of size 1 along an axis of size `count`."""
        return self.ops("Split", value, self.ints(*[1] * count), num_outputs=count, axis=axis)

    def gather_rows(self, values: str, indices: str) -> str:
        """Return values[b, indices[b, i]] for values (B, N, ...) and int64 indices (B, I)."""
        rows = self.op("Unsqueeze", indices, self.ints(2))
        return self.op("GatherND", values, rows, batch_dims=1)

    def output(self, name: str, value: str) -> None:
        """Give the value the name of an output of the function."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def sort(self, values: str, count: int, *, largest: bool = True) -> tuple[str, str]:
        """Return the first `count` values of the last axis in order, and their int64 indices; the lower index first."""
        ordered, order = self.ops(
            "TopK", values, self.ints(count), num_outputs=2, axis=-1, largest=int(largest)
        )
        return ordered, order

    def loop_while(self, is_needed: str, states: tuple[str, ...], step: Step) -> list[str]:
        """Return the float32 states after as many steps as are needed.

        Args:
            is_needed: Scalar bool: whether to take the first step.
            states: The values before the first step.
            step: Called once with the body of a step and the states in it; writes the step and returns the states after it
                and whether one more is needed. May use values of this body. (There is no count of the steps: TensorRT's
                parser knows it only in loops with a fixed end. Let it be a state.)
        """
        inner = Body(self)
        before = [self.name("state") for _ in states]
        following, again = step(inner, *before)
        graph = helper.make_graph(
            inner.nodes,
            "step",
            [
                helper.make_tensor_value_info(self.name("iteration"), TensorProto.INT64, []),
                helper.make_tensor_value_info(self.name("needed"), TensorProto.BOOL, []),
                *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in before),
            ],
            [
                helper.make_tensor_value_info(again, TensorProto.BOOL, []),
                *(
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                    for name in following
                ),
            ],
        )
        return self.ops("Loop", "", is_needed, *states, num_outputs=len(states), body=graph)

    def _constant(self, value: npt.NDArray[Any]) -> str:
        constants = self._root._constants
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in constants:
            constants[key] = self.name("constant")
            node = helper.make_node(
                "Constant", [], [constants[key]], value=numpy_helper.from_array(value)
            )
            self._root.nodes.append(node)
        return constants[key]
