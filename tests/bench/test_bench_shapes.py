"""The shapes data set is deterministic, correctly annotated and readable as COCO files."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.figures import MIN_VISIBLE_PIXELS
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_bench.datasets.shapes import CATEGORIES, ShapesDataset, write_coco

GOLDEN = Path(__file__).parents[1] / "golden" / "shapes" / "pictures.json"


def masks_of(sample):
    return np.array(
        [
            mask_from_segmentation(a["segmentation"], height=sample.height, width=sample.width)
            for a in sample.annotations
        ]
    )


def summary_of(sample):
    """What must survive a change of numpy, cv2 or CPU: everything but single grey levels."""
    rows = np.array_split(sample.image.astype(np.float64), 4, axis=0)
    cells = [cell.mean(axis=(0, 1)) for row in rows for cell in np.array_split(row, 4, axis=1)]
    return {
        "size": [sample.height, sample.width],
        "categories": [a["category_id"] for a in sample.annotations],
        "boxes": [a["bbox"] for a in sample.annotations],
        "areas": [a["area"] for a in sample.annotations],
        "colours": np.round(cells, 1).tolist(),
    }


GOLDEN_CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda c: f"{c['split']}-{c['index']}")
def test_a_picture_is_the_same_as_ever(case):
    found, expected = summary_of(ShapesDataset(case["split"])[case["index"]]), case["summary"]
    assert found["size"] == expected["size"]
    assert found["categories"] == expected["categories"]
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1)
    np.testing.assert_allclose(found["areas"], expected["areas"], rtol=0.01, atol=3)
    np.testing.assert_allclose(found["colours"], expected["colours"], atol=1)


def test_a_picture_depends_on_nothing_but_its_index():
    forwards = [sample.image for sample in ShapesDataset("val", limit=4)]
    np.random.seed(5)  # noqa: NPY002  - the global state is what must not matter
    dataset = ShapesDataset("val")
    for index in (3, 0, 2, 1):
        assert np.array_equal(dataset[index].image, forwards[index])


def test_splits_and_seeds_share_no_picture():
    datasets = [ShapesDataset("train"), ShapesDataset("val"), ShapesDataset("val", seed=1)]
    pictures = {dataset[index].image.tobytes() for dataset in datasets for index in range(8)}
    assert len(pictures) == 24


def test_annotations_describe_the_visible_masks():
    annotation_ids = []
    for sample in ShapesDataset("train", limit=30):
        masks_NHW = masks_of(sample)
        assert masks_NHW.sum(axis=0).max() == 1, "visible masks overlap"
        assert 1 <= len(masks_NHW) <= 8
        for annotation, mask_HW in zip(sample.annotations, masks_NHW, strict=True):
            rows, columns = np.nonzero(mask_HW)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == len(rows) >= MIN_VISIBLE_PIXELS
            assert annotation["iscrowd"] == 0
            assert annotation["image_id"] == sample.image_id
            annotation_ids.append(annotation["id"])
    assert len(set(annotation_ids)) == len(annotation_ids)
    assert 0 not in annotation_ids  # COCO evaluators take 0 for "not matched"


def test_all_classes_and_sizes_occur():
    annotations = ShapesDataset("val", limit=60).coco()["annotations"]
    counts = np.bincount([a["category_id"] for a in annotations], minlength=len(CATEGORIES) + 1)
    assert counts[0] == 0
    assert counts[1:].min() > len(annotations) / 12
    sides = np.sqrt([a["area"] for a in annotations])
    assert (sides < 16).any()
    assert (sides > 96).any()


def test_a_ring_has_a_hole():
    ring_id = next(c["id"] for c in CATEGORIES if c["name"] == "ring")
    sample, annotation = next(
        (sample, annotation)
        for sample in ShapesDataset("val")
        for annotation in sample.annotations
        if annotation["category_id"] == ring_id and annotation["area"] > 1000
    )
    mask_HW = mask_from_segmentation(
        annotation["segmentation"], height=sample.height, width=sample.width
    )
    x, y, width, height = annotation["bbox"]
    assert not mask_HW[int(y + height / 2), int(x + width / 2)]


def test_drawing_a_picture_takes_milliseconds():
    dataset = ShapesDataset("train")
    times = []
    for index in range(20):
        start = time.process_time()
        _ = dataset[index]
        times.append(time.process_time() - start)
    assert np.median(times) < 0.05  # 9 ms on a 2024 server core


def test_written_files_read_back_as_coco(tmp_path):
    written = ShapesDataset("val", limit=3)
    assert write_coco(written, tmp_path) == tmp_path
    assert sorted(p.name for p in (tmp_path / "val").iterdir()) == [
        "000001.png",
        "000002.png",
        "000003.png",
    ]
    read = open_dataset(f"coco:{tmp_path}")
    assert read.categories == written.categories
    assert len(read) == 3
    for ours, theirs in zip(written, read, strict=True):
        assert np.array_equal(ours.image, theirs.image)
        assert ours.annotations == theirs.annotations
        assert ours.image_id == theirs.image_id
    assert read.coco() == written.coco()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "shapes", "split": "test"}, r"no split 'test': choose from \['train', 'val'\]"),
        ({"name": "shapes", "limit": 0}, "limit is 0: give the number of pictures, at least 1"),
        ({"name": "cifar"}, "no data set 'cifar': give 'shapes', 'coco:FOLDER'"),
        ({"name": "coco"}, "no data set 'coco': give 'shapes', 'coco:FOLDER'"),
    ],
    ids=["split", "limit", "name", "coco-without-folder"],
)
def test_a_wrong_name_says_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(**arguments)


def test_an_index_outside_raises():
    with pytest.raises(IndexError, match="Picture 2 of 2"):
        ShapesDataset("val", limit=2)[2]
