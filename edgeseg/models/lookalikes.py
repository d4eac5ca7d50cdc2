"""Tells which official model a checkpoint is of, where it may be another than the one asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgeseg.models import MODELS, ModelSpec, get_spec
from edgeseg.models.key_table import KeyTable
from edgeseg.models.state_dicts import Entry, Fit, fits_of, is_tensor
from edgeseg.models.weight_files import CheckpointError

if TYPE_CHECKING:
    from edgeseg.models.reference import ReferenceModel

COUNTS = ("num_classes", "num_points", "num_keypoints", "num_joints", "num_landmarks")
"""Fields of configurations that the widths of a model's last layers follow from."""
READ_COUNTS = ("num_landmarks",)
"""Those that are taken from a checkpoint unasked: no name of anything is lost with another number."""
_CLASS_FIELDS = {"num_classes", "labels", "category_ids"}
_NUM_SAMPLES = 24


def check_file_name(path: str | Path, spec: ModelSpec, settings: Mapping[str, Any]) -> None:
    """Do nothing unless a file is named as an official checkpoint that needs another model or size.

    Some have the same parameters as others and differ only in what no file tells, such as priors.

    Args:
        path: of the checkpoint.
        spec: of the model asked for.
        settings: what the caller gives beside it; what is given is not questioned.

    Raises:
        CheckpointError: it is named so.
    """
    stem = Path(path).name
    for pattern, (variant, needed) in spec.files.items():
        if not re.match(pattern, stem):
            continue
        reason = f"{path} is named as the original's checkpoint of {variant}"
        if variant != spec.name:
            raise CheckpointError(
                f"{reason}, whose parameters have the same names as those of {spec.name}, and whose "
                f"configuration is another: take {variant}, or rename the file if it is not one"
            )
        lacking = {key: value for key, value in needed.items() if key not in settings}
        if lacking:
            given = " ".join(map(_option, lacking, lacking.values()))
            raise CheckpointError(f"{reason} that needs {given}: give that, or another value")
        return


def fitting_model(
    entries: Sequence[Entry], spec: ModelSpec, config: Mapping[str, Any]
) -> str | None:
    """Return how to load a checkpoint that does not fit a model, None if no way is known.

    Args:
        entries: of the checkpoint.
        spec: of the model asked for.
        config: fields of its configuration that the caller gives.
    """
    option = _fitting_option(entries, spec, config)
    for name in _others(spec.name):
        other = _fitting_option(entries, get_spec(name), {}, counts=() if option else COUNTS)
        if other is not None:
            own = f"; with classes of your own it fits with {option}" if option else ""
            return f"It fits {name}{f' with {other}' if other else ''}{own}."
    return f"It fits with {option}." if option else None


def counts_read(
    entries: Sequence[Entry], spec: ModelSpec, config: Mapping[str, Any]
) -> dict[str, int]:
    """Return the fields of a configuration that a checkpoint tells, with which it fits a model; none if it does not.

    Args:
        entries: of the checkpoint.
        spec: of the model.
        config: fields of its configuration that the caller gives, which are not replaced.
    """
    counts = _fitting_counts(entries, spec, config, counts=READ_COUNTS) or {}
    return {} if counts.keys() & config.keys() else counts


def lookalikes(model: ReferenceModel, config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield official models that the weights of a model of other counts than its preset's would fit, too.

    Args:
        model: that was built.
        config: fields of its configuration that the caller gave.

    Yields:
        The name, and the fields of the configuration in which it differs.
    """
    given = [count for count in COUNTS if count in config]
    if not given or config.get("labels"):
        return
    own = {name: value.shape for name, value in model.state_dict().items()}
    for name in _relatives(model):
        other = _on_meta(get_spec(name), {}, model.config.image_size)
        if other is None or {k: v.shape for k, v in other.state_dict().items()} != own:
            continue
        differing = [
            field.name
            for field in fields(model.config)
            if field.name not in _CLASS_FIELDS
            and hasattr(other.config, field.name)
            and getattr(model.config, field.name) != getattr(other.config, field.name)
        ]
        if differing:
            yield name, differing


def _fitting_option(
    entries: Sequence[Entry],
    spec: ModelSpec,
    config: Mapping[str, Any],
    *,
    counts: Collection[str] = COUNTS,
) -> str | None:
    """Return what to give so that a checkpoint fits a model, see `_fitting_counts`: "" if nothing."""
    found = _fitting_counts(entries, spec, config, counts=counts)
    return None if found is None else " ".join(map(_option, found, found.values()))


def _fitting_counts(
    entries: Sequence[Entry],
    spec: ModelSpec,
    config: Mapping[str, Any],
    *,
    counts: Collection[str] = COUNTS,
) -> dict[str, int] | None:
    """Return the count with which a checkpoint fits a model: {} if it does as it is, None if it never does.

    Args:
        entries: of the checkpoint.
        spec: of the model.
        config: fields of its configuration.
        counts: those to try.
    """
    table = spec.key_table(spec.name, config)
    model = _on_meta(spec, config) if _knows_names(table, entries) else None
    if model is None:
        return None
    fit = fits_of(entries, model.state_dict(), table)[0]
    if fit.is_complete:
        return {}
    if fit.missing or fit.unexpected or fit.unsuitable:
        return None
    others = {key: value for key, value in config.items() if key not in _CLASS_FIELDS}
    for count in counts:
        for value in _counts(getattr(model.config, count, None), fit, model):
            other = _on_meta(spec, {**others, count: value})
            if other and fits_of(entries, other.state_dict(), table)[0].is_complete:
                return {count: value}
    return None


def _counts(count: int | None, fit: Fit, model: ReferenceModel) -> list[int]:
    """Return what a count would have to be so that sides of a shape become those of the checkpoint."""
    if not count:
        return []
    expected = model.state_dict()
    sides = {
        (found, own)
        for name in fit.misshapen
        for found, own in zip(fit.found[name].shape, expected[name].shape, strict=False)
        if found != own
    }
    return sorted({found * count // own for found, own in sides if found * count % own == 0} - {0})


def _on_meta(
    spec: ModelSpec, config: Mapping[str, Any], image_size: tuple[int, int] | None = None
) -> ReferenceModel | None:
    """Return a model without memory for its weights, None if there is no such configuration."""
    try:
        with torch.device("meta"):
            return spec.build(spec.name, image_size, config)
    except ValueError:
        return None


def _family(name: str) -> list[str]:
    """Return the package's other models of a model's family; of a family outside it, none."""
    module = MODELS.get(name)
    return sorted(other for other in MODELS if MODELS[other] == module and other != name)


def _relatives(model: ReferenceModel) -> list[str]:
    """Return the package's other models whose configuration is of the model's kind, or a kind of it.

    One family can extend another, and read its checkpoints.
    """
    if model.name not in MODELS:
        return []
    own = type(model.config)
    presets = {name: type(get_spec(name).preset) for name in _others(model.name)}
    return [
        name for name, kind in presets.items() if issubclass(kind, own) or issubclass(own, kind)
    ]


def _others(name: str) -> list[str]:
    """Return all other models, those of the same family first."""
    family = _family(name)
    return [*family, *sorted(set(MODELS) - {name, *family})]


def _knows_names(table: KeyTable, entries: Sequence[Entry]) -> bool:
    """Tell whether about half of a checkpoint's names are an original's, whatever stands before them."""
    names = [entry.name for entry in entries if is_tensor(entry.value)]
    sample = names[:: max(1, len(names) // _NUM_SAMPLES)]
    known = sum(any(map(table.ours_from_original, _endings(name))) for name in sample)
    return not table.rules or 2 * known >= len(sample)


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(min(len(parts), 8))]


def _option(field: str, value: Any) -> str:
    """Return how to give a field's value on the command line."""
    if field == "num_classes":
        return f"--num-classes {value}"
    if field == "image_size":
        return f"--image-size {'x'.join(map(str, value))}"
    return f"--set {field}={value}"
