"""Predictors in worker processes: what can be pickled loads the same again, all else says why not."""

import copy
import json
import multiprocessing
import pickle

import numpy as np
import pytest
from fake_model import FakeBackend, task_manifest
from tiny_bundle import HEIGHT, WIDTH

import edgeseg_runtime
from edgeseg_runtime.bundle.manifest import FILE_NAME
from edgeseg_runtime.errors import BundleError
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task

PICTURE = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


@pytest.fixture
def predictor(tiny):
    pytest.importorskip("onnxruntime")
    with edgeseg_runtime.load(tiny, threads=1, score_threshold=0.6) as loaded:
        yield loaded


def scores_in_a_worker(predictor):
    with predictor:
        return predictor(PICTURE).scores


def test_a_predictor_goes_to_a_new_process_with_its_options(predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the worker's folder is another one than the bundle's
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(scores_in_a_worker, (predictor,))
    np.testing.assert_array_equal(found, predictor(PICTURE).scores)
    assert len(found) == 2


def test_a_relative_path_is_the_folder_s_in_any_other_place(tiny, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tiny.parent)
    with edgeseg_runtime.load(tiny.name, backend="onnxruntime", threads=1) as predictor:
        content = pickle.dumps(predictor)
    monkeypatch.chdir("/")
    with pickle.loads(content) as again:
        assert len(again(PICTURE)) == 3


def test_another_bundle_at_the_same_path_is_refused(predictor, tiny):
    content = pickle.dumps(predictor)
    document = json.loads((tiny / FILE_NAME).read_text())
    document["labels"] = ["__background__", "cat", "dog"]
    del document["digest"]
    (tiny / FILE_NAME).write_text(json.dumps(document))
    with pytest.raises(
        BundleError, match="is not the bundle that the pickled predictor was loaded"
    ):
        pickle.loads(content)
    (tiny / FILE_NAME).unlink()
    with pytest.raises(BundleError, match="The path must lead to it in this process, too"):
        pickle.loads(content)


def test_a_damaged_file_is_found_in_the_other_process_too(predictor, tiny):
    content = pickle.dumps(predictor)
    (tiny / "model.onnx").write_bytes(b"x" * (tiny / "model.onnx").stat().st_size)
    with pytest.raises(BundleError, match="sha256"):
        pickle.loads(content)


def test_a_copy_is_another_predictor(predictor):
    with copy.copy(predictor) as other:
        assert other.backend is not predictor.backend
    assert len(predictor(PICTURE)) == 2, "closing the copy leaves the first one open"


def test_what_lies_in_an_engine_stays_in_its_process(predictor):
    with predictor.session() as session:
        for thing in (session, predictor.backend, predictor.backend.backend):
            with pytest.raises(TypeError, match=f"a {type(thing).__name__} can be neither pickled"):
                pickle.dumps(thing)
    with pytest.raises(TypeError, match=r"send the bundle's path and call edgeseg_runtime.load"):
        copy.deepcopy(predictor.backend)


def test_a_predictor_that_was_not_loaded_says_so():
    manifest = task_manifest(
        "landmarks",
        {"points": (5, 2), "scores": (5,)},
        preprocess={"resize": "stretch", "rounding": "floor"},
    )
    made = Predictor(manifest, create_task(manifest), FakeBackend({}))
    with pytest.raises(TypeError, match=r"it was not loaded from a bundle. Export the model"):
        pickle.dumps(made)


def test_a_closed_predictor_is_not_opened_again(predictor):
    predictor.close()
    with pytest.raises(ValueError, match="the predictor is closed; load the bundle again"):
        pickle.dumps(predictor)


def test_results_and_manifests_can_be_sent_back(predictor):
    found = predictor(PICTURE)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.masks, found.masks)
    assert pickle.loads(pickle.dumps(predictor.manifest)) == predictor.manifest


def test_a_state_stays_in_its_process(tmp_path):
    pytest.importorskip("onnxruntime")
    from stateful_bundle import write_stateful_bundle

    write_stateful_bundle(tmp_path, "staged")
    with edgeseg_runtime.load(tmp_path, backend="onnxruntime") as predictor:
        state = predictor.backend.open_state()
        with pytest.raises(TypeError, match="can be neither pickled"):
            pickle.dumps(state)
        state.close()
