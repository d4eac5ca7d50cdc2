"""Text of options to values: sizes, lists and typed fields of a configuration."""

import dataclasses

import pytest

from edgeseg.cli.options import (
    image_size_from_text,
    labels_from_text,
    settings_from_text,
)
from edgeseg.models import MODELS, get_spec
from edgeseg.models.labels import COCO_SKELETON
from edgeseg_runtime.commands.options import names_from_text


@pytest.mark.parametrize(
    ("text", "size"), [("640", (640, 640)), ("800x1344", (800, 1344)), ("32X64", (32, 64))]
)
def test_a_size_is_height_and_width(text, size):
    assert image_size_from_text(text) == size


@pytest.mark.parametrize("text", ["", "x", "640x", "6 40", "-1", "1x2x3", "640.5", "1000000"])
def test_anything_else_is_no_size(text):
    with pytest.raises(ValueError, match="expected HEIGHTxWIDTH"):
        image_size_from_text(text)


def test_names_are_kept_once_and_in_order():
    assert names_from_text("--backends", "torch, onnxruntime,torch") == ("torch", "onnxruntime")
    with pytest.raises(ValueError, match=r"--backends ' ,' found, expected names"):
        names_from_text("--backends", " ,")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("box_score_thresh=0.3", 0.3),
        ("box_detections_per_img=10", 10),
        ("roi_aligned=true", True),
        ("roi_aligned=No", False),
        ("backbone=resnet101", "resnet101"),
        ("anchor_sizes=16,32,64", (16.0, 32.0, 64.0)),
        ("labels=cat, dog", ("cat", "dog")),
        ("labels=", ()),
        ("mean=1,2,3.5", (1.0, 2.0, 3.5)),
        ("box_min_size=none", None),
        ("box_min_size=0.5", 0.5),
    ],
)
def test_a_setting_has_the_type_of_its_field(text, value):
    (found,) = settings_from_text(get_spec("maskrcnn_tiny"), [text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["box_score_thresh"], "--set 'box_score_thresh' found, expected key=value"),
        (["=3"], "expected key=value"),
        (
            ["box_score_tresh=0.3"],
            "--set 'box_score_tresh' found, expected one of box_score_thresh",
        ),
        (["box_score_thresh=high"], "--set box_score_thresh=high found, expected a number"),
        (["box_detections_per_img=1.5"], "expected a whole number"),
        (["roi_aligned=maybe"], "expected true or false"),
        (["mean=1,2"], "--set mean=1,2 found, expected 3 values separated by commas"),
        (["num_classes=2", "num_classes=3"], "--set num_classes is given twice"),
    ],
)
def test_a_wrong_setting_says_what_was_expected(texts, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the wording is compared below
        settings_from_text(get_spec("maskrcnn_tiny"), texts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("retinaface_tiny", "min_sizes=", ()),
        ("retinaface_tiny", "min_sizes=16,32;64,128;256", ((16, 32), (64, 128), (256,))),
        ("retinaface_tiny", "min_sizes=16, 32", ((16, 32),)),
        ("centernet_tiny", "skeleton=0,1; 1,2", ((0, 1), (1, 2))),
    ],
)
def test_semicolons_separate_tuples_of_tuples(name, text, value):
    assert list(settings_from_text(get_spec(name), [text]).values()) == [value]


def test_a_pair_of_another_length_is_refused():
    with pytest.raises(ValueError, match="--set skeleton=0 found, expected 2 values separated by"):
        settings_from_text(get_spec("hourglass_tiny"), ["skeleton=0;1,2"])


def test_a_field_that_text_cannot_become_is_refused():
    @dataclasses.dataclass(frozen=True)
    class OwnConfig:
        image_size: tuple[int, int] = (64, 64)
        palette: dict = dataclasses.field(default_factory=dict)

    spec = dataclasses.replace(get_spec("maskrcnn_tiny"), preset=OwnConfig())
    with pytest.raises(ValueError, match="--set palette found, expected another field: text beco"):
        settings_from_text(spec, ["palette=red"])


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_the_configuration_can_be_set(name):
    spec = get_spec(name)
    settings = dataclasses.asdict(spec.preset)
    if "skeleton" in settings:
        settings["skeleton"] = COCO_SKELETON
    for key, value in settings.items():
        assert settings_from_text(spec, [f"{key}={text_of(value)}"]) == {key: value}


def text_of(value):
    if not isinstance(value, tuple):
        return str(value)
    separator = ";" if any(isinstance(part, tuple) for part in value) else ","
    return separator.join(map(text_of, value))


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("names.txt", "cat\n traffic light \n\n", {"labels": ("cat", "traffic light")}),
        ("windows.txt", "\ufeffcat\r\ndog\r\n", {"labels": ("cat", "dog")}),
        ("names.json", '["cat", "dog"]', {"labels": ("cat", "dog")}),
        ("skips.json", '["cat", "", "dog"]', {"labels": ("cat", "", "dog")}),
        (
            "coco.json",
            '{"images": [], "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}',
            {"labels": ("cat", "dog"), "category_ids": (3, 7)},
        ),
    ],
)
def test_labels_are_read_from_a_file(tmp_path, file, content, expected):
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert labels_from_text(str(tmp_path / file)) == expected


def test_labels_are_a_list_or_those_of_a_data_set(tmp_path):
    assert labels_from_text("cat, dog") == {"labels": ("cat", "dog")}
    assert labels_from_text("cat,dog,cat") == {"labels": ("cat", "dog", "cat")}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 2, "name": "dog"}]}'
    )
    assert labels_from_text(f"coco:{tmp_path}") == {"labels": ("dog",), "category_ids": (2,)}


@pytest.mark.parametrize("text", ["", ",", "cat,,dog", "cat, ,dog", "cat,dog,"])
def test_a_class_without_a_name_would_shift_the_others_and_is_refused(text):
    with pytest.raises(ValueError, match=r"entries, and number \d is empty"):
        labels_from_text(text)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("missing.txt", None, "there is no such file"),
        ("empty.txt", "\n", "holds no list of names"),
        ("broken.json", "[", "cannot be read"),
        ("numbers.json", "[1, 2]", "holds no list of names and no COCO annotations"),
        ("nameless.json", '{"categories": [{"id": 1}]}', "a category without id or name"),
        ("none.json", '{"categories": []}', "has no categories"),
        ("data.yaml", "names: [cat, dog]\n", "holds no list of names and no COCO annotations"),
        ("latin.txt", b"\xff\xfe", "found bytes that are no UTF-8 text"),
        ("gap.txt", "cat\n\ndog\n", "has 3 entries, and number 2 is empty"),
    ],
)
def test_a_file_without_labels_says_why(tmp_path, file, content, message):
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        labels_from_text(str(tmp_path / file))
