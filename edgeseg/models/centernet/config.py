"""The configuration of CenterNet, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import COCO_80, COCO_80_IDS, PASCAL_20, SHAPES
from edgeseg.models.layers.grey_levels import COCO_MEAN_BGR, COCO_STD_BGR
from edgeseg.models.layers.limits import MAX_TOP_K

STRIDE = 4
"""Network pixels a place of the maps."""
KINDS = ("detection", "pose")
RENAMED = {"task": "kind"}
"""Fields as older bundles record them -> as they are called now."""
BACKBONES = ("resnet18", "resnet34", "resnet101", "dla34", "dlav0_34", "hourglass104", "small")


@dataclass(frozen=True, kw_only=True)
class CenterNetConfig:
    """Everything that tells one CenterNet from another.

    Input: ``image_size`` is height and width of the network input. With ``keep_res`` a picture keeps
    its scale and lies in the middle, black around it, and one that is too large is shrunk (the
    original's COCO evaluation, which makes the input as large as each picture needs); otherwise it is
    scaled so that its longer side fills the width (the original's ``fix_res``). ``mean`` and ``std``
    are grey levels of blue, green, red.

    Labels: ``labels`` names every class number and ``category_ids`` gives its COCO id. ``kind`` is "detection" or "pose", persons with
    ``num_joints`` joints (``keypoint_names`` and ``skeleton`` are COCO's where not given).

    ``backbone_channels`` are those of the backbone "small", ``head_channels`` the width inside each
    head, ``max_detections`` the original's K.
    """

    image_size: tuple[int, int] = (512, 512)
    keep_res: bool = False
    mean: tuple[float, float, float] = COCO_MEAN_BGR
    std: tuple[float, float, float] = COCO_STD_BGR

    kind: str = "detection"
    num_classes: int = 80
    labels: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    num_joints: int = 17
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    backbone: str = "resnet18"
    backbone_channels: tuple[int, ...] = ()
    head_channels: int = 64
    max_detections: int = 100

    def __post_init__(self) -> None:
        self._check_choices()
        height, width = self.image_size
        divisor = self.size_divisor
        if height % divisor or width % divisor or height <= 0 or width <= 0:
            up = (max(divisor, -(-side // divisor) * divisor) for side in (height, width))
            raise ValueError(
                f"image_size {height}x{width} found, expected positive multiples of {divisor}: "
                f"use {'x'.join(map(str, up))}"
            )
        num_places = height // STRIDE * (width // STRIDE)
        limit = min(num_places, MAX_TOP_K)
        if not 1 <= self.max_detections <= limit:
            raise ValueError(
                f"max_detections {self.max_detections} found, expected 1 to {limit} "
                f"for maps of {num_places} places"
            )
        for name, count in (
            ("labels", self.num_classes),
            ("category_ids", self.num_classes),
            ("keypoint_names", self.num_joints),
        ):
            values = getattr(self, name)
            if values and len(values) != count:
                raise ValueError(f"{name} with {len(values)} entries found, expected {count}")

    def _check_choices(self) -> None:
        for name, choices in (("kind", KINDS), ("backbone", BACKBONES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} found, expected one of {', '.join(choices)}"
                )
        if (self.backbone == "small") != bool(self.backbone_channels):
            raise ValueError(
                f"backbone {self.backbone!r} with backbone_channels {self.backbone_channels} found, "
                "expected four widths for 'small' and none for the others"
            )
        for name in ("num_classes", "num_joints", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected at least 1")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std {self.std} found, expected positive grey levels")
        if any(not 0 <= joint < self.num_joints for bone in self.skeleton for joint in bone):
            raise ValueError(
                f"skeleton {self.skeleton} found, expected numbers below {self.num_joints}"
            )

    @property
    def size_divisor(self) -> int:
        """Both sides of the network input are multiples of it."""
        return 128 if self.backbone == "hourglass104" else 32

    @property
    def head_maps(self) -> dict[str, int]:
        """Head -> number of its maps, in the order of the original."""
        maps = {"heatmap": self.num_classes, "size": 2}
        if self.kind == "detection":
            return {**maps, "offset": 2}
        return {
            **maps,
            "joints": 2 * self.num_joints,
            "offset": 2,
            "joint_heatmap": self.num_joints,
            "joint_offset": 2,
        }


def pose(config: CenterNetConfig) -> CenterNetConfig:
    """Return a model of the same structure that finds persons and their joints."""
    return replace(config, kind="pose", num_classes=1, labels=("person",), category_ids=(1,))


def pascal(config: CenterNetConfig) -> CenterNetConfig:
    """Return a model of the same structure for Pascal VOC."""
    return replace(
        config,
        image_size=(384, 384),
        num_classes=20,
        labels=PASCAL_20,
        category_ids=tuple(range(1, 21)),
        # ImageNet's numbers for red, green, blue, which the original puts on blue, green, red.
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    )


RESNET18 = CenterNetConfig(labels=COCO_80, category_ids=COCO_80_IDS)
RESNET101 = replace(RESNET18, backbone="resnet101")
DLA34 = replace(RESNET18, backbone="dla34", head_channels=256)
HOURGLASS = replace(RESNET18, backbone="hourglass104", head_channels=256)
TINY = CenterNetConfig(
    image_size=(224, 224),
    num_classes=len(SHAPES) - 1,
    labels=SHAPES[1:],
    category_ids=tuple(range(1, len(SHAPES))),
    backbone="small",
    backbone_channels=(24, 40, 64, 96),
    head_channels=48,
    max_detections=50,
)
PRESETS: Mapping[str, CenterNetConfig] = {
    "centernet_dla34": DLA34,
    "centernet_dla34_pascal": pascal(DLA34),
    "centernet_dla34_pose": pose(DLA34),
    "centernet_dlav0_34": replace(DLA34, backbone="dlav0_34"),
    "centernet_hourglass104": HOURGLASS,
    "centernet_hourglass104_pose": pose(HOURGLASS),
    "centernet_resnet101_dcn": RESNET101,
    "centernet_resnet101_dcn_pascal": pascal(RESNET101),
    "centernet_resnet18_dcn": RESNET18,
    "centernet_resnet18_dcn_pascal": pascal(RESNET18),
    "centernet_tiny": TINY,
}
"""Model name -> its configuration."""
