"""Names and categories of classes: official ones for official models only, each field follows the others."""

import pytest
import torch

import edgeseg
from edgeseg.models import get_spec, list_models, model_manifest
from edgeseg.models.labels import COCO_80, COCO_80_IDS, COCO_91, PASCAL_20, is_placeholder


def _manifest(name, **config):
    with torch.device("meta"):
        return model_manifest(get_spec(name).build(name, None, config))


@pytest.mark.parametrize(
    ("name", "labels", "category_ids"),
    [
        ("maskrcnn_resnet50_fpn", COCO_91, tuple(range(91))),
        ("maskrcnn_resnet50_fpn_3x", COCO_80, COCO_80_IDS),
        ("keypointrcnn_resnet50_fpn", ("__background__", "person"), (0, 1)),
        ("yolact_resnet50", COCO_80, COCO_80_IDS),
        ("yolact_resnet50_pascal", PASCAL_20, tuple(range(1, 21))),
        ("centernet_resnet18_dcn", COCO_80, COCO_80_IDS),
        ("centernet_resnet18_dcn_pascal", PASCAL_20, tuple(range(1, 21))),
        ("centernet_dla34_pose", ("person",), (1,)),
        ("retinaface_mobilenet025", ("__background__", "face"), (0, 1)),
        ("hourglass_stack2", ("__background__", "person"), (0, 1)),
    ],
)
def test_official_models_have_the_names_of_their_data_set(name, labels, category_ids):
    manifest = _manifest(name)
    assert (manifest.labels, manifest.category_ids) == (labels, category_ids)


_COUNTS = {  # how many classes num_classes 2, 3 and 21 are
    "maskrcnn_resnet50_fpn": (1, 2, 20),
    "maskrcnn_tiny": (1, 2, 20),
    "maskrcnn_resnet50_fpn_3x": (2, 3, 21),
    "yolact_resnet50": (1, 2, 20),
    "yolact_tiny": (1, 2, 20),
    "centernet_resnet18_dcn": (2, 3, 21),
    "centernet_tiny": (2, 3, 21),
}


@pytest.mark.parametrize(("name", "counts"), _COUNTS.items(), ids=_COUNTS)
def test_the_number_of_classes_alone_names_none(name, counts):
    for num_classes, count in zip((2, 3, 21), counts, strict=True):
        manifest = _manifest(name, num_classes=num_classes)
        names = manifest.labels[-count:]
        assert names == tuple(f"class_{number}" for number in range(1, count + 1))
        assert all(map(is_placeholder, names))
        assert manifest.category_ids[-count:] == tuple(range(1, count + 1))
        assert not any(map(is_placeholder, manifest.labels[:-count]))


@pytest.mark.parametrize("labels", [("cat", "dog"), ("__background__", "cat", "dog")])
@pytest.mark.parametrize("name", _COUNTS)
def test_the_number_of_classes_follows_from_their_names(name, labels):
    manifest = _manifest(name, labels=labels, category_ids=(17, 18))
    assert manifest.labels[-2:] == ("cat", "dog")
    assert manifest.category_ids[-2:] == (17, 18)


def test_models_of_one_class_name_it():
    for name in ("retinaface_mobilenet025", "hourglass_stack2"):
        assert _manifest(name, labels=("plate",)).labels == ("__background__", "plate")
    assert _manifest("retinaface_tiny", num_classes=2).labels == ("__background__", "face")


def test_categories_with_gaps_are_the_numbers_of_a_model_that_has_as_many():
    official = {"labels": COCO_80, "category_ids": COCO_80_IDS}
    assert _manifest("maskrcnn_resnet50_fpn", **official).labels == COCO_91
    own = _manifest(
        "maskrcnn_resnet50_fpn", num_classes=6, labels=("cat", "dog"), category_ids=(2, 5)
    )
    assert own.labels == ("__background__", "", "cat", "", "", "dog")
    assert own.category_ids == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("maskrcnn_tiny", {"num_classes": 4, "labels": ("a", "b")}, "2 entries found, expected 3: num_classes is 4, which counts the background"),
        ("centernet_tiny", {"num_classes": 3, "labels": ("a", "b")}, "2 entries found, expected 3: num_classes is 3$"),
        ("centernet_tiny", {"labels": "cat"}, r"labels 'cat' found, expected a tuple of names"),
        ("yolact_tiny", {"labels": ("a", "b"), "category_ids": (1,)}, "category_ids with 1 entries found, expected .*: 2"),
        ("retinaface_tiny", {"num_classes": 3}, "num_classes 3 found for retinaface_tiny, expected 2, as it always has"),
        ("retinaface_tiny", {"labels": ("a", "b")}, "labels with 2 entries found, expected 1"),
        ("landmarks_regression_tiny", {"num_classes": 3}, "expected none: its results have no classes"),
        ("landmarks_regression_tiny", {"labels": ("a",)}, "options labels found for landmarks_regression_tiny"),
    ],
)  # fmt: skip
def test_names_and_numbers_that_contradict_one_another_are_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        get_spec(name).build(name, None, config)


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("_tiny")])
def test_a_configuration_that_was_recorded_gives_the_same_names_again(name):
    for config in ({}, {"num_classes": 3} if name in _COUNTS else {}):
        model = edgeseg.create_model(name, **config)
        recorded = {k: v for k, v in vars(model.config).items() if k != "image_size"}
        again = edgeseg.create_model(name, image_size=model.config.image_size, **recorded)
        assert again.config == model.config
