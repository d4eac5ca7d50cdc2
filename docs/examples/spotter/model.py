"""Spotter: objects as points, with the share of its box that each of them fills.

Shape suffixes: B pictures, C channels, Y classes, H W a map of stride 8, K results.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.heatmaps import suppress_neighbours
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.peaks import take_places, top_peaks
from edgeseg.models.reference import ReferenceModel, check_image_size
from spotter.config import STRIDE, SpotterConfig

NORM_EPS = 1e-5
GREY, CONTRAST = 114.0, 58.0
MAX_LOG_SIZE = 4.0  # e^4 places of a map: keeps an overflow out of the results


class Body(nn.Module):
    """Convolutions down to stride 16, and the coarsest map added to the one of stride 8."""

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        w2, w4, w8, w16 = widths
        self.stem = nn.Sequential(_conv(3, w2, stride=2), _conv(w2, w4, stride=2))
        self.fine = nn.Sequential(_conv(w4, w8, stride=2), _conv(w8, w8))
        self.coarse = nn.Sequential(_conv(w8, w16, stride=2), _conv(w16, w16))
        self.lateral = ConvNorm(w16, w8, kernel_size=1, norm_eps=NORM_EPS, relu=False)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Return (B, widths[2], H / 8, W / 8)."""
        fine = self.fine(self.stem(x_B3HW))
        context = self.lateral(self.coarse(fine))
        return torch.relu(fine + F.interpolate(context, scale_factor=2))


class Head(nn.Module):
    """A 3x3 convolution and a 1x1 convolution that says everything about every place."""

    def __init__(self, in_channels: int, channels: int, num_maps: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, channels)
        self.predictor = nn.Conv2d(channels, num_maps, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, num_maps, H, W)."""
        return self.predictor(self.conv(x_BCHW))


class Spotter(ReferenceModel):
    """A detector whose objects are the peaks of heat maps, with a fixed number of results."""

    outputs = ("boxes", "scores", "labels", "fill")

    def __init__(self, name: str, config: SpotterConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.normalize = ImageNormalization((GREY,) * 3, (CONTRAST,) * 3, order="bgr")
        self.body = Body(config.widths)
        self.maps = {"heatmap": config.num_classes, "size": 2, "offset": 2, "fill_logit": 1}
        self.head = Head(config.widths[2], config.head_channels, sum(self.maps.values()))
        assert self.head.predictor.bias is not None
        nn.init.constant_(self.head.predictor.bias[: config.num_classes], -2.19)  # few are centres

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results have ``max_detections`` rows K: boxes (B, K, 4) x1 y1 x2 y2 in network pixels;
        scores (B, K) falling, 0 in empty rows; labels (B, K) int32 from 0; fill (B, K), the share of
        its box that an object fills.

        Args:
            image: (B, H, W, 3) uint8 BGR, the picture at the top left.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        stages = self.head_stages(image)
        return stages | decode(stages, self.config.max_detections)

    def head_stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the stages up to the maps of the head, (B, ..., H, W): what training looks at.

        heatmap (logits), size (logarithms) and offset in places of the map, fill_logit.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image)}
        stages["body"] = self.body(stages["input"])
        maps = self.head(stages["body"]).split(list(self.maps.values()), dim=1)
        return stages | dict(zip(self.maps, maps, strict=True))


def decode(maps: dict[str, Tensor], max_detections: int) -> dict[str, Tensor]:
    """Return the results of :meth:`Spotter.stages` from the maps of the head."""
    centres = top_peaks(suppress_neighbours(maps["heatmap"].sigmoid()), max_detections)
    is_found_BK = centres.score > 0
    place_BK2 = torch.stack((centres.column, centres.row), dim=-1)
    middle_BK2 = place_BK2 + take_places(maps["offset"], centres.place)
    half_BK2 = take_places(maps["size"], centres.place).clamp(max=MAX_LOG_SIZE).exp() / 2
    boxes_BK4 = STRIDE * torch.cat((middle_BK2 - half_BK2, middle_BK2 + half_BK2), dim=-1)
    fill_BK = take_places(maps["fill_logit"], centres.place)[..., 0].sigmoid()
    return {
        "boxes": torch.where(is_found_BK[..., None], boxes_BK4, 0.0),
        "scores": centres.score,
        "labels": torch.where(is_found_BK, centres.label, 0).to(torch.int32),
        "fill": torch.where(is_found_BK, fill_BK, 0.0),
    }


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> ConvNorm:
    return ConvNorm(in_channels, out_channels, stride=stride, norm_eps=NORM_EPS)
