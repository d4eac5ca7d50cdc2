"""The options of a device's commands: what they are for, and what their texts mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "BUILD_HELP",
    "BUNDLE_HELP",
    "COMMAND_HELP",
    "COMMON_HELP",
    "INSPECT_HELP",
    "RUN_HELP",
    "check_engines",
    "names_from_text",
]

COMMAND_HELP: Mapping[str, str] = {
    "build": "Compile a bundle's TensorRT engines; needs no torch.",
    "run": "Run a bundle on pictures, a video or a camera; needs no torch.",
    "inspect": "Describe a bundle or an ONNX file (-v: in full), and check that nothing is damaged.",
    "doctor": "Examine this machine: versions, engines that really run, and how to mend the rest.",
}
COMMON_HELP: Mapping[str, str] = {
    "json": "Write one JSON object to stdout.",
    "verbose": "More details, tracebacks; -vv for all.",
    "quiet": "Errors and the last line only.",
}
BUNDLE_HELP = "Folder that `edgeseg export` wrote."
INSPECT_HELP: Mapping[str, str] = {"path": "A bundle's folder, or an .onnx file."}
BUILD_HELP: Mapping[str, str] = {
    "target": "Compile ahead for these GPUs (sm86,sm89,...); else for this machine's.",
    "engine": "tensorrt or tensorrt_rtx; chosen by what there is if left out.",
    "out": "Folder of the engines.",
    "force": "Build again what is there.",
    "batch": "Size given to a free batch axis.",
    "workspace": "Scratch memory of the builder, in GiB.",
    "level": "0 builds fast, 5 gives the fastest engine.",
}
RUN_HELP: Mapping[str, str] = {
    "source": "Picture, folder, pattern, video, number of a camera, or URL; or several.",
    "out": "Folder of the results.",
    "overwrite": "Replace files of earlier results in that folder.",
    "recursive": "Read the folders in a folder too.",
    "backend": "auto, onnxruntime, openvino (openvino:bf16, openvino:f16), tensorrt or tensorrt_rtx.",
    "score": "Leave out less sure ones.",
    "reconnect": "Attempts in a row to reopen a camera; no end if left out.",
    "scene_cut": "Of a video model: a key frame where the picture changes by so many grey levels; 25 is usual.",
    "batch": "Frames that are computed at a time, by a bundle that was exported with --dynamic-batch.",
    "track": "Give objects identities over the frames, by ByteTrack (pip install trackers).",
    "draw": "Write annotated pictures or a video.",
    "surfaces": "How surfaces are drawn: parts, u, v, contours or iuv.",
    "iuv": "Of surfaces: write NAME_iuv.png beside each picture's results, red part, green u, blue v.",
    "save_json": "Write COCO results, predictions.json.",
    "save_lines": "Write frames.jsonl, a line of JSON for each frame, complete at any time: for long videos and cameras.",
    "draw_labels": "Write names into annotated pictures.",
    "draw_scores": "Write scores into annotated pictures.",
    "colours": "A colour for each class or for each instance; chosen by what there is if left out.",
    "keypoint_score": "Draw key points from this score on, and bones between them; some models give logits.",
    "line_width": "Of lines in annotated pictures, in pixels; chosen by the picture's size if left out.",
    "then": "Bundle of landmarks: the first bundle finds faces, this one looks at each of them.",
    "threads": "CPU threads of the engine; its own choice if left out.",
    "winograd": "On a CPU: auto computes convolutions in Winograd's form where that is faster, off none.",
    "engines": "Folder of TensorRT engines that you built yourself; engines are programs.",
}


def names_from_text(option: str, text: str) -> tuple[str, ...]:
    """Return the names of a list such as "torch,onnxruntime", each once.

    Raises:
        ValueError: there is no name in it.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"{option} {text!r} found, expected names separated by commas")
    return names


def check_engines(folder: Path | None, backends: Sequence[str]) -> None:
    """Refuse a folder of TensorRT engines that none of the backends looks into.

    Raises:
        ValueError: there is such a folder, and neither TensorRT nor "auto" among the backends.
    """
    if folder is not None and not any(n == "auto" or n.startswith("tensorrt") for n in backends):
        raise ValueError(
            f"--engines is given, but {', '.join(backends)} has no engines; leave it out, or take "
            "the backend tensorrt or tensorrt_rtx"
        )
