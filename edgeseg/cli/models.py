"""`edgeseg models`: describes the models that can be exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from edgeseg.cli.options import look_for_modules_here
from edgeseg.cli.parameters import Json, Quiet, Verbose
from edgeseg.cli.terminal import terminal_of
from edgeseg.models import get_spec, list_models
from edgeseg.models.outside import is_outside
from edgeseg_runtime.commands.tables import sections_from_document, table_of_rows


def models(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Show this model alone, or those of a module of yours, MODULE:."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only models of this task.")] = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """List the models: size, licence and published accuracy."""
    terminal = terminal_of(ctx, json, verbose, quiet)
    look_for_modules_here(name)
    names = models_from_text(name)
    cards = [card_of_model(known) for known in names]
    tasks = sorted({card["task"] for card in cards})
    if task is not None and task not in tasks:
        raise ValueError(f"--task {task!r} found, expected one of {', '.join(tasks)}")
    cards = [card for card in cards if task in (None, card["task"])]
    if name in names:
        terminal.show(*sections_from_document(cards[0]))
    else:
        terminal.show(table_of_rows("Models", [row_from_card(card) for card in cards]))
    terminal.finish({"models": cards})


def models_from_text(text: str | None) -> list[str]:
    """Return the models that a user asks for: all, one, or those of a module outside edgeseg.

    Args:
        text: None, the name of a model, or a module: with a dot in it, or MODULE: with a colon behind.
    """
    if text is None:
        return list_models()
    module = text.removesuffix(":")
    is_module = module != text or ("." in text and not is_outside(text))
    return list_models(module) if is_module else [text]


def card_of_model(name: str) -> dict[str, Any]:
    """Return what is known of a model, as a JSON document.

    Raises:
        ValueError: there is no such model.
    """
    spec = get_spec(name)
    return {
        "name": name,
        "task": spec.purpose,  # what `edgeseg models --task` asks for
        "family": spec.family,
        "num_parameters": spec.num_parameters,
        "gflops": spec.gflops,
        "image_size": list(spec.image_size),
        "licence": spec.licence,
        "accuracy": dict(spec.accuracy),
        "source": spec.source,
        "weights": list(spec.weights),
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
        "weights": ", ".join(card["weights"]) or None,
    }
