"""Bundles of strangers: nothing that they should not hold reaches an engine, on any backend."""

import json

import numpy as np
import pytest
from onnx_cases import fan, loop, model_of, node, with_long_tag
from tiny_bundle import tiny_model, write_bundle

from edgeseg_runtime import load
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import BundleError, CorruptArtifact, ManifestError, UnsafeModel
from edgeseg_runtime.tensorrt.engines import build_bundle

GOOD = tiny_model().SerializeToString()
MODELS = {
    "a file behind a long tag": (lambda: with_long_tag(GOOD), CorruptArtifact),
    "an operator's name that is not UTF-8": (
        lambda: GOOD.replace(b"Sigmoid", b"Sigmo\xffd"),
        CorruptArtifact,
    ),
    "an output's name that is not UTF-8": (
        lambda: GOOD.replace(b"masks", b"mask\xff"),
        CorruptArtifact,
    ),
    "a loop without an end": (
        lambda: loop(
            [node("Identity", ["needed"], ["again"]), node("Neg", ["before"], ["after"])]
        ).SerializeToString(),
        UnsafeModel,
    ),
    "functions that fan out": (lambda: fan(depth=8, width=10).SerializeToString(), UnsafeModel),
    "a large thing from a small one": (
        lambda: model_of(
            [node("ConstantOfShape", ["n"], ["y"])], {"n": np.array([3 * 2**28])}
        ).SerializeToString(),
        UnsafeModel,
    ),
}


def load_with(backend):
    def use(folder):
        pytest.importorskip(backend)
        load(folder, backend=backend)

    return use


@pytest.mark.parametrize(
    "use",
    [load_with("onnxruntime"), load_with("openvino"), build_bundle],
    ids=["onnxruntime", "openvino", "build"],
)
@pytest.mark.parametrize("name", MODELS)
def test_what_a_bundle_may_not_hold_never_reaches_an_engine(tmp_path, name, use):
    make, kind = MODELS[name]
    write_bundle(tmp_path, make())
    with pytest.raises(kind, match=r"^model\.onnx (holds what|is damaged)") as info:
        use(tmp_path)
    assert info.value.exit_code == 3


def test_operators_of_ones_own_reach_the_engine_by_load(tmp_path):
    pytest.importorskip("onnxruntime")
    model = tiny_model()
    model.graph.node.append(node("NonZero", ["masks"], ["places"]))
    write_bundle(tmp_path, model)
    with pytest.raises(UnsafeModel, match=r"the node 'places' \(NonZero\), an operator that"):
        load(tmp_path, backend="onnxruntime")
    load(tmp_path, backend="onnxruntime", allow_operators=["NonZero"]).close()


# ---------------------------------------------------------------- manifests


def many_tensors(document):
    spec = {"name": "t", "dtype": "bool", "shape": [1]}
    outputs = [dict(spec, name=f"t{index}") for index in range(20_000)]
    document["graphs"]["main"]["outputs"] = outputs


def many_files(document):
    file = {"file": "a", "sha256": "0" * 64, "size_bytes": 1}
    document["artifacts"] = {f"a{index}": file for index in range(20_000)}


MANIFESTS = {
    "thousands of tensors": (many_tensors, "graphs.main.outputs is '20000 entries'; expected at"),
    "thousands of files": (many_files, "artifacts is '20000 entries'; expected at most 1024"),
    "a list among names": (
        lambda d: d["graphs"]["main"].update(kept=[["masks"]]),
        r"kept\[0\] is \['masks'\]; expected a name",
    ),
    "a key with an escape": (
        lambda d: d["postprocess"].update({"\x1b[2J": 1}),
        r"postprocess is '\\x1b\[2J'; expected a name",
    ),
    "a file with an escape": (
        lambda d: d["artifacts"].update({"\x1b[2J": 1}),
        r"artifacts.\\x1b\[2J is 1; expected an object",
    ),
    "a name with half a surrogate": (
        lambda d: d["graphs"]["main"]["outputs"][0].update(name="a\ud800"),
        r"name is 'a\\ud800'; expected a name",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_bounded_before_work_and_its_message_can_be_printed(tmp_path, name):
    change, message = MANIFESTS[name]
    document = json.loads(write_bundle(tmp_path).to_json())
    document.pop("digest")
    change(document)
    (tmp_path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ManifestError, match=message) as info:
        Manifest.load(tmp_path)
    assert str(info.value).isprintable()
    assert isinstance(info.value, BundleError)
