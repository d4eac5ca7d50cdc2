"""Engines of bundles of several graphs: each is built, named, keyed by its rows, and found again."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import pytest
from engine_cases import RTX_4090, key_of
from onnx import TensorProto, helper
from stateful_bundle import K, write_stateful_bundle
from tiny_bundle import write_bundle

from edgeseg_runtime.__main__ import main
from edgeseg_runtime.bundle.graph_files import all_graphs, read_graph
from edgeseg_runtime.bundle.manifest import Artifact, Variant
from edgeseg_runtime.errors import CorruptArtifact, EngineBuildError, OutOfMemory
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import engines
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt import store as engine_store
from edgeseg_runtime.tensorrt.backend import TrtRtxBackend
from edgeseg_runtime.tensorrt.key import EngineOptions

TARGETS = ["sm86"]
FAST = EngineOptions(optimization_level=0)


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


def with_variant(folder, manifest):
    """Add a variant of which one graph is another file and one the same."""
    detect = manifest.graphs["detect"]
    content = read_graph(folder, manifest, "detect") + b"\x12\x05other"  # producer_name
    (folder / "portrait.onnx").write_bytes(content)
    artifact = Artifact(
        file="portrait.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    graphs = {
        "detect": dataclasses.replace(detect, artifact="portrait.detect"),
        "mask": manifest.graphs["mask"],
    }
    variant = Variant(preprocess=manifest.preprocess, graphs=graphs, schedule=manifest.schedule)
    changed = dataclasses.replace(
        manifest,
        variants={"portrait": variant},
        artifacts={**manifest.artifacts, "portrait.detect": artifact},
    )
    changed.save(folder)
    return changed


# ---------------------------------------------------------------- for real, without a GPU


@pytest.mark.parametrize("kind", ["key_step", "seed_main"])
def test_the_graphs_of_a_video_model_compile(trt, tmp_path, kind):
    manifest = write_stateful_bundle(tmp_path / "bundle", kind)
    files = engines.build_bundle(
        tmp_path / "bundle", targets=TARGETS, out=tmp_path / "out", options=FAST
    )
    assert [file.graphs for file in files] == [(name,) for name in manifest.graphs]
    assert all(file.is_new and file.path.stat().st_size > 10_000 for file in files)
    assert len({file.path for file in files}) == 2


def test_a_stage_with_rows_compiles_with_a_profile_for_each_number_and_is_found_again(
    trt, tmp_path
):
    folder = tmp_path / "bundle"
    manifest = with_variant(folder, write_stateful_bundle(folder, "staged"))
    files = engines.build_bundle(folder, targets=TARGETS, options=FAST)
    assert [file.graphs for file in files] == [
        ("detect",),
        ("mask", "portrait.mask"),
        ("portrait.detect",),
    ]
    assert [file.key.buckets for file in files] == [(), (1, 4, K), ()]
    again = engines.build_bundle(folder, targets=TARGETS, options=FAST)
    assert [(f.path, f.sha256, f.graphs) for f in again] == [
        (f.path, f.sha256, f.graphs) for f in files
    ]
    assert not any(file.is_new for file in again)
    onnx = read_graph(folder, manifest, "mask")
    wanted = engine_key.key_for_targets(onnx, trt, ("sm86",), FAST, (1, 4, K))
    plan, found = engine_store.find_engine(folder / "engines", wanted)
    assert (len(plan), found.key) == (files[1].size_bytes, wanted)
    other = dataclasses.replace(wanted, buckets=(2, K))
    assert engine_store.find_engine(folder / "engines", other) is None


def test_the_command_names_the_graphs_of_each_engine(trt, tmp_path, capsys):
    write_stateful_bundle(tmp_path, "staged")
    arguments = [
        "build",
        str(tmp_path),
        "--target",
        "sm86",
        "--level",
        "0",
        "-o",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main(arguments) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert [engine["graphs"] for engine in engines] == [["detect"], ["mask"]]
    assert all("sm86" in engine["targets"] for engine in engines)
    assert len(list((tmp_path / "out").glob("*.engine"))) == 2
    assert main(["build", str(tmp_path), "--target", "sm86", "--batch", "2"]) == 2
    assert "batch is 2; expected 1, because staged has a stage" in capsys.readouterr().err


def test_the_graph_that_does_not_compile_is_named(trt, tmp_path):
    manifest = write_stateful_bundle(tmp_path, "key_step")
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["image"], ["nowhere"], name="the_culprit")],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("nowhere", TensorProto.INT64, [2, "n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    (tmp_path / "step.onnx").write_bytes(content)
    step = Artifact(
        file="step.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    dataclasses.replace(manifest, artifacts={**manifest.artifacts, "step": step}).save(tmp_path)
    with pytest.raises(EngineBuildError, match=r"^graph 'step': .*'the_culprit' \(NonZero\)"):
        engines.build_bundle(tmp_path, targets=TARGETS, options=FAST, allow_operators=["NonZero"])


# ---------------------------------------------------------------- what is built, and when


def test_every_file_is_checked_before_anything_is_built(tmp_path):
    write_stateful_bundle(tmp_path, "seed_main")
    content = bytearray((tmp_path / "main.onnx").read_bytes())
    content[200] ^= 1
    (tmp_path / "main.onnx").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"main\.onnx is damaged"):
        engines.build_bundle(tmp_path, targets=TARGETS)
    assert not (tmp_path / "engines").exists()


def test_every_graph_of_every_variant_is_listed(tmp_path):
    manifest = with_variant(tmp_path, write_stateful_bundle(tmp_path, "staged"))
    assert [item.label for item in all_graphs(manifest)] == [
        "detect",
        "mask",
        "portrait.detect",
        "portrait.mask",
    ]
    assert [item.label for item in all_graphs(write_bundle(tmp_path / "one"))] == ["main"]


class Builder:
    """Notes what a network's optimisation profiles are given."""

    def __init__(self):
        self.profiles = []

    def create_optimization_profile(self):
        shapes = {}

        def set_shape(name, low, best, high):
            assert low == best == high
            shapes[name] = best

        return SimpleNamespace(set_shape=set_shape, shapes=shapes)


@pytest.mark.parametrize(
    ("inputs", "batch", "buckets", "profiles"),
    [
        ({"map": (1, 3, 4, 4)}, 1, (), []),
        (
            {"map": (1, 3, 4, 4), "boxes": (1, -1, 4)},
            1,
            (4, 9),
            [{"boxes": (1, 4, 4)}, {"boxes": (1, 9, 4)}],
        ),
        (
            {"boxes": (1, -1, 4), "labels": (1, -1)},
            1,
            (5,),
            [{"boxes": (1, 5, 4), "labels": (1, 5)}],
        ),
        (
            {"map": (-1, 3, 4, 4), "picture": (-1, 8)},
            2,
            (),
            [{"map": (2, 3, 4, 4), "picture": (2, 8)}],
        ),
        ({"map": (-1, 3), "boxes": (-1, -1, 4)}, 1, (7,), [{"map": (1, 3), "boxes": (1, 7, 4)}]),
    ],
    ids=["static", "rows", "two with rows", "batch", "batch and rows"],
)
def test_a_profile_fixes_the_batch_and_each_number_of_rows(trt, inputs, batch, buckets, profiles):
    builder, added = Builder(), []
    network = SimpleNamespace(
        num_inputs=len(inputs),
        num_layers=0,
        get_input=lambda index: SimpleNamespace(
            name=list(inputs)[index], shape=list(inputs.values())[index]
        ),
    )
    real = trt.Builder(trt_compat.vendor_logger(trt)).create_builder_config()
    config = SimpleNamespace(clear_flag=real.clear_flag, add_optimization_profile=added.append)
    engines.configure(trt, builder, network, config, EngineOptions(batch=batch), buckets)
    assert [profile.shapes for profile in added] == profiles


@pytest.mark.parametrize(
    ("shape", "buckets"), [((1, -1, 4), ()), ((1, 4, -1), (3,))], ids=["no rows", "another axis"]
)
def test_an_axis_that_nothing_fixes_is_refused(trt, shape, buckets):
    network = SimpleNamespace(
        num_inputs=1, num_layers=0, get_input=lambda _: SimpleNamespace(name="x", shape=shape)
    )
    config = SimpleNamespace(clear_flag=lambda flag: None)
    with pytest.raises(EngineBuildError, match="only the first axis may be free"):
        engines.configure(trt, Builder(), network, config, EngineOptions(), buckets)


@pytest.mark.parametrize("kind", [EngineBuildError, OutOfMemory])
def test_errors_name_the_graph_where_there_are_several(tmp_path, kind):
    def failing(manifest):
        with engines.naming("mask", manifest):
            raise kind("found this; do that")

    with pytest.raises(kind, match=r"^graph 'mask': found this; do that$"):
        failing(write_stateful_bundle(tmp_path / "several", "staged"))
    with pytest.raises(kind, match=r"^found this; do that$"):
        failing(write_bundle(tmp_path / "one"))


# ---------------------------------------------------------------- keys


def test_the_rows_are_part_of_the_key():
    key = key_of(buckets=(4, 16))
    for other in (key_of(), key_of(buckets=(4, 8))):
        assert not key.serves(other)
        assert not other.serves(key)
        assert key.file_name != other.file_name


def test_a_key_for_a_gpu_has_the_rows_too(trt):
    key = engine_key.key_for_device(b"", trt, RTX_4090, EngineOptions(), (4, 16))
    assert key.buckets == (4, 16)
    old = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    assert engine_key.key_for_device(b"", old, RTX_4090, EngineOptions(), (4,)).buckets == (4,)


def test_records_keep_the_rows_and_those_without_any_are_read(tmp_path):
    for key in (key_of(buckets=(4, 16)), key_of(version="1.6.0.1")):
        engine_store.store_engine(tmp_path, key, b"plan" * 100)
        assert engine_store.find_engine(tmp_path, key)[1].key == key
    record = tmp_path / f"{key.file_name}.json"
    document = json.loads(record.read_text(encoding="utf-8"))
    del document["key"]["buckets"]  # as before there were any
    record.write_text(json.dumps(document), encoding="utf-8")
    assert engine_store.find_engine(tmp_path, key)[1].key == key


def test_a_bundle_that_lacks_a_graphs_file_has_an_obstacle(trt, tmp_path):
    manifest = write_stateful_bundle(tmp_path, "staged")
    lacking = dataclasses.replace(manifest, artifacts={"detect": manifest.artifacts["detect"]})
    assert TrtRtxBackend.obstacle(tmp_path, lacking) == f"{tmp_path} holds no ONNX model 'mask'"
