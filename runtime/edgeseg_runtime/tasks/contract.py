"""Checks of a manifest against what a task expects of its tensors and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from edgeseg_runtime.bundle.manifest import Manifest, TensorSpec
from edgeseg_runtime.errors import ManifestError

__all__ = [
    "check_choice",
    "check_keypoint_names",
    "check_outputs",
    "describe",
    "options_from_manifest",
    "refuse",
]

Options = TypeVar("Options")


def refuse(manifest: Manifest, found: str, expected: str) -> NoReturn:
    """Raise the error of a manifest that is not one of its task."""
    raise ManifestError(
        f"the manifest of the task {manifest.task!r} has {found}; expected {expected}. "
        "Export it again."
    )


def describe(spec: TensorSpec) -> str:
    """Return name, dtype and shape of a tensor for a message."""
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"


def options_from_manifest(kind: type[Options], manifest: Manifest) -> Options:
    """Return the manifest's `postprocess` as a dataclass of options; their values are not checked.

    Raises:
        ManifestError: for an unknown option.
    """
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(manifest.postprocess.keys() - set(known))
    if unknown:
        refuse(
            manifest, f"option {unknown[0]!r}", f"one of {', '.join(known)}" if known else "none"
        )
    return kind(**manifest.postprocess)


def check_choice(manifest: Manifest, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse an option that is not among its choices."""
    if value not in choices:
        refuse(manifest, f"{name} {value!r}", f"one of {', '.join(choices)}")


def check_outputs(
    manifest: Manifest,
    axes: Mapping[str, tuple[str | int, ...]],
    *,
    required: tuple[str, ...],
    row_axis: str | None = None,
) -> dict[str, TensorSpec]:
    """Return the outputs by name.

    Args:
        manifest: the manifest.
        axes: of each output the axes after the batch axis: a number, or a letter for a size that
            is the same wherever the letter stands.
        required: outputs that there must be.
        row_axis: the letter of the axis that further outputs, not in `axes`, begin with; None if
            there must be none, as nothing would read them.

    Raises:
        ManifestError: if one is missing, has another shape, or is one too many.
    """
    specs = {spec.name: spec for spec in manifest.outputs}
    missing = [name for name in required if name not in specs]
    if missing:
        refuse(manifest, f"outputs {sorted(specs)}", f"{missing[0]} among them")
    used = {name: specs[name] for name in axes if name in specs}
    sizes: dict[str, int] = {}
    for name, spec in used.items():
        wanted = axes[name]
        known = dict(sizes)
        is_right = len(spec.shape) == 1 + len(wanted) and all(
            size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
            for size, axis in zip(spec.shape[1:], wanted, strict=True)
        )
        if not is_right:
            names = ", ".join(str(known.get(str(axis), axis)) for axis in wanted)
            refuse(manifest, f"output {describe(spec)}", f"[1, {names}]")
    for name in sorted(specs.keys() - used.keys()):
        num_rows = None if row_axis is None else sizes[row_axis]
        if num_rows is None or specs[name].shape[1:2] != (num_rows,):
            rows = "" if num_rows is None else f"; or [1, {num_rows}, ...], a row for each instance"
            refuse(manifest, f"output {describe(specs[name])}", f"one of {', '.join(axes)}{rows}")
    return specs


def check_keypoint_names(manifest: Manifest, count: int) -> None:
    """Refuse names of key points that are not as many as the points."""
    if manifest.keypoint_names and len(manifest.keypoint_names) != count:
        refuse(
            manifest,
            f"{len(manifest.keypoint_names)} keypoint_names",
            f"one for each of the {count} points, or none",
        )
