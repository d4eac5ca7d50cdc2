"""Keys of engines: which targets share a file, and what an engine serves."""

import dataclasses
from types import SimpleNamespace

import pytest
from engine_cases import ONNX, RTX_4090, key_of

from edgeseg_runtime.errors import BackendUnavailable
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt.key import EngineOptions


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize(
    ("targets", "groups"),
    [
        (["sm86"], [("sm86",)]),
        (["sm120", "SM86", " sm89", "sm86"], [("sm86", "sm89", "sm120")]),
        (["sm89", "sm75"], [("sm75",), ("sm89",)]),
        (["sm75"], [("sm75",)]),
        (["portable", "sm89"], [("portable",)]),
    ],
    ids=lambda value: "+".join(map(str, value)),
)
def test_targets_share_a_file_except_turing(targets, groups):
    assert engine_key.group_targets(targets) == groups


@pytest.mark.parametrize("targets", [[], ["sm90"], ["sm86", "orin"], [""]], ids=str)
def test_an_unknown_target_names_the_known_ones(targets):
    with pytest.raises(ValueError, match=r"expected one of sm75, sm80, .*portable"):
        engine_key.group_targets(targets)


@pytest.mark.parametrize(
    ("made", "wanted", "serves"),
    [
        (("sm86",), ("sm86",), True),
        (("sm86", "sm89"), ("sm89",), True),
        (("portable",), ("sm120",), True),
        (("portable",), ("sm75",), False),
        (("sm86",), ("sm89",), False),
        (("sm86",), ("portable",), False),
    ],
)
def test_an_engine_serves_the_targets_it_was_made_for(made, wanted, serves):
    assert key_of(made).serves(key_of(wanted)) is serves


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": "cd" * 32},
        {"flavour": "tensorrt"},
        {"version": "1.8.0.1"},
        {"platform": "any-aarch64"},
        {"device": "Orin"},
        {"driver": "12.6"},
        {"options": EngineOptions(batch=2)},
        {"options": EngineOptions(allow_tf32=True)},
    ],
    ids=str,
)
def test_an_engine_serves_nothing_that_differs_in_anything_else(change):
    assert not key_of(**change).serves(key_of())
    assert key_of(**change).file_name != key_of().file_name


def test_a_tensorrt_engine_belongs_to_its_gpu_and_driver():
    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    key = engine_key.key_for_device(ONNX, trt, RTX_4090, EngineOptions())
    assert (key.targets, key.device, key.driver) == (("sm89",), RTX_4090.name, "13.0")
    for change in ({"driver_version": "13.1"}, {"name": "NVIDIA RTX 6000"}, {"sm": "sm120"}):
        other = dataclasses.replace(RTX_4090, **change)
        assert not key.serves(engine_key.key_for_device(ONNX, trt, other, EngineOptions()))


def test_tensorrt_rtx_refuses_a_gpu_that_it_does_not_support(trt):
    orin = dataclasses.replace(RTX_4090, name="Orin", sm="sm87")
    with pytest.raises(BackendUnavailable, match=r"found Orin \(sm87\).*backend='tensorrt'"):
        engine_key.key_for_device(ONNX, trt, orin, EngineOptions())


@pytest.mark.parametrize(
    "bad",
    [{"batch": 0}, {"workspace_bytes": 5}, {"optimization_level": 6}],
    ids=str,
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        EngineOptions(**bad)


def test_tensorrt_itself_has_no_targets():
    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    with pytest.raises(ValueError, match="only for the GPU it runs on"):
        engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
