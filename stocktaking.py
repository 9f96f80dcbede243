"""Comparing the ledger with the account, on every look: what has become of our copies.

It asks the history about what the account does not show, keeps the time for which good readings have contradicted the
ledger, and leaves the conclusions to `copies.observe` (hedging accounts) and `netting.observe_net` (netting accounts).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from account import Deal, MarginMode, Order, PastOrder, Reading
from console import Spoken
from copies import (
    LIVE,
    Copy,
    Evidence,
    Observation,
    Seen,
    State,
    Thing,
    Told,
    is_tag,
    lookalikes,
    observe,
    order_key,
    unclaimed,
    unseen,
)
from ledger import CopierLedger, LedgerError
from mirror import CopyKey, Held, Mirror
from netting import (
    Look,
    busy_symbols,
    contradicted,
    could_be_of,
    gone_orders,
    is_asked_about,
    is_like,
    is_placing,
    observe_net,
    questioned,
)
from safety import Reason
from signals import Kind, decode, encode
from terminal import ConnectionLost, Terminal, Unreadable

log = logging.getLogger(__name__)

HISTORY_EVERY_S: Final = 0.5  # between two questions to the history about the same copy
TRACES_S: Final = 30 * 86_400  # how far back it is searched for what a ledger that was lost may have copied


class Stocktaking:
    """What the account says of the copies. For the one thread that owns the terminal."""

    def __init__(self, terminal: Terminal, ledger: CopierLedger, mirror: Mirror, magic: int) -> None:
        self._terminal = terminal
        self._ledger = ledger
        self._mirror = mirror
        self._magic = magic
        # By the whole copy: whatever changes about it, patience begins anew.
        self._missing_since: dict[Copy, float] = {}
        self._strange_since: dict[str, float] = {}  # netting: symbols that are not as the ledger says
        self._history_asked: dict[Copy | str, float] = {}
        self._spoken = Spoken(log)
        stored = decode(ledger.get("foreign") or "{}")
        self.foreign = {symbol: Decimal(lots) for symbol, lots in stored.items()}  # netting: lots that are not ours
        self.blocked: frozenset[str] = frozenset()  # netting: symbols whose lots are not known for certain
        self.closable: frozenset[str] = frozenset()  # of these such of which known copies may be closed all the same

    def begin_anew(self) -> None:
        """There was no good reading, or nobody looked: patience begins anew."""
        self._missing_since.clear()
        self._strange_since.clear()

    def take(self, reading: Reading, books: Mapping[CopyKey, Held], now: float, *, all_go: bool) -> Observation:
        """What a good reading of the account says of all copies. `all_go`: every copy will be closed, however much the
        masters have. Raises `ConnectionLost`, `LedgerError`."""
        copies = self._ledger.copies.values()
        watched = [copy for copy in copies if copy.state in LIVE or copy.state is State.UNKNOWN]
        mirror = self._mirror

        def told(copy: Copy) -> bool:
            return all_go or (mirror.known and mirror.synced and copy.master not in mirror.went_back)

        observe_all = self._observe_each if reading.account.margin_mode is MarginMode.HEDGING else self._observe_net
        seen = observe_all(watched, reading, books, now, told)
        for news in seen.news:  # an order that is sent now may make it the same copy again, and needs its own patience
            self._missing_since.pop(news.copy, None)
        return seen

    def _observe_each(
        self, watched: list[Copy], reading: Reading, books: Mapping[CopyKey, Held], now: float, told: Told
    ) -> Observation:
        """On a hedging account every copy is a position of its own."""
        missing = unseen(watched, reading)
        waited = self._waited({*missing, *(copy for copy in watched if copy.reduce_to is not None)}, now)
        evidence = {copy.key: self._evidence(copy, now) for copy in missing}
        magic = self._magic
        things = unclaimed(watched, reading, magic)
        remembered = self._remembered(things)
        asked = self._asked(watched, things)
        seen = observe(watched, reading, evidence, waited, remembered, books, magic, asked, told=told)
        return replace(seen, news=tuple(self._at_first(one) if isinstance(one, Seen) else one for one in seen.news))

    def _at_first(self, seen: Seen) -> Seen:
        """With the lots that a copy had at first, where it shows less than was asked for: some may have been closed
        before this ledger saw it, and proportions are of all of it."""
        asked = (State.OPENING, State.UNKNOWN, State.FAILED)
        begins = seen.copy.state in asked or seen.copy.client_kind is Kind.ORDER
        if seen.kind is Kind.ORDER or not begins or seen.volume >= seen.copy.volume:
            return seen
        try:
            proof = Evidence(deals=tuple(self._terminal.deals_of(seen.ticket)))
        except ConnectionLost:
            raise
        except Unreadable as problem:
            self._spoken.say("history", f"the history cannot be read: {problem}")
            return seen
        self._spoken.clear("history", "the history can be read again")
        return replace(seen, opened=proof.at_first)

    def _remembered(self, things: Iterable[Thing]) -> dict[int, Copy]:
        """The ledger's copies by the identifiers of what they are or once were on the account."""
        found = {}
        for thing in things:
            if (copy := self._ledger.remembered(thing.comment, thing.identifier)) is not None:
                found[thing.identifier] = copy
        return found

    def _asked(self, copies: list[Copy], things: list[Thing]) -> dict[int, PastOrder]:
        """The orders of which these positions came, where only that tells whose they are. On a hedging account a
        position's identifier is the ticket of its opening order (MT5 docs, POSITION_IDENTIFIER)."""
        asked = {}
        for position in lookalikes(copies, things):
            try:
                past = self._terminal.past_order(position.identifier)
            except ConnectionLost:
                raise
            except Unreadable as problem:
                self._spoken.say("history", f"the history cannot be read: {problem}")
                break
            if past is not None:
                asked[position.identifier] = past
        return asked

    def _observe_net(
        self, watched: list[Copy], reading: Reading, books: Mapping[CopyKey, Held], now: float, told: Told
    ) -> Observation:
        """On a netting account they are parts of one position for each symbol."""
        ledger, magic = self._ledger, self._magic
        symbols = questioned(watched, reading, self.foreign)
        asking = [copy for copy in watched if copy.symbol in symbols and is_asked_about(copy, reading)]
        waited = self._waited({copy for copy in asking if copy.state in LIVE}, now)
        # While an order is waited for the lots say nothing yet: patience with them begins when that is over.
        strange = contradicted(watched, reading, self.foreign) - busy_symbols(watched)
        strange -= {copy.symbol for copy in gone_orders(watched, reading)}
        self._strange_since = {symbol: self._strange_since.get(symbol, now) for symbol in strange}
        evidence = {copy.key: self._evidence(copy, now) for copy in asking}
        asked = {symbol: self._deals(symbol, watched, reading, now) for symbol in symbols}
        history = {symbol: deals for symbol, deals in asked.items() if deals}
        tags = {}
        for comment in {deal.comment for deals in history.values() for deal in deals if is_tag(deal.comment)}:
            if (copy := ledger.remembered(comment, 0)) is not None:
                tags[comment] = copy
        orders = self._remembered([thing for thing in unclaimed(watched, reading, magic) if isinstance(thing, Order)])
        # Nothing is concluded in a look that has not asked the history.
        patience = {s: now - since for s, since in self._strange_since.items() if asked.get(s) is not None}
        look = Look(reading, evidence, history, waited, patience, self.foreign, tags, orders)
        books_known = self._mirror.known and self._mirror.synced
        found = observe_net(watched, look, books, magic, books_known=books_known, told=told)
        self.blocked, self.closable = found.blocked, found.closable
        for symbol, lots in found.foreign.items():
            if self.foreign.get(symbol) != lots:
                log.warning("%s lots of %s on this netting account are not the copier's: never touched", lots, symbol)
        if found.foreign != self.foreign:
            self.foreign = found.foreign
            ledger.set(foreign=encode({symbol: str(lots) for symbol, lots in found.foreign.items()}))
        return found.observation

    def traces(self, books: Mapping[CopyKey, Held], reading: Reading) -> dict[CopyKey, bool]:
        """Of pending orders that this ledger was too young to copy and that have filled at their master: whether the
        account has, or has had, an order of ours like it. Then a ledger that was lost had copied it. Missing where the
        history cannot be read now. Raises `ConnectionLost`."""
        ledger = self._ledger
        asked = {order_key(held) for key, held in books.items() if key not in ledger.copies and held.order}
        skipped = [ledger.copies[key] for key in asked if key in ledger.copies]
        skipped = [copy for copy in skipped if copy.reason == Reason.OLDER_THAN_LEDGER]
        if not skipped:
            return {}
        try:
            orders: list[Order | PastOrder] = [*reading.orders, *self._terminal.past_orders(TRACES_S)]
            return {copy.key: any(self._is_trace(copy, order) for order in orders) for copy in skipped}
        except ConnectionLost:
            raise
        except (Unreadable, LedgerError) as problem:
            self._spoken.say("history", f"the history cannot be read: {problem}")
            return {}

    def _is_trace(self, copy: Copy, order: Order | PastOrder) -> bool:
        if order.magic != copy.magic or order.action is None or order.action.kind is not Kind.ORDER:
            return False
        if is_tag(order.comment):
            return order.comment == copy.tag
        alike = (order.symbol, order.action.buys) == (copy.symbol, copy.action.buys)
        return alike and self._ledger.remembered("", order.ticket) is None

    def _waited(self, waiting: set[Copy], now: float) -> dict[CopyKey, float]:
        """Seconds of good readings for which these copies have waited for proof."""
        self._missing_since = {copy: self._missing_since.get(copy, now) for copy in waiting}
        self._history_asked = {thing: at for thing, at in self._history_asked.items() if now - at < HISTORY_EVERY_S}
        return {copy.key: now - since for copy, since in self._missing_since.items()}

    def _deals(self, symbol: str, copies: list[Copy], reading: Reading, now: float) -> tuple[Deal, ...] | None:
        """All deals of a symbol's positions, None when the history is not asked or cannot be read now."""
        if now - self._history_asked.get(symbol, -math.inf) < HISTORY_EVERY_S:
            return None
        self._history_asked[symbol] = now
        positions = {p.identifier for p in reading.positions if p.symbol == symbol}
        parts = [copy for copy in copies if copy.symbol == symbol and copy.client_kind is Kind.POSITION]
        positions |= {copy.client_ticket for copy in parts}
        try:
            found = {ticket: self._terminal.deals_of(ticket) for ticket in positions}
            orders = {deal.order for deals in found.values() for deal in deals}
            for copy in parts:  # when a position was closed the next order began another one, which a reading may lack
                past = self._terminal.past_order(copy.order) if copy.order and copy.order not in orders else None
                if past is not None and past.position_id and past.position_id not in found:
                    found[past.position_id] = self._terminal.deals_of(past.position_id)
            return tuple(deal for ticket in sorted(found) for deal in found[ticket])
        except ConnectionLost:
            raise
        except Unreadable as problem:
            self._strange_since.pop(symbol, None)
            self._spoken.say("history", f"the history cannot be read: {problem}")
            return None

    def _evidence(self, copy: Copy, now: float) -> Evidence:
        """What the history says of a copy that the account does not show. Nothing when it cannot be read now."""
        if now - self._history_asked.get(copy, -math.inf) < HISTORY_EVERY_S:
            return Evidence()
        self._history_asked[copy] = now
        try:
            ticket = copy.client_ticket if copy.client_kind is Kind.ORDER else copy.order
            past = self._terminal.past_order(ticket) if ticket else None
            if past is None and not ticket and (copy.state is State.OPENING or copy.net_before is not None):
                past = self._past_order(copy)
            identifier = past.position_id if past is not None and past.position_id else copy.client_ticket
            deals = self._terminal.deals_of(identifier) if identifier else []
        except ConnectionLost:
            raise
        except Unreadable as problem:
            self._missing_since.pop(copy, None)  # not a good look at this copy
            self._spoken.say("history", f"the history cannot be read: {problem}")
            return Evidence()
        self._spoken.clear("history", "the history can be read again")
        return Evidence(past, tuple(deals))

    def _past_order(self, copy: Copy) -> PastOrder | None:
        """The order that was sent for a copy and whose ticket nobody told, by its comment: the first since then."""
        orders = [past for past in self._terminal.past_orders(3600) if past.magic == copy.magic]
        found = [past for past in orders if past.comment == copy.tag]
        if copy.net_before is not None:  # on a netting account orders of a copy after its first have that comment too
            found = [past for past in found if could_be_of(copy, past)]
            if not found and is_placing(copy):  # it may have filled before it was seen, and lost its comment
                copies = self._ledger.copies.values()
                known = {ticket for other in copies for ticket in (other.order, other.client_ticket)}
                alike = [past for past in orders if past.ticket not in known and is_like(copy, past)]
                found = alike if len(alike) == 1 else []
        return min(found, key=lambda past: past.ticket, default=None)
