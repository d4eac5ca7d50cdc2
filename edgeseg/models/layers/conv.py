"""Convolution blocks that all families build on.

Shape suffixes: B pictures, C channels, K features of a dense layer, R rows that it is applied to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """A convolution, an optional batch normalisation and an optional ReLU.

    Padding keeps the size at stride 1 (``kernel_size // 2``). The convolution has a bias exactly
    when there is no normalisation, unless ``bias`` says otherwise. ``negative_slope`` makes the ReLU
    a leaky one, ``ceiling`` gives it an upper bound (6: ReLU6). ``conv`` takes the place of the ordinary
    convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm_eps: float | None = None,
        relu: bool = True,
        negative_slope: float = 0.0,
        ceiling: float | None = None,
        bias: bool | None = None,
        conv: nn.Module | None = None,
    ) -> None:
        super().__init__()
        has_norm = norm_eps is not None
        self.conv = conv or nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=not has_norm if bias is None else bias,
        )
        self.norm = None if norm_eps is None else nn.BatchNorm2d(out_channels, eps=norm_eps)
        self.relu = relu
        self.negative_slope = negative_slope
        self.ceiling = ceiling

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output, (B, out_channels, H / stride, W / stride)."""
        y_BCHW = self.conv(x_BCHW)
        if self.norm is not None:
            y_BCHW = self.norm(y_BCHW)
        if not self.relu:
            return y_BCHW
        if self.ceiling is not None:
            return y_BCHW.clamp(0, self.ceiling)
        if self.negative_slope:
            return F.leaky_relu(y_BCHW, self.negative_slope)
        return torch.relu(y_BCHW)


class MapHead(nn.Module):
    """A convolution, ReLU and a 1x1 convolution, both with biases."""

    def __init__(
        self, in_channels: int, channels: int, num_maps: int, *, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, channels, kernel_size=kernel_size)
        self.predictor = nn.Conv2d(channels, num_maps, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, num_maps, H, W)."""
        return self.predictor(self.conv(x_BCHW))


def dense(x_BKR: Tensor, layer: nn.Linear) -> Tensor:
    """Return ``layer`` applied to every column of ``x_BKR``, (B, out_features, R).

    As a 1x1 convolution over a map of R rows: TensorRT-RTX has no float32 matrix product for Turing,
    and RoI-Align gives columns without transposing them.
    """
    kernel = layer.weight[:, :, None, None]
    return F.conv2d(x_BKR[..., None], kernel, layer.bias).squeeze(3)
