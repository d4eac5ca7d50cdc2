"""What every family does alike when a model is built: options, sizes, weights.

Nothing here imports torch before a model is built.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeseg.models import ModelSpec, Weights, get_spec
from edgeseg.models.labels import ClassRules, class_settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from edgeseg.models.reference import ReferenceModel

    Config = TypeVar("Config", bound=DataclassInstance)

_log = logging.getLogger(__name__)


def configured(
    name: str,
    preset: Config,
    image_size: tuple[int, int] | None,
    config: Mapping[str, Any],
    classes: ClassRules | None = None,
) -> Config:
    """Return a configuration: the preset's, with the fields that the caller gives in place of its own.

    Names and ids of the classes follow their number.

    Args:
        name: of the model, for the message.
        preset: of the variant.
        image_size: height and width of the network input; the preset's if None.
        config: fields of the configuration.
        classes: how the family counts them; None if its results have none.

    Raises:
        ValueError: a field that the configuration does not have, or values that it refuses.
    """
    known = {field.name for field in fields(preset)}
    settings = dict(config)
    fixed = classes.num_classes if classes else None
    if "num_classes" in config and "num_classes" not in known:
        _check_num_classes(name, settings.pop("num_classes"), fixed)
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(
            f"options {', '.join(unknown)} found for {name}, expected some of "
            f"{', '.join(sorted(known))}"
        )
    if classes is not None:
        official = {"num_classes": fixed, **vars(preset)}
        named = class_settings(official, settings, classes)
        settings |= {key: value for key, value in named.items() if key in known}
    if image_size is not None:
        settings["image_size"] = image_size
    return replace(preset, **settings)


def turned(model: ReferenceModel) -> dict[str, ReferenceModel]:
    """Return a model for pictures of the other orientation, with the same parameters; see `ModelSpec.variants`.

    Its class takes a name and a configuration with ``image_size``. A square input has no other.
    """
    height, width = model.config.image_size
    if height == width:
        return {}
    other = type(model)(model.name, replace(model.config, image_size=(width, height)))
    other.load_state_dict(model.state_dict(), assign=True)
    return {"portrait" if height < width else "landscape": other.eval()}


def _check_num_classes(name: str, found: int, fixed: int | None) -> None:
    """Refuse another number of classes than the one that a family always has."""
    if found != fixed:
        expected = f"{fixed}, as it always has" if fixed else "none: its results have no classes"
        raise ValueError(f"num_classes {found} found for {name}, expected {expected}")


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

    spec = get_spec(name)
    source = spec.find_weights(weights)
    if weights_key and (weights is None or source is not weights):
        raise ValueError(
            f"weights key {weights_key!r} found, but no checkpoint to take it from: give both"
        )
    model = spec.build(spec.name, image_size, config)
    model.name = name
    if source is weights and isinstance(weights, str | Path):
        given = {**config, "image_size": image_size} if image_size else config
        check_file_name(weights, spec, given)
    if source is not None:
        model = _loaded(model, source, weights_key, spec, image_size, config)
    return model.eval()


def _loaded(
    model: ReferenceModel,
    weights: str | Path | Mapping[str, Any],
    key: str | None,
    spec: ModelSpec,
    image_size: tuple[int, int] | None,
    config: Mapping[str, Any],
) -> ReferenceModel:
    """Return a model with weights, another one where they tell numbers that the caller leaves open.

    What may be the weights of another model is said, with its name.
    """
    from edgeseg.models.checkpoint import MisfitError, load_weights
    from edgeseg.models.lookalikes import counts_read, fitting_model, lookalikes

    table, constants = spec.key_table(spec.name, config), spec.constants(model.config)
    try:
        model.loaded_weights = load_weights(model, weights, table, key=key, constants=constants)
    except MisfitError as error:
        counts = counts_read(error.entries, spec, config)
        if not counts:
            raise error.with_advice(fitting_model(error.entries, spec, config)) from error
        _log.info("%s: %s, as in the checkpoint", spec.name, counts)
        config = {**config, **counts}
        other = spec.build(spec.name, image_size, config)
        other.name = model.name
        return _loaded(other, weights, key, spec, image_size, config)
    for other_name, differing in lookalikes(model, config):
        _log.warning(
            "the weights of %s fit the official model %s as well, which differs in %s: if they are its, "
            "take that name",
            spec.name,
            other_name,
            ", ".join(differing),
        )
    return model
