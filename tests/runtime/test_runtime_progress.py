"""Stages of a command on the device: one line of a terminal, which makes room for everything else."""

import io
import logging

import pytest

from edgeseg_runtime.commands.progress import Lines, OneLine, StageProgress
from edgeseg_runtime.commands.terminal import Forgiving, Terminal


def screen(text):
    """Return the lines that a terminal would show."""
    lines = [""]
    for part in text.replace("\r\x1b[K", "\r").split("\n"):
        lines[-1] = part.rpartition("\r")[2] if "\r" in part else lines[-1] + part
        lines.append("")
    return lines[:-1]


@pytest.mark.parametrize("keeps_stages", [True, False])
def test_the_line_of_a_stage_is_replaced(keeps_stages):
    stream = io.StringIO()
    with StageProgress(OneLine(Forgiving(stream), keeps_stages=keeps_stages)) as progress:
        progress("load", 0, 1)
        progress("predict", 0, 3)
        progress("predict", 2, 3)
        *_, last = screen(stream.getvalue())
        assert last.startswith("  predict 2/3, ")
    shown = [line.partition(",")[0] for line in screen(stream.getvalue())]
    assert shown == (["✓ load", "✓ predict 3/3", ""] if keeps_stages else [""])


def test_logs_and_remarks_stand_above_the_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    terminal = Terminal([])
    terminal.configure(is_json=False, verbose=0, quiet=False)
    with terminal.progress() as progress:
        progress("predict", 1, 3)
        logging.getLogger("edgeseg_runtime").warning("damaged\x1b[2J")
        progress("predict", 2, 3)
        terminal.note("enough")
    terminal.close()
    shown = screen(capsys.readouterr().err)
    assert shown[0] == "WARNING: damaged\\x1b[2J"
    assert shown[1] == "note: enough"
    assert shown[2].startswith("✓ predict 3/3, ")


def test_a_file_gets_lines():
    lines = []
    with StageProgress(Lines(lines.append, keeps_stages=True)) as progress:
        progress("predict", 1, 2)
    assert [line.partition(",")[0] for line in lines] == ["  predict", "✓ predict 2/2"]


def test_a_cancelled_command_ends_at_its_next_report():
    progress = StageProgress(None, is_cancelled=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        progress("predict", 0, 1)
