"""Searches which modules of a model may compute in int8 without losing more accuracy than allowed.

Every group of modules is made int8 alone, and its results are compared with those of float32. Then all groups are
made int8, and the one that loses most for the work it saves goes back to float32, until the results of the whole
agree well enough; those for which there is room after all return. The same pictures give the same answer: work is
counted in multiply-adds, not timed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.models import PrecisionRecipe
from edgeseg_bench.evaluation import Record
from edgeseg_export.agreement import agreement_of, records_on
from edgeseg_export.calibration import Magnitudes
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes.quantize import WEIGHT_AXES, int8_nodes
from edgeseg_export.precision import Assignments, assign, convert, values_needed
from edgeseg_export.sessions import Graphs, graphs_predictor
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image

MAX_GROUPS = 12
"""A search builds and runs at most three times as many graphs."""
NUM_PICTURES = 16
"""Of the calibration pictures, the first are searched on."""
DEFAULT_MAX_DROP = 0.01
ROUNDING = 1e-9
"""1 - 0.99 is a little more than 0.01."""

Node = tuple[str, str]
"""Names of a graph and of a node in it."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Modules that change their precision together.

    Attributes:
        name: what the names of all its modules begin with.
        nodes: of all graphs.
        multiply_adds: for one picture.
    """

    name: str
    nodes: tuple[Node, ...]
    multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which groups are int8.

    Attributes:
        kept: in int8, in the order of the graphs.
        agreement: of these together, see `Agreement.ap`.
        agreement_of_all: of all groups together.
    """

    kept: tuple[Group, ...]
    agreement: float
    agreement_of_all: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found.

    Attributes:
        groups: all, in the order of the graphs.
        agreement: of each group alone in int8 -> its agreement with float32.
        choice: which groups are int8.
        max_drop: from an agreement of 1.
        num_pictures: that were searched on.
        assignments: of each graph, node name -> "int8".
    """

    groups: tuple[Group, ...]
    agreement: Mapping[str, float]
    choice: Choice
    max_drop: float
    num_pictures: int
    assignments: Assignments

    def to_json(self) -> dict[str, Any]:
        """Return the table for the manifest."""
        total = max(sum(group.multiply_adds for group in self.groups), 1)
        return {
            "max_drop": self.max_drop,
            "num_pictures": self.num_pictures,
            "agreement_ap": round(self.choice.agreement, 4),
            "agreement_ap_all_int8": round(self.choice.agreement_of_all, 4),
            "modules": [
                {
                    "module": group.name,
                    "share_of_multiply_adds": round(group.multiply_adds / total, 4),
                    "agreement_ap_alone": round(self.agreement[group.name], 4),
                    "precision": "int8" if group in self.choice.kept else "fp32",
                }
                for group in self.groups
            ],
        }


def search(
    plain: Graphs,
    manifest: Manifest,
    recipe: PrecisionRecipe,
    magnitudes: Magnitudes,
    pictures: Sequence[Image],
    *,
    complete: Callable[[OnnxModel], OnnxModel],
    max_drop: float = DEFAULT_MAX_DROP,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Search:
    """Find the modules that may be int8.

    Args:
        plain: the float32 graphs, edgeseg's operators without bodies.
        manifest: of the model.
        recipe: which modules may be int8 at all.
        magnitudes: of all `values_for_search`.
        pictures: with what the model looks for; the first `NUM_PICTURES` are used.
        complete: gives a graph's operators their bodies.
        max_drop: how far the lowest agreement of all kinds may be below 1.
        progress: called as progress(stage, done, total).

    Raises:
        ValueError: `max_drop` is not in 0..1, or the model finds nothing on the pictures.
    """
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop {max_drop} found, expected a number in 0..1")
    groups = module_groups(plain, recipe)
    whole = {name: complete(graph) for name, graph in plain.items()}
    judge = _Judge(whole, manifest, pictures[:NUM_PICTURES])

    def judged(chosen: Iterable[Group]) -> float:
        converted = {
            name: complete(convert(plain[name], assignment, magnitudes.get(name, {})))
            if assignment
            else whole[name]
            for name, assignment in _assignments(plain, chosen).items()
        }
        return judge.agreement(converted)

    agreement: dict[str, float] = {}
    for done, group in enumerate(groups):
        progress("sensitivity of the modules", done, len(groups))
        agreement[group.name] = judged([group])
    choice = choose(
        groups, agreement, judged, max_drop=max_drop, on_step=lambda n: progress("search", n, 0)
    )
    return Search(
        groups=groups,
        agreement=agreement,
        choice=choice,
        max_drop=max_drop,
        num_pictures=len(judge.pictures),
        assignments=_assignments(plain, choice.kept),
    )


def choose(
    groups: Sequence[Group],
    alone: Mapping[str, float],
    judged: Callable[[Sequence[Group]], float],
    *,
    max_drop: float,
    on_step: Callable[[int], None] = lambda done: None,
) -> Choice:
    """Return the groups that save much work together and lose at most ``max_drop``.

    Args:
        groups: to choose from.
        alone: agreement of each group, by name.
        judged: gives the agreement of several groups together.
        max_drop: from an agreement of 1.
        on_step: called with the number of combinations that are judged.
    """
    kept = list(groups)
    removed: list[Group] = []
    on_step(0)
    agreement = agreement_of_all = judged(kept)
    while kept and not _is_within(agreement, max_drop):
        worst = max(kept, key=lambda group: _loss_per_work(alone[group.name], group))
        kept.remove(worst)
        removed.append(worst)
        on_step(len(removed))
        agreement = judged(kept) if kept else 1.0
    num_judged = len(removed)
    # Without the last one that was removed there was too little room.
    for group in sorted(removed[:-1], key=lambda group: -group.multiply_adds):
        more = [each for each in groups if each in kept or each is group]
        num_judged += 1
        on_step(num_judged)
        found = judged(more)
        if _is_within(found, max_drop):
            kept, agreement = more, found
    return Choice(kept=tuple(kept), agreement=agreement, agreement_of_all=agreement_of_all)


def values_for_search(plain: Graphs, recipe: PrecisionRecipe) -> dict[str, list[str]]:
    """Return the values of each graph whose magnitude a search must know: those of every group alone."""
    groups = module_groups(plain, recipe)
    choices = [_assignments(plain, [group]) for group in groups]
    choices.append(_assignments(plain, groups))
    return {
        name: list(dict.fromkeys(value for c in choices for value in values_needed(graph, c[name])))
        for name, graph in plain.items()
    }


def module_groups(plain: Graphs, recipe: PrecisionRecipe) -> tuple[Group, ...]:
    """Return the recipe's int8 modules in groups: the largest are taken apart, down to blocks.

    A module that computes something itself, such as the addition of a residual block, stays whole.
    Graphs that share modules have them in one group.
    """
    order: list[Node] = [
        (name, node) for name, graph in plain.items() for node in assign(graph, recipe, "int8")
    ]
    work = {
        (name, node): count
        for name, graph in plain.items()
        for node, count in _multiply_adds(graph).items()
    }
    parts: dict[str, list[Node]] = defaultdict(list)
    for node in order:
        parts[_entry(_module(node), recipe.int8)].append(node)
    while True:
        by_work = sorted(parts, key=lambda prefix: -sum(work.get(n, 0) for n in parts[prefix]))
        fitting = (
            (prefix, children)
            for prefix in by_work
            if (children := _children(prefix, parts[prefix]))
            and len(parts) + len(children) - 1 <= MAX_GROUPS
        )
        prefix, children = next(fitting, ("", {}))
        if not children:
            break
        del parts[prefix]
        parts.update(children)
    position = {node: number for number, node in enumerate(order)}
    return tuple(
        Group(name=prefix, nodes=tuple(nodes), multiply_adds=sum(work.get(n, 0) for n in nodes))
        for prefix, nodes in sorted(parts.items(), key=lambda item: position[item[1][0]])
    )


class _Judge:
    """Compares graphs with float32 on the same pictures, whose results it keeps."""

    def __init__(self, reference: Graphs, manifest: Manifest, pictures: Sequence[Image]) -> None:
        self.manifest = manifest
        self.pictures = pictures
        self.expected = self._results(reference)
        if agreement_of(self.expected, self.expected, manifest, pictures).lowest is None:
            raise ValueError(
                f"the model finds nothing on the {len(pictures)} pictures that precision 'auto' "
                "searches on; calibrate with pictures of what it looks for"
            )

    def agreement(self, graphs: Graphs) -> float:
        """Return the lowest agreement of all kinds."""
        found = agreement_of(self.expected, self._results(graphs), self.manifest, self.pictures)
        assert found.lowest is not None  # the reference has something to compare
        return found.lowest

    def _results(self, graphs: Graphs) -> list[Record]:
        return records_on(graphs_predictor(graphs, self.manifest), self.pictures)


def _assignments(plain: Graphs, groups: Iterable[Group]) -> dict[str, dict[str, str]]:
    chosen = {node for group in groups for node in group.nodes}
    return {
        name: dict.fromkeys(int8_nodes(graph, {n for g, n in chosen if g == name}), "int8")
        for name, graph in plain.items()
    }


def _is_within(agreement: float, max_drop: float) -> bool:
    return 1 - agreement <= max_drop + ROUNDING


def _loss_per_work(agreement: float, group: Group) -> tuple[float, int]:
    """Return what a group loses for the work it saves; of equal ones, the least work goes first."""
    return max(1 - agreement, 0.0) / max(group.multiply_adds, 1), -group.multiply_adds


def _module(node: Node) -> str:
    return node[1].partition("/")[0]


def _entry(module: str, entries: Collection[str]) -> str:
    """Return the recipe's longest entry that a module belongs to."""
    fitting = [e for e in entries if module == e or module.startswith(f"{e}.")]
    return max(fitting, key=len, default=module)


def _children(prefix: str, nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """Return the nodes by the module one level below; nothing if some node is of the module itself.

    A level with a single child is passed over.
    """
    children: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        rest = _module(node).removeprefix(prefix).removeprefix(".")
        if not rest:
            return {}
        step = rest.partition(".")[0]
        children[f"{prefix}.{step}"].append(node)
    if len(children) == 1:
        ((only, nodes_below),) = children.items()
        return _children(only, nodes_below)
    return children


def _multiply_adds(plain: OnnxModel) -> dict[str, int]:
    """Return the multiply-adds of the nodes with weights, by name, for one picture."""
    graph = plain.graph
    shapes = {
        info.name: [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.output, *graph.input)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    work: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in WEIGHT_AXES and node.input[1] in weights:
            # Each weight meets every place of the output, or of a transposed convolution's input.
            places = node.output[0] if node.op_type == "Conv" else node.input[0]
            num_places = int(np.prod(shapes.get(places, [1])[2:]))
            work[node.name] = int(np.prod(weights[node.input[1]])) * num_places
    return work
