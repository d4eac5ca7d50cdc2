"""Kinds whose target misbehaves: what the watcher must notice."""

from __future__ import annotations

import os
import random
import signal
import time

from fuzz_frame import Kind

from edgeseg_runtime.errors import ManifestError


def number(rng: random.Random) -> bytes:
    """Return one of five digits."""
    return str(rng.randrange(5)).encode()


def fault_when_3(fault):
    """Return a target that does something else for one digit of five."""

    def run(data: bytes) -> str:
        if data == b"3":
            fault()
        if data == b"4":
            raise ManifestError("refused")
        return "ran"

    return run


def crash() -> None:
    """End the process as an engine does."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Return too late."""
    time.sleep(3600)


def fill() -> None:
    """Take 300 MB."""
    content = bytearray(300_000_000)
    content[::4096] = b"x" * len(content[::4096])
    time.sleep(3600)


def fail() -> None:
    """Raise what is not an error of ours."""
    raise KeyError("raw")


def escape() -> None:
    """Raise an error of ours that a terminal would obey, as if its text were not cleaned."""
    raise type("Raw", (ManifestError,), {"__str__": lambda self: "\x1b[2J"})


CRASH = Kind(number, fault_when_3(crash))
HANG = Kind(number, fault_when_3(hang), limit_s=2)
FILL = Kind(number, fault_when_3(fill), limit_s=120, limit_bytes=100_000_000)
FAIL = Kind(number, fault_when_3(fail))
ESCAPE = Kind(number, fault_when_3(escape))
