"""Reads weight files of any kind and loads them into a model under its own parameter names."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeseg_runtime.errors import EdgesegError

StateDict = Mapping[str, Any]
Rule = tuple[str, str]

_NESTING_KEYS = ("model", "state_dict", "model_state_dict", "pfld_backbone")
_PREFIXES = ("module.", "model.module.")
"""What DataParallel, and a trainer around it, put before every name."""
_PLACEHOLDER = re.compile(r"\{(\w+)(?:([+*])(\d+))?\}")


class CheckpointError(EdgesegError):
    """A weight file that cannot be read or does not fit the model."""

    exit_code = 3


@dataclass(frozen=True)
class KeyTable:
    """Translates parameter names between an original's checkpoint and our modules, both ways.

    A rule pairs two templates. ``{p}`` stands for the rest of a name, any other placeholder for a
    number; ``{i+1}`` and ``{i*2}`` say how the original numbers what we number from 0. The first
    rule that matches counts. ``aliases`` are further spellings that are accepted but never written;
    names that match a pattern of ``ignored`` carry nothing that the model needs.
    """

    rules: Sequence[Rule]
    aliases: Sequence[Rule] = ()
    ignored: Sequence[str] = ()
    _forward: list[tuple[re.Pattern[str], str, str]] = field(init=False, repr=False)
    _backward: list[tuple[re.Pattern[str], str, str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        forward = [(_pattern(a), a, b) for a, b in (*self.rules, *self.aliases)]
        backward = [(_pattern(b), b, a) for a, b in self.rules]
        object.__setattr__(self, "_forward", forward)
        object.__setattr__(self, "_backward", backward)

    def ours_from_original(self, key: str) -> str | None:
        """Return our name of an original parameter, or None if there is none."""
        return _translate(key, self._forward)

    def original_from_ours(self, key: str) -> str | None:
        """Return the original's name of one of our parameters, or None if there is none."""
        return _translate(key, self._backward)

    def is_ignored(self, key: str) -> bool:
        """Tell whether an original entry carries nothing that the model needs."""
        return any(re.search(pattern, key) for pattern in self.ignored)


def load_weights(model: nn.Module, weights: str | Path | StateDict, table: KeyTable) -> None:
    """Load ``weights`` into ``model``; every parameter must be there with its shape.

    Args:
        model: the model to fill.
        weights: a state dict of arrays or tensors, or the path of one (.pth, .pt, .pkl,
            .safetensors), in the original's names or in ours.
        table: the original's names.

    Raises:
        CheckpointError: the file is damaged, or names or shapes do not fit; all misfits are listed.
    """
    source = "the given state dict" if isinstance(weights, Mapping) else str(weights)
    state = weights if isinstance(weights, Mapping) else read_checkpoint(weights)
    state = _unnest(state)
    expected = model.state_dict()
    has_our_names = all(key in expected for key in state)
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for key, value in state.items():
        name = key if has_our_names else table.ours_from_original(key)
        if name in expected:
            found[name] = _as_tensor(value, key)
        elif not (table.is_ignored(key) or key.endswith(".num_batches_tracked")):
            unexpected.append(key)
    missing = [
        table.original_from_ours(name) or name
        for name in expected
        if name not in found and not name.endswith(".num_batches_tracked")
    ]
    misshapen = [
        f"{table.original_from_ours(name) or name}: {tuple(value.shape)} found, "
        f"{tuple(expected[name].shape)} expected"
        for name, value in found.items()
        if value.shape != expected[name].shape
    ]
    _raise_misfits(source, missing=missing, unexpected=unexpected, misshapen=misshapen)
    model.load_state_dict(found, strict=False)


def read_checkpoint(path: str | Path) -> StateDict:
    """Return the contents of a weight file without executing anything that it holds.

    ``.safetensors`` and torch files (``weights_only``) are read by their libraries; ``.pkl`` files
    of NumPy arrays, as detectron2's model zoo has them, by an unpickler that knows arrays only.

    Raises:
        CheckpointError: the file is missing, damaged or holds something else than arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weight file; expected a .pth, .pt, .pkl or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".pkl" and not zipfile.is_zipfile(path):
            return _unpickle_arrays(path.read_bytes())
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError,
        KeyError, IndexError, AttributeError, UnicodeDecodeError, OSError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path}: cannot be read as a weight file ({error}); expected arrays only: a state dict "
            "saved by torch.save or safetensors, or a detectron2 model-zoo pickle. "
            "Download it again, or save its state dict alone"
        ) from error


def _unnest(state: StateDict) -> StateDict:
    """Return the state dict inside a training checkpoint, without the trainer's prefix."""
    for key in _NESTING_KEYS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _as_tensor(value: Any, key: str) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Tensor):
        return value
    raise CheckpointError(f"{key}: {type(value).__name__} found, expected an array or a tensor")


def _raise_misfits(source: str, **misfits: list[str]) -> None:
    if not any(misfits.values()):
        return
    lines = [f"{source} does not fit the model:"]
    for kind, names in misfits.items():
        if names:
            more = f" ... and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"  {len(names)} {kind}: {'; '.join(names[:5])}{more}")
    lines.append("Check the model's name, and num_classes if the model was fine-tuned.")
    raise CheckpointError("\n".join(lines))


def _pattern(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append(re.escape(template[end : match.start()]))
        name = match[1]
        parts.append(rf"(?P<{name}>[a-z_]+)" if name == "p" else rf"(?P<{name}>\d+)")
        end = match.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _translate(key: str, rules: list[tuple[re.Pattern[str], str, str]]) -> str | None:
    for pattern, source, target in rules:
        match = pattern.fullmatch(key)
        values = None if match is None else _read_numbers(source, match.groupdict())
        if values is not None:
            return _PLACEHOLDER.sub(partial(_write_number, values), target)
    return None


def _read_numbers(template: str, texts: dict[str, str]) -> dict[str, str | int] | None:
    """Return each placeholder's value, or None where a number does not fit its arithmetic."""
    values: dict[str, str | int] = {}
    for name, operator, operand in _PLACEHOLDER.findall(template):
        if name == "p":
            values[name] = texts[name]
            continue
        number = int(texts[name])
        if operator == "+":
            number -= int(operand)
        elif operator == "*":
            number, rest = divmod(number, int(operand))
            if rest:
                return None
        if number < 0:
            return None
        values[name] = number
    return values


def _write_number(values: dict[str, str | int], match: re.Match[str]) -> str:
    value = values[match[1]]
    if isinstance(value, int):
        if match[2] == "+":
            value += int(match[3])
        elif match[2] == "*":
            value *= int(match[3])
    return str(value)


class _Array:
    """What a pickled NumPy array becomes: its state is read as data, never called."""

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C").copy()


class _DType:
    """What a pickled NumPy dtype becomes; plain numbers only."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "fiub":
            raise pickle.UnpicklingError(f"arrays of dtype {name!r} are not weights")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _array(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: _DType, raw: bytes | str) -> Any:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype.dtype)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and NumPy arrays; anything else is refused by name."""

    _known: dict[tuple[str, str], Any] = {  # noqa: RUF012 (a constant table)
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("collections", "OrderedDict"): dict,
        ("_codecs", "encode"): _encode,
    }
    for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        _known[_module, "_reconstruct"] = _array
        _known[_module, "scalar"] = _scalar

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in of a NumPy name.

        Raises:
            pickle.UnpicklingError: for every other name.
        """
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not an array")
        return self._known[module, name]


def _unpickle_arrays(raw: bytes) -> StateDict:
    return _plain(_ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load())


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
