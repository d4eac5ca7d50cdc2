"""parse_json: hostile texts are refused in a time that grows with their length, not with its square."""

import json

import pytest

from edgeseg_runtime.bundle.strict_json import MAX_BYTES, MAX_DEPTH, parse_json
from edgeseg_runtime.errors import ManifestError

# Read with the square of their length, each of these takes minutes.
HOSTILE = {
    "a string without an end, of quotes": ('{"' + '\\"' * 200_000, "not valid JSON"),
    "a string without an end, of backslashes": ('{"' + "\\" * 400_001, "not valid JSON"),
    "a key given twice among many": (
        "{" + ",".join(f'"{n}":0' for n in range(100_000)) + ',"99999":0}',
        "the key '99999' is given twice; remove one of them",
    ),
    "brackets without an end": ("[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
    "a number without an end": ('{"a":' + "1" * 100_000 + "}", "not valid JSON"),
    "too much of anything": (" " * (MAX_BYTES + 1), "4194305 characters, expected at most 4194304"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_in_time(name):
    text, message = HOSTILE[name]
    with pytest.raises(ManifestError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    ["[" * 40, '"' * 3, "\\", '\\"[', "a\\", "]" * 40, '{"[{"'],
    ids=repr,
)
def test_brackets_in_a_string_are_no_nesting(value):
    document = {"text": value, value: [1]}
    assert parse_json(json.dumps(document)) == document


def test_nesting_counts_after_a_string_that_ends_in_a_backslash():
    with pytest.raises(ManifestError, match="nested deeper"):
        parse_json('{"a\\\\":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}")
