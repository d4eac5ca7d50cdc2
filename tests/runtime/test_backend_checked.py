"""CheckedBackend: each graph's own border, with rows, with a state, and without inputs of its own."""

import dataclasses

import numpy as np
import pytest
from stateful_bundle import CELLS, HEIGHT, WIDTH, K, M, write_stateful_bundle

from edgeseg_runtime.backends import CheckedBackend
from edgeseg_runtime.errors import InputContractError, NonFiniteOutput, OutputContractError

IMAGE = {"image": np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)}
MAPS = {"features": np.zeros((1, 3, CELLS, CELLS), np.float32)}


class Graphs:
    """Gives outputs by graph and keeps how it was called."""

    def __init__(self, **outputs):
        self.outputs, self.calls = outputs, []

    def run(self, inputs, graph="main", state=None, rows=None):
        self.calls.append((graph, sorted(inputs), state, rows))
        return self.outputs[graph]

    def open_state(self):
        return "a state"

    def close(self):
        self.calls.append("close")


def detected(**changes):
    found = {
        "boxes": np.zeros((1, K, 4), np.float32),
        "scores": np.zeros((1, K), np.float32),
        "labels": np.zeros((1, K), np.int32),
    }
    return {**found, **changes}


def masks(rows):
    return {"masks": np.zeros((1, rows, M, M), np.float32)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_stateful_bundle(tmp_path_factory.mktemp("staged"), "staged")


def checked(manifest, **options):
    strict = options.pop("strict", False)
    backend = Graphs(**{"detect": detected(), "mask": masks(2), **options})
    return CheckedBackend("fake", backend, manifest, strict=strict)


def test_each_graph_gets_what_it_is_fed_and_gives_what_results_are_read_from(manifest):
    backend = checked(manifest, detect=detected(features=MAPS["features"]))
    state = backend.open_state()
    assert sorted(backend.run(IMAGE, "detect", state)) == ["boxes", "labels", "scores"]
    assert backend.run({}, "mask", state, 2)["masks"].shape == (1, 2, M, M)
    assert backend.backend.calls == [
        ("detect", ["image"], state, None),
        ("mask", [], state, 2),
    ]


def test_a_stage_without_a_row_is_not_run(manifest):
    backend = checked(manifest)
    found = backend.run({}, "mask", "a state", 0)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        "masks": ((1, 0, M, M), np.float32)
    }
    assert backend.backend.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGE, "main", None, None), "graph is 'main'; staged has detect, mask"),
        ((IMAGE, "detect", None, 2), "rows is 2; expected None, because 'detect' has no rows"),
        (({}, "mask", "a state", None), f"rows is None; expected 0..{K} for 'mask'"),
        (({}, "mask", "a state", K + 1), f"rows is {K + 1}; expected 0..{K} for 'mask'"),
        (({}, "mask", "a state", -1), f"rows is -1; expected 0..{K} for 'mask'"),
        (({}, "mask", None, 2), "the graph 'mask' needs a state; give one from `open_state`"),
    ],
    ids=["graph", "no rows", "rows missing", "too many", "negative", "state"],
)
def test_a_call_that_does_not_fit_the_graph_is_refused(manifest, arguments, message):
    backend = checked(manifest)
    with pytest.raises(ValueError, match=message):
        backend.run(*arguments)
    assert backend.backend.calls == []


@pytest.mark.parametrize(
    ("inputs", "graph", "message"),
    [
        ({}, "detect", r"found the inputs \[\]; the model takes exactly \['image'\]"),
        ({**IMAGE, **MAPS}, "detect", r"\['features', 'image'\]; the model takes exactly"),
        (MAPS, "mask", r"found the inputs \['features'\]; the model takes exactly \[\]"),
        ({"image": IMAGE["image"][:, 1:]}, "detect", "the input 'image' is uint8 of shape"),
    ],
    ids=["missing", "unknown", "taken from a graph", "shape"],
)
def test_inputs_are_those_of_the_graph(manifest, inputs, graph, message):
    with pytest.raises(InputContractError, match=message):
        checked(manifest).run(inputs, graph, "a state", 2 if graph == "mask" else None)


@pytest.mark.parametrize(
    ("graph", "outputs", "message"),
    [
        ("detect", {"boxes": detected()["boxes"]}, "the model gave no output 'scores', only"),
        (
            "mask",
            masks(3),
            rf"'masks' is .*\[1, 3, {M}, {M}\]; expected .*\[batch, 2, {M}|\[1, 2, ",
        ),
        ("mask", masks(K), rf"'masks' is float32 of shape \[1, {K}, "),
    ],
    ids=["missing", "one row more", "all rows"],
)
def test_outputs_are_those_of_the_graph_and_of_its_rows(manifest, graph, outputs, message):
    backend = checked(manifest, **{graph: outputs})
    with pytest.raises(OutputContractError, match=message):
        backend.run(
            IMAGE if graph == "detect" else {}, graph, "a state", 2 if graph == "mask" else None
        )


def test_strict_looks_at_every_graph(manifest):
    bad = masks(2)
    bad["masks"][0, 1, 0, 0] = np.nan
    backend = checked(manifest, strict=True, mask=bad)
    backend.run(IMAGE, "detect", "a state")
    with pytest.raises(NonFiniteOutput, match="'masks' holds 1 NaN"):
        backend.run({}, "mask", "a state", 2)


def test_only_a_model_that_keeps_something_has_states(manifest):
    assert checked(manifest).open_state() == "a state"
    alone = dataclasses.replace(
        manifest,
        graphs={"detect": manifest.graphs["detect"]},
        schedule=dataclasses.replace(manifest.schedule, first=("detect",), then=("detect",)),
    )
    assert checked(alone).open_state() is None


def test_a_closed_backend_opens_and_runs_nothing(manifest):
    backend = checked(manifest)
    backend.close()
    backend.close()
    assert backend.backend.calls == ["close"]
    for call in (backend.open_state, lambda: backend.run({}, "mask", "a state", 0)):
        with pytest.raises(ValueError, match="the fake backend is closed; load the bundle again"):
            call()


def test_a_batch_is_that_of_the_inputs_or_of_what_comes_first(manifest):
    free = {
        name: dataclasses.replace(
            graph,
            inputs=tuple(dataclasses.replace(s, shape=(-1, *s.shape[1:])) for s in graph.inputs),
            outputs=tuple(dataclasses.replace(s, shape=(-1, *s.shape[1:])) for s in graph.outputs),
        )
        for name, graph in manifest.graphs.items()
    }
    backend = checked(
        dataclasses.replace(manifest, graphs=free),
        detect={name: np.repeat(array, 3, axis=0) for name, array in detected().items()},
        mask={"masks": np.zeros((3, 2, M, M), np.float32)},
    )
    assert backend.run({"image": np.repeat(IMAGE["image"], 3, axis=0)}, "detect")[
        "scores"
    ].shape == (3, K)
    assert backend.run({}, "mask", "a state", 2)["masks"].shape == (3, 2, M, M)
    with pytest.raises(OutputContractError, match=r"expected float32 of shape \[batch, "):
        backend.run(IMAGE, "detect")
