"""The interface that scripts rely on: commands, options, exit codes, streams, messages."""

import json

import pytest
import typer

import edgeseg
from edgeseg.cli import app
from edgeseg.cli.failures import explain
from edgeseg.models import MODELS
from edgeseg_runtime import errors

COMMON = {"--help", "--json", "--quiet", "--verbose"}
COMMANDS = {
    "models": {"NAME", "--task"},
    "export": {
        "NAME", "--weights", "--weights-key", "--image-size", "--out", "--precision", "--backends", "--target",
        "--dynamic-batch", "--num-classes", "--labels", "--set", "--images", "--num-images", "--tolerance",
        "--allow-mismatch", "--overwrite", "--calibrate", "--num-calibration", "--calibration-method",
        "--max-drop", "--opset", "--stages", "--variants", "--no-variants",
    },
    "build": {
        "BUNDLE", "--target", "--engine", "--out", "--force", "--batch", "--workspace", "--level",
    },
    "bench": {
        "BUNDLE", "--data", "--backends", "--weights", "--weights-key", "--limit", "--quick", "--score", "--match",
        "--threads", "--engines", "--out", "--overwrite", "--model", "--max-drop",
    },
    "compare": {
        "REF", "CAND", "--data", "--limit", "--score", "--weights", "--weights-key", "--fail-on",
        "--out", "--overwrite", "--model",
    },
    "run": {
        "BUNDLE", "SOURCE", "--out", "--backend", "--score", "--draw", "--no-draw", "--save-json",
        "--no-save-json", "--threads", "--winograd", "--engines", "--reconnect", "--scene-cut", "--surfaces", "--iuv", "--overwrite",
        "--recursive", "--then", "--draw-labels", "--no-draw-labels", "--draw-scores", "--no-draw-scores",
        "--colours", "--keypoint-score", "--line-width", "--save-lines", "--batch", "--track",
    },
    "inspect": {"PATH"},
    "doctor": set(),
}  # fmt: skip


def test_the_commands_and_options_are_these():
    commands = typer.main.get_command(app).commands
    found = {}
    for name, command in commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        names = [
            text
            for parameter in command.get_params(context)
            for text in (
                (*parameter.opts, *parameter.secondary_opts)
                if parameter.opts[0].startswith("-")
                else (parameter.metavar,)
            )
        ]
        found[name] = {text for text in names if not (text[0] == "-" and text[1] != "-")}
    assert found == {name: options | COMMON for name, options in COMMANDS.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(command, name):
    code, out, err = command(name, "--help")
    assert code == 0
    assert err == ""
    assert "--json" in out


def test_the_version_is_the_package_s(command):
    assert command("--version") == (0, f"edgeseg {edgeseg.__version__}\n", "")


def test_no_command_shows_the_help(command):
    code, out, err = command()
    assert (code, err) == (0, "")
    assert "export" in out


def test_the_module_runs_like_the_script(process):
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"edgeseg {edgeseg.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exprt"], "No such command 'exprt'. Did you mean 'export'? See edgeseg --help."),
        (["run", "b"], "Missing argument 'SOURCE'. See edgeseg run --help."),
        (["export", "maskrcnn_tiny", "--weight", "x"], "--weights"),
        (["export", "maskrcnn_tiny", "--imgsz", "640"], "For --imgsz write --image-size."),
        (["export", "maskrcnn_tiny", "imgsz=640"], "For imgsz=640 write --image-size."),
        (["export", "maskrcnn_tiny", "tolerance=1"], "For tolerance=1 write --tolerance."),
        (["export", "maskrcnn_tiny", "--half"], "For --half write --precision fp16."),
        (["export", "maskrcn_tiny"], "model 'maskrcn_tiny' found, expected one of maskrcnn_tiny"),
        (
            ["export", "maskrcnn_tiny", "--image-size", "big"],
            "--image-size 'big' found, expected HEIGHTxWIDTH such as 800x1344, or one number",
        ),
        (["build", "b", "--level", "9"], "Invalid value for '--level'"),
        (["run", "b", "s", "--threads", "0"], "Invalid value for '--threads'"),
    ],
)
def test_a_mistake_in_the_command_is_named_with_its_remedy(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_an_error_is_one_json_object_too(command):
    code, document = command.json("models", "nothing")
    assert code == 2
    assert document["error"]["type"] == "ValueError"
    assert document["error"]["exit_code"] == 2
    assert "model 'nothing' found" in document["error"]["message"]
    code, document = command.json("models", "--colour", "red")
    assert (code, document["error"]["exit_code"]) == (2, 2)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.BundleError("damaged"), 3, "damaged"),
        (errors.BackendUnavailable("no driver"), 4, "no driver"),
        (errors.OutOfMemory("full"), 5, "full"),
        (ValueError("bad"), 2, "bad"),
        (FileExistsError("there"), 2, "there"),
        (MemoryError(), 5, "choose a smaller --image-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), 5, "choose a smaller --image-size"),
        (ModuleNotFoundError("No module named 'torch'"), 4, "install it with pip"),
        (PermissionError(13, "Permission denied"), 1, "Permission denied"),
        (KeyError("lost"), 1, "unexpected KeyError: 'lost'. This is a mistake in edgeseg"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_error_has_its_exit_code(error, code, message):
    found_code, found_message = explain(error, [], [])
    assert found_code == code
    assert message in found_message


def test_the_traceback_is_shown_on_demand_only(command):
    assert "Traceback" not in command("models", "nothing")[2]
    assert "Traceback" in command("models", "nothing", "-v")[2]


def test_models_lists_size_licence_and_accuracy(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = command("models")
    assert (code, err) == (0, "")
    assert all(name in out for name in MODELS)
    assert "BSD-3-Clause" in out
    assert "box AP 0.379, mask AP 0.346" in out
    code, document = command.json("models")
    assert [card["name"] for card in document["models"]] == sorted(MODELS)
    code, document = command.json("models", "maskrcnn_resnet50_fpn", "--task", "instances")
    (card,) = document["models"]
    assert card["num_parameters"] == 44_401_393
    assert card["image_size"] == [800, 1344]
    assert "torchvision" in card["source"]
    code, document = command.json("models", "--task", "keypoints")
    assert "centernet_dla34_pose" in [card["name"] for card in document["models"]]
    code, _, err = command("models", "--task", "poetry")
    assert code == 2
    assert "--task 'poetry' found, expected one of instances" in err


def test_what_needs_no_torch_does_not_import_it(process, tiny, pictures):
    program = """
import sys
from edgeseg.cli import main

bundle, pictures = sys.argv[1:]
for arguments in (
    ["models", "--json"],
    ["build", bundle, "--target", "sm86", "--json"],
    ["run", bundle, pictures, "--out", bundle + "/run", "--json"],
    ["inspect", bundle, "--json"],
    ["doctor", "--json"],
):
    code = main(arguments)
    assert code == 0, (arguments, code)
    assert "torch" not in sys.modules, f"{arguments} imported torch"
"""
    done = process(tiny, pictures, code=program)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_no_error_message(process):
    program = """
import os, sys
from edgeseg.cli import main

reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.exit(main(["models"]))
"""
    done = process(code=program)
    assert done.returncode == 1
    assert "error" not in done.stderr.lower()


def test_json_output_is_not_disturbed_by_libraries_that_print(process, tiny):
    done = process("bench", tiny, "--backends", "onnxruntime", "--limit", "2", "--quick", "--json",
                   "-o", tiny / "report")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"]["reference"] == "onnxruntime"
    assert "latency" in done.stderr
