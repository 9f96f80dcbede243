"""What the scripts in `protocol/` are written in: lines, patterns and short names. `protocol/README.md` describes it.

The two stages on which a script is played, a server and a copier, are in `script_stages.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

REST = "..."  # in a pattern: whatever else there may be

_LINE = re.compile(r"(?P<who>\w+)(?P<socket>~\w*)?(?P<mark>[<>!]?)(?:\s+(?P<rest>.*))?")
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\.\.\.|\$\w+(?:\+\d+)?|<[A-Z][^<>]*>|[\[\]{}]|[^"\[\]{}.$<]+|.')
_REFERENCE = re.compile(r"\$(\w+?)(?:\+(\d+))?")


class BadScript(Exception):
    """A line of the script cannot be understood."""


class Unexpected(AssertionError):
    """What came is not what the script says."""


@dataclass(frozen=True, slots=True)
class Line:
    place: str  # file and line number
    who: str
    socket: str  # name of a connection with its ~, empty when the line is not about one
    mark: str  # > says, < hears, ! is made to do, empty for what a connection does
    rest: str


@dataclass(frozen=True, slots=True)
class Script:
    path: Path
    title: str
    lines: tuple[Line, ...]


class Stage(Protocol):
    """Where a script is played."""

    def play(self, line: Line) -> None:
        """Carry out one line. Raises `BadScript`, `Unexpected`."""

    def end(self) -> None:
        """Raises `Unexpected` when something came that no line of the script speaks of."""


def read_script(path: Path) -> Script:
    """Raises `BadScript`."""
    text = path.read_text(encoding="utf-8").split("\n")
    if not text[0].startswith("# ") or len(text[0]) < 12:
        raise BadScript(f"{path.name}:1: the first line has to say what the script proves: # A heartbeat with ...")
    lines = []
    for number, content in enumerate(text, 1):
        content = content.strip()
        if not content or content.startswith("#"):
            continue
        place = f"{path.name}:{number}"
        found = _LINE.fullmatch(content)
        if found is None:
            raise BadScript(f"{place}: not a line of a script: {content}")
        lines.append(Line(place, found["who"], found["socket"] or "", found["mark"], found["rest"] or ""))
    return Script(path, text[0][2:].strip(), tuple(lines))


def play(script: Script, stage: Stage) -> None:
    """Raises `BadScript` or `Unexpected`, with the place of the line."""
    line = None
    try:
        for line in script.lines:
            stage.play(line)
    except BadScript as error:
        raise BadScript(f"{line.place if line else script.path.name}: {error}") from error
    except Unexpected as error:
        raise Unexpected(f"{line.place if line else script.path.name}: {error}") from error
    try:
        stage.end()
    except Unexpected as error:
        raise Unexpected(f"{script.path.name}, at its end: {error}") from error


# --- values and patterns ---------------------------------------------------------------------------------------------

Macro = Callable[[str, list[str], dict[str, Any]], Any]  # <NAME words field=value>: name, words, fields → the value


class Values:
    """Reads the JSON of a script, knows what its $names stand for, and compares."""

    def __init__(self, macro: Macro) -> None:
        self._macro = macro
        self.named: dict[str, Any] = {}

    def pattern(self, text: str) -> Any:
        """The JSON in `text`, with `...`, $names and <SHORT NAMES>. Raises `BadScript`."""
        out: list[str] = []
        open_brackets: list[str] = []
        before = ""  # the last token that is not blank
        for token in _TOKEN.findall(text):
            if token in ("[", "{"):
                open_brackets.append(token)
            elif token in ("]", "}") and open_brackets:
                open_brackets.pop()
            if token == REST:
                is_member = open_brackets and open_brackets[-1] == "{" and not before.endswith(":")
                out.append(f'"{REST}": 0' if is_member else f'"{REST}"')
            elif token.startswith("$"):
                out.append(f'"{token}"')
            elif token.startswith("<"):
                out.append(json.dumps(self._short(token)))
            else:
                out.append(token)
            before = token.strip() or before
        try:
            return json.loads("".join(out))
        except ValueError as error:
            raise BadScript(f"not JSON: {text} ({error})") from error

    def _short(self, token: str) -> Any:
        name, *words = token[1:-1].split()
        fields: dict[str, Any] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if equals:
                value = self.text(value)
                try:
                    fields[key] = json.loads(value)
                except ValueError:
                    fields[key] = value
        return self._macro(name, [self.text(word) for word in words if "=" not in word], fields)

    def value(self, text: str) -> Any:
        """The JSON in `text` as something to send: every $name must be known. Raises `BadScript`."""
        return self._filled(self.pattern(text))

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if isinstance(value, str) and (found := _REFERENCE.fullmatch(value)):
            if found[1] not in self.named:
                raise BadScript(f"${found[1]} has not been heard yet")
            return self.named[found[1]] + int(found[2]) if found[2] else self.named[found[1]]
        return value

    def text(self, text: str) -> str:
        """`text` with every $name in it replaced. Raises `BadScript`."""
        return _REFERENCE_IN_TEXT.sub(lambda found: str(self._filled(found[0])), text)

    def compare(self, expected: Any, real: Any, place: str = "") -> None:
        """A $name that is not known yet takes what is there. Raises `Unexpected`."""
        if expected == REST:
            return
        if isinstance(expected, str) and (found := _REFERENCE.fullmatch(expected)):
            if found[1] not in self.named and not found[2]:
                self.named[found[1]] = real
                return
            expected = self._filled(expected)
        if isinstance(expected, dict) and isinstance(real, dict):
            self._compare_objects(expected, real, place)
        elif isinstance(expected, list) and isinstance(real, list):
            self._compare_lists(expected, real, place)
        elif expected != real or isinstance(expected, bool) is not isinstance(real, bool):
            raise Unexpected(f"{place or 'the whole'} is {json.dumps(real)} and not {json.dumps(expected)}")

    def _compare_objects(self, expected: dict[str, Any], real: dict[str, Any], place: str) -> None:
        for name, item in expected.items():
            if name == REST:
                continue
            if name not in real:
                raise Unexpected(f"{place}.{name} is missing in {json.dumps(real)}")
            self.compare(item, real[name], f"{place}.{name}")
        if REST not in expected and (more := set(real) - set(expected)):
            raise Unexpected(f"{place or 'the whole'} has {', '.join(sorted(more))} as well: {json.dumps(real)}")

    def _compare_lists(self, expected: list[Any], real: list[Any], place: str) -> None:
        """With `...` at its end a list may go on."""
        wanted = expected[:-1] if expected and expected[-1] == REST else expected
        if len(real) < len(wanted) or (len(real) > len(wanted) and wanted is expected):
            raise Unexpected(f"{place or 'the whole'} has {len(real)} entries: {json.dumps(real)}")
        for index, item in enumerate(wanted):
            self.compare(item, real[index], f"{place}[{index}]")


_REFERENCE_IN_TEXT = re.compile(r"\$\w+(?:\+\d+)?")


def split_headers(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first `with Name: value`, and all of these."""
    before, *headers = re.split(r"(?:^|\s+)with (?=[A-Za-z-]+: )", text)
    return before, dict(header.split(": ", 1) for header in headers)
