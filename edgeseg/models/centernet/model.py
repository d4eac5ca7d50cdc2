"""CenterNet (Zhou et al., 2019, arXiv 1904.07850): objects, and persons' joints, as points.

Shape suffixes: B pictures, C channels, Y classes, J joints, H W a map of stride 4, K results, P peaks of a joint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.models.centernet.config import STRIDE, CenterNetConfig
from edgeseg.models.layers.conv import ConvNorm, MapHead
from edgeseg.models.layers.deform import ModulatedDeformConv2d
from edgeseg.models.layers.dla import DLA34, DLAUp
from edgeseg.models.layers.heatmaps import suppress_neighbours
from edgeseg.models.layers.hourglass104 import WIDTHS, StackedHourglass
from edgeseg.models.layers.image import ImageNormalization
from edgeseg.models.layers.peaks import TopPeaks, take_places, top_peaks, top_peaks_of_each
from edgeseg.models.layers.resnet import ResNet, SmallResNet
from edgeseg.models.reference import ReferenceModel, check_image_size

NORM_EPS = 1e-5
JOINT_SCORE_THRESHOLD = 0.1
JOINT_REACH = 0.3  # of the longer side of a person's box


class UpStage(nn.Module):
    """A deformable convolution, then a transposed one to twice the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(
            in_channels,
            out_channels,
            norm_eps=NORM_EPS,
            conv=ModulatedDeformConv2d(in_channels, out_channels),
        )
        self.deconv = nn.ConvTranspose2d(
            out_channels, out_channels, 4, stride=2, padding=1, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=NORM_EPS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, out_channels, 2 H, 2 W)."""
        return torch.relu(self.norm(self.deconv(self.conv(x_BCHW))))


class DeconvNeck(nn.Module):
    """From the coarsest map of a backbone alone to stride 4, without looking at the finer ones."""

    widths = (256, 128, 64)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        pairs = zip((in_channels, *self.widths[:-1]), self.widths, strict=True)
        self.ups = nn.ModuleList(UpStage(before, behind) for before, behind in pairs)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return (B, 64, H / 4, W / 4)."""
        x_BCHW = features[-1]
        for up in self.ups:
            x_BCHW = up(x_BCHW)
        return x_BCHW


class CenterNet(ReferenceModel):
    """A detector whose objects are the peaks of heat maps, with a fixed number of results.

    The module works on one picture size, ``config.image_size``: every shape of its graph is known
    when it is exported.
    """

    def __init__(self, name: str, config: CenterNetConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.normalize = ImageNormalization(config.mean, config.std, order="bgr")
        self.backbone, self.neck, channels = _trunk(config)
        heads = {
            name: MapHead(channels, config.head_channels, num_maps)
            for name, num_maps in config.head_maps.items()
        }
        for name in heads.keys() & {"heatmap", "joint_heatmap"}:  # almost nowhere is a centre
            nn.init.constant_(heads[name].predictor.bias, -2.19)  # type: ignore[arg-type]  # it has one
        self.heads = nn.ModuleDict(heads)
        self.outputs = ("boxes", "scores", "labels") + (
            ("keypoints",) if config.kind == "pose" else ()
        )

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the results of each picture, and before them every intermediate stage.

        The results have ``max_detections`` rows K: boxes (B, K, 4) x1 y1 x2 y2 in network pixels, not
        clipped; scores (B, K) falling, 0 in empty rows; labels (B, K) int32 from 0; keypoints (B, K,
        J, 3) x, y in network pixels and score.

        Args:
            image: (B, H, W, 3) uint8 BGR, the scaled picture.

        Raises:
            ValueError: ``image`` is not of the size that the model was built for.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image)}
        stages |= self.features(stages["input"])
        stages |= self.predict(stages["neck"])
        return stages | decode(stages, self.config.max_detections)

    def features(self, x_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the backbone's coarsest map (or first hourglass) and the one that feeds the heads."""
        features = self.backbone(x_B3HW)
        if self.neck is None:
            return {"backbone": features[0], "neck": features[-1]}
        return {"backbone": features[-1], "neck": self.neck(features)}

    def predict(self, neck_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the maps of every head; heat maps are logits, the others in places of the maps."""
        return {name: head(neck_BCHW) for name, head in self.heads.items()}


def decode(maps: dict[str, Tensor], max_detections: int) -> dict[str, Tensor]:
    """Return boxes, scores, labels and, where there are maps for them, keypoints.

    Args:
        maps: of every head.
        max_detections: number of results, K.
    """
    centres = top_peaks(suppress_neighbours(maps["heatmap"].sigmoid()), max_detections)
    offset_BK2 = take_places(maps["offset"], centres.place)
    half_BK2 = take_places(maps["size"], centres.place) / 2
    middle_BK2 = torch.stack((centres.column, centres.row), dim=-1) + offset_BK2
    boxes_BK4 = torch.cat((middle_BK2 - half_BK2, middle_BK2 + half_BK2), dim=-1)
    is_found_BK = centres.score > 0
    results = {
        "boxes": torch.where(is_found_BK[..., None], boxes_BK4 * STRIDE, 0.0),
        "scores": centres.score,
        "labels": torch.where(is_found_BK, centres.label, 0).to(torch.int32),
    }
    if "joints" in maps:
        joints_BKJ3 = _decode_joints(maps, centres, boxes_BK4)
        is_found_BK11 = is_found_BK[..., None, None]
        results["keypoints"] = torch.where(is_found_BK11, joints_BKJ3, 0.0)
    return results


def _decode_joints(maps: dict[str, Tensor], centres: TopPeaks, boxes_BK4: Tensor) -> Tensor:
    """Return x, y in network pixels and the score of each joint, (B, K, J, 3).

    multi_pose_decode of the original: a joint that was regressed from the centre moves to the
    nearest peak of its heat map, unless that lies outside the box or too far away. The score is that
    of the heat map at the joint (the original gives none).
    """
    heat_BJHW = maps["joint_heatmap"].sigmoid()
    num_joints, height, width = heat_BJHW.shape[1:]
    num_peaks = centres.place.shape[1]
    pairs_BKJ2 = take_places(maps["joints"], centres.place).reshape(-1, num_peaks, num_joints, 2)
    # A quirk: from the whole-numbered place, without the offset that the box has.
    x_BJK = (pairs_BKJ2[..., 0] + centres.column[..., None]).transpose(1, 2)
    y_BJK = (pairs_BKJ2[..., 1] + centres.row[..., None]).transpose(1, 2)

    peaks = top_peaks_of_each(suppress_neighbours(heat_BJHW), num_peaks)
    offset_BJP2 = take_places(maps["joint_offset"], peaks.place.flatten(1))
    offset_BJP2 = offset_BJP2.reshape(-1, num_joints, num_peaks, 2)
    is_peak_BJP = peaks.score > JOINT_SCORE_THRESHOLD
    peak_x_BJP = torch.where(is_peak_BJP, peaks.column + offset_BJP2[..., 0], -10000.0)
    peak_y_BJP = torch.where(is_peak_BJP, peaks.row + offset_BJP2[..., 1], -10000.0)

    squares_BJKP = (x_BJK[..., None] - peak_x_BJP[:, :, None]) ** 2 + (
        y_BJK[..., None] - peak_y_BJP[:, :, None]
    ) ** 2
    square_BJK, nearest_BJK = squares_BJKP.min(dim=3)
    near_x_BJK = peak_x_BJP.gather(2, nearest_BJK)
    near_y_BJK = peak_y_BJP.gather(2, nearest_BJK)
    near_score_BJK = peaks.score.gather(2, nearest_BJK)
    x1_B1K, y1_B1K, x2_B1K, y2_B1K = boxes_BK4.transpose(1, 2)[:, :, None].unbind(1)
    reach_B1K = torch.maximum(x2_B1K - x1_B1K, y2_B1K - y1_B1K) * JOINT_REACH
    is_taken_BJK = (
        (near_x_BJK >= x1_B1K)
        & (near_x_BJK <= x2_B1K)
        & (near_y_BJK >= y1_B1K)
        & (near_y_BJK <= y2_B1K)
        & (square_BJK.sqrt() <= reach_B1K)
        & (near_score_BJK > JOINT_SCORE_THRESHOLD)
    )
    column_BJK = x_BJK.clamp(0, width - 1).round()
    row_BJK = y_BJK.clamp(0, height - 1).round()
    place_BJK = (row_BJK * width + column_BJK).to(torch.int64)
    score_BJK = torch.where(
        is_taken_BJK,
        near_score_BJK,
        heat_BJHW.flatten(2).gather(2, place_BJK),
    )
    x_BJK = torch.where(is_taken_BJK, near_x_BJK, x_BJK) * STRIDE
    y_BJK = torch.where(is_taken_BJK, near_y_BJK, y_BJK) * STRIDE
    return torch.stack((x_BJK, y_BJK, score_BJK), dim=-1).transpose(1, 2)


def _trunk(config: CenterNetConfig) -> tuple[nn.Module, nn.Module | None, int]:
    """Return the backbone, what follows it, and the number of channels that feed the heads."""
    if config.backbone == "hourglass104":
        return StackedHourglass(), None, WIDTHS[0]
    if config.backbone.startswith("resnet"):
        resnet = ResNet(int(config.backbone.removeprefix("resnet")), norm_eps=NORM_EPS)
        return resnet, DeconvNeck(resnet.channels[-1]), DeconvNeck.widths[-1]
    backbone: DLA34 | SmallResNet = (
        SmallResNet(config.backbone_channels, norm_eps=NORM_EPS)
        if config.backbone == "small"
        else DLA34()
    )
    channels = backbone.channels
    return backbone, DLAUp(channels, deformable=config.backbone == "dla34"), channels[0]
