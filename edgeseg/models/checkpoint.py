"""Loads the weights of a checkpoint into a model: the part that fits, completely or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.models.key_table import KeyTable, Rule
from edgeseg.models.state_dicts import (
    Entry,
    Fit,
    entries_of,
    fits_of,
    is_averaged,
    is_tensor,
    same_tensors,
)
from edgeseg.models.stored_tensors import DamagedError, Opaque, StoredTensor
from edgeseg.models.weight_files import CheckpointError, read_checkpoint

__all__ = [
    "CheckpointError",
    "KeyTable",
    "LoadedWeights",
    "MisfitError",
    "Rule",
    "check_finite",
    "load_weights",
    "read_checkpoint",
]

_CHECK = "Check the model's name, and num_classes if the model was fine-tuned."
_NUM_LISTED = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedWeights:
    """Which part of a checkpoint was loaded.

    Attributes:
        key: the names that lead to it, joined by dots; "" for all of the checkpoint.
        others: the keys of the parts that would have fitted as well.
    """

    key: str
    others: tuple[str, ...] = ()


class MisfitError(CheckpointError):
    """A checkpoint of another model.

    Attributes:
        entries: what it holds.
    """

    def __init__(self, message: str, entries: Sequence[Entry] = ()) -> None:
        super().__init__(message)
        self.entries = entries

    def with_advice(self, advice: str | None) -> CheckpointError:
        """Return the error with what to do, if that is known, in place of what to check."""
        return CheckpointError(str(self).replace(_CHECK, advice) if advice else str(self))


def load_weights(
    model: nn.Module,
    weights: str | Path | Mapping[str, Any],
    table: KeyTable,
    *,
    key: str | None = None,
    constants: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> LoadedWeights:
    """Load into ``model`` what fits of ``weights``; every parameter must be there with its shape.

    A state dict may lie in others, or in lists, under any names, and its names may begin with
    anything: the part that fits is found by trying. Where averaged weights (of a model_ema) fit
    beside plain ones, they are taken, as they are by those trainers' own evaluation.

    Args:
        model: the model to fill. After an error while reading it is filled in part.
        weights: a state dict, or a training checkpoint, in memory or the path of one (.pth, .pt,
            .pkl, .safetensors), in the original's names or in ours.
        table: the original's names.
        key: the part to take, such as "model_ema", where several fit; "" is all of it.
        constants: numbers beside the weights that the model's configuration has to agree with, where
            they are there: a pattern of their original names -> the numbers.

    Raises:
        CheckpointError: the file is damaged, names, shapes or constants do not fit (all misfits are
            listed), several parts fit and none is chosen, or a file holds NaN. NaN in memory is
            logged.
    """
    is_file = not isinstance(weights, Mapping)
    source = str(weights) if is_file else "the given state dict"
    tree = read_checkpoint(weights) if isinstance(weights, str | Path) else weights
    fit, others = _choose(tree, source, model.state_dict(), table, key)
    _check_constants(tree, fit, constants, source)
    _copy(model, fit, source)
    try:
        check_finite(model, source)
    except CheckpointError as error:
        if is_file:
            raise
        _log.warning("%s", error)
    return LoadedWeights(fit.key, others)


def check_finite(model: nn.Module, source: str = "the model") -> None:
    """Do nothing if all weights are finite.

    Raises:
        CheckpointError: some are NaN or infinite.
    """
    found = []
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not (is_finite := torch.isfinite(value)).all():
            found.append(f"{name} ({int((~is_finite).sum())} of {value.numel()})")
    if found:
        raise CheckpointError(
            f"{source} has NaN or infinite numbers in {len(found)} weights: {_listed(found)}. The "
            "training diverged, or the file is damaged: take an earlier checkpoint"
        )


def _choose(
    tree: Any, source: str, expected: Mapping[str, Tensor], table: KeyTable, key: str | None
) -> tuple[Fit, tuple[str, ...]]:
    """Return the part of a checkpoint to load, and the keys of others that fit as well."""
    try:
        entries = entries_of(tree)
    except ValueError as error:
        raise CheckpointError(f"{source}: cannot be read as a weight file: {error}") from error
    if key:
        wanted = [entry for entry in entries if entry.name.startswith(f"{key}.")]
        if not any(is_tensor(entry.value) for entry in wanted):
            raise CheckpointError(
                f"{source}: no weights under the key {key!r}, expected one of "
                f"{_listed(sorted(_groups(entries)))}"
            )
        entries = wanted
    if entries and not any(is_tensor(entry.value) for entry in entries):
        raise CheckpointError(f"{source}: no tensors found, expected names, and a tensor for each")
    fits = fits_of(entries, expected, table)
    complete: list[Fit] = []
    for fit in fits:
        if fit.is_complete and not any(same_tensors(fit, other) for other in complete):
            complete.append(fit)
    if not complete:
        raise MisfitError(_misfits(source, fits[0], expected, table), entries)
    averaged = [fit for fit in complete if is_averaged(fit, tree)]
    chosen = complete if len(complete) == 1 else averaged
    if len(chosen) != 1:
        raise CheckpointError(
            f"{source}: {len(complete)} parts fit the model: {_listed(fit.key for fit in complete)}. "
            "Choose one with --weights-key, in Python weights_key"
        )
    others = tuple(fit.key for fit in complete if fit is not chosen[0])
    if chosen[0].key:
        beside = f", the average, and not {_listed(others)}" if others else ""
        _log.info("%s: the weights are those of %s%s", source, chosen[0].key, beside)
    return chosen[0], others


def _check_constants(
    tree: Any, fit: Fit, constants: Mapping[str, Sequence[float]], source: str
) -> None:
    for entry in entries_of(tree) if constants else ():
        name = entry.name.removeprefix(fit.prefix)
        expected = next((v for key, v in constants.items() if re.search(key, name)), None)
        if expected is None or not isinstance(entry.value, StoredTensor | Tensor | np.ndarray):
            continue
        found = _as_tensor(entry.value, f"{source}: {_shown(name)}").flatten().tolist()
        if len(found) != len(expected) or not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
            raise CheckpointError(
                f"{source}: {_shown(name)} is {_rounded(found)}, expected {_rounded(expected)}: it is "
                "of a model with another configuration"
            )


def _rounded(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers[:12])


def _copy(model: nn.Module, fit: Fit, source: str) -> None:
    """Copy the values into the model one by one, so that a file is never in memory as a whole."""
    targets = model.state_dict()
    with torch.no_grad():
        for name, value in fit.found.items():
            targets[name].copy_(_as_tensor(value, f"{source}: {name}"))


def _as_tensor(value: Any, place: str) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Tensor):
        return value
    assert isinstance(value, StoredTensor)
    try:
        return value.read()
    except (DamagedError, OSError) as error:
        raise CheckpointError(f"{place} is damaged: {error}. Download or copy it again") from error


def _misfits(source: str, fit: Fit, expected: Mapping[str, Tensor], table: KeyTable) -> str:
    def original(name: str) -> str:
        return table.original_from_ours(name) or name

    lists = {
        "missing": [original(name) for name in fit.missing],
        "unexpected": [_shown(name) for name in fit.unexpected],
        "misshapen": [
            f"{original(name)}: {tuple(fit.found[name].shape)} found, "
            f"{tuple(expected[name].shape)} expected"
            for name in fit.misshapen
        ],
        "unsuitable": [
            f"{original(name)}: {_kind(fit.found[name])} found, expected a tensor of "
            f"{str(expected[name].dtype).removeprefix('torch.')}"
            for name in fit.unsuitable
        ],
    }
    part = f" ({_shown(fit.key)})" if fit.key else ""
    lines = [f"{source}{part} does not fit the model:"]
    lines += [f"  {len(names)} {kind}: {_listed(names)}" for kind, names in lists.items() if names]
    lines.append(_CHECK)
    return "\n".join(lines)


def _kind(value: Any) -> str:
    if isinstance(value, Opaque):
        return value.kind
    if isinstance(value, StoredTensor | Tensor | np.ndarray):
        return f"one of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _groups(entries: Iterable[Entry]) -> set[str]:
    return {_shown(entry.group.removesuffix(".")) for entry in entries if is_tensor(entry.value)}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" ... and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
    return "; ".join(names[:_NUM_LISTED]) + more


def _shown(name: str) -> str:
    """Return a name of a file fit to be printed."""
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= 120 else f"{name[:120]}..."
