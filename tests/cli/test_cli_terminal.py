"""What the command line writes: nothing of a stranger's file that a terminal would obey."""

import pytest
from rich.table import Table
from rich.text import Text

from edgeseg.cli.terminal import Terminal
from edgeseg_runtime.__main__ import main

ESCAPES = "\x1b]0;owned\x07\x1b[2J"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J"


def table():
    found = Table("key", "value")
    found.add_row("command", ESCAPES)
    return found


@pytest.mark.parametrize(
    "write",
    [
        lambda terminal: terminal.show(table()),
        lambda terminal: terminal.show(Text(ESCAPES)),
        lambda terminal: terminal.show(ESCAPES),
        lambda terminal: terminal.note(ESCAPES),
        lambda terminal: terminal.fail(ValueError(ESCAPES), ESCAPES, exit_code=1),
    ],
    ids=["table", "text", "string", "note", "error"],
)
def test_escapes_of_a_stranger_are_shown_and_not_obeyed(capsys, write):
    write(Terminal([]))
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\\x1b]0;owned" in out + err


def test_the_runtimes_command_shows_escapes_too(capsys):
    assert main(["inspect", f"missing{ESCAPES}"]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert SHOWN in err
