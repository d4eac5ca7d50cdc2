"""Fuzzes what comes from strangers: `make fuzz`, or python tests/fuzz/run_fuzz.py --help.

KINDS is the table of what is fuzzed; a further kind is a module beside this one and a line there.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "helpers")]

from fuzz_frame import Kind, Report, generator, serve, watch  # noqa: E402

KINDS = {
    "checkpoint": "fuzz_checkpoints:CHECKPOINT",
    "folder": "fuzz_folders:FOLDER",
    "manifest": "fuzz_manifests:MANIFEST",
    "onnx": "fuzz_onnx:ENCODED",
    "onnx_engine": "fuzz_onnx:RUN",
    "onnx_openvino": "fuzz_onnx:OPENVINO",
    "onnx_reader": "fuzz_onnx:READ",
    "picture": "fuzz_pictures:PICTURE",
}
"""Name -> "module:kind"."""
MAX_SHOWN = 20


def main(arguments: Sequence[str]) -> int:
    """Return 1 if an input had an outcome that is not right."""
    if arguments[:1] == ["--child"]:
        name, *numbers = arguments[1:]
        serve(name, kind_of(name), *map(int, numbers))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of %(default)s")
    parser.add_argument("--count", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, help="folder for inputs with a wrong outcome")
    options = parser.parse_args(arguments)
    num_wrong = 0
    for name in options.kinds.split(","):
        started = time.monotonic()
        kind = kind_of(name)
        report = watch(name, kind, seed=options.seed, count=options.count, first=options.first)
        num_wrong += len(report.violations)
        show(name, options.count, report, time.monotonic() - started)
        if options.keep:
            keep(options.keep, name, kind, options.seed, report)
    return 1 if num_wrong else 0


def kind_of(name: str) -> Kind:
    """Return a kind of input, by its name in the table or as "module:kind"."""
    module, _, attribute = KINDS.get(name, name).partition(":")
    if not attribute:
        raise SystemExit(f"kind {name!r} found, expected one of {', '.join(KINDS)}")
    return getattr(importlib.import_module(module), attribute)


def show(name: str, count: int, report: Report, seconds: float) -> None:
    """Write what came of the inputs of a kind."""
    outcomes = ", ".join(f"{number} {word}" for word, number in report.outcomes.most_common())
    print(f"{name}: {count} inputs, {len(report.violations)} wrong, {seconds:.0f} s: {outcomes}")
    for violation in report.violations[:MAX_SHOWN]:
        print(f"  {name} {violation.number}: {violation.what}")
    sys.stdout.flush()


def keep(folder: Path, name: str, kind: Kind, seed: int, report: Report) -> None:
    """Write the inputs whose outcome was wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for violation in report.violations:
        content = kind.make(generator(name, seed, violation.number))
        (folder / f"{name}_{seed}_{violation.number}{kind.suffix}").write_bytes(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
