"""The device's command does what the workstation's does, with the same options and words."""

import argparse
import json
import re
import shutil
import subprocess
import sys

import pytest
import typer

from edgeseg.cli import app
from edgeseg_runtime.__main__ import COMMANDS, main, parser_of
from edgeseg_runtime.commands.options import COMMAND_HELP


@pytest.fixture
def device(capsys):
    """Return a function that runs the device's command in this process."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def declared(command):
    """Return names, variable and help of what a typer command takes; names of the opposite apart."""
    context = command.make_context("x", [], resilient_parsing=True)
    found = {}
    for parameter in command.get_params(context):
        if parameter.opts[0].startswith("-"):
            found[frozenset(parameter.opts)] = parameter.help
            found |= {frozenset([name]): None for name in parameter.secondary_opts}
        else:
            found[parameter.metavar] = parameter.help
    return {names: text for names, text in found.items() if "--help" not in names}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_and_words_are_the_workstation_s(name):
    command = typer.main.get_command(app).commands[name]
    here = {
        frozenset(action.option_strings) or action.metavar: action.help
        for action in parser_of(name)._actions
        if not isinstance(action, argparse._HelpAction)
    }
    there = declared(command)
    assert here.keys() == there.keys()
    assert {names: here[names] for names, text in there.items() if text} == {
        names: text for names, text in there.items() if text
    }
    assert command.help.strip() == COMMAND_HELP[name]


def without_times(text):
    return re.sub(r"\d+\.\d+", "T", text)


@pytest.mark.parametrize("kind", ["pictures", "video"])
def test_run_writes_what_the_workstation_writes(
    command, device, tiny, pictures, video, tmp_path, kind
):
    (pictures / "notes.txt").write_text("no picture")
    source = {"pictures": pictures, "video": video}[kind]
    out = tmp_path / "out"
    arguments = ("run", tiny, source, "-o", out, "--score", "0.6", "--threads", "1")
    found = []
    for run in (command, device):
        code, text, err = run(*arguments)
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        shutil.rmtree(out)
        found.append((code, without_times(text), without_times(err), files))
    assert found[0][0] == found[1][0] == 0
    assert found[0][1] == found[1][1]
    assert "ms of a frame: read T, preprocess T, model T, postprocess T, write T" in found[1][1]
    assert ("1 files left out: " in found[1][1]) == (kind == "pictures")
    assert "✓ predict" in found[1][2]
    assert ("damaged.png cannot be used as a picture" in found[1][2]) == (kind == "pictures")
    assert found[0][3] == found[1][3]
    assert "predictions.json" in found[1][3]


def test_inspect_and_doctor_give_the_workstation_s_documents(command, device, tiny):
    for arguments in (("inspect", tiny), ("inspect", tiny / "model.onnx"), ("doctor",)):
        (code, here, _), (_, there, _) = device(*arguments, "--json"), command(*arguments, "--json")
        assert code == 0
        assert without_times(here) == without_times(there)
        assert json.loads(here)


def test_people_get_tables(device, tiny):
    code, text, err = device("inspect", tiny)
    assert (code, err.count("error")) == (0, 0)
    assert "  name          task       precision" not in text
    assert "Inputs\n  name        dtype  shape\n  image       uint8  1x48x64x3\n" in text
    assert "  names  __background__, circle, square\n" in text


def test_what_is_there_is_replaced_only_when_that_is_wanted(device, tiny, pictures, tmp_path):
    out = tmp_path / "out"
    assert device("run", tiny, pictures, "-o", out, "-q") == (0, f"{out}\n", "")
    code, _, err = device("run", tiny, pictures, "-o", out, "-q")
    assert code == 2
    assert err.startswith("error: 0.jpg, 1.jpg, predictions.json in ")
    assert device("run", tiny, pictures, "-o", out, "-q", "--overwrite", "--no-draw")[0] == 0
    code, _, err = device("run", tiny, out, "-o", out, "--overwrite")
    assert code == 2
    assert "would be replaced, but that is what is read" in err


def test_sources_and_options_come_in_any_order(device, tiny, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = ("-o", out, tiny, pictures / "0.png", "--no-draw", pictures / "1.png")
    code, text, _ = device("run", *arguments, "--json")
    assert (code, json.loads(text)["num_frames"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("", 0, ""),
        ("bulid TINY", 2, "No such command 'bulid'. Did you mean 'build'? See edgeseg --help."),
        ("export maskrcnn_tiny", 2, "The command 'export' needs PyTorch: run it where the package"),
        ("run TINY", 2, "arguments are required: SOURCE. See edgeseg run --help."),
        ("run TINY x --scor 1", 2, "unrecognized arguments: --scor 1. See edgeseg run --help."),
        ("run TINY x --score 2", 2, "'2' found, expected a number from 0 to 1"),
        ("run TINY x --threads 0", 2, "'0' found, expected a whole number from 1 on"),
        ("run TINY nowhere", 2, "nowhere does not exist; expected a picture, a folder"),
        ("run TINY x --backend onnxruntime --engines e", 2, "onnxruntime has no engines"),
        ("run TINY PICTURES --backend tensorrt", 4, "nstall it"),
        ("run TINY PICTURES --backend onnxruntime --winograd on", 2, "expected one of auto, off"),
        ("inspect MISSING", 2, "does not exist; expected a bundle's folder"),
        ("inspect EMPTY", 3, "there is no bundle at"),
        ("build EMPTY --target sm86", 3, "there is no bundle at"),
        ("build TINY --target sm1", 2, "target is 'sm1'"),
        ("build TINY --target sm86 --batch 0", 2, "batch is 0; expected at least 1"),
        ("build TINY --target sm86 --workspace 0", 2, "workspace_bytes is 0; expected at least"),
        ("build TINY --target sm86 --level 6", 2, "optimization_level is 6; expected 0..5"),
        ("build TINY --target sm86 --level fast", 2, "invalid int value: 'fast'"),
    ],
)
def test_exit_codes_and_messages(device, tiny, pictures, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    places = {
        "TINY": tiny,
        "PICTURES": pictures,
        "EMPTY": tmp_path / "empty",
        "MISSING": tmp_path / "missing",
    }
    found, _, err = device(*(places.get(word, word) for word in arguments.split()))
    assert found == code
    assert words in err
    if code:
        assert err.splitlines()[-1].startswith("error: ")
        document = json.loads(
            device(*map(str, (places.get(w, w) for w in arguments.split())), "--json")[1]
        )
        assert document["error"]["exit_code"] == code


def test_every_command_explains_itself(device):
    code, text, _ = device("--help")
    assert (code, [name in text for name in COMMANDS]) == (0, [True] * len(COMMANDS))
    assert "130 interrupted" in text
    for name in COMMANDS:
        code, text, err = device(name, "-h")
        assert (code, err) == (0, "")
        assert text.startswith(f"usage: edgeseg {name} ")


def test_a_damaged_file_is_described_and_refused(device, tiny):
    content = bytearray((tiny / "model.onnx").read_bytes())
    content[400] ^= 1
    (tiny / "model.onnx").write_bytes(content)
    code, out, err = device("inspect", tiny)
    assert code == 3
    assert "is_intact  no" in out
    assert "error: model.onnx is damaged: expected sha256" in err


def test_build_compiles_and_records_its_options(device, tiny, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    options = ("--batch", "2", "--workspace", "0.5", "--level", "1", "--target", "sm86")
    code, text, err = device("build", tiny, "-o", tmp_path / "engines", *options)
    assert code == 0, err
    (record,) = (tmp_path / "engines").glob("*.engine.json")
    assert json.loads(record.read_text())["key"]["options"] == {
        "batch": 2, "workspace_bytes": 2**29, "optimization_level": 1, "allow_tf32": False,
    }  # fmt: skip
    assert "sm86" in text


def test_the_module_runs_like_the_script():
    command = [sys.executable, "-m", "edgeseg_runtime", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "edgeseg-runtime")
