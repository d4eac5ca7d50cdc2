"""Builds engines and describes bundles on a device: `edgeseg build|inspect BUNDLE`.

The workstation's `edgeseg` does the same and more; this one needs nothing but the runtime.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

from edgeseg_runtime import __version__
from edgeseg_runtime.engine_key import EngineOptions
from edgeseg_runtime.engines import build_bundle
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.manifest import Manifest, read_artifact
from edgeseg_runtime.streams import exit_code_after_flush, open_standard_streams, silence
from edgeseg_runtime.text import printable
from edgeseg_runtime.trt_compat import FLAVOURS

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; see `errors` for the codes."""
    open_standard_streams()
    return exit_code_after_flush(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a build cleanly
    try:
        options.command(options)
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except EdgesegError as error:
        return _fail(str(error), error.exit_code)
    except ValueError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeseg", description=__doc__)
    parser.add_argument("--version", action="version", version=f"edgeseg-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="compile the bundle's TensorRT engines")
    build.add_argument("bundle")
    build.add_argument("--target", help="compile ahead for these GPUs, such as sm86,sm89")
    build.add_argument("--engine", choices=FLAVOURS, help="chosen by what there is if left out")
    build.add_argument("--out", "-o", help="folder of the engines")
    build.add_argument("--force", action="store_true", help="build again what is there")
    build.add_argument("--batch", type=int, default=1, help="size given to a free batch axis")
    build.add_argument("--workspace", type=float, help="scratch memory of the builder, in GiB")
    build.add_argument(
        "--level", type=int, default=3, help="0 builds fast, 5 gives the fastest engine"
    )
    build.set_defaults(command=_build)
    inspect = commands.add_parser("inspect", help="describe a bundle and check its files")
    inspect.add_argument("bundle")
    inspect.set_defaults(command=_inspect)
    return parser


def _build(options: argparse.Namespace) -> None:
    workspace = options.workspace
    engines = build_bundle(
        options.bundle,
        flavour=options.engine,
        targets=options.target.split(",") if options.target else None,
        out=options.out,
        force=options.force,
        options=EngineOptions(
            batch=options.batch,
            workspace_bytes=None if workspace is None else round(workspace * 2**30),
            optimization_level=options.level,
        ),
        progress=_progress if sys.stderr.isatty() else None,
    )
    for engine in engines:
        _write(
            f"{engine.path or 'not kept'}  {'+'.join(engine.key.targets)}  "
            f"{engine.size_bytes / 1e6:.1f} MB  {engine.build_s:.1f} s  {', '.join(engine.graphs)}"
        )


def _inspect(options: argparse.Namespace) -> None:
    manifest = Manifest.load(options.bundle)
    _write(f"{manifest.name}  {manifest.task}  {manifest.precision}")
    for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            shape = "x".join("batch" if size == -1 else str(size) for size in tensor.shape)
            _write(f"{kind}  {tensor.name}  {tensor.dtype}  {shape}")
    for artifact in manifest.artifacts.values():
        read_artifact(options.bundle, artifact)
        _write(f"file  {artifact.file}  {artifact.size_bytes / 1e6:.1f} MB  ok")


def _progress(phase: str, done: int, total: int) -> None:
    """Show the builder's current phase in one line."""
    sys.stderr.write(f"\r\x1b[K{phase} {done}/{total}")
    sys.stderr.flush()


def _write(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")


def _fail(message: str, exit_code: int) -> int:
    sys.stderr.write(f"error: {printable(message)}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
