"""Segments and clips in files: what is written is read back, and damaged files are named."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from edgeseg_bench.datasets import DatasetError, open_dataset
from edgeseg_bench.datasets.cityscapes import write_cityscapes, write_cityscapes_vps
from edgeseg_bench.datasets.coco_panoptic import write_coco_panoptic
from edgeseg_bench.datasets.segment_files import panoptic_from_sample, panoptic_of
from edgeseg_bench.datasets.shapes import write_coco
from edgeseg_bench.datasets.youtube_vis import write_youtube_vis
from edgeseg_bench.metrics.panoptic import map_from_records

LIMIT = 2
LAYOUTS = {  # scheme -> kind of the shapes, writer, JSON file, PNG file of the first picture
    "coco": (
        "panoptic",
        write_coco_panoptic,
        "annotations/panoptic_val.json",
        "annotations/panoptic_val/000001.png",
    ),
    "cityscapes": (
        "panoptic",
        write_cityscapes,
        "gtFine/cityscapes_panoptic_val.json",
        "gtFine/cityscapes_panoptic_val/shapes_000000_000000_gtFine_panoptic.png",
    ),
    "cityscapes-vps": (
        "clips",
        write_cityscapes_vps,
        "panoptic_gt_val_city_vps.json",
        "val/panoptic_video/0001_0000_shapes_000001_000000_gtFine_color.png",
    ),
}


def kind_of(scheme):
    return "panoptic" if scheme == "coco" else None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of each layout; tests that change one take a copy."""
    folders = {}
    for scheme, (kind, write, *_) in LAYOUTS.items():
        folders[scheme] = tmp_path_factory.mktemp(scheme)
        write(open_dataset("shapes", kind=kind, limit=LIMIT), folders[scheme])
    folders["youtube-vis"] = tmp_path_factory.mktemp("youtube-vis")
    write_youtube_vis(open_dataset("shapes", kind="clips", limit=LIMIT), folders["youtube-vis"])
    return folders


@pytest.fixture
def folder_of(written, tmp_path):
    def copy(scheme):
        return shutil.copytree(written[scheme], tmp_path / scheme)

    return copy


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_segments_are_read_as_they_were_written(written, scheme):
    original = open_dataset("shapes", kind=LAYOUTS[scheme][0], limit=LIMIT)
    found = open_dataset(f"{scheme}:{written[scheme]}", kind=kind_of(scheme))
    assert len(found) == LIMIT
    assert [dict(c) for c in found.categories] == [dict(c) for c in original.categories]
    truth = found.coco()
    for expected, sample, image in zip(original, found, truth["images"], strict=True):
        np.testing.assert_array_equal(sample.image, expected.image)
        assert sample.video_id == expected.video_id
        assert image.get("video_id") == expected.video_id
        assert (image["height"], image["width"]) == (expected.height, expected.width)
        own = [a for a in truth["annotations"] if a["image_id"] == sample.image_id]
        assert own == list(sample.annotations)
        size = expected.height, expected.width
        keys = ("category_id", "isthing", "area", "bbox", "iscrowd")
        assert sorted(tuple(map(str, map(a.get, keys))) for a in own) == sorted(
            tuple(map(str, map(a.get, keys))) for a in expected.annotations
        )
        for annotation in own:
            alone = map_from_records([annotation], size).numbers
            assert any(
                (alone == map_from_records([a], size).numbers).all() for a in expected.annotations
            )
    ids = [annotation["id"] for annotation in truth["annotations"]]
    assert len(set(ids)) == len(ids)
    assert open_dataset(f"{scheme}:{written[scheme]}:val", kind=kind_of(scheme), limit=1)[0]


def test_things_keep_their_identity_from_frame_to_frame(written):
    original = open_dataset("shapes", kind="clips", limit=LIMIT)
    for scheme in ("cityscapes-vps", "youtube-vis"):
        found = open_dataset(f"{scheme}:{written[scheme]}")
        identities = {}
        for expected, sample in zip(original, found, strict=True):
            figures = [a for a in expected.annotations if a["isthing"]]
            tracked = {
                tuple(a["bbox"]): a["track_id"] for a in sample.annotations if "track_id" in a
            }
            for figure in figures:
                track = tracked[tuple(figure["bbox"])]
                assert identities.setdefault(figure["track_id"], track) == track
        assert len(set(identities.values())) == len(identities) > 1


def test_clips_of_youtube_vis_have_things_only(written):
    original = open_dataset("shapes", kind="clips", limit=LIMIT)
    found = open_dataset(f"youtube-vis:{written['youtube-vis']}", kind="instances")
    assert [c["name"] for c in found.categories] == [
        c["name"] for c in original.categories if c["isthing"]
    ]
    truth = found.coco()
    assert [image["video_id"] for image in truth["images"]] == [1] * LIMIT
    for expected, sample in zip(original, found, strict=True):
        np.testing.assert_array_equal(sample.image, expected.image)
        things = [a for a in expected.annotations if a["isthing"]]
        assert len(sample.annotations) == len(things)
        assert sorted(a["area"] for a in sample.annotations) == sorted(a["area"] for a in things)
        assert sample.video_id == 1


def test_the_shapes_writer_knows_panoptic_pictures(tmp_path):
    write_coco(open_dataset("shapes", kind="panoptic", limit=1), tmp_path)
    (sample,) = open_dataset(f"coco:{tmp_path}", kind="panoptic")
    assert {annotation["isthing"] for annotation in sample.annotations} == {0, 1}


def test_a_crowd_stays_one(folder_of):
    folder = folder_of("coco")
    source = folder / LAYOUTS["coco"][2]
    content = json.loads(source.read_text())
    content["annotations"][0]["segments_info"][0]["iscrowd"] = 1
    source.write_text(json.dumps(content))
    sample = open_dataset(f"coco:{folder}", kind="panoptic")[0]
    assert [annotation["iscrowd"] for annotation in sample.annotations][:2] == [1, 0]
    again = panoptic_of(sample).annotation["segments_info"]
    assert [segment["iscrowd"] for segment in again][:2] == [1, 0]


def test_labels_can_be_looked_at_as_a_result():
    dataset = open_dataset("shapes", kind="clips", limit=1)
    found = panoptic_from_sample(dataset[0], dataset.categories)
    assert {segment.name for segment in found.segments} >= {"sky", "ground"}
    for segment, annotation in zip(found.segments, dataset[0].annotations, strict=True):
        assert (segment.area, segment.track_id) == (annotation["area"], annotation.get("track_id"))
    twice = dataset[0].annotations[:1] * 2
    with pytest.raises(ValueError, match="Two segments have one id"):
        panoptic_from_sample(dataclasses.replace(dataset[0], annotations=twice))
    other = {**twice[0], "category_id": 1, "isthing": 1}
    with pytest.raises(ValueError, match="overlap; expected a panoptic picture"):
        panoptic_from_sample(dataclasses.replace(dataset[0], annotations=(twice[0], other)))


def damage_json(change):
    def damage(folder, scheme):
        source = folder / LAYOUTS[scheme][2]
        content = json.loads(source.read_text())
        change(content)
        source.write_text(json.dumps(content))

    return damage


def first(content):
    return content["annotations"][0]["segments_info"]


def paint_png(folder, scheme):
    path = folder / LAYOUTS[scheme][3]
    labels = cv2.imread(str(path))
    labels[0, 0] = 77
    path.write_bytes(cv2.imencode(".png", labels)[1].tobytes())


def shrink_png(folder, scheme):
    path = folder / LAYOUTS[scheme][3]
    labels = cv2.imread(str(path))
    path.write_bytes(cv2.imencode(".png", np.pad(labels, ((0, 1), (0, 0), (0, 0)), "edge"))[1])


def damage_text(folder, scheme):
    source = folder / LAYOUTS[scheme][2]
    source.write_text(source.read_text()[:-20])


DAMAGES = {
    "no JSON file": (
        lambda folder, scheme: (folder / LAYOUTS[scheme][2]).unlink(),
        "Expected FOLDER",
    ),
    "no PNG files": (
        lambda folder, scheme: shutil.rmtree((folder / LAYOUTS[scheme][3]).parent),
        "Expected FOLDER",
    ),
    "cut JSON file": (damage_text, "is not JSON"),
    "no categories": (damage_json(lambda c: c.pop("categories")), r"lacks \['categories'\]"),
    "neither thing nor stuff": (
        damage_json(lambda c: c["categories"][0].pop("isthing")),
        r"lacks \['isthing'\]",
    ),
    "no segments": (
        damage_json(lambda c: c["annotations"][0].pop("segments_info")),
        r"lacks \['segments_info'\]",
    ),
    "segment without id": (damage_json(lambda c: first(c)[0].pop("id")), r"lacks \['id'\]"),
    "unknown category": (
        damage_json(lambda c: first(c)[0].update(category_id=99)),
        "has category 99, which is not among the 9 categories",
    ),
    "a segment too few": (damage_json(lambda c: first(c).pop()), "which is not one of segment_ids"),
    "a segment too many": (
        damage_json(lambda c: first(c).append({"id": 5, "category_id": 1})),
        "segment 5 has no pixel in ids",
    ),
    "two entries of a picture": (
        damage_json(lambda c: c["annotations"].append(c["annotations"][0])),
        "has two annotations for picture",
    ),
    "an id that is not there": (paint_png, "contradict: ids has pixels of 5066061"),
    "a picture of another size": (shrink_png, "they do not belong together"),
}


@pytest.mark.parametrize("scheme", LAYOUTS)
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_named(folder_of, scheme, name):
    folder = folder_of(scheme)
    damage, message = DAMAGES[name]
    damage(folder, scheme)
    with pytest.raises(DatasetError, match=message):
        _ = open_dataset(f"{scheme}:{folder}", kind=kind_of(scheme))[0]


@pytest.mark.parametrize("scheme", ["cityscapes", "cityscapes-vps", "youtube-vis"])
def test_wrong_arguments_are_refused(tmp_path, scheme):
    with pytest.raises(DatasetError, match=r"There is no folder .* Expected FOLDER"):
        open_dataset(f"{scheme}:{tmp_path / 'none'}")
    with pytest.raises(ValueError, match="split 'summer': choose from"):
        open_dataset(f"{scheme}:{tmp_path}", split="summer")
    with pytest.raises(ValueError, match="limit is 0"):
        open_dataset(f"{scheme}:{tmp_path}", limit=0)
    with pytest.raises(ValueError, match=f"Data sets of '{scheme}' have labelled .*'faces'"):
        open_dataset(f"{scheme}:{tmp_path}", kind="faces")
    with pytest.raises(DatasetError, match="Expected FOLDER"):
        open_dataset(f"{scheme}:{tmp_path}")


def test_damaged_videos_are_named(folder_of):
    folder = folder_of("youtube-vis")
    source = folder / "valid" / "instances.json"
    content = json.loads(source.read_text())
    content["annotations"][0]["segmentations"].pop()
    source.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="has 1 segmentations, its video 2 frames"):
        open_dataset(f"youtube-vis:{folder}")
    content["videos"][0]["height"] += 1
    content["annotations"] = []
    source.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="use the original frames"):
        _ = open_dataset(f"youtube-vis:{folder}")[0]
    content["videos"] = []
    source.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="has no videos"):
        open_dataset(f"youtube-vis:{folder}")


def test_only_clips_are_written_as_clips(tmp_path):
    still = open_dataset("shapes", kind="panoptic", limit=1)
    for write in (write_cityscapes_vps, write_youtube_vis):
        with pytest.raises(ValueError, match="does not belong to a clip"):
            write(still, tmp_path)


def test_a_frame_without_labels_of_its_own_is_found_among_all(folder_of):
    folder = folder_of("cityscapes-vps")
    frames = sorted((folder / "val" / "img").iterdir())
    (folder / "val" / "img_all").mkdir()
    for path in frames:
        target = path.name.replace("_leftImg8bit", "_newImg8bit")
        path.rename(folder / "val" / "img_all" / target)
    assert len(list(open_dataset(f"cityscapes-vps:{folder}"))) == LIMIT
