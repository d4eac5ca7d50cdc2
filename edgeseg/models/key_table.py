"""Translates parameter names between an original's checkpoint and our modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

Rule = tuple[str, str]

_PLACEHOLDER = re.compile(r"\{(\w+)(?:([+*])(\d+))?\}")


@dataclass(frozen=True)
class KeyTable:
    """Translates parameter names between an original's checkpoint and our modules, both ways.

    A rule pairs two templates. ``{p}`` stands for the rest of a name, any other placeholder for a
    number; ``{i+1}`` and ``{i*2}`` say how the original numbers what we number from 0. The first
    rule that matches counts. ``aliases`` are further spellings that are accepted but never written;
    names that match a pattern of ``ignored`` carry nothing that the model needs.
    """

    rules: Sequence[Rule]
    aliases: Sequence[Rule] = ()
    ignored: Sequence[str] = ()
    _forward: list[tuple[re.Pattern[str], str, str]] = field(init=False, repr=False)
    _backward: list[tuple[re.Pattern[str], str, str]] = field(init=False, repr=False)
    _spelled: list[tuple[re.Pattern[str], str, str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        forward = [(_pattern(a), a, b) for a, b in (*self.rules, *self.aliases)]
        spelled = [(_pattern(b), b, a) for a, b in (*self.rules, *self.aliases)]
        object.__setattr__(self, "_forward", forward)
        object.__setattr__(self, "_backward", spelled[: len(self.rules)])
        object.__setattr__(self, "_spelled", spelled)

    def ours_from_original(self, key: str) -> str | None:
        """Return our name of an original parameter, or None if there is none."""
        return _translate(key, self._forward)

    def original_from_ours(self, key: str) -> str | None:
        """Return the original's name of one of our parameters, or None if there is none."""
        return _translate(key, self._backward)

    def is_ignored(self, key: str) -> bool:
        """Tell whether an original entry carries nothing that the model needs."""
        return any(re.search(pattern, key) for pattern in self.ignored)

    def spellings(self, names: Iterable[str]) -> dict[str, str]:
        """Return every accepted original name of our parameters -> our name."""
        found: dict[str, str] = {}
        for ours in names:
            for pattern, source, target in self._spelled:
                theirs = _translate(ours, [(pattern, source, target)])
                if theirs is not None and self.ours_from_original(theirs) == ours:
                    found[theirs] = ours
        return found


def _pattern(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append(re.escape(template[end : match.start()]))
        name = match[1]
        parts.append(rf"(?P<{name}>[a-z_]+)" if name == "p" else rf"(?P<{name}>[0-9]{{1,4}})")
        end = match.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _translate(key: str, rules: list[tuple[re.Pattern[str], str, str]]) -> str | None:
    for pattern, source, target in rules:
        match = pattern.fullmatch(key)
        values = None if match is None else _read_numbers(source, match.groupdict())
        if values is not None:
            return _PLACEHOLDER.sub(partial(_write_number, values), target)
    return None


def _read_numbers(template: str, texts: dict[str, str]) -> dict[str, str | int] | None:
    """Return each placeholder's value, or None where a number does not fit its arithmetic."""
    values: dict[str, str | int] = {}
    for name, operator, operand in _PLACEHOLDER.findall(template):
        if name == "p":
            values[name] = texts[name]
            continue
        number = int(texts[name])
        if operator == "+":
            number -= int(operand)
        elif operator == "*":
            number, rest = divmod(number, int(operand))
            if rest:
                return None
        if number < 0:
            return None
        values[name] = number
    return values


def _write_number(values: dict[str, str | int], match: re.Match[str]) -> str:
    value = values[match[1]]
    if isinstance(value, int):
        if match[2] == "+":
            value += int(match[3])
        elif match[2] == "*":
            value *= int(match[3])
    return str(value)
