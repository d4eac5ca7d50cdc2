"""Where a drawn picture is taken: its size, backdrop and camera, common to faces and figures."""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets import shapes_draw
from edgeseg_bench.datasets.shapes_draw import Colour, Float, Paint

SIDES = (192, 320)  # smallest and largest picture side
NUM_QUANTILES = 4096


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about a picture but its objects.

    Attributes:
        height, width: of the picture in pixels.
        base: mean colour of the backdrop, BGR.
        backdrop: its texture, as a deviation from `base`.
        num_scribbles: strokes between backdrop and objects that belong to no class.
        gain, blur, noise: see `shapes_draw.photographed`.
    """

    height: int
    width: int
    base: Colour
    backdrop: Paint
    num_scribbles: int
    gain: float
    blur: float
    noise: float


def invent_setting(rng: np.random.Generator) -> Setting:
    """Invent a setting."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    return Setting(
        height=height,
        width=width,
        base=random_colour(rng),
        backdrop=backdrop_paint(rng),
        num_scribbles=int(rng.integers(4, 15)),
        gain=float(rng.uniform(0.65, 1.15)),
        blur=float(rng.uniform(0.4, 1.2)) if rng.random() < 0.4 else 0.0,
        noise=float(rng.uniform(1, 12)),
    )


def draw_backdrop(setting: Setting, rng: np.random.Generator) -> Float:
    """Return the (height, width, 3) float32 canvas on which the objects are drawn."""
    canvas_HW3 = shapes_draw.background(
        setting.base, setting.backdrop, height=setting.height, width=setting.width, rng=rng
    )
    for _ in range(setting.num_scribbles):
        shapes_draw.scribble(canvas_HW3, rng)
    return canvas_HW3


def photograph(
    setting: Setting, canvas_HW3: Float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return the finished canvas as this setting's camera delivers it, (H, W, 3) uint8."""
    if setting.blur > 0:
        canvas_HW3 = np.asarray(cv2.GaussianBlur(canvas_HW3, (0, 0), setting.blur), np.float32)
    # Looking up a table of quantiles takes a tenth of the time of drawing from a normal distribution.
    grain_HW3 = _quantiles()[rng.integers(0, NUM_QUANTILES, canvas_HW3.shape, dtype=np.uint16)]
    grain_HW3 *= np.float32(setting.noise)
    grain_HW3 += canvas_HW3 * np.float32(setting.gain) + np.float32(0.5)
    return np.clip(grain_HW3, 0, 255, out=grain_HW3).astype(np.uint8)


@functools.cache
def _quantiles() -> Float:
    """Return evenly spaced quantiles of the standard normal distribution."""
    normal = statistics.NormalDist()
    quantiles = [normal.inv_cdf((number + 0.5) / NUM_QUANTILES) for number in range(NUM_QUANTILES)]
    return np.array(quantiles, dtype=np.float32)


def random_colour(rng: np.random.Generator) -> Colour:
    """Return any colour but the extremes."""
    blue, green, red = (float(c) for c in rng.uniform(20, 235, 3))
    return blue, green, red


def varied_colour(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """Return a colour near another; spread is the relative deviation."""
    factors = 1 + spread * rng.standard_normal(3) * 0.5 + spread * rng.standard_normal()
    blue, green, red = np.clip(np.array(colour) * factors, 5, 250).tolist()
    return blue, green, red


def backdrop_paint(rng: np.random.Generator) -> Paint:
    """Return a faint texture, as a deviation from the colour below it."""
    strength = rng.uniform(0, 22, 3) * rng.choice([-1.0, 1.0], 3)
    half = (float(strength[0]), float(strength[1]), float(strength[2]))
    return Paint(
        pattern=str(rng.choice(list(shapes_draw.PATTERNS))),
        colours=((-half[0], -half[1], -half[2]), half),
        period=float(rng.uniform(5, 40)),
        angle=float(rng.uniform(0, np.pi)),
    )
