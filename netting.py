"""What a netting account shows of our copies: one position per symbol, of which every copy is a part. Pure.

The account shows the sum only; what part of it belongs to which copy is in the ledger. So on a netting account every
order at market is written down with the lots that the symbol had before it. There is one order at a time for a symbol,
and the next one waits until it is known what became of it: because the history shows its deals, because the symbol
has exactly as many lots more or less, or because good readings have not shown it for `PATIENCE_S`.

What changes the sum and was no order of ours was the follower (or a stop, or the broker). What takes away from our side
of the sum has closed copies, the oldest first; what comes on top, or was there already, is foreign: it is remembered,
told, and never traded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from account import PATIENCE_S, Deal, Order, OrderEnd, PastOrder, Position, Reading
from copies import (
    LIVE,
    Copy,
    Ended,
    Evidence,
    Observation,
    Reduced,
    Seen,
    State,
    Thing,
    Told,
    find,
    how_closed,
    is_tag,
    tag_of,
    tagged,
    taken_up,
    unclaimed,
    waits_for_book,
)
from mirror import CopyKey, Held, TradeKey
from safety import Reason
from signals import NOTHING, Action, Kind


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a netting account can go by."""

    reading: Reading
    evidence: Mapping[CopyKey, Evidence]  # the order that a copy waits for: `past`, and the deals of its position
    history: Mapping[str, tuple[Deal, ...]]  # symbol → all deals of its positions; missing = not known now
    waited: Mapping[CopyKey, float]  # seconds of good readings that a copy has waited for its order
    contradicted: Mapping[str, float]  # seconds of good readings that have not shown what the ledger says of a symbol
    foreign: Mapping[str, Decimal]  # symbol → lots that are not ours (short: below 0), as known so far
    tags: Mapping[str, Copy]  # the ledger's copy for a comment that the history shows
    orders: Mapping[int, Copy]  # and for the ticket of a pending order that no live copy has


@dataclass(frozen=True, slots=True)
class NetSeen:
    """What a look says of all symbols."""

    observation: Observation
    foreign: dict[str, Decimal] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()  # no order at market now: what the lots should be is not known
    closable: frozenset[str] = frozenset()  # of these: only because of lots that perhaps are another ledger's copies


def lots_of(reading: Reading, symbol: str) -> Decimal:
    """The symbol's lots on the account, below 0 when they are sold."""
    return sum((lots_of_part(p) for p in reading.positions if p.symbol == symbol), NOTHING)


def lots_of_part(position: Position) -> Decimal:
    """Below 0 when they are sold."""
    return position.volume if position.action.buys else -position.volume


def part_of(copy: Copy, reading: Reading) -> Position | None:
    """A copy's part of its symbol's position, as if it were a position of its own; None when it has none."""
    if copy.client_kind is not Kind.POSITION or not copy.current:
        return None
    whole = next((p for p in reading.positions if p.symbol == copy.symbol), None)
    return Position(
        ticket=whole.ticket if whole else 0,
        identifier=copy.client_ticket,
        symbol=copy.symbol,
        action=Action.BUY if copy.action.buys else Action.SELL,
        volume=copy.current,
        price=whole.price if whole else NOTHING,
        sl=whole.sl if whole else NOTHING,
        tp=whole.tp if whole else NOTHING,
        magic=copy.magic,
        comment=copy.tag,
        time_msc=0,
        profit=NOTHING,
    )


def is_waiting(copy: Copy) -> bool:
    """Whether an order at market was sent for a copy and it is not known what became of it."""
    if copy.state is State.OPENING:
        return copy.kind is Kind.POSITION
    return copy.state in LIVE and copy.reduce_to is not None


def is_placing(copy: Copy) -> bool:
    """Whether a pending order was sent for a copy and the account has not shown it yet."""
    return copy.kind is Kind.ORDER and copy.client_kind is None


def could_be_of(copy: Copy, past: PastOrder) -> bool:
    """Whether an order with a copy's comment can be the one that it waits for, and not an earlier one of it."""
    if past.action is None or past.ticket <= copy.after_ticket:
        return False
    if copy.reduce_to is None:
        return past.action.buys is copy.action.buys
    return past.action.buys is not copy.action.buys and past.volume == copy.current - copy.reduce_to


def is_like(copy: Copy, past: PastOrder) -> bool:
    """Whether an order whose comment the broker replaced can be the pending order of a copy."""
    alike = (past.symbol, past.action, past.volume) == (copy.symbol, copy.action, copy.volume)
    return alike and past.ticket > copy.after_ticket and not is_tag(past.comment)


def busy_symbols(copies: Iterable[Copy]) -> set[str]:
    """The symbols on which no order may be sent now."""
    return {copy.symbol for copy in copies if is_waiting(copy)}


def ours(copies: Iterable[Copy], reading: Reading, symbol: str) -> Decimal:
    """The lots of a symbol that the ledger says are ours: the parts of the copies, and what has filled of their pending
    orders that stand."""
    orders = {order.ticket: order for order in reading.orders}
    total = NOTHING
    for copy in copies:
        if copy.symbol != symbol or copy.state not in LIVE:
            continue
        if copy.client_kind is Kind.POSITION:
            total += copy.signed
        elif copy.client_kind is Kind.ORDER and (order := orders.get(copy.client_ticket)) is not None:
            total += filled_of(order)
    return total


def filled_of(order: Thing) -> Decimal:
    """What a standing order has filled so far, below 0 when it sells."""
    lots = order.initial_volume - order.volume if isinstance(order, Order) else NOTHING
    return lots if order.action.buys else -lots


def gone_orders(copies: Iterable[Copy], reading: Reading) -> list[Copy]:
    """Copies whose pending order is not shown any more."""
    tickets = {order.ticket for order in reading.orders}
    return [c for c in copies if c.state in LIVE and c.client_kind is Kind.ORDER and c.client_ticket not in tickets]


def is_asked_about(copy: Copy, reading: Reading) -> bool:
    """Whether the history must be asked what became of a copy's order."""
    tickets = {order.ticket for order in reading.orders}
    pending = copy.kind is Kind.ORDER and copy.state is State.OPENING
    gone = copy.client_kind is Kind.ORDER and copy.client_ticket not in tickets
    return is_waiting(copy) or pending or gone or copy.state is State.UNKNOWN


def questioned(copies: Collection[Copy], reading: Reading, foreign: Mapping[str, Decimal]) -> set[str]:
    """Symbols about which the history must be asked: their lots are not what the ledger says, or an order is waited
    for."""
    missing = {copy.symbol for copy in gone_orders(copies, reading)} | busy_symbols(copies)
    missing |= {copy.symbol for copy in copies if copy.state is State.OPENING}
    return missing | contradicted(copies, reading, foreign)


def contradicted(copies: Collection[Copy], reading: Reading, foreign: Mapping[str, Decimal]) -> set[str]:
    """Symbols whose lots are not what the ledger says."""
    symbols = {copy.symbol for copy in copies} | {position.symbol for position in reading.positions} | foreign.keys()
    return {
        symbol
        for symbol in symbols
        if lots_of(reading, symbol) != ours(copies, reading, symbol) + foreign.get(symbol, NOTHING)
    }


def observe_net(
    copies: Collection[Copy],
    look: Look,
    books: Mapping[CopyKey, Held],
    magic: int,
    *,
    books_known: bool,
    told: Told,
) -> NetSeen:
    """What became of our copies."""
    news: list[Seen | Ended | Reduced] = []
    doubt: list[Copy] = []
    foreign = {symbol: lots for symbol, lots in look.foreign.items() if lots}
    blocked: set[str] = set()
    closable: set[str] = set()
    pending = _pending_orders(copies, look, magic)
    placed = _placed(copies, look, pending)
    again, untold, strangers = taken_up(pending, copies, look.orders, books, told=told)
    adopted: list[tuple[Held, Thing]] = [*untold]
    standing = {order.ticket for order in look.reading.orders}
    symbols = {copy.symbol for copy in copies} | {position.symbol for position in look.reading.positions}
    symbols |= {seen.copy.symbol for seen in again}
    for symbol in sorted(symbols | foreign.keys()):
        here = [copy for copy in copies if copy.symbol == symbol]
        found = _of_orders(here, symbol, look, placed)
        found += [seen for seen in again if seen.copy.symbol == symbol]
        news += found
        after = _after(here, found)
        if any(is_waiting(copy) for copy in after) or gone_orders(after, look.reading):
            blocked.add(symbol)
            continue
        lots = lots_of(look.reading, symbol)
        filled = sum((filled_of(thing) for _, thing in untold if thing.symbol == symbol), NOTHING)
        strange = lots - ours(after, look.reading, symbol) - filled - foreign.get(symbol, NOTHING)
        if not strange:
            continue
        deals = look.history.get(symbol)
        if deals is not None and _is_torn(look.reading, deals):
            blocked.add(symbol)
            continue
        if not books_known and _has_unknown_tags(deals or (), look.tags, magic, told):
            blocked.add(symbol)  # another ledger's copies, perhaps: the books will tell
            closable.add(symbol)
            continue
        # What pending orders that stand have filled is theirs.
        settled = [deal for deal in deals or () if deal.order not in standing]
        known = any(copy.state in LIVE and copy.client_kind is not Kind.ORDER for copy in after)
        if not known and (position := _position(look.reading, symbol)) is not None:
            if not books_known:
                blocked.add(symbol)
                continue
            taken = _adopted(position, strange, settled, look, books, magic)
            if taken is not None:
                adopted += taken
                continue
        if not _proven(look, symbol, lots, after) and look.contradicted.get(symbol, 0.0) < PATIENCE_S:
            doubt += [copy for copy in after if copy.state in LIVE]
            blocked.add(symbol)
            continue
        forgotten = _closed_unwritten(after, deals or ()) + _opened_all_the_same(after, settled, look.tags, magic)
        news += forgotten
        after = _after(after, forgotten)
        strange = lots - ours(after, look.reading, symbol) - filled - foreign.get(symbol, NOTHING)
        parts = _opened_untold(after, settled, look.tags, books, magic, symbol)
        if parts and sum((lots_of_part(part) for _, part in parts), NOTHING) == strange:
            adopted += parts
        elif strange:
            fresh = {
                seen.copy.key for seen in found if isinstance(seen, Seen) and seen.copy.client_kind is not Kind.POSITION
            }
            was = foreign.get(symbol, NOTHING)
            closing, rest = _closed_by_client(after, fresh, strange, was, lots, deals or ())
            news += closing
            foreign[symbol] = rest
    kept = {symbol: lots for symbol, lots in foreign.items() if lots}
    observation = Observation(tuple(news), tuple(adopted), tuple(strangers), tuple(doubt))
    return NetSeen(observation, kept, frozenset(blocked), frozenset(closable))


def _position(reading: Reading, symbol: str) -> Position | None:
    return next((position for position in reading.positions if position.symbol == symbol), None)


def _is_torn(reading: Reading, deals: Iterable[Deal]) -> bool:
    """Whether the history has fills of a pending order that the reading shows without them. Orders are read before
    positions: one that fills in between has changed the lots already, and nobody else has."""
    filled: dict[int, Decimal] = {}
    for deal in deals:
        filled[deal.order] = filled.get(deal.order, NOTHING) + deal.volume
    return any(filled.get(order.ticket, NOTHING) > order.initial_volume - order.volume for order in reading.orders)


def _has_unknown_tags(deals: Iterable[Deal], tags: Mapping[str, Copy], magic: int, told: Told) -> bool:
    """Whether lots are left of a copy that the ledger does not know, or has skipped: see `copies.taken_up`."""
    own = [comment for comment in _by_comment(deal for deal in deals if deal.magic == magic) if is_tag(comment)]
    return any(comment not in tags or waits_for_book(tags[comment], told) for comment in own)


def _by_comment(deals: Iterable[Deal]) -> dict[str, Decimal]:
    """The lots that the deals with each comment have left, below 0 when they are sold; without those that left none."""
    lots: dict[str, Decimal] = {}
    for deal in deals:
        lots[deal.comment] = lots.get(deal.comment, NOTHING) + (deal.volume if deal.buys else -deal.volume)
    return {comment: left for comment, left in lots.items() if left}


def _proven(look: Look, symbol: str, lots: Decimal, copies: Iterable[Copy]) -> bool:
    """Whether the history says that a symbol has so many lots. It does not where it lacks an order of ours: a position
    that the account does not show, though it is there, may have other deals."""
    deals = look.history.get(symbol)
    if deals is None or _sum(deals) != lots:
        return False
    orders = {deal.order for deal in deals}
    return all(copy.order in orders for copy in copies if copy.order and copy.signed and copy.state in LIVE)


def _sum(deals: Iterable[Deal]) -> Decimal:
    return sum((deal.volume if deal.buys else -deal.volume for deal in deals), NOTHING)


def _after(copies: Iterable[Copy], news: Iterable[Seen | Ended | Reduced]) -> list[Copy]:
    """The copies as they are once these news are written down."""
    after = {copy.key: copy for copy in copies}
    for item in news:
        copy = after.get(item.copy.key, item.copy)
        match item:
            case Seen():
                state = State.OPEN if copy.state not in (State.OPEN, State.CLOSING) else copy.state
                copy = replace(copy, state=state, client_kind=item.kind, client_ticket=item.ticket, current=item.volume)
            case Ended():
                copy = replace(copy, state=item.state, current=NOTHING, reduce_to=None)
            case Reduced():
                copy = replace(copy, reduce_to=None, current=copy.current if item.left is None else item.left)
        after[copy.key] = copy
    return list(after.values())


# --- orders that were sent -------------------------------------------------------------------------------------------


def _pending_orders(copies: Collection[Copy], look: Look, magic: int) -> list[Thing]:
    """Those with our magic number that no copy has."""
    free = unclaimed(copies, look.reading, magic)
    return [thing for thing in free if isinstance(thing, Order) and thing.action.kind is Kind.ORDER]


def _placed(copies: Collection[Copy], look: Look, free: list[Thing]) -> dict[CopyKey, Thing]:
    """Which of them belong to copies that had none so far; these are taken out of `free`."""
    lost = [copy for copy in copies if is_placing(copy)]
    return find(lost, look.evidence, free, {}) if lost else {}


def _of_orders(
    copies: list[Copy], symbol: str, look: Look, placed: Mapping[CopyKey, Thing]
) -> list[Seen | Ended | Reduced]:
    """What became of the orders that are waited for."""
    news: list[Seen | Ended | Reduced] = []
    orders = {order.ticket: order for order in look.reading.orders}
    lots = lots_of(look.reading, symbol)
    position = _position(look.reading, symbol)
    alone = sum(is_waiting(copy) for copy in copies) == 1 and not gone_orders(copies, look.reading)
    # Nothing shown is no witness: only the deals can say that an order has made it so.
    shown = position is not None or _proven(look, symbol, lots, copies)
    # To the ledger's lots, and not to those when the order was sent: pending orders may have filled since.
    change = lots - ours(copies, look.reading, symbol) - look.foreign.get(symbol, NOTHING) if alone and shown else None
    for copy in copies:
        proof = look.evidence.get(copy.key, Evidence())
        patient = look.waited.get(copy.key, 0.0) < PATIENCE_S
        if copy.client_kind is Kind.ORDER or is_placing(copy):
            news += _of_pending(copy, placed.get(copy.key) or orders.get(copy.client_ticket), proof, patient)
        elif is_waiting(copy) or copy.state is State.UNKNOWN:
            if copy.order in orders or any(order.comment == copy.tag for order in orders.values()):
                continue  # the broker is still at it
            identifier = position.identifier if position else 0
            by_us = change if change is None or _may_be_ours(copy, copies, change, symbol, look) else None
            news += _of_market(copy, by_us, proof, patient, identifier)
    return news


def _may_be_ours(copy: Copy, copies: Iterable[Copy], change: Decimal, symbol: str, look: Look) -> bool:
    """Whether a change of the lots may be what the order of a copy has made: not when the history is complete, and has
    no such deals with our magic number. The follower may have traded just as much meanwhile."""
    if not _proven(look, symbol, lots_of(look.reading, symbol), copies):
        return True
    known = {ticket for other in copies if other is not copy for ticket in (other.order, other.client_ticket)}
    own = [
        deal.volume
        for deal in look.history[symbol]
        if deal.magic == copy.magic
        and deal.order > copy.after_ticket
        and deal.order not in known
        and deal.buys == (change > 0)
    ]
    return sum(own, NOTHING) >= abs(change)


def _filled(proof: Evidence, order: int) -> Decimal | None:
    """Lots that an order has filled, None while that is not known or not over."""
    past = proof.past
    if past is None or past.end is OrderEnd.UNDECIDED:
        return None
    of_order = sum((deal.volume for deal in proof.deals if deal.order == past.ticket), NOTHING)
    return max(of_order, past.filled)  # the deals may come later


def _of_market(
    copy: Copy, change: Decimal | None, proof: Evidence, patient: bool, identifier: int
) -> list[Seen | Ended | Reduced]:
    """`change` is by how much the symbol's lots are not the ledger's; None where that does not show what became of this
    order."""
    opening = copy.state in (State.OPENING, State.UNKNOWN)
    wanted = copy.volume if opening else copy.current - (copy.reduce_to or NOTHING)
    side = 1 if copy.action.buys == opening else -1
    filled = _filled(proof, copy.order)
    if filled is None and change is not None and copy.state is not State.UNKNOWN:
        came = change * side
        if came == wanted or (not patient and 0 < came < wanted):
            filled = came
    if filled is None:
        if patient or copy.state is State.UNKNOWN:
            return []
        if opening:
            words = f"no trace of the order after {PATIENCE_S:.0f} s; not sent again"
            return [Ended(copy, State.UNKNOWN, Reason.OUTCOME_UNKNOWN, words)]
        return [Reduced(copy, done=False)]
    deal = max((d for d in proof.deals if proof.past and d.order == proof.past.ticket), key=_time, default=None)
    price = deal.price if deal else NOTHING
    order = proof.past.ticket if proof.past else 0
    if opening:
        if not filled:
            if copy.state is State.UNKNOWN:
                return []
            words = f"the broker ended order {proof.past.ticket if proof.past else copy.order} without a fill"
            return [Ended(copy, State.FAILED, Reason.BROKER_REFUSED, words)]
        ticket = identifier or (proof.past.position_id if proof.past else 0) or copy.order or copy.after_ticket or 1
        return [Seen(copy, Kind.POSITION, ticket, filled, price, order)]
    if not filled:
        return [Reduced(copy, done=False, order=order)]
    left = max(copy.current - filled, NOTHING)
    if not left:
        return [Ended(copy, State.CLOSED, Reason.MASTER_CLOSED, how_closed(deal), deal)]
    return [Reduced(copy, done=True, order=order, left=left)]


def _time(deal: Deal) -> tuple[int, int]:
    return deal.time_msc, deal.ticket


def _of_pending(copy: Copy, order: Thing | None, proof: Evidence, patient: bool) -> list[Seen | Ended | Reduced]:
    ticket = copy.client_ticket or copy.order
    if order is not None:
        if copy.client_kind is Kind.ORDER and copy.current == order.volume:
            return []
        return [Seen(copy, Kind.ORDER, order.identifier, order.volume, order.price)]
    filled = _filled(proof, ticket)
    if filled:
        deal = max((d for d in proof.deals if proof.past and d.order == proof.past.ticket), key=_time, default=None)
        position = (proof.past.position_id if proof.past else 0) or ticket
        return [Seen(copy, Kind.POSITION, position, filled, deal.price if deal else NOTHING)]
    if filled is not None:
        past = proof.past
        words = f"pending order {past.ticket} {past.end}" if past else "pending order ended"
        if is_placing(copy):
            return [Ended(copy, State.FAILED, Reason.BROKER_REFUSED, f"the broker ended it: {words}")]
        state = State.CLOSED if copy.state is State.CLOSING else State.CLOSED_BY_CLIENT
        reason = Reason.MASTER_CLOSED if copy.state is State.CLOSING else Reason.CLOSED_BY_CLIENT
        if past is not None and past.end is OrderEnd.EXPIRED:  # as in `copies`
            state, reason = State.CLOSED, Reason.EXPIRED
        return [Ended(copy, state, reason, words)]
    if patient:
        return []
    what = "no trace of the order" if copy.state is State.OPENING else "the pending order vanished without a trace"
    return [Ended(copy, State.UNKNOWN, Reason.OUTCOME_UNKNOWN, f"{what} after {PATIENCE_S:.0f} s; not sent again")]


# --- what was not ours -----------------------------------------------------------------------------------------------


def _closed_unwritten(copies: Iterable[Copy], deals: Collection[Deal]) -> list[Seen | Ended | Reduced]:
    """Copies that the deals with their tags show to be smaller than the ledger says: it could not be written when they
    were closed, and then the copier died."""
    news: list[Seen | Ended | Reduced] = []
    for copy in copies:
        own = [deal for deal in deals if deal.comment == copy.tag and deal.magic == copy.magic]
        began = any(deal.buys == copy.action.buys for deal in own)
        left = max(_sum(own) if copy.action.buys else -_sum(own), NOTHING)
        if copy.state not in LIVE or copy.client_kind is not Kind.POSITION or not began or left >= copy.current:
            continue
        last = max(own, key=_time)
        if left:
            news.append(Seen(copy, Kind.POSITION, copy.client_ticket, left, last.price))
        else:
            news.append(Ended(copy, State.CLOSED, Reason.MASTER_CLOSED, how_closed(last), last))
    return news


def _opened_all_the_same(
    copies: Iterable[Copy], deals: Collection[Deal], remembered: Mapping[str, Copy], magic: int
) -> list[Seen | Ended | Reduced]:
    """Copies that the broker said it refused, or whose order was under way when another ledger was lost, and that have
    deals: they are copies like any others."""
    live = {copy.key for copy in copies if copy.state in LIVE}
    news: list[Seen | Ended | Reduced] = []
    for tag, copy in remembered.items():
        own = [deal for deal in deals if deal.comment == tag and deal.magic == magic]
        lots = _sum(own) if copy.action.buys else -_sum(own)
        if copy.state in (State.FAILED, State.SKIPPED) and copy.key not in live and lots > 0:
            last = max(own, key=_time)
            news.append(Seen(copy, Kind.POSITION, last.position_id, lots, last.price, last.order))
    return news


def _opened_untold(
    copies: Iterable[Copy],
    deals: Collection[Deal],
    remembered: Mapping[str, Copy],
    books: Mapping[CopyKey, Held],
    magic: int,
    symbol: str,
) -> list[tuple[Held, Position]]:
    """The same of an order that the broker refused for now, so that the ledger does not have it any more: what the
    deals with its comment have made. Not of a trade of several legs: which of its lots that is, nothing shows."""
    known = {copy.key for copy in copies}
    deals = [deal for deal in deals if deal.magic == magic and deal.comment not in remembered]
    tags = tagged(books, [deal.comment for deal in deals])
    parts: dict[CopyKey, list[Deal]] = {}  # that of a pending order that filled and that of the position are one copy's
    for deal in deals:
        if deal.comment in tags:
            parts.setdefault(tags[deal.comment][0], []).append(deal)
    found = []
    for key, own in parts.items():
        lots, last = _sum(own), max(own, key=_time)
        held = tags[last.comment][1]
        if lots and key not in known and [other for other in books if other[:3] == key[:3]] == [(*key[:3], 0)]:
            part = Position(
                ticket=0,
                identifier=last.position_id,
                symbol=symbol,
                action=Action.BUY if lots > 0 else Action.SELL,
                volume=abs(lots),
                price=last.price,
                sl=NOTHING,
                tp=NOTHING,
                magic=magic,
                comment=last.comment,
                time_msc=last.time_msc,
                profit=NOTHING,
            )
            found.append((held, part))
    return found


def _closed_by_client(
    copies: list[Copy],
    fresh: Collection[CopyKey],
    strange: Decimal,
    foreign: Decimal,
    lots: Decimal,
    deals: Iterable[Deal],
) -> tuple[list[Seen | Ended | Reduced], Decimal]:
    """What a change that was no order of ours did to the copies, and the foreign lots after it.

    It first takes from the foreign lots, then from ours, and what is left over is foreign. A symbol that is flat has no
    copies any more, also not such as stood against each other: what their master closes later must not open anything.
    Copies that are `fresh` since the last look came after the change, unless there were no others.
    """
    parts = [copy for copy in copies if copy.state in LIVE and copy.client_kind is Kind.POSITION and copy.current]
    if foreign and (foreign > 0) != (strange > 0):
        from_foreign = min(abs(foreign), abs(strange)) * (1 if strange > 0 else -1)
        foreign, strange = foreign + from_foreign, strange - from_foreign
    last = max(deals, key=_time, default=None)
    if not lots and not foreign and parts:
        return [_by_client(copy, last) for copy in parts], NOTHING
    everything = parts
    parts = [copy for copy in parts if copy.key not in fresh]
    mine = sum((copy.signed for copy in parts), NOTHING)
    if not mine:
        parts, mine = everything, sum((copy.signed for copy in everything), NOTHING)
    if not mine or (mine > 0) == (strange > 0):
        return [], foreign + strange
    on_it = [copy for copy in parts if copy.action.buys == (mine > 0)]
    for on_side in (on_it, [copy for copy in everything if copy.action.buys == (mine > 0)]):
        # Those on one side, and nothing else. The others came when they had gone, while an order was waited for.
        if abs(strange) == sum((copy.current for copy in on_side), NOTHING):
            return [_by_client(copy, last) for copy in on_side], foreign
    taken = min(abs(mine), abs(strange))
    rest = strange + (taken if mine > 0 else -taken)
    if taken == abs(mine):
        return [_by_client(copy, last) for copy in parts], foreign + rest
    news: list[Seen | Ended | Reduced] = []
    for copy in on_it:
        if not taken:
            break
        part = min(copy.current, taken)
        taken -= part
        if part == copy.current:
            news.append(_by_client(copy, last))
        else:
            news.append(Seen(copy, Kind.POSITION, copy.client_ticket, copy.current - part, NOTHING))
    return news, foreign + rest


def _by_client(copy: Copy, deal: Deal | None) -> Ended:
    if copy.state is State.CLOSING:
        return Ended(copy, State.CLOSED, Reason.MASTER_CLOSED, how_closed(deal), deal)
    return Ended(copy, State.CLOSED_BY_CLIENT, Reason.CLOSED_BY_CLIENT, how_closed(deal), deal)


def _adopted(
    position: Position, strange: Decimal, deals: Collection[Deal], look: Look, books: Mapping[CopyKey, Held], magic: int
) -> list[tuple[Held, Position]] | None:
    """The copies of which a position consists, by the comments of its deals, for a ledger that was lost. None when they
    do not add up to it, or it has begun before."""
    lots = _by_comment(deals)
    known = tagged(books, lots)
    known |= {comment: host for comment in lots if comment not in known and (host := _grown_by(comment, known, lots))}
    ended = {tag for tag, copy in look.tags.items() if copy.state is not State.SKIPPED}
    if not lots or any(comment not in known or comment in ended for comment in lots):
        return None
    if sum(lots.values()) != strange or not any(deal.magic == magic for deal in deals):
        return None
    helds = dict(known.values())
    found = []
    for key, left in _of_copies({comment: known[comment][0] for comment in lots}, lots).items():
        action = Action.BUY if left > 0 else Action.SELL
        found.append((helds[key], replace(position, action=action, volume=abs(left), comment=tag_of(key))))
    return found


def _of_copies(keys: Mapping[str, CopyKey], lots: Mapping[str, Decimal]) -> dict[CopyKey, Decimal]:
    """The lots of each copy. That of a pending order that filled has two tags, that of the order and that of the
    position; and what was entered with one tag may have been taken away with that of another leg, as a copy is called
    after it was inherited: legs of a trade that stand against each other are one."""
    parts: dict[CopyKey, Decimal] = {}
    for comment, key in keys.items():
        parts[key] = parts.get(key, NOTHING) + lots[comment]
    trades: dict[TradeKey, list[CopyKey]] = {}
    for key in parts:
        trades.setdefault(key[:3], []).append(key)
    for legs in trades.values():
        if min(parts[key] for key in legs) < 0 < max(parts[key] for key in legs):
            whole = sum((parts.pop(key) for key in legs), NOTHING)
            parts[min(legs)] = whole
    return {key: left for key, left in parts.items() if left}


def _grown_by(
    comment: str, known: Mapping[str, tuple[CopyKey, Held]], comments: Iterable[str]
) -> tuple[CopyKey, Held] | None:
    """The trade that a pending order has made larger which its master's book does not have any more: the one of this
    master that the position is of, where there is only one."""
    if not is_tag(comment) or comment[0] != Kind.ORDER[0]:
        return None
    mark = comment.rpartition(".")[2]
    grown = {key[:3] for key, held in known.values() if key[3] or held.trade.increase is not None}
    hosts = [known[other] for other in comments if other in known and other.endswith(f".{mark}")]
    trades = {key[:3]: (key, held) for key, held in hosts if key[:3] in grown}
    return next(iter(trades.values())) if len(trades) == 1 else None


# --- stops -----------------------------------------------------------------------------------------------------------


def stops_of(pairs: Collection[tuple[Decimal, Decimal]], *, long: bool) -> tuple[Decimal, Decimal]:
    """The SL and TP of a symbol's position: the farthest of those of its copies on its side, none where one has none.

    A nearer one would close the others with it. Each copy's own stop is carried out when its master's trade has ended.
    """
    losses = [sl for sl, _ in pairs]
    profits = [tp for _, tp in pairs]
    sl = NOTHING if not all(losses) else min(losses) if long else max(losses)
    tp = NOTHING if not all(profits) else max(profits) if long else min(profits)
    return sl, tp
