"""What can be asked of an export, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseg_export.calibration import METHODS
from edgeseg_export.graph import COMPLETING_PASSES
from edgeseg_export.lower import AUTO, CALIBRATED
from edgeseg_export.parity import Image
from edgeseg_export.precision import PRECISIONS
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tensorrt.key import group_targets

ENGINES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")


def check_options(
    opset: int,
    precision: str,
    calibration: Sequence[Image] | None,
    method: str,
    max_drop: float,
    backends: Sequence[str],
    targets: Sequence[str],
) -> None:
    """Refuse what does not exist or does not go together; see :func:`edgeseg_export.bundle.export_bundle`.

    Raises:
        ValueError: says which, and what is expected.
    """
    if opset not in COMPLETING_PASSES:
        raise ValueError(
            f"opset {opset} found, expected one of {', '.join(map(str, COMPLETING_PASSES))}"
        )
    known = (*PRECISIONS, AUTO)
    if precision not in known:
        raise ValueError(f"precision {precision!r} found, expected one of {', '.join(known)}")
    if precision in CALIBRATED and not calibration:
        raise ValueError(
            f"precision {precision!r} found without pictures to calibrate on; give some like those "
            "of the application (--calibrate), 100 are usual"
        )
    if precision == "fp32" and calibration is not None:
        raise ValueError("calibration found, expected None: fp32 needs no calibration")
    if method not in METHODS:
        raise ValueError(
            f"calibration method {method!r} found, expected one of {', '.join(METHODS)}"
        )
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop {max_drop} found, expected 0 to 1, a loss of agreement")
    unknown = sorted(set(backends) - set(ENGINES))
    if unknown or not backends:
        raise ValueError(f"backends {list(backends)} found, expected some of {', '.join(ENGINES)}")
    if targets and "tensorrt_rtx" not in backends:
        raise ValueError(
            f"targets {', '.join(targets)} found for {', '.join(backends)}; only tensorrt_rtx "
            "compiles for other machines: add it to the backends, or leave the targets out"
        )
    if targets:
        group_targets(targets)


def pictures_to_compare(
    images: Sequence[Image] | None, num_images: int, manifest: Manifest
) -> tuple[Sequence[Image], str]:
    """Return the pictures to compare on, by default built-in ones with what the model looks for."""
    if images is not None:
        if not len(images):
            raise ValueError("images is empty, expected at least one picture")
        _check_frames(len(images), manifest)
        return images, "given pictures"
    _check_frames(num_images, manifest)
    from edgeseg_bench.checks import check_pictures

    return check_pictures(manifest, num_images)


def _check_frames(num_images: int, manifest: Manifest) -> None:
    """Refuse too few pictures for every graph of a video model to run."""
    num_kinds = manifest.schedule.num_kinds
    if num_images < num_kinds:
        raise ValueError(
            f"{num_images} picture found to compare on, expected at least {num_kinds}, which are taken as "
            f"a video: {', '.join(manifest.schedule.then)} runs behind the first one"
        )
