"""The fuzzers notice what they look for, and find nothing in a few inputs of each kind."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("run_fuzz", Path(__file__).with_name("run_fuzz.py"))
_RUNNER = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_RUNNER)
main = _RUNNER.main
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and signals")


@pytest.fixture
def fuzz(capsys):
    """Return a function that fuzzes: arguments of the command -> its exit code and what it wrote."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out

    return run


@linux_only
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("CRASH", r"the process ended with -9"),
        ("HANG", r"nothing for 2 s"),
        ("FILL", r"\d+ bytes of memory"),
        ("FAIL", r"KeyError: '\\'raw\\''|KeyError: \"'raw'\""),
        ("ESCAPE", r"a message that cannot be printed: '\\x1b\[2J'"),
    ],
)
def test_a_fault_is_noticed_and_the_next_inputs_are_run(fuzz, tmp_path, fault, what):
    name = f"fuzz_faults:{fault}"
    code, text = fuzz("--kinds", name, "--count", 8, "--seed", 1, "--keep", tmp_path)
    assert code == 1
    found = re.findall(rf"^  {name} (\d+): {what}$", text, re.MULTILINE)
    assert found
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == len(found)
    assert all(path.read_bytes() == b"3" for path in kept)
    assert re.search(r"\d+ ran", text), "the inputs behind a fault are run as well"


@pytest.mark.parametrize(
    ("kind", "count", "outcomes"),
    [
        ("checkpoint", 200, ("loaded", "CheckpointError", "MisfitError")),
        (
            "folder",
            80,
            ("bundle read", "data set read", "not replaced", "replaced", "run 0", "run 2"),
        ),
        ("manifest", 400, ("accepted", "ManifestError")),
        ("onnx", 200, ("accepted", "UnsafeModel", "CorruptArtifact")),
        ("onnx_engine", 60, ("ran", "UnsafeModel", "CorruptArtifact")),
        ("onnx_reader", 200, ("accepted", "external data", "refused")),
        ("picture", 300, ("right", "read", "ImageError", "ImageTooLarge")),
    ],
)
def test_mutated_inputs_end_in_an_error_of_ours_or_the_right_result(fuzz, kind, count, outcomes):
    code, text = fuzz("--kinds", kind, "--count", count, "--seed", 2024)
    assert code == 0, text
    for outcome in outcomes:
        assert re.search(rf"\d+ {outcome}\b", text), text


def test_the_same_seed_gives_the_same_inputs(fuzz):
    first = fuzz("--kinds", "manifest", "--count", 20, "--seed", 5)[1]
    again = fuzz("--kinds", "manifest", "--count", 20, "--seed", 5)[1]
    outcomes = [text.partition(" s: ")[2] for text in (first, again)]
    assert outcomes[0] == outcomes[1] != ""
