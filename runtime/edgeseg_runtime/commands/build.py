"""Compiles a bundle's TensorRT engines."""

from __future__ import annotations

from pathlib import Path

from edgeseg_runtime.commands.options import names_from_text
from edgeseg_runtime.commands.tables import table_of_rows
from edgeseg_runtime.commands.terminal import Terminal
from edgeseg_runtime.errors import BackendUnavailable
from edgeseg_runtime.tensorrt.engines import build_bundle
from edgeseg_runtime.tensorrt.key import EngineOptions

__all__ = ["build"]


def build(
    terminal: Terminal,
    bundle: Path,
    *,
    target: str | None = None,
    engine: str | None = None,
    out: Path | None = None,
    force: bool = False,
    batch: int = 1,
    workspace: float | None = None,
    level: int = 3,
) -> None:
    """Compile a bundle's engines and show them; see `options.BUILD_HELP` for the options.

    Raises:
        ValueError: an option is out of range.
        EdgesegError: see `engines.build_bundle`.
    """
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
