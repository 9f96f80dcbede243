"""`--check`: everything that has to be right before trades are copied, one line each, and what to do where it is not.

It reads only. It connects to the server as the program itself would, unless another one is connected with the same
user, which that would throw out.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import websocket

from account import MarginMode, Reading, Symbol
from api_client import Api, ApiDown, ApiRefused
from config import ApiSettings, ClientConfig, Mt5Settings, SenderConfig
from console import NoModule, load_module
from ledger import LedgerError, LedgerLookedAt, OneInstance, WrongLedger
from link import open_websocket
from safety import Copying, drawdown_percent
from signals import BadJson, decode
from terminal import CannotConnect, Terminal, Unreadable
from watchdog import Watchdog

ROOM_BYTES: Final = 200_000_000
CLOCK_S: Final = 60.0
CERTIFICATE_DAYS: Final = 14
RECENT: Final = 200  # changes whose symbols are looked at
FIRST_MESSAGE_S: Final = 5.0
MEANS: Final = {
    Copying.CLOSE_ONLY: "nothing is opened",
    Copying.PAUSED: "nothing is opened or modified",
    Copying.FLATTEN: "every copy is closed, nothing is opened",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    name: str
    good: bool | None  # None: it could not be looked at, or does not matter now; with a `todo`: somebody wanted it so
    words: str = ""
    todo: str = ""  # what to do about it


def check_sender(config: SenderConfig) -> Iterator[Finding]:
    yield from files(config.folder)
    running = in_use(config.folder / "sender.lock")
    yield Finding("this program", None if running else True, "is running in this folder" if running else "not running")
    api = Api(config.api)
    overview: dict[str, Any] = {}
    yield from server(config.api, api, "master", overview)
    with closing(Watchdog(config.mt5.call_timeout_s, config.mt5.timeout_ms)) as watchdog:
        yield from terminal_of(config.mt5, watchdog, trades=False, look=lambda terminal: iter(()))


def check_copier(config: ClientConfig) -> Iterator[Finding]:
    yield from files(config.folder)
    running = in_use(config.folder / "client.lock")
    yield Finding("this program", None if running else True, "is running in this folder" if running else "not running")
    api = Api(config.api)
    overview: dict[str, Any] = {}
    yield from server(config.api, api, "client", overview)
    yield from masters(overview)
    yield from live_connection(config.api, api, overview, running)
    theirs: dict[str, Any] = {}
    yield from copying(config, api, overview, theirs)

    def look(terminal: Terminal) -> Iterator[Finding]:
        yield from against_ledger(config, terminal.read(), theirs)
        yield from symbols(config, terminal, traded(api, overview))

    with closing(Watchdog(config.mt5.call_timeout_s, config.mt5.timeout_ms)) as watchdog:
        yield from terminal_of(config.mt5, watchdog, trades=True, look=look)


# --- this computer ---------------------------------------------------------------------------------------------------


def files(folder: Path) -> Iterator[Finding]:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        yield Finding("folder", True, str(folder))
    except OSError as error:
        yield Finding(
            "folder",
            False,
            f"{folder} cannot be written: {error.strerror or error}",
            "move the program and its settings file to a folder of yours, in Documents for example",
        )
        return
    free = shutil.disk_usage(folder).free
    enough = free >= ROOM_BYTES
    words = f"{free / 1e9:.1f} GB free"
    yield Finding("room on the disk", enough, words, f"free some: at least {ROOM_BYTES / 1e6:.0f} MB are needed")


def in_use(lock: Path) -> bool:
    """Whether the program runs in this folder already."""
    if not lock.exists():
        return False
    try:
        OneInstance(lock, patience_s=0.0).close()
    except WrongLedger:
        return True
    return False


# --- the server ------------------------------------------------------------------------------------------------------


def server(settings: ApiSettings, api: Api, role: str, overview: dict[str, Any]) -> Iterator[Finding]:
    """Down to the log-in. `overview` is filled with what the server says to this user."""
    address = urlsplit(settings.url)
    try:
        api.health()
    except (ApiDown, ApiRefused) as error:
        bad_certificate = "certificate" in str(error)
        yield Finding(
            "server", False, str(error), "" if bad_certificate else "is api.url right, and the server running?"
        )
        if bad_certificate:
            todo = "ask your provider whether api.url is right, and for the certificate's file (api.ca_file)"
            yield Finding("TLS", False, "the certificate is not accepted", todo)
        for name in ("TLS", "log-in", "clock")[1 if bad_certificate else 0 :]:
            yield Finding(name, None)
        return
    yield Finding("server", True, settings.url)
    yield tls(address, settings.ca_file)
    asked = time.time()
    try:
        overview |= api.call("GET", "/overview")
    except ApiRefused as error:
        todo = "check api.username and api.password: your provider has them. A new user may have to be approved first"
        yield Finding("log-in", False, str(error), todo)
        yield Finding("clock", None)
        return
    except ApiDown as error:
        yield Finding("log-in", False, str(error), "try again in a minute")
        yield Finding("clock", None)
        return
    theirs = overview.get("role")
    todo = f"this program needs a user with the role {role}: ask your provider"
    yield Finding("log-in", theirs == role, f"{settings.username} ({theirs})", todo)
    ahead = overview["server_time"] / 1000 - (asked + time.time()) / 2
    yield Finding(
        "clock",
        abs(ahead) <= CLOCK_S,
        f"the server's is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}",
        "let Windows set the clock: Settings > Time & language > Date & time > Sync now",
    )


def tls(address: SplitResult, ca_file: str | None) -> Finding:
    host = address.hostname or ""
    if address.scheme != "https":
        return Finding("TLS", None, "not encrypted (the same computer, or allow_plain_http)")
    try:
        context = ssl.create_default_context(cafile=ca_file)
        with (
            socket.create_connection((host, address.port or 443), timeout=FIRST_MESSAGE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert() or {}
    except OSError as error:  # reached through a proxy, perhaps: the server itself has answered
        return Finding("TLS", None, f"the certificate cannot be looked at: {error}")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    left = (ends - datetime.now(UTC)).days
    todo = "tell your provider: after that day nothing is copied"
    return Finding("TLS", left > CERTIFICATE_DAYS, f"the certificate is valid for {left} more days", todo)


def masters(overview: dict[str, Any]) -> Iterator[Finding]:
    if not overview:
        yield Finding("master", None)
        return
    names = [f"{one['master']} ({'online' if one['online'] else 'offline now'})" for one in overview.get("masters", [])]
    todo = "the provider's sender has never reported, or your user follows nobody: ask your provider"
    yield Finding("master", bool(names), ", ".join(names) or "none", todo)


def live_connection(settings: ApiSettings, api: Api, overview: dict[str, Any], running: bool) -> Iterator[Finding]:
    """The WebSocket, unless that would throw a copier out: the server lets a user have one."""
    if not overview:
        yield Finding("other copier", None)
        yield Finding("WebSocket", None)
        return
    connected = bool(overview.get("connected", {}).get(settings.username))
    elsewhere = connected and not running
    yield Finding(
        "other copier",
        not elsewhere,
        f"one is connected as {settings.username}, and not from this folder" if elsewhere else "none",
        "end it before you start this one, or get a user of its own for each account",
    )
    if connected or running:
        words = "connected" if connected else "the running copier is not connected"
        yield Finding("WebSocket", connected, words, "its console and client.log say why")
        return
    todo = "does a firewall or proxy let wss:// through? Is api.ws_url right?"
    try:
        connection = open_websocket(settings, api.token())
        try:
            connection.settimeout(FIRST_MESSAGE_S)
            message = decode(str(connection.recv()).encode())
        finally:
            connection.close()
    except (ApiDown, ApiRefused, BadJson, websocket.WebSocketException, OSError) as error:
        yield Finding("WebSocket", False, str(error), todo)
        return
    good = message.get("type") == "book"
    yield Finding("WebSocket", good, "the server speaks" if good else "it answers, not as this server does", todo)


def copying(config: ClientConfig, api: Api, overview: dict[str, Any], theirs: dict[str, Any]) -> Iterator[Finding]:
    """Whether trades are opened at all, and who does not want it. `theirs` is filled with this user's settings on the
    server."""
    typed, on_server = Copying.ON, Copying.ON
    try:
        with ledger_of(config) as ledger:
            typed = Copying((ledger and ledger.get("typed_copying")) or Copying.ON)
    except (WrongLedger, LedgerError) as error:
        yield Finding("ledger", False, str(error))
    try:
        theirs |= api.call("GET", "/users/config") if overview else {}
        on_server = Copying(theirs.get("copying", Copying.ON))
    except (ApiDown, ApiRefused, ValueError) as error:
        yield Finding("settings on the server", False, str(error), "try again in a minute")
    opens = True
    for state, who, todo in (
        (config.copying, "in the settings file", 'write "on" there (trade_copy.copying) and start the copier again'),
        (typed, "typed at the console", "type resume in the copier's window"),
        (on_server, "on the server", "ask your provider: it was set there for your user"),
    ):
        if state is not Copying.ON:
            opens = False
            yield Finding("copying", None, f"{state}, {who}: {MEANS[state]}", f"to have trades opened again, {todo}")
    if opens:
        yield Finding("copying", True if theirs else None, "on" if theirs else "on, as far as the server was not asked")


def traded(api: Api, overview: dict[str, Any]) -> list[str]:
    """The symbols that the masters traded lately, as the masters' broker writes them."""
    if not overview:
        return []
    try:
        wide, found = RECENT, list[dict[str, Any]]()
        while not found:  # the numbers are those of all masters, and others may have traded all the time
            after = max(0, int(overview["seq"]) - wide)
            found = api.call("GET", f"/signals?after={after}&limit={RECENT}")["signals"]
            if not after:
                break
            wide *= 10
    except (ApiDown, ApiRefused):
        return []
    return sorted({str(one["data"]["symbol"]) for one in found})


# --- the terminal ----------------------------------------------------------------------------------------------------


def terminal_of(settings: Mt5Settings, watchdog: Watchdog, *, trades: bool, look: Any) -> Iterator[Finding]:
    """From the terminal to what `look` finds in it."""
    permissions = ("trading password", "automatic trading by the broker", "API trading", "Algo Trading")
    unseen = (
        "account",
        *(permissions if trades else ()),
        "kind of account",
        *(("drawdown", "symbols") if trades else ()),
    )
    try:
        terminal = Terminal(watchdog.watched(load_module(settings.module)), settings)
    except NoModule as error:
        yield Finding("MetaTrader 5", False, str(error))
        yield from (Finding(name, None) for name in unseen)
        return
    watchdog.start()
    with closing(terminal):
        try:
            terminal.connect()
        except CannotConnect as error:
            found = isinstance(error.__cause__, Unreadable)  # it was reached, and shows another account or none
            yield Finding("MetaTrader 5", found, "found" if found else str(error))
            yield Finding("account", False if found else None, str(error) if found else "")
            yield from (Finding(name, None) for name in unseen[1:])
            return
        yield Finding("MetaTrader 5", True, "found")
        yield Finding("account", True, f"{settings.login} at {settings.server}, connected to the broker")
        try:
            for one in terminal.permissions() if trades else []:
                yield Finding(one.name, one.given, "" if one.given else one.missing)
            account = terminal.read().account
            kind = {
                MarginMode.HEDGING: "hedging",
                MarginMode.NETTING: "netting",
                MarginMode.EXCHANGE: "netting (exchange)",
            }
            words = f"{kind[account.margin_mode]}, equity {account.equity} {account.currency}"
            yield Finding("kind of account", True, words)
            yield from look(terminal)
        except Unreadable as error:
            yield Finding("reading the account", False, str(error), "is the terminal still running and logged in?")


@contextmanager
def ledger_of(config: ClientConfig) -> Iterator[LedgerLookedAt | None]:
    """The copier's ledger; None while there is none. Raises `WrongLedger`, `LedgerError`."""
    path = config.folder / "client.db"
    if not path.exists():
        yield None
        return
    with closing(LedgerLookedAt(path, f"account {config.mt5.login} at {config.mt5.server}")) as ledger:
        yield ledger


def against_ledger(config: ClientConfig, reading: Reading, theirs: dict[str, Any]) -> Iterator[Finding]:
    """The drawdown, and positions and orders with our magic number that no copier of this folder has made."""
    ours = [thing for thing in reading.everything if thing.magic == config.magic]
    try:
        with ledger_of(config) as ledger:
            stored = Decimal((ledger and ledger.get("highest_equity")) or 0)
            known = [] if ledger is None else [ledger.remembered(thing.comment, thing.identifier) for thing in ours]
    except (WrongLedger, LedgerError):
        return  # `copying` has said it
    equity = reading.account.equity
    highest = max(stored, equity)
    drawdown = drawdown_percent(equity, highest)
    most = config.limits.max_drawdown_percent
    if (limit := (theirs.get("trade_copy") or {}).get("max_drawdown_percent")) is not None:
        most = min(most, Decimal(limit))
    yield Finding(
        "drawdown",
        drawdown <= most,
        f"equity {equity} is {drawdown:.2f} % below its highest, {highest}; allowed {most.normalize():f} %",
        "nothing is opened. After a withdrawal, or to accept the loss, start the copier once with --reset-drawdown",
    )
    unknown = len(ours) - sum(copy is not None for copy in known)
    yield Finding(
        f"magic {config.magic}",
        not unknown,
        f"{unknown} positions or orders that this copier did not make" if unknown else "no other program uses it",
        "does another program, or a copier in another folder, trade with this number? Give one of them another",
    )


def symbols(config: ClientConfig, terminal: Terminal, names: list[str]) -> Iterator[Finding]:
    """The symbols that the masters traded lately, and those of the file's table."""
    wanted = sorted({*names, *config.names.mapped})
    if not wanted:
        yield Finding("symbols", None, "the masters have traded nothing lately")
    for name in wanted:
        client = config.names.of(name)
        label = name if client == name else f"{name} = {client}"
        try:
            symbol = terminal.symbol(client)
        except Unreadable as error:
            yield Finding(label, False, str(error), "look for it in the terminal's Market Watch")
            continue
        yield symbol_finding(config, name, label, symbol)


def symbol_finding(config: ClientConfig, name: str, label: str, symbol: Symbol | None) -> Finding:
    if symbol is None:
        refusal = config.names.unknown(name)
        todo = "write the name of your broker's symbol into symbols.map, or set symbols.prefix and symbols.suffix"
        return Finding(label, False, refusal.detail, todo)
    if not (symbol.opens_buy or symbol.opens_sell):
        todo = "your broker has another symbol for trading, perhaps: see symbols.map; or ask the broker"
        return Finding(label, False, "is there, and cannot be traded", todo)
    if symbol.bid <= 0 or symbol.ask <= 0:
        return Finding(label, None, "has no quote now (is the market open?)")
    spread = (symbol.ask - symbol.bid) / symbol.point
    most = config.limits.max_spread_points
    todo = "while it is so wide nothing is opened: raise max_spread_points, if that is what you want"
    return Finding(label, spread <= most, f"spread now {spread:.0f} points, allowed {most}", todo)
