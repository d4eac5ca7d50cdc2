"""Points from heat maps: peaks, suppression and the quarter of a pixel beside them."""

import numpy as np
import pytest
import torch

from edgeseg.models.layers.heatmaps import Peaks, find_peaks, quarter_shifts, suppress_neighbours

SIZE = 5


def heat_map(values):
    """A map (1, 1, 5, 5) of 0 with the given values at (row, column)."""
    grid = torch.zeros(1, 1, SIZE, SIZE)
    for (row, column), value in values.items():
        grid[0, 0, row, column] = value
    return grid


def test_a_peak_is_the_first_of_the_highest_places():
    peaks = find_peaks(heat_map({(1, 3): 0.9, (4, 0): 0.9, (2, 2): 0.5}))
    assert (peaks.column.item(), peaks.row.item()) == (3, 1)
    assert peaks.value.item() == pytest.approx(0.9)


def test_every_map_of_every_picture_has_its_own_peak():
    rng = np.random.default_rng(5)
    maps = rng.normal(size=(2, 3, 4, 7)).astype(np.float32)
    peaks = find_peaks(torch.from_numpy(maps))
    for picture in range(2):
        for joint in range(3):
            row, column = np.unravel_index(maps[picture, joint].argmax(), (4, 7))
            assert (peaks.row[picture, joint], peaks.column[picture, joint]) == (row, column)
            assert peaks.value[picture, joint] == maps[picture, joint].max()


def test_suppression_leaves_only_places_without_a_higher_neighbour():
    maps = heat_map({(0, 0): 0.3, (0, 1): 0.2, (2, 2): 0.8, (3, 3): 0.7, (4, 4): 0.9})
    found = suppress_neighbours(maps)
    assert {tuple(place) for place in found[0, 0].nonzero().tolist()} == {(0, 0), (2, 2), (4, 4)}
    wide = suppress_neighbours(maps, window=5)
    assert {tuple(place) for place in wide[0, 0].nonzero().tolist()} == {(4, 4)}


def test_a_map_below_zero_has_no_peak_left():
    rng = np.random.default_rng(6)
    maps = -1 - torch.from_numpy(rng.random((1, 1, SIZE, SIZE), np.float32))
    assert find_peaks(suppress_neighbours(maps)).value.item() == 0


@pytest.mark.parametrize(
    ("values", "peak", "at_border", "sign_rule", "one_sided_rule"),
    [
        pytest.param({}, (0, 0), True, (0, 0), (-0.25, -0.25), id="empty"),
        pytest.param(
            {(0, 0): 1}, (0, 0), True, (-0.25, -0.25), (-0.25, -0.25), id="first-corner"
        ),
        pytest.param({(4, 4): 1}, (4, 4), True, (0.25, 0.25), (0.25, 0.25), id="last-corner"),
        pytest.param({(4, 4): 1}, (4, 4), False, (0, 0), (0, 0), id="last-corner-kept"),
        pytest.param(
            {(2, 0): 1, (3, 0): 0.5}, (2, 0), False, (0, 0.25), (0, 0.25), id="left-border-kept"
        ),
        pytest.param(
            {(2, 2): 1, (2, 3): 0.5, (1, 2): 0.5},
            (2, 2), True, (0.25, -0.25), (0.25, -0.25), id="inside",
        ),
        pytest.param(
            {(2, 2): 1, (2, 1): 0.5, (2, 3): 0.5, (3, 2): 0.1},
            (2, 2), True, (0, 0.25), (-0.25, 0.25), id="equal-neighbours",
        ),
    ],
)  # fmt: skip
def test_a_peak_moves_a_quarter_towards_its_higher_neighbour(
    values, peak, at_border, sign_rule, one_sided_rule
):
    maps = heat_map(values)
    row, column = (torch.tensor([[place]]) for place in peak)
    peaks = Peaks(column=column, row=row, value=maps[:, :, row, column].flatten(2)[..., 0])
    for at_tie, expected in ((0.0, sign_rule), (-0.25, one_sided_rule)):
        found = quarter_shifts(maps, peaks, at_tie=at_tie, at_border=at_border)
        assert found.shape == (1, 1, 2)
        assert tuple(found[0, 0].tolist()) == expected, at_tie
