"""The copies: one row each of the map ticket_master -> ticket_client, and what a reading of the account says of them.

Pure: no clock, no terminal, no database, no socket. `observe` compares what the ledger knows with what the account
shows. Its one rule is that absence needs proof: a copy that is not shown has ended only when a deal or an order in the
history says so, or when good readings have gone without it for `PATIENCE_S`.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final

from account import PATIENCE_S, Deal, Entry, Order, OrderEnd, PastOrder, Position, Reading
from mirror import CopyKey, Held, TradeKey
from safety import Reason
from signals import NOTHING, Action, Kind, Source


class State(StrEnum):
    """The life of a copy."""

    OPENING = "opening"  # the intent is in the ledger, the outcome is not known yet
    OPEN = "open"
    CLOSING = "closing"  # a close was sent; repeated until the account shows that it is gone
    CLOSED = "closed"  # as the master did, or because the follower asked for it
    CLOSED_BY_CLIENT = "closed_by_client"  # by hand, stop loss, take profit or stop-out; never opened again
    SKIPPED = "skipped"  # never opened, for a reason of ours
    FAILED = "failed"  # never opened, the broker refused
    UNKNOWN = "unknown"  # outcome of the open never became known; given up, still watched for


CLOCKS_APART_MS: Final = 2000  # of a broker's servers for quotes and for orders
LONGEST_NAME: Final = 11  # of the trade in a tag
OF_A_PROGRAM: Final = 3  # the package's DEAL_REASON_EXPERT
LIVE: Final = frozenset({State.OPENING, State.OPEN, State.CLOSING})


@dataclass(frozen=True, slots=True)
class Copy:
    """One row of the map from a master's trade to what the client has of it."""

    master: str
    kind: Kind
    ticket: int
    state: State
    tag: str
    symbol: str  # the client's
    action: Action
    magic: int
    leg: int = 0  # which part of the trade, see legs.py
    source: Source = Source.TERMINAL
    epoch: str = ""  # of the server's database that told of the trade
    volume: Decimal = NOTHING  # lots: asked for while opening, filled once open; the whole of the proportion
    master_volume: Decimal = NOTHING  # the master's lots at that time
    current: Decimal = NOTHING  # lots that the account showed last
    after_ticket: int = 0  # highest ticket on the account before the order was sent
    quoted_msc: int = 0  # time of the quote at which it was sent, by the broker's clock
    order: int = 0  # ticket of our order, 0 while the broker has not told it
    client_kind: Kind | None = None  # what the copy is on the account now
    client_ticket: int = 0  # identifier of the position or ticket of the pending order
    reduce_to: Decimal | None = None  # lots after a reduction that was sent and not yet seen
    exact: Decimal = NOTHING  # lots that the follower's rule asked for, before the rest of another leg and rounding
    rest: Decimal = NOTHING  # lots that rounding left over when it was opened, for the next leg
    net_before: Decimal | None = None  # netting accounts: the symbol's lots (short: below 0) before an order was sent
    reason: str = ""
    detail: str = ""

    @property
    def key(self) -> CopyKey:
        return (self.master, self.kind, self.ticket, self.leg)

    @property
    def signed(self) -> Decimal:
        """Lots, below 0 when they are sold."""
        return self.current if self.action.buys else -self.current


@functools.lru_cache(maxsize=65_536)
def tag_of(key: CopyKey | TradeKey) -> str:
    """The order comment that marks the copy of a trade: at most 16 ASCII characters, the same whenever it is asked for.

    Kind, ticket in base 36, the leg after the first, and three characters for the master: `pvsdg2w.k3x`,
    `pvsdg2w-1.k3x`. Brokers keep 16 characters at least.
    """
    master, kind, ticket = key[:3]
    leg = key[3] if len(key) == 4 else 0
    mark = _base36(int.from_bytes(hashlib.sha256(master.encode()).digest()[:4]) % 36**3).zfill(3)
    name = _base36(ticket) + (f"-{_base36(leg)}" if leg else "")
    if len(name) > LONGEST_NAME:
        name = _base36(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])).zfill(LONGEST_NAME)[-LONGEST_NAME:]
    return f"{kind[0]}{name}.{mark}"


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
        if not number:
            return digits


def order_key(held: Held) -> CopyKey:
    """The pending order that a position came from, if it came from one. MetaTrader gives both the same ticket, unless
    the order's fill made a position grow that was there before."""
    return (held.trade.master, Kind.ORDER, held.order, 0)


Thing = Position | Order
Told = Callable[[Copy], bool]  # whether the server has told what the master of a copy has now, or nobody needs it

# --- what became of our copies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the account's history says of a copy that the account does not show."""

    past: PastOrder | None = None
    deals: tuple[Deal, ...] = ()

    @property
    def opened(self) -> Decimal:
        return sum((d.volume for d in self.deals if d.entry is Entry.IN), NOTHING)

    @property
    def at_first(self) -> Decimal:
        """Lots that were opened since there was nothing: a broker may close and open a position anew overnight."""
        opened = left = NOTHING
        for deal in sorted(self.deals, key=lambda d: (d.time_msc, d.ticket)):
            if deal.entry is Entry.IN:
                opened = (opened if left else NOTHING) + deal.volume
                left += deal.volume
            else:
                left -= deal.volume
        return opened

    @property
    def closed(self) -> Decimal:
        return sum((d.volume for d in self.deals if d.entry is not Entry.IN), NOTHING)

    @property
    def last(self) -> Deal | None:
        return max((d for d in self.deals if d.entry is not Entry.IN), key=lambda d: d.time_msc, default=None)


@dataclass(frozen=True, slots=True)
class Seen:
    """The account shows the copy: opened, filled, adopted or of another volume than known."""

    copy: Copy
    kind: Kind
    ticket: int
    volume: Decimal
    price: Decimal
    order: int = 0  # ticket of the order that did it, where the history told it
    opened: Decimal = NOTHING  # lots that it had at first, where the history says that they were more


@dataclass(frozen=True, slots=True)
class Ended:
    """The copy is no more, or never came to be."""

    copy: Copy
    state: State
    reason: Reason
    detail: str
    deal: Deal | None = None


@dataclass(frozen=True, slots=True)
class Reduced:
    """A reduction arrived (`done`), or cannot be in flight any more."""

    copy: Copy
    done: bool
    order: int = 0  # its ticket, where the history told it
    left: Decimal | None = None  # lots after it, where the account does not show them


@dataclass(frozen=True, slots=True)
class Observation:
    """What a reading says of all copies. In `doubt` are those it contradicts without proof."""

    news: tuple[Seen | Ended | Reduced, ...] = ()
    adopted: tuple[tuple[Held, Thing], ...] = ()  # of a ledger that was lost
    strangers: tuple[Thing, ...] = ()  # ours by magic, and nobody knows whose copies
    doubt: tuple[Copy, ...] = ()


def unseen(copies: Iterable[Copy], reading: Reading) -> list[Copy]:
    """Live copies that the reading does not show under their known ticket: ask the history about them."""
    identifiers = {p.identifier for p in reading.positions}
    tickets = {o.ticket for o in reading.orders}
    return [
        copy
        for copy in copies
        if copy.state in LIVE
        and (copy.client_ticket or copy.order) not in (tickets if copy.client_kind is Kind.ORDER else identifiers)
    ]


def unclaimed(copies: Iterable[Copy], reading: Reading, magic: int) -> list[Thing]:
    """What has our magic on the account and is not known as an open copy. Also what became of an order that was given
    up before the number was changed, by that number and its tag."""
    given_up = {(copy.magic, copy.tag) for copy in copies if copy.state is State.UNKNOWN}
    claimed = {(copy.client_kind, copy.client_ticket) for copy in copies if copy.state in (State.OPEN, State.CLOSING)}
    ours = [t for t in reading.everything if t.magic == magic or (t.magic, t.comment) in given_up]
    return [t for t in ours if (t.kind, t.identifier) not in claimed]


def observe(
    copies: Collection[Copy],
    reading: Reading,
    evidence: Mapping[CopyKey, Evidence],
    waited: Mapping[CopyKey, float],
    remembered: Mapping[int, Copy],
    books: Mapping[CopyKey, Held],
    magic: int,
    asked: Mapping[int, PastOrder],
    *,
    told: Told,
) -> Observation:
    """What became of our copies.

    `copies` are the live ones and those given up as unknown; `evidence` and `waited` (seconds of good readings without
    the copy) speak of those that `unseen` named; `remembered` has the ledger's copy for the identifier of what is
    `unclaimed`, found by its comment or by the ticket it once had; `asked` is explained at `find`, `told` at
    `waits_for_book`.
    """
    positions = {p.identifier: p for p in reading.positions}
    orders = {o.ticket: o for o in reading.orders}
    news: list[Seen | Ended | Reduced] = []
    doubt: list[Copy] = []

    filled = {
        copy.key: _position_of(copy, positions, evidence)
        for copy in copies
        if copy.state in (State.OPEN, State.CLOSING)
    }
    # Before anything is looked for: what became of one order is no part of another.
    free = [thing for thing in unclaimed(copies, reading, magic) if thing not in filled.values()]
    found = find(copies, evidence, free, asked)
    for copy in copies:
        proof = evidence.get(copy.key, Evidence())
        patient = waited.get(copy.key, 0.0) < PATIENCE_S
        if copy.state in (State.OPENING, State.UNKNOWN):
            if copy.key in found:
                news.append(_seen(copy, found[copy.key]))
            elif copy.state is State.OPENING and (end := _never_opened(copy, proof, patient)):
                news.append(end)
            continue
        position = filled.get(copy.key)
        order = orders.get(copy.client_ticket) if copy.client_kind is Kind.ORDER else None
        shown = order or position
        if shown is None:
            end = _gone(copy, proof, patient)
            if end is None:
                doubt.append(copy)
            else:
                news.append(end)
            continue
        if copy.client_kind is not shown.kind or copy.current != shown.volume:
            news.append(_seen(copy, shown))
        if copy.reduce_to is not None and (shown.volume <= copy.reduce_to or not patient):
            news.append(Reduced(copy, shown.volume <= copy.reduce_to))

    again, adopted, strangers = taken_up(free, copies, remembered, books, told=told)
    return Observation((*news, *again), tuple(adopted), tuple(strangers), tuple(doubt))


def waits_for_book(copy: Copy, told: Told) -> bool:
    """What was skipped and is there all the same waits until it is told what its master has: it is a proportion of
    that, and not of what he had when it was skipped."""
    return copy.state is State.SKIPPED and not told(copy)


def taken_up(
    free: Collection[Thing],
    copies: Iterable[Copy],
    remembered: Mapping[int, Copy],
    books: Mapping[CopyKey, Held],
    *,
    told: Told,
) -> tuple[list[Seen], list[tuple[Held, Thing]], list[Thing]]:
    """What the account shows with our magic and no live copy has: ended copies that are there all the same, those that
    the ledger does not have (or has skipped) because it was lost, and what belongs to nobody.

    `told` and what was skipped: see `waits_for_book`.
    """
    again: list[Seen] = []
    adopted: list[tuple[Held, Thing]] = []
    strangers: list[Thing] = []
    tags = tagged(books, (thing.comment for thing in free)) if free else {}
    taken: set[CopyKey] = {copy.key for copy in copies if copy.state in LIVE}
    followed = {key[:3] for key in taken}
    for thing in free:  # an order at market of a copy that is known may be there too: it is being filled bit by bit
        known = remembered.get(thing.identifier)
        key, held = tags.get(thing.comment, (None, None))
        if held is not None and isinstance(thing, Order) and thing.action.kind is Kind.ORDER:
            held = _of_its_order(held, thing)
            key = held.key
        if known is not None and waits_for_book(known, told):
            continue
        if known is not None and known.state is State.SKIPPED and known.key == key and key[:3] not in followed:
            known = None  # with the other legs of its trade that are there
        if known is not None and known.key not in taken:
            taken.add(known.key)
            again.append(_seen(known, thing))
        elif known is None and held is not None and key is not None and key not in taken:
            taken.add(key)
            adopted.append((held, thing))
        elif known is None or isinstance(thing, Position) or thing.action.kind is Kind.ORDER:
            strangers.append(thing)
    return again, adopted, strangers


def _of_its_order(held: Held, order: Order) -> Held:
    """What a pending order that stands is the copy of: also when the master's has filled it is that of his order, whose
    heir the position is."""
    if held.trade.kind is Kind.ORDER or not held.order:
        return held
    trade = replace(held.trade, kind=Kind.ORDER, ticket=held.order, volume=order.initial_volume)
    return replace(held, trade=trade, leg=0, order=0, of_lots=None)


def tagged(books: Mapping[CopyKey, Held], comments: Iterable[str]) -> dict[str, tuple[CopyKey, Held]]:
    """The masters' trades by the tags of their copies; each position also by that of the pending order it may have come
    from, and by those of the legs which are among the `comments`, as far as nobody knows what legs it has."""
    found = {tag_of(order_key(held)): (key, held) for key, held in books.items() if key[1] is Kind.POSITION}
    found |= {tag_of(key): (key, held) for key, held in books.items()}
    numbers = {int(leg, 36) for comment in comments for leg in re.findall(r"-([0-9a-z]{1,3})\.", comment)}
    for key, held in books.items():
        if key[1] is Kind.POSITION and key[3] == 0:
            for leg in sorted(numbers):
                other = (*key[:3], leg)
                found.setdefault(tag_of(other), (other, replace(held, leg=leg)))
    return found


def _position_of(
    copy: Copy, positions: Mapping[int, Position], evidence: Mapping[CopyKey, Evidence]
) -> Position | None:
    """The position of a copy; where it was a pending order, the one that came of it."""
    past = evidence.get(copy.key, Evidence()).past
    return positions.get(copy.client_ticket) or (positions.get(past.position_id) if past is not None else None)


def _seen(copy: Copy, thing: Thing) -> Seen:
    return Seen(copy, thing.kind, thing.identifier, thing.volume, thing.price)


def find(
    copies: Iterable[Copy], evidence: Mapping[CopyKey, Evidence], free: list[Thing], asked: Mapping[int, PastOrder]
) -> dict[CopyKey, Thing]:
    """What the account shows of orders whose outcome is not known; what is found is taken out of `free`.

    By ticket or tag first, for all of them; by likeness only what is left. Likeness is for brokers that replace the
    comment. It is safe because the order that was sent asked for just these lots, however much of them was filled, and
    not before it was sent (a late one of a ledger that was lost); because no second order of the same symbol, side and
    volume is sent while one is unresolved; because tickets rise (nothing that was there before can be it); and because
    it must be unique both ways. `asked` are the opening orders of positions, by the position's identifier, where the
    history tells them.
    """
    lost = [copy for copy in copies if copy.state in (State.OPENING, State.UNKNOWN)]
    found: dict[CopyKey, Thing] = {}
    for copy in lost:
        past = evidence.get(copy.key, Evidence()).past
        tickets = {copy.order, copy.client_ticket, past.position_id if past is not None else 0} - {0}
        sure = [t for t in free if t.identifier in tickets] or [t for t in free if t.comment == copy.tag]
        if sure:
            found[copy.key] = sure[0]
            free.remove(sure[0])
    waiting = [copy for copy in lost if copy.state is State.OPENING and copy.key not in found]
    alike = {copy.key: [t for t in free if _alike(copy, t) and _is_asked_for(copy, t, asked)] for copy in waiting}
    for copy in waiting:
        rivals = [other for other in waiting if other is not copy and set(alike[other.key]) & set(alike[copy.key])]
        if len(alike[copy.key]) == 1 and not rivals:
            found[copy.key] = alike[copy.key][0]
    free[:] = [thing for thing in free if thing not in found.values()]
    return found


def lookalikes(copies: Iterable[Copy], things: Iterable[Thing]) -> list[Position]:
    """Positions that may be what became of an order whose outcome is not known, or a part of it: by the lots that their
    opening orders asked for, which the history has, `find` tells whose they are."""
    waiting = [copy for copy in copies if copy.state is State.OPENING]
    return [t for t in things if isinstance(t, Position) and any(_alike(copy, t) for copy in waiting)]


def _alike(copy: Copy, thing: Thing) -> bool:
    return (
        thing.identifier > copy.after_ticket
        and thing.symbol == copy.symbol
        and thing.action.buys == copy.action.buys
        and (copy.kind is Kind.ORDER or isinstance(thing, Position))
        and thing.volume <= copy.volume
        and not is_tag(thing.comment)
    )


def _is_asked_for(copy: Copy, thing: Thing, asked: Mapping[int, PastOrder]) -> bool:
    """Whether its order asked for the lots of this copy, and not before that was sent."""
    past = asked.get(thing.identifier)
    if past is not None:
        lots, at = past.volume, past.time_msc
    elif isinstance(thing, Order):
        lots, at = thing.initial_volume, thing.time_msc
    else:  # the history does not have it yet
        lots, at = thing.volume, copy.quoted_msc
    return lots == copy.volume and at >= copy.quoted_msc - CLOCKS_APART_MS


def is_tag(comment: str) -> bool:
    """Whether a comment is the tag of some copy, so that it cannot be a tag that a broker replaced."""
    return re.fullmatch(r"[po][0-9a-z-]{1,11}\.[0-9a-z]{3}", comment) is not None


def _never_opened(copy: Copy, proof: Evidence, patient: bool) -> Ended | None:
    past = proof.past
    if past is not None and proof.opened and proof.closed >= proof.opened:
        return Ended(copy, State.CLOSED_BY_CLIENT, Reason.CLOSED_BY_CLIENT, how_closed(proof.last), proof.last)
    if past is not None and past.end in (OrderEnd.CANCELLED, OrderEnd.EXPIRED) and not past.filled:
        return Ended(copy, State.FAILED, Reason.BROKER_REFUSED, f"the broker ended order {past.ticket}: {past.end}")
    if patient:
        return None
    return Ended(
        copy, State.UNKNOWN, Reason.OUTCOME_UNKNOWN, f"no trace of the order after {PATIENCE_S:.0f} s; not sent again"
    )


def _gone(copy: Copy, proof: Evidence, patient: bool) -> Ended | None:
    """The end of a copy that the account does not show, None while nothing proves it."""
    state = State.CLOSED if copy.state is State.CLOSING else State.CLOSED_BY_CLIENT
    reason = Reason.MASTER_CLOSED if copy.state is State.CLOSING else Reason.CLOSED_BY_CLIENT
    past = proof.past
    if proof.opened and proof.closed >= proof.opened:
        return Ended(copy, state, reason, how_closed(proof.last), proof.last)
    if copy.client_kind is Kind.ORDER and past and past.end in (OrderEnd.CANCELLED, OrderEnd.EXPIRED):
        if past.end is OrderEnd.EXPIRED:  # nobody's wish: if the master's fills after all, it may be entered
            state, reason = State.CLOSED, Reason.EXPIRED
        return Ended(copy, state, reason, f"pending order {past.ticket} {past.end}")
    if patient:
        return None
    if copy.client_kind is Kind.ORDER:  # it may have filled, and then a second entry would double it
        return Ended(copy, State.UNKNOWN, Reason.OUTCOME_UNKNOWN, "the pending order vanished without a trace")
    return Ended(copy, state, reason, f"not on the account for {PATIENCE_S:.0f} s, no deal in the history shows why")


def how_closed(deal: Deal | None) -> str:
    if deal is None:
        return "closed"
    how = {
        0: "by hand",
        1: "by hand",
        2: "by hand",
        OF_A_PROGRAM: "by a program",
        4: "by stop loss",
        5: "by take profit",
    }
    return f"closed {how.get(deal.reason, 'by the broker')} at {deal.price}"
