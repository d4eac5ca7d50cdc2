"""The configuration of CornerNet and of CenterNet with key-point triplets, and that of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.models.labels import COCO_80, COCO_80_IDS
from edgeseg.models.layers.grey_levels import COCO_MEAN_BGR, COCO_STD_BGR
from edgeseg.models.layers.limits import MAX_TOP_K

KINDS = ("corners", "triplets")
BLOCKS = ("residual", "fire")
SOFT_NMS = ("gaussian", "original")


@dataclass(frozen=True, kw_only=True)
class CornerNetConfig:
    """Everything that tells one of these detectors from another.

    Input: ``image_size`` is height and width of the network input, each a multiple of `size_divisor`
    less one. A picture keeps its scale and lies in the middle, black around it; one that is too large is
    shrunk. (The originals make the input as large as each picture needs: 511x767 for most of COCO's.) ``mean`` and ``std`` are grey
    levels of blue, green, red. ``mirror_test`` lets the network see the mirrored picture as well.

    Labels: ``labels`` names every class number and ``category_ids`` gives its COCO id.

    Network: ``kind`` is "corners", or "triplets" of two corners and a centre, with cascade corner
    pooling. ``num_stacks`` hourglasses have ``widths`` and ``num_blocks`` at each depth, the blocks
    being "residual" or "fire" modules with transposed convolutions. ``stem_blocks`` residuals of
    stride 2 lie in front, ``pool_width`` channels in the branches of corner pooling, and
    ``head_channels`` behind the first convolution of each head, whose kernel is ``head_kernel``.

    Detections: the best ``top_k`` key points of each kind make up to ``max_pairs`` boxes, of corners
    whose embeddings differ by ``embedding_threshold`` at most. ``soft_nms`` leaves ``max_detections`` of
    them: "gaussian", or "original" with the rows that the originals' function leaves behind.
    """

    image_size: tuple[int, int] = (511, 767)
    mirror_test: bool = True
    mean: tuple[float, float, float] = COCO_MEAN_BGR
    std: tuple[float, float, float] = COCO_STD_BGR

    num_classes: int = 80
    labels: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    kind: str = "corners"
    num_stacks: int = 2
    widths: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
    num_blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
    block: str = "residual"
    stem_blocks: int = 1
    pool_width: int = 128
    head_channels: int = 256
    head_kernel: int = 3

    top_k: int = 100
    max_pairs: int = 1000
    embedding_threshold: float = 0.5
    soft_nms: str = "gaussian"
    max_detections: int = 100

    def __post_init__(self) -> None:
        self._check_network()
        self._check_size()
        self._check_bounds()
        for name in ("labels", "category_ids"):
            values = getattr(self, name)
            if values and len(values) != self.num_classes:
                raise ValueError(
                    f"{name} with {len(values)} entries found, expected {self.num_classes}"
                )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std {self.std} found, expected positive grey levels")

    @property
    def stride(self) -> int:
        """Network pixels a place of the maps."""
        return 2 ** (1 + self.stem_blocks)

    @property
    def size_divisor(self) -> int:
        """Both sides of the network input are multiples of it, less one."""
        return int(self.stride * 2 ** (len(self.widths) - 1))

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return (self.image_size[0] + 1) // self.stride, (self.image_size[1] + 1) // self.stride

    @property
    def num_candidates(self) -> int:
        """Boxes that leave the graph."""
        return self.max_pairs * (2 if self.mirror_test else 1)

    @property
    def num_centers(self) -> int:
        """Centres that leave the graph, with kind "triplets"."""
        return self.top_k * (2 if self.mirror_test else 1)

    @property
    def key_points(self) -> tuple[str, ...]:
        """What there are heat maps of."""
        corners = ("top_left", "bottom_right")
        return (*corners, "center") if self.kind == "triplets" else corners

    @property
    def head_maps(self) -> dict[str, int]:
        """Head -> number of its maps."""
        maps = {f"{point}_heatmap": self.num_classes for point in self.key_points}
        maps |= {f"{point}_embedding": 1 for point in self.key_points if point != "center"}
        return maps | {f"{point}_offset": 2 for point in self.key_points}

    def _check_network(self) -> None:
        for name, choices in (("kind", KINDS), ("block", BLOCKS), ("soft_nms", SOFT_NMS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} found, expected one of {', '.join(choices)}"
                )
        for name, numbers in (("num_stacks", (1, 2)), ("head_kernel", (1, 3))):
            if getattr(self, name) not in numbers:
                raise ValueError(f"{name} {getattr(self, name)} found, expected 1 or {numbers[-1]}")
        if len(self.widths) < 2 or len(self.widths) != len(self.num_blocks):
            raise ValueError(
                f"widths {self.widths} and num_blocks {self.num_blocks} found, expected two or more "
                "numbers each, as many of one as of the other"
            )
        names = ("num_classes", "stem_blocks", "pool_width", "head_channels")
        small = {name: value for name in names if (value := getattr(self, name)) < 1}
        small |= {
            name: min(values)
            for name in ("widths", "num_blocks")
            if min(values := getattr(self, name)) < 1
        }
        if small:
            name, value = next(iter(small.items()))
            raise ValueError(f"{name} {value} found, expected at least 1")

    def _check_size(self) -> None:
        divisor = self.size_divisor
        height, width = self.image_size
        if any((side + 1) % divisor or side < 1 for side in self.image_size):
            up = (max(1, -(-(side + 1) // divisor)) * divisor - 1 for side in self.image_size)
            raise ValueError(
                f"image_size {height}x{width} found, expected multiples of {divisor} less one: "
                f"use {'x'.join(map(str, up))}"
            )

    def _check_bounds(self) -> None:
        height, width = self.map_size
        for name, limit, of in (
            ("top_k", height * width, f"maps of {height * width} places"),
            ("max_pairs", self.top_k**2, f"the pairs of {self.top_k} corners"),
            ("max_detections", self.num_candidates, "the candidates"),
        ):
            limit = min(limit, MAX_TOP_K)
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(
                    f"{name} {getattr(self, name)} found, expected 1 to {limit} for {of}"
                )
        if not self.embedding_threshold >= 0:
            raise ValueError(
                f"embedding_threshold {self.embedding_threshold} found, expected at least 0"
            )


CORNERNET_HOURGLASS104 = CornerNetConfig(labels=COCO_80, category_ids=COCO_80_IDS)
TRIPLET_HOURGLASS104 = replace(CORNERNET_HOURGLASS104, kind="triplets", top_k=70)
PRESETS: Mapping[str, CornerNetConfig] = {
    "cornernet_hourglass104": CORNERNET_HOURGLASS104,
    "cornernet_squeeze": replace(
        CORNERNET_HOURGLASS104,
        mirror_test=False,
        widths=(256, 256, 384, 384, 512),
        num_blocks=(2, 2, 2, 2, 4),
        block="fire",
        stem_blocks=2,
        head_kernel=1,
        top_k=20,
        max_pairs=100,
    ),
    "centernet_triplet_hourglass52": replace(TRIPLET_HOURGLASS104, num_stacks=1),
    "centernet_triplet_hourglass104": TRIPLET_HOURGLASS104,
}
"""Model name -> its configuration."""
