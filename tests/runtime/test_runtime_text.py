"""printable: nothing that a terminal obeys is left, and what people write stays."""

import pickle

import pytest

from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import CorruptArtifact, EdgesegError, ManifestError
from edgeseg_runtime.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("a line\nand\ta tab", "a line\nand\ta tab"),
        ("Bär 1\u00bd \u65e5\u672c", "Bär 1\u00bd \u65e5\u672c"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("over\rwritten\b", "over\\rwritten\\x08"),
        ("\u202eturned", "\\u202eturned"),
        ("half a pair \ud800", "half a pair \\ud800"),
        ("not UTF-8 \udcff", "not UTF-8 \\udcff"),
    ],
)
def test_what_a_terminal_obeys_becomes_an_escape(text, shown):
    assert printable(text) == shown
    assert str(EdgesegError(text)) == shown
    shown.encode("utf-8")


def test_a_message_that_quotes_a_key_of_a_manifest_can_be_printed():
    text = '{"schema": "1.0", "artifacts": {"\\u001b[2J\\ud800": 1}, "name": 1, "task": 1}'
    with pytest.raises(ManifestError) as info:
        Manifest.from_json(text)
    assert str(info.value).isprintable()


def test_an_error_of_several_parts_stays_what_it_is():
    error = CorruptArtifact("a\x1b.onnx", "one", "two")
    assert str(error).startswith("a\\x1b.onnx is damaged: expected one, found two.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
