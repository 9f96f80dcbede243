"""The follower's side: receive, look, plan, act, record, report.

One thread owns the terminal and does everything that touches money (`Copier.step`). It never sends an order before the
intent is committed to the ledger, never sends one again whose outcome is unknown, and never touches a position that is
not a copy of its own. What to do is decided in `plan.py`; here it is done.
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
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from account import Order, Position, Reading, Symbol
from api_client import Api
from config import ClientConfig, ConfigError, load_client
from console import NoModule, Spoken, load_module, log_to
from copies import LIVE, Copy, Ended, Evidence, Reduced, Seen, State, observe, order_key, tag_of, unseen
from ledger import CopierLedger, LedgerError, OneInstance, WrongLedger
from link import Heard, Inbox, Listener, Lost, Reporter
from mirror import CopyKey, Held, Mirror
from plan import (
    Close,
    Inherit,
    Known,
    Move,
    Open,
    Reduce,
    Refuse,
    Remove,
    Rules,
    SetStops,
    Step,
    plan,
)
from safety import Copying, Reason, stricter
from signals import Action, BadField, Kind, Trade, one_of
from terminal import ConnectionLost, Outcome, Terminal, Unreadable, Verdict, connect_until

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0  # also without any message
ASLEEP_S: Final = 5.0  # a longer gap between two looks means that the machine slept: ask for a fresh book first
REST_S: Final = (0.25, 0.25, 0.5, 1.0, 2.0, 5.0)  # after a step was done; after its first, second, … refusal
# A close is meant to be filled at whatever price there is; only Request and Instant execution look at this at all.
CLOSE_DEVIATION_POINTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Times:
    """When an open passed each station, UTC ms: for the report of latencies, never for a decision."""

    detected_at: int
    server_time: int
    received_at: int
    sent_at: int
    filled_at: int


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
        self._remembered = (self._mirror.epoch, self._mirror.seq)
        self._server_settings: Mapping[str, Any] | None = None  # None = not heard since the connection was made
        self._highest_equity = Decimal(ledger.get("highest_equity") or 0)
        self._last_look = clock.monotonic()
        self._born_epoch, self._born_at = ledger.get("born_epoch") or "", int(ledger.get("born_at") or 0)
        self._missing_since: dict[CopyKey, float] = {}
        self._rest: dict[tuple[CopyKey, type], tuple[float, int]] = {}  # until when, after how many refusals
        self._last_refusal: dict[CopyKey, Reason] = {}
        self._times: dict[CopyKey, Times] = {}
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
                self._take_settings(message.get("data"))
                return
            needs_sync = self._mirror.apply(message, heard.at)
        except BadField as error:
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

    def _take_settings(self, data: Any) -> None:
        settings = data if isinstance(data, dict) else {}
        copying = one_of(Copying)(settings.get("copying", "on"))
        limits = {
            name: value
            for name, value in (settings.get("trade_copy") or {}).items()
            if name.startswith("max_") and hasattr(self._config.limits, name)
        }
        self._server_settings = {"copying": copying, "limits": limits}
        log.info("the server's settings: copying %s%s", copying, "".join(f", {k} {v}" for k, v in limits.items()))

    def rules(self) -> Rules:
        """The follower's file, made stricter by the server's settings."""
        config, server = self._config, self._server_settings or {"copying": Copying.ON, "limits": {}}
        return Rules(
            stricter(config.copying, server["copying"]),
            config.sizing,
            config.limits.tightened(server["limits"]),
            config.magic,
        )

    # -- one round

    def step(self) -> bool:
        """Look, plan, act. Whether there is reason to look again at once."""
        now = self._clock.monotonic()
        if now - self._last_look > ASLEEP_S:
            log.warning("no look at the account for %.0f s: asking for a fresh book first", now - self._last_look)
            self._mirror.synced = False
            self._link.sync()
        self._last_look = now
        try:
            reading = self._terminal.read()
        except Unreadable as problem:
            self._missing_since.clear()
            self._spoken.say("terminal", f"the account cannot be read: {problem}", logging.WARNING)
            if isinstance(problem, ConnectionLost):
                raise
            return False
        self._spoken.clear("terminal", "the account can be read again")
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
            not_before={key: until for key, (until, _) in self._rest.items()},
        )
        steps = plan(mirror, known, rules)
        for step in steps:
            try:
                self._do(step, reading, rules)
            except LedgerError as error:
                problem = error
        self._tidy()
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
        for news in seen.news:
            match news:
                case Seen():
                    self._saw(news)
                case Ended():
                    self._ended(news)
                case Reduced():
                    self._reduced(news)
        for trade, thing in seen.adopted:
            self._adopt(trade, thing)
        for thing in seen.strangers:
            self._spoken.say(
                f"stranger {thing.identifier}",
                f"{thing.action} {thing.volume} {thing.symbol} #{thing.identifier} ({thing.comment!r}) has our magic "
                "but belongs to no trade that this copier knows: it is not touched",
                logging.WARNING,
            )
        for copy in seen.doubt:
            self._spoken.say(
                f"doubt {copy.key}",
                f"{_named(copy)} #{copy.client_ticket} is not on the account and nothing shows why: waiting for proof",
                logging.WARNING,
            )
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

    def _saw(self, seen: Seen) -> None:
        copy = self._ledger.copies.get(seen.copy.key, seen.copy)
        filled = copy.client_kind is Kind.ORDER and seen.kind is Kind.POSITION
        begins = copy.state in (State.OPENING, State.UNKNOWN) or copy.state not in LIVE
        now = replace(copy, client_kind=seen.kind, client_ticket=seen.ticket, current=seen.volume)
        if begins or filled:
            now = replace(now, volume=seen.volume)
        if begins:
            now = replace(now, state=State.OPEN, reason="", detail="")
        if begins and copy.state is State.OPENING and copy.key in self._times:
            times = self._times.pop(copy.key)
            report = self._report("opened", now, price=seen.price, times=times)
            words = "placed" if seen.kind is Kind.ORDER else "opened"
            took = f", {times.filled_at - times.detected_at} ms after it was detected" if times.detected_at else ""
            log.info("%s %s at %s as #%d%s", words, _named(now), seen.price, seen.ticket, took)
        elif begins:
            report = self._report("adopted", now, price=seen.price)
            log.warning("adopted %s: it is on the account as #%d (was %s)", _named(now), seen.ticket, copy.state)
        elif filled:
            report = self._report("opened", now, price=seen.price, detail="pending order filled")
            log.info("filled %s at %s, #%d", _named(now), seen.price, seen.ticket)
        else:
            report = None
            log.info("volume of %s #%d is now %s", _named(now), seen.ticket, seen.volume)
        self._ledger.record(now, reports=[report] if report else [])

    def _ended(self, ended: Ended) -> None:
        copy = self._ledger.copies.get(ended.copy.key, ended.copy)
        reason = copy.reason if copy.state is State.CLOSING and copy.reason else str(ended.reason)
        now = replace(copy, state=ended.state, current=Decimal(0), reduce_to=None, reason=reason, detail=ended.detail)
        event = str(ended.state)
        if ended.state is State.CLOSED and copy.client_kind is Kind.ORDER:
            event = "cancelled"
        deal = ended.deal
        report = self._report(event, now, price=deal.price if deal else None, volume=copy.current or copy.volume)
        self._ledger.record(now, reports=[report])
        loud = ended.state in (State.UNKNOWN, State.FAILED)
        log.log(logging.ERROR if loud else logging.INFO, "%s %s: %s", event, _named(now), ended.detail)

    def _reduced(self, news: Reduced) -> None:
        copy = self._ledger.copies[news.copy.key]
        now = replace(copy, reduce_to=None)
        self._ledger.record(now, reports=[self._report("reduced", now, volume=now.current)] if news.done else [])
        if news.done:
            log.info("reduced %s to %s lots", _named(now), now.current)
        else:
            log.warning("the reduction of %s to %s lots left no trace: it is planned anew", _named(now), copy.reduce_to)

    def _adopt(self, trade: Trade, thing: Position | Order) -> None:
        """Take up a position or order that carries the tag of a trade which this ledger knows nothing of."""
        copy = replace(
            self._new_copy(trade, thing.symbol, thing.volume),
            state=State.OPEN,
            current=thing.volume,
            client_kind=thing.kind,
            client_ticket=thing.identifier,
        )
        self._ledger.record(copy, reports=[self._report("adopted", copy, price=thing.price)])
        log.warning("adopted %s: it is on the account as #%d", _named(copy), copy.client_ticket)

    # -- what is remembered

    def _remember_equity(self, reading: Reading) -> None:
        if reading.account.equity <= self._highest_equity:
            return
        self._highest_equity = reading.account.equity
        self._ledger.set(highest_equity=format(reading.account.equity, "f"))

    def _remember_server(self) -> None:
        heard = (self._mirror.epoch, self._mirror.seq)
        if heard != self._remembered:
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

    def _tidy(self) -> None:
        """Forget what was remembered of trades that are no longer in any book."""
        keep = {*self._mirror.trades, *self._ledger.copies}
        self._last_refusal = {key: value for key, value in self._last_refusal.items() if key in keep}
        self._rest = {key: value for key, value in self._rest.items() if key[0] in keep}
        self._times = {key: value for key, value in self._times.items() if key in keep}

    # -- acting

    def _do(self, step: Step, reading: Reading, rules: Rules) -> None:
        match step:
            case Open():
                self._open(step, reading, rules)
            case Refuse():
                self._refuse(step)
            case Close():
                self._close(step, rules)
            case Reduce():
                self._reduce(step, rules)
            case Remove():
                self._remove(step)
            case SetStops():
                outcome = self._terminal.modify_position(step.position, sl=step.sl, tp=step.tp)
                self._moved(step, outcome, step.copy, f"SL {step.sl} TP {step.tp}")
            case Move():
                outcome = self._terminal.modify_order(
                    step.order,
                    price=step.price,
                    stoplimit=step.stoplimit,
                    sl=step.sl,
                    tp=step.tp,
                    expiration=step.expiration,
                )
                self._moved(step, outcome, step.copy, f"price {step.price} SL {step.sl} TP {step.tp}")
            case Inherit():
                self._inherit(step)

    def _new_copy(self, trade: Trade, symbol: str, volume: Decimal) -> Copy:
        key = (trade.master, *trade.key)
        return Copy(
            master=trade.master,
            kind=trade.kind,
            ticket=trade.ticket,
            state=State.OPENING,
            tag=tag_of(key),
            symbol=symbol,
            action=trade.action,
            magic=self._config.magic,
            source=trade.source,
            epoch=self._mirror.epoch,
            volume=volume,
            master_volume=trade.volume,
        )

    def _open(self, step: Open, reading: Reading, rules: Rules) -> None:
        trade, allowed = step.held.trade, step.allowed
        symbol = allowed.symbol
        copy = replace(
            self._new_copy(trade, symbol.name, allowed.volume),
            after_ticket=max((t.identifier for t in reading.everything), default=0),
        )
        if allowed.capped_from is not None:
            log.warning(
                "%s: the broker's maximum is %s lots, the rule asked for %s",
                _named(copy), allowed.volume, allowed.capped_from,
            )  # fmt: skip
        self._ledger.record(copy)  # the intent: from here on this order is never sent a second time
        sent_at = self._wall_ms()
        common: dict[str, Any] = {"sl": step.sl, "tp": step.tp, "magic": rules.magic, "comment": copy.tag}
        if trade.kind is Kind.POSITION:
            outcome = self._terminal.open(symbol, trade.action, allowed.volume, deviation=allowed.deviation, **common)
        else:
            outcome = self._terminal.place(
                symbol,
                trade.action,
                allowed.volume,
                price=step.price,
                stoplimit=step.stoplimit,
                expiration=step.expiration,
                **common,
            )
        held = step.held
        received_at = self._wall_ms() - int((self._clock.monotonic() - held.received) * 1000)
        match outcome.verdict:
            case Verdict.DONE:
                self._times[copy.key] = Times(held.detected_at, held.server_time, received_at, sent_at, self._wall_ms())
                self._ledger.record(replace(copy, order=outcome.order))
            case Verdict.UNKNOWN:
                self._ledger.record(replace(copy, order=outcome.order))
                log.error(
                    "outcome unknown of %s: %s. Looked for on the account, never sent again",
                    _named(copy),
                    _answer(outcome),
                )
            case Verdict.LATER:
                self._ledger.withdraw(copy)
                self._rests(copy.key, Open, outcome)
                self._note_refusal(held, Reason.BROKER_BUSY, _answer(outcome), {"code": outcome.code})
            case Verdict.REFUSED:
                failed = replace(copy, state=State.FAILED, reason=str(Reason.BROKER_REFUSED), detail=_answer(outcome))
                report = self._report("failed", failed, numbers={"code": outcome.code})
                self._ledger.record(failed, reports=[report])
                log.error("not opened %s: %s", _named(copy), _answer(outcome))

    def _refuse(self, step: Refuse) -> None:
        refusal = step.refusal
        key = (step.held.trade.master, *step.held.trade.key)
        if not refusal.final:
            self._note_refusal(step.held, refusal.reason, refusal.detail, refusal.numbers)
            return
        reason, detail = refusal.reason, refusal.detail
        before = self._last_refusal.get(key)
        if reason is Reason.TOO_OLD and before is not None:
            reason, detail = before, f"{detail}; until then refused because of {before}"
        self._skip(step.held, reason, detail, refusal.numbers)

    def _note_refusal(self, held: Held, reason: Reason, detail: str, numbers: Mapping[str, Any]) -> None:
        """Log and report a refusal once, and again when its reason changes."""
        trade = held.trade
        key = (trade.master, *trade.key)
        if self._last_refusal.get(key) is reason:
            return
        self._last_refusal[key] = reason
        log.warning("refused %s %s of %s #%d: %s: %s", trade.action, trade.symbol, *_who(trade), reason, detail)
        copy = replace(self._new_copy(trade, trade.symbol, trade.volume), reason=str(reason), detail=detail)
        self._ledger.record(reports=[self._report("refused", copy, numbers=numbers)])

    def _skip(self, held: Held, reason: Reason, detail: str, numbers: Mapping[str, Any]) -> None:
        trade = held.trade
        copy = self._new_copy(trade, trade.symbol, trade.volume)
        skipped = replace(copy, state=State.SKIPPED, reason=str(reason), detail=detail)
        self._ledger.record(skipped, reports=[self._report("skipped", skipped, numbers=numbers)])
        log.warning("skipped %s %s of %s #%d: %s: %s", trade.action, trade.symbol, *_who(trade), reason, detail)

    def _close(self, step: Close, rules: Rules) -> None:
        copy, position = step.copy, step.position
        self._mark_closing(copy, step.reason)
        symbol = self._terminal.symbol(position.symbol)
        if symbol is None:
            self._spoken.say(f"close {copy.key}", f"{_named(copy)}: the broker no longer knows {position.symbol}")
            return
        outcome = self._terminal.close_position(
            position,
            position.volume,
            symbol,
            deviation=CLOSE_DEVIATION_POINTS,
            magic=rules.magic,
            comment=copy.tag,
        )
        self._after_close(step, copy, outcome)

    def _remove(self, step: Remove) -> None:
        self._mark_closing(step.copy, step.reason)
        self._after_close(step, step.copy, self._terminal.remove_order(step.order))

    def _mark_closing(self, copy: Copy, reason: Reason) -> None:
        if copy.state is State.CLOSING:
            return
        closing = replace(copy, state=State.CLOSING, reason=str(reason))
        try:
            self._ledger.record(closing)
        except LedgerError as error:  # a close is harmless to repeat and must not wait for the disk
            self._ledger.copies[copy.key] = closing
            log.error("closing %s although the ledger cannot be written: %s", _named(copy), error)

    def _after_close(self, step: Close | Remove, copy: Copy, outcome: Outcome) -> None:
        if outcome.verdict is not Verdict.DONE:
            level = logging.ERROR
            self._spoken.say(
                f"close {copy.key}", f"not closed yet {_named(copy)}: {_answer(outcome)}; tried again", level
            )
        else:
            log.info("close sent for %s #%d: %s", _named(copy), copy.client_ticket, _answer(outcome))
        self._rests(copy.key, type(step), outcome)

    def _reduce(self, step: Reduce, rules: Rules) -> None:
        copy, position = step.copy, step.position
        symbol = self._terminal.symbol(position.symbol)
        if symbol is None:
            return
        intent = replace(copy, reduce_to=step.to)
        self._ledger.record(intent)  # like an open, a part must not be closed twice
        outcome = self._terminal.close_position(
            position,
            position.volume - step.to,
            symbol,
            deviation=CLOSE_DEVIATION_POINTS,
            magic=rules.magic,
            comment=copy.tag,
        )
        self._rests(copy.key, Reduce, outcome)
        if outcome.verdict is Verdict.DONE:
            log.info("reduction of %s to %s lots sent: %s", _named(copy), step.to, _answer(outcome))
            return
        self._spoken.say(f"reduce {copy.key}", f"not reduced yet {_named(copy)}: {_answer(outcome)}", logging.ERROR)
        if outcome.verdict is not Verdict.UNKNOWN:
            self._ledger.record(replace(intent, reduce_to=None))

    def _moved(self, step: SetStops | Move, outcome: Outcome, copy: Copy, words: str) -> None:
        self._rests(copy.key, type(step), outcome)
        topic = f"move {copy.key}"
        if outcome.verdict is Verdict.DONE:
            self._spoken.clear(topic, "")
            log.info("modified %s: %s", _named(copy), words)
            self._ledger.record(reports=[self._report("modified", copy, detail=words)])
        else:
            self._spoken.say(topic, f"not modified yet {_named(copy)} to {words}: {_answer(outcome)}", logging.ERROR)

    def _inherit(self, step: Inherit) -> None:
        """The order's copy filled and the master's order did too: from now on it is the copy of the position."""
        of_order, trade = step.copy, step.trade
        heir = replace(
            of_order, kind=Kind.POSITION, state=State.OPEN, reason="", tag=tag_of((trade.master, *trade.key))
        )
        ended = replace(of_order, state=State.CLOSED, reason=str(Reason.FILLED), client_kind=None, client_ticket=0)
        self._ledger.record(ended, heir)
        log.info("%s goes on as the copy of the position #%d", _named(of_order), trade.ticket)

    def _rests(self, key: CopyKey, kind: type, outcome: Outcome) -> None:
        """The same step rests: after it was done until the account shows it, after a refusal longer each time."""
        _, refusals = self._rest.get((key, kind), (0.0, 0))
        refusals = 0 if outcome.verdict is Verdict.DONE else refusals + 1
        self._rest[key, kind] = (self._clock.monotonic() + REST_S[min(refusals, len(REST_S) - 1)], refusals)

    # -- telling

    def _wall_ms(self) -> int:
        return int(self._clock.time() * 1000)

    def _report(
        self,
        event: str,
        copy: Copy,
        *,
        price: Decimal | None = None,
        volume: Decimal | None = None,
        detail: str = "",
        numbers: Mapping[str, Any] | None = None,
        times: Times | None = None,
    ) -> dict[str, Any]:
        """One entry for POST /executions."""
        report: dict[str, Any] = {
            "event": event,
            "at": self._wall_ms(),
            "master": copy.master,
            "kind": copy.kind,
            "ticket": copy.ticket,
            "symbol": copy.symbol,
            "action": copy.action,
            "volume": copy.volume if volume is None else volume,
            "login": self._config.mt5.login,
        }
        if price is not None:
            report["price"] = price
        if copy.client_ticket:
            report["client_ticket"] = copy.client_ticket
        if copy.reason:
            report["reason"] = copy.reason
        if detail or copy.detail:
            report["detail"] = (detail or copy.detail)[:500]
        if numbers:
            report["numbers"] = dict(numbers)
        if times is not None:
            report.update({name: getattr(times, name) for name in Times.__slots__ if getattr(times, name)})
        return report


def _who(trade: Trade) -> tuple[str, int]:
    return trade.master, trade.ticket


def _named(copy: Copy) -> str:
    return f"{copy.action} {copy.volume} {copy.symbol} (copy of {copy.master} #{copy.ticket})"


def _answer(outcome: Outcome) -> str:
    return f"{outcome.code} {outcome.text}"


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
            log.warning("outcome not known yet: %s", _named(copy))
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
