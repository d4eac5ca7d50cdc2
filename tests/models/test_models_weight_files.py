"""Weight files: every kind is read as data, anything else is named, nothing is executed."""

import argparse
import datetime as dt
import enum
import io
import pathlib
import pickle
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgeseg.models import inert_pickle
from edgeseg.models.stored_tensors import Opaque
from edgeseg.models.weight_files import CheckpointError, read_checkpoint

STATE = {
    "conv.weight": torch.arange(24.0).reshape(2, 3, 4),
    "conv.transposed": torch.arange(6.0).reshape(2, 3).t(),
    "norm.half": torch.arange(3.0).half(),
    "norm.brain": torch.arange(3.0).bfloat16(),
    "norm.num_batches_tracked": torch.tensor(7),
    "norm.mask": torch.tensor([True, False]),
    "empty": torch.empty(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}
SUFFIXES = ("zip", "legacy", "pickle", "safetensors", "arrays")


def _write(path, kind, state=STATE):
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    elif kind == "arrays":
        arrays = {key: value.detach().float().numpy() for key, value in state.items()}
        path.write_bytes(pickle.dumps(OrderedDict(arrays), protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_tensors_are_read_as_they_were_saved_whatever_the_file_is_called(tmp_path, kind):
    _write(tmp_path / "weights", kind)
    found = read_checkpoint(tmp_path / "weights")
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        tensor = found[name].read()
        assert tensor.shape == found[name].shape == value.shape
        assert kind == "arrays" or tensor.dtype == value.dtype
        assert torch.equal(tensor.float(), value.float())


def test_arrays_of_a_pickle_keep_order_and_type(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "scalar": np.array(7, np.int64),
        "empty": np.empty((0, 4), np.float16),
    }
    for protocol in (0, 2, 5):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol))
        found = read_checkpoint(tmp_path / "w.pkl")["model"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name].read(), array)
            assert found[name].shape == array.shape


class _Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


class _Colour(enum.Enum):
    RED = 1


class _Dict(OrderedDict):
    pass


class _Configuration:  # like OmegaConf's: a tree of objects with their content in their state
    def __init__(self, content):
        self.__dict__["_content"] = content
        self.__dict__["_parent"] = self


_BESIDE = {
    "a call": _Malicious(),
    "Namespace": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=[1])),
    "path": pathlib.Path("/runs/1"),
    "NumPy's numbers": [np.float64(0.3), np.int64(3), np.bool_(True), np.array(["text"])],
    "random state": np.random.default_rng(0).bit_generator.state,
    "objects": np.array([{}], dtype=object),
    "Counter": Counter("aab"),
    "enum": _Colour.RED,
    "set": {1, 2, frozenset({3})},
    "own dict": _Dict(a=1),
    "configuration": _Configuration({"a": _Configuration([1, 2])}),
    "times": [dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), dt.timedelta(1)],
    "numbers": [2**80, -1, 1.5, 1j, None, True, b"raw", bytearray(b"raw"), slice(1), range(3)],
    "a function": len,
    "a device": torch.device("cpu"),
    "a type": torch.float16,
    "a size": torch.Size([1, 2]),
}


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("beside", _BESIDE.values(), ids=_BESIDE)
def test_weights_are_read_whatever_stands_beside_them(tmp_path, beside, kind):
    _write(tmp_path / "c.pth", kind, {"before": beside, "model": STATE, "after": [beside, beside]})
    found = read_checkpoint(tmp_path / "c.pth")["model"]
    assert torch.equal(found["conv.weight"].read(), STATE["conv.weight"])


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_that_a_pickle_names_is_imported_or_called(protocol):
    raw = pickle.dumps([_Malicious(), _Configuration(1)], protocol)
    call, configuration = inert_pickle.load(io.BytesIO(raw), len(raw)).root
    assert (call.name.rpartition(".")[2], call.args) == ("exec", ("raise SystemExit('executed')",))
    assert configuration.state.keys() == {"_content", "_parent"}
    raw = b"cantigravity\nfly\n(tR."
    found = inert_pickle.load(io.BytesIO(raw), len(raw)).root
    assert found.name == "antigravity.fly"
    assert "antigravity" not in sys.modules


def test_buffers_that_a_module_does_not_save_are_no_weights(tmp_path):
    module = torch.nn.BatchNorm2d(2)
    module.register_buffer("grid", torch.ones(3), persistent=False)
    torch.save(torch.nn.Sequential(module), tmp_path / "m.pth")
    assert read_checkpoint(tmp_path / "m.pth").keys() == {
        f"0.{name}" for name in module.state_dict()
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_gives_its_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.jit.script(module).save(str(tmp_path / "m.pt"))
    found = read_checkpoint(tmp_path / "m.pt")
    assert found.keys() == module.state_dict().keys()
    assert torch.equal(found["0.weight"].read(), module[0].weight)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    _write(tmp_path / "whole", kind)
    raw = (tmp_path / "whole").read_bytes()
    for length in range(0, len(raw), max(1, len(raw) // 40)):
        (tmp_path / "cut").write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match="cannot be read as a weight file"):
            read_checkpoint(tmp_path / "cut")


def test_a_flipped_bit_is_found_where_the_file_has_checksums(tmp_path):
    path = tmp_path / "weights.pth"
    _write(path, "zip")
    raw = bytearray(path.read_bytes())
    raw[raw.index(STATE["conv.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="some of its bits have changed"):
        read_checkpoint(path)["conv.weight"].read()


def test_a_file_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / "w.pth")["conv.weight"].read().sum() == 276


def _tensor_call(shape, strides, *, offset=0, name="torch FloatStorage", count=4):
    """A pickle of {"w": tensor} over a storage of 4 floats with the key 0."""
    numbers = lambda values: b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"  # noqa: E731
    return (
        b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storagec"
        + name.replace(" ", "\n").encode()
        + b"\nU\x010U\x03cpuJ"
        + struct.pack("<i", count)
        + b"tQJ"
        + struct.pack("<i", offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89Ntc__builtin__\nNone\n0Rs."
    )


def _archive(path, pickled, storage=bytes(16)):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/data/0", storage)
    return path


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        pytest.param(_tensor_call((2, 2), (2, 1)), None, id="fits"),
        pytest.param(_tensor_call((2, 3), (3, 1)), "2x3 elements in a storage of 4", id="too large"),
        pytest.param(_tensor_call((2, 2), (2, 1), offset=1), "2x2 elements in a storage", id="too far"),
        pytest.param(_tensor_call((4,), (-1,)), "a length or position that is not valid", id="backwards"),
        pytest.param(_tensor_call((-4,), (1,)), "a length or position that is not valid", id="negative"),
        pytest.param(_tensor_call((2, 2), (1,)), "shape and strides do not belong", id="rank"),
        pytest.param(_tensor_call((2,), (1,), count=9), "shorter than it says", id="storage"),
        pytest.param(_tensor_call((2,), (1,), name="torch QInt8Storage"), "QInt8Storage", id="int8"),
        pytest.param(_tensor_call((2,), (1,), name="os system"), "a tensor of system", id="no type"),
    ],
)  # fmt: skip
def test_a_tensor_lies_inside_its_storage(tmp_path, call, kind):
    found = read_checkpoint(_archive(tmp_path / "w.pth", call))["w"]
    if kind is None:
        assert found.read().shape == (2, 2)
    else:
        assert isinstance(found, Opaque)
        assert kind in found.kind


def test_an_array_of_text_is_named(tmp_path):
    """Python 2 keeps the bytes of an array as text, in which no letter is above 255."""
    arrays = {"w": np.full(2, 2.0, np.float32), "other": np.ones(3, np.float32)}
    whole = pickle.dumps(arrays, protocol=2)
    text = "\x00\x00\x00@\x00\x00\x00@"
    before = b"X" + struct.pack("<I", len(text)) + text.encode()
    assert whole.count(before) == 1
    longer = text.replace("@", "\u0644").encode()
    path = tmp_path / "w.pkl"
    path.write_bytes(whole)
    assert read_checkpoint(path)["w"].read().tolist() == [2, 2]
    path.write_bytes(whole.replace(before, b"X" + struct.pack("<I", len(longer)) + longer))
    found = read_checkpoint(path)["w"]
    assert isinstance(found, Opaque)
    assert found.kind == "an array with text in the place of its bytes"


def _shared(levels, start, level):
    """A pickle in which each level holds the one before twice."""
    return start + b"q\x00" + b"".join(level for _ in range(levels)) + b"."


_BOMBS = {
    "dicts": _shared(40, b"}", b"0}(U\x01ah\x00U\x01bh\x00uq\x00"),
    "lists": _shared(40, b"]", b"0](h\x00h\x00eq\x00"),
    "tuples as keys": _shared(40, b")", b"0h\x00h\x00\x86q\x00") [:-1] + b"}h\x00K\x01s.",
    "a list of itself": b"]q\x00h\x00a.",
    "nesting": b"]" * 20_000 + b"a" * 19_999 + b".",
    "calls": b"cos\nsystem\nq\x00)" + b"h\x00\x85R" * 10_000 + b".",
    "a long number": b"\x8b\xff\xff\xff\x7f.",
    "long bytes": b"\x8e" + struct.pack("<Q", 1 << 48) + b".",
    "a long text": b"X\xff\xff\xff\xff.",
    "a far memo": b"Nr\xff\xff\xff\xff.",
    "long names": b"X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x00" + b"h\x00h\x00\x93" * 20_000 + b".",
    "extensions": b"\x82\x01.",
    "other files": b"\x97.",
    "an odd number of entries": b"}(K\x01u.",
    "a bad escape": b"S'\\q'\n.",
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("raw", _BOMBS.values(), ids=_BOMBS)
def test_a_pickle_takes_no_more_than_its_size_allows(tmp_path, raw, packed):
    path = tmp_path / "bomb.pkl"
    if packed:
        _archive(path, raw)
    else:
        path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="cannot be read as a weight file"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_more_operations_than_a_checkpoint_has_are_refused(monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_OPERATIONS", 100)
    with pytest.raises(inert_pickle.PickleError, match="more than 100 operations"):
        inert_pickle.load(io.BytesIO(b"N" * 200), 200)


def _onnx():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    return helper.make_model(graph, producer_name="test").SerializeToString()


def _tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def _zip(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


_OTHERS = {
    "empty": (b"", "it is empty, as an interrupted download leaves it"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "HTML": (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning", "an HTML page"),
    "HTML, old": (b"\xef\xbb\xbf<HTML>", "an HTML page"),
    "JSON": (b'{"error": "not found"}', r"""a text: it begins with '\{"error": "not found"\}'"""),
    "text": ("Zu viele Zugriffe für heute".encode(), "a text: it begins with 'Zu viele"),
    "tar": (_tar(), "a tar archive: unpack it"),
    "gzip": (b"\x1f\x8b\x08\x00", r"compressed \(gzip\)"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(20), "a Keras model"),
    "Keras 3": (_zip("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
    "TFLite": (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
    "ONNX": (_onnx(), "an ONNX model"),
    "npz": (_zip("a.npy", "b.npy"), "NumPy's archive of arrays"),
    "zip of weights": (_zip("run/best.pth", "run/log.txt"), r"holds run/best.pth: unpack it"),
    "zip": (_zip("a.txt"), r"a zip archive of other files \(a.txt\)"),
    "picture": (b"\x89PNG\r\n\x1a\n", r"a picture \(PNG\)"),
    "noise": (bytes(range(200, 256)), "unknown kind: it begins with the bytes c8 c9"),
    "a list": (pickle.dumps([1, 2]), "it holds no tensors"),
    "a number": (pickle.dumps(7), "it holds no tensors"),
    "text in a pickle": (pickle.dumps({"model": "yolact"}), "it holds no tensors"),
}


@pytest.mark.parametrize(("raw", "words"), _OTHERS.values(), ids=_OTHERS)
def test_a_file_that_holds_no_weights_is_named(tmp_path, raw, words):
    (tmp_path / "weights.pth").write_bytes(raw)
    with pytest.raises(
        CheckpointError, match=rf"weights\.pth: cannot be read as a weight file.*{words}"
    ):
        read_checkpoint(tmp_path / "weights.pth")


def test_a_tensor_alone_is_named(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="it holds one tensor without a name"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.onnx", "an ONNX model"),
        ("frozen.pb", "of TensorFlow"),
        ("model.ckpt-1.data-00000-of-00001", "of TensorFlow"),
        ("yolo.weights", "darknet"),
    ],
)
def test_a_file_is_known_by_its_suffix_where_its_content_says_nothing(tmp_path, name, words):
    (tmp_path / name).write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ((), "a folder without a weight file in it"),
        (("config.json", "model.safetensors"), "a folder: give the file in it, model.safetensors"),
        (("saved_model.pb",), "a folder, a model of TensorFlow"),
        (("data.pkl", "version"), "an unpacked file of PyTorch's: pack it again"),
    ],
)
def test_a_folder_is_named(tmp_path, inside, words):
    for name in inside:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth: no such weight file"):
        read_checkpoint(tmp_path / "nothing.pth")


def test_an_archive_that_was_packed_again_says_how_to_pack_it(tmp_path):
    _write(tmp_path / "w.pth", "zip")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as old,
        zipfile.ZipFile(tmp_path / "again.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match=r"packed again, with compression: pack it without"):
        read_checkpoint(tmp_path / "again.pth")
