"""The first layer of every graph: uint8 pictures to the normalised input of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ImageNormalization(nn.Module):
    """Turns uint8 BGR pictures into normalised channels-first floats.

    ``mean`` and ``std`` are in grey levels (0..255) in the network's channel order ``order``.
    """

    mean: Tensor
    std: Tensor
    rgb: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, order: str) -> None:
        super().__init__()
        if order not in ("rgb", "bgr"):
            raise ValueError(f"order {order!r} found, expected 'rgb' or 'bgr'")
        self.order = order
        for name, levels in (("mean", mean), ("std", std)):
            values = torch.tensor(levels, dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.has_unit_std = all(value == 1 for value in std)
        self.register_buffer("rgb", torch.tensor([2, 1, 0]), persistent=False)

    def forward(
        self,
        image_BHW3: Tensor,
        image_size_B2: Tensor | None = None,
        fraction_BHW3: Tensor | None = None,
    ) -> Tensor:
        """Return (B, 3, H, W) float32 that is zero outside the valid part of each picture.

        Args:
            image_BHW3: uint8 BGR.
            image_size_B2: height and width of the valid part, which starts at the top left; None if
                all of the picture is valid.
            fraction_BHW3: uint8, what the resized picture has above ``image_BHW3``, in 1/256 of a
                grey level; None if it was rounded.
        """
        # Cast first: TensorRT takes uint8 at the border of a graph, but computes nothing in it.
        x_BHW3 = image_BHW3.to(self.mean.dtype)
        if fraction_BHW3 is not None:
            x_BHW3 = x_BHW3 + fraction_BHW3.to(self.mean.dtype) * (1 / 256)
        x_B3HW = x_BHW3.permute(0, 3, 1, 2)
        if self.order == "rgb":
            x_B3HW = x_B3HW.index_select(1, self.rgb)  # a flip is a slow Slice in ONNX Runtime
        if image_size_B2 is None:
            # One factor for each column: ONNX Runtime moves the transposition of an int8 graph behind
            # these operators, and three factors along the last axis are slow.
            mean_131W, factor_131W = (
                each.expand(-1, -1, -1, x_B3HW.shape[3]) for each in (self.mean, 1 / self.std)
            )
            centred_B3HW = x_B3HW - mean_131W
            return centred_B3HW if self.has_unit_std else centred_B3HW * factor_131W
        # Two products with a row and a column of factors are the cheapest way to divide and to
        # clear the padding: one pass over memory each, and no mask of the picture's size.
        _, _, height, width = x_B3HW.shape
        rows_BH = self._is_inside(height, image_size_B2[:, 0:1])
        columns_BW = self._is_inside(width, image_size_B2[:, 1:2])
        factors_B3H1 = rows_BH[:, None, :, None] / self.std
        return (x_B3HW - self.mean) * factors_B3H1 * columns_BW[:, None, None, :]

    def _is_inside(self, size: int, valid_B1: Tensor) -> Tensor:
        """Return (B, size) floats: 1 for the first ``valid_B1`` rows or columns, 0 for the others."""
        places = torch.arange(size, dtype=torch.int32, device=valid_B1.device)
        return (places < valid_B1).to(self.mean.dtype)
