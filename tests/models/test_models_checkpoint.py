"""Checkpoints as people have them: which part is loaded, and what is refused."""

import argparse
import logging
import pathlib
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgeseg
from edgeseg.models.checkpoint import CheckpointError, KeyTable, LoadedWeights, load_weights
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


def _under(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def _later(state):
    """The same names with other values."""
    return {key: value + 1 for key, value in state.items()}


def _whole_module(state):
    """A module, of a class that is not there when it is read, with this state dict."""
    root = torch.nn.Module()
    for key, value in state.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_parameter(name, torch.nn.Parameter(value, value.is_floating_point()))
    return root


_SHAPES = {  # what a trainer writes -> the key of the part that is to be loaded
    "a state dict": (lambda state: state, ""),
    "torchvision's script": (
        lambda state: {
            "model": state,
            "optimizer": {
                "state": {0: {"exp_avg": torch.zeros(3)}},
                "param_groups": [{"lr": 0.02}],
            },
            "lr_scheduler": {"milestones": Counter([16, 22])},
            "args": argparse.Namespace(lr=0.02, output_dir=pathlib.Path("/runs/1")),
            "best_map": np.float64(0.31),
            "epoch": 3,
        },
        "model",
    ),
    "Lightning": (
        lambda state: {
            "state_dict": _under("model.", state) | {"criterion.weight": torch.ones(3)},
            "hyper_parameters": {"lr": 1e-3},
            "callbacks": {"ModelCheckpoint": {"best_score": torch.tensor(0.3)}},
        },
        "state_dict.model",
    ),
    "Lightning, another attribute": (
        lambda state: {"state_dict": _under("net.", state)},
        "state_dict.net",
    ),
    "averaged weights only": (
        lambda state: {"model_ema": _under("module.", state) | {"n_averaged": torch.tensor(7)}},
        "model_ema.module",
    ),
    "DataParallel": (lambda state: _under("module.", state), "module"),
    "torch.compile": (lambda state: _under("_orig_mod.", state), "_orig_mod"),
    "torch.compile of a part, in DistributedDataParallel": (
        lambda state: _under(
            "module.", {k.replace("head.", "head._orig_mod."): v for k, v in state.items()}
        ),
        "",
    ),
    "mmengine": (
        lambda state: {
            "meta": {"epoch": 12},
            "state_dict": state,
            "message_hub": {"log_scalars": {"loss": np.arange(3.0)}},
            "ema_state_dict": _under("module.", _later(state)),
        },
        "state_dict",
    ),
    "an older spelling": (
        lambda state: {"plfd_backbone": state, "auxiliarynet": {"fc.weight": torch.ones(3, 1)}},
        "plfd_backbone",
    ),
    "a whole module": (_whole_module, ""),
    "a whole module, beside others": (
        lambda state: {"epoch": 1, "model": torch.nn.DataParallel(_whole_module(state))},
        "model.module",
    ),
    "parts": (
        lambda state: {
            part: {
                k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")
            }
            for part in ("backbone", "rpn", "roi_heads")
        },
        "",
    ),
    "a list": (lambda state: [state, {"lr": 0.1}], "0"),
}


@pytest.mark.parametrize("saved", ["zip", "legacy", "memory"])
@pytest.mark.parametrize(("wrap", "key"), _SHAPES.values(), ids=_SHAPES)
def test_a_checkpoint_loads_as_its_trainer_wrote_it(tmp_path, wrap, key, saved):
    model, state = _small(checkpoint.TORCHVISION_V1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content = wrap(OrderedDict(state))
    if saved != "memory":
        path = tmp_path / "checkpoint.pth.tar"
        torch.save(content, path, _use_new_zipfile_serialization=saved == "zip")
        content = path
    elif not isinstance(content, dict):
        content = {"checkpoint": content}
        key = f"checkpoint.{key}".removesuffix(".")
    assert load_weights(model, content, checkpoint.TORCHVISION_V1).key == key
    _assert_loaded(model, before)


def test_safetensors_load_under_the_trainer_s_prefix(tmp_path):
    model, state = _small(checkpoint.TORCHVISION_V1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(_under("model.", state), tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_weights(model, tmp_path / "model.safetensors", checkpoint.TORCHVISION_V1)
    assert loaded.key == "model"
    _assert_loaded(model, before)


@pytest.mark.parametrize(
    ("averaged", "plain"),
    [
        ("model_ema", "model"),
        ("EMA", "net"),
        ("state_dict_ema", "state_dict"),
        ("teacher", "student"),
    ],
)
def test_averaged_weights_are_taken_before_plain_ones_and_both_are_named(averaged, plain, caplog):
    model, state = _small(checkpoint.TORCHVISION_V1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content = {plain: _later(state), averaged: _under("module.", state)}
    with caplog.at_level(logging.INFO):
        loaded = load_weights(model, content, checkpoint.TORCHVISION_V1)
    assert loaded == LoadedWeights(f"{averaged}.module", (plain,))
    assert f"those of {averaged}.module, the average, and not {plain}" in caplog.text
    _assert_loaded(model, before)


def test_a_key_chooses_the_part():
    model, state = _small(checkpoint.TORCHVISION_V1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content = {"model": state, "model_ema": _later(state)}
    assert load_weights(model, content, checkpoint.TORCHVISION_V1, key="model").others == ()
    _assert_loaded(model, before)
    with pytest.raises(
        CheckpointError, match="no weights under the key 'ema', expected one of model; model_ema"
    ):
        load_weights(model, content, checkpoint.TORCHVISION_V1, key="ema")


def test_several_parts_without_an_average_have_to_be_chosen_from():
    model, state = _small(checkpoint.TORCHVISION_V1)
    content = {"first": state, "second": _later(state)}
    with pytest.raises(
        CheckpointError,
        match=r"2 parts fit the model: first; second\. Choose one with --weights-key",
    ):
        load_weights(model, content, checkpoint.TORCHVISION_V1)


def test_the_same_tensors_under_two_names_are_one_part(tmp_path):
    model, state = _small(checkpoint.TORCHVISION_V1)
    torch.save(
        {"state_dict": {**_under("model.", state), **_under("net.", state)}}, tmp_path / "c.pth"
    )
    loaded = load_weights(model, tmp_path / "c.pth", checkpoint.TORCHVISION_V1)
    assert loaded == LoadedWeights("state_dict.model")


def test_an_export_s_reference_is_rebuilt_from_the_part_that_was_exported(tmp_path):
    from edgeseg.cli.export import remarks
    from edgeseg.models.provenance import rebuild_model
    from edgeseg_runtime import Manifest

    model = edgeseg.create_model("landmarks_regression_tiny", weights="shapes")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "last.pth"
    torch.save({"model": state, "model_ema": _later(state)}, path)
    model = edgeseg.create_model("landmarks_regression_tiny", weights=path, weights_key="model")
    edgeseg.export_bundle(model, tmp_path / "bundle", weights_source=str(path))
    manifest = Manifest.load(tmp_path / "bundle")
    assert f"the weights are those of 'model' in {path}" in list(remarks(manifest))
    rebuilt = rebuild_model(manifest).state_dict()
    assert all(torch.equal(rebuilt[key], value) for key, value in state.items())


def _with_nan(state):
    first = next(key for key, value in state.items() if value.ndim == 4)
    broken = {key: value.clone() for key, value in state.items()}
    broken[first].view(-1)[:3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    return first, broken


def test_nan_in_a_file_is_refused_with_the_name_of_the_weight(tmp_path):
    model, state = _small(checkpoint.OWN)
    name, broken = _with_nan(state)
    torch.save(broken, tmp_path / "diverged.pth")
    with pytest.raises(
        CheckpointError, match=rf"NaN or infinite numbers in 1 weights: {name} \(3 of 64\)"
    ):
        load_weights(model, tmp_path / "diverged.pth", checkpoint.OWN)


def test_nan_in_memory_is_said_when_it_is_loaded_and_refused_by_an_export(tmp_path, caplog):
    state = edgeseg.create_model("landmarks_regression_tiny", weights="shapes").state_dict()
    name, broken = _with_nan(state)
    model = edgeseg.create_model("landmarks_regression_tiny", weights=broken)
    assert f"{name} (3 of" in caplog.text
    with pytest.raises(CheckpointError, match=f"the model has NaN .* {name}.*training diverged"):
        edgeseg.export_bundle(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], r"1 missing: mask_head.deconv.bias"),
        (None, r"1 unsuitable: mask_head.deconv.bias: NoneType found, expected a tensor of float32"),
        (torch.zeros(8, dtype=torch.int8), r"mask_head.deconv.bias: one of int8 found, expected .* float32"),
    ],
)  # fmt: skip
def test_a_value_that_is_no_weight_is_told(value, message):
    model, state = _small(checkpoint.OWN)
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, {**state, "mask_head.deconv.bias": value}, checkpoint.OWN)


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
