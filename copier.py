"""The follower's side: receive, look, plan, act, record, report.

One thread owns the terminal and does everything that touches money (`Copier.step`). It never touches a position that is
not a copy of its own. What became of the copies is worked out in `copies.py`, what to do in `plan.py`; `trader.py`
does it and writes it down.
"""

from __future__ import annotations

import argparse
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from account import MarginMode, Reading, Symbol
from api_client import Api
from config import ClientConfig, load_client
from console import NoModule, Spoken, load_module, log_to
from copies import LIVE, Copy, Evidence, State, observe, order_key, unseen
from ledger import CopierLedger, LedgerError, OneInstance, WrongLedger
from link import Heard, Inbox, Listener, Lost, Reporter
from mirror import CopyKey, Mirror
from plan import Known, Refuse, Rules, plan
from safety import Copying, Limits, stricter
from settings_file import ConfigError
from signals import Action, Check, Kind, an_object, number, one_of, or_null, read_fields
from terminal import ConnectionLost, Terminal, Unreadable, connect_until
from trader import Trader, named

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0  # also without any message
ASLEEP_S: Final = 5.0  # a longer gap between two looks means that the machine slept: ask for a fresh book first


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server lets this account do. It can tighten the follower's own rules, never loosen them."""

    copying: Copying = Copying.ON
    limits: Mapping[str, Decimal | int] = field(default_factory=dict)


# The limits that the server may send; null is none.
LIMITS: Final[dict[str, Check]] = {one.name: or_null(number(0, 10**9)) for one in fields(Limits)}


class Copier:
    """The thread that trades. `step()` is one round; everything it works with is handed in."""

    def __init__(
        self,
        terminal: Terminal,
        ledger: CopierLedger,
        config: ClientConfig,
        inbox: Inbox,
        link: Any,
        clock: Any = time,
    ) -> None:
        """`link` has `sync()`, which asks the server for the whole book."""
        self._terminal = terminal
        self._ledger = ledger
        self._config = config
        self._inbox = inbox
        self._link = link
        self._clock = clock
        self._mirror = Mirror(ledger.get("epoch") or "", int(ledger.get("seq") or 0))
        self._trader = Trader(terminal, ledger, config, self._mirror, clock)
        self._remembered = (self._mirror.epoch, self._mirror.seq)
        self._server_settings: ServerSettings | None = None  # None = not heard since the connection was made
        self._highest_equity = self._stored_equity = Decimal(ledger.get("highest_equity") or 0)
        self._last_look, self._last_wall = clock.monotonic(), clock.time()
        self._born_epoch, self._born_at = ledger.get("born_epoch") or "", int(ledger.get("born_at") or 0)
        self._missing_since: dict[CopyKey, float] = {}
        self._spoken = Spoken(log)
        self._asked_for_sync = False
        self.ended = ""  # why the copier must stop; empty while it need not

    # -- receiving

    def wait(self, longest: float) -> None:
        """Wait for the next message, at most so many seconds, and take in all that have come."""
        try:
            self._take(self._inbox.get(timeout=max(0.0, longest)))
            while True:
                self._take(self._inbox.get_nowait())
        except queue.Empty:
            pass

    def _take(self, heard: Heard | Lost) -> None:
        if isinstance(heard, Lost):
            self._mirror.disconnected()
            self._server_settings = None
            self._asked_for_sync = False
            if heard.for_good:
                self.ended = heard.why
            self._spoken.say("server", f"not connected to the server: {heard.why}", logging.WARNING)
            return
        message = heard.message
        kind = message.get("type")
        try:
            if kind == "config":
                self._take_settings(message)
                return
            needs_sync = self._mirror.apply(message, heard.at)
        except ValueError as error:
            log.error("the server sent a %s message that this program does not understand: %s", kind, error)
            self._mirror.synced = False
            needs_sync = True
        if kind == "book":
            self._asked_for_sync = False
            self._spoken.clear("server", "connected to the server: book with %d trades", len(self._mirror.trades))
        elif kind in ("signal", "modify", "close"):
            log.info("received %s", _told(message))
        elif kind == "master":
            data = message.get("data", {})
            log.info("master %s is %s", data.get("master"), "online" if data.get("online") else "offline")
        if needs_sync and not self._asked_for_sync:
            log.info("a message is missing or was not understood: asking for the whole book")
            self._asked_for_sync = True
            self._link.sync()

    def _take_settings(self, message: Mapping[str, Any]) -> None:
        """The account's settings on the server. Raises `ValueError`; then nothing is opened until better ones come."""
        self._server_settings = None
        data = read_fields(message, {"data": an_object}, others_allowed=True)["data"]
        found = read_fields(data, {"copying": one_of(Copying)}, {"trade_copy": or_null(an_object)}, others_allowed=True)
        limits = read_fields(found.get("trade_copy") or {}, {}, LIMITS, others_allowed=True)
        self._server_settings = ServerSettings(
            found["copying"], {name: value for name, value in limits.items() if value is not None}
        )
        words = "".join(f", {name} {value}" for name, value in self._server_settings.limits.items())
        log.info("the server's settings: copying %s%s", found["copying"], words)

    def rules(self) -> Rules:
        """The follower's file, made stricter by the server's settings."""
        config, server = self._config, self._server_settings or ServerSettings()
        return Rules(
            stricter(config.copying, server.copying),
            config.sizing,
            config.limits.tightened(server.limits),
            config.magic,
        )

    # -- one round

    def step(self) -> bool:
        """Look, plan, act. Whether there is reason to look again at once."""
        now, wall = self._clock.monotonic(), self._clock.time()
        # The monotonic clock of some machines stands still while they sleep; the wall clock is asked for nothing else.
        gap = max(now - self._last_look, abs(wall - self._last_wall))
        self._last_look, self._last_wall = now, wall
        if gap > ASLEEP_S:
            log.warning("no look at the account for %.0f s: asking for a fresh book first", gap)
            self._missing_since.clear()
            self._mirror.synced = False
            self._link.sync()
        try:
            reading = self._terminal.read()
        except Unreadable as problem:
            self._missing_since.clear()
            self._spoken.say("terminal", f"the account cannot be read: {problem}", logging.WARNING)
            if isinstance(problem, ConnectionLost):
                raise
            return False
        self._spoken.clear("terminal", "the account can be read again")
        if reading.account.margin_mode is not MarginMode.HEDGING:
            self.ended = f"account {reading.account.login} is a netting account; only hedging accounts are copied to"
            return False
        try:
            return self._act_on(reading, now)
        except Unreadable as problem:  # a quote or the history
            self._missing_since.clear()
            self._spoken.say("terminal", f"the terminal does not answer: {problem}", logging.WARNING)
            return False

    def _act_on(self, reading: Reading, now: float) -> bool:
        mirror, ledger = self._mirror, self._ledger
        problem: LedgerError | None = None
        in_doubt = True
        try:
            in_doubt = self._take_stock(reading, now)
        except LedgerError as error:
            problem = error  # what takes risk away goes on
        if not mirror.known:
            return False
        rules = self.rules()
        symbols = self._symbols()
        known = Known(
            copies=dict(ledger.copies),
            reading=reading,
            symbols=symbols,
            highest_equity=self._highest_equity,
            now=now,
            opens_allowed=mirror.synced and self._server_settings is not None and not in_doubt,
            born_at=self._born_at if mirror.epoch == self._born_epoch else 0,
            utc_offset_s=self._terminal.utc_offset_s({symbol.name for symbol in symbols.values() if symbol}),
            not_before=self._trader.not_before(),
        )
        steps = plan(mirror, known, rules)
        for step in steps:
            try:
                self._trader.do(step, reading, rules)
            except LedgerError as error:
                problem = error
        self._trader.forget({*mirror.trades, *ledger.copies})
        if problem is not None:
            raise problem
        return any(not isinstance(step, Refuse) for step in steps)

    def _take_stock(self, reading: Reading, now: float) -> bool:
        """Write down what account and server have shown. Whether the account contradicts the ledger unproven."""
        mirror, ledger = self._mirror, self._ledger
        needed = {*mirror.trades, *(order_key(key) for key in mirror.trades)}
        ledger.load(needed)
        ledger.forget(needed)
        if reading.account.trading_refused:
            self._spoken.say("trading", f"orders are refused: {reading.account.trading_refused}", logging.ERROR)
        else:
            self._spoken.clear("trading", "orders are taken again")
        in_doubt = self._observe(reading, now)
        self._remember_equity(reading)
        if mirror.known:
            self._remember_server()
            self._remember_birth()
        return in_doubt

    def _observe(self, reading: Reading, now: float) -> bool:
        """Bring the ledger up to what the account shows; whether the reading contradicts it without proof."""
        ledger = self._ledger
        watched = [copy for copy in ledger.copies.values() if copy.state in LIVE or copy.state is State.UNKNOWN]
        missing = unseen(watched, reading)
        evidence = {copy.key: self._evidence(copy) for copy in missing}
        waiting = {copy.key for copy in missing} | {copy.key for copy in watched if copy.reduce_to is not None}
        self._missing_since = {key: self._missing_since.get(key, now) for key in waiting}
        waited = {key: now - since for key, since in self._missing_since.items()}
        magic = self._config.magic
        comments = [thing.comment for thing in reading.everything if thing.magic == magic]
        seen = observe(watched, reading, evidence, waited, ledger.by_tag(comments), self._mirror, magic)
        self._trader.record(seen)
        return bool(seen.doubt)

    def _evidence(self, copy: Copy) -> Evidence:
        """What the history says of a copy that the account does not show."""
        ticket = copy.client_ticket if copy.client_kind is Kind.ORDER else copy.order
        past = self._terminal.past_order(ticket) if ticket else None
        if past is None and copy.state is State.OPENING and not copy.order:
            found = [p for p in self._terminal.past_orders(3600) if p.comment == copy.tag and p.magic == copy.magic]
            past = found[0] if found else None
        identifier = past.position_id if past is not None and past.position_id else copy.client_ticket
        deals = self._terminal.deals_of(identifier) if identifier else []
        return Evidence(past, tuple(deals))

    # -- what is remembered

    def _remember_equity(self, reading: Reading) -> None:
        self._highest_equity = max(self._highest_equity, reading.account.equity)
        if self._highest_equity > self._stored_equity:
            self._ledger.set(highest_equity=format(self._highest_equity, "f"))
            self._stored_equity = self._highest_equity

    def _remember_server(self) -> None:
        heard = (self._mirror.epoch, self._mirror.seq)
        if heard != self._remembered and not self._mirror.went_back:
            self._ledger.set(epoch=heard[0], seq=str(heard[1]))
            self._remembered = heard

    def _remember_birth(self) -> None:
        """A new ledger begins with its first book, by the clock of the server that sent it: what is older than that may
        have been copied with a ledger that was lost, and is not opened."""
        if not self._born_at:
            self._ledger.set(born_epoch=self._mirror.epoch, born_at=str(self._mirror.book_time))
            self._born_epoch, self._born_at = self._mirror.epoch, self._mirror.book_time

    def _symbols(self) -> dict[str, Symbol | None]:
        """The symbols that a decision may be about now, those of trades to be opened with their margin."""
        followed = {c.symbol for c in self._ledger.copies.values() if c.state in (State.OPEN, State.CLOSING)}
        undecided = [held.trade for key, held in self._mirror.trades.items() if key not in self._ledger.copies]
        found: dict[str, Symbol | None] = {}
        for name in followed | {trade.symbol for trade in undecided}:
            symbol = self._terminal.symbol(name)
            if symbol is not None and any(trade.symbol == name for trade in undecided):
                symbol = replace(
                    symbol,
                    margin_buy=self._terminal.margin_per_lot(Action.BUY, symbol),
                    margin_sell=self._terminal.margin_per_lot(Action.SELL, symbol),
                )
            found[name] = symbol
        return found


def _told(message: Mapping[str, Any]) -> str:
    data = message.get("data", {})
    words = [f"{message.get('type')} seq {message.get('seq')}: {data.get('master')} #{data.get('ticket')}"]
    words += [str(data.get(name)) for name in ("action", "symbol")]
    words += [f"{name} {data[name]}" for name in ("master_volume", "price", "sl", "tp", "remaining") if name in data]
    return " ".join(words)


# --- the program -----------------------------------------------------------------------------------------------------


def run(config: ClientConfig, stop: threading.Event) -> int:
    """Copy until `stop` is set or the copier must end by itself. The exit code."""
    folder = config.folder
    one_instance = OneInstance(folder / "client.lock")
    ledger = CopierLedger(folder / "client.db", f"account {config.mt5.login} at {config.mt5.server}")
    terminal = Terminal(load_module(config.mt5.module), config.mt5)
    inbox: Inbox = queue.SimpleQueue()
    api = Api(config.api)
    listener = Listener(api, config.api, inbox, stop)
    reporter = Reporter(api, ledger, stop)
    copier = Copier(terminal, ledger, config, inbox, listener)
    try:
        if not connect_until(terminal, stop):
            return 0
        log.info("account %d at %s, copying %s", config.mt5.login, config.mt5.server, config.copying)
        listener.start()
        reporter.start()
        while not stop.is_set() and not copier.ended:
            again = False
            try:
                again = copier.step()
                reporter.wake.set()
            except ConnectionLost:
                connect_until(terminal, stop)
            except LedgerError as error:
                log.error("nothing is opened while the ledger cannot be written: %s", error)
            copier.wait(0.0 if again else LOOK_EVERY_S)
        if copier.ended:
            log.error("stopped: %s", copier.ended)
        unknown = [copy for copy in ledger.copies.values() if copy.state in (State.OPENING, State.UNKNOWN)]
        for copy in unknown:
            log.warning("outcome not known yet: %s", named(copy))
        return 1 if copier.ended else 0
    finally:
        stop.set()
        listener.close()
        reporter.wake.set()
        for thread in (listener, reporter):
            if thread.is_alive():
                thread.join(5.0)
                if thread.is_alive():
                    log.warning("thread %s did not end in time", thread.name)
        terminal.close()
        ledger.close()
        one_instance.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Copies the trades of your signal provider to your MetaTrader 5 account."
    )
    parser.add_argument("--config", type=Path, default=Path("config_client.json"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        config = load_client(options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    log_to(config.folder / "client.log")
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        return run(config, stop)
    except (WrongLedger, LedgerError, NoModule) as error:
        log.error("%s", error)
        return 3
    finally:
        logging.shutdown()


if __name__ == "__main__":
    sys.exit(main())
