"""What every family does alike when a model is built: options, sizes, weights.

Nothing here imports torch before a model is built.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeseg.models import ModelSpec, Weights, get_spec
from edgeseg.models.labels import ClassRules, class_settings

if TYPE_CHECKING:
    from edgeseg.models.reference import ReferenceModel

_log = logging.getLogger(__name__)

Config = TypeVar("Config")


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
        preset: of the variant, a dataclass.
        image_size: height and width of the network input; the preset's if None.
        config: fields of the configuration.
        classes: how the family counts them; None if its results have none.

    Raises:
        ValueError: a field that the configuration does not have, or values that it refuses.
    """
    known = {field.name for field in fields(preset)}  # type: ignore[arg-type]  # it is a dataclass
    settings = dict(_checked(name, known, config, classes))
    if classes is not None:
        official = {"num_classes": classes.num_classes, **vars(preset)}
        named = class_settings(official, settings, classes)
        settings |= {key: value for key, value in named.items() if key in known}
    if image_size is not None:
        settings["image_size"] = image_size
    return replace(preset, **settings)  # type: ignore[type-var]


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
    config = _checked(name, known, config, classes)
    settings = {**preset, **config}
    if classes is not None:
        fixed = classes.num_classes or getattr(config_type, "num_classes", None)
        official = {"num_classes": fixed, **preset}
        named = class_settings(official, config, classes)
        settings |= {key: value for key, value in named.items() if key in known}
    if image_size is not None:
        settings["image_size"] = image_size
    return settings


def _checked(
    name: str, known: Collection[str], config: Mapping[str, Any], classes: ClassRules | None
) -> Mapping[str, Any]:
    """Return what the caller gives, without a number of classes that the family always has."""
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
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ValueError(
            f"options {', '.join(unknown)} found for {name}, expected some of "
            f"{', '.join(sorted(known))}"
        )
    return config


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
