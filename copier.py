"""The follower's side: receive, look, plan, act, record, report.

One thread owns the terminal and does everything that touches money (`Copier.step`). It never touches a position that is
not a copy of its own. What became of the copies is worked out in `copies.py`, what to do in `plan.py`; `trader.py`
does it and writes it down.
"""

from __future__ import annotations

import logging
import math
import queue
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, Final

from account import Reading, Symbol
from books import Books
from config import ClientConfig
from console import Spoken
from copies import LIVE, State
from ledger import CopierLedger, LedgerError
from link import Heard, Inbox, Lost
from mirror import CopyKey, Held, Mirror
from plan import Known, Move, Open, Refuse, Rules, SetStops, Step, StopsAre, plan, refused_after_defect
from program import main
from safety import Copying, Limits, drawdown_percent, stricter
from signals import TIME_MS, Action, Check, Source, an_object, number, one_of, or_null, read_fields
from stocktaking import Stocktaking
from terminal import ConnectionLost, Terminal, Unreadable
from trader import Trader
from version import VERSION, is_older
from worker import Status

log = logging.getLogger(__name__)

FRESH_S: Final = 0.25  # how old the quotes and ages may be from which an open was planned; and what moves may take
ASK_AGAIN_S: Final = 5.0  # between two questions for the whole book
ASLEEP_S: Final = 5.0  # a longer gap between two looks means that the machine slept: ask for a fresh book first


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server lets this account do. It can tighten the follower's own rules, never loosen them."""

    copying: Copying = Copying.ON
    limits: Mapping[str, Decimal | int] = field(default_factory=dict)


TYPED: Final = {"pause": Copying.PAUSED, "resume": Copying.ON, "flatten": Copying.FLATTEN}  # at the console

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
        self._mirror = Mirror(
            ledger.get("epoch") or "",
            int(ledger.get("seq") or 0),
            ledger.get("run") or "",
            masters={copy.key[0] for copy in ledger.copies.values()},
            unreported=(ledger.get("unreported") or "").split(),
        )
        self._trader = Trader(terminal, ledger, config, self._mirror, clock)
        self._remembered = self._heard_of_server()
        self._server_settings = ServerSettings(Copying.PAUSED)  # as heard last: a lost connection does not end a pause
        self._settings_heard = False  # since the connection was made
        self._alone_since = 0  # UTC ms by the server's clock: before that another copier of this user was connected
        self._highest_equity = self._stored_equity = Decimal(ledger.get("highest_equity") or 0)
        self._last_look, self._last_wall = clock.monotonic(), clock.time()
        self._born_epoch, self._born_at = ledger.get("born_epoch") or "", int(ledger.get("born_at") or 0)
        self._books = Books(ledger, self._mirror)
        self._stock = Stocktaking(terminal, ledger, self._mirror, config.magic)
        self._typed = Copying(ledger.get("typed_copying") or Copying.ON)  # at the console
        self._reading: Reading | None = None  # the last good one
        self._spoken = Spoken(log)
        self._asked_at = -math.inf
        # Moves whose turn did not come in the last look, and since when (monotonic seconds) they wait for it.
        self._waiting: dict[CopyKey, float] = {}
        self.defect = ""  # of this program, the first since its start; then nothing is opened
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
            self._settings_heard = False
            self._asked_at = -math.inf
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
            self._spoken.say(
                "message",
                f"the server sent a {kind} message that this program does not understand: {error}",
                logging.ERROR,
            )
            self._mirror.synced = False
            self._ask_for_book(heard.at)
            return
        if kind == "book":
            self._asked_at = -math.inf
            self._compare_versions(str(message.get("version", "")))
            self._spoken.clear("server", "connected to the server: book with %d trades", len(self._mirror.trades))
        elif kind in ("signal", "modify", "close"):
            log.info("received %s", _told(message))
        elif kind == "master":
            data = message["data"]
            log.info("master %s is %s", data["master"], "online" if data["online"] else "offline")
        if needs_sync:
            self._ask_for_book(heard.at)

    def _compare_versions(self, servers: str) -> None:
        if is_older(VERSION, servers):
            self._spoken.say(
                "version", f"this copier is {VERSION}, the server {servers}: ask your provider for the new one"
            )

    def _ask_for_book(self, now: float) -> None:
        """Ask once, and again after a while: the question or its answer may be lost."""
        if now - self._asked_at >= ASK_AGAIN_S:
            self._asked_at = now
            log.info("a message is missing, was not understood or is doubted: asking for the whole book")
            self._link.sync()

    def _take_settings(self, message: Mapping[str, Any]) -> None:
        """The account's settings on the server. Raises `ValueError`; then nothing is opened until better ones come."""
        self._settings_heard = False
        whole = read_fields(message, {"data": an_object}, {"copier_since": TIME_MS}, others_allowed=True)
        data = whole["data"]
        found = read_fields(data, {"copying": one_of(Copying)}, {"trade_copy": or_null(an_object)}, others_allowed=True)
        limits = read_fields(found.get("trade_copy") or {}, {}, LIMITS, others_allowed=True)
        self._server_settings = ServerSettings(
            found["copying"], {name: value for name, value in limits.items() if value is not None}
        )
        self._alone_since = whole.get("copier_since", 0)
        self._settings_heard = True
        words = "".join(f", {name} {value}" for name, value in self._server_settings.limits.items())
        log.info("the server's settings: copying %s%s", found["copying"], words)

    def rules(self) -> Rules:
        """The follower's file, made stricter by the server's settings."""
        config, server = self._config, self._server_settings
        return Rules(
            stricter(stricter(config.copying, server.copying), self._typed),
            config.sizing,
            config.limits.tightened(server.limits),
            config.magic,
            config.names,
            config.allow_mixed_symbol,
        )

    # -- what a person at the console asks for

    def command(self, word: str) -> str:
        """Carry out a typed command; what that means, in words. It holds until another one is typed, over every
        restart."""
        if word == "status":
            return self.status().line
        self._typed = TYPED[word]
        try:
            self._ledger.set(typed_copying=str(self._typed))
        except LedgerError as error:
            return f"{self._in_force()}, but it could not be stored and is forgotten at the end: {error}"
        return self._in_force()

    def _in_force(self) -> str:
        others = stricter(self._config.copying, self._server_settings.copying)
        return f"copying is {self.rules().copying} (console {self._typed}, settings {others})"

    def status(self) -> Status:
        mirror, reading = self._mirror, self._reading
        live = [copy for copy in self._ledger.copies.values() if copy.state in LIVE]
        connected = mirror.synced and self._settings_heard
        online = [name for name, master in mirror.masters.items() if master.online]
        copying = self.rules().copying if mirror.known else stricter(self._config.copying, self._typed)
        limits, lots = self.rules().limits, sum((copy.current or copy.volume for copy in live), Decimal(0))
        missing = sum(copy.key in self._trader.without_stop for copy in live)
        refused = reading is not None and reading.account.trading_refused
        # What does not fit into the width of the console is cut off at the end.
        parts = ["OPENS NOTHING UNTIL IT IS STARTED AGAIN, see client.log"] if self.defect else []
        parts.append("connected" if connected else "NOT CONNECTED")
        parts += [f"{', '.join(online)} online" if online else "NO MASTER ONLINE"] if connected else []
        parts += ["ORDERS REFUSED"] if refused else []
        parts += [f"{missing} WITHOUT THEIR STOP"] if missing else []
        parts += [f"copying {copying}", f"copies {len(live)}/{limits.max_exposure_trades}"]
        parts.append(f"lots {lots.normalize():f}/{limits.max_exposure_lots.normalize():f}")
        if reading is not None:
            drawdown = drawdown_percent(reading.account.equity, self._highest_equity)
            words = "drawdown" if drawdown <= limits.max_drawdown_percent else "DRAWDOWN"
            parts.append(f"{words} {drawdown:.1f}/{limits.max_drawdown_percent.normalize():f} %")
            parts.append(f"equity {reading.account.equity} {reading.account.currency}")
        took = self._trader.last_took_ms
        parts += [] if took is None else [f"last open took {took} ms"]
        short = f"{len(live)} copies" if connected else "NOT CONNECTED"
        short = "OPENS NOTHING" if self.defect else short
        return Status(" | ".join(parts), f"{short}, copying {copying}: copier {self._config.mt5.login}")

    # -- one round

    def step(self) -> bool:
        """Look, plan, act. Whether there is reason to look again at once. Raises `ConnectionLost`, `LedgerError`."""
        began, wall = self._clock.monotonic(), self._clock.time()
        # The monotonic clock of some machines stands still while they sleep; the wall clock is asked for nothing else.
        gap = max(began - self._last_look, abs(wall - self._last_wall))
        if gap > ASLEEP_S:
            log.warning("no look at the account for %.0f s: asking for a fresh book first", gap)
            self._stock.begin_anew()
            self._mirror.synced = False
            self._ask_for_book(began)
        incomplete = self._mirror.synced and not self._settings_heard
        if began - self._mirror.book_received >= ASK_AGAIN_S and (
            self._mirror.went_back or incomplete or self._waits_for_a_report()
        ):
            # Settings, and what is said of a master's reports, have no number by which their loss is noticed.
            self._ask_for_book(began)
        try:
            return self._look(began)
        finally:
            self._last_look, self._last_wall = self._clock.monotonic(), self._clock.time()

    def _waits_for_a_report(self) -> bool:
        """Whether the server's book lacks copied trades of a sender that has not reported to its database yet."""
        mirror = self._mirror
        unreported = {name for name, master in mirror.masters.items() if master.reported_at is None}
        return bool(unreported) and any(
            copy.key[0] in unreported and copy.source is Source.TERMINAL and copy.key[:3] not in mirror.trades
            for copy in self._ledger.copies.values()
            if copy.state in LIVE
        )

    def _look(self, began: float) -> bool:
        try:
            reading = self._terminal.read()
        except Unreadable as problem:
            self._stock.begin_anew()
            self._spoken.say("terminal", f"the account cannot be read: {problem}", logging.WARNING)
            if isinstance(problem, ConnectionLost):
                raise
            return False
        self._spoken.clear("terminal", "the account can be read again")
        self._reading = reading
        now = self._clock.monotonic()
        slow = now - began > ASLEEP_S  # messages have been waiting meanwhile
        return self._act_on(reading, now, opens=not slow) or slow

    def _act_on(self, reading: Reading, now: float, *, opens: bool) -> bool:
        mirror, ledger = self._mirror, self._ledger
        problem: LedgerError | None = None
        in_doubt = True
        try:
            in_doubt = self._take_stock(reading, now)
        except LedgerError as error:
            problem = error  # what takes risk away goes on
        books = self._books.at(now)
        rules = self.rules()
        if not mirror.known and rules.copying is not Copying.FLATTEN:
            return _raised(problem)
        symbols = self._symbols(books)
        known = Known(
            books=books,
            copies=dict(ledger.copies),
            reading=reading,
            symbols=symbols,
            highest_equity=self._highest_equity,
            now=now,
            server_ms=mirror.server_ms(now),
            opens_allowed=opens and mirror.synced and self._settings_heard and not in_doubt,
            defect=self.defect,
            born_at=self._born_at if mirror.epoch == self._born_epoch else 0,
            alone_since=self._alone_since,
            utc_offset_s=self._terminal.utc_offset_s({symbol.name for symbol in symbols.values() if symbol}),
            rests=self._trader.rests(),
            traces=self._stock.traces(books, reading),
            foreign=self._stock.foreign,
            blocked=self._stock.blocked,
            closable=self._stock.closable,
        )
        steps = self._planned(known, rules)
        problem = self._carry_out(steps, reading, rules) or problem
        self._trader.forget({*books, *ledger.copies})
        return _raised(problem) or any(not isinstance(step, Refuse | StopsAre) for step in steps)

    def _planned(self, known: Known, rules: Rules) -> list[Step]:
        """What to do now. A defect of this program about one symbol must not keep the copies of others from being
        closed."""
        try:
            return plan(self._mirror, known, rules)
        except Exception as defect:
            if not self.defect:
                log.exception("a defect of this program: nothing is opened any more, other copies are still followed")
            self.stop_opening(repr(defect))
        steps: list[Step] = []
        for symbol in {copy.symbol for copy in known.copies.values()}:
            copies = {key: copy for key, copy in known.copies.items() if copy.symbol == symbol}
            with suppress(Exception):
                steps += plan(self._mirror, replace(known, copies=copies, opens_allowed=False), rules)
        if known.opens_allowed:
            steps += refused_after_defect(replace(known, defect=self.defect))
        return steps

    def _carry_out(self, steps: list[Step], reading: Reading, rules: Rules) -> LedgerError | None:
        """Do it: all that takes risk away; then opens, and then moves, for a short time each. A close that comes
        meanwhile, or a move or an open among very many of the other kind, does not wait until all are done. What was
        not done is planned anew in the next look, and moves take turns."""
        problem: LedgerError | None = None
        self._trader.announce(steps)
        ends: dict[type[Step], float] = {
            Open: self._clock.monotonic() + FRESH_S
        }  # older quotes, ages and margin are no ground to open on
        waiting: dict[CopyKey, float] = {}
        for step in sorted(steps, key=self._turn):
            match step:
                case Open() if self._clock.monotonic() > ends[Open]:
                    continue
                case SetStops() | Move():
                    if self._clock.monotonic() > ends.setdefault(Move, self._clock.monotonic() + FRESH_S):
                        waiting[step.copy.key] = self._waiting.get(step.copy.key, self._clock.monotonic())
                        continue
                case StopsAre() if step.copy.key in waiting:
                    continue
            try:
                self._trader.do(step, reading, rules)
            except LedgerError as error:
                problem = error
        self._waiting = waiting
        return problem

    def _turn(self, step: Step) -> tuple[int, float]:
        match step:
            case SetStops() | Move():
                return 1, self._waiting.get(step.copy.key, math.inf)
            case StopsAre():
                return 2, 0.0  # what is to be told of a move depends on what has come of it
        return 0, 0.0

    def _take_stock(self, reading: Reading, now: float) -> bool:
        """Write down what account and server have shown. Whether the account contradicts the ledger unproven."""
        mirror = self._mirror
        problem: LedgerError | None = None
        self._books.load()
        try:
            self._ledger.store_kept()
            self._books.store_legs()
        except LedgerError as error:
            problem = error  # nothing is opened then, but what the account shows is seen all the same
        if reading.account.trading_refused:
            self._spoken.say("trading", f"orders are refused: {reading.account.trading_refused}", logging.ERROR)
        else:
            self._spoken.clear("trading", "orders are taken again")
        all_go = self.rules().copying is Copying.FLATTEN
        seen = self._stock.take(reading, self._books.at(now), now, all_go=all_go)
        self._trader.record(seen)
        self._remember_equity(reading)
        if mirror.known:
            self._remember_server()
            self._remember_birth()
        return _raised(problem) or bool(seen.doubt)

    # -- what is remembered

    def _remember_equity(self, reading: Reading) -> None:
        self._highest_equity = max(self._highest_equity, reading.account.equity)
        if self._highest_equity > self._stored_equity:
            self._ledger.set(highest_equity=format(self._highest_equity, "f"))
            self._stored_equity = self._highest_equity

    def _heard_of_server(self) -> dict[str, str]:
        """What is remembered of the server's database, as it is in the ledger."""
        mirror = self._mirror
        unreported = " ".join(sorted(mirror.unreported))
        return {"epoch": mirror.epoch, "seq": str(mirror.seq), "run": mirror.run, "unreported": unreported}

    def _remember_server(self) -> None:
        heard = self._heard_of_server()
        if heard != self._remembered and not self._mirror.went_back:
            self._ledger.set(**heard)
            self._remembered = heard

    def _remember_birth(self) -> None:
        """A new ledger begins with its first book, by the clock of the server that sent it: what is older than that may
        have been copied with a ledger that was lost, and is not opened."""
        if not self._born_at:
            self._ledger.set(born_epoch=self._mirror.epoch, born_at=str(self._mirror.book_time))
            self._born_epoch, self._born_at = self._mirror.epoch, self._mirror.book_time

    def _symbols(self, books: Mapping[CopyKey, Held]) -> dict[str, Symbol | None]:
        """The symbols that a decision may be about now, those of trades to be opened with their margin."""
        followed = {c.symbol for c in self._ledger.copies.values() if c.state in (State.OPEN, State.CLOSING)}
        undecided = [held.trade for key, held in books.items() if key not in self._ledger.copies]
        asked = {self._config.names.of(trade.symbol) for trade in undecided} | {
            copy.symbol for copy in self._ledger.copies.values() if copy.state is State.OPENING
        }
        found: dict[str, Symbol | None] = {}
        for name in followed | asked:
            try:
                symbol = self._terminal.symbol(name)
            except ConnectionLost:
                raise
            except Unreadable as problem:  # must not hold up what concerns the others
                self._spoken.say(f"symbol {name}", str(problem))
                continue
            self._spoken.clear(f"symbol {name}", "the terminal answers about %s again", name)
            if symbol is not None and name in asked:
                symbol = replace(
                    symbol,
                    margin_buy=self._terminal.margin_per_lot(Action.BUY, symbol),
                    margin_sell=self._terminal.margin_per_lot(Action.SELL, symbol),
                )
            found[name] = symbol
        return found

    def stop_opening(self, why: str) -> None:
        """After a defect of this program: what is open is still followed and closed, nothing is opened any more."""
        self.defect = self.defect or why


def _raised(problem: LedgerError | None) -> bool:
    if problem is not None:
        raise problem
    return False


def _told(message: Mapping[str, Any]) -> str:
    data = message.get("data", {})
    words = [f"{message.get('type')} seq {message.get('seq')}: {data.get('master')} #{data.get('ticket')}"]
    words += [str(data.get(name)) for name in ("action", "symbol")]
    words += [f"{name} {data[name]}" for name in ("master_volume", "price", "sl", "tp", "remaining") if name in data]
    return " ".join(words)


if __name__ == "__main__":
    from run_copier import COPIER  # here, because it is made of what is above

    sys.exit(main(COPIER))
