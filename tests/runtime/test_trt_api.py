"""What we call of TensorRT exists, with those arguments, in every release that we say we support.

`tensorrt_api/` holds what NVIDIA's bindings of each release offer, see `record_tensorrt_api.py`. The
calls are read from our own sources, so that none can be forgotten.
"""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
from record_tensorrt_api import CLASSES, ENUMS, record

from edgeseg_runtime.tensorrt import backend as trt_backend
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import engines
from edgeseg_runtime.tensorrt import session as trt_session
from edgeseg_runtime.tensorrt import streams as trt_streams

FOLDER = Path(__file__).with_name("tensorrt_api")
RELEASES = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}
MODULES = (trt_compat, engines, trt_backend, trt_session, trt_streams)

# In our sources a vendor's object is always held by a variable of this name.
VARIABLES = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
NOT_A_VENDORS = {  # the same names for other things
    ("engine", "path"), ("engine", "with_name"), ("error", "strerror"), ("layer", "get"), ("tensor", "get"),
}  # fmt: skip
ONLY_IN = {
    ("ParserError", "node_name"): "10.0 on; guarded by hasattr",
    ("ParserError", "node_operator"): "10.0 on; guarded by hasattr",
    ("IBuilderConfig", "progress_monitor"): "10.0 on; guarded by IProgressMonitor",
    ("ILayer", "precision"): "before 11; only below 10.12",
    ("ICudaEngine", "create_execution_context_without_device_memory"): "before 11; guarded",
    ("ICudaEngine", "device_memory_size"): "before 11; guarded by that of device_memory_size_v2",
    ("ICudaEngine", "device_memory_size_v2"): "10.0 on; guarded by hasattr",
    ("IExecutionContext", "set_device_memory"): "10.0 on; guarded by hasattr",
}
BY_STRATEGY = ("ICudaEngine", "create_execution_context", 1)  # where there is no method of its own
WITHOUT_MEMORY = "create_execution_context_without_device_memory"
RTX_ONLY = {"num_compute_capabilities", "set_compute_capability"}


def accesses():
    """Yield (class, attribute, number of arguments or None) of every use of a vendor's object."""
    for module in MODULES:
        tree = ast.parse(inspect.getsource(module))
        calls = {
            id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            value = node.value
            holder = value.id if isinstance(value, ast.Name) else getattr(value, "attr", "")
            holder = holder.lstrip("_")
            if holder in VARIABLES and (holder, node.attr) not in NOT_A_VENDORS:
                yield VARIABLES[holder], node.attr, calls.get(id(node))


ACCESSES = sorted(set(accesses()), key=str)


def enum_members():
    """Yield (enumeration, member) of every `trt.Enumeration.MEMBER`."""
    for module in MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Attribute)
                and isinstance(node.value.value, ast.Name)
                and node.value.value.id == "trt"
            ):
                yield node.value.attr, node.attr


MEMBERS = sorted(
    {(n, member) for n, member in enum_members() if n in ENUMS and not member.startswith("_")}
)


def takes(signature, num_arguments):
    """Tell whether a signature such as "f(self: A, b: int, c: int = 0) -> None" takes so many."""
    inside = re.sub(
        r"<[^>]*>|\[[^\]]*\]", "", signature[signature.index("(") + 1 : signature.rindex(")")]
    )
    parameters = inside.split(",")[1:]
    required = [parameter for parameter in parameters if "=" not in parameter]
    return len(required) <= num_arguments <= len(parameters)


def test_the_sources_are_read():
    assert {name for name, _, _ in ACCESSES} >= set(VARIABLES.values()) - {"ITimingCache"}
    assert ("Builder", "build_serialized_network", 2) in ACCESSES
    assert ("MemoryPoolType", "WORKSPACE") in MEMBERS
    assert [f"{data['version']}" for data in RELEASES.values()] == [
        "10.12.0.36",
        "10.3.0",
        "11.4.0.106",
        "8.6.1",
    ]


@pytest.mark.parametrize("release", RELEASES)
def test_every_call_fits_the_bindings(release):
    classes = RELEASES[release]["classes"]
    for name, attribute, num_arguments in ACCESSES:
        if attribute in RTX_ONLY:
            continue
        if attribute not in classes[name]:
            assert (name, attribute) in ONLY_IN, f"{release} has no {name}.{attribute}"
            continue
        if (name, attribute, num_arguments) == BY_STRATEGY and WITHOUT_MEMORY in classes[name]:
            continue
        signatures = classes[name][attribute]
        if signatures and num_arguments is not None:
            assert any(takes(signature, num_arguments) for signature in signatures), (
                f"{release}: {name}.{attribute} with {num_arguments} arguments; has {signatures}"
            )


@pytest.mark.parametrize("release", RELEASES)
def test_every_member_of_an_enumeration_exists(release):
    enums = RELEASES[release]["enums"]
    gone = {
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): "11",
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): "8",
    }
    for name, member in MEMBERS:
        if gone.get((name, member)) != RELEASES[release]["version"].partition(".")[0]:
            assert member in enums[name], f"{release} has no {name}.{member}"


def test_what_is_said_to_be_missing_somewhere_is_missing_somewhere():
    for name, attribute in ONLY_IN:
        known = [attribute in data["classes"][name] for data in RELEASES.values()]
        assert any(known), (name, attribute)
        assert not all(known), (name, attribute)


def as_module(release):
    """Return what stands for a release's module: its version and its enumerations."""
    data = RELEASES[release]
    enums = {name: type(name, (), members) for name, members in data["enums"].items()}
    return type("tensorrt", (), {"__version__": data["version"], **enums})


@pytest.mark.parametrize(
    ("release", "flags"),
    [
        ("tensorrt-8.6.1", ["EXPLICIT_BATCH"]),
        ("tensorrt-10.3.0", []),
        ("tensorrt-10.12.0.36", ["STRONGLY_TYPED"]),
        ("tensorrt-11.4.0.106", []),
    ],
)
def test_the_network_flags_are_those_of_the_release(release, flags):
    members = RELEASES[release]["enums"]["NetworkDefinitionCreationFlag"]
    expected = sum(1 << members[name] for name in flags)
    assert trt_compat.network_flags(as_module(release)) == expected


@pytest.mark.parametrize("release", RELEASES)
def test_the_flags_that_permit_a_precision_exist_where_they_are_set(release):
    module = as_module(release)
    flags = {"INT8", "FP16", "PREFER_PRECISION_CONSTRAINTS"}
    if not trt_compat.is_strongly_typed(module):
        assert flags <= set(RELEASES[release]["enums"]["BuilderFlag"])
        assert "precision" in RELEASES[release]["classes"]["ILayer"]
    assert trt_compat.shares_profiles(module) is not release.startswith("tensorrt-8")
    has_monitor = "IProgressMonitor" in RELEASES[release]["classes"]
    assert has_monitor is not release.startswith("tensorrt-8")


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_has_a_way_to_contexts_that_share_memory(release):
    classes = RELEASES[release]["classes"]
    engine, context = classes["ICudaEngine"], classes["IExecutionContext"]
    by_strategy = "strategy: ExecutionContextAllocationStrategy"
    assert WITHOUT_MEMORY in engine or by_strategy in engine["create_execution_context"][0]
    assert "device_memory_size_v2" in engine or "device_memory_size" in engine
    assert "set_device_memory" in context or "device_memory" in context


def test_every_numpy_type_is_one_of_tensorrt():
    for name in ("FLOAT", "HALF", "INT8", "INT32", "UINT8", "BOOL"):
        for data in RELEASES.values():
            assert name in data["enums"]["DataType"]
    trt = pytest.importorskip("tensorrt_rtx")
    for name in ("FLOAT", "HALF", "INT8", "INT32", "INT64", "UINT8", "BOOL"):
        dtype = getattr(trt.DataType, name)
        assert trt_compat.numpy_dtype(dtype) == trt.nptype(dtype)
    with pytest.raises(ValueError, match="no type for TensorRT's BF16"):
        trt_compat.numpy_dtype(trt.DataType.BF16)


def test_tensorrt_rtx_offers_the_same():
    trt = pytest.importorskip("tensorrt_rtx")
    data = record(trt)
    assert "USER_MANAGED" in trt.ExecutionContextAllocationStrategy.__members__
    assert set(data["classes"]) == set(CLASSES)
    for name, attribute, _ in ACCESSES:
        assert attribute in data["classes"][name] or (name, attribute) in ONLY_IN
