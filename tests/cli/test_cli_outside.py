"""Modules of models on the command line: where they are looked for, and whose mistake an error is."""

import subprocess
import sys

import pytest

FACES = "from edgeseg.models.landmarks.spec import SPECS\n"
BROKEN = """
import dataclasses
from edgeseg.models.landmarks.spec import SPECS as FACES

def build(name, image_size, config):
    return len(None)

SPECS = {"x": dataclasses.replace(FACES["landmarks_regression_tiny"], name="x", build=build)}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with modules in it; what commands add to the path goes again."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "own" / "faces.py").write_text(FACES)
    (tmp_path / "own_broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in {"own", "own_broken"}]:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["own.faces", "own.faces:"])
def test_a_module_in_the_current_folder_is_found(command, here, module):
    code, document = command.json("models", module)
    assert code == 0
    names = [card["name"] for card in document["models"]]
    assert "own.faces:landmarks_regression_tiny" in names
    assert all(name.startswith("own.faces:") for name in names)


def test_a_command_that_names_no_module_looks_for_none_there(command, here):
    assert command("models", "landmarks_regression_tiny")[0] == 0
    assert str(here) not in sys.path


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no switch for it")
def test_the_current_folder_is_not_searched_where_python_is_told_so(here):
    code = "import sys; from edgeseg.cli import main; sys.exit(main(['models', 'own.faces:']))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no module 'own' to import own.faces from" in done.stderr


def test_a_mistake_in_a_module_is_not_taken_for_one_of_edgeseg(command, here):
    code, _, err = command("export", "own_broken:x", "-o", here / "out")
    assert code == 1
    line = BROKEN.splitlines().index("    return len(None)") + 1
    assert "error: TypeError: object of type 'NoneType' has no len()" in err
    assert f"({here / 'own_broken.py'}, line {line})" in err
    assert "mistake in edgeseg" not in err
