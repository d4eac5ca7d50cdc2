"""Arguments and options that several commands have, as typer declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg_runtime.commands.options import BUNDLE_HELP, COMMON_HELP, RUN_HELP

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP)]
Json = Annotated[bool, typer.Option("--json", help=COMMON_HELP["json"])]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help=COMMON_HELP["verbose"])]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help=COMMON_HELP["quiet"])]
ExportedWeights = Annotated[
    str | None, typer.Option(help="The exported checkpoint, if it has moved since.")
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        help="Part of a training checkpoint to take where several fit, such as model_ema."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help=RUN_HELP["threads"])]
EqualThreads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads of every engine and of torch; one per usable core if left out."
    ),
]
Engines = Annotated[
    Path | None,
    typer.Option(help=RUN_HELP["engines"]),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=RUN_HELP["overwrite"])]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME",
        help="What torch rebuilds a model outside edgeseg from; the module is imported.",
    ),
]
