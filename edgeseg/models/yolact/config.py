"""The configuration of YOLACT and YOLACT++, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import COCO_80, COCO_80_IDS, PASCAL_20, SHAPES
from edgeseg.models.layers.limits import MAX_TOP_K, SCORER_MIN_SIZE

STRIDES = (8, 16, 32, 64, 128)
NMS_RULES = ("fast", "fast_cross_class", "traditional")


@dataclass(frozen=True, kw_only=True)
class YolactConfig:
    """Everything that tells one YOLACT from another; names of thresholds and limits are the original's.

    Input: a picture is stretched to ``image_size``, height and width of the network input. The
    original resamples in floating point: with ``takes_fraction`` the network gets what uint8 would
    lose as a second picture. ``mean`` and ``std`` are in grey levels, R, G, B.

    ``num_classes`` counts the background, as in the original; ``labels`` and ``category_ids``, like
    the results, do not: 0 is the first class.

    Backbone: of stage s the last ``dcn_layers[s]`` blocks are deformable if their number is
    divisible by ``dcn_interval``; the first block of a stage is if all of the stage may be.

    Priors: one size ``pred_scales`` in network pixels for each level P3..P7, ``scales_per_level``
    octave parts of it (3: times 1, 2^(1/3), 2^(2/3)) and ``pred_aspect_ratios``, width over height.
    ``use_square_anchors`` takes each prior's width for its height too.

    Selection: priors whose best class has more than ``nms_conf_thresh``, then one of
    :data:`NMS_RULES`: "fast" takes the best ``nms_top_k`` of each class, "fast_cross_class" of all,
    "traditional" the best ``nms_candidates`` pairs of a prior and a class.
    """

    image_size: tuple[int, int] = (550, 550)
    takes_fraction: bool = True
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    std: tuple[float, float, float] = (58.40, 57.12, 57.38)

    num_classes: int = 81
    labels: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    backbone: str = "resnet101"
    backbone_norm_eps: float = 1e-5
    backbone_channels: tuple[int, ...] = ()
    dcn_layers: tuple[int, int, int, int] = (0, 0, 0, 0)
    dcn_interval: int = 1
    fpn_channels: int = 256
    head_channels: int = 256
    proto_channels: int = 256
    mask_dim: int = 32
    use_maskiou: bool = False

    pred_scales: tuple[float, ...] = (24, 48, 96, 192, 384)
    scales_per_level: int = 1
    pred_aspect_ratios: tuple[float, ...] = (1, 0.5, 2)
    use_square_anchors: bool = True

    nms: str = "fast"
    nms_top_k: int = 200
    nms_conf_thresh: float = 0.05
    nms_thresh: float = 0.5
    nms_candidates: int = 1000
    max_num_detections: int = 100

    def __post_init__(self) -> None:
        self._check_input()
        self._check_classes()
        self._check_priors()
        self._check_selection()
        if any(count < 0 for count in self.dcn_layers) or self.dcn_interval < 1:
            raise ValueError(
                f"dcn_layers {self.dcn_layers}, dcn_interval {self.dcn_interval} found, expected "
                "counts of blocks and an interval of at least 1"
            )

    def _check_input(self) -> None:
        height, width = self.image_size
        smallest = STRIDES[2]
        if self.use_maskiou:  # masks have twice the resolution of the finest map
            smallest = STRIDES[0] * (SCORER_MIN_SIZE // 2) + 1
        if min(height, width) < smallest:
            raise ValueError(
                f"image_size {height}x{width} found, expected at least {smallest}x{smallest}"
                + (" with use_maskiou" if self.use_maskiou else "")
            )

    def _check_classes(self) -> None:
        if self.num_classes < 2:
            raise ValueError(
                f"num_classes {self.num_classes} found, expected at least 2 (the background counts)"
            )
        for name in ("labels", "category_ids"):
            values = getattr(self, name)
            if values and len(values) != self.num_classes - 1:
                raise ValueError(
                    f"{name} with {len(values)} entries found, expected one per class without the "
                    f"background: {self.num_classes - 1}"
                )

    def _check_priors(self) -> None:
        if len(self.pred_scales) != len(STRIDES) or min(self.pred_scales) <= 0:
            raise ValueError(
                f"pred_scales {self.pred_scales} found, expected {len(STRIDES)} positive sizes, one "
                "for each level P3 to P7"
            )
        if not self.pred_aspect_ratios or min(self.pred_aspect_ratios) <= 0:
            raise ValueError(
                f"pred_aspect_ratios {self.pred_aspect_ratios} found, expected positive numbers"
            )
        if self.scales_per_level < 1:
            raise ValueError(f"scales_per_level {self.scales_per_level} found, expected at least 1")

    def _check_selection(self) -> None:
        if self.nms not in NMS_RULES:
            raise ValueError(f"nms {self.nms!r} found, expected one of {', '.join(NMS_RULES)}")
        for name in ("nms_conf_thresh", "nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 to 1")
        for name in ("nms_top_k", "nms_candidates", "max_num_detections"):
            if not 1 <= getattr(self, name) <= MAX_TOP_K:
                raise ValueError(
                    f"{name} {getattr(self, name)} found, expected 1 to {MAX_TOP_K}: TensorRT "
                    "sorts no more"
                )

    @property
    def num_anchors(self) -> int:
        """Priors of a cell."""
        return self.scales_per_level * len(self.pred_aspect_ratios)

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """Height and width of the maps P3 to P7."""
        height, width = self.image_size
        return [(-(-height // stride), -(-width // stride)) for stride in STRIDES]

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the prototypes."""
        height, width = self.map_sizes[0]
        return 2 * height, 2 * width

    @property
    def num_results(self) -> int:
        """Rows of the results; the original does not cut the suppression across classes to 100."""
        num_priors = sum(height * width * self.num_anchors for height, width in self.map_sizes)
        if self.nms == "fast_cross_class":
            return min(self.nms_top_k, num_priors)
        if self.nms == "fast":
            num_candidates = min(self.nms_top_k, num_priors) * (self.num_classes - 1)
            return min(self.max_num_detections, num_candidates)
        return self.max_num_detections


RESNET101 = YolactConfig(labels=COCO_80, category_ids=COCO_80_IDS)
PLUS = replace(RESNET101, use_maskiou=True, use_square_anchors=False, scales_per_level=3)
TINY = YolactConfig(
    takes_fraction=False,
    image_size=(192, 192),
    num_classes=len(SHAPES),
    labels=SHAPES[1:],
    category_ids=tuple(range(1, len(SHAPES))),
    backbone="small",
    backbone_channels=(24, 40, 64, 96),
    fpn_channels=64,
    head_channels=64,
    proto_channels=48,
    mask_dim=16,
    pred_scales=(12, 24, 48, 96, 176),
    nms_top_k=50,
    max_num_detections=30,
)
PRESETS: Mapping[str, YolactConfig] = {
    "yolact_darknet53": replace(
        RESNET101, backbone="darknet53", mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)
    ),
    "yolact_plus_resnet101": replace(PLUS, dcn_layers=(0, 4, 23, 3), dcn_interval=3),
    "yolact_plus_resnet50": replace(PLUS, backbone="resnet50", dcn_layers=(0, 4, 6, 3)),
    "yolact_resnet101": RESNET101,
    "yolact_resnet50": replace(RESNET101, backbone="resnet50"),
    "yolact_resnet50_pascal": YolactConfig(
        num_classes=21,
        labels=PASCAL_20,
        category_ids=tuple(range(1, 21)),
        backbone="resnet50",
        use_square_anchors=False,
        pred_scales=(32, 64, 128, 256, 512),
    ),
    "yolact_tiny": TINY,
}
"""Model name -> its configuration."""
