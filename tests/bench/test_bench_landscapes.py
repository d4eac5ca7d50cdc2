"""Drawn landscapes: segments cover what is drawn, clips move as their flow says."""

import numpy as np
import pytest
import torch

from edgeseg.models import get_spec, model_manifest
from edgeseg_bench.datasets import landscapes, open_dataset
from edgeseg_bench.datasets.clips import NUM_FRAMES, ClipsDataset
from edgeseg_bench.datasets.figures import CLASSES
from edgeseg_bench.datasets.landscapes import FIRST_FIGURE, STUFF, Pose
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_bench.metrics.panoptic import map_from_records

CLIPS = range(4)


def numbers_of(sample):
    return map_from_records(sample.annotations, (sample.height, sample.width)).numbers


@pytest.mark.parametrize("kind", ["panoptic", "clips"])
def test_a_picture_depends_on_nothing_but_its_index(kind):
    dataset = open_dataset("shapes", kind=kind)
    forwards = [dataset[index] for index in (0, 1, 2)]
    backwards = [open_dataset("shapes", kind=kind)[index] for index in (2, 1, 0)][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        assert first.annotations == second.annotations
    train = open_dataset("shapes", kind=kind, split="train")[0]
    assert train.image.shape != forwards[0].image.shape or (train.image != forwards[0].image).any()


@pytest.fixture(scope="module")
def pictures():
    """Return some pictures, each with the number of every pixel's segment."""
    dataset = open_dataset("shapes", kind="panoptic", limit=24)
    return [(sample, numbers_of(sample)) for sample in dataset]


def test_pictures_have_things_all_kinds_of_stuff_and_void(pictures):
    names = {category["id"]: category["name"] for category in landscapes.CATEGORIES}
    seen, shares_of_void = set(), []
    for sample, numbers in pictures:
        shares_of_void.append((numbers == 0).mean())
        seen |= {names[annotation["category_id"]] for annotation in sample.annotations}
        stuff = [a["category_id"] for a in sample.annotations if not a["isthing"]]
        assert len(set(stuff)) == len(stuff) >= 2
        areas = np.bincount(numbers.ravel(), minlength=len(sample.annotations) + 1)[1:]
        assert areas.tolist() == [a["area"] for a in sample.annotations]
    assert seen == set(names.values())
    assert {share > 0.01 for share in shares_of_void} == {True, False}
    assert max(shares_of_void) < 0.5


def test_stuff_can_be_told_apart_by_its_colour(pictures):
    colours = {name: [] for name in STUFF}
    for sample, numbers in pictures:
        for number, annotation in enumerate(sample.annotations, 1):
            if not annotation["isthing"]:
                mean = sample.image[numbers == number].mean(axis=0)
                colours[STUFF[annotation["category_id"] - 7]].append(mean / mean.sum())
    means = {name: np.mean(values, axis=0) for name, values in colours.items()}
    right = [
        min(means, key=lambda other: np.abs(value - means[other]).sum()) == name
        for name, values in colours.items()
        for value in values
    ]
    assert np.mean(right) > 0.9


def test_a_pose_undoes_what_it_does():
    pose = Pose(0.4, 1.3, (5.0, -2.0))
    points = np.random.default_rng(0).uniform(-9, 9, (7, 2))
    np.testing.assert_allclose(pose.undo(pose.apply(points)), points, atol=1e-12)
    other = Pose(-1.0, 0.7, (1.0, 2.0))
    np.testing.assert_allclose(
        pose.before(other).apply(points), other.apply(pose.apply(points)), atol=1e-12
    )


def clip(number):
    return ClipsDataset().landscape(number)


def test_the_first_frame_is_where_the_figures_were_invented():
    for number in CLIPS:
        landscape = clip(number)
        for index, figure in enumerate(landscape.figures):
            found = landscape.silhouette(index, 0)
            np.testing.assert_allclose(found.centre, figure.silhouette.centre, atol=1e-9)
            assert (found.angle, found.radius) == (
                figure.silhouette.angle,
                figure.silhouette.radius,
            )


@pytest.mark.parametrize("number", CLIPS)
def test_the_camera_stays_in_its_world(number):
    landscape = clip(number)
    corners = np.array([[x, y] for x in (0, landscape.width) for y in (0, landscape.height)], float)
    for time in range(NUM_FRAMES):
        seen = landscape.camera_pose(time).undo(corners)
        assert seen.min() > -landscape.margin
        assert (seen < np.array([landscape.width, landscape.height]) + landscape.margin).all()
    assert landscape.camera_pose(5) != landscape.camera_pose(0)


@pytest.mark.parametrize("number", CLIPS)
def test_the_flow_leads_to_the_same_thing_of_the_same_colour(number):
    landscape = clip(number)
    before, numbers = landscapes.view(landscape, 4)
    after, others = landscapes.view(landscape, 3)
    found = landscapes.flow(landscape, 4, 3)
    height, width = numbers.shape
    y, x = np.mgrid[:height, :width] + 0.5
    at_x, at_y = x + found.flow[:, :, 0], y + found.flow[:, :, 1]
    is_inside = (at_x > 0) & (at_x < width) & (at_y > 0) & (at_y < height)
    row, column = (np.floor(at).astype(int) for at in (at_y, at_x))
    landed = others[row.clip(0, height - 1), column.clip(0, width - 1)]
    np.testing.assert_array_equal(found.is_visible, is_inside & (landed == numbers))
    assert found.is_visible.mean() > 0.6

    def error(at_row, at_column):
        colours = after[at_row.clip(0, height - 1), at_column.clip(0, width - 1)]
        return np.abs(colours - before).max(axis=2)[found.is_visible]

    moved = np.hypot(*np.moveaxis(found.flow, 2, 0))[found.is_visible]
    assert moved.mean() > 0.5
    still = error(*np.mgrid[:height, :width])
    assert error(row, column).mean() < 0.6 * still.mean()


def test_flow_there_and_back_is_none():
    landscape = clip(0)
    there, back = landscapes.flow(landscape, 2, 6), landscapes.flow(landscape, 6, 2)
    height, width = there.is_visible.shape
    y, x = np.mgrid[:height, :width]
    row = np.floor(y + 0.5 + there.flow[:, :, 1]).astype(int).clip(0, height - 1)
    column = np.floor(x + 0.5 + there.flow[:, :, 0]).astype(int).clip(0, width - 1)
    sum_of_both = there.flow + back.flow[row, column]
    # The way back is that of the pixel it falls into, up to half a pixel beside: turns differ by that much.
    assert np.abs(sum_of_both[there.is_visible]).max() < 0.5
    assert np.abs(landscapes.flow(landscape, 2, 2).flow).max() < 1e-4


def test_figures_turn_occlude_one_another_leave_and_return():
    num_returned = num_occluded = num_turned = 0
    for number in CLIPS:
        landscape = clip(number)
        counts = []
        for time in range(NUM_FRAMES):
            _, numbers = landscapes.view(landscape, time)
            size = FIRST_FIGURE + len(landscape.figures)
            counts.append(np.bincount(numbers.ravel(), minlength=size)[FIRST_FIGURE:])
        counts = np.array(counts)
        last = counts[:, -1] > 0  # the figure that leaves
        num_returned += last[0] and last[-1] and not last.all()
        others = counts[:, :-1]
        num_occluded += (others.min(axis=0) < 0.7 * others.max(axis=0)).any()
        angles = [landscape.silhouette(0, time).angle for time in range(NUM_FRAMES)]
        num_turned += np.ptp(angles) > 0.1
    assert num_returned == len(CLIPS)
    assert num_occluded > 0
    assert num_turned > 0


def test_a_track_is_one_figure_from_the_first_frame_to_the_last():
    dataset = ClipsDataset(limit=2 * NUM_FRAMES)
    categories = {}
    for sample in dataset:
        for annotation in sample.annotations:
            if annotation["isthing"]:
                key = sample.video_id, annotation["track_id"]
                category = annotation["category_id"]
                assert categories.setdefault(key, category) == category
            else:
                assert "track_id" not in annotation
    assert {video for video, _ in categories} == {1, 2}
    truth = dataset.coco()
    assert [image["video_id"] for image in truth["images"]] == [1] * NUM_FRAMES + [2] * NUM_FRAMES
    assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"])


def test_clips_of_instances_are_the_same_pictures_with_figures_alone():
    whole, figures = (
        open_dataset("shapes", kind=kind, limit=2) for kind in ("clips", "instance_clips")
    )
    for sample, other in zip(whole, figures, strict=True):
        np.testing.assert_array_equal(other.image, sample.image)
        assert other.annotations == tuple(a for a in sample.annotations if a["isthing"])
        assert len(other.annotations) < len(sample.annotations)
    assert [category["name"] for category in figures.categories] == list(CLASSES)
    with pytest.raises(ValueError, match="no clips of kind 'tubes': choose from"):
        ClipsDataset(kind="tubes")


def test_a_model_of_videos_is_measured_on_clips_and_the_others_on_pictures():
    for name, kind in {
        "yolact_edge_vid_resnet50": "instance_clips",
        "yolact_tiny": "instances",
    }.items():
        with torch.device("meta"):
            model = get_spec(name).build(name, None, {})
        assert dataset_kind(model_manifest(model)) == kind


def test_the_data_set_gives_the_flow_between_frames_of_one_clip():
    dataset = ClipsDataset()
    expected = landscapes.flow(clip(1), 3, 2)
    found = dataset.flow(NUM_FRAMES + 3, NUM_FRAMES + 2)
    np.testing.assert_array_equal(found.flow, expected.flow)
    with pytest.raises(ValueError, match="Frame 12 is of clip 1, frame 11 of clip 0"):
        dataset.flow(NUM_FRAMES, NUM_FRAMES - 1)
    with pytest.raises(IndexError, match="Frame 600 of 600"):
        _ = dataset[600]
    with pytest.raises(ValueError, match="has no split 'test'"):
        ClipsDataset("test")
