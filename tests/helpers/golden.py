"""Golden cases: what an original implementation put out for known weights and a known picture."""

import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "golden"

_spec = importlib.util.spec_from_file_location("golden_fill", FOLDER / "fill.py")
fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fill)


@dataclass(frozen=True)
class Case:
    """One case: its description, its arrays, the keys and shapes of its checkpoint."""

    description: dict
    arrays: dict
    state: list

    @property
    def input_size(self):
        return tuple(self.description["outputs"]["input"]["shape"][2:])

    @property
    def image(self):
        """The picture, BGR."""
        settings = self.description["image"]
        rgb = fill.sample_image(settings["seed"], settings["height"], settings["width"])
        return np.ascontiguousarray(rgb[..., ::-1])

    def weights(self):
        return fill.fill_all(
            self.state, seed=self.description["seed"], gains=self.description["gains"]
        )

    def relative_error(self, name, found):
        """The largest difference from a stored array, over the array's largest value."""
        if name in self.arrays:
            expected, found = self.arrays[name], np.asarray(found)
            assert found.shape == expected.shape, (name, found.shape, expected.shape)
        else:
            assert list(found.shape) == self.description["outputs"][name]["shape"], name
            expected = self.arrays[f"{name}__value"]
            found = np.asarray(found).reshape(-1)[self.arrays[f"{name}__index"]]
        scale = np.abs(expected).max()
        return float(np.abs(expected.astype(np.float64) - found).max() / scale)

    def masks(self):
        """The stored masks, (N, H, W) bool."""
        settings = self.description["image"]
        shape = (len(self.arrays["boxes"]), settings["height"], settings["width"])
        bits = np.unpackbits(self.arrays["masks_bits"], count=int(np.prod(shape)))
        return bits.reshape(shape).astype(bool)


@functools.cache
def load_case(system, case):
    folder = FOLDER / system / case
    with np.load(folder / "outputs.npz") as file:
        arrays = {name: file[name] for name in file.files}
    return Case(
        description=json.loads((folder / "case.json").read_text(encoding="utf-8")),
        arrays=arrays,
        state=json.loads((folder / "state.json").read_text(encoding="utf-8")),
    )


def match_detections(result, case, *, box_px, score):
    """Pair a result's rows one to one with the golden's; return the result's row of each.

    Fails if a golden detection has no counterpart with the same label, a box within `box_px` pixels
    and a score within `score`, or if the result has further detections.
    """
    golden = case.arrays
    assert len(result) == len(golden["boxes"])
    rows = []
    for box, label, value in zip(golden["boxes"], golden["labels"], golden["scores"], strict=True):
        distance = np.abs(result.boxes - box).max(axis=1)
        distance[(result.labels != label) | (np.abs(result.scores - value) > score)] = np.inf
        distance[rows] = np.inf
        row = int(distance.argmin())
        assert distance[row] <= box_px, f"no counterpart of {label} {value:.3f} at {box}"
        rows.append(row)
    return rows
