"""Spotter: a small one-stage detector outside edgeseg, with an output of its own."""

from __future__ import annotations

from spotter.spec import SPECS

__all__ = ["SPECS"]
