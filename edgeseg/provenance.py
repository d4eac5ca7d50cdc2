"""Builds the PyTorch model of an export so that a benchmark can build the very same one again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.manifest import Manifest

if TYPE_CHECKING:
    from edgeseg.models.reference import ReferenceModel

RANDOM = "random"
"""Weights source of a model that was exported without weights."""
RANDOM_SEED = 0


class ReferenceMismatchError(EdgesegError):
    """The model that was rebuilt is not the one that the bundle was exported from."""


def build_model(
    name: str,
    *,
    weights: str | None,
    weights_key: str | None = None,
    image_size: tuple[int, int] | None,
    config: Mapping[str, Any],
) -> ReferenceModel:
    """Return a model as `edgeseg.create_model` does; random weights are the same every time."""
    import torch

    import edgeseg

    if weights is None:
        torch.manual_seed(RANDOM_SEED)
    return edgeseg.create_model(
        name, weights=weights, weights_key=weights_key, image_size=image_size, **config
    )


def weights_source(weights: str | None) -> str:
    """Return what a bundle's provenance says of the weights: "random", "shapes" or a full path."""
    if weights is None:
        return RANDOM
    return weights if weights == "shapes" else str(Path(weights).absolute())


def rebuild_model(
    manifest: Manifest, *, weights: str | None = None, weights_key: str | None = None
) -> ReferenceModel:
    """Return the PyTorch model of a bundle.

    Args:
        manifest: of the bundle; its provenance names configuration and weights.
        weights: the checkpoint, where it is no longer where it was at the export.
        weights_key: the part of it; the one that was exported if None, "" for all of it.

    Raises:
        ValueError: the provenance does not say how the model was made, or its checkpoint is gone.
        CheckpointError: the checkpoint is damaged or of another model.
        ReferenceMismatchError: these are other weights than the exported ones.
    """
    from edgeseg_export.bundle import weights_sha256

    provenance = manifest.provenance
    config, expected = provenance.get("config"), provenance.get("weights_sha256")
    if not isinstance(config, Mapping) or not isinstance(expected, str):
        raise ValueError(
            f"the bundle of {manifest.name} does not record how its model was made, so the torch "
            "reference cannot be rebuilt: leave torch out of --backends, or export it again"
        )
    source = weights or _recorded_weights(manifest)
    options = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
    }
    model = build_model(
        manifest.name,
        weights=None if source == RANDOM else source,
        weights_key=provenance.get("weights_key") if weights_key is None else weights_key,
        image_size=options.pop("image_size", None),
        config=options,
    )
    found = weights_sha256(model)
    if found != expected:
        raise ReferenceMismatchError(
            f"the weights {source} are not those that the bundle was exported from: sha256 "
            f"{expected[:12]} expected, {found[:12]} found. Give the original checkpoint with "
            "--weights, or export again"
        )
    return model


def _recorded_weights(manifest: Manifest) -> str:
    source = manifest.provenance.get("weights")
    if not isinstance(source, str):
        raise ValueError(
            f"the bundle of {manifest.name} does not record its checkpoint: give it with --weights"
        )
    if source not in {RANDOM, "shapes"} and not Path(source).is_file():
        raise ValueError(
            f"the checkpoint {source} that the bundle was exported from is not there any more: "
            "give it with --weights, or leave torch out of --backends"
        )
    return source
