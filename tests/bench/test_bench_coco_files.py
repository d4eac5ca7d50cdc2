"""COCO data sets on disk: layouts that are read, and what the user is told about others."""

import json
import os

import cv2
import numpy as np
import pytest

from edgeseg_bench.datasets import open_dataset, open_training_split
from edgeseg_bench.datasets.coco import CocoDataset, DatasetError
from edgeseg_bench.datasets.segmentation import mask_from_segmentation, rle_from_mask

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]  # 4 x 4 pixels from (2, 1)


def write_dataset(folder, split="val2017", *, pictures="{split}", kind="instances", images=3):
    place = folder / pictures.format(split=split)
    place.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    entries = []
    for number in range(images):
        picture = np.full((8, 10, 3), number * 20, dtype=np.uint8)
        cv2.imwrite(str(place / f"{number}.png"), picture)
        entries.append({"id": 100 + number, "file_name": f"{number}.png", "height": 8, "width": 10})
    annotation = {
        "id": 1,
        "image_id": 100,
        "category_id": 18,
        "bbox": [2, 1, 4, 4],
        "area": 16,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    content = {
        "images": entries,
        "annotations": [annotation],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }
    target = folder / "annotations" / f"{kind}_{split}.json"
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


@pytest.mark.parametrize("pictures", ["{split}", "images/{split}"])
@pytest.mark.parametrize("split", ["val2017", "val", "mine"])
def test_the_usual_layouts_are_found_without_naming_the_split(tmp_path, split, pictures):
    write_dataset(tmp_path, split, pictures=pictures)
    dataset = open_dataset(f"coco:{tmp_path}")
    assert dataset.name == f"coco:{tmp_path.name}:{split}"
    assert [sample.image_id for sample in dataset] == [100, 101, 102]
    assert dataset[1].image[0, 0].tolist() == [20, 20, 20]
    assert dataset[0].annotations[0]["category_id"] == 18
    assert dataset[1].annotations == ()


@pytest.mark.parametrize("split", ["minival2014", "valminusminival2014"])
def test_labelled_surfaces_lie_beside_the_pictures_of_2014(tmp_path, split):
    file = write_dataset(tmp_path, split, pictures="val2014", kind="densepose")
    for dataset in (
        open_dataset(f"coco:{tmp_path}:{split}", kind="densepose"),
        open_dataset(f"coco:{file}"),
    ):
        assert dataset[1].image[0, 0].tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("name", "split"), [("coco:{}:train", None), ("coco:{}", "train"), ("coco:{}:train", "train")]
)
def test_a_split_can_be_named(tmp_path, name, split):
    write_dataset(tmp_path, "val2017")
    write_dataset(tmp_path, "train2017", images=1)
    assert len(open_dataset(name.format(tmp_path), split=split)) == 1


def test_two_different_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="names the split 'train', but split is 'val'"):
        open_dataset(f"coco:{tmp_path}:train", split="val")


def test_a_limit_keeps_the_first_pictures_and_their_annotations(tmp_path):
    write_dataset(tmp_path)
    dataset = open_dataset(f"coco:{tmp_path}", limit=1)
    assert len(dataset) == 1
    truth = dataset.coco()
    assert [image["id"] for image in truth["images"]] == [100]
    assert [annotation["id"] for annotation in truth["annotations"]] == [1]


def test_key_point_annotations_have_their_own_file(tmp_path):
    write_dataset(tmp_path, kind="person_keypoints")
    assert len(open_dataset(f"coco:{tmp_path}", kind="person_keypoints")) == 3
    with pytest.raises(DatasetError, match=r"found no such file.*instances_SPLIT\.json"):
        CocoDataset(tmp_path)


CONTENT = {
    "images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 10}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [2, 1, 4, 3]}],
    "categories": [{"id": 1, "name": "bolt"}],
}


def write_layout(folder, file, picture, file_name, **changes):
    content = {**CONTENT, **changes}
    content["images"] = [{**CONTENT["images"][0], "file_name": file_name}]
    for path in (folder / file, folder / picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    assert cv2.imwrite(str(folder / picture), np.full((8, 10, 3), 9, np.uint8))


@pytest.mark.parametrize(
    ("annotations", "picture", "file_name", "split"),
    [
        ("valid/_annotations.coco.json", "valid/a.png", "a.png", "valid"),
        ("test/_annotations.coco.json", "test/a.png", "a.png", "test"),
        ("_annotations.coco.json", "a.png", "a.png", None),
        ("annotations/instances_default.json", "images/a.png", "a.png", "default"),
        ("annotations/instances_val.json", "images/val/a.png", "val/a.png", "val"),
        ("annotations/instances_val.json", "images/a.png", "images/a.png", "val"),
        ("annotations/val.json", "val/a.png", "a.png", "val"),
        ("annotations/annotations.json", "images/a.png", "a.png", None),
        ("result.json", "images/a.png", "images\\a.png", None),
        ("labels.json", "data/a.png", "a.png", None),
        ("annotations/instances_val.json", "val/a.png", "/home/other/set/a.png", "val"),
    ],
    ids=[
        "roboflow", "one split of roboflow", "inside of a split", "cvat", "folder in the name",
        "relative to the root", "plain split", "no split", "label studio", "fiftyone",
        "path of another machine",
    ],
)  # fmt: skip
def test_the_layouts_of_annotation_tools_are_found(
    tmp_path, annotations, picture, file_name, split
):
    write_layout(tmp_path, annotations, picture, file_name)
    dataset = open_dataset(f"coco:{tmp_path}")
    assert dataset.name == f"coco:{tmp_path.name}" + (f":{split}" if split else "")
    assert dataset[0].image[0, 0].tolist() == [9, 9, 9]
    alone = open_dataset(f"coco:{tmp_path / annotations}")
    assert alone.name == f"coco:{(tmp_path / annotations).name}"
    assert alone[0].image[0, 0].tolist() == [9, 9, 9]


def test_splits_of_roboflow_are_told_apart(tmp_path):
    for split in ("train", "valid", "test"):
        write_layout(tmp_path, f"{split}/_annotations.coco.json", f"{split}/a.png", "a.png")
    names = [open_dataset(f"coco:{tmp_path}{split}").name for split in ("", ":val", ":train")]
    assert names == [f"coco:{tmp_path.name}:{split}" for split in ("valid", "valid", "train")]
    assert open_training_split(f"coco:{tmp_path}").name == f"coco:{tmp_path.name}:train"
    with pytest.raises(DatasetError, match=r"found the splits \['test', 'train', 'valid'\]: name"):
        open_dataset(f"coco:{tmp_path}:other")
    file = tmp_path / "test" / "_annotations.coco.json"
    assert open_training_split(f"coco:{file}").name == "coco:_annotations.coco.json"
    with pytest.raises(ValueError, match="is an annotation file: leave the split 'val' out"):
        open_dataset(f"coco:{file}", split="val")


def test_what_tools_leave_out_of_annotations_is_completed(tmp_path):
    groups = [{"id": 0, "name": "parts", "supercategory": "none"}]
    bolts = [{"id": 1, "name": "bolt", "supercategory": "parts"}]
    write_layout(
        tmp_path, "valid/_annotations.coco.json", "valid/a.png", "a.png", categories=groups + bolts
    )
    dataset = open_dataset(f"coco:{tmp_path}")
    (annotation,) = dataset[0].annotations
    assert (annotation["iscrowd"], annotation["area"]) == (0, 12)
    assert [category["name"] for category in dataset.categories] == ["bolt"]


def test_a_category_that_is_its_own_group_stays(tmp_path):
    people = [{"id": 1, "name": "person", "supercategory": "person"}]
    write_layout(tmp_path, "labels.json", "data/a.png", "a.png", categories=people, annotations=[])
    assert [category["name"] for category in open_dataset(f"coco:{tmp_path}").categories] == [
        "person"
    ]


def test_pictures_that_cannot_be_read_are_left_out_before_anything_is_done(tmp_path, caplog):
    write_dataset(tmp_path, images=4)
    (tmp_path / "val2017" / "0.png").write_bytes(b"damaged")
    (tmp_path / "val2017" / "2.png").unlink()
    seen = []
    dataset = open_dataset(f"coco:{tmp_path}", on_picture=lambda *count: seen.append(count))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert [sample.image_id for sample in dataset] == [101, 103]
    truth = dataset.coco()
    assert [image["id"] for image in truth["images"]] == [101, 103]
    assert truth["annotations"] == [], "that of a picture that is left out goes with it"
    assert dataset.categories == open_dataset(f"coco:{tmp_path}").categories
    assert "skipped: " in caplog.text
    assert "0.png cannot be used as a picture" in caplog.text
    assert "2.png does not exist" in caplog.text
    for number in (1, 3):
        (tmp_path / "val2017" / f"{number}.png").write_bytes(b"damaged")
    with pytest.raises(
        DatasetError, match=r"None of the 4 pictures of coco:.* can be read: .*0\.png"
    ):
        open_dataset(f"coco:{tmp_path}", on_picture=lambda *count: None)


def test_a_picture_of_other_labels_is_an_error_when_it_is_checked(tmp_path):
    write_dataset(tmp_path)
    cv2.imwrite(str(tmp_path / "val2017" / "2.png"), np.zeros((4, 5, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match="was resized or turned"):
        open_dataset(f"coco:{tmp_path}", on_picture=lambda *count: None)


def test_a_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder .*nowhere\. Expected FOLDER/annotations/"):
        open_dataset(f"coco:{tmp_path / 'nowhere'}")


def test_an_unknown_split_lists_those_there_are(tmp_path):
    write_dataset(tmp_path, "train2017")
    write_dataset(tmp_path, "val2017")
    with pytest.raises(
        DatasetError, match=r"No split 'test'.*\['train2017', 'val2017'\]: name one"
    ):
        open_dataset(f"coco:{tmp_path}", split="test")


def test_annotations_without_pictures_are_told(tmp_path):
    write_dataset(tmp_path, pictures="elsewhere")
    with pytest.raises(DatasetError, match="annotations for 'val2017' but no pictures"):
        open_dataset(f"coco:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"lacks \['annotations', 'categories', 'images'\]"),
        ('{"images": [], "annotations": []}', r"lacks \['categories'\]"),
        (
            '{"images": [{"id": 1, "width": 3}], "annotations": [], "categories": []}',
            r"lacks \['file_name', 'height'\]",
        ),
    ],
    ids=["json", "list", "categories", "image"],
)
def test_a_broken_annotation_file_says_what_is_missing(tmp_path, text, message):
    write_dataset(tmp_path).write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"coco:{tmp_path}")


RUNS = {"size": [8, 10], "counts": [17, 4, 4, 4, 4, 4, 4, 4, 35]}


@pytest.mark.parametrize(
    ("entry", "key", "value", "message"),
    [
        ("images", None, {"a": 1}, r"images is \{'a': 1\}; expected a list"),
        ("annotations", 0, 7, r"annotations\[0\] is 7; expected an object"),
        ("images", "file_name", 7, r"images\[0\]\.file_name is 7; expected a name"),
        ("images", "height", "8", r"images\[0\]\.height is '8'; expected 1 to 65536 pixels"),
        (
            "images",
            "id",
            102,
            r"images\[2\]\.id is 102; expected another number than that of an ear",
        ),
        (
            "annotations",
            "image_id",
            [100],
            r"annotations\[0\]\.image_id is \[100\]; expected a whole",
        ),
        ("annotations", "category_id", True, r"category_id is True; expected a whole number"),
        ("annotations", "category_id", 7, r"category_id is 7; expected one of the 1 categories"),
        ("annotations", "bbox", [1, 2, 3], r"bbox is \[1, 2, 3\]; expected x, y, width, height"),
        (
            "annotations",
            "bbox",
            [1, 2, 3, float("nan")],
            r"bbox is \[1, 2, 3, nan\]; expected x, y",
        ),
        ("annotations", "area", "16", r"area is '16'; expected a number of pixels"),
        ("annotations", "iscrowd", 2, r"iscrowd is 2; expected 0 or 1"),
        (
            "annotations",
            "segmentation",
            [[1, 2, 3, 4]],
            r"segmentation is \[\[1, 2, .* three corners",
        ),
        (
            "annotations",
            "segmentation",
            [[0, 0, 1e9, 0, 0, 9]],
            r"segmentation is \[\[0, 0, 1000000000\.0",
        ),
        ("annotations", "segmentation", {**RUNS, "size": [10, 8]}, r"that cover the 8 x 10 pixels"),
        (
            "annotations",
            "segmentation",
            {**RUNS, "counts": [10**9]},
            r"that cover the 8 x 10 pixels",
        ),
        (
            "annotations",
            "segmentation",
            {**RUNS, "counts": "oooo"},
            r"that cover the 8 x 10 pixels",
        ),
        ("annotations", "keypoints", [1, 2], r"keypoints is \[1, 2\]; expected x, y, visibility"),
    ],
)
def test_an_annotation_that_no_metric_can_take_is_named(tmp_path, entry, key, value, message):
    file = write_dataset(tmp_path)
    content = json.loads(file.read_text(encoding="utf-8"))
    place, key = (content, entry) if key is None else (content[entry], key)
    (place if key in (0, entry) else place[0])[key] = value
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"coco:{tmp_path}")


def test_a_null_in_an_annotation_is_as_good_as_nothing(tmp_path):
    file = write_dataset(tmp_path)
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"][0] |= {"segmentation": None, "area": None, "keypoints": None}
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    (annotation,) = open_dataset(f"coco:{tmp_path}")[0].annotations
    assert annotation["area"] == 16
    assert "segmentation" not in annotation


def test_what_is_no_annotation_file_is_told(tmp_path):
    file = write_dataset(tmp_path)
    file.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(DatasetError, match="is not JSON"):
        open_dataset(f"coco:{tmp_path}")
    with file.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(DatasetError, match=r"has more than .* bytes, which no file of labels has"):
        open_dataset(f"coco:{tmp_path}")


def test_a_pipe_in_place_of_annotations_is_not_waited_for(tmp_path):
    file = write_dataset(tmp_path, "mine")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DatasetError, match=r"instances_mine\.json does not exist or is not a file"):
        open_dataset(f"coco:{tmp_path}")


def test_a_picture_s_name_that_no_file_can_have_is_left_out(tmp_path):
    file = write_dataset(tmp_path)
    content = json.loads(file.read_text(encoding="utf-8"))
    content["images"][0]["file_name"] = "n" * 300
    file.write_text(json.dumps(content), encoding="utf-8")
    dataset = open_dataset(f"coco:{tmp_path}", on_picture=lambda done, total: None)
    assert [sample.image_id for sample in dataset] == [101, 102]


def test_a_resized_picture_is_noticed(tmp_path):
    write_dataset(tmp_path)
    cv2.imwrite(str(tmp_path / "val2017" / "0.png"), np.zeros((4, 5, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"has 4 x 5 pixels .* for 8 x 10: .*resized or turned"):
        open_dataset(f"coco:{tmp_path}")[0]


SQUARE_MASK = np.zeros((8, 10), dtype=bool)
SQUARE_MASK[1:5, 2:6] = True


@pytest.mark.parametrize(
    "segmentation",
    [
        SQUARE,
        [SQUARE[0], SQUARE[0]],
        rle_from_mask(SQUARE_MASK),
        {"size": [8, 10], "counts": [17, 4, 4, 4, 4, 4, 4, 4, 35]},
    ],
    ids=["polygon", "polygons", "compressed", "uncompressed"],
)
def test_every_form_of_segmentation_gives_the_same_mask(segmentation):
    mask_HW = mask_from_segmentation(segmentation, height=8, width=10)
    assert mask_HW.dtype == bool
    assert np.array_equal(mask_HW, SQUARE_MASK)


def test_no_polygons_give_an_empty_mask():
    assert not mask_from_segmentation([], height=8, width=10).any()


def test_a_segmentation_of_another_picture_is_refused():
    with pytest.raises(ValueError, match=r"picture of \[8, 10\].*the picture has \[10, 8\]"):
        mask_from_segmentation(rle_from_mask(SQUARE_MASK), height=10, width=8)
