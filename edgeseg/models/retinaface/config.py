"""The configuration of RetinaFace, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeseg.models.labels import BACKGROUND
from edgeseg.models.layers.limits import MAX_TOP_K

STRIDES = (8, 16, 32)
BRANCHES = ("box", "landmarks", "gender", "mesh")
BACKBONES = ("mobilenet025", "resnet50", "small")
RESIZES = ("original", "letterbox")


@dataclass(frozen=True, kw_only=True)
class RetinaFaceConfig:
    """Everything that tells one RetinaFace from another; most names are the original's.

    Input: ``image_size`` is height and width of the network input, of any size. With ``resize``
    "original" a picture keeps its scale, as in the original, and is shrunk only if it does not fit;
    with "letterbox" it fills the input. ``mean`` is B, G, R in grey levels and also the padding.
    ``labels`` and ``category_ids`` are those of the background and of what is found.

    Network: the ``backbone``, "small" with ``backbone_channels`` at strides 4, 8, 16, 32, and a neck of
    ``fpn_channels``.

    Anchors: ``min_sizes`` holds the sides of the square anchors of each level in pixels, ``steps``
    the distance of their centres. ``variance`` scales predicted shifts and log sizes.

    ``branches`` are some of :data:`BRANCHES`; "box" is always there. Each object has ``num_landmarks``
    landmarks, which a checkpoint tells: 5 of a face, 4 corners of a number plate. The mesh has ``num_vertices``
    vertices, decoded from ``mesh_coefficients`` numbers per anchor.

    ``initial_score`` is what an untrained model gives every anchor: a rare object is learned best from
    a low one (RetinaNet: Lin et al., 2017, section 4.1).

    Selection: scores above ``confidence_threshold``, the best ``top_k`` of them, suppression at
    ``nms_threshold``, the best ``keep_top_k`` of the rest.
    """

    image_size: tuple[int, int] = (640, 640)
    resize: str = "original"
    mean: tuple[int, int, int] = (104, 117, 123)
    labels: tuple[str, ...] = (BACKGROUND, "face")
    category_ids: tuple[int, ...] = (0, 1)

    backbone: str = "mobilenet025"
    backbone_channels: tuple[int, ...] = ()
    fpn_channels: int = 64
    min_sizes: tuple[tuple[float, ...], ...] = ((16, 32), (64, 128), (256, 512))
    steps: tuple[int, ...] = STRIDES
    variance: tuple[float, float] = (0.1, 0.2)

    branches: tuple[str, ...] = ("box", "landmarks")
    num_landmarks: int = 5
    num_vertices: int = 1103
    mesh_coefficients: int = 64
    initial_score: float = 0.01

    confidence_threshold: float = 0.02
    top_k: int = MAX_TOP_K
    nms_threshold: float = 0.4
    keep_top_k: int = 750

    def __post_init__(self) -> None:
        height, width = self.image_size
        if min(height, width) < STRIDES[-1]:
            raise ValueError(
                f"image_size {height}x{width} found, expected at least {STRIDES[-1]}x{STRIDES[-1]}"
            )
        _check_choice("resize", self.resize, RESIZES)
        _check_choice("backbone", self.backbone, BACKBONES)
        if self.fpn_channels <= 0 or self.fpn_channels % 4:
            raise ValueError(f"fpn_channels {self.fpn_channels} found, expected a multiple of 4")
        if (self.backbone == "small") != (len(self.backbone_channels) == 4):
            raise ValueError(
                f"backbone_channels {self.backbone_channels} found, expected four numbers for the "
                "backbone 'small', none for the others"
            )
        self._check_anchors()
        self._check_branches()
        self._check_selection()

    def _check_anchors(self) -> None:
        for name, values in (("min_sizes", self.min_sizes), ("steps", self.steps)):
            if len(values) != len(STRIDES):
                raise ValueError(
                    f"{name} {values} found, expected one entry for each of the strides {STRIDES}"
                )
        if not all(sizes and min(sizes) > 0 for sizes in self.min_sizes) or min(self.steps) <= 0:
            raise ValueError(
                f"min_sizes {self.min_sizes}, steps {self.steps} found, expected positive pixels, "
                "at least one size per level"
            )
        if min(self.variance) <= 0:
            raise ValueError(f"variance {self.variance} found, expected two positive numbers")

    def _check_branches(self) -> None:
        unknown = [name for name in self.branches if name not in BRANCHES]
        if unknown or "box" not in self.branches or len(set(self.branches)) < len(self.branches):
            raise ValueError(
                f"branches {self.branches} found, expected 'box' and some of {BRANCHES[1:]}, each once"
            )
        for name in ("num_landmarks", "num_vertices", "mesh_coefficients"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected at least 1")

    def _check_selection(self) -> None:
        for name in ("confidence_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 0 to 1")
        if not 0 < self.initial_score < 1:
            raise ValueError(f"initial_score {self.initial_score} found, expected between 0 and 1")
        for name in ("top_k", "keep_top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} found, expected at least 1")
        if min(self.top_k, self.num_anchors) > MAX_TOP_K:
            raise ValueError(
                f"top_k {self.top_k} found, expected at most {MAX_TOP_K}: TensorRT sorts no more. "
                f"Use top_k={MAX_TOP_K}, which differs only in pictures with more scores above "
                "confidence_threshold"
            )

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """Height and width of the map of each level."""
        height, width = self.image_size
        return [(-(-height // stride), -(-width // stride)) for stride in STRIDES]

    @property
    def num_anchors(self) -> int:
        """Anchors of a picture."""
        return sum(
            height * width * len(sizes)
            for (height, width), sizes in zip(self.map_sizes, self.min_sizes, strict=True)
        )

    @property
    def negative_slope(self) -> float:
        """Of the activations behind the backbone: a narrow neck has leaky ones (models/net.py)."""
        return 0.1 if self.fpn_channels <= 64 else 0.0


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} found, expected one of {', '.join(known)}")


TINY = RetinaFaceConfig(
    image_size=(192, 192),
    resize="letterbox",
    backbone="small",
    backbone_channels=(16, 32, 56, 80),
    fpn_channels=48,
    min_sizes=((12, 18), (27, 40), (60, 90)),
    branches=("box", "landmarks", "gender", "mesh"),
    num_vertices=169,
    mesh_coefficients=32,
    initial_score=0.5,
    keep_top_k=20,
    top_k=400,
)
PRESETS: Mapping[str, RetinaFaceConfig] = {
    "retinaface_mobilenet025": RetinaFaceConfig(),
    "retinaface_resnet50": RetinaFaceConfig(
        image_size=(840, 840), backbone="resnet50", fpn_channels=256
    ),
    "retinaface_tiny": TINY,
}
"""Model name -> its configuration."""
