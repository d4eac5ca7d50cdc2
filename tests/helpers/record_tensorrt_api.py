"""Records the part of TensorRT's Python interface that edgeseg uses, as JSON.

    python record_tensorrt_api.py tensorrt > tests/runtime/tensorrt_api/tensorrt-10.3.0.json

The bindings import without a GPU. Where NVIDIA's libraries are not at hand, those of the wheel
`tensorrt-cu12-bindings` do with libraries of the same names that define the ten functions which
`nm -D --undefined-only tensorrt.so` lists: importing calls none of them.
"""

import importlib
import inspect
import json
import re
import sys

CLASSES = (
    "Builder",
    "IBuilderConfig",
    "ICudaEngine",
    "EngineInspector",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
"""All attributes of a class are recorded, so that a new call needs no new record."""

ENUMS = (
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "LayerInformationFormat",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TensorIOMode",
)


def signatures(value):
    """Return the signatures that pybind11 wrote into a docstring; none for a property."""
    text = inspect.getdoc(value) or ""
    if not callable(value):
        return []
    name = value.__name__
    return [
        re.sub(r"\w+\.\w+\.", "", line)
        for line in re.findall(rf"(?:\d\. |^)({name}\(self.*)", text)
    ]


def record(module):
    """Return version, enumerations and classes of a module as a JSON document."""
    classes = {name: getattr(module, name) for name in CLASSES if hasattr(module, name)}
    enums = {name: getattr(module, name) for name in ENUMS if hasattr(module, name)}
    return {
        "version": module.__version__,
        "enums": {
            name: {member: int(value) for member, value in enum.__members__.items()}
            for name, enum in enums.items()
        },
        "classes": {
            name: {
                attribute: signatures(getattr(cls, attribute))
                for attribute in sorted(vars(cls))
                if attribute == "__init__" or not attribute.startswith("_")
            }
            for name, cls in classes.items()
        },
    }


def text(document):
    """Return a document as JSON with one line for each enumeration and attribute."""
    compact = {key: json.dumps(value) for key, value in document["enums"].items()}
    enums = ",\n".join(f'  "{name}": {members}' for name, members in compact.items())
    classes = ",\n".join(
        f'  "{name}": {{\n'
        + ",\n".join(f'   "{attribute}": {json.dumps(found)}' for attribute, found in cls.items())
        + "\n  }"
        for name, cls in document["classes"].items()
    )
    version = json.dumps(document["version"])
    return f'{{\n "version": {version},\n "enums": {{\n{enums}\n }},\n "classes": {{\n{classes}\n }}\n}}\n'


if __name__ == "__main__":
    sys.stdout.write(text(record(importlib.import_module(sys.argv[1]))))
