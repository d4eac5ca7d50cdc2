"""Builds the PyTorch model of an export so that a benchmark can build the same one again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.models import RANDOM, get_spec
from edgeseg.models.building import create
from edgeseg.models.outside import is_outside
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.models.reference import ReferenceModel

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

    if weights is None:
        torch.manual_seed(RANDOM_SEED)
    return create(
        name, weights=weights, weights_key=weights_key, image_size=image_size, config=config
    )


def weights_sha256(model: ReferenceModel) -> str:
    """Return the digest of a model's parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def weights_source(name: str, weights: str | None) -> str:
    """Return what a bundle's provenance says of a model's weights: a keyword or a full path.

    The keywords are "random" and those of weights that ship with the model, such as "shapes".
    """
    if weights is None:
        return RANDOM
    return weights if weights in get_spec(name).weights else str(Path(weights).absolute())


def rebuild_model(
    manifest: Manifest,
    *,
    name: str | None = None,
    weights: str | None = None,
    weights_key: str | None = None,
) -> ReferenceModel:
    """Return the PyTorch model of a bundle.

    Args:
        manifest: of the bundle; its provenance names model, configuration and weights.
        name: of the model, as `edgeseg.create_model` takes it; the recorded one if None, unless that
            is of a module outside the package: a bundle is data, and must not choose what is imported.
        weights: the checkpoint, where it has moved since the export.
        weights_key: the part of it; the one that was exported if None, "" for all of it.

    Raises:
        ValueError: the provenance does not say how the model was made, its checkpoint is gone, or it
            is of a module outside the package and no name is given.
        CheckpointError: the checkpoint is damaged or of another model.
        ReferenceMismatchError: these are other weights than the exported ones.
    """
    provenance = manifest.provenance
    config, expected = provenance.get("config"), provenance.get("weights_sha256")
    if not isinstance(config, Mapping) or not isinstance(expected, str):
        raise ValueError(
            f"the bundle of {manifest.name} does not record how its model was made, so the torch "
            "reference cannot be rebuilt: leave torch out of --backends, or export it again"
        )
    name = name or _recorded_name(manifest)
    source = weights or _recorded_weights(manifest, name)
    options = {key: _frozen(value) for key, value in config.items()}
    model = build_model(
        name,
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


def _recorded_name(manifest: Manifest) -> str:
    name = manifest.provenance.get("model", manifest.name)
    if not isinstance(name, str) or is_outside(name):
        raise ValueError(
            f"the bundle of {manifest.name} was exported from the model {name!r} outside edgeseg, "
            "whose module is a program and is not imported because a bundle says so: if you trust "
            f"it, give --model {name}"
        )
    return name


def _recorded_weights(manifest: Manifest, name: str) -> str:
    source = manifest.provenance.get("weights")
    if not isinstance(source, str):
        raise ValueError(
            f"the bundle of {manifest.name} does not record its checkpoint: give it with --weights"
        )
    is_keyword = source == RANDOM or source in get_spec(name).weights
    if not is_keyword and not Path(source).is_file():
        raise ValueError(
            f"the checkpoint {source} that the bundle was exported from is not there any more: "
            "give it with --weights, or leave torch out of --backends"
        )
    return source


def _frozen(value: Any) -> Any:
    """Return a recorded value of a configuration, where JSON made lists of tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
