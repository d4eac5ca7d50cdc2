"""What every family does alike when a model is built: options, sizes, weights.

Nothing here imports torch before a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from edgeseg.models import Weights, shapes_weights_path

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

    Model = TypeVar("Model", bound=ReferenceModel)


def settings_of(
    name: str,
    config_type: type[Any],
    preset: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields of a configuration: the preset's, replaced by what the caller gives.

    Args:
        name: of the model, for the message.
        config_type: the family's configuration dataclass.
        preset: of the variant.
        image_size: height and width of the network input; the preset's if None.
        config: fields of ``config_type``.

    Raises:
        ValueError: a field that the configuration does not have.
    """
    known = {field.name for field in fields(config_type)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValueError(
            f"options {', '.join(unknown)} found for {name}, expected some of "
            f"{', '.join(sorted(known))}"
        )
    settings = {**preset, **config}
    if image_size is not None:
        settings["image_size"] = image_size
    return settings


def with_weights(model: Model, weights: Weights, table: KeyTable) -> Model:
    """Return ``model`` in evaluation mode, with weights if there are any.

    Args:
        model: just built.
        weights: an official checkpoint (path or state dict), "shapes" or None (random).
        table: the parameter names of the official checkpoint.

    Raises:
        ValueError: "shapes" for a model that ships without such weights.
        CheckpointError: weights that do not fit.
    """
    from edgeseg.models.checkpoint import load_weights

    if weights is not None:
        is_shapes = isinstance(weights, str) and weights == "shapes"
        load_weights(model, shapes_weights_path(model.name) if is_shapes else weights, table)
    return model.eval()
