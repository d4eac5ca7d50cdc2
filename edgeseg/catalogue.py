"""Describes the models that can be exported, as data and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeseg.models import ModelSpec


def card_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Return what is known of a model, as a JSON document."""
    return {
        "name": spec.name,
        "task": spec.task,
        "family": spec.family,
        "num_parameters": spec.num_parameters,
        "gflops": spec.gflops,
        "image_size": list(spec.image_size),
        "licence": spec.licence,
        "accuracy": dict(spec.accuracy),
        "source": spec.source,
        "has_shapes_weights": spec.has_shapes_weights,
    }


def row_from_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a table of models."""
    accuracy = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in card["accuracy"].items()]
    return {
        "name": card["name"],
        "task": card["task"],
        "M parameters": round(card["num_parameters"] / 1e6, 1),
        "GFLOPs": card["gflops"],
        "size": "x".join(str(side) for side in card["image_size"]),
        "licence": card["licence"],
        "accuracy": ", ".join(accuracy) or None,
        "source": card["source"],
        "weights": "shapes" if card["has_shapes_weights"] else None,
    }
