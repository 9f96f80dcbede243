"""What to do now: the copies, the masters' books and the rules go in, the next actions come out.

Pure: no clock, no terminal, no database, no socket. `copier.py` asks again after every message and every second, so
that nothing depends on having seen an event, and an action that did not work out comes back by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from account import Order, Position, Reading, Symbol
from copies import LIVE, Copy, State, order_key, position_key
from mirror import CopyKey, Held, Mirror
from names import SymbolNames
from safety import (
    Allowed,
    Copying,
    Exposure,
    Limits,
    Reason,
    Refusal,
    Sizing,
    decide,
    remaining_volume,
    rounded_price,
)
from signals import NOTHING, Action, Kind, Trade


@dataclass(frozen=True, slots=True)
class Close:
    copy: Copy
    position: Position
    reason: Reason


@dataclass(frozen=True, slots=True)
class Reduce:
    copy: Copy
    position: Position
    to: Decimal  # lots left


@dataclass(frozen=True, slots=True)
class Remove:
    copy: Copy
    order: Order
    reason: Reason


@dataclass(frozen=True, slots=True)
class SetStops:
    copy: Copy
    position: Position
    sl: Decimal
    tp: Decimal


@dataclass(frozen=True, slots=True)
class Move:
    copy: Copy
    order: Order
    price: Decimal
    stoplimit: Decimal
    sl: Decimal
    tp: Decimal
    expiration: int  # seconds of the client's broker clock, 0 = none


@dataclass(frozen=True, slots=True)
class Inherit:
    """The copy of a pending order that filled becomes the copy of the position that the master's order became."""

    copy: Copy
    trade: Trade


@dataclass(frozen=True, slots=True)
class Open:
    """Open a position or place a pending order, as the trade's kind says."""

    held: Held
    allowed: Allowed
    price: Decimal  # this and the following on the grid of the client's symbol; price only of a pending order
    stoplimit: Decimal
    sl: Decimal
    tp: Decimal
    expiration: int  # seconds of the client's broker clock, 0 = none


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not now, or for good when the refusal is final."""

    held: Held
    refusal: Refusal


Follow = Close | Reduce | Remove | SetStops | Move | Inherit
Step = Follow | Open | Refuse
Aim = tuple[Decimal | int, ...]


def aim_of(step: Step) -> Aim:
    """What a step wants to reach: with another aim it is another step, which need not rest because this one does."""
    match step:
        case Reduce():
            return (step.to,)
        case SetStops():
            return (step.sl, step.tp)
        case Move():
            return (step.price, step.stoplimit, step.sl, step.tp, step.expiration)
    return ()


@dataclass(frozen=True, slots=True)
class Rules:
    """The follower's settings as they are in force now."""

    copying: Copying
    sizing: Sizing
    limits: Limits
    magic: int
    names: SymbolNames = field(default_factory=SymbolNames)


@dataclass(frozen=True, slots=True)
class Known:
    """Everything `plan` looks at beside the masters' books and the rules."""

    copies: Mapping[CopyKey, Copy]  # all that concern trades of the books, and all live ones
    reading: Reading
    symbols: Mapping[str, Symbol | None]  # None = the broker has none of that name; missing = no answer now
    highest_equity: Decimal
    now: float  # monotonic seconds
    opens_allowed: bool = True  # False while the reading is in doubt or the books are not up to date
    born_at: int = 0  # when the ledger began, UTC ms by the clock of this server database; 0 = with another database
    utc_offset_s: int | None = None  # of the client's broker clock; None = not known
    # (trade, kind of step) → until when (monotonic) the step with this aim rests, because it was done or refused
    rests: Mapping[tuple[CopyKey, type], tuple[float, Aim]] = field(default_factory=dict)

    def is_resting(self, key: CopyKey, step: Step) -> bool:
        until, aim = self.rests.get((key, type(step)), (0.0, ()))
        return until > self.now and aim == aim_of(step)


def plan(mirror: Mirror, known: Known, rules: Rules) -> list[Step]:
    """What to do now, in this order: what takes risk away, what moves stops, what opens."""
    away: list[Step] = []
    moves: list[Step] = []
    opens: list[Step] = []
    positions = {position.identifier: position for position in known.reading.positions}
    orders = {order.ticket: order for order in known.reading.orders}
    for copy in known.copies.values():
        if copy.state in (State.OPEN, State.CLOSING):
            position, order = positions.get(copy.client_ticket), orders.get(copy.client_ticket)
            for step in _follow(copy, position, order, mirror, known, rules):
                if not known.is_resting(copy.key, step):
                    (moves if isinstance(step, SetStops | Move) else away).append(step)
    if known.opens_allowed:
        opens = _opens(mirror, known, rules)
    return away + moves + opens


def _follow(
    copy: Copy, position: Position | None, order: Order | None, mirror: Mirror, known: Known, rules: Rules
) -> list[Follow]:
    """What an open copy, shown as `position` or `order`, needs to be as its master's trade is."""
    held = mirror.trades.get(copy.key)
    heir = mirror.trades.get(position_key(copy.key)) if copy.kind is Kind.ORDER else None

    if rules.copying is Copying.FLATTEN:
        return _end(copy, position, order, Reason.FLATTENED)
    if heir is not None and held is None:  # while the master's order stands as well, only a part of it has filled
        # The master's order filled. A copy that filled too goes on as the copy of the position; one that did not is
        # taken back first, and only when it is proven not to have filled is the position opened at market: never both.
        if position is not None and order is None:
            return [Inherit(copy, heir.trade)]
        return _end(copy, None, order, Reason.MASTER_CLOSED)
    if held is None:
        if not mirror.speaks_for(copy.key, copy.source, copy.epoch):
            return []
        return _end(copy, position, order, Reason.MASTER_CLOSED)

    trade = held.trade
    if trade.action.buys != copy.action.buys:  # the master turned round: what this is a copy of is gone
        return _end(copy, position, order, Reason.MASTER_CLOSED)
    symbol = known.symbols.get(copy.symbol)
    if symbol is None:
        return []
    wanted: list[Follow] = []
    if position is not None and copy.kind is Kind.POSITION and copy.reduce_to is None:
        target = remaining_volume(copy.volume, position.volume, trade.volume, copy.master_volume, symbol)
        if target < position.volume:
            wanted.append(Reduce(copy, position, target))
    if rules.copying is Copying.PAUSED:
        return wanted
    price, stoplimit, sl, tp = _prices(trade, symbol)
    if position is not None and (position.sl, position.tp) != (sl, tp):
        wanted.append(SetStops(copy, position, sl, tp))
    if order is not None and copy.kind is Kind.ORDER:
        expiration = _expiration(trade, symbol, known, order.expiration_msc // 1000)
        now = (order.price, order.stoplimit, order.sl, order.tp, order.expiration_msc // 1000)
        if now != (price, stoplimit, sl, tp, expiration):
            wanted.append(Move(copy, order, price, stoplimit, sl, tp, expiration))
    return wanted


def _prices(trade: Trade, symbol: Symbol) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Price, stop-limit price, SL and TP of a trade on the grid of the client's symbol."""
    price, stoplimit, sl, tp = (
        rounded_price(price, symbol.tick_size) for price in (trade.price, trade.stoplimit, trade.sl, trade.tp)
    )
    return price, stoplimit, sl, tp


def _expiration(trade: Trade, symbol: Symbol, known: Known, now: int = 0) -> int:
    """When the client's broker should let a pending order expire, by its own clock; `now` while that is not known.

    0 where it cannot: the copy is then removed when the master's order has gone.
    """
    if not trade.expiration or not symbol.takes_expiration:
        return 0
    if known.utc_offset_s is None:
        return now
    return trade.expiration // 1000 + known.utc_offset_s


def _end(copy: Copy, position: Position | None, order: Order | None, reason: Reason) -> list[Follow]:
    ends: list[Follow] = []
    if order is not None:
        ends.append(Remove(copy, order, reason))
    if position is not None:
        ends.append(Close(copy, position, reason))
    return ends


def _opens(mirror: Mirror, known: Known, rules: Rules) -> list[Step]:
    wanted: list[Step] = []
    exposure = exposure_of(known, rules.magic)
    unresolved = {(c.symbol, c.action.buys, c.volume) for c in known.copies.values() if c.state is State.OPENING}
    for key, held in mirror.trades.items():
        if key in known.copies or known.rests.get((key, Open), (0.0, ()))[0] > known.now:
            continue
        forerunner = known.copies.get(order_key(key)) if key[1] is Kind.POSITION else None
        if forerunner is not None and forerunner.state in LIVE:
            continue  # the copy of the pending order it came from is settled first; then this is decided
        verdict = _judged(key, held, known, rules, exposure)
        if isinstance(verdict, Allowed):
            likeness = (verdict.symbol.name, held.trade.action.buys, verdict.volume)
            if likeness not in unresolved:
                unresolved.add(likeness)
                exposure = _with(exposure, held.trade, verdict)
                prices = _prices(held.trade, verdict.symbol)
                wanted.append(Open(held, verdict, *prices, _expiration(held.trade, verdict.symbol, known)))
                continue
            verdict = Refusal(
                Reason.WAITING,
                f"an order like it ({verdict.volume} lots of {verdict.symbol.name}) has no known outcome yet",
                {"volume": verdict.volume},
            )
        wanted.append(Refuse(held, verdict))
    return wanted


def _judged(key: CopyKey, held: Held, known: Known, rules: Rules, exposure: Exposure) -> Allowed | Refusal:
    """The verdict on a trade that was never copied: of the ledger, of the pending order it came from, of the rules."""
    opened_at = held.trade.opened_at
    if opened_at and opened_at <= known.born_at:
        return Refusal(
            Reason.OLDER_THAN_LEDGER,
            f"opened {(known.born_at - opened_at) / 1000:.1f} s before this copier's ledger began: "
            "it may have been copied already",
            {"opened_at": opened_at, "born_at": known.born_at},
        )
    verdict = decide(
        held.trade,
        held.age_ms(known.now),
        rules.copying,
        rules.sizing,
        rules.limits,
        known.reading.account,
        known.highest_equity,
        _symbol_of(held.trade, known, rules),
        exposure,
    )
    if isinstance(verdict, Allowed):
        return _decided_by_its_order(key, known) or verdict
    return verdict


def _symbol_of(trade: Trade, known: Known, rules: Rules) -> Symbol | Refusal:
    """The client's symbol for a trade that is to be opened, or why there is none."""
    name = rules.names.of(trade.symbol)
    if name not in known.symbols:
        return Refusal(Reason.NO_QUOTE, f"the terminal does not answer about {name}", {"symbol": name})
    return known.symbols[name] or rules.names.unknown(trade.symbol)


def _with(exposure: Exposure, trade: Trade, allowed: Allowed) -> Exposure:
    margin = _margin(allowed.symbol, trade.action, allowed.volume)
    return Exposure(exposure.trades + 1, exposure.lots + allowed.volume, exposure.margin + margin)


def _margin(symbol: Symbol | None, action: Action, volume: Decimal) -> Decimal:
    per_lot = None if symbol is None else symbol.margin_buy if action.buys else symbol.margin_sell
    return (per_lot or NOTHING) * volume


def exposure_of(known: Known, magic: int) -> Exposure:
    """What our copies take: everything with our magic on the account, and the opens not settled yet (`opening`)."""
    volumes = [position.volume for position in known.reading.positions if position.magic == magic]
    volumes += [order.volume for order in known.reading.orders if order.magic == magic]
    opening = [copy for copy in known.copies.values() if copy.state is State.OPENING]
    volumes += [copy.volume for copy in opening]
    margin = sum((_margin(known.symbols.get(copy.symbol), copy.action, copy.volume) for copy in opening), NOTHING)
    return Exposure(len(volumes), sum(volumes, NOTHING), margin)


def _decided_by_its_order(key: CopyKey, known: Known) -> Refusal | None:
    """For a position that the master's pending order became: what the fate of that order's copy says about it."""
    if key[1] is not Kind.POSITION:
        return None
    forerunner = known.copies.get(order_key(key))
    if forerunner is None:
        return None
    if forerunner.state is State.CLOSED_BY_CLIENT:
        return Refusal(
            Reason.CLOSED_BY_CLIENT, "the copy of the pending order it came from was ended on the client", {}
        )
    if forerunner.state is State.UNKNOWN:
        return Refusal(Reason.OUTCOME_UNKNOWN, "the pending order it came from may still fill", {})
    return None
