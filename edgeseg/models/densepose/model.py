"""DensePose R-CNN with charts, as detectron2 runs it.

Shape suffixes: B pictures, R regions, K detections, C channels, S side of a region's map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.models.densepose.config import NORM_GROUPS, DensePoseConfig
from edgeseg.models.layers.conv import ConvNorm
from edgeseg.models.layers.roi_heads import fold_regions, unfold_regions
from edgeseg.models.maskrcnn.config import DETECT, STRIDES
from edgeseg.models.maskrcnn.detector import RegionDetector
from edgeseg.ops import atlas_roi_align
from edgeseg.ops.pyramid_atlas import atlas_layout

SURFACES = "surfaces"
"""Name of the graph that runs once for each person."""
PREFIX = "surface_"
"""What the names of its outputs begin with, before those of the predictor's maps."""
ASPP_DILATIONS = (6, 12, 56)


class DensePose(RegionDetector):
    """A :class:`RegionDetector` that gives the best of its detections a surface each."""

    config: DensePoseConfig

    def __init__(self, name: str, config: DensePoseConfig) -> None:
        super().__init__(name, config)
        self.decoder: Decoder | None = None
        if config.decoder:
            self.decoder = Decoder(len(STRIDES), config.fpn_channels, config.decoder_channels)
        heads: Mapping[str, type[SurfaceHead]] = {"v1convx": SurfaceHead, "deeplab": DeepLabHead}
        self.surface_head = heads[config.head](
            config.pooled_channels, config.surface_channels, num_convs=config.surface_convs
        )
        self.surface_predictor = SurfacePredictor(config.surface_channels, config.surface_maps)
        self.surface_outputs = tuple(f"{PREFIX}{name}" for name in config.surface_maps)
        self.outputs = ("boxes", "scores", "labels", *self.surface_outputs)

    @property
    def num_surfaces(self) -> int:
        """The most detections that can get a surface."""
        return min(self.config.max_surfaces, self.config.box_detections_per_img)

    def stages(
        self, image: Tensor, image_size: Tensor, image_fraction: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The detections have ``box_detections_per_img`` rows K: boxes (B, K, 4) x1 y1 x2 y2 in network
        pixels; scores (B, K) falling, 0 in empty rows; labels (B, K) int32. The first of them have
        surfaces, see :meth:`surface_stages`.

        Arguments and errors are those of :meth:`detect_stages`.
        """
        stages = self.detect_stages(image, image_size, image_fraction)
        boxes = stages["boxes"][:, : self.num_surfaces]
        return stages | self.surface_stages(stages["atlas"], boxes)

    def graph_stages(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the stages of one graph: "detect", "surfaces", or "main" for both in one."""
        if graph == DETECT:
            return self.detect_stages(**inputs)
        if graph == SURFACES:
            return self.surface_stages(**inputs)
        return super().graph_stages(graph, **inputs)

    def surface_stages(self, atlas: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Return the stages of the surfaces: what runs once for each person.

        The results are the predictor's maps over each box, (B, K, C, 2 S, 2 S) with S =
        ``config.surface_pool``, without any activation: coarse and fine parts, u and v of each
        part, and what the configuration has of confidences. The original's doubling comes after
        them, on the host.

        The decoder is among these stages and not among those of the detector: where there is
        nobody, it has nothing to do.

        Args:
            atlas: stage of :meth:`detect_stages`.
            boxes: (B, K, 4) x1 y1 x2 y2 in network pixels, any number of them.
        """
        stages: dict[str, Tensor] = {}
        if self.decoder is None:
            regions = self.pool(atlas, boxes, self.config.surface_pool)
        else:
            stages["decoder"] = self.decoder(self._levels(atlas))
            regions = self._pool_decoded(stages["decoder"], boxes)
        stages["surface_features"] = regions
        num_regions = regions.shape[1]
        hidden = self.surface_head(fold_regions(regions))
        stages["surface_head"] = unfold_regions(hidden, num_regions)
        maps = self.surface_predictor(hidden)
        return stages | {
            f"{PREFIX}{name}": unfold_regions(values, num_regions) for name, values in maps.items()
        }

    def _levels(self, atlas: Tensor) -> list[Tensor]:
        """Return the levels of the pyramid that the atlas is made of."""
        sizes = self._level_sizes
        return [
            atlas[:, :, top : top + height, left : left + width]
            for (left, top), (height, width) in zip(atlas_layout(sizes).corners, sizes, strict=True)
        ]

    def _pool_decoded(self, decoded_BCHW: Tensor, boxes_BR4: Tensor) -> Tensor:
        config = self.config
        return atlas_roi_align(
            decoded_BCHW,
            boxes_BR4,
            level_sizes=self._level_sizes[:1],
            strides=STRIDES[:1],
            output_size=config.surface_pool,
            sampling_ratio=config.roi_sampling_ratio,
            aligned=config.roi_aligned,
        )

    @property
    def _level_sizes(self) -> list[tuple[int, int]]:
        height, width = self.config.image_size
        return [(height // stride, width // stride) for stride in STRIDES]


class Decoder(nn.Module):
    """All levels of the pyramid in one map of the finest one's size.

    A level is convolved and doubled until it has that size; the sum goes through a 1x1 convolution.
    densepose/modeling/roi_heads/roi_head.py.
    """

    def __init__(self, num_levels: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(
                    ConvNorm(width_in, channels)
                    for width_in in [in_channels, *[channels] * (max(level, 1) - 1)]
                )
            )
            for level in range(num_levels)
        )
        self.predictor = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (B, channels, H, W) of levels (B, in_channels, H / 2^l, W / 2^l)."""
        total: Tensor | None = None
        for number, (x_BCHW, convs) in enumerate(zip(levels, self.levels, strict=True)):
            assert isinstance(convs, nn.Sequential)
            for conv in convs:
                x_BCHW = conv(x_BCHW)
                if number > 0:
                    x_BCHW = _doubled(x_BCHW)
            total = x_BCHW if total is None else total + x_BCHW
        assert total is not None
        decoded: Tensor = self.predictor(total)
        return decoded


class SurfaceHead(nn.Module):
    """3x3 convolutions over pooled regions (densepose/modeling/roi_heads/v1convx.py)."""

    def __init__(self, in_channels: int, channels: int, *, num_convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                self.block(width_in, width_out)
                for width_in, width_out in pairwise([in_channels, *[channels] * num_convs])
            )
        )

    def block(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return one of the convolutions with what follows it."""
        return ConvNorm(in_channels, out_channels)

    def forward(self, regions_RCSS: Tensor) -> Tensor:
        """Return the features of each region, (R, channels, S, S)."""
        hidden: Tensor = self.convs(regions_RCSS)
        return hidden


class DeepLabHead(SurfaceHead):
    """An atrous spatial pyramid, then normalised 3x3 convolutions (densepose/modeling/roi_heads/deeplab.py)."""

    def __init__(self, in_channels: int, channels: int, *, num_convs: int) -> None:
        super().__init__(in_channels, channels, num_convs=num_convs)
        self.aspp = AtrousPyramid(in_channels)

    def block(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return one of the convolutions with what follows it."""
        return ConvGroupNorm(in_channels, out_channels)

    def forward(self, regions_RCSS: Tensor) -> Tensor:
        """Return the features of each region, (R, channels, S, S)."""
        return super().forward(self.aspp(regions_RCSS))


class AtrousPyramid(nn.Module):
    """The same channels seen from near, from far and as a whole, and one mixture of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvGroupNorm(channels, channels, kernel_size=kernel_size, dilation=dilation)
            for kernel_size, dilation in ((1, 1), *((3, rate) for rate in ASPP_DILATIONS))
        )
        self.pooled = ConvGroupNorm(channels, channels, kernel_size=1)
        self.project = nn.Conv2d((len(self.branches) + 1) * channels, channels, 1, bias=False)

    def forward(self, x_RCSS: Tensor) -> Tensor:
        """Return (R, channels, S, S)."""
        mean_RC11 = x_RCSS.mean(dim=(2, 3), keepdim=True)
        seen = [branch(x_RCSS) for branch in self.branches]
        seen.append(self.pooled(mean_RC11).expand_as(seen[0]))
        return torch.relu(self.project(torch.cat(seen, dim=1)))


class ConvGroupNorm(nn.Module):
    """A convolution without bias that keeps the size, group normalisation, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            bias=False,
        )
        self.norm = nn.GroupNorm(NORM_GROUPS, out_channels)

    def forward(self, x_RCSS: Tensor) -> Tensor:
        """Return (R, out_channels, S, S)."""
        return torch.relu(self.norm(self._convolved(x_RCSS)))

    def _convolved(self, x_RCSS: Tensor) -> Tensor:
        if self.conv.dilation[0] < max(x_RCSS.shape[2:]):
            convolved: Tensor = self.conv(x_RCSS)
            return convolved
        # A quirk of the original: all taps but the centre's lie outside of so small a map.
        middle = self.conv.kernel_size[0] // 2
        return F.conv2d(x_RCSS, self.conv.weight[:, :, middle : middle + 1, middle : middle + 1])


class SurfacePredictor(nn.Module):
    """One doubling deconvolution for each map (densepose/modeling/predictors/chart.py)."""

    def __init__(self, in_channels: int, maps: Mapping[str, int]) -> None:
        super().__init__()
        for name, channels in maps.items():
            layer = nn.ConvTranspose2d(in_channels, channels, 4, stride=2, padding=1)
            self.add_module(name, layer)

    def forward(self, hidden_RCSS: Tensor) -> dict[str, Tensor]:
        """Return each map by name, (R, C, 2 S, 2 S)."""
        return {name: layer(hidden_RCSS) for name, layer in self.named_children()}


def _doubled(x_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)
