"""The configuration of DensePose R-CNN with charts, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgeseg.models.maskrcnn.config import DETECTRON2, DetectorConfig, check_choice

HEADS = ("v1convx", "deeplab")
UV_CONFIDENCES = ("none", "iid_iso", "indep_aniso")
NORM_GROUPS = 32
"""Groups of the group normalisation in the DeepLab head."""


@dataclass(frozen=True, kw_only=True)
class DensePoseConfig(DetectorConfig):
    """Everything that tells one DensePose R-CNN from another: the detector, and how it reads surfaces.

    With a ``decoder``, surfaces are pooled from a map that it makes of all levels of the pyramid,
    otherwise each from its own level. ``surface_pool`` is the side of a pooled region; the results
    have twice that. ``coarse_channels`` are the channels that tell a person from the background,
    which is the first; ``num_parts`` is the number of charts of a surface, without the background.

    ``uv_confidence`` says how u and v are doubted: "iid_iso" by one variance, "indep_aniso" by a
    direction as well. ``segm_confidence`` weighs the logits of the coarse and of the fine parts.

    ``max_surfaces`` of the detections, the best ones, get a surface: each costs as much as a
    fifteenth of the detector.
    """

    head: str = "v1convx"
    decoder: bool = True
    decoder_channels: int = 256
    surface_pool: int = 28
    surface_convs: int = 8
    surface_channels: int = 512
    coarse_channels: int = 2
    num_parts: int = 24
    uv_confidence: str = "none"
    segm_confidence: bool = False
    max_surfaces: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("head", self.head, HEADS)
        check_choice("uv_confidence", self.uv_confidence, UV_CONFIDENCES)
        for name in ("decoder_channels", "surface_pool", "surface_convs", "surface_channels"):
            _check_at_least(name, getattr(self, name), 1)
        _check_at_least("coarse_channels", self.coarse_channels, 2)
        _check_at_least("max_surfaces", self.max_surfaces, 1)
        if not 1 <= self.num_parts <= 255:
            raise ValueError(
                f"num_parts {self.num_parts} found, expected 1 to 255: a label is a byte, and 0 is "
                "the background"
            )
        if self.head == "deeplab":
            pooled = "decoder_channels" if self.decoder else "fpn_channels"
            for name in (pooled, "surface_channels"):
                _check_groups(name, getattr(self, name))

    @property
    def pooled_channels(self) -> int:
        """Channels of a pooled region."""
        return self.decoder_channels if self.decoder else self.fpn_channels

    @property
    def surface_maps(self) -> Mapping[str, int]:
        """Outputs of the predictor, in their order -> their channels."""
        charts = self.num_parts + 1
        names = {
            "coarse": self.coarse_channels,
            "fine": charts,
            "u": charts,
            "v": charts,
        }
        if self.uv_confidence != "none":
            names["sigma_2"] = charts
        if self.uv_confidence == "indep_aniso":
            names |= {"kappa_u": charts, "kappa_v": charts}
        if self.segm_confidence:
            names |= {"fine_confidence": 1, "coarse_confidence": 1}
        return names


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} {value} found, expected at least {least}")


def _check_groups(name: str, width: int) -> None:
    """Refuse channels that cannot be normalised in groups, or of which a group would be one."""
    if width % NORM_GROUPS or width < 2 * NORM_GROUPS:
        raise ValueError(
            f"{name} {width} found, expected a multiple of {NORM_GROUPS}, at least "
            f"{2 * NORM_GROUPS}: the head 'deeplab' normalises {NORM_GROUPS} groups of channels"
        )


_detector = {
    name: value
    for name, value in vars(DETECTRON2).items()
    if name in DetectorConfig.__dataclass_fields__
}
S1X = DensePoseConfig(
    **{
        **_detector,
        "num_classes": 1,
        "labels": ("person",),
        "category_ids": (1,),
        "roi_sampling_ratio": 2,
        "roi_aligned": False,
    }
)
LEGACY = replace(S1X, decoder=False, surface_pool=14, coarse_channels=15)
DEEPLAB = replace(S1X, head="deeplab")
_CONFIDENCES: dict[str, dict[str, Any]] = {
    "wc1": {"uv_confidence": "iid_iso"},
    "wc2": {"uv_confidence": "indep_aniso"},
    "wc1m": {"uv_confidence": "iid_iso", "segm_confidence": True},
    "wc2m": {"uv_confidence": "indep_aniso", "segm_confidence": True},
}
PRESETS: Mapping[str, DensePoseConfig] = {
    "densepose_resnet101_fpn": replace(S1X, backbone="resnet101"),
    "densepose_resnet101_fpn_dl": replace(DEEPLAB, backbone="resnet101"),
    "densepose_resnet101_fpn_legacy": replace(LEGACY, backbone="resnet101"),
    "densepose_resnet50_fpn": S1X,
    "densepose_resnet50_fpn_dl": DEEPLAB,
    **{
        f"densepose_resnet50_fpn_dl_{name}": replace(DEEPLAB, **_CONFIDENCES[name])
        for name in ("wc1", "wc2")
    },
    "densepose_resnet50_fpn_legacy": LEGACY,
    **{
        f"densepose_resnet50_fpn_{name}": replace(S1X, **options)
        for name, options in _CONFIDENCES.items()
    },
}
"""Model name -> its configuration."""
