"""The layers: who may import whom, and what importing the runtime costs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Lowest first. A module may import its own layer and those before it; the longest prefix counts. Two
# packages in one layer do not see each other.
LAYERS = (
    ("edgeseg_runtime",),
    ("edgeseg.ops",),
    ("edgeseg.models",),
    (
        "edgeseg_bench.categories",
        "edgeseg_bench.checks",
        "edgeseg_bench.datasets",
        "edgeseg_bench.evaluation",
        "edgeseg_bench.metrics",
        "edgeseg_bench.pictures",
    ),
    ("edgeseg_export", "edgeseg_bench"),
    ("edgeseg",),
    ("edgeseg.cli", "edgeseg.__main__"),
)
PACKAGES = {
    "edgeseg": ROOT / "edgeseg",
    "edgeseg_bench": ROOT / "benchmarks" / "edgeseg_bench",
    "edgeseg_export": ROOT / "export" / "edgeseg_export",
    "edgeseg_runtime": ROOT / "runtime" / "edgeseg_runtime",
}
FORBIDDEN_ON_A_DEVICE = (
    "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "tensorrt_rtx", "typer", "rich",
    "safetensors", "faster_coco_eval", "PIL", "edgeseg", "edgeseg_bench", "edgeseg_export",
)  # fmt: skip
MAX_IMPORT_S = 0.3


def module_files():
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), file


def layer(module):
    prefixes = [(p, rank) for rank, names in enumerate(LAYERS) for p in names]
    fits = [(len(p), rank) for p, rank in prefixes if f"{module}.".startswith(f"{p}.")]
    return max(fits)[1]


def first_party_imports(file):
    """Yield what a file imports of this project, wherever in the file; type hints included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [s if is_module(s) else node.module for s in submodules]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] in PACKAGES)


def is_module(name):
    package, *rest = name.split(".")
    path = PACKAGES.get(package, Path("/nowhere")).joinpath(*rest)
    return path.is_dir() or path.with_suffix(".py").is_file()


MODULES = dict(module_files())


def may_import(module, other):
    if layer(module) == layer(other):
        return module.split(".")[0] == other.split(".")[0]
    return layer(module) > layer(other)


@pytest.mark.parametrize("module", MODULES)
def test_a_lower_layer_never_imports_a_higher_one(module):
    wrong = [n for n in first_party_imports(MODULES[module]) if not may_import(module, n)]
    assert wrong == []


def test_every_layer_has_modules():
    assert {layer(module) for module in MODULES} == set(range(len(LAYERS)))


IMPORT_ALL = """
import importlib, json, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise ImportError(f"{{name}} is not installed on a device")

sys.meta_path.insert(0, Blocked())
before = {{name.split(".")[0] for name in sys.modules}}
package = importlib.import_module("edgeseg_runtime")
names = [m.name for m in pkgutil.walk_packages(package.__path__, "edgeseg_runtime.")]
for name in names:
    importlib.import_module(name)
loaded = {{name.split(".")[0] for name in sys.modules}} - before - set(sys.stdlib_module_names)
print(json.dumps([names, sorted(loaded)]))
"""


def test_every_module_of_the_runtime_imports_without_torch_onnx_or_an_engine():
    code = IMPORT_ALL.format(forbidden=FORBIDDEN_ON_A_DEVICE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, loaded = json.loads(done.stdout)
    assert {n for n in MODULES if n.startswith("edgeseg_runtime.")} == set(names)
    assert {name for name in loaded if not name.startswith("_")} == {
        "cv2",
        "edgeseg_runtime",
        "numpy",
    }


IMPORT_TIME = """
import numpy, cv2, time
start = time.process_time()
import edgeseg_runtime
print(time.process_time() - start)
"""


def test_importing_the_runtime_adds_little_to_numpy_and_opencv():
    """The least of five runs, in processor time: what others do on the machine does not count."""
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT_TIME], capture_output=True, check=True)
        for _ in range(5)
    ]
    assert min(float(run.stdout) for run in runs) < MAX_IMPORT_S


def test_listing_the_models_imports_no_torch():
    code = "import sys, edgeseg; edgeseg.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
