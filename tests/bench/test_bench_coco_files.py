"""COCO data sets on disk: layouts that are read, and what the user is told about others."""

import json

import cv2
import numpy as np
import pytest

from edgeseg_bench.datasets import open_dataset
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
