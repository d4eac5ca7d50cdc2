"""Runs mutated inputs in a child process and watches it from here: errors, crashes, hangs, memory.

A kind makes an input from a random generator and runs it. The right outcomes are an `EdgesegError` and
a result that the kind itself has found to be right; anything else is a violation. Input number i of a
seed is always the same, so a violation is repeated by its kind, seed and number.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg_runtime.errors import EdgesegError

RUNNER = Path(__file__).with_name("run_fuzz.py")
POLL_S = 0.2
STARTUP_S = 300


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        make: returns an input; called with a generator that is new for each.
        run: uses the input and returns a word for what came of it; raises AssertionError if that is
            wrong.
        limit_s: longest time for one input, with room for a busy machine.
        limit_bytes: most memory that the child may take above what it has after its imports.
        suffix: of the file that keeps an input.
    """

    make: Callable[[random.Random], bytes]
    run: Callable[[bytes], str]
    limit_s: float = 60
    limit_bytes: int = 2**30
    suffix: str = ""


@dataclass(frozen=True)
class Violation:
    """An input that had another outcome than a right one."""

    number: int
    what: str


@dataclass
class Report:
    """How often each outcome occurred, and what was wrong."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)


def generator(name: str, seed: int, number: int) -> random.Random:
    """Return the generator of one input."""
    return random.Random(f"{name}/{seed}/{number}")


# ---------------------------------------------------------------- the child


def serve(name: str, kind: Kind, seed: int, first: int, count: int) -> None:
    """Run inputs and say on stdout which one is begun and what came of it."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # engines write there
    channel.write(f"ready {_peak_bytes()}\n")
    for number in range(first, first + count):
        data = kind.make(generator(name, seed, number))
        channel.write(f"begin {number}\n")
        outcome = _outcome(kind, data)
        channel.write(f"end {_peak_bytes()} {number} {outcome}\n")


def _peak_bytes() -> int:
    """Return the most memory that this process had so far; `resource` counts what its parent had, too."""
    return _memory_bytes(os.getpid())


def _outcome(kind: Kind, data: bytes) -> str:
    try:
        return kind.run(data)
    except EdgesegError as error:
        text = str(error)
        if not text.replace("\n", "").replace("\t", "").isprintable():
            return f"violation: a message that cannot be printed: {text!r}"
        return type(error).__name__
    except BaseException as error:  # noqa: BLE001  - whatever it is, it is the finding
        return f"violation: {type(error).__name__}: {' '.join(str(error).split())!a}"[:500]


# ---------------------------------------------------------------- the watcher


def watch(name: str, kind: Kind, *, seed: int, count: int, first: int = 0) -> Report:
    """Run `count` inputs; a child that dies is followed by another behind the input that killed it."""
    report = Report()
    number, end = first, first + count
    while number < end:
        number = _watch_child(name, kind, seed, number, end - number, report)
    return report


def _watch_child(name: str, kind: Kind, seed: int, first: int, count: int, report: Report) -> int:
    """Return the number of the input to go on with."""
    command = [sys.executable, str(RUNNER), "--child", name, str(seed), str(first), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)
        threading.Thread(target=_read, args=(child, lines), daemon=True).start()
        following, current, waited_s, limit_s = first, None, 0.0, float(STARTUP_S)
        before = peak = 0
        while True:
            try:
                line = lines.get(timeout=POLL_S)
            except queue.Empty:
                line = ""
                waited_s += 0 if _is_stopped(child.pid) else POLL_S
                peak = max(peak, _memory_bytes(child.pid))
            else:
                waited_s = 0.0
            if line is None:
                break
            word, _, rest = line.partition(" ")
            if word == "ready":
                before, limit_s = int(rest), kind.limit_s
            elif word == "begin":
                current = int(rest)
                following = current + 1
            elif word == "end":
                peak, current = _note(report, rest), None
            problem = _problem(kind, peak - before, waited_s, limit_s)
            is_running = current is not None or word == "end"
            if problem and (is_running or waited_s > limit_s):
                child.kill()
                if limit_s == STARTUP_S:
                    raise RuntimeError(f"the child of {name} does not start: {problem}")
                # Between two inputs the next one is being made.
                wrong = following - 1 if is_running else following
                report.violations.append(Violation(wrong, problem))
                return wrong + 1
        status = child.wait()
    if current is not None:
        report.violations.append(Violation(current, f"the process ended with {status}"))
        return following
    if following < first + count:
        raise RuntimeError(f"the child of {name} ended with {status} before input {following}")
    return following


def _read(child: Any, lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError):  # closed while it is read
        for line in child.stdout:
            lines.put(line.decode("ascii", "replace").rstrip("\n"))
    lines.put(None)


def _problem(kind: Kind, num_bytes: int, waited_s: float, limit_s: float) -> str | None:
    if waited_s > limit_s:
        return f"nothing for {limit_s} s"
    if num_bytes > kind.limit_bytes:
        return f"{num_bytes} bytes of memory"
    return None


def _memory_bytes(process: int) -> int:
    """Return the most memory that a process had so far; 0 where the system does not tell."""
    return 1024 * int((_status(process, "VmHWM:") or "0").split()[0])


def _is_stopped(process: int) -> bool:
    """Tell whether somebody has stopped a process, which is not its own fault."""
    return _status(process, "State:").startswith("T")


def _status(process: int, key: str) -> str:
    """Return an entry of what Linux says of a process, "" where there is none."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
        for line in text.splitlines():
            if line.startswith(key):
                return line.removeprefix(key).strip()
    return ""


def _note(report: Report, line: str) -> int:
    """Note what came of an input; return the most memory that the child had by then."""
    num_bytes, number, outcome = line.split(" ", 2)
    word, _, what = outcome.partition(": ")
    if word == "violation":
        report.violations.append(Violation(int(number), what))
    report.outcomes[word] += 1
    return int(num_bytes)
