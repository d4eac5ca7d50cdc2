"""RetinaFace: faces, five landmarks, and the further branches that one asks for, in one stage.

Shape suffixes: B pictures, N anchors, T candidates, K results, L landmarks, C channels, M mesh coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.anchors import grid_anchors
from edgeseg.models.layers.boxes import decode_boxes, take_rows
from edgeseg.models.layers.conv import ConvNorm, dense
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.mobilenet import MobileNetV1
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.reference import Candidates, ReferenceModel, check_image_size
from edgeseg.models.retinaface.config import BRANCHES, STRIDES, RetinaFaceConfig
from edgeseg.ops import nms

NORM_EPS = 1e-5


class RetinaFace(ReferenceModel):
    """A one-stage face detector with a fixed number of results.

    The module works on one picture size, ``config.image_size``: every shape of its graph is known
    when it is exported.
    """

    threshold_option = "confidence_threshold"
    anchors: Tensor

    def __init__(self, name: str, config: RetinaFaceConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.normalize = ImageNormalization(config.mean, (1.0, 1.0, 1.0), order="bgr")
        self.backbone: ResNet | SmallResNet | MobileNetV1 = _backbone(config)
        channels, slope = config.fpn_channels, config.negative_slope
        self.pyramid = Pyramid(
            self.backbone.channels[-len(STRIDES) :], channels, negative_slope=slope
        )
        self.context = nn.ModuleList(ContextModule(channels, negative_slope=slope) for _ in STRIDES)
        self.class_heads = self._heads(2)
        for head in self.class_heads:
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            with torch.no_grad():
                head.bias[1::2] += math.log(config.initial_score / (1 - config.initial_score))
        self.box_heads = self._heads(4)
        num_landmarks = config.num_landmarks if self.has("landmarks") else 0
        self.landmark_heads = self._heads(2 * num_landmarks) if num_landmarks else None
        self.gender_heads = self._heads(1) if self.has("gender") else None
        self.mesh_heads = self.mesh_decoder = None
        if self.has("mesh"):
            self.mesh_heads = self._heads(config.mesh_coefficients)
            self.mesh_decoder = nn.Linear(config.mesh_coefficients, 3 * config.num_vertices)
        self.register_buffer("anchors", anchors_of(config), persistent=False)
        self.score_threshold = config.confidence_threshold
        self.outputs = (
            "boxes",
            "scores",
            "labels",
            *(branch for branch in BRANCHES[1:] if self.has(branch)),
        )

    def has(self, branch: str) -> bool:
        """Tell whether the model has this branch."""
        return branch in self.config.branches

    def _heads(self, values: int) -> nn.ModuleList:
        """Return a 1x1 convolution per level that gives each anchor so many values."""
        return nn.ModuleList(
            nn.Conv2d(self.config.fpn_channels, len(sizes) * values, 1)
            for sizes in self.config.min_sizes
        )

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results have ``keep_top_k`` rows K: boxes (B, K, 4) x1 y1 x2 y2 in network pixels, not
        clipped; scores (B, K) falling, 0 in empty rows; labels (B, K) int32, 1 for a face; and of
        the branches that the model has: landmarks (B, K, L, 2) x y in network pixels; gender (B, K),
        the probability of label 1; mesh (B, K, V, 3) x y z in network pixels, z away from the camera.

        Args:
            image: (B, H, W, 3) uint8 BGR, the picture at the top left.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        stages = self.head_stages(image)
        return stages | self._select(stages)

    def head_stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the stages up to what the heads say of each anchor, before any decoding.

        The last ones are box_deltas (B, N, 4); class_logits (B, N, 2), background first; and of the
        branches landmark_deltas (B, N, 2 L), gender_logits (B, N, 1), mesh_coefficients (B, N, M).

        Args:
            image: (B, H, W, 3) uint8 BGR, the picture at the top left.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image)}
        features = self.backbone(stages["input"])[-len(STRIDES) :]
        stages |= {f"c{level}": feature for level, feature in enumerate(features, 3)}
        pyramid = self.pyramid(features)
        stages |= {f"p{level}": feature for level, feature in enumerate(pyramid, 3)}
        contexts = [module(p) for module, p in zip(self.context, pyramid, strict=True)]
        stages |= {f"context_p{level}": context for level, context in enumerate(contexts, 3)}
        heads = {
            "box_deltas": self.box_heads,
            "class_logits": self.class_heads,
            "landmark_deltas": self.landmark_heads,
            "gender_logits": self.gender_heads,
            "mesh_coefficients": self.mesh_heads,
        }
        return stages | {
            name: self._per_anchor(levels, contexts)
            for name, levels in heads.items()
            if levels is not None
        }

    def mesh_shifts(self, coefficients_BKM: Tensor) -> Tensor:
        """Return the vertices (B, K, V, 3) that the coefficients stand for, in anchor sizes.

        Regressing the vertices as the camera sees them is what the paper does (RetinaFace, CVPR 2020,
        "3D vertices regression"). With a linear basis of M shapes, a head has V * 3 / M times fewer
        outputs per anchor, and only faces that are kept are decoded.
        Twelve shapes hold all poses of a rigid head under weak perspective, whose vertices are linear
        in the entries of scaled rotation and shift; the others are for persons and expressions.
        """
        assert self.mesh_decoder is not None
        shifts_BVK = dense(coefficients_BKM.transpose(1, 2), self.mesh_decoder)
        num_rows = coefficients_BKM.shape[1]
        return shifts_BVK.transpose(1, 2).reshape(-1, num_rows, self.config.num_vertices, 3)

    def _per_anchor(self, heads: nn.ModuleList, contexts: Sequence[Tensor]) -> Tensor:
        """Return the heads' values (B, N, values); order level, y, x, anchor."""
        maps = []
        for head, context, sizes in zip(heads, contexts, self.config.min_sizes, strict=True):
            values_BHWC = head(context).permute(0, 2, 3, 1)
            _, height, width, channels = values_BHWC.shape
            num_rows = height * width * len(sizes)
            maps.append(values_BHWC.reshape(-1, num_rows, channels // len(sizes)))
        return torch.cat(maps, dim=1)

    def candidates(self, stages: Mapping[str, Tensor]) -> Candidates:
        """Return the anchors' boxes of the first picture that suppression chooses from."""
        config = self.config
        scores_N = self._scores(stages["class_logits"])[0]
        rows = (scores_N > 0).nonzero()[:, 0]
        lowest = config.confidence_threshold
        if len(rows) > config.top_k:
            lowest = float(scores_N.topk(config.top_k).values[-1])
        return Candidates(
            boxes=self._boxes(stages["box_deltas"][0, rows], self.anchors[rows]),
            scores=scores_N[rows],
            labels=torch.ones_like(rows, dtype=torch.int32),
            score_threshold=lowest,
            iou_threshold=config.nms_threshold,
            pixel=1.0,
        )

    def _scores(self, logits_BN2: Tensor) -> Tensor:
        """Return the scores (B, N) of a face, 0 where they are not above the threshold."""
        # The softmax over two classes; NaN is not a candidate, and TopK would put it first.
        scores_BN = (logits_BN2[..., 1] - logits_BN2[..., 0]).sigmoid()
        return torch.where(scores_BN > self.config.confidence_threshold, scores_BN, 0.0)

    def _boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Return the boxes (..., 4) x1 y1 x2 y2 that deltas (..., 4) make of anchors (..., 4)."""
        shift, scale = self.config.variance
        weights = (1 / shift, 1 / shift, 1 / scale, 1 / scale)
        return decode_boxes(deltas, anchors, weights=weights)

    def _select(self, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the results: the best faces of each picture, and the branches decoded for them."""
        config = self.config
        shift = config.variance[0]
        scores_BN = self._scores(heads["class_logits"])
        scores_BT, order_BT = best_first(scores_BN, min(config.top_k, scores_BN.shape[1]))
        boxes_BT4 = self._boxes(take_rows(heads["box_deltas"], order_BT), self.anchors[order_BT])
        kept_BK, is_kept_BK = nms_plus_one(
            boxes_BT4,
            scores_BT,
            iou_threshold=config.nms_threshold,
            max_output=config.keep_top_k,
            score_threshold=config.confidence_threshold,
        )
        anchor_BK = order_BT.gather(1, kept_BK)
        anchors_BK4 = self.anchors[anchor_BK]
        found = {
            "boxes": take_rows(boxes_BT4, kept_BK),
            "scores": scores_BT.gather(1, kept_BK),
            "labels": torch.ones_like(kept_BK, dtype=torch.int32),
        }
        if self.has("landmarks"):
            deltas_BKC = take_rows(heads["landmark_deltas"], anchor_BK)
            shifts_BKL2 = deltas_BKC.reshape(-1, config.keep_top_k, config.num_landmarks, 2)
            found["landmarks"] = decode_points(shifts_BKL2, anchors_BK4, variance=shift)
        if self.has("gender"):
            found["gender"] = heads["gender_logits"].squeeze(-1).gather(1, anchor_BK).sigmoid()
        if self.has("mesh"):
            coefficients_BKM = take_rows(heads["mesh_coefficients"], anchor_BK)
            shifts_BKV3 = self.mesh_shifts(coefficients_BKM)
            found["mesh"] = decode_points(shifts_BKV3, anchors_BK4)
        return {name: _clear(rows, is_kept_BK) for name, rows in found.items()}


class Pyramid(nn.Module):
    """Top-down pyramid that merges level by level: the merged map, not its lateral, goes on down.

    models/net.py of the original. The coarsest level has no merging convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, negative_slope: float
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNorm(
                channels,
                out_channels,
                kernel_size=1,
                norm_eps=NORM_EPS,
                negative_slope=negative_slope,
            )
            for channels in in_channels
        )
        self.merge = nn.ModuleList(
            ConvNorm(out_channels, out_channels, norm_eps=NORM_EPS, negative_slope=negative_slope)
            for _ in in_channels[:-1]
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return one map per input, fine to coarse, each (B, out_channels, H_level, W_level)."""
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in range(len(maps) - 2, -1, -1):
            coarse = F.interpolate(maps[level + 1], size=maps[level].shape[-2:])
            maps[level] = self.merge[level](maps[level] + coarse)
        return maps


class ContextModule(nn.Module):
    """Fields of view of 3, 5 and 7 pixels side by side (SSH: Najibi et al., 2017, section 3.3)."""

    def __init__(self, channels: int, *, negative_slope: float) -> None:
        super().__init__()
        quarter = channels // 4

        def conv(in_channels: int, out_channels: int, *, relu: bool) -> ConvNorm:
            return ConvNorm(
                in_channels,
                out_channels,
                norm_eps=NORM_EPS,
                relu=relu,
                negative_slope=negative_slope,
            )

        self.wide3 = conv(channels, channels // 2, relu=False)
        self.shared = conv(channels, quarter, relu=True)
        self.wide5 = conv(quarter, quarter, relu=False)
        self.wide7 = nn.Sequential(
            conv(quarter, quarter, relu=True), conv(quarter, quarter, relu=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, channels, H, W)."""
        shared = self.shared(x_BCHW)
        together = torch.cat([self.wide3(x_BCHW), self.wide5(shared), self.wide7(shared)], dim=1)
        return torch.relu(together)  # never leaky, as in the original


def anchors_of(config: RetinaFaceConfig) -> Tensor:
    """Return the anchors (N, 4) x1 y1 x2 y2; order level, y, x, size; not clipped."""
    levels = []
    for map_size, sizes, step in zip(config.map_sizes, config.min_sizes, config.steps, strict=True):
        half_A = torch.tensor(sizes, dtype=torch.float32) / 2
        base_A4 = step / 2 + torch.stack([-half_A, -half_A, half_A, half_A], dim=1)
        levels.append(grid_anchors(base_A4, map_size, (step, step)))
    return torch.cat(levels)


def decode_points(shifts: Tensor, anchors: Tensor, *, variance: float = 1.0) -> Tensor:
    """Return the points (..., P, D) that ``shifts`` (..., P, D) make of ``anchors`` (..., 4).

    Shifts count from the anchor's centre in anchor sizes, times ``variance``. A third coordinate is
    measured in widths and counts from 0.
    """
    origins, units = _point_frame(anchors, shifts.shape[-1])
    return origins + shifts * variance * units


def encode_points(points: Tensor, anchors: Tensor, *, variance: float = 1.0) -> Tensor:
    """Return the shifts (..., P, D) with which :func:`decode_points` gives ``points`` back."""
    origins, units = _point_frame(anchors, points.shape[-1])
    return (points - origins) / units / variance


def _point_frame(anchors: Tensor, num_coordinates: int) -> tuple[Tensor, Tensor]:
    """Return origin and unit of each anchor's points, each (..., 1, num_coordinates)."""
    sizes = (anchors[..., 2:] - anchors[..., :2])[..., None, :]
    centers = anchors[..., None, :2] + 0.5 * sizes
    if num_coordinates == 2:
        return centers, sizes
    return F.pad(centers, (0, 1)), torch.cat([sizes, sizes[..., :1]], dim=-1)


def best_first(scores_BN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best scores (B, count) and their places; of equal ones the later comes first.

    So does a NumPy sort that is read backwards, as the original's (detect.py), if it is stable.
    """
    backwards_BN = scores_BN.flip(1)
    if torch.onnx.is_in_onnx_export():
        best_BT, place_BT = backwards_BN.topk(count, dim=1)  # ONNX puts equal scores in their order
    else:
        best_BT, place_BT = backwards_BN.sort(dim=1, descending=True, stable=True)
    return best_BT[:, :count], scores_BN.shape[1] - 1 - place_BT[:, :count]


def nms_plus_one(
    boxes_BT4: Tensor,
    scores_BT: Tensor,
    *,
    iou_threshold: float,
    max_output: int,
    score_threshold: float,
) -> tuple[Tensor, Tensor]:
    """Return indices and validity (B, max_output) of suppression that counts pixels, as the original.

    utils/nms/py_cpu_nms.py takes x2 - x1 + 1 for a width: those are the areas and intersections of
    boxes that reach one pixel further. Its comparison is one of float32.
    """
    longer_BT4 = boxes_BT4 + boxes_BT4.new_tensor([0.0, 0.0, 1.0, 1.0])
    return nms(
        longer_BT4,
        scores_BT,
        iou_threshold=float(np.float32(iou_threshold)),
        max_output=max_output,
        score_threshold=score_threshold,
    )


def _clear(rows: Tensor, is_kept_BK: Tensor) -> Tensor:
    """Return ``rows`` (B, K, ...) with zeros in those that hold nothing."""
    shape = (*is_kept_BK.shape, *[1] * (rows.dim() - 2))
    return torch.where(is_kept_BK.reshape(shape), rows, 0)


def _backbone(config: RetinaFaceConfig) -> ResNet | SmallResNet | MobileNetV1:
    if config.backbone == "mobilenet025":
        return MobileNetV1(width=0.25, norm_eps=NORM_EPS, negative_slope=0.1)
    if config.backbone == "small":
        return SmallResNet(config.backbone_channels, norm_eps=NORM_EPS)
    return ResNet(50, stride_in_1x1=False, norm_eps=NORM_EPS)
