"""Reads and checks the settings that people edit by hand: config_sender.json and config_client.json.

The files are JSON with what people put into them: // and /* */ comments, a comma after the last entry, the marks
that Notepad writes at the beginning. Every mistake of a file is found in one reading and told with its line, in
words for somebody who trades and does not program; nothing starts on a wrong file. A password is never shown,
neither in a message about a mistake nor in the repr of the settings.

Numbers stay what was written: whole numbers are int, others Decimal; 0.29 lots are 29 hundredths.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from names import SymbolNames
from safety import Copying, Limits, Mode, Sizing
from settings_file import (
    BROKEN,
    NUMBER,
    SECTIONS,
    ConfigError,
    Mistake,
    Node,
    Table,
    Value,
    backslash_hint,
    read,
    shortened,
    shown,
    with_point,
)

# --- the settings ----------------------------------------------------------------------------------------------------


class Module(StrEnum):
    """What the terminal is reached through."""

    METATRADER5 = "MetaTrader5"  # a real terminal, on Windows
    MT5_SIM = "mt5_sim"  # a simulated one: `path` is the address it listens on


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How to reach the server, and as whom."""

    url: str  # http(s)://host[:port], no path, no slash at the end
    username: str  # the user's name on the server
    password: str = field(repr=False)
    ws_url: str  # ws(s)://host[:port]; the copier adds /ws
    ca_file: str | None = None  # certificate(s) to trust in place of the system's, absolute path
    allow_plain_http: bool = False  # true: passwords and orders may travel readable through a network


@dataclass(frozen=True, slots=True)
class Mt5Settings:
    """Which terminal and which account."""

    login: int  # account number; no other account is read or traded
    password: str = field(repr=False)
    server: str  # the broker's server, as the terminal shows it
    path: str | None = None  # terminal64.exe, or host:port of a simulated terminal; None: the terminal found
    portable: bool = False  # terminal started with /portable
    module: Module = Module.METATRADER5
    timeout_ms: int = 60_000  # milliseconds the terminal may take to start and log in
    call_timeout_s: int = 30  # seconds any other call may take; then the program's working part is started anew


@dataclass(frozen=True, slots=True)
class SenderConfig:
    """config_sender.json"""

    api: ApiSettings
    mt5: Mt5Settings
    poll_ms: int  # milliseconds between two looks at the account: the larger part of the latency
    folder: Path  # where the file lies; sender.db and sender.log go here


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """config_client.json"""

    api: ApiSettings
    mt5: Mt5Settings
    sizing: Sizing  # lots of a copy
    limits: Limits  # what keeps a trade from being opened
    copying: Copying  # what the copier may do at all
    magic: int  # marks the copier's own trades; never 0, which marks trades made by hand
    folder: Path  # where the file lies; client.db and client.log go here
    names: SymbolNames = field(default_factory=SymbolNames)  # what the client's broker calls the master's symbols
    allow_mixed_symbol: bool = False  # netting accounts: also symbols of which the follower has lots of his own


SENDER_KEYS: Final = ("api", "mt5", "poll_ms")
CLIENT_KEYS: Final = ("api", "mt5", "trade_copy", "safety", "symbols")
HIGHEST_INT64: Final = 2**63 - 1  # logins and magic numbers are 64 bits wide in MetaTrader
HIGHEST_LOTS: Final = Decimal(10_000)
HIGHEST_MULTIPLIER: Final = Decimal(1_000)
HIGHEST_POINTS: Final = 1_000_000


# --- reading the two files -------------------------------------------------------------------------------------------


def load_sender(path: Path, environ: Mapping[str, str] = os.environ, data: bytes | None = None) -> SenderConfig:
    """The settings of the sender, from `data` if it was read before. Raises `ConfigError` with every mistake."""
    table, mistakes = read(path, data)
    top = Section("", table, SENDER_KEYS, mistakes)
    folder = path.resolve().parent
    config = SenderConfig(
        api=api_settings(top.section("api"), environ, folder),
        mt5=mt5_settings(top.section("mt5"), environ),
        poll_ms=top.whole("poll_ms", 10, 5000, "milliseconds", default=50),
        folder=folder,
    )
    finish(path, top)
    return config


def load_client(path: Path, environ: Mapping[str, str] = os.environ, data: bytes | None = None) -> ClientConfig:
    """The settings of the copier, from `data` if it was read before. Raises `ConfigError` with every mistake."""
    table, mistakes = read(path, data)
    top = Section("", table, CLIENT_KEYS, mistakes)
    folder = path.resolve().parent
    api = api_settings(top.section("api"), environ, folder)
    mt5 = mt5_settings(top.section("mt5"), environ)
    trade_copy = top.section("trade_copy")
    rules = top.section("safety", required=False)
    config = ClientConfig(
        api=api,
        mt5=mt5,
        sizing=sizing(trade_copy),
        limits=limits(trade_copy, rules),
        copying=trade_copy.choice("copying", Copying, default=Copying.ON),
        magic=trade_copy.whole(
            "magic_number_copier", 1, HIGHEST_INT64, "0 would mark trades made by hand as the copier's"
        ),
        folder=folder,
        names=symbol_names(top.section("symbols", required=False)),
        allow_mixed_symbol=rules.flag("allow_mixed_symbol", default=False),
    )
    comparable = all(trade_copy.is_good(key) for key in ("mode", "fixed_lot", "max_exposure_lots"))
    is_fixed = config.sizing.mode is Mode.FIX and not config.sizing.contract_alignment
    if comparable and is_fixed and config.sizing.fixed_lot > config.limits.max_exposure_lots:
        trade_copy.wrong(
            "fixed_lot",
            f"{config.sizing.fixed_lot} lots are more than max_exposure_lots, {config.limits.max_exposure_lots}",
            "Nothing could ever be opened: make fixed_lot smaller or max_exposure_lots larger",
        )
    finish(path, top)
    return config


def finish(path: Path, top: Section) -> None:
    """Raise all that was found, in the order of the file."""
    top.finish()
    if top.mistakes:
        raise ConfigError(path, sorted(top.mistakes, key=lambda mistake: (mistake.line or 0, mistake.column or 0)))


def api_settings(section: Section, environ: Mapping[str, str], folder: Path) -> ApiSettings:
    plain = section.flag("allow_plain_http", default=False)
    url = section.address("url", {"http": False, "https": True}, plain)
    ws_url = section.address("ws_url", {"ws": False, "wss": True}, plain, default=re.sub("^http", "ws", url))
    good = section.is_good("url") and section.is_good("ws_url")
    if good and is_loopback(urlsplit(ws_url).hostname or "") and not is_loopback(urlsplit(url).hostname or ""):
        section.wrong(
            "ws_url",
            "it is an address of this computer, and url is not",
            f"Write {re.sub('^http', 'ws', url)}, or take the line out: that is what holds without it",
        )
    ca_file = section.optional_text("ca_file", "the name of a certificate file (.crt or .pem)")
    if ca_file is not None:
        ca_file = str(folder / ca_file)
        if not Path(ca_file).is_file():
            section.wrong(
                "ca_file", f"there is no file {ca_file}", "A name without folder is looked for beside this file"
            )
    return ApiSettings(
        url=url,
        username=section.text(
            "username",
            "3 to 64 letters (without accents), digits or _ . -",
            pattern=r"[A-Za-z0-9_.-]{3,64}",
        ),
        password=section.password("AIBOT_API_PASSWORD", environ),
        ws_url=ws_url,
        ca_file=ca_file,
        allow_plain_http=plain,
    )


def mt5_settings(section: Section, environ: Mapping[str, str]) -> Mt5Settings:
    module = section.choice("module", Module, default=Module.METATRADER5)
    path = section.optional_text("path", "the path of terminal64.exe, with \\\\ or / between the folders")
    is_address = path is not None and re.fullmatch(r"[^\s:/\\]+:[0-9]{1,5}", path) is not None
    if module is Module.MT5_SIM and section.is_good("path") and not is_address:
        section.wrong(
            "path",
            "it is missing" if path is None else f"found {section.found('path')}",
            'With "module": "mt5_sim" it must be the address of the simulated terminal, like "127.0.0.1:18801"',
        )
    return Mt5Settings(
        login=section.whole("login", 1, HIGHEST_INT64, "the account number"),
        password=section.password("AIBOT_MT5_PASSWORD", environ),
        server=section.text("server", "the broker's server as the terminal's log-in window shows it"),
        path=path,
        portable=section.flag("portable", default=False),
        module=module,
        timeout_ms=section.whole("timeout_ms", 1000, 600_000, "milliseconds", default=60_000),
        call_timeout_s=section.whole("call_timeout_s", 1, 600, "seconds", default=30),
    )


def sizing(trade_copy: Section) -> Sizing:
    """Only the number that the mode uses is required; the other one, if it is there, must still be right."""
    mode = trade_copy.choice("mode", Mode)
    known = trade_copy.is_good("mode")
    fixed_lot = trade_copy.amount(
        "fixed_lot", HIGHEST_LOTS, "lots", default=None if known and mode is Mode.FIX else Decimal(0)
    )
    multiplier = trade_copy.amount(
        "multiplier",
        HIGHEST_MULTIPLIER,
        "1 is as many lots as the master",
        default=None if known and mode is Mode.MULTIPLIER else Decimal(1),
    )
    aligned = trade_copy.flag("contract_alignment", default=mode is not Mode.FIX)
    return Sizing(mode, fixed_lot, multiplier, aligned)


def limits(trade_copy: Section, rules: Section) -> Limits:
    """The limits in trade_copy must be written down by the person whose money it is; the rules have defaults."""
    return Limits(
        max_slippage_points=trade_copy.whole("max_slippage_points", 0, HIGHEST_POINTS, "points"),
        max_spread_points=trade_copy.whole("max_spread_points", 0, HIGHEST_POINTS, "points"),
        max_exposure_trades=trade_copy.whole("max_exposure_trades", 1, 100_000, "copies at once"),
        max_exposure_lots=trade_copy.amount("max_exposure_lots", HIGHEST_LOTS, "lots"),
        max_drawdown_percent=rules.amount("max_drawdown_percent", Decimal(100), "percent", default=Decimal(10)),
        max_signal_age_s=rules.whole("max_signal_age_s", 1, 3600, "seconds", default=60),
    )


def symbol_names(symbols: Section) -> SymbolNames:
    return SymbolNames(
        mapped=symbols.pairs("map", 'the symbol\'s name, 1 to 32 letters, digits or signs, like "EURUSD"', SYMBOL_NAME),
        prefix=symbols.affix("prefix"),
        suffix=symbols.affix("suffix"),
    )


# --- checking a section ----------------------------------------------------------------------------------------------

Choice = TypeVar("Choice", bound=StrEnum)

ANY_TEXT: Final = r"(?s).+"
# What the server takes as a symbol in reports: printable ASCII without a blank at the ends.
SYMBOL_NAME: Final = r"[!-~](?:[ -~]{0,30}[!-~])?"


class Section:
    """One { } of the file while it is checked: hands out values and notes every mistake.

    In place of a value that is missing or wrong something is handed out that lets the checking go on. It is never
    used: every such value has its mistake noted, and then `finish` lets no settings out.
    """

    def __init__(
        self, name: str, table: Table | None, keys: tuple[str, ...], mistakes: list[Mistake], shows_all: bool = False
    ) -> None:
        """`table` None: the section is not there, which is either allowed or has been noted already.

        `shows_all`: the keys are the writer's own, and what stands under them may be shown in messages.
        """
        self.name = name
        self.table = table
        self.keys = keys
        self.mistakes = mistakes
        self.shows_all = shows_all
        self.bad: set[str] = set()  # keys whose value must not be believed
        self.missing: dict[str, str] = {}  # required keys that are not there → what is allowed
        self.sections: list[Section] = []

    # The values, one method for each kind. Without a default the key is required.

    def section(self, key: str, required: bool = True) -> Section:
        allowed = f'a section, "{key}": {{ ... }}'
        node = self.present(key, allowed, required)
        table = node.value if node is not None and isinstance(node.value, Table) else None
        if node is not None and table is None:
            self.wrong(key, "this is not a section", f"It must be {allowed}")
        inner = Section(key, table, SECTIONS[key], self.mistakes)
        self.sections.append(inner)
        return inner

    def whole(self, key: str, low: int, high: int, what: str, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        allowed = f"a whole number from {low} to {high} ({what})"
        node = self.present(key, allowed, required=default is None)
        if node is None:
            return low if default is None else default
        value = node.value
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.refuse(key, allowed, "Write it without a decimal point" if isinstance(value, Decimal) else unquoted(value))
        return low

    def amount(self, key: str, most: Decimal, what: str, default: Decimal | None = None) -> Decimal:
        """A number above 0, exactly as written."""
        allowed = f"a number above 0 and at most {most} ({what})"
        node = self.present(key, allowed, required=default is None)
        if node is None:
            return most if default is None else default
        value = node.value
        if isinstance(value, int | Decimal) and not isinstance(value, bool) and 0 < value <= most:
            return Decimal(value)
        self.refuse(key, allowed, unquoted(value))
        return most

    def flag(self, key: str, default: bool) -> bool:
        allowed = "true or false, without quotation marks"
        node = self.present(key, allowed, required=False)
        if node is None:
            return default
        if isinstance(node.value, bool):
            return node.value
        self.refuse(key, allowed)
        return default

    def choice(self, key: str, choices: type[Choice], default: Choice | None = None) -> Choice:
        words = [choice.value for choice in choices]
        allowed = " or ".join(f'"{word}"' for word in words)
        node = self.present(key, allowed, required=default is None)
        if node is not None and isinstance(node.value, str) and node.value in words:
            return choices(node.value)
        if node is not None:
            guess = closest(node.value, words) if isinstance(node.value, str) else None
            self.refuse(key, allowed, f'Did you mean "{guess}"?' if guess else "")
        return default or next(iter(choices))

    def text(self, key: str, allowed: str, pattern: str = ANY_TEXT) -> str:
        node = self.present(key, allowed, required=True)
        return "" if node is None else self.checked_text(key, node, allowed, pattern)

    def optional_text(self, key: str, allowed: str) -> str | None:
        """None when the key is not there or null."""
        node = self.present(key, allowed, required=False)
        return None if node is None or node.value is None else self.checked_text(key, node, allowed)

    def affix(self, key: str) -> str:
        """A piece of a symbol's name; "" when the key is not there."""
        allowed = 'at most 31 letters, digits or signs, like ".m"; or "" for nothing'
        node = self.present(key, allowed, required=False)
        if node is None or node.value == "":
            return ""
        return self.checked_text(key, node, allowed, r"[!-~](?:[ -~]{0,29}[!-~])?")

    def pairs(self, key: str, allowed: str, pattern: str) -> dict[str, str]:
        """A { } of names chosen by the writer of the file, each with a text. Both must match the pattern."""
        whole = 'a section like "map": { "XAUUSD": "GOLD" }, the master\'s name first'
        node = self.present(key, whole, required=False)
        if node is None:
            return {}
        if not isinstance(node.value, Table):
            self.refuse(key, whole)
            return {}
        inner = Section(self.dotted(key), node.value, tuple(node.value.entries), self.mistakes, shows_all=True)
        found = {}
        for name, entry in node.value.entries.items():
            if not re.fullmatch(pattern, name):
                place = inner.dotted(shortened(name))
                self.mistakes.append(Mistake("this is no name", f"Allowed: {allowed}", place, entry.key_line))
            found[name] = inner.text(name, allowed, pattern)
        return found

    def password(self, variable: str, environ: Mapping[str, str]) -> str:
        """From the environment if it is set there, else from the file."""
        allowed = f"a text in quotation marks that is not empty; or leave the key out and set {variable}"
        node = self.present("password", allowed, required=variable not in environ)
        from_file = "" if node is None else self.checked_text("password", node, allowed)
        if variable not in environ:
            return from_file
        if not environ[variable]:
            self.mistakes.append(
                Mistake(f"the environment variable {variable} is empty", "Give it the password, or remove it")
            )
        return environ[variable]

    def address(self, key: str, schemes: Mapping[str, bool], allow_plain: bool, default: str | None = None) -> str:
        """scheme://host[:port]. `schemes`: which are encrypted; one that is not stays on this computer."""
        plain, encrypted = (f"{scheme}://" for scheme in schemes)
        allowed = f'an address like "{plain}127.0.0.1:8000" or "{encrypted}copier.example.com"'
        node = self.present(key, allowed, required=default is None)
        if node is None or (node.value is None and default is not None):
            return default or ""
        text = self.checked_text(key, node, allowed).strip()
        if not text:
            return ""
        parts = address_parts(text)
        may_follow = ("", "/", "/ws") if "ws" in schemes else ("", "/")
        if parts is None or parts.scheme not in schemes:
            self.refuse(key, allowed, "" if "://" in text else f"It must begin with {plain} or {encrypted}")
        elif "@" in parts.netloc:
            self.wrong(key, "a name or password stands in the address", "They have keys of their own in this file")
        elif parts.path not in may_follow or "?" in text or "#" in text:
            self.refuse(key, allowed, "Nothing may follow the host and port")
        elif not (schemes[parts.scheme] or allow_plain or is_loopback(parts.hostname or "")):
            self.wrong(
                key,
                f"with {self.found(key)} passwords and orders would travel readable through the network",
                f'Use {encrypted}; or, where nobody can listen (a VPN), add "allow_plain_http": true',
            )
        return "" if parts is None else f"{parts.scheme}://{parts.netloc}"

    # The mistakes.

    def present(self, key: str, allowed: str, required: bool) -> Node | None:
        """The entry of a key; None when there is none, or one of which the reader has said that it is broken."""
        node = None if self.table is None else self.table.entries.get(key)
        if node is not None and node.value is not BROKEN:
            return node
        if node is not None or required:
            self.bad.add(key)
        if node is None and required:
            self.missing[key] = allowed
        return None

    def is_good(self, key: str) -> bool:
        return self.table is not None and key not in self.bad

    def checked_text(self, key: str, node: Node, allowed: str, pattern: str = ANY_TEXT) -> str:
        if not isinstance(node.value, str):
            is_number = isinstance(node.value, int | Decimal) and not isinstance(node.value, bool)
            self.refuse(key, allowed, "Write it in quotation marks" if is_number else "")
        elif any(ord(character) < 32 for character in node.value):
            self.wrong(key, "a backslash changed the letter after it", backslash_hint(key, node.raw))
        elif not node.value.strip() or not re.fullmatch(pattern, node.value):
            self.refuse(key, allowed)
        else:
            return node.value
        return ""

    def refuse(self, key: str, allowed: str, hint: str = "") -> None:
        """Note a value that is not what is allowed."""
        self.wrong(key, f"found {self.found(key)}", f"Allowed: {allowed}" + (f". {hint}" if hint else ""))

    def wrong(self, key: str, problem: str, hint: str) -> None:
        self.bad.add(key)
        if self.table is not None:
            node = self.table.entries.get(key)
            line = self.table.line if node is None else node.line
            self.mistakes.append(Mistake(problem, hint, self.dotted(key), line))

    def found(self, key: str) -> str:
        """How the value of a key is named in a message."""
        node = None if self.table is None else self.table.entries.get(key)
        if node is None:
            return "nothing"
        if isinstance(node.value, Table):
            return "a section { }"
        if isinstance(node.value, list):
            return "a list [ ]"
        if node.value == "":
            return "an empty text"
        return shortened(node.raw) if self.shows_all and key != "password" else shown(key, node.raw)

    def dotted(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def finish(self) -> None:
        """Note the keys that should not be there and those that should; a mistyped one only once."""
        for inner in self.sections:
            inner.finish()
        if self.table is None:
            return
        for key, node in self.table.entries.items():
            if key not in self.keys:
                guess = None if key in SECTIONS or home_of(key) is not None else closest(key, self.keys)
                self.missing.pop(guess or "", None)
                problem, where = "this key is unknown here", self.dotted(shortened(key))
                self.mistakes.append(Mistake(problem, self.advice(key, guess), where, node.key_line))
        for key, allowed in self.missing.items():
            self.mistakes.append(Mistake("it is missing", f"It must be {allowed}", self.dotted(key), self.table.line))

    def advice(self, key: str, guess: str | None) -> str:
        """What to do about an unknown key."""
        if guess is not None:
            return f'Did you mean "{guess}"?'
        if key in SECTIONS and self.name:
            return f'It is a section of its own. Does the section "{self.name}" lack its closing }} ?'
        if key in SECTIONS:
            return "It is a section of the copier's file, config_client.json. This is the sender's"
        if key == "poll_ms":
            return "It belongs outside of the sections" if self.name else "It belongs into the sender's file"
        home = home_of(key)
        if self.name == "symbols" and home is None:
            return f'A symbol of the master belongs into "map": {{ "{shortened(key)}": ... }}'
        return f'It belongs into the section "{home}"' if home else f"Known here: {', '.join(self.keys)}"


def home_of(key: str) -> str | None:
    """The section that a key belongs to; "" for one that stands outside of the sections."""
    if key == "poll_ms":
        return ""
    return next((name for name, keys in SECTIONS.items() if key in keys), None)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that somebody who wrote `word` probably meant."""
    plain = {name.lower().replace("_", ""): name for name in known}
    wanted = re.sub(r"[\s_-]", "", word.lower())
    matches = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.65)
    return plain[matches[0]] if matches else None


def address_parts(text: str) -> SplitResult | None:
    """The parts of scheme://host[:port]..., None when it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    is_host = bool(re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host))
    return parts if is_host and port != 0 and not parts.netloc.endswith(":") else None


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this computer."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unquoted(value: Value) -> str:
    """A hint for a number that was written as a text, with a decimal comma perhaps."""
    if not isinstance(value, str):
        return ""
    if meant := with_point(value.strip()):
        return f"Write {meant}, without quotation marks"
    return "Write it without quotation marks" if NUMBER.fullmatch(value.strip()) else ""
