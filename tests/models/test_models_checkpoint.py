"""Weight files: every kind that the originals publish, and what is refused."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgeseg.models.checkpoint import CheckpointError, KeyTable, load_weights, read_checkpoint
from edgeseg.models.layers.fpn import FPN
from edgeseg.models.layers.roi_heads import MaskHead
from edgeseg.models.layers.rpn import RPN, AnchorGrid
from edgeseg.models.maskrcnn import checkpoint


class _Small(torch.nn.Module):
    """Parts of Mask R-CNN with few parameters."""

    def __init__(self):
        super().__init__()
        self.fpn = FPN((8, 8), 8)
        self.rpn = RPN(8, AnchorGrid(sizes=(32, 64)), (64, 64))
        self.mask_head = MaskHead(8, 3, channels=8, num_convs=2)


def _small(table):
    """A model, and a state dict for it under an original's names: each value is 1 larger."""
    model = _Small()
    state = {
        key: value + 1 if value.dtype.is_floating_point else value
        for key, value in model.state_dict().items()
    }
    return model, {table.original_from_ours(key) or key: value for key, value in state.items()}


def _assert_loaded(model, before):
    after = model.state_dict()
    assert all(
        torch.equal(after[key], value + 1)
        for key, value in before.items()
        if value.dtype.is_floating_point
    )


@pytest.mark.parametrize("nesting", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_torch_file_loads_however_it_is_nested(tmp_path, nesting, prefix):
    model, state = _small(checkpoint.TORCHVISION_V1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {prefix + key: value for key, value in state.items()}
    torch.save({nesting: state, "epoch": 3} if nesting else state, tmp_path / "weights.pth")
    load_weights(model, tmp_path / "weights.pth", checkpoint.TORCHVISION_V1)
    _assert_loaded(model, before)


def test_fine_tuned_torchvision_models_have_the_new_names():
    model, state = _small(checkpoint.TORCHVISION_V1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    renamed = {
        key.replace("rpn.head.conv.weight", "rpn.head.conv.0.0.weight")
        .replace("rpn.head.conv.bias", "rpn.head.conv.0.0.bias")
        .replace("mask_fcn1.", "0.0.")
        .replace("mask_fcn2.", "1.0."): value
        for key, value in state.items()
    }
    assert renamed.keys() != state.keys()
    load_weights(model, renamed, checkpoint.TORCHVISION_V1)
    _assert_loaded(model, before)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_detectron2_pickle_loads(tmp_path, protocol):
    model, state = _small(checkpoint.DETECTRON2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    arrays = OrderedDict((key, value.numpy()) for key, value in state.items())
    arrays["pixel_mean"] = np.zeros((3, 1, 1), np.float32)
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "epoch": np.float64(1.5)}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol))
    load_weights(model, tmp_path / "model_final.pkl", checkpoint.DETECTRON2)
    _assert_loaded(model, before)


def test_arrays_of_a_pickle_keep_order_and_type(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "scalar": np.array(7, np.int64),
        "empty": np.empty((0, 4), np.float16),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays}))
    found = read_checkpoint(tmp_path / "w.pkl")["model"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


class _Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model": _Malicious()}, id="a call"),
        pytest.param({"model": np.array([{}], dtype=object)}, id="objects in an array"),
        pytest.param({"model": np.array(["text"])}, id="text in an array"),
        pytest.param({"model": {1, 2}}, id="a set"),
    ],
)
def test_a_pickle_of_anything_but_arrays_is_refused(tmp_path, content):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read as a weight file"):
        read_checkpoint(tmp_path / "weights.pkl")


def test_a_torch_file_with_code_is_refused(tmp_path):
    torch.save({"model": _Malicious()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="cannot be read as a weight file"):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    arrays = {"weight": np.arange(64, dtype=np.float32)}
    if suffix == ".pkl":
        whole.write_bytes(pickle.dumps({"model": arrays}))
    elif suffix == ".pth":
        torch.save({"weight": torch.arange(64.0)}, whole)
    else:
        save_file({"weight": torch.arange(64.0)}, whole)
    raw = whole.read_bytes()
    for length in range(0, len(raw), max(1, len(raw) // 40)):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match="cannot be read as a weight file"):
            read_checkpoint(cut)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth: no such weight file"):
        read_checkpoint(tmp_path / "nothing.pth")


def test_all_misfits_are_listed():
    model, state = _small(checkpoint.OWN)
    state["rpn.objectness.weight"] = torch.zeros(9, 8, 1, 1)
    del state["mask_head.deconv.bias"]
    with pytest.raises(CheckpointError) as error:
        load_weights(model, state, checkpoint.OWN)
    text = str(error.value)
    assert "the given state dict does not fit the model" in text
    assert "1 missing: mask_head.deconv.bias" in text
    assert "rpn.objectness.weight: (9, 8, 1, 1) found, (3, 8, 1, 1) expected" in text


def test_names_of_another_model_are_listed():
    model, state = _small(checkpoint.DETECTRON2)
    with pytest.raises(CheckpointError, match=r"unexpected: backbone\.fpn_lateral2"):
        load_weights(
            model, {k: v for k, v in state.items() if "fpn" in k}, checkpoint.TORCHVISION_V1
        )


def test_shapes_and_names_are_told_apart_in_the_message():
    model, state = _small(checkpoint.OWN)
    wrong = {**state, "rpn.objectness.weight": torch.zeros(9, 8, 1, 1)}
    with pytest.raises(
        CheckpointError, match=r"1 misshapen: rpn.objectness.weight: \(9, 8, 1, 1\)"
    ):
        load_weights(model, wrong, checkpoint.OWN)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="num_classes if the model was fine-tuned"):
        load_weights(model, {}, checkpoint.OWN)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_placeholders_carry_the_original_s_numbering():
    table = KeyTable(
        (("layer{s+1}.{n}.{p}", "stages.{s}.{n}.{p}"), ("head.{i*2}.{p}", "fc.{i}.{p}"))
    )
    assert table.ours_from_original("layer3.0.weight") == "stages.2.0.weight"
    assert table.original_from_ours("stages.2.0.weight") == "layer3.0.weight"
    assert table.ours_from_original("head.4.bias") == "fc.2.bias"
    assert table.ours_from_original("head.3.bias") is None
    assert table.ours_from_original("layer0.0.weight") is None
