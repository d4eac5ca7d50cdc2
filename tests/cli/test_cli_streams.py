"""Streams, signals and users as containers have them: no command dies of an error that is not ours."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from edgeseg_runtime.commands.doctor import describe_cache
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.tensorrt import store as engine_store

SCRIPT = (sys.executable, "-m", "edgeseg")


def shell(line, *arguments):
    """Run a line of shell in which "$@" is the command."""
    return subprocess.run(
        ["sh", "-c", line, "sh", *SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "arguments", "code", "message"),
    [
        ('"$@" >&-', "models", 0, ""),
        ('"$@" <&- >&- 2>&-', "models --json", 0, ""),
        ('"$@" > /dev/full', "models", 1, "No space left on device"),
        ('"$@" > /dev/full 2>&1', "--version", 1, ""),
        ('"$@" 2> /dev/full', "models nothing", 2, ""),
    ],
)
def test_a_stream_that_cannot_be_written_is_said_once(line, arguments, code, message):
    done = shell(line, *arguments.split())
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == bool(message)


@pytest.mark.parametrize("setting", ["", "PYTHONIOENCODING=ascii "])
def test_any_name_can_be_written(tiny, pictures, tmp_path, setting):
    out = os.fsencode(tmp_path) + b"/na\xefve \xc3\xa9"
    done = subprocess.run(
        ["sh", "-c", f'{setting}"$@"', "sh", *SCRIPT, "run", tiny, pictures, "-q", "-o", out],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    escaped = out.replace(b"\xc3\xa9", rb"\xe9") if setting else out
    assert done.stdout == escaped + b"\n"
    assert (Path(os.fsdecode(out)) / "0.jpg").is_file()


def test_a_result_that_stdout_cannot_take_is_a_plain_error():
    done = shell('"$@" > /dev/full', "models", "--json", "-q")
    assert done.stderr == (
        "error: the result cannot be written to stdout: No space left on device\n"
    )


def test_results_do_not_run_into_files_when_stdout_is_closed(tiny, pictures, tmp_path):
    done = shell('"$@" >&-', "run", tiny, pictures, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 6


def test_a_reader_of_stderr_that_goes_away_does_not_end_a_run(tiny, pictures, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ("run", tiny, pictures, "-o", tmp_path / "out", "-v")
    done = subprocess.run([*SCRIPT, *map(str, arguments)], stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "out" / "predictions.json").exists()


def test_the_device_s_commands_stand_broken_streams_too(tiny):
    for line, code in (("> /dev/full", 1), (">&-", 0)):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {line}', "sh", sys.executable, "-m", "edgeseg_runtime", "inspect", tiny],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("number", "reaction"),
    [(signal.SIGINT, "pass"), (signal.SIGTERM, "raise ImportError('lost')")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_while_a_module_is_imported_ends_the_command_cleanly(
    process, tmp_path, number, reaction
):
    """PyTorch is such a module, which turns the interruption into errors of its own, or crashes."""
    (tmp_path / "torch.py").write_text(
        textwrap.dedent(
            f"""
            import os, sys
            try:
                os.kill(os.getpid(), {int(number)})
                for _ in range(1000):
                    pass
                sys.stderr.write("whole import\\n")
            except KeyboardInterrupt:
                {reaction}
            """
        )
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from edgeseg.cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = process("export", "maskrcnn_tiny", "-o", tmp_path / "out", "--json", code=code)
    assert done.returncode == 130, done.stderr
    assert "whole import" in done.stderr
    assert "error: interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 130
    assert not (tmp_path / "out").exists()


def test_the_second_signal_interrupts_an_import(process, tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        "for _ in range(2):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom edgeseg.cli import main\n"
    done = process(code=f"{code}sys.exit(main(['export', 'maskrcnn_tiny']))")
    assert done.returncode == 130, done.stderr
    assert "error: interrupted" in done.stderr


# ---------------------------------------------------------------- users


AS_ANOTHER_USER = """
import contextlib, io, os, sys
from edgeseg.cli import main

bundle, cache = sys.argv[1:]
commands = (["inspect", bundle, "--json"], ["doctor", "--json"])
for arguments in commands:  # imports everything, also from where another user may not look
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0

os.seteuid(12345)  # has no entry in passwd
os.environ.pop("HOME", None)
os.environ["EDGESEG_CACHE"] = cache
for arguments in commands:
    assert main(arguments) == 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_inspect_and_doctor_bear_a_cache_that_cannot_be_read(process):
    with tempfile.TemporaryDirectory() as base:  # pytest's own folders are for one user
        Path(base).chmod(0o755)
        write_bundle(Path(base, "tiny"))
        cache = Path(base, "private", "engines")
        cache.mkdir(parents=True)
        cache.parent.chmod(0o000)
        done = process(Path(base, "tiny"), cache, code=AS_ANOTHER_USER)
    assert done.returncode == 0, done.stderr
    inspection, end = json.JSONDecoder().raw_decode(done.stdout)
    assert inspection["engines"] == []
    examination = json.loads(done.stdout[end:])
    assert not examination["cache"]["is_writable"]
    (finding,) = (f for f in examination["findings"] if "engines cannot be kept" in f["problem"])
    assert finding["fix"] == "export EDGESEG_CACHE=/a/folder/of/yours"


@pytest.mark.parametrize("chosen", ["~/engines", ""])
def test_a_user_without_a_home_has_no_cache(monkeypatch, chosen):
    def no_home(*_path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("EDGESEG_CACHE", chosen)
    folder = engine_store.cache_folder()
    assert engine_store.list_engines(folder, "0" * 64) == []
    found = describe_cache(folder)
    assert (found["is_writable"], found["num_engines"]) == (False, 0)


def test_a_cache_below_a_file_is_described(tmp_path):
    (tmp_path / "file").touch()
    found = describe_cache(tmp_path / "file" / "engines")
    assert (found["problem"], found["is_writable"]) == ("Not a directory", False)


WITH_BROKEN_LIBRARIES = """
import sys
sys.path.insert(0, sys.argv[1])
from edgeseg.cli import main

bundle, picture, out = sys.argv[2:]
for backend in ("auto", "openvino", "tensorrt"):
    print(main(["run", bundle, picture, "-o", f"{out}/{backend}", "--backend", backend, "-q"]))
"""


@pytest.mark.parametrize("failure", ["RuntimeError", "KeyError", "OSError", "ImportError"])
def test_whatever_a_library_raises_on_import_is_an_import_error(tmp_path, monkeypatch, failure):
    (tmp_path / f"engine_with_{failure.lower()}.py").write_text(f"raise {failure}('12345')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="12345"):
        import_library(f"engine_with_{failure.lower()}")


def test_a_library_that_fails_on_import_is_passed_over(process, tiny, pictures, tmp_path):
    for name in ("openvino", "tensorrt"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('no home directory')\n")
    arguments = (tmp_path, tiny, pictures / "0.png", tmp_path / "out")
    done = process(*arguments, code=WITH_BROKEN_LIBRARIES)
    assert done.stdout.splitlines() == [str(tmp_path / "out" / "auto"), "0", "4", "4"], done.stderr
    for name in ("openvino", "tensorrt"):
        assert f"{name} fails on import, RuntimeError: no home directory" in done.stderr
    assert "mistake in edgeseg" not in done.stderr
