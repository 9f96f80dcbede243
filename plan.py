"""What to do now: the copies, the masters' books and the rules go in, the next actions come out.

Pure: no clock, no terminal, no database, no socket. `copier.py` asks again after every message and every second, so
that nothing depends on having seen an event, and an action that did not work out comes back by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from account import MarginMode, Order, Position, Reading, Symbol
from copies import LIVE, Copy, State, order_key
from expiry import Until, is_over, is_same, shown, until
from mirror import CopyKey, Held, Mirror, TradeKey
from names import SymbolNames
from netting import busy_symbols, lots_of, part_of, stops_of
from safety import (
    Allowed,
    Copying,
    Exposure,
    Limits,
    Part,
    Reason,
    Refusal,
    Sizing,
    decide,
    floor_to_step,
    remaining_part,
    remaining_volume,
    rounded_price,
)
from signals import NOTHING, Action, Kind, Trade
from stops import (
    Levels,
    closing_price,
    displaced,
    entry_price,
    for_new,
    for_open,
    is_frozen,
    is_frozen_order,
    missing,
)


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
class Trim:
    """On a netting account: trade against a copy's side, so that `to` lots of it are left (0 = it is closed)."""

    copy: Copy
    to: Decimal
    reason: Reason
    lots: Decimal  # of the symbol on the account before it, below 0 when they are sold


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
    asked: Levels  # the master's, on the grid of the client's symbol; `sl` and `tp` are what the broker takes of them

    @property
    def missing(self) -> str:
        return missing(self.position, self.asked)


@dataclass(frozen=True, slots=True)
class StopsAre:
    """What is to be told of a position's stops; nothing when they are the master's."""

    copy: Copy
    missing: str = ""
    displaced: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    copy: Copy
    order: Order
    price: Decimal
    stoplimit: Decimal
    sl: Decimal
    tp: Decimal
    expiration: Until


@dataclass(frozen=True, slots=True)
class Inherit:
    """The copy of a pending order that filled becomes the copy of the position that the master's order became."""

    copy: Copy
    held: Held


@dataclass(frozen=True, slots=True)
class Open:
    """Open a position or place a pending order, as the trade's kind says."""

    held: Held
    allowed: Allowed
    price: Decimal  # this and the following on the grid of the client's symbol; price only of a pending order
    stoplimit: Decimal
    sl: Decimal
    tp: Decimal
    expiration: Until


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not now, or for good when the refusal is final."""

    held: Held
    refusal: Refusal


# Why a trade is not opened that a copier with another ledger may have copied.
OF_ANOTHER_LEDGER: Final = (Reason.OLDER_THAN_LEDGER, Reason.ANOTHER_COPIER)

Follow = Close | Reduce | Trim | Remove | SetStops | Move | Inherit
Step = Follow | Open | Refuse | StopsAre
Aim = tuple[Decimal | Until, ...]


def aim_of(step: Step) -> Aim:
    """What a step wants to reach: with another aim it is another step, which need not rest because this one does."""
    match step:
        case Reduce() | Trim():
            return (step.to,)
        case SetStops():
            return (step.asked.sl, step.asked.tp)
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
    allow_mixed_symbol: bool = False  # on a netting account: also symbols of which the follower has lots of his own


@dataclass(frozen=True, slots=True)
class Known:
    """Everything `plan` looks at beside the masters' books and the rules."""

    books: Mapping[CopyKey, Held]  # the masters' trades, leg by leg
    copies: Mapping[CopyKey, Copy]  # all that concern trades of the books, and all live ones
    reading: Reading
    symbols: Mapping[str, Symbol | None]  # None = the broker has none of that name; missing = no answer now
    highest_equity: Decimal
    now: float  # monotonic seconds
    server_ms: int | None = None  # UTC by the server's clock; None = not known
    opens_allowed: bool = True  # False while the reading is in doubt or the books are not up to date
    defect: str = ""  # of this program, since it started: then nothing is opened
    born_at: int = 0  # when the ledger began, UTC ms by the clock of this server database; 0 = with another database
    alone_since: int = 0  # until then, UTC ms by the server's clock, another copier of this user was connected
    utc_offset_s: int | None = None  # of the client's broker clock; None = not known
    # (trade, kind of step) → until when (monotonic) the step with this aim rests, because it was done or refused
    rests: Mapping[tuple[CopyKey, type], tuple[float, Aim]] = field(default_factory=dict)
    # Pending orders from before the ledger: whether the account has, or has had, a copy of it; missing = not known now
    traces: Mapping[CopyKey, bool] = field(default_factory=dict)
    foreign: Mapping[str, Decimal] = field(default_factory=dict)  # netting: lots of a symbol that are not ours
    blocked: frozenset[str] = frozenset()  # netting: symbols whose lots are not known for certain now
    closable: frozenset[str] = frozenset()  # of these such of which known copies may be closed all the same

    @property
    def netting(self) -> bool:
        return self.reading.account.margin_mode is not MarginMode.HEDGING

    def heir(self, order: CopyKey) -> Held | None:
        """The position that a master's pending order became, or became a part of."""
        heirs = [
            (key, held)
            for key, held in self.books.items()
            if key[1] is Kind.POSITION and held.order and order_key(held) == order
        ]
        heirs.sort(key=lambda heir: heir[0] in self.copies)
        return heirs[0][1] if heirs else None

    def is_resting(self, key: CopyKey, step: Step) -> bool:
        until, aim = self.rests.get((key, type(step)), (0.0, ()))
        return until > self.now and aim == aim_of(step)


def plan(mirror: Mirror, known: Known, rules: Rules) -> list[Step]:
    """What to do now, in this order: what takes risk away, what opens, what moves stops, what is told of them."""
    away: list[Step] = []
    moves: list[Step] = []
    shares = _shares_of_legs(known)
    positions = {position.identifier: position for position in known.reading.positions}
    orders = {order.ticket: order for order in known.reading.orders}
    for copy in known.copies.values():
        if copy.state in (State.OPEN, State.CLOSING):
            order = orders.get(copy.client_ticket) if copy.client_kind is Kind.ORDER or not known.netting else None
            position = part_of(copy, known.reading) if known.netting else positions.get(copy.client_ticket)
            for step in _follow(copy, position, order, mirror, known, rules, shares.get(copy.key)):
                if isinstance(step, SetStops) or not known.is_resting(copy.key, step):
                    (moves if isinstance(step, SetStops | Move) else away).append(step)
    if known.netting:
        away, moves = _trims(away, known), _net_stops(moves, known, rules)
    moves, told = _possible(moves, known)
    opens = _opens(known, rules, {step.copy.symbol for step in away if isinstance(step, Trim)})
    return away + opens + moves + told


def _shares_of_legs(known: Known) -> dict[CopyKey, Decimal]:
    """The lots that the open copies of a trade of several legs should have, at most what they have.

    Together they are less than a step above the exact share. It is worked out for all legs at once, because what
    rounding left over of one leg is in the next. What is too much is taken from the oldest.
    """
    trades: dict[TradeKey, list[Copy]] = {}
    for key, copy in known.copies.items():
        if copy.kind is Kind.POSITION and key in known.books:
            trades.setdefault(key[:3], []).append(copy)
    shares: dict[CopyKey, Decimal] = {}
    for copies in trades.values():
        symbol = known.symbols.get(copies[0].symbol)
        if not any(copy.leg for copy in copies) or symbol is None:
            continue
        live = sorted((copy for copy in copies if copy.state in LIVE), key=lambda copy: copy.leg)
        if any(copy.state is State.OPENING or copy.reduce_to is not None for copy in live):
            shares |= {copy.key: copy.current for copy in live}  # first it must be known what they have
            continue
        exact = sum((_exact_share(copy, known, symbol.volume_step) for copy in copies), NOTHING)
        excess = floor_to_step(sum((copy.current for copy in live), NOTHING) - exact, symbol.volume_step)
        for copy in live:
            left = remaining_part(copy.current, max(excess, NOTHING), symbol)
            shares[copy.key] = left
            excess -= copy.current - left
    return shares


def _exact_share(copy: Copy, known: Known, step: Decimal) -> Decimal:
    """What the copy of a leg should have now, to the last digit; nothing when it was refused for another reason."""
    if copy.state in LIVE:
        own = min(copy.exact, copy.volume + step)  # less when it was filled in part
        leg_before = (*copy.key[:3], copy.leg - 1)
        undecided = leg_before in known.books and leg_before not in known.copies
        if copy.leg and undecided:  # what that has left over is in this one
            over = max(copy.volume + copy.rest - copy.exact, NOTHING)
            return own * known.books[copy.key].trade.volume / copy.master_volume + over
    elif copy.reason == Reason.VOLUME_TOO_SMALL:
        before = known.copies.get((*copy.key[:3], copy.leg - 1))
        own = copy.rest - (before.rest if before is not None and before.action.buys == copy.action.buys else NOTHING)
    else:
        return NOTHING
    return own * known.books[copy.key].trade.volume / copy.master_volume


def _follow(
    copy: Copy,
    position: Position | None,
    order: Order | None,
    mirror: Mirror,
    known: Known,
    rules: Rules,
    share: Decimal | None,
) -> list[Follow]:
    """What an open copy, shown as `position` or `order`, needs to be as its master's trade is. `share` are the lots it
    should have when it is one of several legs."""
    held = known.books.get(copy.key)
    heir = known.heir(copy.key) if copy.kind is Kind.ORDER and held is None else None

    if rules.copying is Copying.FLATTEN:
        return _end(copy, position, order, Reason.FLATTENED)
    if heir is not None:  # while the master's order stands as well, only a part of it has filled
        # The master's order filled. A copy that filled too goes on as the copy of the position; one that did not is
        # taken back first, and only when it is proven not to have filled is the position opened at market: never both.
        if position is not None and order is None:
            other = known.copies.get(heir.key)
            return [] if other is not None and other.state in LIVE else [Inherit(copy, heir)]
        return _end(copy, None, order, Reason.MASTER_CLOSED)
    if held is None:
        trade_key = copy.key[:3]
        if trade_key not in mirror.trades and not mirror.speaks_for(trade_key, copy.source, copy.epoch):
            return []
        if copy.kind is Kind.ORDER and trade_key in mirror.may_have_filled:
            return _end(copy, None, order, Reason.MASTER_CLOSED)
        return _end(copy, position, order, Reason.MASTER_CLOSED)

    trade = held.trade
    turned = trade.action.buys != copy.action.buys
    if (turned or trade.kind is Kind.ORDER) and not mirror.believed(copy.key[:3]):
        return []
    if turned:  # what this is a copy of is gone
        return _end(copy, position, order, Reason.MASTER_CLOSED)
    if order is not None and copy.kind is Kind.ORDER and is_over(trade.expiration, known.server_ms, order):
        return _end(copy, None, order, Reason.EXPIRED)
    symbol = known.symbols.get(copy.symbol)
    if symbol is None:
        return []
    wanted: list[Follow] = []
    if position is not None and copy.kind is Kind.POSITION and copy.reduce_to is None:
        target = share
        if target is None:
            target = remaining_volume(copy.volume, position.volume, trade.volume, copy.master_volume, symbol)
        if not target:  # its lots are in another leg's, by rounding
            return [Close(copy, position, Reason.MASTER_CLOSED)]
        if target < position.volume:
            wanted.append(Reduce(copy, position, target))
    if rules.copying is Copying.PAUSED:
        return wanted
    price, stoplimit, sl, tp = _prices(trade, symbol)
    if position is not None:
        wanted.append(SetStops(copy, position, sl, tp, Levels(sl, tp)))
    if order is not None and copy.kind is Kind.ORDER and not is_frozen_order(order, symbol):
        sl, tp = _new_stops(trade, symbol)
        if order.action != trade.action:  # of one of the two, a stop-limit order, the first price has been reached
            price, stoplimit = (stoplimit, NOTHING) if trade.stoplimit else (order.price, price)
        expiration = _expiration(trade, symbol, known, shown(order))
        now = (order.price, order.stoplimit, order.sl, order.tp)
        if now != (price, stoplimit, sl, tp) or not is_same(shown(order), expiration):
            wanted.append(Move(copy, order, price, stoplimit, sl, tp, expiration))
    return wanted


def _trims(steps: list[Step], known: Known) -> list[Step]:
    """The same on a netting account: closes and reductions trade against the sum, one at a time for each symbol."""
    busy = {*(known.blocked - known.closable), *busy_symbols(known.copies.values())}
    found: list[Step] = []
    for step in steps:
        if not isinstance(step, Close | Reduce):
            found.append(step)
            continue
        symbol = step.copy.symbol
        to, reason = (step.to, Reason.MASTER_CLOSED) if isinstance(step, Reduce) else (NOTHING, step.reason)
        trim = Trim(step.copy, to, reason, lots_of(known.reading, symbol))
        if symbol not in busy and not known.is_resting(step.copy.key, trim):
            busy.add(symbol)
            found.append(trim)
    return found


def _net_stops(moves: list[Step], known: Known, rules: Rules) -> list[Step]:
    """The stops of each symbol's position, instead of those of each copy; none where foreign lots are in it."""
    wanted = {step.copy.key: (step.sl, step.tp) for step in moves if isinstance(step, SetStops)}
    found: list[Step] = [step for step in moves if not isinstance(step, SetStops)]
    if rules.copying is Copying.PAUSED:
        return found
    for position in known.reading.positions:
        name, long = position.symbol, position.action.buys
        if name in known.blocked or known.foreign.get(name):
            continue
        parts = [c for c in known.copies.values() if c.symbol == name and c.state in (State.OPEN, State.CLOSING)]
        parts = [c for c in parts if part_of(c, known.reading) is not None and c.action.buys == long]
        if not parts or any(copy.key not in wanted for copy in parts):
            continue  # of one of them it is not known now, or it is being closed
        sl, tp = stops_of([wanted[copy.key] for copy in parts], long=long)
        found.append(SetStops(parts[0], position, sl, tp, Levels(sl, tp)))
    return found


def _possible(moves: list[Step], known: Known) -> tuple[list[Step], list[Step]]:
    """Of these steps those that the broker would carry out now, and what is to be told of the positions' stops."""
    steps: list[Step] = []
    told: list[Step] = []
    for step in moves:
        if not isinstance(step, SetStops):
            steps.append(step)
            continue
        position, symbol = step.position, known.symbols.get(step.copy.symbol)
        if symbol is None:
            continue
        now = for_open(position, step.asked, symbol)
        if (now.sl, now.tp) != (step.sl, step.tp):
            step = replace(step, sl=now.sl, tp=now.tp)
        is_set = (position.sl, position.tp) == (step.sl, step.tp)
        waits = known.is_resting(step.copy.key, step) or (is_frozen(position, symbol) and not step.missing)
        if not is_set and not waits:
            steps.append(step)
        if is_set or step.missing:
            told.append(StopsAre(step.copy, step.missing, "" if step.missing else displaced(position, step.asked)))
    return steps, told


def _prices(trade: Trade, symbol: Symbol) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Price, stop-limit price, SL and TP of a trade on the grid of the client's symbol."""
    price, stoplimit, sl, tp = (
        rounded_price(price, symbol.tick_size) for price in (trade.price, trade.stoplimit, trade.sl, trade.tp)
    )
    return price, stoplimit, sl, tp


def _new_stops(trade: Trade, symbol: Symbol) -> tuple[Decimal, Decimal]:
    """SL and TP of an order that is placed or moved now."""
    price, stoplimit, sl, tp = _prices(trade, symbol)
    if trade.kind is Kind.ORDER:
        at = entry_price(replace(trade, price=price, stoplimit=stoplimit))
    else:
        at = closing_price(trade.action.buys, symbol)
    levels = for_new(trade.action.buys, at, Levels(sl, tp), symbol)
    return levels.sl, levels.tp


def _expiration(trade: Trade, symbol: Symbol, known: Known, now: Until | None = None) -> Until:
    """How long the copy of a pending order is to stand; as `now` while the broker's clock is not known."""
    if trade.expiration and known.utc_offset_s is None and now is not None:
        return now
    return until(trade.expiration, symbol.lifetimes, known.utc_offset_s, known.server_ms)


def _end(copy: Copy, position: Position | None, order: Order | None, reason: Reason) -> list[Follow]:
    ends: list[Follow] = []
    if order is not None:
        ends.append(Remove(copy, order, reason))
    if position is not None:
        ends.append(Close(copy, position, reason))
    return ends


def _opens(known: Known, rules: Rules, trimmed: set[str]) -> list[Step]:
    if not known.opens_allowed:
        return []
    if known.defect:
        return refused_after_defect(known)
    wanted: list[Step] = []
    exposure = exposure_of(known, rules.magic)
    unresolved = {(c.symbol, c.action.buys, c.volume) for c in known.copies.values() if c.state is State.OPENING}
    busy = {*trimmed, *known.blocked, *(busy_symbols(known.copies.values()) if known.netting else ())}
    rests = {key: copy.rest for key, copy in known.copies.items()}
    for key, held in _undecided(known):
        if known.rests.get((key, Open), (0.0, ()))[0] > known.now:
            continue
        part = None if held.of_lots is None else Part(held.of_lots, rests.get((*key[:3], key[3] - 1), NOTHING))
        verdict = _judged(held, known, rules, exposure, part)
        in_doubt = rules.names.of(held.trade.symbol) in known.blocked
        if in_doubt and isinstance(verdict, Refusal) and verdict.reason in OF_ANOTHER_LEDGER:
            continue  # its copy is perhaps there, and is taken up when the account is understood
        if isinstance(verdict, Refusal) and verdict.reason is Reason.VOLUME_TOO_SMALL:
            rests[key] = Decimal(verdict.numbers["volume"])
        if isinstance(verdict, Allowed):
            name = verdict.symbol.name
            likeness = (name, held.trade.action.buys, verdict.volume)
            if likeness not in unresolved and not (held.trade.kind is Kind.POSITION and name in busy):
                unresolved.add(likeness)
                if known.netting and held.trade.kind is Kind.POSITION:
                    busy.add(name)
                exposure = _with(exposure, held.trade, verdict)
                price, stoplimit, *_ = _prices(held.trade, verdict.symbol)
                prices = (price, stoplimit, *_new_stops(held.trade, verdict.symbol))
                wanted.append(Open(held, verdict, *prices, _expiration(held.trade, verdict.symbol, known)))
                continue
            verdict = Refusal(
                Reason.WAITING,
                f"an order like it ({verdict.volume} lots of {verdict.symbol.name}) has no known outcome yet",
                {"volume": verdict.volume},
            )
        wanted.append(Refuse(held, verdict))
    return wanted


def _undecided(known: Known) -> Iterator[tuple[CopyKey, Held]]:
    """The trades that were neither copied nor refused for good."""
    for key, held in known.books.items():
        if key in known.copies:
            continue
        forerunner = known.copies.get(order_key(held)) if key[1] is Kind.POSITION else None
        if forerunner is not None and forerunner.state in LIVE:
            continue  # the copy of the pending order it came from is settled first; then this is decided
        yield key, held


def refused_after_defect(known: Known) -> list[Step]:
    """In place of all opens after a defect of this program. Nothing is worked out: perhaps that is what failed."""
    words = f"nothing is opened until the copier is started again: {known.defect}"
    return [Refuse(held, Refusal(Reason.PROGRAM_DEFECT, words, {})) for _, held in _undecided(known)]


def _judged(held: Held, known: Known, rules: Rules, exposure: Exposure, part: Part | None) -> Allowed | Refusal:
    """The verdict on a trade that was never copied: of the ledger, of the pending order it came from, of the rules."""
    opened_at = held.trade.opened_at
    if opened_at and opened_at <= known.born_at:
        return Refusal(
            Reason.OLDER_THAN_LEDGER,
            f"opened {(known.born_at - opened_at) / 1000:.1f} s before this copier's ledger began: "
            "it may have been copied already",
            {"opened_at": opened_at, "born_at": known.born_at},
        )
    if opened_at and opened_at <= known.alone_since:
        return Refusal(
            Reason.ANOTHER_COPIER,
            f"opened {(known.alone_since - opened_at) / 1000:.1f} s before this copier took the place of another of "
            "its user, or first came to this server: that one may have copied it",
            {"opened_at": opened_at, "alone_since": known.alone_since},
        )
    symbol = _symbol_of(held.trade, known, rules)
    opposite = NOTHING
    if known.netting and isinstance(symbol, Symbol):
        lots = lots_of(known.reading, symbol.name)
        opposite = max(NOTHING, -lots if held.trade.action.buys else lots)
    verdict = decide(
        held.trade,
        held.age_ms(known.now),
        rules.copying,
        rules.sizing,
        rules.limits,
        known.reading.account,
        known.highest_equity,
        symbol,
        exposure,
        part,
        opposite,
    )
    if isinstance(verdict, Allowed):
        by_time = _expired(held.trade, known)
        return _decided_by_its_order(held, known) or _mixed(verdict, known, rules) or by_time or verdict
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
    if known.netting:
        live = [copy for copy in known.copies.values() if copy.state in LIVE]
        volumes = [copy.current for copy in live if copy.client_kind is Kind.POSITION]
    else:
        volumes = [position.volume for position in known.reading.positions if position.magic == magic]
    volumes += [order.volume for order in known.reading.orders if order.magic == magic]
    opening = [copy for copy in known.copies.values() if copy.state is State.OPENING]
    volumes += [copy.volume for copy in opening]
    margin = sum((_margin(known.symbols.get(copy.symbol), copy.action, copy.volume) for copy in opening), NOTHING)
    return Exposure(len(volumes), sum(volumes, NOTHING), margin)


def _mixed(allowed: Allowed, known: Known, rules: Rules) -> Refusal | None:
    """On a netting account: the follower's own lots of a symbol and ours would be one position."""
    name = allowed.symbol.name
    foreign = known.foreign.get(name, NOTHING)
    if not known.netting or not foreign or rules.allow_mixed_symbol:
        return None
    return Refusal(
        Reason.MIXED_SYMBOL,
        f"{foreign} lots of {name} on this netting account are not the copier's (allow_mixed_symbol is false)",
        {"foreign_lots": foreign},
    )


def _expired(trade: Trade, known: Known) -> Refusal | None:
    if not is_over(trade.expiration, known.server_ms):
        return None
    return Refusal(Reason.EXPIRED, "the pending order's time has come already", {"expiration": trade.expiration})


def _decided_by_its_order(held: Held, known: Known) -> Refusal | None:
    """For a position that the master's pending order became: what the fate of that order's copy says about it."""
    if held.trade.kind is not Kind.POSITION:
        return None
    forerunner = known.copies.get(order_key(held))
    if forerunner is None:
        return None
    if forerunner.state is State.CLOSED_BY_CLIENT:
        return Refusal(
            Reason.CLOSED_BY_CLIENT, "the copy of the pending order it came from was ended on the client", {}
        )
    if forerunner.state is State.UNKNOWN:
        return Refusal(Reason.OUTCOME_UNKNOWN, "the pending order it came from may still fill", {})
    if forerunner.reason == Reason.ANOTHER_COPIER:
        return Refusal(
            Reason.ANOTHER_COPIER, "another copier of this user may have copied the pending order it came from", {}
        )
    if forerunner.reason == Reason.OLDER_THAN_LEDGER:
        copied = known.traces.get(forerunner.key)
        if copied is None:
            why = "the history does not say now whether the pending order it came from was copied"
            return Refusal(Reason.OUTCOME_UNKNOWN, why, {})
        if copied:
            why = "the pending order it came from was copied before this copier's ledger began"
            return Refusal(Reason.OLDER_THAN_LEDGER, why, {})
    return None
