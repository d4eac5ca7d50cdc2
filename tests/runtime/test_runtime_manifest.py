"""Manifest: what is written comes back equal; everything else is refused with a typed error."""

import dataclasses
import errno
import hashlib
import json
import random
from pathlib import Path

import pytest
from fake_model import instance_manifest

from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.bundle.manifest import (
    MAX_BYTES,
    Artifact,
    Manifest,
    Preprocess,
    read_artifact,
)
from edgeseg_runtime.errors import (
    BundleError,
    CorruptArtifact,
    ManifestError,
    MissingArtifact,
    SchemaTooNew,
    UnsafePath,
)


def full_manifest():
    return dataclasses.replace(
        instance_manifest(),
        labels=("", "Bär", "1\u00bd"),
        category_ids=(0, 1, 2),
        keypoint_names=("nose", "left eye", "right eye"),
        skeleton=((0, 1), (0, 2)),
        artifacts={"onnx": Artifact(file="sub/model.onnx", sha256="ab" * 32, size_bytes=12)},
        parity={"boxes": {"max_abs": 1e-5, "pictures": (1, 2)}, "passed": True, "note": None},
        provenance={"command": "edgeseg export \u2026\ttwice", "versions": {"torch": "2.13"}},
    )


def main(document):
    """Return the one graph of a document."""
    return document["graphs"]["main"]


def edited(change, *, keep_digest=False):
    """Return the JSON of a manifest after `change(document)`."""
    document = json.loads(full_manifest().to_json())
    if not keep_digest:
        del document["digest"]
    change(document)
    return json.dumps(document)


# ---------------------------------------------------------------- round trip


@pytest.mark.parametrize("manifest", [instance_manifest(), full_manifest()], ids=["small", "full"])
def test_a_manifest_survives_the_round_trip(manifest, tmp_path):
    assert Manifest.from_json(manifest.to_json()) == manifest
    path = manifest.save(tmp_path / "new" / "folder")
    assert path.name == "manifest.json"
    assert Manifest.load(path.parent) == manifest
    assert [file.name for file in path.parent.iterdir()] == ["manifest.json"]


def test_saving_replaces_the_older_manifest(tmp_path):
    instance_manifest().save(tmp_path)
    full_manifest().save(tmp_path)
    assert Manifest.load(tmp_path) == full_manifest()


def test_keys_with_a_default_may_be_left_out():
    text = edited(
        lambda document: [document.pop(key) for key in ("variants", "parity", "requires")]
    )
    manifest = Manifest.from_json(text)
    assert (manifest.variants, manifest.parity, manifest.requires) == ({}, {}, ())


# ---------------------------------------------------------------- refusals

REFUSALS = {
    "no document": (lambda d: d.clear(), "schema is None; expected a version such as '2.0'"),
    "key missing": (lambda d: d.pop("task"), "the key 'task' is missing at the top level"),
    "key unknown": (lambda d: d.update(shiny=1), "unknown key 'shiny' at the top level"),
    "key unknown below": (
        lambda d: d["preprocess"].update(gamma=2.2),
        "unknown key 'gamma' in preprocess",
    ),
    "bool for int": (
        lambda d: d["preprocess"].update(height=True),
        "preprocess.height is True; expected an integer in 1..32768",
    ),
    "float for int": (lambda d: d["preprocess"].update(width=64.0), "preprocess.width is 64.0"),
    "huge input": (
        lambda d: d["preprocess"].update(height=30000, width=30000),
        "expected at most 64000000 pixels",
    ),
    "unknown resize": (
        lambda d: d["preprocess"].update(resize="crop"),
        "preprocess.resize is 'crop'; expected one of shortest_edge, letterbox, stretch",
    ),
    "no min_size": (lambda d: d["preprocess"].update(min_size=None), "min_size is None"),
    "crop with rounding of a size": (
        lambda d: d["preprocess"].update(resize="square_crop", min_size=None),
        "preprocess.rounding is 'floor'; expected one of truncate, none, hrnet, pfld, pfld_camera",
    ),
    "size with rounding of a crop": (
        lambda d: d["preprocess"].update(rounding="truncate"),
        "preprocess.rounding is 'truncate'; expected one of floor, half_up",
    ),
    "margin without a crop": (
        lambda d: d["preprocess"].update(crop_margin=1.5),
        "preprocess.crop_margin is 1.5; expected only square_crop to have one",
    ),
    "margin": (
        lambda d: d["preprocess"].update(crop_margin="1"),
        "preprocess.crop_margin is '1'; expected a number in 0.01..100",
    ),
    "antialiased sampling": (
        lambda d: d["preprocess"].update(
            resize="affine", min_size=None, interpolation="pillow_bilinear"
        ),
        "expected linear with resize affine",
    ),
    "key-point name": (lambda d: d.update(keypoint_names=[1]), "keypoint_names[0] is 1"),
    "bone of three": (
        lambda d: d.update(keypoint_names=["a"], skeleton=[[0, 0, 0]]),
        "skeleton[0] is [0, 0, 0]; expected two numbers of key points",
    ),
    "bone without a point": (
        lambda d: d.update(keypoint_names=["a", "b"], skeleton=[[0, 1], [1, 2]]),
        "skeleton[1] is 2; expected an integer in 0..1",
    ),
    "bone of no list": (lambda d: d.update(skeleton=[1]), "skeleton[0] is 1; expected a list"),
    "pad_value": (lambda d: d["preprocess"].update(pad_value=[0, 0]), "three integers B, G, R"),
    "dtype": (
        lambda d: main(d)["inputs"][0].update(dtype="complex64"),
        "graphs.main.inputs[0].dtype is 'complex64'",
    ),
    "free inner axis": (
        lambda d: main(d)["inputs"][0].update(shape=[1, 48, -1, 3]),
        "inputs[0].shape[2] is -1",
    ),
    "huge tensor": (
        lambda d: main(d)["outputs"][0].update(shape=[65536, 65536]),
        "expected fewer than 2^31 elements",
    ),
    "same name twice": (
        lambda d: main(d)["outputs"].append(main(d)["outputs"][0]),
        "outputs is 'boxes'; expected each name once",
    ),
    "no outputs": (lambda d: main(d).update(outputs=[]), "expected 1..256 tensors"),
    "labels": (lambda d: d["labels"].append("more"), "expected one for each of the 4 labels"),
    "label type": (lambda d: d.update(labels=[1], category_ids=[1]), "labels[0] is 1"),
    "digest of a file": (
        lambda d: d["artifacts"]["onnx"].update(sha256="AB" * 32),
        "expected 64 lower-case hexadecimal digits",
    ),
    "nested option": (
        lambda d: d["postprocess"].update(extra=[1]),
        "postprocess.extra is [1]; expected text, a number or a truth value",
    ),
    "older": (lambda d: d.update(schema="0.9"), "schema 0.9 is older"),
    "no version": (lambda d: d.update(schema="1"), "schema is '1'"),
    "list for object": (lambda d: d.update(preprocess=[]), "preprocess is []; expected an object"),
    "object for list": (
        lambda d: main(d).update(inputs={}),
        "graphs.main.inputs is {}; expected a list",
    ),
    "lone surrogate": (lambda d: d.update(provenance={"a": "\ud800"}), "text that UTF-8 can hold"),
}


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_used_is_refused_and_named(change, message):
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(edited(change), source="there/manifest.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("there/manifest.json: ")
    assert caught.value.exit_code == 3


TEXTS = {
    "empty": ("", "not valid JSON"),
    "a list": ("[]", "expected a JSON object, found list"),
    "NaN": ('{"a": NaN}', "NaN is not a number that a manifest may hold"),
    "infinite": ('{"a": 1e999}', "the number 1e999 is out of range"),
    "long integer": ('{"a": %s}' % ("9" * 5000), "anifest"),
    "twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
    "deep": ("[" * 100_000, "nested deeper than 16 levels"),
    "deep behind a string": ('{"[[[": ' + "[" * 17, "nested deeper than 16 levels"),
    "large": (" " * (MAX_BYTES + 1), "expected at most"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS.keys())
def test_a_text_that_is_no_manifest_is_refused_before_it_costs_anything(text, message):
    with pytest.raises(ManifestError, match=r"manifest\.json: ") as caught:
        Manifest.from_json(text)
    assert message in str(caught.value)


def test_a_newer_major_version_asks_for_an_upgrade():
    with pytest.raises(SchemaTooNew, match=r"schema 3\.0 is newer than 2\.0.*pip install -U"):
        Manifest.from_json(edited(lambda d: d.update(schema="3.0")))


def test_an_unknown_requirement_asks_for_an_upgrade():
    with pytest.raises(SchemaTooNew, match=r"requires 'telepathy'.*pip install -U"):
        Manifest.from_json(edited(lambda d: d.update(requires=["telepathy"])))


def test_a_newer_minor_version_may_bring_keys_that_are_ignored():
    def change(document):
        document.update(schema="2.7", shiny=1)
        document["preprocess"]["gamma"] = 2.2

    manifest = Manifest.from_json(edited(change, keep_digest=True))
    assert dataclasses.replace(manifest, schema="2.0") == full_manifest()


def test_a_change_by_hand_is_noticed_and_can_be_declared():
    def change(document):
        document["postprocess"]["mask_threshold"] = 0.25

    with pytest.raises(ManifestError, match="If you edited it on purpose, remove the key 'digest'"):
        Manifest.from_json(edited(change, keep_digest=True))
    assert Manifest.from_json(edited(change)).postprocess["mask_threshold"] == 0.25


@pytest.mark.parametrize("step", [7])
def test_a_truncated_manifest_gives_a_typed_error(step, tmp_path):
    raw = full_manifest().to_json().encode()
    for length in range(0, len(raw) - 1, step):
        (tmp_path / "manifest.json").write_bytes(raw[:length])
        with pytest.raises(ManifestError):
            Manifest.load(tmp_path)


def test_a_flipped_bit_gives_a_typed_error_or_the_same_manifest(tmp_path):
    expected = full_manifest()
    raw = expected.to_json().encode()
    rng = random.Random(0)
    num_refused = 0
    for position in rng.sample(range(8 * len(raw)), 1000):
        damaged = bytearray(raw)
        damaged[position // 8] ^= 1 << position % 8
        (tmp_path / "manifest.json").write_bytes(damaged)
        try:
            manifest = Manifest.load(tmp_path)
        except BundleError:
            num_refused += 1
        else:
            assert dataclasses.replace(manifest, schema="1.0") == expected
    assert num_refused > 700, "the rest is white space"


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_give_a_typed_error(seed, tmp_path):
    (tmp_path / "manifest.json").write_bytes(random.Random(seed).randbytes(300))
    with pytest.raises(ManifestError):
        Manifest.load(tmp_path)


def test_what_a_program_builds_is_checked_like_a_file():
    with pytest.raises(
        ManifestError, match=r"min_size and max_size .*; expected only shortest_edge"
    ):
        Preprocess(height=4, width=4, resize="stretch", min_size=4)
    with pytest.raises(ManifestError, match=r"parity\.x is nan; expected a finite number"):
        dataclasses.replace(full_manifest(), parity={"x": float("nan")})


# ---------------------------------------------------------------- files


def test_no_manifest_names_the_folder_and_what_to_give(tmp_path):
    with pytest.raises(ManifestError, match=r"there is no bundle at .*Give the folder"):
        Manifest.load(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"manifest\.json is missing"):
        Manifest.load(tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_no_bundle(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", refuse)  # an administrator may look into every folder
    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(ManifestError, match="there is no bundle at"):
        Manifest.load(tmp_path)


def test_a_huge_manifest_is_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ManifestError, match="too large for a manifest"):
        Manifest.load(tmp_path)


def test_a_file_that_no_reader_of_models_takes_is_not_one_of_a_bundle():
    with pytest.raises(ManifestError, match=rf"size_bytes is {2**31}; expected .*{2**31 - 1}"):
        Artifact(file="hole.onnx", sha256="0" * 64, size_bytes=2**31)


UNSAFE = ["", "/etc/passwd", "../model.onnx", "a/../../b", "./a", "a//b", "a\\b", "C:model", "a\0b"]


@pytest.mark.parametrize("file", UNSAFE)
def test_a_path_out_of_the_folder_is_refused(file):
    with pytest.raises(UnsafePath, match="is not allowed in a bundle"):
        Artifact(file=file, sha256="0" * 64, size_bytes=1)
    with pytest.raises(UnsafePath):
        Manifest.from_json(edited(lambda d: d["artifacts"]["onnx"].update(file=file)))


def artifact_of(data, file="model.onnx"):
    return Artifact(file=file, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def test_an_artifact_is_read_whole(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    assert read_artifact(tmp_path, artifact_of(b"weights")) == b"weights"


def test_a_damaged_artifact_names_both_digests(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weighty")
    with pytest.raises(
        CorruptArtifact, match=r"model\.onnx is damaged: expected sha256 "
    ) as caught:
        read_artifact(tmp_path, artifact_of(b"weights"))
    assert caught.value.found == f"sha256 {hashlib.sha256(b'weighty').hexdigest()}"
    assert read_artifact(tmp_path, artifact_of(b"weights"), verify=False) == b"weighty"


def test_a_wrong_size_is_noticed_before_reading(tmp_path):
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(CorruptArtifact, match=f"expected 7 bytes, found {2**40} bytes"):
        read_artifact(tmp_path, artifact_of(b"weights"), verify=False)


def test_a_missing_artifact_says_what_to_give(tmp_path):
    with pytest.raises(MissingArtifact, match=r"model\.onnx does not exist .*Give the folder"):
        read_artifact(tmp_path, artifact_of(b"weights"))


@pytest.mark.parametrize("target", ["inside", "outside", "nowhere", "itself"])
def test_a_linked_artifact_is_refused(target, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for folder in (bundle, tmp_path):
        (folder / "real").write_bytes(b"weights")
    link = {"inside": "real", "outside": "../real", "nowhere": "gone", "itself": "model.onnx"}
    (bundle / "model.onnx").symlink_to(link[target])
    with pytest.raises(UnsafePath, match="symbolic link"):
        read_artifact(bundle, artifact_of(b"weights"))


def test_a_linked_folder_below_the_bundle_is_refused_but_the_bundle_may_be_one(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.onnx").write_bytes(b"weights")
    (tmp_path / "bundle").symlink_to("other")
    assert read_artifact(tmp_path / "bundle", artifact_of(b"weights")) == b"weights"
    with pytest.raises(UnsafePath, match="symbolic link"):
        read_artifact(tmp_path, artifact_of(b"weights", file="bundle/model.onnx"))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(UnsafePath, match="is not a regular file"):
        read_artifact(tmp_path, artifact_of(b"weights"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, b"old")
    with pytest.raises(TypeError):
        write_atomic(target, "text")
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
