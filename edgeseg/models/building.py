"""What every family does alike when a model is built: options, sizes, weights.

Nothing here imports torch before a model is built.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.models import ModelSpec, Weights, get_spec, shapes_weights_path
from edgeseg.models.labels import ClassRules, class_settings

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import LoadedWeights
    from edgeseg.models.reference import ReferenceModel

_log = logging.getLogger(__name__)


def settings_of(
    name: str,
    config_type: type[Any],
    preset: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    config: Mapping[str, Any],
    classes: ClassRules | None = None,
) -> dict[str, Any]:
    """Return the fields of a configuration: the preset's, replaced by what the caller gives.

    Names and ids of the classes follow their number.

    Args:
        name: of the model, for the message.
        config_type: the family's configuration dataclass.
        preset: of the variant.
        image_size: height and width of the network input; the preset's if None.
        config: fields of ``config_type``.
        classes: how the family counts them; None if its results have none.

    Raises:
        ValueError: a field that the configuration does not have.
    """
    known = {field.name for field in fields(config_type)}
    fixed = classes.num_classes if classes else None
    if "num_classes" in config and "num_classes" not in known:
        if config["num_classes"] != fixed:
            expected = (
                f"{fixed}, as it always has" if fixed else "none: its results have no classes"
            )
            raise ValueError(
                f"num_classes {config['num_classes']} found for {name}, expected {expected}"
            )
        config = {key: value for key, value in config.items() if key != "num_classes"}
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValueError(
            f"options {', '.join(unknown)} found for {name}, expected some of "
            f"{', '.join(sorted(known))}"
        )
    settings = {**preset, **config}
    if classes is not None:
        official = {"num_classes": fixed or getattr(config_type, "num_classes", None), **preset}
        named = class_settings(official, config, classes)
        settings |= {key: value for key, value in named.items() if key in known}
    if image_size is not None:
        settings["image_size"] = image_size
    return settings


def create(
    name: str,
    *,
    weights: Weights = None,
    weights_key: str | None = None,
    image_size: tuple[int, int] | None = None,
    config: Mapping[str, Any],
) -> ReferenceModel:
    """Return a model in evaluation mode; see :func:`edgeseg.create_model`."""
    from edgeseg.models.lookalikes import check_file_name

    if weights_key and (weights is None or _is_shapes(weights)):
        raise ValueError(
            f"weights key {weights_key!r} found, but no checkpoint to take it from: give both"
        )
    spec = get_spec(name)
    model = spec.build(name, image_size, config)
    if _is_shapes(weights):
        weights = shapes_weights_path(name)
    elif isinstance(weights, str | Path):
        given = {**config, "image_size": image_size} if image_size else config
        check_file_name(weights, spec, given)
    if weights is not None:
        model.loaded_weights = _load(model, weights, weights_key, spec, config)
    return model.eval()


def _load(
    model: ReferenceModel,
    weights: str | Path | Mapping[str, Any],
    key: str | None,
    spec: ModelSpec,
    config: Mapping[str, Any],
) -> LoadedWeights:
    """Load weights into a model; what may be those of another model is said, with its name."""
    from edgeseg.models.checkpoint import MisfitError, load_weights
    from edgeseg.models.lookalikes import fitting_model, lookalikes

    table, constants = spec.key_table(spec.name, config), spec.constants(model.config)
    try:
        loaded = load_weights(model, weights, table, key=key, constants=constants)
    except MisfitError as error:
        raise error.with_advice(fitting_model(error.entries, spec, config)) from error
    for other, differing in lookalikes(model, config):
        _log.warning(
            "the weights of %s fit the official model %s as well, which differs in %s: if they are its, "
            "take that name",
            spec.name,
            other,
            ", ".join(differing),
        )
    return loaded


def _is_shapes(weights: Weights) -> bool:
    return isinstance(weights, str) and weights == "shapes"
