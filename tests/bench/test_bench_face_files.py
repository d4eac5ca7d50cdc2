"""WIDER FACE, 300W and WFLW on disk: what is written reads back, and what the user is told about damage."""

import math

import numpy as np
import pytest

from edgeseg_bench.datasets import DatasetError, open_dataset
from edgeseg_bench.datasets.ibug import read_points, write_300w
from edgeseg_bench.datasets.matlab import read_matlab, write_matlab
from edgeseg_bench.datasets.wflw import write_wflw
from edgeseg_bench.datasets.wider import write_wider


@pytest.fixture(scope="module")
def faces():
    return open_dataset("shapes", kind="faces", limit=3)


@pytest.fixture(scope="module")
def samples(faces):
    return list(faces)


@pytest.fixture
def wider(faces, tmp_path):
    return write_wider(faces, tmp_path)


@pytest.fixture
def ibug(faces, tmp_path):
    return write_300w(faces, tmp_path)


@pytest.fixture
def wflw(faces, tmp_path):
    return write_wflw(faces, tmp_path)


def boxes_file(folder):
    return folder / "wider_face_split" / "wider_face_val_bbx_gt.txt"


def wflw_list(folder):
    return (
        folder
        / "WFLW_annotations"
        / "list_98pt_rect_attr_train_test"
        / "list_98pt_rect_attr_test.txt"
    )


def assert_same_pictures(read, samples):
    assert len(read) == len(samples)
    for ours, theirs in zip(samples, read, strict=True):
        assert np.array_equal(ours.image, theirs.image)
        assert len(ours.annotations) == len(theirs.annotations)
        for annotation in theirs.annotations:
            assert annotation["image_id"] == theirs.image_id
            assert annotation["category_id"] == 1
    ids = [a["id"] for sample in read for a in sample.annotations]
    assert ids == list(range(1, len(ids) + 1))


def pairs(samples, read):
    for ours, theirs in zip(samples, read, strict=True):
        yield from zip(ours.annotations, theirs.annotations, strict=True)


# WIDER FACE


@pytest.mark.parametrize("labels", ["both", "boxes", "landmarks"])
def test_written_faces_read_back_as_wider_face(wider, samples, labels):
    if labels == "boxes":
        (wider / "val" / "label.txt").unlink()
    if labels == "landmarks":
        boxes_file(wider).unlink()
    read = open_dataset(f"wider:{wider}")
    assert (read.name, read.categories[0]["name"]) == ("wider:val", "face")
    assert_same_pictures(read, samples)
    for ours, theirs in pairs(samples, read):
        np.testing.assert_allclose(theirs["bbox"], ours["bbox"], atol=0.51)
        assert theirs["area"] == theirs["bbox"][2] * theirs["bbox"][3]
        height = ours["bbox"][3]
        expected = [s for s, low in (("easy", 50), ("medium", 30), ("hard", 10)) if height >= low]
        assert theirs["subsets"] == expected
        assert ("landmarks" in theirs) == (labels != "boxes")
        if labels != "boxes":
            np.testing.assert_allclose(theirs["landmarks"], ours["landmarks"], atol=0.001)


def test_wider_face_has_a_coco_form(wider, samples):
    truth = open_dataset(f"wider:{wider}").coco()
    assert [(i["height"], i["width"]) for i in truth["images"]] == [
        (s.height, s.width) for s in samples
    ]
    assert len(truth["annotations"]) == sum(len(s.annotations) for s in samples)


def test_without_the_ground_truth_faces_name_no_subset(wider):
    for path in (wider / "ground_truth").iterdir():
        path.unlink()
    assert all("subsets" not in a for s in open_dataset(f"wider:{wider}") for a in s.annotations)


def test_a_limit_keeps_the_first_pictures(wider, samples):
    read = open_dataset(f"wider:{wider}", limit=1)
    assert len(read) == 1
    assert np.array_equal(read[0].image, samples[0].image)


def test_the_lines_of_wider_face_mean_what_its_readme_says(wider):
    names = [f"0--Shapes/{number:06d}.png" for number in (1, 2, 3)]
    boxes_file(wider).write_text(
        f"{names[0]}\n2\n3 4 20 30 2 1 1 0 2 1\n9 8 7 6 0 0 0 1 0 0\n"
        f"{names[1]}\n0\n0 0 0 0 0 0 0 0 0 0\n"
        f"{names[2]}\n2\n1 1 0 5 0 0 0 1 0 0\n1 2 3 4 0 0 0 0 0 0\n"
    )
    for path in (wider / "ground_truth").iterdir():
        path.unlink()
    first, second, third = open_dataset(f"wider:{wider}")
    valid, invalid = first.annotations
    assert valid["bbox"] == [3, 4, 20, 30]
    assert [valid[k] for k in ("blur", "expression", "illumination", "occlusion", "pose")] == [
        2,
        1,
        1,
        2,
        1,
    ]
    assert (valid["iscrowd"], "subsets" in valid) == (0, False)
    assert (invalid["iscrowd"], invalid["subsets"]) == (1, [])
    assert second.annotations == ()
    (remaining,) = third.annotations
    assert remaining["bbox"] == [1, 2, 3, 4], "a box without area is left out"


def test_faces_too_small_for_landmarks_have_none(wider):
    boxes_file(wider).unlink()
    small = " ".join(["-1.0"] * 15)
    (wider / "val" / "label.txt").write_text(f"# 0--Shapes/000001.png\n3 4 12 14 {small} 0.4\n")
    for path in (wider / "ground_truth").iterdir():
        path.unlink()
    (sample,) = open_dataset(f"wider:{wider}")
    assert "landmarks" not in sample.annotations[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png\nmany\n", r"line 2: expected the number of faces of 'a\.png'.*found 'many'"),
        ("a.png\n2\n1 2 3 4\n", r"line 2: expected the number of faces"),
        ("a.png\n1\n1 2 3\n", r"line 3: a face has 4 numbers .* found 3"),
        ("a.png\n1\n1 2 3 x\n", r"line 3: could not convert string to float"),
        ("a.png\n1\n1 2 3 nan\n", r"line 3: a number is not finite"),
        ("", r"no labelled pictures for 'wider:val'"),
    ],
    ids=["count", "too-short", "numbers", "text", "nan", "empty"],
)
def test_damaged_boxes_name_the_line(wider, text, message):
    boxes_file(wider).write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"wider:{wider}")


def test_a_damaged_label_file_names_the_line(wider):
    boxes_file(wider).unlink()
    (wider / "val" / "label.txt").write_text("1 2 3 4\n")
    with pytest.raises(DatasetError, match=r"line 1: expected '# FILE'"):
        open_dataset(f"wider:{wider}")


def test_missing_parts_of_wider_face_say_what_is_expected(wider, tmp_path):
    with pytest.raises(DatasetError, match=r"no labels for 'train'. Expected FOLDER/wider_face"):
        open_dataset(f"wider:{wider}:train")
    (wider / "ground_truth" / "wider_hard_val.mat").unlink()
    with pytest.raises(DatasetError, match=r"ground truth of \['easy', 'medium'\] but not of \['h"):
        open_dataset(f"wider:{wider}")
    with pytest.raises(DatasetError, match="There is no folder"):
        open_dataset(f"wider:{tmp_path / 'nowhere'}")


def test_ground_truth_of_other_labels_is_noticed(wider):
    target = wider / "ground_truth" / "wider_easy_val.mat"
    write_matlab(
        target,
        {"event_list": ["0--Shapes"], "file_list": [["000001"]], "gt_list": [[np.array([99])]]},
    )
    with pytest.raises(DatasetError, match="counts face 99 of '0--Shapes/000001'"):
        open_dataset(f"wider:{wider}")


# 300W


def test_written_faces_read_back_as_300w(ibug, samples):
    read = list(open_dataset(f"300w:{ibug}:challenging"))
    expected = [(s, a) for s in samples for a in s.annotations]
    assert len(read) == len(expected)
    for found, (sample, annotation) in zip(read, expected, strict=True):
        assert np.array_equal(found.image, sample.image)
        (face,) = found.annotations
        np.testing.assert_allclose(face["points_68"], annotation["points_68"], atol=0.001)
        np.testing.assert_allclose(
            np.array(face["landmarks"])[[2, 3, 4]],
            np.array(annotation["points_68"])[[30, 48, 54]],
            atol=0.001,
        )
        size = math.sqrt(annotation["area"])
        eyes = np.array(face["landmarks"])[:2] - np.array(annotation["landmarks"])[:2]
        assert np.abs(eyes).max() < 0.05 * size, "the pupils are near the centres of the eyes"
        points = np.array(face["points_68"])
        np.testing.assert_allclose(face["bbox"][:2], points.min(axis=0))
        np.testing.assert_allclose(face["bbox"][2:], np.ptp(points, axis=0))


def test_the_splits_of_300w_are_its_folders(faces, tmp_path):
    (picture,) = [open_dataset("shapes", kind="faces", limit=1)]
    for part in ("helen/testset", "lfpw/testset", "ibug", "afw"):
        write_300w(picture, tmp_path, part=part)
    num_faces = len(picture[0].annotations)
    for split, num_parts in (("common", 2), ("challenging", 1), ("full", 3), (None, 3)):
        assert len(open_dataset(f"300w:{tmp_path}", split=split)) == num_parts * num_faces
    with pytest.raises(DatasetError, match=r"split 'train' needs the folder .*helen/trainset"):
        open_dataset(f"300w:{tmp_path}", split="train")
    with pytest.raises(ValueError, match=r"300W has no split 'test': choose from \['train', 'comm"):
        open_dataset(f"300w:{tmp_path}", split="test")


def test_points_count_from_zero(tmp_path):
    source = tmp_path / "one.pts"
    rows = "\n".join(f"{n + 1} {2 * n + 1.5}" for n in range(68))
    source.write_text(f"version: 1\nn_points:  68\n{{\n{rows}\n}}\n")
    points = read_points(source)
    assert points[0].tolist() == [0, 0.5]
    assert points[67].tolist() == [67, 134.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "holds 0 lines of points between braces, expected 68"),
        ("{\n1 2\n}\n", "holds 1 lines of points"),
        ("{\n1 two\n}\n", "line 2: could not convert"),
    ],
    ids=["no-braces", "too-few", "text"],
)
def test_damaged_points_are_told(ibug, text, message):
    next(ibug.rglob("*.pts")).write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"300w:{ibug}:challenging")


def test_points_without_a_picture_are_told(ibug):
    next(ibug.rglob("*.png")).unlink()
    with pytest.raises(DatasetError, match="has no picture beside it"):
        open_dataset(f"300w:{ibug}:challenging")


# WFLW


def test_written_faces_read_back_as_wflw(wflw, samples):
    read = open_dataset(f"wflw:{wflw}")
    assert read.name == "wflw:test"
    assert_same_pictures(read, samples)
    for ours, theirs in pairs(samples, read):
        np.testing.assert_allclose(theirs["points_98"], ours["points_98"], atol=1e-5)
        np.testing.assert_allclose(theirs["landmarks"], ours["landmarks"], atol=1e-5)
        np.testing.assert_allclose(theirs["bbox"], ours["bbox"], atol=1.01)
        assert theirs["occlusion"] == 0


def test_attributes_of_wflw_are_named(wflw):
    first = wflw_list(wflw).read_text().splitlines()[0].split()
    wflw_list(wflw).write_text(" ".join([*first[:200], "1", "0", "1", "0", "1", "0", first[-1]]))
    (face,) = open_dataset(f"wflw:{wflw}")[0].annotations
    names = ("pose", "expression", "illumination", "make_up", "occlusion", "blur")
    assert [face[name] for name in names] == [1, 0, 1, 0, 1, 0]


def test_damage_to_wflw_is_told(wflw):
    with pytest.raises(DatasetError, match=r"no file .*attr_train\.txt. Expected FOLDER/WFLW_ann"):
        open_dataset(f"wflw:{wflw}:train")
    wflw_list(wflw).write_text("1 2 3 a.png\n")
    with pytest.raises(DatasetError, match="line 1: found 4 words, expected 207"):
        open_dataset(f"wflw:{wflw}")


# All of them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "has no labelled split 'test'"),
        ({"limit": 0}, "limit is 0: give the number of pictures"),
        ({"kind": "instances"}, "have labelled faces, kind is 'instances'"),
    ],
    ids=["split", "limit", "kind"],
)
def test_a_wrong_argument_says_what_there_is(wider, arguments, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(f"wider:{wider}", **arguments)


def test_an_index_outside_raises(wider):
    with pytest.raises(IndexError, match="Picture 3 of 3"):
        open_dataset(f"wider:{wider}")[3]


# MATLAB files


def test_matlab_files_read_back(tmp_path):
    path = tmp_path / "one.mat"
    value = ["0--Parade", [np.arange(6.0).reshape(2, 3), np.zeros((0, 1))], "\u00e9"]
    write_matlab(path, {"first": value, "second": np.array([[7.0]])})
    read = read_matlab(path, ("first", "second"))
    assert read["first"][0] == "0--Parade"
    assert np.array_equal(read["first"][1][0], value[1][0])
    assert read["first"][1][1].shape == (0, 1)
    assert read["first"][2] == "\u00e9"
    assert read["second"].tolist() == [[7.0]]


@pytest.mark.parametrize("compress", [False, True])
def test_matlab_files_of_scipy_are_read(tmp_path, compress):
    io = pytest.importorskip("scipy.io")
    path = tmp_path / "one.mat"
    cells = np.empty((2, 1), dtype=object)
    cells[0, 0], cells[1, 0] = np.array([[1], [300]], np.uint16), "name"
    io.savemat(path, {"cells": cells, "other": 1.0}, do_compression=compress)
    numbers, text = read_matlab(path, ["cells"])["cells"]
    assert numbers.tolist() == [[1], [300]]
    assert text == "name"
    back = io.loadmat(path)
    write_matlab(path, {"again": ["x", np.eye(2)]})
    back = io.loadmat(path)["again"]
    assert back[0, 0][0] == "x"
    assert np.array_equal(back[1, 0], np.eye(2))


@pytest.mark.parametrize("size", [0, 60, 128 + 4, 128 + 40, -9])
def test_a_cut_off_matlab_file_is_told(tmp_path, size):
    path = tmp_path / "one.mat"
    write_matlab(path, {"cells": ["text", np.eye(3)]})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DatasetError, match="is not a MATLAB 5 file with the variables"):
        read_matlab(path, ["cells"])


def is_readable(path):
    try:
        read_matlab(path, ["cells"])
    except DatasetError:
        return False
    return True


def test_every_flipped_byte_gives_an_answer_or_a_clear_error(tmp_path):
    path = tmp_path / "one.mat"
    write_matlab(path, {"cells": ["text", [np.eye(2)]]})
    data = path.read_bytes()
    num_refused = 0
    for place in range(124, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x7F]) + data[place + 1 :])
        num_refused += not is_readable(path)
    assert num_refused > len(data) / 8, "damage to the structure is noticed"
