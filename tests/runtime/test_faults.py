"""Faults of disks, files, users and machines: each ends in the error or the fallback it should."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import numpy_helper
from tiny_bundle import feed, tiny_model, write_bundle

from edgeseg_runtime import load
from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.bundle.manifest import FILE_NAME, Manifest
from edgeseg_runtime.errors import (
    BundleError,
    CorruptArtifact,
    ImageError,
    ImageTooLarge,
    ManifestError,
    MissingArtifact,
    NonFiniteOutput,
    SchemaTooNew,
    UnsafePath,
)
from edgeseg_runtime.tensorrt import engines
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt import store as engine_store
from edgeseg_runtime.tensorrt.key import EngineKey

NUM_POSITIONS = 200


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def open_bundle(folder, **options):
    return open_backend("onnxruntime", folder, Manifest.load(folder), threads=1, **options)


def positions(size):
    return sorted({*np.linspace(0, size - 1, NUM_POSITIONS).astype(int).tolist()})


# ---------------------------------------------------------------- the model's file


def test_a_bit_flipped_anywhere_in_the_model_is_noticed_before_the_engine(folder):
    file = folder / "model.onnx"
    original = file.read_bytes()
    for position in positions(len(original)):
        content = bytearray(original)
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        with pytest.raises(
            CorruptArtifact, match=r"model\.onnx is damaged: expected sha256"
        ) as info:
            open_bundle(folder)
        assert info.value.exit_code == 3
        assert info.value.__cause__ is None, "no engine may have seen it"
    file.write_bytes(original)
    open_bundle(folder)


def test_a_model_cut_anywhere_is_noticed_before_the_engine(folder):
    file = folder / "model.onnx"
    original = file.read_bytes()
    for size in positions(len(original)):
        file.write_bytes(original[:size])
        with pytest.raises(CorruptArtifact, match=f"{len(original)} bytes, found {size} bytes"):
            open_bundle(folder)


def test_without_verification_only_the_checksum_would_have_caught_a_flipped_weight(folder):
    model = tiny_model()
    expected = open_bundle(folder).run(feed())["masks"]
    (weight,) = (item for item in model.graph.initializer if item.name == "weight")
    array = numpy_helper.to_array(weight).copy()
    array.view(np.uint32)[0, 0, 0, 0] ^= 1 << 30  # the exponent's highest bit
    weight.CopyFrom(numpy_helper.from_array(array, "weight"))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert not np.array_equal(open_bundle(folder, verify=False).run(feed())["masks"], expected)
    with pytest.raises(CorruptArtifact):
        open_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"\0", b"garbage" * 1000], ids=["empty", "zero", "text"])
def test_something_else_in_place_of_the_model_is_a_corrupt_artifact(folder, content):
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(CorruptArtifact):
        open_bundle(folder)


def test_a_missing_model_is_named(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(MissingArtifact, match=r"model\.onnx does not exist"):
        open_bundle(folder)


def test_a_model_behind_a_symbolic_link_is_refused(folder, tmp_path):
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(UnsafePath, match="symbolic link"):
        open_bundle(folder)


# ---------------------------------------------------------------- the manifest


def test_a_bit_flipped_anywhere_in_the_manifest_is_a_typed_error_or_changes_nothing(folder):
    file = folder / FILE_NAME
    original = file.read_bytes()
    expected = Manifest.load(folder)
    num_errors = 0
    for position in positions(len(original)):
        content = bytearray(original)
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        try:
            found = Manifest.load(folder)
        except BundleError:
            num_errors += 1
        else:
            # The digest itself may be renamed or become optional; the content may not differ.
            assert found == expected or found.schema != expected.schema, position
    assert num_errors > 0.8 * NUM_POSITIONS, "white space is all that may be flipped in peace"


def test_a_manifest_cut_anywhere_is_a_manifest_error(folder):
    file = folder / FILE_NAME
    original = file.read_bytes()
    for size in positions(len(original.rstrip())):
        file.write_bytes(original[:size])
        with pytest.raises(ManifestError) as info:
            Manifest.load(folder)
        assert info.value.exit_code == 3


def rewrite(folder, change):
    """Change the manifest as somebody would who also corrects its digest."""
    document = json.loads((folder / FILE_NAME).read_text())
    document.pop("digest", None)
    change(document)
    (folder / FILE_NAME).write_text(json.dumps(document))


@pytest.mark.parametrize(
    "path",
    ["../secret.onnx", "/etc/passwd", "a/../../secret.onnx", "..\\secret.onnx", "C:model.onnx", ""],
)
def test_a_path_out_of_the_bundle_is_refused(folder, path):
    (folder.parent / "secret.onnx").write_bytes((folder / "model.onnx").read_bytes())
    rewrite(folder, lambda document: document["artifacts"]["onnx"].update(file=path))
    with pytest.raises((UnsafePath, ManifestError), match=r"expected|not allowed") as info:
        open_bundle(folder)
    assert info.value.exit_code == 3


def test_a_newer_schema_says_to_upgrade(folder):
    rewrite(folder, lambda document: document.update(schema="3.0"))
    with pytest.raises(SchemaTooNew, match="pip install -U edgeseg-runtime"):
        open_bundle(folder)


def test_a_requirement_that_this_runtime_does_not_know_is_refused(folder):
    rewrite(folder, lambda document: document.update(requires=["teleportation"]))
    with pytest.raises(SchemaTooNew, match="requires 'teleportation'"):
        open_bundle(folder)


def test_an_optional_key_of_a_newer_minor_version_is_ignored(folder):
    rewrite(folder, lambda document: document.update(schema="2.9", new_and_optional=1))
    assert open_bundle(folder).run(feed())["boxes"].shape == (1, 4, 4)


# ---------------------------------------------------------------- pictures and numbers


def picture(seed=0, size=(60, 80)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10, 3), np.float32),
        np.zeros((10, 10, 3), np.uint16),
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((3, 10, 10), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 0, 3), np.uint8),
        None,
        "street.jpg",
    ],
    ids=[
        "float",
        "16 bit",
        "grey",
        "4 channels",
        "planar",
        "no rows",
        "no columns",
        "None",
        "path",
    ],
)
def test_what_is_no_colour_picture_is_refused_and_the_next_one_works(folder, image):
    with load(folder, threads=1) as predictor:
        with pytest.raises(ImageError, match="expected") as info:
            predictor(image)
        assert info.value.exit_code == 2
        assert len(predictor(picture())) == 3


def test_a_picture_larger_than_the_limit_is_refused(folder):
    row = np.zeros((1, 1, 3), np.uint8)
    with load(folder) as predictor, pytest.raises(ImageTooLarge):
        predictor(np.broadcast_to(row, (70_000, 1_000, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_detections_that_are_no_numbers_are_dropped_and_counted(tmp_path, bad, position):
    scores = [0.9, 0.75, 0.5, 0.0]
    scores[position] = float(bad)
    write_bundle(tmp_path, tiny_model(scores=tuple(scores)))
    with load(tmp_path, threads=1) as predictor:
        result = predictor(picture())
    assert np.isfinite(result.scores).all()
    assert result.num_nonfinite == 1
    kept = [score for score in scores if np.isfinite(score) and score > 0]
    np.testing.assert_array_equal(result.scores, np.array(kept, np.float32))


def test_numbers_that_are_none_are_an_error_in_strict_mode(tmp_path):
    write_bundle(tmp_path / "bad", tiny_model(scores=(0.9, float("nan"), 0.5, 0.0)))
    message = "'scores' holds 1 NaN or infinite numbers of 4"
    with (
        load(tmp_path / "bad", threads=1, strict=True) as predictor,
        pytest.raises(NonFiniteOutput, match=message),
    ):
        predictor(picture())
    write_bundle(tmp_path / "good")
    with load(tmp_path / "good", threads=1, strict=True) as predictor:
        result = predictor(picture())
        assert len(result) == 3
        assert result.backend == predictor.backend.name


def test_no_detection_at_all_gives_empty_arrays_twice_in_a_row(tmp_path):
    write_bundle(tmp_path, tiny_model(scores=(0.0, 0.0, 0.0, 0.0)))
    with load(tmp_path, threads=1) as predictor:
        for _ in range(2):
            result = predictor(picture())
            assert len(result) == 0
            assert result.boxes.shape == (0, 4)
            assert result.scores.shape == (0,)
            assert result.masks.shape == (0, 60, 80)


def test_four_threads_share_a_predictor_and_agree_with_one(folder):
    with load(folder, threads=1) as predictor, ThreadPoolExecutor(4) as pool:
        sizes = [(60, 80), (33, 21), (100, 40), (48, 64)]
        images = [picture(seed, size) for seed, size in enumerate(sizes)]
        expected = [predictor(image) for image in images]
        found = list(pool.map(lambda index: predictor(images[index % 4]), range(48)))
    for index, result in enumerate(found):
        for name in ("boxes", "scores", "labels", "masks"):
            np.testing.assert_array_equal(
                getattr(result, name), getattr(expected[index % 4], name), err_msg=name
            )


# ---------------------------------------------------------------- the store of engines


KEY = EngineKey(
    onnx_sha256="ab" * 32,
    flavour="tensorrt_rtx",
    version="1.7.1.116",
    targets=("sm86",),
    platform="any-x86_64",
)

WRITER = textwrap.dedent(
    """
    import dataclasses, logging, pathlib, resource, sys
    from edgeseg_runtime.tensorrt import key as engine_key
    from edgeseg_runtime.tensorrt import store as engine_store
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    key = engine_key.EngineKey(
        onnx_sha256="ab" * 32, flavour="tensorrt_rtx", version="1.7.1.116", targets=("sm86",),
        platform="any-x86_64",
    )
    folder, size, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    plan = bytes(size)
    print("writing", flush=True)
    print(engine_store.store_engine(folder, key, plan), flush=True)
    """
)


def writer(folder, *, size, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(size), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("delay_ms", [0, 20, 60, 120])
def test_a_writer_killed_at_any_moment_leaves_no_engine_that_is_half(tmp_path, delay_ms):
    size = 64 * 2**20
    with writer(tmp_path, size=size) as process:
        assert process.stdout.readline() == "writing\n"
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
    found = engine_store.find_engine(tmp_path, KEY)
    if found is not None:  # it was faster than the signal
        assert found[0] == bytes(size)
    assert engine_store.store_engine(tmp_path, KEY, b"whole" * 100) is not None
    plan, _ = engine_store.find_engine(tmp_path, KEY)
    assert plan == b"whole" * 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        KEY.file_name,
        KEY.file_name + ".json",
    ], "the next writer removes the litter"


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_write_that_fails_half_way_is_undone_with_a_warning(tmp_path):
    with writer(tmp_path, size=2**20, limit=2**16) as process:
        output, warning = process.communicate(timeout=60)
    assert output == "writing\nNone\n"
    assert warning.count("cannot be written") == 1
    assert "set EDGESEG_CACHE" in warning
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def mounted(folder, options):
    folder.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "edgeseg-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def onnx():
    return tiny_model().SerializeToString()


@pytest.fixture
def key(onnx):
    trt = pytest.importorskip("tensorrt_rtx")
    return engine_key.key_for_targets(onnx, trt, ("sm86",), engine_key.EngineOptions())


def assert_built_in_memory(onnx, key, store, caplog, *, words):
    plan, file = engines.load_or_build(onnx, key, store=store)
    assert len(plan) == file.size_bytes > 100_000
    assert file.path is None
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "one warning, not one per attempt"
    assert words in warnings[0].getMessage()
    assert "EDGESEG_CACHE" in warnings[0].getMessage()


def test_a_full_disk_means_an_engine_in_memory_and_one_warning(tmp_path, onnx, key, caplog):
    with mounted(tmp_path / "disk", "size=128k") as store:
        assert_built_in_memory(onnx, key, store, caplog, words="No space left on device")
        assert [path.name for path in store.iterdir()] == [".lock"], "nothing half is left"


def test_a_read_only_disk_means_an_engine_in_memory_and_one_warning(tmp_path, onnx, key, caplog):
    with mounted(tmp_path / "disk", "ro") as store:
        assert_built_in_memory(onnx, key, store, caplog, words="Read-only file system")


@pytest.mark.skipif(
    sys.platform == "win32" or os.getuid() == 0, reason="needs a user who may not write everywhere"
)
@pytest.mark.parametrize("has_lock", [False, True], ids=["empty", "with a lock"])
def test_a_folder_without_write_permission_means_an_engine_in_memory_and_one_warning(
    tmp_path, onnx, key, caplog, has_lock
):
    store = tmp_path / "cache"
    store.mkdir()
    if has_lock:
        (store / ".lock").touch()
    store.chmod(0o500)
    assert_built_in_memory(onnx, key, store, caplog, words="Permission denied")


def test_a_cache_that_cannot_be_created_means_an_engine_in_memory(tmp_path, onnx, key, caplog):
    (tmp_path / "file").write_text("no folder")
    store = tmp_path / "file" / "cache"
    assert_built_in_memory(onnx, key, store, caplog, words="cannot be kept in")


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.6.0.1"},
        {"platform": "any-riscv64"},
        {"targets": ("sm120",)},
        {"device": "Orin"},
        {"driver": "12.6"},
        {"onnx_sha256": "cd" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_foreign_engine_is_never_tried(tmp_path, onnx, key, change):
    tmp_path.chmod(0o700)
    foreign = dataclasses.replace(key, **change)
    engine_store.store_engine(tmp_path, foreign, b"an engine from elsewhere")
    assert engine_store.find_engine(tmp_path, key) is None
    if "version" in change:
        plan, file = engines.load_or_build(onnx, key, store=tmp_path)
        assert file.is_new
        assert plan != b"an engine from elsewhere"
    assert engine_store.find_engine(tmp_path, foreign) is not None, "others' engines are left alone"


def test_an_engine_flipped_or_cut_anywhere_is_not_loaded(tmp_path):
    plan = bytes(range(256)) * 8
    path = engine_store.store_engine(tmp_path, KEY, plan)
    for position in positions(len(plan)):
        content = bytearray(plan)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        assert engine_store.find_engine(tmp_path, KEY) is None
        path.write_bytes(plan[:position])
        assert engine_store.find_engine(tmp_path, KEY) is None
    path.write_bytes(plan)
    assert engine_store.find_engine(tmp_path, KEY) is not None


def test_a_record_flipped_anywhere_gives_the_engine_as_it_was_or_none(tmp_path):
    plan = bytes(range(256)) * 8
    path = engine_store.store_engine(tmp_path, KEY, plan)
    record = path.with_name(path.name + ".json")
    original = record.read_bytes()
    num_refused = 0
    for position in positions(len(original)):
        content = bytearray(original)
        content[position] ^= 1 << position % 8
        record.write_bytes(content)
        found = engine_store.find_engine(tmp_path, KEY)
        num_refused += found is None
        assert found is None or found[0] == plan
    assert num_refused > 0.6 * NUM_POSITIONS, "white space is all that may be flipped in peace"
