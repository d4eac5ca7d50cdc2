"""Classes of a model and categories of a data set: matched by name, else by id, or refused."""

import logging

import pytest

from edgeseg_bench.categories import categories_of_classes, in_categories, warn_of_unknown
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph


def _manifest(labels, category_ids=None):
    return Manifest(
        name="model",
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, 8, 8, 3)),),
            outputs=(TensorSpec(name="boxes", dtype="float32", shape=(1, 1, 4)),),
        ),
        preprocess=Preprocess(height=8, width=8, resize="stretch"),
        labels=labels,
        category_ids=category_ids or tuple(range(len(labels))),
    )


def _categories(**names):
    return tuple({"id": number, "name": name.replace("_", " ")} for name, number in names.items())


NAMED = _manifest(("__background__", "cat", "", "traffic_light"), (0, 1, 0, 2))
UNNAMED = _manifest(("class_1", "class_2"), (1, 2))


@pytest.mark.parametrize(
    ("manifest", "categories", "match", "expected"),
    [
        pytest.param(_manifest(()), _categories(face=1), None, {}, id="no classes"),
        pytest.param(NAMED, _categories(cat=1, traffic_light=2), None, {1: 1, 2: 2}, id="the same"),
        pytest.param(
            NAMED, _categories(traffic_light=7, cat=5), None, {1: 5, 2: 7}, id="other ids"
        ),
        pytest.param(
            NAMED, _categories(CAT=2, Traffic_Light=1), None, {1: 2, 2: 1}, id="other case"
        ),
        pytest.param(NAMED, _categories(cat=2, dog=1), None, {1: 2}, id="some"),
        pytest.param(NAMED, _categories(Katze=1, Ampel=2), "id", {1: 1, 2: 2}, id="by id"),
        pytest.param(UNNAMED, _categories(cat=1, dog=2), None, {1: 1, 2: 2}, id="unnamed"),
        pytest.param(UNNAMED, _categories(cat=2), None, {2: 2}, id="unnamed, fewer labelled"),
    ],
)
def test_classes_are_matched(manifest, categories, match, expected):
    assert categories_of_classes(manifest, categories, match=match) == expected


@pytest.mark.parametrize(
    ("manifest", "categories", "match", "message"),
    [
        (
            NAMED,
            _categories(Katze=1),
            None,
            r"No class of the model \(cat, traffic_light\) .*--match id",
        ),
        (
            UNNAMED,
            _categories(cat=0, dog=1),
            None,
            r"category ids 1, 2, .*cat, dog\) 0, 1\. .*--labels",
        ),
        (NAMED, _categories(cat=7, dog=8), "id", r"category ids 1, 2, .* 7, 8\."),
        (NAMED, _categories(cat=1), "order", "match is 'order': expected one of name, id"),
    ],
    ids=["other names", "unnamed, other ids", "by id, other ids", "no such way"],
)
def test_classes_that_are_not_the_data_set_s_are_refused(manifest, categories, match, message):
    with pytest.raises(ValueError, match=message):
        categories_of_classes(manifest, categories, match=match)


TWINS = ({"id": 3, "name": "cat"}, {"id": 5, "name": "Cat"}, {"id": 9, "name": "dog"})


def test_a_name_of_several_categories_is_matched_by_its_id_too():
    model = _manifest(("cat", "dog"), (5, 1))
    assert categories_of_classes(model, TWINS) == {5: 5, 1: 9}
    with pytest.raises(ValueError, match=r"2 categories named 'cat', with the ids 3, 5, and .* 4"):
        categories_of_classes(_manifest(("cat",), (4,)), TWINS)


def test_results_get_the_data_set_s_ids_and_others_are_left_out():
    records = [{"category_id": 1, "score": 0.5}, {"category_id": 2, "score": 0.4}]
    assert in_categories(records, {1: 7}) == [{"category_id": 7, "score": 0.5}]
    assert in_categories(records, {}) == records
    assert records[0]["category_id"] == 1


def test_categories_that_the_model_does_not_know_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_unknown({1: 1}, _categories(cat=1))
        assert not caplog.text
        warn_of_unknown({1: 1}, _categories(cat=1, dog=2))
    assert (
        "does not know 1 of the data set's 2 categories, which count as not found: dog"
        in caplog.text
    )
