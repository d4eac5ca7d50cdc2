"""CornerNet (Law and Deng, 2018, arXiv 1808.01244) and CenterNet of key-point triplets (Duan et al., 2019, arXiv 1904.08189).

Shape suffixes: B pictures, V views of a picture (itself, then mirrored), C channels, H W a map,
K key points of a kind, N pairs of corners.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.models.cornernet.config import CornerNetConfig
from edgeseg.models.layers.conv import MapHead
from edgeseg.models.layers.corner_pairs import KeyPoints, Pairs, find_key_points, pair_corners
from edgeseg.models.layers.corner_pools import (
    CascadeCornerPool,
    CenterPool,
    CornerPool,
    PooledBranches,
)
from edgeseg.models.layers.hourglass104 import FireModule, StackedHourglass, residual
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.peaks import take_places
from edgeseg.models.reference import ReferenceModel, check_image_size

NORM_EPS = 1e-5
HEATMAP_BIAS = -2.19
"""Of an untrained model: almost nowhere is a corner."""


class CornerNet(ReferenceModel):
    """A detector whose objects are pairs of corners, with a fixed number of candidates.

    Soft-NMS, and the centre check of triplets, are the runtime's.

    The module works on one picture size, ``config.image_size``: every shape of its graph is known
    when it is exported.
    """

    mirror: Tensor

    def __init__(self, name: str, config: CornerNetConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.normalize = ImageNormalization(config.mean, config.std, order="bgr")
        self.backbone = StackedHourglass(
            num_stacks=config.num_stacks,
            widths=config.widths,
            num_blocks=config.num_blocks,
            stem_blocks=config.stem_blocks,
            make_block=FireModule if config.block == "fire" else residual,
            has_deconv=config.block == "fire",
        )
        self.pools = nn.ModuleDict({point: _pool(point, config) for point in config.key_points})
        self.heads = nn.ModuleDict(
            {
                head: MapHead(
                    config.widths[0], config.head_channels, num_maps, kernel_size=config.head_kernel
                )
                for head, num_maps in config.head_maps.items()
            }
        )
        for point in config.key_points:
            nn.init.constant_(self.heads[f"{point}_heatmap"].predictor.bias, HEATMAP_BIAS)  # type: ignore[arg-type, union-attr]  # it has one
        backwards = torch.arange(config.image_size[1] - 1, -1, -1)
        self.register_buffer("mirror", backwards, persistent=False)
        centers = ("centers",) if config.kind == "triplets" else ()
        self.outputs = (*centers, "boxes", "scores", "labels")

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the candidates of each picture, and before them every intermediate stage.

        There are `num_candidates` rows N, those of the picture before those of its mirrored copy,
        each best first: boxes (B, N, 4) x1 y1 x2 y2 in network pixels, not clipped; scores (B, N), 0
        in empty rows; labels (B, N) int32 from 0. With triplets there are also centers (B, C, 4): x, y
        in network pixels, score, label.

        Args:
            image: (B, H, W, 3) uint8 BGR, the picture in its place.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        views_V3HW = self.normalize(image)
        if self.config.mirror_test:
            views_V3HW = torch.cat([views_V3HW, views_V3HW.index_select(3, self.mirror)])
        stages = {"input": views_V3HW}
        stages |= self.features(views_V3HW)
        stages |= self.predict(stages["features"])
        return stages | self.decode(stages)

    def features(self, x_V3HW: Tensor) -> dict[str, Tensor]:
        """Return the maps behind each hourglass; the last ones feed the heads."""
        *before, last = self.backbone(x_V3HW)
        return {f"hourglass{number}": maps for number, maps in enumerate(before)} | {
            "features": last
        }

    def predict(self, features_VCHW: Tensor) -> dict[str, Tensor]:
        """Return the pooled maps of each kind of key point, and those of every head.

        Heat maps are logits, offsets are in places of the maps.
        """
        pooled = {point: pool(features_VCHW) for point, pool in self.pools.items()}
        heads = {name: head(pooled[name.rpartition("_")[0]]) for name, head in self.heads.items()}
        return {f"{point}_pool": maps for point, maps in pooled.items()} | heads

    def decode(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the results of `stages` from the maps of every head."""
        points = {
            point: find_key_points(
                maps[f"{point}_heatmap"], maps[f"{point}_offset"], self.config.top_k
            )
            for point in self.config.key_points
        }
        first, last = points["top_left"], points["bottom_right"]
        pairs = pair_corners(
            first,
            last,
            take_places(maps["top_left_embedding"], first.index),
            take_places(maps["bottom_right_embedding"], last.index),
            max_distance=self.config.embedding_threshold,
            count=self.config.max_pairs,
        )
        results = {"centers": self._centers(points["center"])} if "center" in points else {}
        return results | self._candidates(pairs)

    def _candidates(self, pairs: Pairs) -> dict[str, Tensor]:
        boxes, scores, labels = pairs.boxes, pairs.scores, pairs.labels
        if self.config.mirror_test:
            boxes, mirrored_BN4 = _views(boxes)
            x1, y1, x2, y2 = mirrored_BN4.chunk(4, dim=-1)
            width = float(self.config.map_size[1])
            mirrored_BN4 = torch.cat([width - x2, y1, width - x1, y2], dim=-1)
            boxes = torch.cat([boxes, mirrored_BN4], dim=1)
            scores, labels = (torch.cat(_views(each), dim=1) for each in (scores, labels))
        boxes = boxes * self._place_size(boxes, 2)
        return {
            "boxes": torch.where(scores[..., None] > 0, boxes, 0.0),
            "scores": scores,
            "labels": labels.to(torch.int32),
        }

    def _centers(self, centers: KeyPoints) -> Tensor:
        """Return x, y in network pixels, score and label of all centres, (B, C, 4)."""
        place = centers.place
        score_and_label = torch.stack((centers.score, centers.label.to(place.dtype)), dim=-1)
        if self.config.mirror_test:
            place, mirrored = _views(place)
            x, y = mirrored.chunk(2, dim=-1)
            mirrored = torch.cat([float(self.config.map_size[1]) - x, y], dim=-1)
            place = torch.cat([place, mirrored], dim=1)
            score_and_label = torch.cat(_views(score_and_label), dim=1)
        return torch.cat([place * self._place_size(place, 1), score_and_label], dim=-1)

    def _place_size(self, like: Tensor, times: int) -> Tensor:
        """Return network pixels of a place of the maps: x, y, as many times as asked for.

        A little less than the stride, since the sides of the input are odd.
        """
        (height, width), (rows, columns) = self.config.image_size, self.config.map_size
        return like.new_tensor([width / columns, height / rows] * times)


def _views(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what belongs to the pictures, and to their mirrored copies."""
    own, mirrored = x.reshape(2, -1, *x.shape[1:]).unbind()
    return own, mirrored


def _pool(point: str, config: CornerNetConfig) -> PooledBranches:
    channels, width = config.widths[0], config.pool_width
    if point == "center":
        return CenterPool(channels, width, norm_eps=NORM_EPS)
    pool = CascadeCornerPool if config.kind == "triplets" else CornerPool
    return pool(channels, width, point, norm_eps=NORM_EPS)
