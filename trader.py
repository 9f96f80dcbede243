"""Carries out what was planned and writes down what was seen: the only code that trades, and that changes a copy in the
ledger.

It never opens, places or reduces before the intent is committed. An open whose outcome is unknown is never sent again;
a reduction is planned anew only when good readings have not shown it for `PATIENCE_S`. A full close does not
wait for the disk and is repeated. A change that the server is told of goes to the ledger together with its report, in
one transaction, and to the log in one line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from account import MarginMode, Order, Position, Reading
from config import ClientConfig
from console import Spoken
from copies import LIVE, OF_A_PROGRAM, Copy, Ended, Observation, Reduced, Seen, State, tag_of
from ledger import CopierLedger, LedgerError
from legs import Leg
from mirror import CopyKey, Held, Mirror
from netting import lots_of
from outcomes import Outcome, Verdict
from plan import Aim, Close, Inherit, Move, Open, Reduce, Refuse, Remove, Rules, SetStops, Step, StopsAre, Trim, aim_of
from safety import Reason
from signals import NOTHING, Kind, Trade
from stops import Levels, of_increase
from terminal import Terminal, Unreadable

log = logging.getLogger(__name__)

REST_S: Final = (0.25, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)  # after a step was done; after its first, second … refusal
LONGEST_REST: Final = 5  # index into REST_S, for opens, closes and stops that are missing; only other moves rest longer
INVALID_STOPS: Final = 10016
MARKET_CLOSED: Final = 10018
MARKET_CLOSED_REST_S: Final = 15.0
WHY_CLOSED: Final = {str(Reason.MASTER_CLOSED): "because the master closed", str(Reason.FLATTENED): "by flatten"}
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


@dataclass(frozen=True, slots=True)
class Rest:
    """A step that was sent is not sent again before `until` (monotonic); `times` in a row it has been sent in vain."""

    until: float
    aim: Aim
    times: int
    done: bool = False  # as the broker said


class Trader:
    """The hand of the copier. For the one thread that owns the terminal."""

    def __init__(
        self, terminal: Terminal, ledger: CopierLedger, config: ClientConfig, mirror: Mirror, clock: Any = time
    ) -> None:
        self._terminal = terminal
        self._ledger = ledger
        self._config = config
        self._mirror = mirror
        self._clock = clock
        self._rest: dict[tuple[CopyKey, type], Rest] = {}
        self._last_refusal: dict[CopyKey, Reason] = {}
        self._too_small: dict[CopyKey, Decimal] = {}  # lots that were below the broker's minimum, for the next leg
        self._times: dict[CopyKey, Times] = {}
        self._without_stops: set[CopyKey] = set()  # to be opened without, because the broker refused them in the order
        self._sl_first: set[CopyKey] = set()  # of an open one the broker refused both together
        self._told_stops: dict[CopyKey, str] = {}  # what was told last of stops that are not the master's
        self.without_stop: set[CopyKey] = set()  # those of them that have not the stop that they should have
        self.last_took_ms: int | None = None  # from receipt of the message to the fill, of the copy opened last
        self._spoken = Spoken(log)

    def rests(self) -> dict[tuple[CopyKey, type], tuple[float, Aim]]:
        """The steps that rest: until when (monotonic seconds), with which aim."""
        return {key: (rest.until, rest.aim) for key, rest in self._rest.items()}

    def forget(self, needed: Iterable[CopyKey]) -> None:
        """Keep in memory only what concerns these trades."""
        keep = set(needed)
        self._last_refusal = {key: value for key, value in self._last_refusal.items() if key in keep}
        self._too_small = {key: value for key, value in self._too_small.items() if key in keep}
        self._rest = {key: value for key, value in self._rest.items() if key[0] in keep}
        self._times = {key: value for key, value in self._times.items() if key in keep}
        self._without_stops &= keep
        self._sl_first &= keep
        self.without_stop &= keep
        self._told_stops = {key: value for key, value in self._told_stops.items() if key in keep}

    # -- what was seen

    def record(self, seen: Observation) -> None:
        """Bring the ledger up to what the account shows. Raises `LedgerError` after all that could be stored."""
        problem: LedgerError | None = None
        for news in seen.news:
            try:
                match news:
                    case Seen():
                        self._saw(news)
                    case Ended():
                        self._ended(news)
                    case Reduced():
                        self._reduced(news)
            except LedgerError as error:
                problem = error
        for trade_key in dict.fromkeys(held.trade_key for held, _ in seen.adopted):
            try:
                self._adopt([(held, thing) for held, thing in seen.adopted if held.trade_key == trade_key])
            except LedgerError as error:
                problem = error
        for thing in seen.strangers if self._mirror.known else ():
            self._tell_stranger(thing)
        for copy in seen.doubt:
            self._spoken.say(
                f"doubt {copy.key}",
                f"{named(copy)} #{copy.client_ticket} is not on the account and nothing shows why: waiting for proof",
                logging.WARNING,
            )
        if problem is not None:
            raise problem

    def _saw(self, seen: Seen) -> None:
        copy = self._ledger.copies.get(seen.copy.key, seen.copy)
        filled = copy.client_kind is Kind.ORDER and seen.kind is Kind.POSITION
        begins = copy.state in (State.OPENING, State.UNKNOWN) or copy.state not in LIVE
        order = seen.order or copy.order
        now = replace(copy, client_kind=seen.kind, client_ticket=seen.ticket, current=seen.volume, order=order)
        revived = copy.state in (State.CLOSED, State.CLOSED_BY_CLIENT)  # its proportion is known already
        if (begins and not revived) or filled or seen.volume > copy.volume:
            now = replace(now, volume=max(seen.volume, seen.opened))
        if copy.state is State.SKIPPED:  # no rule has said how much it should be: proportions begin with what both have
            now = replace(now, exact=seen.volume, master_volume=self._lots_at_master(copy))
        if begins:
            now = replace(now, state=State.OPEN, reason="", detail="")
        if begins and copy.state is State.OPENING and copy.key in self._times:
            times = self._times[copy.key]
            self.last_took_ms = times.filled_at - times.received_at
            report = self._report("opened", now, price=seen.price, times=times)
            words = "placed" if seen.kind is Kind.ORDER else "opened"
            took = f", {times.filled_at - times.detected_at} ms after it was detected" if times.detected_at else ""
            log.info("%s %s at %s as #%d%s", words, named(now), seen.price, seen.ticket, took)
        elif begins:
            report = self._report("adopted", now, price=seen.price)
            log.warning("adopted %s: it is on the account as #%d (was %s)", named(now), seen.ticket, copy.state)
        elif filled:
            report = self._report("opened", now, price=seen.price, detail="pending order filled")
            log.info("filled %s at %s, #%d", named(now), seen.price, seen.ticket)
        else:
            report = None
            log.info("volume of %s #%d is now %s", named(now), seen.ticket, seen.volume)
        self._store(now, report)
        self._times.pop(copy.key, None)

    def _lots_at_master(self, copy: Copy) -> Decimal:
        """Of the trade, or of its leg, that is copied; those known already where the book does not tell."""
        key = copy.key[:3]
        left = next((leg.left for leg in self._ledger.legs.get(key, ()) if leg.number == copy.leg), None)
        held = self._mirror.trades.get(key)
        if held is None:
            return copy.master_volume
        return (held.trade.volume if left is None else left) or copy.master_volume

    def _ended(self, ended: Ended) -> None:
        copy = self._ledger.copies.get(ended.copy.key, ended.copy)
        reason = copy.reason if copy.state is State.CLOSING and copy.reason else str(ended.reason)
        now = replace(copy, state=ended.state, current=Decimal(0), reduce_to=None, reason=reason, detail=ended.detail)
        if ended.deal is not None and ended.deal.reason == OF_A_PROGRAM and reason in WHY_CLOSED:
            now = replace(now, detail=f"closed {WHY_CLOSED[reason]} at {ended.deal.price}")
        event = str(ended.state)
        if ended.state is State.CLOSED and copy.client_kind is Kind.ORDER:
            event = "cancelled"
        deal = ended.deal
        report = self._report(event, now, price=deal.price if deal else None, volume=copy.current or copy.volume)
        self._store(now, report)
        loud = ended.state in (State.UNKNOWN, State.FAILED)
        log.log(logging.ERROR if loud else logging.INFO, "%s %s: %s", event, named(now), now.detail)

    def _reduced(self, news: Reduced) -> None:
        copy = self._ledger.copies[news.copy.key]
        # The lots and that the order is settled are one change: half of it would be taken away again after a crash.
        current = copy.current if news.left is None else news.left
        now = replace(copy, reduce_to=None, current=current, order=news.order or copy.order)
        self._store(now, self._report("reduced", now, volume=now.current) if news.done else None)
        if news.done:
            log.info("reduced %s to %s lots", named(now), now.current)
        else:
            log.warning("the reduction of %s to %s lots left no trace: it is planned anew", named(now), copy.reduce_to)

    def _store(self, copy: Copy, report: dict[str, Any] | None) -> None:
        """On a hedging account what could not be stored is seen again at the next look; the sum of a netting account
        does not show it again."""
        if copy.net_before is None:
            self._ledger.record(copy, reports=[report] if report else [])
        else:
            self._ledger.keep(copy, report)

    def _adopt(self, parts: list[tuple[Held, Position | Order]]) -> None:
        """Take up what carries the tags of one master's trade which this ledger knows nothing of. Where it is several
        legs, nothing shows which of the master's lots each stands for: they are shared out by their size."""
        key = parts[0][0].trade_key
        if any(copy.key[:3] == key for copy in self._ledger.copies.values() if copy.state in LIVE):
            self._adopt_beside(parts)
            return
        found = self._mirror.trades.get(key)  # it has not the order any more that has filled at the master only
        trade = parts[0][0].trade if found is None else found.trade
        lots = sum((thing.volume for _, thing in parts), Decimal(0))
        copies, legs, left = [], [], trade.volume
        for number, (held, thing) in enumerate(parts, 1):
            share = left if number == len(parts) else round(trade.volume * thing.volume / lots, 10)
            left -= share
            copy = self._found_copy(held, thing, share)
            copies.append(copy)
            legs.append(Leg(held.leg, copy.action.buys, share, share, trade.price, held.order, trade.opened_at))
        reports = [
            self._report("adopted", copy, price=thing.price) for copy, (_, thing) in zip(copies, parts, strict=True)
        ]
        one = len(legs) == 1 and not legs[0].number
        # In the place of those that were worked out from what the book tells, before this was known.
        several = () if one else tuple(sorted(legs, key=lambda leg: leg.number))
        self._ledger.record(*copies, reports=reports, legs={key: several})
        for copy in copies:
            log.warning("adopted %s: it is on the account as #%d", named(copy), copy.client_ticket)

    def _adopt_beside(self, parts: list[tuple[Held, Position | Order]]) -> None:
        """The same beside copies of the trade that are known, which must keep their legs."""
        for held, thing in parts:
            leg = next((leg for leg in self._ledger.legs.get(held.trade_key, ()) if leg.number == held.leg), None)
            if leg is None:
                self._tell_stranger(thing)
                continue
            copy = self._found_copy(held, thing, leg.left or leg.initial)
            self._ledger.record(copy, reports=[self._report("adopted", copy, price=thing.price)])
            log.warning("adopted %s: it is on the account as #%d", named(copy), copy.client_ticket)

    def _found_copy(self, held: Held, thing: Position | Order, master_volume: Decimal) -> Copy:
        turned = held.trade.action.buys != thing.action.buys  # the master has, meanwhile
        return replace(
            self._new_copy(held, thing.symbol, thing.volume),
            state=State.OPEN,
            action=thing.action if turned else held.trade.action,
            master_volume=master_volume,
            exact=thing.volume,
            current=thing.volume,
            client_kind=thing.kind,
            client_ticket=thing.identifier,
        )

    def _tell_stranger(self, thing: Position | Order) -> None:
        self._spoken.say(
            f"stranger {thing.identifier}",
            f"{thing.action} {thing.volume} {thing.symbol} #{thing.identifier} ({thing.comment!r}) has our magic "
            "but belongs to no trade that this copier knows (does another program use this number?): not touched",
            logging.WARNING,
        )

    # -- acting

    def do(self, step: Step, reading: Reading, rules: Rules) -> None:
        """Carry out one step.

        Raises `LedgerError` when its intent could not be stored, and then it was not carried out; or when what came of
        it could not be, and then the account shows it.
        """
        match step:
            case Open():
                self._open(step, reading, rules)
            case Refuse():
                self._refuse(step)
            case Close():
                self._close(step, rules)
            case Reduce():
                self._reduce(step, rules)
            case Trim():
                self._trim(step, reading, rules)
            case Remove():
                self._remove(step)
            case SetStops():
                self._set_stops(step)
            case StopsAre():
                self._tell_stops(step)
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

    def _new_copy(self, held: Held, symbol: str, volume: Decimal) -> Copy:
        trade = held.trade
        return Copy(
            master=trade.master,
            kind=trade.kind,
            ticket=trade.ticket,
            leg=held.leg,
            state=State.OPENING,
            tag=tag_of(held.key),
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
            self._new_copy(step.held, symbol.name, allowed.volume),
            exact=allowed.exact,
            rest=allowed.rest,
            after_ticket=self._highest_ticket(reading),
            quoted_msc=symbol.time_msc,
            net_before=lots_of(reading, symbol.name) if _netting(reading) else None,
        )
        if allowed.capped_from is not None:
            log.warning(
                "%s: the broker's maximum is %s lots, the rule asked for %s",
                named(copy), allowed.volume, allowed.capped_from,
            )  # fmt: skip
        if trade.contract_size not in (0, symbol.contract_size):
            log.info(
                "%s: a lot is %s here and %s at the master, who has %s lots",
                named(copy), symbol.contract_size, trade.contract_size, trade.volume,
            )  # fmt: skip
        self._ledger.record(copy)  # the intent: from here on this order is never sent a second time
        sent_at = self._wall_ms()
        levels = Levels(step.sl, step.tp)
        if copy.net_before and trade.kind is Kind.POSITION:
            there = next((p for p in reading.positions if p.symbol == symbol.name), None)
            levels = of_increase(there, trade.action.buys, allowed.volume, levels)
        if copy.key in self._without_stops:
            levels = Levels(NOTHING, NOTHING)
        common: dict[str, Any] = {"sl": levels.sl, "tp": levels.tp, "magic": rules.magic, "comment": copy.tag}
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
                if copy.net_before is not None and trade.kind is Kind.POSITION and outcome.volume:
                    copy = replace(copy, volume=min(copy.volume, outcome.volume))  # the sum does not show it
                self._ledger.keep(replace(copy, order=outcome.order))
            case Verdict.UNKNOWN:
                self._ledger.keep(replace(copy, order=outcome.order))
                log.error(
                    "outcome unknown of %s: %s. Looked for on the account, never sent again",
                    named(copy),
                    _answer(outcome),
                )
            case Verdict.LATER:
                self._ledger.withdraw(copy)
                answer = _answer(outcome)
                if outcome.code == INVALID_STOPS and (levels.sl or levels.tp):
                    self._without_stops.add(copy.key)
                    answer += "; tried at once without SL and TP, which are set when it is open"
                else:
                    self._rests(copy.key, step, outcome)
                self._note_refusal(held, Reason.BROKER_BUSY, answer, {"code": outcome.code})
            case Verdict.REFUSED:
                failed = replace(copy, state=State.FAILED, reason=str(Reason.BROKER_REFUSED), detail=_answer(outcome))
                report = self._report("failed", failed, numbers={"code": outcome.code})
                self._ledger.record(failed, reports=[report])
                log.error("not opened %s: %s", named(copy), _answer(outcome))

    def _refuse(self, step: Refuse) -> None:
        refusal = step.refusal
        key = step.held.key
        if not refusal.final:
            if refusal.reason is Reason.VOLUME_TOO_SMALL:
                self._too_small[key] = Decimal(refusal.numbers["volume"])
            self._note_refusal(step.held, refusal.reason, refusal.detail, refusal.numbers)
            return
        reason, detail = refusal.reason, refusal.detail
        before = self._last_refusal.get(key)
        if reason is Reason.TOO_OLD and before is not None:
            reason, detail = before, f"{detail}; until then refused because of {before}"
        rest = self._too_small.get(key, Decimal(0)) if reason is Reason.VOLUME_TOO_SMALL else Decimal(0)
        self._skip(step.held, reason, detail, refusal.numbers, rest)

    def _note_refusal(self, held: Held, reason: Reason, detail: str, numbers: Mapping[str, Any]) -> None:
        """Log and report a refusal once, and again when its reason changes."""
        trade = held.trade
        key = held.key
        if self._last_refusal.get(key) is reason:
            return
        # Waiting is a delay, not a refusal: it is told only when it is why the trade became too old.
        if reason is not Reason.WAITING:
            copy = replace(self._refused(held), reason=str(reason), detail=detail)
            self._ledger.record(reports=[self._report("refused", copy, numbers=numbers)])
            log.warning("refused %s %s of %s #%d: %s: %s", trade.action, trade.symbol, *_who(trade), reason, detail)
        self._last_refusal[key] = reason

    def _skip(self, held: Held, reason: Reason, detail: str, numbers: Mapping[str, Any], rest: Decimal) -> None:
        trade = held.trade
        skipped = replace(self._refused(held), state=State.SKIPPED, reason=str(reason), detail=detail, rest=rest)
        self._ledger.record(skipped, reports=[self._report("skipped", skipped, numbers=numbers)])
        log.warning("skipped %s %s of %s #%d: %s: %s", trade.action, trade.symbol, *_who(trade), reason, detail)

    def _refused(self, held: Held) -> Copy:
        return self._new_copy(held, self._config.names.of(held.trade.symbol), held.trade.volume)

    def announce(self, steps: Iterable[Step]) -> None:
        """Write down which copies are about to be closed, all in one transaction; never fails.

        A close is harmless to repeat, so it does not wait for the disk: where this cannot be stored it is remembered.
        """
        closing = {
            step.copy.key: replace(step.copy, state=State.CLOSING, reason=str(step.reason))
            for step in steps
            if isinstance(step, Close | Remove) and step.copy.state is not State.CLOSING
        }
        if not closing:
            return
        try:
            self._ledger.record(*closing.values())
        except LedgerError as error:
            self._ledger.copies.update(closing)
            log.error("closing %d copies although the ledger cannot be written: %s", len(closing), error)

    def _close(self, step: Close, rules: Rules) -> None:
        outcome = self._terminal.close_position(
            step.position,
            step.position.volume,
            deviation=CLOSE_DEVIATION_POINTS,
            magic=rules.magic,
            comment=step.copy.tag,
        )
        self._after_close(step, step.copy, outcome)

    def _remove(self, step: Remove) -> None:
        self._after_close(step, step.copy, self._terminal.remove_order(step.order))

    def _after_close(self, step: Close | Remove, copy: Copy, outcome: Outcome) -> None:
        if outcome.verdict is not Verdict.DONE:
            level = logging.ERROR
            self._spoken.say(
                f"close {copy.key}", f"not closed yet {named(copy)}: {_answer(outcome)}; tried again", level
            )
        else:
            log.info("close sent for %s #%d: %s", named(copy), copy.client_ticket, _answer(outcome))
        self._rests(copy.key, step, outcome)

    def _reduce(self, step: Reduce, rules: Rules) -> None:
        copy, position = step.copy, step.position
        intent = replace(copy, reduce_to=step.to)
        self._ledger.record(intent)  # like an open, a part must not be closed twice
        outcome = self._terminal.close_position(
            position,
            position.volume - step.to,
            deviation=CLOSE_DEVIATION_POINTS,
            magic=rules.magic,
            comment=copy.tag,
        )
        self._rests(copy.key, step, outcome)
        if outcome.verdict is Verdict.DONE:
            if 0 < outcome.volume < position.volume - step.to:  # only a part of it was filled; the rest is planned anew
                self._ledger.record(replace(intent, reduce_to=position.volume - outcome.volume))
            log.info("reduction of %s to %s lots sent: %s", named(copy), step.to, _answer(outcome))
            return
        self._spoken.say(f"reduce {copy.key}", f"not reduced yet {named(copy)}: {_answer(outcome)}", logging.ERROR)
        if outcome.verdict is not Verdict.UNKNOWN:  # the part was not closed
            self._ledger.record(replace(intent, reduce_to=None))

    def _trim(self, step: Trim, reading: Reading, rules: Rules) -> None:
        """Close a copy on a netting account, or a part of it. It must not be sent twice either: the second one would
        open something. Where a close cannot be written down it is remembered, and sent all the same."""
        copy = step.copy
        intent = replace(
            copy, reduce_to=step.to, net_before=step.lots, after_ticket=self._ticket_before(copy, reading), order=0
        )
        if not step.to:
            intent = replace(intent, state=State.CLOSING, reason=str(step.reason))
        try:
            if step.to:
                self._ledger.record(intent)
            else:
                self._ledger.keep(intent)
        except LedgerError as error:
            if step.to:
                raise
            log.error("closing %s although the ledger cannot be written: %s", named(copy), error)
        lots = copy.current - step.to
        # A stop may close the position before this arrives: where it only makes it smaller, it must not open another.
        there = next((p for p in reading.positions if p.symbol == copy.symbol), None)
        smaller = there is not None and there.action.buys == copy.action.buys and lots <= there.volume
        outcome = self._terminal.trade_against(
            copy.symbol,
            copy.action,
            lots,
            position=there.ticket if there is not None and smaller else 0,
            deviation=CLOSE_DEVIATION_POINTS,
            magic=rules.magic,
            comment=copy.tag,
        )
        self._rests(copy.key, step, outcome)
        words = "close" if not step.to else f"reduction to {step.to} lots"
        if outcome.verdict is Verdict.DONE:
            log.info("%s of %s sent: %s", words, named(copy), _answer(outcome))
            done = min(lots, outcome.volume) if outcome.volume else lots
            self._ledger.keep(replace(intent, order=outcome.order, reduce_to=copy.current - done))
            return
        self._spoken.say(
            f"trim {copy.key}", f"not done yet, {words} of {named(copy)}: {_answer(outcome)}", logging.ERROR
        )
        if outcome.verdict is not Verdict.UNKNOWN:
            self._ledger.keep(replace(intent, reduce_to=None))
        elif outcome.order:
            self._ledger.keep(replace(intent, order=outcome.order))

    def _highest_ticket(self, reading: Reading) -> int:
        """Tickets rise: an order that is sent now gets one above all that were there before it."""
        shown = max((thing.identifier for thing in reading.everything), default=0)
        return max(shown, self._ledger.highest_ticket()) if _netting(reading) else shown

    def _ticket_before(self, copy: Copy, reading: Reading) -> int:
        """As `_highest_ticket`, for an order of a copy which had one before. Where nobody has told the ticket of that
        one, the history may: it has the same comment, and must not be taken for this one."""
        highest = self._highest_ticket(reading)
        if copy.order:
            return highest
        try:
            own = [past.ticket for past in self._terminal.past_orders(3600) if past.comment == copy.tag]
        except Unreadable as problem:
            log.warning("the orders before this one of %s are not known: %s", named(copy), problem)
            return highest
        return max(highest, max(own, default=0))

    def _set_stops(self, step: SetStops) -> None:
        key, position = step.copy.key, step.position
        both = step.sl not in (NOTHING, position.sl) and step.tp != position.tp
        alone = both and key in self._sl_first
        self._sl_first.discard(key)
        tp = position.tp if alone else step.tp
        outcome = self._terminal.modify_position(position, sl=step.sl, tp=tp)
        self._moved(step, outcome, step.copy, f"SL {step.sl} alone" if alone else f"SL {step.sl} TP {step.tp}")
        if outcome.code == INVALID_STOPS and both and not alone:
            # Both are refused when one is wrong. If that is the take profit, the stop loss must not wait for it.
            self._sl_first.add(key)
            self._rest[key, SetStops] = replace(self._rest[key, SetStops], until=self._clock.monotonic())

    def _tell_stops(self, step: StopsAre) -> None:
        """Log and report once that stops are missing or elsewhere than the master's, and that they are so no more."""
        key, words = step.copy.key, step.missing or step.displaced
        if self._told_stops.get(key, "") == words:
            return
        rest = self._rest.get((key, SetStops))
        if step.missing and rest is not None and rest.done and rest.times <= 1:
            return  # they were set just now
        if step.missing:
            event, detail, level = "stops_missing", f"not set yet: {words}", logging.ERROR
        else:
            event, detail, level = "stops_adjusted", f"{words}, which the broker does not take", logging.WARNING
        if words:
            self._ledger.record(reports=[self._report(event, step.copy, detail=detail)])
            log.log(level, "%s of %s: %s", event, named(step.copy), detail)
        else:
            log.info("the stops of %s are the master's again", named(step.copy))
        self._told_stops[key] = words
        (self.without_stop.add if step.missing else self.without_stop.discard)(key)

    def _moved(self, step: SetStops | Move, outcome: Outcome, copy: Copy, words: str) -> None:
        self._rests(copy.key, step, outcome)
        topic = f"move {copy.key}"
        if outcome.verdict is Verdict.DONE:
            self._spoken.clear(topic, "")
            log.info("modified %s: %s", named(copy), words)
            self._ledger.record(reports=[self._report("modified", copy, detail=words)])
        else:
            self._spoken.say(topic, f"not modified yet {named(copy)} to {words}: {_answer(outcome)}", logging.ERROR)

    def _inherit(self, step: Inherit) -> None:
        """The order's copy filled and the master's order did too: from now on it is the copy of the position."""
        of_order, held = step.copy, step.held
        heir = replace(
            of_order,
            kind=Kind.POSITION,
            ticket=held.trade.ticket,
            leg=held.leg,
            state=State.OPEN,
            reason="",
            tag=tag_of(held.key),
        )
        ended = replace(of_order, state=State.CLOSED, reason=str(Reason.FILLED), client_kind=None, client_ticket=0)
        self._ledger.record(ended, heir)
        log.info("%s goes on as the copy of the position #%d", named(of_order), held.trade.ticket)

    def _rests(self, key: CopyKey, step: Step, outcome: Outcome) -> None:
        """The same step rests: after it was done until the account shows it, after a refusal longer each time."""
        aim, before = aim_of(step), self._rest.get((key, type(step)))
        moves = isinstance(step, SetStops | Move)
        times = 0
        if outcome.verdict is not Verdict.DONE or moves:  # a move that comes again although it was done had no effect
            times = before.times + 1 if before is not None and before.aim == aim else 1
        patient = moves and not (isinstance(step, SetStops) and step.missing)
        rest = REST_S[min(times, len(REST_S) - 1 if patient else LONGEST_REST)]
        if outcome.code == MARKET_CLOSED:
            rest = MARKET_CLOSED_REST_S
        self._rest[key, type(step)] = Rest(self._clock.monotonic() + rest, aim, times, outcome.verdict is Verdict.DONE)

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


def _netting(reading: Reading) -> bool:
    return reading.account.margin_mode is not MarginMode.HEDGING


def _who(trade: Trade) -> tuple[str, int]:
    return trade.master, trade.ticket


def named(copy: Copy) -> str:
    return f"{copy.action} {copy.volume} {copy.symbol} (copy of {copy.master} #{copy.ticket})"


def _answer(outcome: Outcome) -> str:
    return f"{outcome.code} {outcome.text}" + (f" at {outcome.price}" if outcome.price else "")
