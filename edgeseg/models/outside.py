"""Finds the models of modules outside the package, whose names are MODULE:NAME.

A module is a program. It is imported because somebody named it in code or on the command line, and never
because a bundle's manifest does.
"""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Mapping
from types import ModuleType

from edgeseg_runtime.errors import EdgesegError

TABLE = "SPECS"
EXAMPLE = "my_package.my_family:my_model"


class FamilyImportError(EdgesegError):
    """A module of models that was found, and fails when it is imported."""

    exit_code = 2


def is_outside(name: str) -> bool:
    """Tell whether a model's name is that of one outside the package, MODULE:NAME."""
    return ":" in name


def split_name(name: str) -> tuple[str, str]:
    """Return the module and the model's name in it.

    Raises:
        ValueError: it is not MODULE:NAME.
    """
    module, _, model = name.partition(":")
    if not model:
        raise ValueError(f"model {name!r} found, expected MODULE:NAME such as {EXAMPLE}")
    return module, model


def specs_of_module(module: str) -> Mapping[str, object]:
    """Import a module and return its table of models, whose entries are not checked.

    Raises:
        ValueError: there is no such module, or it has no table.
        FamilyImportError: the module fails when it is imported.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(
            f"module {module!r} found, expected a name to import, with dots and without .py, "
            f"as in {EXAMPLE}"
        )
    specs = getattr(_imported(module), TABLE, None)
    if isinstance(specs, Mapping):
        return specs
    found = f"no table {TABLE}" if specs is None else f"{TABLE} of type {type(specs).__name__}"
    raise ValueError(
        f"module {module} has {found}, expected {TABLE} = {{name: ModelSpec}} as the specs of "
        f"edgeseg's own families have it{_place_of_table(module)}"
    )


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise ValueError(
                f"there is no module {missing!r} to import {module} from: install its package, or "
                "put the folder that holds it on PYTHONPATH (sys.path); the command line looks in "
                "the current folder too"
            ) from error
        raise FamilyImportError(
            f"module {module} cannot be imported: {type(error).__name__}: {error}{_place(error)}"
        ) from error


def _place(error: Exception) -> str:
    """Return where an error comes from; a syntax error's text says so itself."""
    if isinstance(error, SyntaxError):
        return ""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({frame.filename}, line {frame.lineno})"


def _place_of_table(module: str) -> str:
    """Return a hint at a package's module `spec`, where its table usually is."""
    package = importlib.import_module(module)
    if not hasattr(package, "__path__") or importlib.util.find_spec(f"{module}.spec") is None:
        return ""
    return f"; for the table of {module}.spec write {module}.spec:NAME, or import it in {module}"
