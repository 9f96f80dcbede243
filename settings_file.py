"""The language of the hand-edited settings files, and the mistakes that people make in it.

JSON with what people put into it: // and /* */ comments, a comma after the last entry, the marks that Notepad writes at
the beginning. The reader recovers where it can, so that one reading finds every mistake with its line. A password is
never shown.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Final

# Every key there is. A value is shown in a message only under one of these, and never a password's.
SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "api": ("url", "ws_url", "username", "password", "ca_file", "allow_plain_http"),
    "mt5": ("login", "password", "server", "path", "portable", "module", "timeout_ms", "call_timeout_s"),
    "trade_copy": (
        "mode",
        "fixed_lot",
        "multiplier",
        "contract_alignment",
        "magic_number_copier",
        "max_slippage_points",
        "max_spread_points",
        "max_exposure_trades",
        "max_exposure_lots",
        "copying",
    ),
    "safety": ("max_drawdown_percent", "max_signal_age_s", "allow_mixed_symbol"),
    "symbols": ("map", "prefix", "suffix"),
}
SHOWN_KEYS: Final = frozenset({"poll_ms"}.union(*SECTIONS.values()) - {"password"})

LARGEST_FILE: Final = 1 << 20  # bytes; a settings file has two thousand
DEEPEST: Final = 20  # sections within sections; the files have two

# --- mistakes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in the file."""

    problem: str  # what was found; never a password
    hint: str = ""  # what is allowed, or how to put it right
    key: str = ""  # dotted, as trade_copy.fixed_lot; "" when it is about no key
    line: int | None = None  # counted from 1; None when it is about no line
    column: int | None = None  # counted from 1

    def __str__(self) -> str:
        where = [] if self.line is None else [f"line {self.line}"]
        where += [] if self.column is None else [f"column {self.column}"]
        where += [self.key] if self.key else []
        said = f"{', '.join(where)}: {self.problem}" if where else self.problem
        return f"{said}. {self.hint}" if self.hint else said


class ConfigError(Exception):
    """A settings file that nothing may be started with. Its str() is for the person who wrote the file."""

    def __init__(self, path: Path, mistakes: list[Mistake]) -> None:
        super().__init__(path, mistakes)
        self.path = path
        self.mistakes = mistakes

    def __str__(self) -> str:
        count = "one mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        lines = [f"Nothing was started: {count} in {self.path.absolute()}"]
        for mistake in self.mistakes:
            lines.append(f"  {self.path.name}{': ' if mistake.line is None else ', '}{mistake}")
        return "\n".join(lines)


def shown(key: str, raw: str) -> str:
    """What was written, fit to be shown: nothing that could be a password, or hold one as an address can."""
    return shortened(raw) if key in SHOWN_KEYS and "@" not in raw else "something that is not shown here"


def shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def with_point(written: str) -> str:
    """A number with a decimal comma, perhaps with points between thousands, as these files have it; "" for others."""
    is_one = re.fullmatch(r"-?(?:[1-9][0-9]{0,2}(?:\.[0-9]{3})+|0|[1-9][0-9]*),[0-9]+", written)
    return written.replace(".", "").replace(",", ".") if is_one else ""


def backslash_hint(key: str, raw: str) -> str:
    hint = "In this file a backslash is written twice (\\\\); in a path / does as well"
    return (
        hint
        if "shown" in shown(key, raw)
        else f"{hint}: {raw.replace(BACKSLASH * 2, BACKSLASH).replace(BACKSLASH, '/')}"
    )


# --- the language of the files ---------------------------------------------------------------------------------------


class Broken(Enum):
    """Stands for a value of which a mistake has been noted: it is neither missing nor worth checking."""

    BROKEN = "broken"


BROKEN: Final = Broken.BROKEN
BACKSLASH: Final = "\\"
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
LONGEST_NUMBER: Final = 40  # characters
ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
QUOTES: Final = {
    "'": "'",
    "\u201c": "\u201c\u201d",
    "\u201d": "\u201c\u201d",
    "\u2018": "\u2018\u2019",
    "\u00ab": "\u00bb",
}
SPACES: Final = "\ufeff\u200b\u200c\u200d\u2060"  # invisible marks that come along with copied text


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place in the file. `raw` is what was written."""

    value: Value = field(repr=False)
    raw: str = field(repr=False)
    line: int
    key_line: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A { } and the line it begins on."""

    entries: dict[str, Node]
    line: int


Value = str | int | Decimal | bool | None | list[Node] | Table | Broken


class Unreadable(Exception):
    """After a mistake that has been noted, what follows cannot be understood."""


def read(path: Path, data: bytes | None = None) -> tuple[Table, list[Mistake]]:
    """The file's table and the mistakes in its writing. Raises `ConfigError` when it cannot be understood.

    `data` is what was read from it before, if it was.
    """
    try:
        data = path.read_bytes() if data is None else data
    except FileNotFoundError:
        raise ConfigError(
            path,
            [
                Mistake(
                    f"the file was not found; it was looked for in {path.resolve().parent}",
                    "An example of it lies in the program's folder: copy that and write your settings into it",
                )
            ],
        ) from None
    except OSError as error:
        raise ConfigError(path, [Mistake(f"it cannot be read: {error.strerror or error}")]) from error
    mistakes: list[Mistake] = []
    try:
        table = Reader(decoded(data, mistakes), mistakes).document()
    except Unreadable:
        raise ConfigError(path, mistakes) from None
    return table, mistakes


def decoded(data: bytes, mistakes: list[Mistake]) -> str:
    """The text of a file as editors write it: UTF-8, or UTF-16 with its mark. Raises `Unreadable`."""
    if len(data) > LARGEST_FILE:
        mistakes.append(Mistake(f"it has {len(data)} bytes; that is no settings file"))
        raise Unreadable
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = None if is_utf16 else data.count(b"\n", 0, error.start) + 1
        mistakes.append(
            Mistake(
                "a letter cannot be read", 'Save the file with the encoding "UTF-8" (in Notepad: Save as)', line=line
            )
        )
        raise Unreadable from error
    if "\0" in text:
        mistakes.append(
            Mistake("it is not a text file", 'If it is one, save it with the encoding "UTF-8" (in Notepad: Save as)')
        )
        raise Unreadable
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Reader:
    """Reads a text once from its beginning to its end; where it can tell what was meant, it goes on after a mistake."""

    def __init__(self, text: str, mistakes: list[Mistake]) -> None:
        self.text = text
        self.mistakes = mistakes
        self.at = 0
        self.key = ""  # whose value is being read: says whether it may be shown
        self.dotted = ""  # the same with its section, for messages
        self.cut = False  # the rest of a line was given up, and perhaps a comma with it
        self.unclosed = ""  # where a } is probably missing

    # ---- places

    def line(self, at: int | None = None) -> int:
        return self.text.count("\n", 0, self.at if at is None else at) + 1

    def mistake(self, problem: str, hint: str = "", at: int | None = None, key: str = "") -> None:
        at = self.at if at is None else at
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        self.mistakes.append(Mistake(problem, hint, key, self.line(at), column))

    def peek(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.at : self.at + 1]

    def take(self, pattern: str) -> str:
        """What the pattern matches here, and move behind it."""
        match = re.compile(pattern).match(self.text, self.at)
        assert match is not None  # noqa: S101 - every pattern used matches the empty text
        self.at = match.end()
        return match[0]

    def skip(self) -> None:
        """Move over spaces, line ends and comments."""
        while True:
            self.take(rf"[\s{SPACES}]*")
            if self.text.startswith("//", self.at):
                self.take(r"[^\n]*")
            elif self.text.startswith("/*", self.at):
                end = self.text.find("*/", self.at + 2)
                if end < 0:
                    self.mistake("a comment begins here with /* and does not end", "It ends with */")
                    raise Unreadable
                self.at = end + 2
            elif self.peek() == "#":
                self.mistake("a # does not begin a comment in this file", "Write // before the comment")
                self.take(r"[^\n]*")
            else:
                return

    def give_up_line(self) -> None:
        self.take(r"[^\n]*")
        self.cut = True

    # ---- the parts of the file

    def document(self) -> Table:
        """The whole file: one { } and nothing after it."""
        self.skip()
        if not self.peek():
            self.mistake("the file is empty")
            raise Unreadable
        if self.peek() != "{":
            self.mistake("the settings must begin with {", "Compare with the example in the program's folder")
            raise Unreadable
        table = self.table("", 1)
        self.skip()
        if self.peek():
            self.mistake("something follows after the last }", "Is there a } too many before, or a { too few?")
            raise Unreadable
        return table

    def table(self, name: str, depth: int) -> Table:
        """A { }, its name dotted."""
        begin = self.at
        table = Table({}, self.line())
        self.at += 1
        while True:
            self.skip()
            if self.peek() == "}":
                self.at += 1
                return table
            if not self.peek():
                self.mistake("this { is not closed", self.unclosed or "A } is missing at its end", begin, name)
                raise Unreadable
            if self.peek() in ",;":
                self.mistake("there is a comma too many", "One comma stands between two entries")
                self.at += 1
                continue
            self.entry(table, name, depth)
            self.comma()

    def entry(self, table: Table, name: str, depth: int) -> None:
        """One line `"key": value`."""
        begin = self.at
        key = self.key_text()
        if self.cut:
            return
        self.skip()
        separated = self.peek() in (":", "=")
        if self.peek() == ":":
            self.at += 1
        elif separated:
            self.mistake("found = after the name", "Between a name and its value stands a colon, :")
            self.at += 1
        else:
            self.mistake("a colon is missing after the name", 'An entry is written as "name": value', at=begin)
        if name and key in SECTIONS and not self.unclosed:
            self.unclosed = f'A }} is probably missing before line {self.line(begin)}, where "{key}" begins'
        self.key = key or ""
        known = key in SHOWN_KEYS or key == "password" or key in SECTIONS
        if key is None or not (separated or known):
            # Perhaps no name at all, but a piece of a password with a quotation mark in it: it is not repeated.
            self.give_up_line()
            return
        dotted = f"{name}.{key}" if name else key
        self.dotted = shortened(dotted)
        node = self.value(dotted, depth)
        if key in table.entries:
            self.mistakes.append(
                Mistake(
                    f"this key is there twice, first in line {table.entries[key].key_line}",
                    "Remove one of them",
                    shortened(dotted),
                    self.line(begin),
                )
            )
            return
        table.entries[key] = Node(node.value, node.raw, node.line, self.line(begin))

    def key_text(self) -> str | None:
        """A name in quotation marks, or one that should have them; None when it cannot be read."""
        if self.peek() == '"' or self.peek() in QUOTES:
            self.key = self.dotted = ""
            node = self.quoted()
            return node.value if isinstance(node.value, str) else None
        begin = self.at
        word = self.take(r"\w*")
        if not word:
            self.mistake(
                "this is not understood: a name in quotation marks should stand here",
                'An entry is written as "name": value. Look also at the end of the line before',
            )
            raise Unreadable
        self.mistake("a name without quotation marks", 'Write it as "name": value', at=begin)
        return word

    def comma(self) -> None:
        """What stands between two entries."""
        end = self.at
        self.skip()
        following = self.peek()
        if following == ",":
            self.at += 1
        elif following == ";":
            self.mistake("found ; where a comma should stand", "Entries end with a comma")
            self.at += 1
        elif not self.cut and following not in ("", "}", "]"):
            on_same_line = "\n" not in self.text[end : self.at]
            if on_same_line and following != '"':
                self.mistake(
                    "something follows after the value",
                    'After a value stands only a comma, and a note after //. A quotation mark inside a text is \\"',
                )
                self.give_up_line()
            else:
                self.mistake("a comma is missing after this value", at=end)
        self.cut = False

    def value(self, dotted: str, depth: int) -> Node:
        """What stands right of the colon."""
        colon = self.at - 1
        self.skip()
        begin, line, following = self.at, self.line(), self.peek()
        if not following or following in ",;:}]":
            return self.no_value(dotted, colon)
        if following in "{[":
            if depth >= DEEPEST:
                self.mistake("too many { or [ within each other")
                raise Unreadable
            content = self.table(dotted, depth + 1) if following == "{" else self.items(dotted, depth + 1)
            return Node(content, self.text[begin : self.at], line)
        if following != '"' and following not in QUOTES:
            return self.word()
        node = self.quoted()
        if line > self.line(colon) and self.text[self.at :].lstrip().startswith(":"):
            self.at = begin  # that was the name of the next entry
            return self.no_value(dotted, colon)
        return node

    def no_value(self, dotted: str, colon: int) -> Node:
        self.mistake("the value is missing after the colon", at=colon, key=shortened(dotted))
        self.cut = True
        return Node(BROKEN, "", self.line(colon))

    def items(self, dotted: str, depth: int) -> list[Node]:
        """A [ ]."""
        begin = self.at
        found: list[Node] = []
        self.at += 1
        while True:
            self.skip()
            following = self.peek()
            if following == "]":
                self.at += 1
                return found
            if not following or following in ",;:}":
                self.mistake("this [ is not closed, or a comma or value too many", at=begin, key=shortened(dotted))
                raise Unreadable
            found.append(self.value(dotted, depth))
            self.comma()

    def word(self) -> Node:
        """A number, true, false or null, or what somebody wrote without quotation marks."""
        begin, line = self.at, self.line()
        word = self.take(r'[^\s,;{}\[\]":/]*')
        if word in ("true", "false", "null"):
            return Node({"true": True, "false": False, "null": None}[word], word, line)
        short = len(word) <= LONGEST_NUMBER
        if short and re.fullmatch(r"-?[0-9][0-9.]*", word) and self.take(r"(?:,[0-9]+)?"):
            written = self.text[begin : self.at]
            meant = with_point(written) if self.key in SHOWN_KEYS else ""
            self.mistake(
                f"found {shown(self.key, written)}, with a decimal comma",
                f"Write {meant or 'a point'}",
                begin,
                self.dotted,
            )
            return Node(BROKEN, "", line)
        if short and NUMBER.fullmatch(word):
            return Node(int(word) if WHOLE.fullmatch(word) else Decimal(word), word, line)
        if word.lower() in ("true", "false", "null", "none"):
            hint = f"Write {word.lower().replace('none', 'null')}, in small letters"
        elif re.match(r"[-+.0-9]|nan$|inf(inity)?$", word.lower()):
            hint = "A number is written as 10 or 0.01; a text in quotation marks"
        else:
            hint = "A text is written in quotation marks"
        self.mistake(f"found {shown(self.key, word)}", hint, begin, self.dotted)
        self.take(r"(?:(?!//)[^\n,}\]])*")
        self.cut = True
        return Node(BROKEN, "", line)

    def quoted(self) -> Node:
        """A text in quotation marks, also in such as do not belong into this file."""
        begin, line = self.at, self.line()
        if self.peek() != '"':
            closing = QUOTES[self.peek()] + '"'
            text = self.take(rf".[^\n{closing}]*")[1:]
            self.mistake("these quotation marks are not understood", 'Use the straight ones: "', begin)
            if not self.take(rf"[{closing}]?"):
                self.give_up_line()
            return Node(text, self.text[begin : self.at], line)
        self.at += 1
        letters: list[str] = []
        understood = True
        while (letter := self.take(r"[^\n]?")) != '"':
            if not letter:
                slash = '\\"' in self.text[begin : self.at]
                hint = 'A backslash before the last quotation mark is written twice: \\\\"' if slash else ""
                self.mistake("the closing quotation mark is missing in this line", hint, begin, self.dotted)
                self.cut = True
                return Node(BROKEN, "", line)
            if letter == BACKSLASH:
                code = self.take(r"u[0-9A-Fa-f]{4}|[\"\\/bfnrt]|")
                understood = understood and bool(code)
                letter = chr(int(code[1:], 16)) if code.startswith("u") else ESCAPES.get(code, "")
            letters.append(letter)
        raw = self.text[begin : self.at]
        # Letters beyond the first 65536 are written as two \\u codes; half of such a pair is no letter.
        text = "".join(letters).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if not understood:
            self.mistake("a single backslash", backslash_hint(self.key, raw), begin, self.dotted)
            return Node(BROKEN, "", line)
        return Node(text, raw, line)
