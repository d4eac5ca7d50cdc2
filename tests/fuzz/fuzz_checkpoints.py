"""Weight files with bytes, operations of pickles, entries of archives and nesting changed."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import pickletools
import random
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz_frame import Kind
from safetensors.torch import save
from torch import nn

from edgeseg.models.checkpoint import KeyTable, load_weights

TABLE = KeyTable((("features.{i}.{p}", "layers.{i}.{p}"),))
NUMBERS = (0, 1, -1, 2, 4, 7, 255, 256, 65535, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
TEXTS = (
    *("", "storage", "module", "model", "model_ema", "state_dict", "weight", "features.0.weight"),
    *("layers.1.bias", "FloatStorage", "0", "1", "cpu", "utf-8", "latin1", "<", ">", "f4", "O", "x" * 3000),
    *("\x1b[2J", "\ud800", "\u202e", "a.b.c.d", "." * 40, "1" * 5000),
)  # fmt: skip
GLOBALS = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v3", "torch._tensor _rebuild_from_type_v2", "torch FloatStorage",
    "torch LongStorage", "torch QInt8Storage", "torch.storage UntypedStorage", "torch float32", "torch Size",
    "torch.storage _load_from_bytes", "collections OrderedDict", "collections Counter", "numpy dtype",
    "numpy ndarray", "numpy.core.multiarray _reconstruct", "numpy._core.numeric _frombuffer",
    "_codecs encode", "builtins eval", "os system", "torch.nn.modules.container Sequential", "antigravity x",
)  # fmt: skip
FORBIDDEN = {
    "pickle.find_class",
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "os.remove",
    "socket.connect",
}


class Small(nn.Module):
    """Three layers; what is loaded into it can be seen quickly."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv2d(2, 2, 1)])


@functools.cache
def state() -> dict[str, Any]:
    """Return a state dict under the original's names."""
    torch.manual_seed(0)
    return {TABLE.original_from_ours(key): value for key, value in Small().state_dict().items()}


# ---------------------------------------------------------------- files that are right


def _content(rng: random.Random) -> Any:
    """Return a training checkpoint; often one that fits."""
    content: Any = {key: value.clone() for key, value in state().items()}
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        content = rng.choice(_CHANGES)(rng, content)
    content = {
        f"{rng.choice(('', '', 'module.', 'model.', '_orig_mod.'))}{k}": v
        for k, v in content.items()
    }
    for _ in range(rng.randrange(4)):
        content = rng.choice(_WRAPPERS)(content)
    return content


def _each(content: dict[str, Any], change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    return {
        key: change(value) if isinstance(value, torch.Tensor) else value
        for key, value in content.items()
    }


_CHANGES = (
    lambda rng, s: {k: v for k, v in s.items() if rng.random() < 0.9},
    lambda rng, s: {**s, "features.0.bias": rng.choice((None, 1.5, "text", [1], b"raw", torch.ones(2), {}))},
    lambda rng, s: _each(s, lambda v: v.half() if rng.random() < 0.5 else v.double()),
    lambda rng, s: {**s, "features.0.bias": torch.full((4,), float("nan"))},
    lambda rng, s: {**s, rng.choice(TEXTS): torch.ones(rng.randrange(4))},
    lambda rng, s: _each(s, lambda v: v.t() if v.ndim == 2 and rng.random() < 0.5 else v),
    lambda rng, s: _each(s, lambda v: v.numpy()),
)  # fmt: skip
_WRAPPERS = (
    lambda c: {"model": c, "epoch": 3, "args": Kind},
    lambda c: {"state_dict": c, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    lambda c: {"model": c, "model_ema": c},
    lambda c: [c, c],
    lambda c: {"a": {"b": c}, "again": c, "list": [1, [2, [3, c]]]},
    lambda c: c if not isinstance(c, dict) else {"ema": {"module": c}, "updates": 7},
)


def _saved(content: Any, kind: str) -> bytes:
    if kind == "pickle":
        return pickle.dumps(content, protocol=2)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


# ---------------------------------------------------------------- mutations


def _bytes_changed(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(changed) + 1)
        action = rng.randrange(5)
        if action == 0:
            changed[place : place + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            changed[place:place] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif action == 2:
            del changed[place : place + rng.choice((1, 2, 8, 64, len(changed)))]
        elif action == 3 and len(changed) > 8:
            changed[place : place + 8] = struct.pack("<q", rng.choice(NUMBERS))
        else:
            other = rng.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + rng.choice((4, 40, 400))]
    return bytes(changed)


def _operation(rng: random.Random) -> bytes:
    """Return one operation of a pickle, with an argument of its form."""
    code = rng.choice(pickletools.opcodes)
    raw = code.code.encode("latin-1")
    name = code.arg.name if code.arg else ""
    text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    if not name:
        return raw
    if "nl" in name:
        lines = (
            rng.choice(GLOBALS).replace(" ", "\n") if "pair" in name else str(rng.choice(NUMBERS))
        )
        return raw + (lines + "\n").encode()
    size = {"1": 1, "2": 2, "4": 4, "8": 8}.get(name.rstrip("us").removesuffix("_")[-1:], 4)
    number = rng.choice(NUMBERS)
    if any(word in name for word in ("string", "bytes", "unicode", "long1", "long4", "bytearray")):
        length = len(text) if rng.random() < 0.8 else abs(number)
        return raw + (length % 256**size).to_bytes(size, "little") + text
    if name == "float8":
        return raw + struct.pack(">d", rng.choice((0.0, 1e308, float("nan"))))
    return raw + (number % 256**size).to_bytes(size, "little")


def _operations_changed(rng: random.Random, pickled: bytes) -> bytes:
    places = [place for _, _, place in pickletools.genops(pickled)] + [len(pickled)]
    parts = [pickled[a:b] for a, b in zip(places, places[1:])]  # noqa: B905, RUF007 - also in Python 3.9
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(parts))
        action = rng.randrange(5)
        if action == 0:
            parts[place] = _operation(rng)
        elif action == 1:
            parts.insert(place, _operation(rng))
        elif action == 2:
            del parts[place : place + rng.choice((1, 1, 3))]
        elif action == 3:
            parts[place:place] = parts[place : place + rng.choice((1, 5, 30))] * rng.choice(
                (1, 2, 30)
            )
        else:
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        parts = parts or [b"."]
    return b"".join(parts)


def _archive_changed(rng: random.Random, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    action = rng.randrange(4)
    if action:
        name = next(name for name in entries if name.endswith("data.pkl"))
        entries[name] = _operations_changed(rng, entries[name])
    else:
        name = rng.choice(list(entries))
        change = rng.choice(("drop", "rename", "cut", "noise"))
        content = entries.pop(name)
        if change == "rename":
            entries[
                rng.choice(("x", "archive/data.pkl", "a/b/data.pkl", f"{name}0", "data.pkl"))
            ] = content
        elif change == "cut":
            entries[name] = content[: len(content) // 2]
        elif change == "noise":
            entries[name] = _bytes_changed(rng, content)
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _safetensors_changed(rng: random.Random) -> bytes:
    data = save({key: value.contiguous() for key, value in state().items()})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = header[rng.choice(list(header))]
    key = rng.choice(("dtype", "shape", "data_offsets"))
    value = rng.choice(
        (
            [],
            [4],
            [2, 2],
            [0, 16],
            [16, 0],
            "F32",
            "F8_E4M3",
            "X",
            [rng.choice(NUMBERS)] * 2,
            None,
            {},
        )
    )
    entry[key] = value
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data[8 + length :]


def make(rng: random.Random) -> bytes:
    """Return a weight file, in most cases a damaged one."""
    kind = rng.choice(("zip", "zip", "zip", "legacy", "legacy", "pickle", "pickle", "safetensors"))
    if kind == "safetensors":
        return _safetensors_changed(rng)
    data = _saved(_content(rng), kind)
    if rng.random() < 0.1:
        return data
    if kind == "zip" and rng.random() < 0.8:
        return _archive_changed(rng, data)
    if kind == "pickle" and rng.random() < 0.8:
        return _operations_changed(rng, data)
    if kind == "legacy" and rng.random() < 0.5:  # the third of its pickles is that of the content
        starts = [0]
        stream = io.BytesIO(data)
        for _ in range(4):
            for _ in pickletools.genops(stream):
                pass
            starts.append(stream.tell())
        return (
            data[: starts[3]]
            + _operations_changed(rng, data[starts[3] : starts[4]])
            + data[starts[4] :]
        )
    return _bytes_changed(rng, data)


# ---------------------------------------------------------------- what is run

_is_guarded = False


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_guarded and event in FORBIDDEN:
        raise AssertionError(f"{event} {arguments!a}")


@functools.cache
def _file() -> Path:
    sys.addaudithook(_guard)
    folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    return folder / f"fuzz_checkpoint_{os.getpid()}.pth"


def load(data: bytes) -> str:
    """Load a weight file into a model; what is loaded has to be whole."""
    global _is_guarded
    path = _file()
    path.write_bytes(data)
    model = Small()
    _is_guarded = True
    try:
        load_weights(model, path, TABLE)
    finally:
        _is_guarded = False
        path.unlink()
    for name, value in model.state_dict().items():
        assert torch.isfinite(value).all(), f"{name} is not finite"
    return "loaded"


CHECKPOINT = Kind(make=make, run=load, limit_s=60, limit_bytes=2**29, suffix=".pth")
