"""The normalisation that opens every graph."""

import pytest
import torch

from edgeseg.models.layers.image import ImageNormalization

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
HEIGHT, WIDTH = 5, 7


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(3)
    shape = (2, HEIGHT, WIDTH, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("has_fraction", [False, True])
def test_a_picture_without_a_size_is_valid_throughout(pictures, order, has_fraction):
    normalize = ImageNormalization(MEAN, STD, order=order)
    fraction = pictures.flip(0) if has_fraction else None
    size = torch.tensor([[HEIGHT, WIDTH]] * 2, dtype=torch.int32)

    result = normalize(pictures, fraction_BHW3=fraction)

    grey = pictures.double() + (0 if fraction is None else fraction.double() / 256)
    channels = grey.flip(-1) if order == "rgb" else grey
    expected = (channels - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(result.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    assert torch.equal(result, normalize(pictures, size, fraction))


def test_the_padding_is_zero_after_normalisation(pictures):
    normalize = ImageNormalization(MEAN, STD, order="rgb")
    size = torch.tensor([[3, WIDTH], [HEIGHT, 4]], dtype=torch.int32)

    result = normalize(pictures, size)

    whole = normalize(pictures)
    assert torch.equal(result[0, :, :3], whole[0, :, :3])
    assert not result[0, :, 3:].any()
    assert torch.equal(result[1, :, :, :4], whole[1, :, :, :4])
    assert not result[1, :, :, 4:].any()
