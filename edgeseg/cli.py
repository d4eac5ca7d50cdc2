"""The command line of edgeseg: models, export, build, bench, compare, run, inspect, doctor.

Commands import what they need themselves, so that `edgeseg --help` is quick and `edgeseg build`
needs no torch. Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 a check
failed, 2 usage, 3 corrupt artifact, 4 engine or device missing, 5 out of memory, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from edgeseg.terminal import Terminal
from edgeseg_runtime.streams import exit_code_after_flush, open_standard_streams, silence

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
app = typer.Typer(
    name="edgeseg",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder that `edgeseg export` wrote.")
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="More details, tracebacks; -vv for all.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and the last line only.")]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        help="Part of a training checkpoint to take where several fit, such as model_ema."
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the engine; its own choice if left out.")
]
EqualThreads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads of every engine and of torch; one per usable core if left out."
    ),
]
Engines = Annotated[
    Path | None,
    typer.Option(help="Folder of TensorRT engines that you built yourself; engines are programs."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files of earlier results in that folder.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME",
        help="What torch rebuilds a model outside edgeseg from; the module is imported.",
    ),
]
IMAGE_SIZE_HELP = "Network input, HEIGHTxWIDTH or one number; the model's own if left out."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are those of the process if None."""
    open_standard_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return exit_code_after_flush(_run(arguments))


def _run(arguments: list[str]) -> int:
    """Run one command; whatever it raises becomes an exit code and a message."""
    terminal = Terminal(arguments)
    command = typer.main.get_command(app)
    try:
        with _signals_as_interrupts(terminal):
            code = command.main(arguments, prog_name="edgeseg", standalone_mode=False, obj=terminal)
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except (KeyboardInterrupt, typer.Abort) as error:
        return _interrupted(terminal, error)
    except Exception as error:  # noqa: BLE001  the one place where everything ends
        if terminal.is_interrupted:  # a library made another error of it
            return _interrupted(terminal, error)
        return _failed(terminal, error, arguments)
    finally:
        terminal.close()
    if (code == INTERRUPTED or terminal.is_interrupted) and not terminal.has_result:
        return _interrupted(terminal, KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from edgeseg_runtime import __version__

        typer.echo(f"edgeseg {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Export, verify and deploy segmentation and key-point models."""


@app.command()
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
    from edgeseg.catalogue import card_of_model, models_from_text, row_from_card
    from edgeseg.tables import sections_from_document, table_of_rows

    terminal = _terminal(ctx, json, verbose, quiet)
    _look_for_modules_here(name)
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


@app.command()
def export(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name that `edgeseg models` lists, or MODULE:NAME for a model of your own.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help='Checkpoint, or "shapes" for the built-in ones (a model of your own may have others); '
            "random if left out."
        ),
    ] = None,
    weights_key: WeightsKey = None,
    image_size: Annotated[str | None, typer.Option(help=IMAGE_SIZE_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the bundle; NAME-HxW if left out.")
    ] = None,
    opset: Annotated[
        int,
        typer.Option(help="ONNX opset: 20, or 17 for TensorRT 8.5 and 8.6 (JetPack 5, 6.0)."),
    ] = 20,
    precision: Annotated[
        str,
        typer.Option(help="fp32, fp16, int8, mixed (int8 and fp16), or auto: int8 if harmless."),
    ] = "fp32",
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|DATA",
            help="Pictures that int8 values are fitted to: a folder, shapes or coco:DIR.",
        ),
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="How many of them to take.")] = 100,
    calibration_method: Annotated[
        str, typer.Option(help="minmax, entropy or percentile.")
    ] = "minmax",
    max_drop: Annotated[
        float,
        typer.Option(min=0, max=1, help="Loss of agreement that auto may cause."),
    ] = 0.01,
    backends: Annotated[
        str, typer.Option(help="Engines the bundle is for; TensorRT's are compiled right away.")
    ] = "onnxruntime",
    target: Annotated[
        str | None, typer.Option(help="GPU architectures for tensorrt_rtx, such as sm86,sm89.")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Leave the batch size free.")
    ] = False,
    stages: Annotated[
        str,
        typer.Option(
            metavar="on|off", help="Masks or key points in a graph that runs once per detection."
        ),
    ] = "on",
    variants: Annotated[
        bool, typer.Option(help="Add the other orientation, where the original turns its sizes.")
    ] = True,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the checkpoint, as its original counts.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|FILE|coco:DIR",
            help="Names of the classes: cat,dog, a file with a name in each line, or a data set.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any field of the model's configuration. Values of a list are separated by "
            "commas, lists in a list by semicolons (quote them): 'min_sizes=16,32;64,128;256,512'.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Pictures for the parity check; built-in if left out.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="How many pictures to check.")] = 4,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference from the PyTorch model.")
    ] = 1e-3,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Write the bundle even if the check fails.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle.")] = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Export a model as a bundle, and prove that it computes what PyTorch computes."""
    from edgeseg.exporting import calibration_pictures, first_pictures
    from edgeseg.models import get_spec
    from edgeseg.options import (
        image_size_from_text,
        labels_from_text,
        names_from_text,
        settings_from_text,
    )

    terminal = _terminal(ctx, json, verbose, quiet)
    _look_for_modules_here(name)
    spec = get_spec(name)
    size = image_size_from_text(image_size) if image_size else None
    if stages not in ("on", "off"):
        raise ValueError(f"--stages {stages!r} found, expected on or off")
    engines = names_from_text("--backends", backends)
    targets = names_from_text("--target", target) if target else ()
    started = time.monotonic()
    with terminal.progress() as progress:
        progress("load PyTorch and the model", 0, 1)
        config = settings_from_text(spec, settings or ())
        if num_classes is not None:
            config["num_classes"] = num_classes
        if labels is not None:
            config |= labels_from_text(labels)
        from edgeseg.provenance import build_model, weights_source
        from edgeseg_export.bundle import export_bundle

        model = build_model(
            name, weights=weights, weights_key=weights_key, image_size=size, config=config
        )
        height, width = model.config.image_size
        if weights is None:
            terminal.note(f"the weights of {name} are random: give --weights CHECKPOINT")
        if calibrate:
            progress("read pictures for calibration", 0, 1)
        folder = export_bundle(
            model,
            out or Path(f"{spec.name}-{height}x{width}"),
            opset=opset,
            precision=precision,
            calibration=calibration_pictures(calibrate, num_calibration, model, progress=progress)
            if calibrate
            else None,
            calibration_method=calibration_method,
            max_drop=max_drop,
            backends=engines,
            targets=targets,
            dynamic_batch=dynamic_batch,
            stages=stages == "on",
            variants=variants,
            images=first_pictures(images, num_images) if images else None,
            num_images=num_images,
            tolerance=tolerance,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
            command=["edgeseg", *terminal.arguments],
            weights_source=weights_source(name, weights),
            progress=progress,
        )
    _finish_export(terminal, folder, time.monotonic() - started)


@app.command()
def build(
    ctx: typer.Context,
    bundle: Bundle,
    target: Annotated[
        str | None,
        typer.Option(help="Compile ahead for these GPUs (sm86,sm89,...); else for this machine's."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt_rtx; chosen by what there is if left out."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the engines.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Size given to a free batch axis.")] = 1,
    workspace: Annotated[
        float | None, typer.Option(help="Scratch memory of the builder, in GiB.")
    ] = None,
    level: Annotated[
        int, typer.Option(min=0, max=5, help="0 builds fast, 5 gives the fastest engine.")
    ] = 3,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Compile a bundle's TensorRT engines; needs no torch."""
    from edgeseg.options import names_from_text
    from edgeseg.tables import table_of_rows
    from edgeseg_runtime.engine_key import EngineOptions
    from edgeseg_runtime.engines import build_bundle
    from edgeseg_runtime.errors import BackendUnavailable

    terminal = _terminal(ctx, json, verbose, quiet)
    options = EngineOptions(
        batch=batch,
        workspace_bytes=None if workspace is None else round(workspace * 2**30),
        optimization_level=level,
    )
    targets = names_from_text("--target", target) if target else None
    with terminal.progress(keeps_stages=False) as progress:
        try:
            engines = build_bundle(
                bundle,
                flavour=engine,
                targets=targets,
                out=out,
                force=force,
                options=options,
                progress=progress,
            )
        except BackendUnavailable as error:
            if targets:
                raise
            raise BackendUnavailable(
                f"{error} To compile for other machines on this one, give --target sm86,sm89"
            ) from error
    rows = [
        {
            "graphs": list(found.graphs),
            "file": str(found.path) if found.path else None,
            "engine": found.key.flavour,
            "version": found.key.version,
            "targets": list(found.key.targets),
            "size_bytes": found.size_bytes,
            "seconds": round(found.build_s, 2),
            "is_new": found.is_new,
        }
        for found in engines
    ]
    terminal.show(table_of_rows("Engines", rows))
    terminal.finish({"engines": rows})


@app.command()
def bench(
    ctx: typer.Context,
    bundle: Bundle,
    data: Annotated[
        str,
        typer.Option(
            help='"shapes" (built in), "coco:FOLDER" or "coco:FOLDER:SPLIT"; faces also with wider:, '
            "300w: or wflw:."
        ),
    ] = "shapes",
    backends: Annotated[
        str, typer.Option(help="What to compare; torch is the original model.")
    ] = "torch,onnxruntime",
    weights: Annotated[
        str | None, typer.Option(help="The exported checkpoint, if it is no longer in its place.")
    ] = None,
    weights_key: WeightsKey = None,
    model: Model = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of a minute.")] = False,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Reference detections that count for agreement.")
    ] = 0.3,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="name|id",
            help="How the model's classes are those of the data set; by name where they have some.",
        ),
    ] = None,
    threads: EqualThreads = None,
    engines: Engines = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the report; NAME-bench if left out."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Compare accuracy and latency of a bundle's engines and the PyTorch model."""
    from edgeseg.benchmark import benchmark
    from edgeseg.options import check_engines, names_from_text
    from edgeseg_bench.report import render_table, report_folder, write_report

    terminal = _terminal(ctx, json, verbose, quiet)
    names = names_from_text("--backends", backends)
    check_engines(engines, names)
    folder = out or Path(f"{bundle.resolve().name}-bench")
    report_folder(folder, overwrite=overwrite)
    _look_for_modules_here(model)
    with terminal.progress() as progress:
        report = benchmark(
            bundle,
            data=data,
            backends=names,
            model=model,
            weights=weights,
            weights_key=weights_key,
            limit=limit,
            is_quick=quick,
            score=score,
            match=match,
            threads=threads,
            engines_folder=engines,
            progress=progress,
        )
    files = [str(file) for file in write_report(report, folder, overwrite=overwrite)]
    terminal.show(render_table(report), f"wrote {' and '.join(files)}")
    terminal.finish({"files": files, "report": dataclasses.asdict(report)}, last_line=folder)


@app.command()
def compare(
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="Bundle to compare with, or torch.")
    ],
    candidate: Annotated[Path, typer.Argument(metavar="CAND", help="Bundle to judge.")],
    data: Annotated[
        str, typer.Option(metavar="DIR|DATA", help="Folder of pictures, shapes or coco:DIR.")
    ] = "shapes",
    limit: Annotated[int, typer.Option(min=1, help="Only the first pictures.")] = 50,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Reference detections that count for agreement.")
    ] = 0.3,
    weights: Annotated[
        str | None, typer.Option(help="The exported checkpoint, if it is no longer in its place.")
    ] = None,
    weights_key: WeightsKey = None,
    model: Model = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help='Exit with 1 if it holds: "agreement_ap<0.98".'),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for JSON, Markdown and the worst pictures."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Find where a bundle loses accuracy against another one or the PyTorch model."""
    from edgeseg.comparison import (
        open_pictures,
        open_sides,
        renderables,
        report_folder,
        verdict,
        write_report,
    )
    from edgeseg_export.compare import METRICS
    from edgeseg_export.compare import compare as compare_sides
    from edgeseg_export.conditions import conditions_from_text, conditions_met

    terminal = _terminal(ctx, json, verbose, quiet)
    conditions = conditions_from_text(fail_on or (), METRICS)
    _look_for_modules_here(model)
    files: list[Path] = []
    outputs = None if out is None else report_folder(out, overwrite=overwrite)
    with terminal.progress() as progress:
        progress("load", 0, 1)
        sides = open_sides(
            reference, candidate, model=model, weights=weights, weights_key=weights_key
        )
        pictures, count, name = open_pictures(data, sides[0].manifest, limit, progress=progress)
        report = compare_sides(
            *sides, pictures, count, data=name, score_threshold=score, progress=progress
        )
        if outputs is not None:
            progress("write", 0, 1)
            files = write_report(report, outputs, sides, pictures, score=score)
    met = [str(condition) for condition in conditions_met(conditions, report.metrics())]
    terminal.show(*renderables(report, is_full=verbose > 0), *([verdict(report)] if out else []))
    document = {
        "report": report.to_document(),
        "files": [str(file) for file in files],
        "failed_on": met,
    }
    terminal.finish(document, last_line=out or verdict(report))
    if met:
        values = report.metrics()
        for condition in conditions:
            if str(condition) in met:
                terminal.note(f"{condition} holds: it is {values[condition.metric]:.4g}")
        raise typer.Exit(1)


@app.command()
def run(
    ctx: typer.Context,
    bundle: Bundle,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Picture, folder, pattern, video, number of a camera, or URL; or several.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path(
        "edgeseg-run"
    ),
    overwrite: Overwrite = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Read the folders in a folder too.")
    ] = False,
    backend: Annotated[
        str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or tensorrt_rtx.")
    ] = "auto",
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out less sure ones.")] = 0.3,
    reconnect: Annotated[
        int | None,
        typer.Option(min=0, help="Attempts in a row to reopen a camera; no end if left out."),
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write annotated pictures or a video.")] = True,
    save_json: Annotated[bool, typer.Option(help="Write COCO results, predictions.json.")] = True,
    threads: Threads = None,
    engines: Engines = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Run a bundle on pictures, a video or a camera; needs no torch."""
    from edgeseg.options import check_engines
    from edgeseg.recording import (
        lines_from_outcome,
        output_folder,
        problem_of_outcome,
        record,
        stop_on_signals,
    )
    from edgeseg_runtime import load
    from edgeseg_runtime.errors import BrokenSource
    from edgeseg_runtime.sources import open_sources

    terminal = _terminal(ctx, json, verbose, quiet)
    check_engines(engines, [backend])
    options: dict[str, Any] = {} if engines is None else {"engines_folder": engines}
    with terminal.progress() as progress, stop_on_signals() as stop:
        frames = open_sources(sources, stop=stop, max_reconnects=reconnect, recursive=recursive)
        outputs = output_folder(frames, out, draws=draw, writes_json=save_json, overwrite=overwrite)
        progress("load the bundle", 0, 1)
        with load(bundle, backend=backend, threads=threads, **options) as predictor:
            used = predictor.backend.name
            outcome = record(
                predictor,
                frames,
                outputs,
                score=score,
                draws=draw,
                writes_json=save_json,
                stop=stop,
                progress=progress,
            )
    summary = {
        **dataclasses.asdict(outcome),
        "files": [str(file) for file in outcome.files],
        "folder": str(out),
        "backend": used,
    }
    terminal.show(*lines_from_outcome(outcome, backend=used, score=score))
    if outcome.num_nonfinite:
        terminal.note(
            f"{outcome.num_nonfinite} detections were dropped or lost key points: NaN or infinite "
            "numbers"
        )
    if outcome.num_shrunk:
        terminal.note(
            f"{outcome.num_shrunk} frames fit into no shape of the bundle and were shrunk further than "
            "the original shrinks them; export with another --image-size to find small objects in them"
        )
    terminal.finish(summary, last_line=out)
    if outcome.was_interrupted:
        terminal.note("interrupted; what was done by then is written")
        raise typer.Exit(INTERRUPTED)
    if problem := problem_of_outcome(outcome):
        raise BrokenSource(problem)


@app.command()
def inspect(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A bundle's folder, or an .onnx file.")
    ],
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Describe a bundle or an ONNX file (-v: in full), and check that nothing is damaged."""
    from edgeseg.inspection import inspect_path, summary_from_document
    from edgeseg.tables import sections_from_document
    from edgeseg_runtime.errors import BundleError

    terminal = _terminal(ctx, json, verbose, quiet)
    with terminal.progress(keeps_stages=False) as progress:
        document = inspect_path(path, progress=progress)
    shown = document if verbose else summary_from_document(document)
    terminal.show(*sections_from_document(shown))
    terminal.finish(document)
    if not document["is_intact"]:
        damaged = [entry["status"] for entry in document["artifacts"] if entry["status"] != "ok"]
        raise BundleError("\n".join(damaged))


@app.command()
def doctor(
    ctx: typer.Context, json: Json = False, verbose: Verbose = 0, quiet: Quiet = False
) -> None:
    """Examine this machine: versions, engines that really run, and how to mend the rest."""
    from edgeseg.doctor import examine
    from edgeseg.tables import sections_from_document

    terminal = _terminal(ctx, json, verbose, quiet)
    with terminal.progress(keeps_stages=False) as progress:
        progress("examine this machine", 0, 1)
        document = examine()
    terminal.show(*sections_from_document(document))
    if not document["findings"]:
        terminal.show("Nothing to mend.")
    terminal.finish(document)
    if any(finding["severity"] == "error" for finding in document["findings"]):
        raise typer.Exit(1)


def _terminal(ctx: typer.Context, json: bool, verbose: int, quiet: bool) -> Terminal:
    """Return the terminal of this command; from here on libraries that print do so on stderr."""
    terminal = ctx.obj
    assert isinstance(terminal, Terminal)
    terminal.configure(is_json=json, verbose=verbose, quiet=quiet)
    ctx.with_resource(contextlib.redirect_stdout(sys.stderr))
    return terminal


def _look_for_modules_here(name: str | None) -> None:
    """Let a module outside edgeseg lie in the current folder, as `python -m` does.

    Only where the user has named one: other commands import nothing from there. Python's own switch
    against such imports (-P, PYTHONSAFEPATH) counts here too.
    """
    here = str(Path.cwd())
    is_module = name is not None and (":" in name or "." in name)
    if is_module and here not in sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, here)


def _finish_export(terminal: Terminal, folder: Path, seconds: float) -> None:
    from edgeseg.exporting import remarks, renderables
    from edgeseg_runtime import Manifest

    manifest = Manifest.load(folder)
    terminal.show(*renderables(manifest, seconds))
    for remark in remarks(manifest):
        terminal.note(remark)
    document = {
        "folder": str(folder),
        "name": manifest.name,
        "precision": manifest.precision,
        "size_bytes": sum(file.size_bytes for file in manifest.artifacts.values()),
        "seconds": round(seconds, 2),
        "parity": dict(manifest.parity),
    }
    terminal.finish(document, last_line=folder)


def option_names() -> list[str]:
    """Return the names of all commands' options, such as "--out"."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    names = {name for command in commands.values() for p in command.params for name in p.opts}
    return sorted(name for name in names if name.startswith("--"))


# ---------------------------------------------------------------- errors


@contextlib.contextmanager
def _signals_as_interrupts(terminal: Terminal) -> Iterator[None]:
    """Let SIGTERM end a command the way Ctrl-C does, so that it cleans up behind itself.

    An exception that is raised while a vendor's library calls back may get lost there (TensorRT's
    builder swallows it), so the terminal remembers the signal and its progress bars raise again.
    The first signal while a module is imported is only remembered: a half of PyTorch may crash.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, frame: FrameType | None) -> None:
        is_first = not terminal.is_interrupted
        terminal.is_interrupted = True
        if not (is_first and _is_importing(frame)):
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported where a signal came."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _interrupted(terminal: Terminal, error: BaseException) -> int:
    terminal.fail(error, "interrupted", exit_code=INTERRUPTED)
    return INTERRUPTED


def _failed(terminal: Terminal, error: Exception, arguments: Sequence[str]) -> int:
    from edgeseg.failures import explain

    exit_code, message = explain(error, arguments, option_names())
    terminal.fail(error, message, exit_code=exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
