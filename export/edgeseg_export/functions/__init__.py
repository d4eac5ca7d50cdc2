"""The bodies of edgeseg's operators: what makes a model with `edgeseg::` nodes run on any engine."""

from __future__ import annotations

from edgeseg_export.functions.add import add_functions

__all__ = ["add_functions"]
