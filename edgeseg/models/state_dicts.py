"""Finds, in whatever a checkpoint holds, the state dict that fits a model."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from edgeseg.models.key_table import KeyTable
from edgeseg.models.stored_tensors import MAX_DEPTH, MAX_PARTS, Opaque, StoredTensor

_MAX_NAME_LENGTH = 300
_MAX_PREFIXES = 16
_WRAPPERS = {
    "module",  # DataParallel, DistributedDataParallel, averaged models
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # Lightning Fabric
}
"""Parts of a name that stand for a wrapper around a module, wherever in the model it is."""
_AVERAGED = re.compile(r"(?i)(^|[._])(ema|avg|averaged?|swa|teacher)([._]|$)")
"""What trainers call weights that were averaged over the training."""


class Entry(NamedTuple):
    """A value in a checkpoint.

    Attributes:
        name: the keys that lead to it, joined by dots.
        group: name of the dict or list that it is in, with a dot behind.
        value: a tensor, or something else.
    """

    name: str
    group: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a part of a checkpoint fits a model.

    Attributes:
        prefix: what stands before the names of the part, with a dot behind.
        found: our name of a parameter -> the value.
        missing: parameters without a value, by our names.
        misshapen: parameters with a value that has another shape, by our names.
        unsuitable: parameters with a value other than a floating-point tensor where one is
            expected, by our names.
        unexpected: names of tensors that the model has no parameter for.
    """

    prefix: str
    found: Mapping[str, Any]
    missing: Sequence[str]
    misshapen: Sequence[str]
    unsuitable: Sequence[str]
    unexpected: Sequence[str]

    @property
    def is_complete(self) -> bool:
        """Tell whether every parameter has its value, and every value its parameter."""
        return not (self.missing or self.misshapen or self.unsuitable or self.unexpected)

    @property
    def num_fitting(self) -> int:
        """Number of parameters whose value fits."""
        return len(self.found) - len(self.misshapen) - len(self.unsuitable)

    @property
    def key(self) -> str:
        """The part's name, "" for all of the checkpoint."""
        return self.prefix.removesuffix(".")


def entries_of(tree: Any) -> list[Entry]:
    """Return the values in nested dicts and lists; a module counts as its state dict.

    Raises:
        ValueError: there are more than `MAX_PARTS`.
    """
    entries: list[Entry] = []
    queue = deque([("", tree, 0)])
    num_parts = 0
    while queue:
        group, node, depth = queue.popleft()
        for key, value in _items(node):
            num_parts += 1
            if num_parts > MAX_PARTS:
                raise ValueError(f"it holds more than {MAX_PARTS} values, one inside another")
            if isinstance(value, Mapping | list | tuple | nn.Module):
                if depth < MAX_DEPTH:
                    queue.append((f"{group}{key}.", value, depth + 1))
            else:
                entries.append(Entry(f"{group}{key}", group, value))
    return entries


def fits_of(entries: Sequence[Entry], expected: Mapping[str, Tensor], table: KeyTable) -> list[Fit]:
    """Return how the parts of a checkpoint fit a model, the best first.

    Names are taken as the original's and as ours; if nothing fits completely, also without the
    wrappers inside of them.

    Args:
        entries: of the checkpoint.
        expected: the model's state dict.
        table: the original's names.
    """
    namings = (table.spellings(expected), {name: name for name in expected})
    fits: list[Fit] = []
    for candidates in (entries, list(_without_wrappers(entries))):
        fits += [
            _fit(candidates, prefix, ours_of, expected, table)
            for ours_of in namings
            for prefix in _prefixes(candidates, ours_of)
        ]
        if any(fit.is_complete for fit in fits):
            break
    return sorted(
        fits, key=lambda fit: (not fit.is_complete, -fit.num_fitting, len(fit.unexpected))
    )


def same_tensors(first: Fit, second: Fit) -> bool:
    """Tell whether two parts of a checkpoint are the same tensors under two names."""
    return all(
        value is second.found[name]
        or (isinstance(value, StoredTensor) and value == second.found[name])
        for name, value in first.found.items()
        if name in second.found
    )


def is_averaged(fit: Fit, tree: Any) -> bool:
    """Tell whether a part holds weights that were averaged over the training, by its name."""
    if isinstance(tree, Mapping) and {"message_hub", "ema_state_dict"} <= tree.keys():
        # mmengine puts the averaged weights where the plain ones would be, and those here.
        return fit.key.startswith("state_dict")
    return _AVERAGED.search(fit.prefix) is not None


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor or an array, here or in a file, whole or damaged."""
    return isinstance(value, StoredTensor | Tensor | np.ndarray) or (
        isinstance(value, Opaque) and value.is_tensor
    )


def _items(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, nn.Module):
        node = node.state_dict()
    return node.items() if isinstance(node, Mapping) else enumerate(node)


def _without_wrappers(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        parts = entry.name.split(".")
        yield entry._replace(name=".".join(part for part in parts if part not in _WRAPPERS))


def _prefixes(entries: Iterable[Entry], ours_of: Mapping[str, str]) -> list[str]:
    """Return what stands before names of the model's parameters, the most frequent first."""
    votes = Counter({"": 1})
    for entry in entries:
        name = entry.name
        if len(name) > _MAX_NAME_LENGTH or not is_tensor(entry.value):
            continue
        start = 0
        while True:
            if name[start:] in ours_of:
                votes[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return [prefix for prefix, _ in votes.most_common(_MAX_PREFIXES)]


def _fit(
    entries: Sequence[Entry],
    prefix: str,
    ours_of: Mapping[str, str],
    expected: Mapping[str, Tensor],
    table: KeyTable,
) -> Fit:
    found: dict[str, Any] = {}
    groups: set[str] = set()
    others: list[Entry] = []
    for entry in entries:
        if entry.name.startswith(prefix):
            ours = ours_of.get(entry.name[len(prefix) :])
            if ours is None:
                others.append(entry)
            else:
                found[ours] = entry.value
                groups.add(entry.group)
    tensors = {name: value for name, value in found.items() if is_tensor(value)}
    return Fit(
        prefix=prefix,
        found=found,
        missing=[name for name in expected if name not in found and not _is_counter(name)],
        misshapen=[
            name
            for name, value in tensors.items()
            if _shape(value) not in {None, tuple(expected[name].shape)}
        ],
        unsuitable=[
            name for name, value in found.items() if not _is_suitable(value, expected[name])
        ],
        unexpected=[
            entry.name
            for entry in others
            if is_tensor(entry.value)
            and (entry.group in groups or not groups)
            and not _is_counter(entry.name)
            and not table.is_ignored(entry.name[len(prefix) :])
        ],
    )


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _shape(value: Any) -> tuple[int, ...] | None:
    return None if isinstance(value, Opaque) else tuple(value.shape)


def _is_suitable(value: Any, expected: Tensor) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" or (
            value.dtype.kind in "iub" and not expected.is_floating_point()
        )
    if isinstance(value, StoredTensor | Tensor):
        return value.dtype.is_floating_point or not expected.is_floating_point()
    return False
