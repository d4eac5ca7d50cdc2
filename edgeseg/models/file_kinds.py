"""Says in words what a file is that was given as weights and holds none."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

WEIGHT_SUFFIXES = (".pth", ".pt", ".pkl", ".ckpt", ".bin", ".tar", ".safetensors")
HEAD_BYTES = 512
"""How much of a file `kind_of_head` looks at."""

_UNPACK = "unpack it, and give the weight file inside"
_KERAS = "a Keras model; edgeseg reads PyTorch's weights"
_TENSORFLOW = "of TensorFlow; edgeseg reads PyTorch's weights"
_SIGNATURES = (  # place, bytes, what that is
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file, such as {_KERAS}"),
    (4, b"TFL3", f"a TensorFlow Lite model {_TENSORFLOW}"),
    (257, b"ustar", f"a tar archive: {_UNPACK}"),
    (0, b"\x1f\x8b", f"compressed (gzip): {_UNPACK}"),
    (0, b"BZh", f"compressed (bzip2): {_UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"compressed (xz): {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed (zstd): {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
    (0, b"Rar!", f"a RAR archive: {_UNPACK}"),
    (0, b"\x93NUMPY", "a NumPy array; expected a state dict of many"),
    (0, b"GGUF", "a GGUF model of another library"),
    (0, b"ftrt", "a TensorRT engine; it is made of weights and holds them no more"),
    (0, b"ptrt", "a TensorRT engine; it is made of weights and holds them no more"),
    (0, b"\x89PNG", "a picture (PNG)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "a program"),
)
_SUFFIXES = {
    ".onnx": "an ONNX model; give the PyTorch checkpoint that it was made from",
    ".pb": f"a graph {_TENSORFLOW}",
    ".index": f"a part of a checkpoint {_TENSORFLOW}",
    ".meta": f"a part of a checkpoint {_TENSORFLOW}",
    ".engine": "a TensorRT engine; it is made of weights and holds them no more",
    ".weights": "a file of darknet's; edgeseg reads PyTorch's weights",
}
_ONNX_HEAD = re.compile(rb"\x08[\x01-\x20](\x12|\x3a|\x1a|\x42)")
"""ir_version, and the next field of a ModelProto."""
_HTML = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body|script)", re.I
)


def kind_of_head(head: bytes, path: Path) -> str | None:
    """Return what a file is by its first `HEAD_BYTES`, or by its suffix; None if nobody knows."""
    for place, signature, kind in _SIGNATURES:
        if head.startswith(signature, place):
            return kind
    if _HTML.match(head):
        return (
            "an HTML page, as a login or a warning in place of a download: open the address in a "
            "browser, and download the file itself"
        )
    if _ONNX_HEAD.match(head):
        return _SUFFIXES[".onnx"]
    if ".data-00000" in path.name:
        return _SUFFIXES[".index"]
    return _SUFFIXES.get(path.suffix.lower())


def kind_of_text(head: bytes) -> str:
    """Return what a file is that nothing else is known of, by how it begins."""
    text = head.decode(errors="ignore")  # the last character may be cut
    if len(text.encode()) < len(head) - 3 or not _is_readable(text):
        return f"of an unknown kind: it begins with the bytes {head[:8].hex(' ')}"
    return f"a text: it begins with {' '.join(text.split())[:60]!r}"


def _is_readable(text: str) -> bool:
    return text.translate(dict.fromkeys(map(ord, "\t\n\r"))).isprintable()


def kind_of_archive(archive: zipfile.ZipFile) -> str:
    """Return what a zip archive is that is not PyTorch's."""
    names = archive.namelist()
    inside = [name for name in names if name.lower().endswith(WEIGHT_SUFFIXES)]
    if inside:
        return f"a zip archive that holds {_listed(inside)}: {_UNPACK}"
    if {"model.weights.h5", "metadata.json"} & set(names):
        return _KERAS
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy's archive of arrays; expected PyTorch's weights"
    return f"a zip archive of other files ({_listed(names) or 'it is empty'})"


def kind_of_folder(folder: Path) -> str:
    """Return what a folder is that was given in place of a file."""
    names = sorted(path.name for path in folder.iterdir())
    if "data.pkl" in names:
        return (
            "a folder, an unpacked file of PyTorch's: pack it again without compression "
            "(`zip -0 -r weights.pth FOLDER`)"
        )
    if "saved_model.pb" in names:
        return f"a folder, a model {_TENSORFLOW}"
    inside = [name for name in names if name.lower().endswith(WEIGHT_SUFFIXES)]
    if inside:
        return f"a folder: give the file in it, {_listed(inside)}"
    return "a folder without a weight file in it"


def _listed(names: Iterable[str]) -> str:
    names = [name if name.isprintable() else ascii(name) for name in names]
    return ", ".join(name[:60] for name in names[:3]) + (" ..." if len(names) > 3 else "")
