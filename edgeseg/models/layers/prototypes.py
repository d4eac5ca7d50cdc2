"""Masks as linear combinations of prototypes (Bolya et al., 2019, arXiv 1904.02689), and their scores.

Shape suffixes: B pictures, N priors, Y classes, K detections, C channels or prototypes, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.limits import SCORER_CHANNELS

CROP_MARGIN = 1.0
"""Prototype pixels that a mask may reach beyond its box (layers/box_utils.py)."""


class ProtoNet(nn.Module):
    """The prototypes of a picture at twice the resolution of its finest map."""

    def __init__(self, in_channels: int, num_prototypes: int, *, channels: int = 256) -> None:
        super().__init__()
        widths = (in_channels, channels, channels, channels)
        self.convs = nn.Sequential(*(ConvNorm(*widths_io) for widths_io in pairwise(widths)))
        self.refine = ConvNorm(channels, channels)
        self.output = ConvNorm(channels, num_prototypes, kernel_size=1)

    def forward(self, p3_BCHW: Tensor) -> Tensor:
        """Return (B, num_prototypes, 2 H, 2 W), not negative."""
        x_BCHW = self.convs(p3_BCHW)
        x_BCHW = F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.output(self.refine(x_BCHW))


class PredictionHead(nn.Module):
    """Class logits, box deltas and mask coefficients of every prior; all levels share it."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_anchors: int,
        num_logits: int,
        num_prototypes: int,
        channels: int = 256,
    ) -> None:
        super().__init__()
        self.hidden = ConvNorm(in_channels, channels)
        self.boxes = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        self.classes = nn.Conv2d(channels, num_anchors * num_logits, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, num_anchors * num_prototypes, 3, padding=1)
        self.num_anchors = num_anchors

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, N, num_logits), box deltas (B, N, 4), coefficients (B, N, num_prototypes).

        Priors are ordered by level, y, x, anchor. The coefficients are before their tanh.
        """
        hidden = [self.hidden(feature) for feature in pyramid]
        layers = (self.classes, self.boxes, self.coefficients)
        logits, deltas, coefficients = (
            torch.cat([self._rows(layer(h_BCHW)) for h_BCHW in hidden], dim=1) for layer in layers
        )
        return logits, deltas, coefficients

    def _rows(self, map_BCHW: Tensor) -> Tensor:
        """Return the values of each prior, (B, H * W * num_anchors, values); channels are anchor-major."""
        num_values = map_BCHW.shape[1] // self.num_anchors
        return map_BCHW.permute(0, 2, 3, 1).reshape(map_BCHW.shape[0], -1, num_values)


class MaskScorer(nn.Module):
    """How well each mask fits its object, for every class (YOLACT++: FastMaskIoUNet in yolact.py)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(*channels, 3, stride=2) for channels in pairwise(SCORER_CHANNELS)
        )
        self.convs.append(nn.Conv2d(SCORER_CHANNELS[-1], num_classes, 1))

    def forward(self, masks_BKHW: Tensor) -> Tensor:
        """Return (B, K, num_classes), not negative, of cropped probabilities."""
        x = masks_BKHW.flatten(0, 1)[:, None]
        for conv in self.convs:
            x = torch.relu(conv(x))
        return x.amax(dim=(2, 3)).reshape(*masks_BKHW.shape[:2], -1)


def assemble_masks(prototypes_BCHW: Tensor, coefficients_BKC: Tensor) -> Tensor:
    """Return the probabilities (B, K, H, W) of masks that mix the prototypes.

    As a 1x1 convolution whose kernels are the coefficients: TensorRT-RTX has no float32 matrix product
    for Turing.
    """
    pictures, num_prototypes, height, width = prototypes_BCHW.shape
    if isinstance(pictures, int):
        kernels = coefficients_BKC.reshape(-1, num_prototypes, 1, 1)
        maps_1CHW = prototypes_BCHW.reshape(1, -1, height, width)
        logits = F.conv2d(maps_1CHW, kernels, groups=pictures)
    else:  # a batch axis that an export leaves free cannot be a number of groups
        logits = coefficients_BKC @ prototypes_BCHW.flatten(2)
    return logits.reshape(pictures, -1, height, width).sigmoid()


def crop_masks(masks_BKHW: Tensor, boxes_BK4: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the masks, zero outside their boxes and a margin of a prototype pixel.

    Args:
        masks_BKHW: masks over the network input.
        boxes_BK4: x1 y1 x2 y2 in network pixels.
        image_size: height and width of the network input.
    """
    height, width = masks_BKHW.shape[-2:]
    x1, y1, x2, y2 = boxes_BK4.unbind(-1)
    rows_BKH = _is_within(y1 * (height / image_size[0]), y2 * (height / image_size[0]), height)
    columns_BKW = _is_within(x1 * (width / image_size[1]), x2 * (width / image_size[1]), width)
    return masks_BKHW * rows_BKH[..., None] * columns_BKW[..., None, :]


def _is_within(low_BK: Tensor, high_BK: Tensor, size: int) -> Tensor:
    """Return (B, K, size) floats: 1 for the places from ``low_BK`` to ``high_BK`` and the margin.

    Bounds are neither rounded nor cut at the border of the map, where no place is.
    """
    places = torch.arange(size, dtype=low_BK.dtype, device=low_BK.device)
    low_BK1 = torch.minimum(low_BK, high_BK)[..., None] - CROP_MARGIN
    high_BK1 = torch.maximum(low_BK, high_BK)[..., None] + CROP_MARGIN
    return ((places >= low_BK1) & (places < high_BK1)).to(low_BK.dtype)
