"""Pictures: what is taken, what is refused and how, and resizing as the originals do."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from edgeseg_runtime.errors import ImageError, ImageTooLarge
from edgeseg_runtime.picture.headers import read_header
from edgeseg_runtime.picture.image import (
    check_image,
    decode_image,
    read_image,
    resize_image,
    resize_linear_fixed_point,
)
from edgeseg_runtime.picture.pillow_bilinear import resize_pillow_bilinear


def picture(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(suffix, image=None, *parameters):
    ok, data = cv2.imencode(suffix, picture() if image is None else image, list(parameters))
    assert ok
    return data.tobytes()


# ---------------------------------------------------------------- check


REFUSED = {
    "nothing": (None, r"cv2\.imread could not read the file"),
    "list": ([[1]], "pass a NumPy array"),
    "no rows": (np.zeros((0, 5, 3), np.uint8), "neither side may be 0"),
    "no columns": (np.zeros((5, 0, 3), np.uint8), "neither side may be 0"),
    "gray": (
        np.zeros((5, 5), np.uint8),
        r"Convert it: cv2\.cvtColor\(image, cv2\.COLOR_GRAY2BGR\)",
    ),
    "one channel": (np.zeros((5, 5, 1), np.uint8), r"COLOR_GRAY2BGR"),
    "transparency": (np.zeros((5, 5, 4), np.uint8), r"COLOR_BGRA2BGR"),
    "16 bits": (np.zeros((5, 5, 3), np.uint16), r"alpha=1 / 257"),
    "float": (np.zeros((5, 5, 3), np.float32), r"alpha=255"),
    "batch": (np.zeros((1, 5, 5, 3), np.uint8), r"shape \(1, 5, 5, 3\); expected uint8 of shape"),
    "channels first": (np.zeros((3, 5, 5), np.uint8), "channels B, G, R"),
    "signed": (np.zeros((5, 5, 3), np.int8), "the picture is int8"),
}


@pytest.mark.parametrize(("image", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_another_layout_is_refused_with_the_conversion(image, message):
    with pytest.raises(ImageError, match=message) as caught:
        check_image(image)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "view", [lambda a: a[::2, ::-1], lambda a: a[..., ::-1], lambda a: a.transpose(1, 0, 2)]
)
def test_any_memory_layout_is_taken(view):
    image = view(picture())
    image.flags.writeable = False
    assert check_image(image) is image


def test_the_limit_can_be_raised_and_lowered(monkeypatch):
    monkeypatch.setenv("EDGESEG_MAX_IMAGE_PIXELS", "599")
    with pytest.raises(ImageTooLarge, match=r"20x30 pixels; expected at most 599.*PIXELS=600"):
        check_image(picture())
    monkeypatch.setenv("EDGESEG_MAX_IMAGE_PIXELS", "600")
    check_image(picture())
    monkeypatch.setenv("EDGESEG_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(ValueError, match="EDGESEG_MAX_IMAGE_PIXELS is 'many'"):
        check_image(picture())


# ---------------------------------------------------------------- read


OPTIONAL = [suffix for suffix in (".gif", ".avif") if cv2.haveImageWriter(f"picture{suffix}")]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff", *OPTIONAL])
@pytest.mark.parametrize("size", [(1, 1), (20, 30), (300, 7)])
def test_a_header_gives_the_size_and_the_picture_is_that_of_opencv(suffix, size, tmp_path):
    data = encoded(suffix, picture(*size))
    header = read_header(data)
    assert (header.height, header.width, header.bits) == (*size, 8)
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), cv2.imread(os.fspath(path)))


@pytest.mark.parametrize("parameters", [(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), ()])
def test_a_jpeg_with_bytes_after_its_end_is_whole(parameters):
    data = encoded(".jpg", None, *parameters)
    np.testing.assert_array_equal(decode_image(data + b"trailer"), decode_image(data))


@pytest.mark.parametrize("quality", [101, 50], ids=["lossless", "lossy"])
def test_both_kinds_of_webp_give_their_size(quality):
    header = read_header(encoded(".webp", picture(9, 17), cv2.IMWRITE_WEBP_QUALITY, quality))
    assert (header.format, header.height, header.width) == ("WebP", 9, 17)


def test_gray_and_transparent_files_become_pictures():
    gray = picture()[..., 0]
    np.testing.assert_array_equal(decode_image(encoded(".png", gray)), np.dstack([gray] * 3))
    transparent = np.dstack([picture(), picture()[..., :1]])
    assert decode_image(encoded(".png", transparent)).shape == (20, 30, 3)


def test_16_bits_are_not_cut_in_silence():
    with pytest.raises(ImageError, match=r"16 bits per channel; expected 8.*IMREAD_UNCHANGED"):
        decode_image(encoded(".png", picture().astype(np.uint16) * 257))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", *OPTIONAL])
def test_a_file_that_is_cut_off_is_refused_wherever_it_is_cut(suffix):
    data = encoded(suffix)
    for length in range(0, len(data), 3):
        with pytest.raises(ImageError):
            decode_image(data[:length], source="cut")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff", *OPTIONAL])
def test_flipped_bits_give_a_typed_error_or_a_picture(suffix):
    data = encoded(suffix)
    rng = np.random.default_rng(1)
    for position in rng.integers(0, 8 * min(len(data), 200), 150):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        try:
            image = decode_image(bytes(damaged))
        except ImageError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3


def test_a_flipped_bit_in_a_png_is_always_noticed():
    data = encoded(".png")
    for position in range(0, 8 * len(data), 11):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ImageError):
            decode_image(bytes(damaged))


def part(kind, body):
    """Return a part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def animated_png(width, height):
    """Return a PNG file with an animation, and with the pixels of 4 x 3."""
    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    frame = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)
    rows = b"".join(b"\0" + bytes(range(12 * row, 12 * row + 12)) for row in range(3))
    parts = [part(b"acTL", struct.pack(">II", 1, 0)), part(b"fcTL", frame)]
    end = [part(b"IDAT", zlib.compress(rows)), part(b"IEND", b"")]
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *parts, *end])


def test_of_an_animated_png_the_still_picture_is_read_or_nothing():
    found = decode_image(animated_png(4, 3))
    assert found[..., ::-1].ravel().tolist() == list(range(36))
    with pytest.raises(ImageError, match="cannot be decoded: the file is damaged"):
        decode_image(animated_png(400, 3))  # OpenCV gives what happens to lie in the memory


def test_a_huge_claim_is_refused_before_decoding(tmp_path):
    claim = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", claim) + part(b"IDAT", b"") + part(b"IEND", b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb)
    message = "60000x60000 pixels; expected at most 64000000.*EDGESEG_MAX_IMAGE_PIXELS=3600000000"
    with pytest.raises(ImageTooLarge, match=message):
        read_image(path)


def box(kind, *parts):
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


GIF = b"GIF89a" + struct.pack("<HHBBB", 4, 3, 0, 0, 0)
HEIC_SIZES = [box(b"ispe", struct.pack(">III", 0, w, h)) for w, h in ((512, 512), (4032, 3024))]
HEIC = (
    box(b"ftyp", b"heic", bytes(4), b"mif1", b"heic")
    + box(b"meta", bytes(4), box(b"iprp", box(b"ipco", *HEIC_SIZES)))
    + box(b"mdat", bytes(8))
)


def test_the_size_of_a_picture_of_tiles_is_that_of_the_whole():
    assert read_header(HEIC) == ("HEIC", 3024, 4032, 8)


def test_a_picture_of_a_camera_s_own_format_is_not_its_preview():
    entries = [(254, 4, 1, 1), (256, 4, 1, 160), (257, 4, 1, 120)]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    with pytest.raises(ImageError, match="begins with a preview, as a camera's own format does"):
        decode_image(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; expected a PNG or JPEG or WebP"),
        (b"%PDF-1.4", "not one of PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, HEIC"),
        (b"BMW of my uncle, 1987", "not one of PNG"),
        (b"II*\0\x10\0\0\0CR\2\0", "not one of PNG"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "not one of PNG"),
        (b"\xff\xd8\xff\xe0", "cut off in the header"),
        (b"GIF89a", "cut off in the header"),
        (GIF[:13] + b"\x3b", "there is no picture in it"),
        (HEIC, "is damaged, or this OpenCV .* reads no HEIC. Save it as PNG or JPEG"),
        (HEIC[:-4], "it is cut off"),
        (b"II*\0\xff\xff\xff\xff", "cut off in the header"),
    ],
)
def test_what_is_no_picture_is_named(data, message):
    with pytest.raises(ImageError, match=message):
        decode_image(data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path)


# ---------------------------------------------------------------- resize


def pillow_in_two_steps(image, size):
    """Horizontal pass first in every version of Pillow: each call resizes one axis only."""
    wide = PillowImage.fromarray(image).resize((size[1], image.shape[0]), PillowImage.BILINEAR)
    return np.asarray(wide.resize(size[::-1], PillowImage.BILINEAR))


@pytest.mark.parametrize("seed", range(60))
def test_pillow_bilinear_is_pillow_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    height, width, *size = rng.integers(1, [9, 60, 300][seed % 3], 4).tolist()
    image = picture(height, width, seed)
    if seed % 5 == 0:
        image[:] = 255 * (image > 127)
    expected = pillow_in_two_steps(image, size)
    np.testing.assert_array_equal(resize_pillow_bilinear(image, tuple(size)), expected)


@pytest.mark.parametrize(
    ("source", "target"),
    [((1, 1), (7, 9)), ((7, 9), (1, 1)), ((1, 50), (1, 3)), ((1080, 1920), (750, 1333))],
)
def test_pillow_bilinear_at_the_limits(source, target):
    image = picture(*source)
    expected = pillow_in_two_steps(image, target)
    np.testing.assert_array_equal(resize_pillow_bilinear(image, target), expected)


@pytest.mark.parametrize("seed", range(20))
def test_linear_is_half_pixel_bilinear_without_antialiasing(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    height, width, *size = rng.integers(1, 80, 4).tolist()
    image = picture(height, width, seed)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    exact = torch.nn.functional.interpolate(planes, size=size, mode="bilinear")[0]
    resized = resize_image(image, tuple(size), interpolation="linear")
    difference = np.abs(resized - exact.permute(1, 2, 0).numpy())
    assert difference.max() <= 1.25, "rounding to uint8, and the 8-bit weights of cv2"
    assert difference.mean() < 0.3


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="expected linear, pillow_bilinear or opencv_linear"):
        resize_image(picture(), (3, 3), interpolation="cubic")


@pytest.mark.parametrize("seed", range(20))
def test_the_fraction_gives_back_what_a_resize_in_floating_point_has(seed):
    rng = np.random.default_rng(seed)
    height, width, new_height, new_width = (int(side) for side in rng.integers(1, 90, 4))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole, fraction = resize_linear_fixed_point(image, (new_height, new_width))
    exact = cv2.resize(
        image.astype(np.float64), (new_width, new_height), interpolation=cv2.INTER_LINEAR
    )
    assert whole.dtype == fraction.dtype == np.uint8
    # Half of 1/256, and the rounding of float32 inside cv2.
    assert np.abs(whole + fraction / 256 - exact).max() < 1 / 512 + 1e-4


def test_a_picture_of_the_right_size_has_no_fraction():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    whole, fraction = resize_linear_fixed_point(image, (7, 9))
    np.testing.assert_array_equal(whole, image)
    assert not fraction.any()
