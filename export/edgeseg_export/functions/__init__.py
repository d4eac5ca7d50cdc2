"""The bodies of edgeseg's operators: what makes a model with `edgeseg::` nodes run on any engine."""

from edgeseg_export.functions.add import add_functions

__all__ = ["add_functions"]
