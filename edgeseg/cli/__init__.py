"""The command line of edgeseg: models, export, build, bench, compare, run, inspect, doctor.

A file for each command. Those that a device has too (build, run, inspect, doctor) only declare their
options here; what they do is in `edgeseg_runtime.commands`. Commands import what is heavy themselves,
so that `edgeseg --help` is quick and `edgeseg build` needs no torch. Results go to stdout, everything
else to stderr. Exit codes: 0 ok, 1 a check failed, 2 usage, 3 corrupt artifact, 4 engine or device
missing, 5 out of memory, 130 interrupted.
"""

from __future__ import annotations

from edgeseg.cli.commands import app, main

__all__ = ["app", "main"]
