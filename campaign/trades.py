"""Random histories of a master's trades, between every two kinds of account: the client comes to the same lots.

    python run.py campaign trades [--histories N] [--seed S] [--pair MASTER:CLIENT] [--faults]

The real sender, server and copier in one process, without faults: what is tried here is arithmetic. Each history has
opens, partial closes, increases, reversals, closes by an opposite position, stops, pending orders (stop-limit ones too)
that fill, move, expire and are cancelled, jumps of the price and restarts of the copier. When the master stops, the
client must have the exact share within one step for each trade of its own; when the master is flat, so must the client
be; no order is sent twice; the follower's own lots are not touched. hypothesis shortens a history that fails.

With --faults the faults of `campaign faults` happen meanwhile. What the client has while they last is then not compared
(what was missed may have been refused for its age), but nothing may be entered twice, and in the end both are flat.
Every fifth of these trials loses or damages the copier's ledger, or has a second copier, and its master takes nothing
away until a copier knows his book again; in every fifth the follower closes and removes copies himself.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import sim_types as t
from campaign.faults import listen, memory_folder
from campaign.schedule import ALL_FAULTS, back_up
from campaign.world import MAGIC, START, SYMBOLS, UTC_OFFSET_S, Setup, World
from copies import LIVE, State
from safety import Limits, Mode, Reason, Sizing
from signals import Kind
from sim_records import Request

D = Decimal
PAIRS: Final = ("hedging:hedging", "hedging:netting", "netting:hedging", "netting:netting")
# Wide enough for everything: what is refused here would hide what is wrong.
WIDE: Final = Limits(100_000, 100_000, 10_000, D(100_000), D(100), 60)
SIZINGS: Final = {
    "half": Sizing(Mode.MULTIPLIER, D(0), D("0.5")),
    "third": Sizing(Mode.MULTIPLIER, D(0), D("0.333")),
    "double": Sizing(Mode.MULTIPLIER, D(0), D(2)),
    "fix": Sizing(Mode.FIX, D("0.10"), D(1)),
}
QUIET_S: Final = 25
POINT: Final = D("0.00001")
PENDING: Final = (
    t.ORDER_TYPE_BUY_LIMIT,
    t.ORDER_TYPE_SELL_LIMIT,
    t.ORDER_TYPE_BUY_STOP,
    t.ORDER_TYPE_SELL_STOP,
    t.ORDER_TYPE_BUY_STOP_LIMIT,
    t.ORDER_TYPE_SELL_STOP_LIMIT,
)

# One thing that the master does: which, and numbers that choose the details.
Event = tuple[str, int, int, int]
Place = tuple[str, int]  # symbol, and on a hedging account the side
EVENTS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "open",
                "open",
                "open",
                "part",
                "part",
                "end",
                "by",
                "stops",
                "place",
                "place",
                "move",
                "cancel",
                "jump",
                "restart",
            ]
        ),
        st.integers(0, 1),
        st.integers(1, 60),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=14,
)


@dataclass
class Base:
    """For a fixed lot: the master's lots of the first leg, since a position was opened or turned round."""

    lots: dict[int, tuple[bool, Decimal]] = field(default_factory=dict)


def run_history(
    pair: str, sizing: str, step: str, events: Sequence[Event], *, mixed: bool = False, trace: bool = False
) -> list[str]:
    """What is wrong at the end of a history; empty when nothing is. `mixed`: beside lots of the follower's own."""
    master_mode, _, client_mode = pair.partition(":")
    hedging = client_mode == "hedging"
    own = ("EURUSD", D("0.30")) if mixed and not hedging else None
    setup = Setup(master_mode, client_mode, SIZINGS[sizing], WIDE, D(step), foreign=hedging, mixed=own)
    with memory_folder() as folder:
        world = World(1, folder, trace=trace, setup=setup)
        if trace:
            listen(world)
        try:
            return _run(world, setup, events)
        finally:
            world.close()
            if trace:
                print("\n".join(world.trace or []))


def _run(world: World, setup: Setup, events: Sequence[Event]) -> list[str]:
    base = Base()
    for _ in range(4):
        world.tick()
    for event in events:
        _act(world, event)
        for _ in range(3):
            world.tick()
            _remember(world, base)
    for _ in range(QUIET_S):
        world.tick(1.0)
        _remember(world, base)
    found = _unlike(world, setup, base)
    return found or _flat_in_the_end(world)


def _flat_in_the_end(world: World, *, by_tags: bool = True, told: bool = False) -> list[str]:
    """The master closes everything; what is wrong then. `told`: lots that the copier says are the follower's may be
    there, who has traded by hand while an order had no answer."""
    _flatten(world)
    for _ in range(QUIET_S):
        world.tick(1.0)
    foreign = world.copier.objects.copier._stock.foreign if told and world.copier.alive else {}
    left = {place: lots for place, lots in _have(world).items() if foreign.get(place[0]) != lots}
    found = [f"the master is flat, the client has {lots} lots of {place}" for place, lots in left.items()]
    found += [f"the master is flat, the client has the order #{o.ticket}" for o in world.client_broker.orders()]
    return found + world.defects + (_sent_twice(world) if by_tags else []) + _touched(world)


def _act(world: World, event: Event) -> None:
    """Carry out what can be carried out now; what cannot is passed over."""
    name, which, lots, more = event
    broker = world.master_broker
    symbol = list(SYMBOLS)[which]
    volume = D(lots) / 100
    positions = [p for p in broker.positions() if p.symbol == symbol] or broker.positions()
    orders = broker.orders()
    position = positions[more % len(positions)] if positions else None
    if name == "open":
        _deal(world, symbol, volume, buys=bool(more % 2))
    elif name == "part" and position is not None:
        part = min(volume, position.volume)
        _close(world, position, part)
    elif name == "end" and position is not None:
        _close(world, position, position.volume)
    elif name == "by" and position is not None:
        against = [p for p in broker.positions() if p.symbol == position.symbol and p.type != position.type]
        if against:
            world.note("master", f"closes #{position.ticket} by #{against[0].ticket}")
            by = against[0].ticket
            broker.send(Request(action=t.TRADE_ACTION_CLOSE_BY, position=position.ticket, position_by=by))
    elif name == "place" and not (world.setup.sizing.mode is Mode.FIX and world.setup.master_mode == "netting"):
        # (With a fixed lot a pending order is an entry of its own, and no part of the position that it may fill into.)
        bid = broker.market.quotes[symbol].bid
        kind = PENDING[more]
        below = kind in (t.ORDER_TYPE_BUY_LIMIT, t.ORDER_TYPE_SELL_STOP, t.ORDER_TYPE_SELL_STOP_LIMIT)
        price = bid + D(-40 if below else 40) * POINT
        details: dict[str, Any] = {"action": t.TRADE_ACTION_PENDING, "price": price}
        if kind in (t.ORDER_TYPE_BUY_STOP_LIMIT, t.ORDER_TYPE_SELL_STOP_LIMIT):
            details["stoplimit"] = price + D(20 if below else -20) * POINT
        if lots % 3 == 0 and world.setup.ends_by_itself:
            details |= {"type_time": t.ORDER_TIME_SPECIFIED, "expiration": broker.now_msc() // 1000 + lots}
        _send(world, _request(symbol, volume, kind, **details))
    elif name == "stops" and position is not None and world.setup.ends_by_itself:
        far = D(40 + lots) * POINT * (1 if position.type == t.POSITION_TYPE_BUY else -1)
        now = broker.market.quotes[position.symbol].bid
        sl, tp = (now - far, now + far if more % 2 else D(0))
        _send(
            world,
            Request(action=t.TRADE_ACTION_SLTP, position=position.ticket, symbol=position.symbol, sl=sl, tp=tp),
        )
    elif name == "move" and orders:
        order = orders[more % len(orders)]
        price = order.price_open + D(lots - 30) * D("0.00001")
        _send(world, Request(action=t.TRADE_ACTION_MODIFY, order=order.ticket, symbol=order.symbol, price=price))
    elif name == "cancel" and orders:
        _send(world, Request(action=t.TRADE_ACTION_REMOVE, order=orders[more % len(orders)].ticket))
    elif name == "jump":
        world.move_market(symbol, 3 * lots if more % 2 else -3 * lots)
    elif name == "restart":
        world.stop(world.copier, 0.5)


def _deal(world: World, symbol: str, volume: Decimal, *, buys: bool, **more: Any) -> None:
    _send(world, _request(symbol, volume, t.ORDER_TYPE_BUY if buys else t.ORDER_TYPE_SELL, **more))


def _close(world: World, position: Any, volume: Decimal) -> None:
    _deal(world, position.symbol, volume, buys=position.type != t.POSITION_TYPE_BUY, position=position.ticket)


def _request(symbol: str, volume: Decimal, kind: int, **more: Any) -> Request:
    filling = t.ORDER_FILLING_RETURN if more.get("action") == t.TRADE_ACTION_PENDING else t.ORDER_FILLING_IOC
    return Request(
        **{
            "action": t.TRADE_ACTION_DEAL,
            "symbol": symbol,
            "volume": volume,
            "type": kind,
            "type_filling": filling,
            **more,
        }
    )


def _send(world: World, request: Request) -> None:
    done = world.master_broker.send(request)
    words = f"{request.action} {request.symbol} type {request.type} {request.volume} at {request.price}"
    world.note("master", f"{words} position {request.position} order {request.order} -> {done.retcode}")


def _flatten(world: World) -> None:
    broker = world.master_broker
    for order in broker.orders():
        _send(world, Request(action=t.TRADE_ACTION_REMOVE, order=order.ticket))
    for position in broker.positions():
        _close(world, position, position.volume)


# What makes the end another one, so that it has trials of its own.
LEDGERS: Final = ("ledger of the copier lost", "ledger of the copier damaged", "second copier")
BY_HAND: Final = ("copy closed by hand", "pending copy removed by hand")
# Not here: what the old ledger of a copier does not know, and (on a netting account, where the order that closes may be
# one that opens as well) orders that are filled when their patience has run out. Neither is promised.
NOT_HERE: Final = ("old ledger of the copier put back", "follower trades himself")
NOT_NETTING: Final = ("order: timed out, filled after it was given up", "order: master closes before it is filled")
# What may happen beside a ledger that is lost. What the server loses at the same time cannot be taken up again.
BESIDE_A_LOST_LEDGER: Final = tuple(
    name
    for name in ALL_FAULTS
    if name.startswith(("order: ", "client terminal: ", "websocket: ", "copier killed"))
    and name not in ("websocket: last frame lost", *NOT_NETTING)
)
FIRST_LOSS_S: Final = 12
TAKE_AWAY: Final = ("part", "end", "by", "cancel", "jump", "stops")


# Half of the trials have one or two of these besides, at the moment of a trade.
NEAR_ORDERS: Final = (
    "copier killed at a boundary",
    "copier killed at a boundary",
    "order: done, answer None",
    "order: not done, answer None",
    "order: timed out, filled late",
)


@dataclass(frozen=True)
class Trial:
    """What happens in a trial with faults."""

    setup: Setup
    plan: list[tuple[float, str, Any]]  # seconds from the beginning, what, details
    loses: bool  # the ledger of the copier
    by_hand: bool  # the follower trades


def _drawn(pair: str, draw: random.Random) -> Trial:
    master_mode, _, client_mode = pair.partition(":")
    hedging = client_mode == "hedging"
    what_else = draw.choice(("", "", "", "ledger", "hand"))
    loses = what_else == "ledger"
    setup = Setup(
        master_mode,
        client_mode,
        SIZINGS["half"],
        replace(WIDE, max_signal_age_s=10),
        foreign=hedging,
        mixed=("EURUSD", D("0.30")) if not hedging and not what_else and draw.random() < 0.4 else None,
        ends_by_itself=not loses,
    )
    plan: list[tuple[float, str, Any]] = []
    for _ in range(draw.randint(6, 14)):
        what = draw.choice(["open", "open", "part", "end", "by", "stops", "place", "cancel", "jump"])
        if what == "place" and loses and pair == "netting:hedging":
            what = "open"  # nothing tells whose a growth by a pending order is: it is reported and left alone
        # After a ledger is lost nothing is taken away, at a netting master not by an open on the other side either.
        latest = 8 if loses and (what in TAKE_AWAY or master_mode == "netting") else 30
        at = draw.uniform(1, latest)
        plan.append((at, what, (what, draw.randint(0, 1), draw.randint(1, 60), draw.randint(0, 5))))
    first = FIRST_LOSS_S if loses else 3
    others = {*LEDGERS, *BY_HAND, *NOT_HERE, *(() if hedging else NOT_NETTING)}
    names = BESIDE_A_LOST_LEDGER if loses else [name for name in ALL_FAULTS if name not in others]
    faults = draw.choices(names, k=draw.choice((1, 2) if what_else else (1, 2, 3, 4)))
    if loses:
        faults.append(draw.choice(LEDGERS))
    elif what_else:
        faults += draw.choices(BY_HAND, (3, 1), k=draw.choice((1, 2)))
    for name in faults:
        at = draw.uniform(first, 30)
        if "backup" in name:
            plan.append((draw.uniform(1, at), "backup", None))
        plan.append((at, name, draw.getrandbits(32)))
    if draw.random() < 0.5:  # what a sum does not show again after a crash is easily lost, and easily counted twice
        times = [at for at, name, _ in plan if name in ("open", "part", "end") and at >= first]
        near = draw.choice(times or [first + 7.0])
        for name in draw.sample(NEAR_ORDERS, k=draw.choice((1, 2))):
            plan.append((near + draw.uniform(-0.5, 1.0), name, draw.getrandbits(32)))
    return Trial(setup, sorted(plan, key=lambda entry: entry[0]), loses, what_else == "hand")


def run_with_faults(pair: str, number: int, *, trace: bool = False) -> list[str]:
    """One trial with faults; what is wrong at its end."""
    draw = random.Random(f"trades {pair} {number}")
    master_mode = pair.partition(":")[0]
    trial = _drawn(pair, draw)
    with memory_folder() as folder:
        world = World(number, folder, trace=trace, setup=trial.setup)
        if trace:
            listen(world)
        for at, name, detail in trial.plan:
            while world.clock.now - START < at:
                world.tick()
            if name in ALL_FAULTS:
                world.note("fault", name)
                ALL_FAULTS[name](world, random.Random(detail))
            elif name == "backup":
                back_up(world, draw)
            else:
                _act(world, detail)
        for _ in range(2):
            world.tick()
        world.heal()
        for _ in range(60):
            world.tick(1.0)
        # A position that has turned round is taken up under the tag of its first leg: `_sent_twice` would be mistaken.
        alone = trial.loses and master_mode == "netting"
        found = _ordered(world, FIRST_LOSS_S) if alone else [] if trial.loses else _closed_wrongly(world)
        found += _flat_in_the_end(world, by_tags=not alone, told=trial.by_hand)
        world.close()
        if trace:
            print("\n".join(world.trace or []))
        return found


def _ordered(world: World, since_s: int) -> list[str]:
    """Deals of the copiers since a time from which on they had no reason to trade."""
    since = (START + since_s + UTC_OFFSET_S) * 1000
    deals = [deal for deal in world.client_broker.account.deals.items if deal.magic == MAGIC and deal.time_msc >= since]
    return [f"{deal.comment} was dealt at {deal.time_msc / 1000 - START - UTC_OFFSET_S:.1f}" for deal in deals]


def _closed_wrongly(world: World) -> list[str]:
    """Copies that were closed because the master closed, and he has not. (Of several entries of one position rounding
    may take one away.)"""
    if not world.copier.alive:
        return ["the copier does not run"]
    masters = {p.identifier: p.type == t.POSITION_TYPE_BUY for p in world.master_broker.positions()}
    legs = world.copier.objects.ledger.legs
    copies = [copy for copy in world.ledger.values() if copy.kind is Kind.POSITION]
    live = {copy.key[:3] for copy in copies if copy.state in LIVE}
    found = []
    for copy in copies:
        ended = copy.state is State.CLOSED and copy.reason == Reason.MASTER_CLOSED and copy.key[:3] not in live
        of_trade = legs.get(copy.key[:3], ())
        left = not of_trade or any(leg.left for leg in of_trade if leg.number == copy.leg)
        if ended and left and masters.get(copy.ticket) is copy.action.buys:
            found.append(f"the copy of #{copy.ticket} was closed, and the master has not closed it")
    return found


# --- what must be so -------------------------------------------------------------------------------------------------


def _remember(world: World, base: Base) -> None:
    for position in world.master_broker.positions():
        buys = position.type == t.POSITION_TYPE_BUY
        known = base.lots.get(position.identifier)
        if known is None or known[0] is not buys:
            base.lots[position.identifier] = (buys, position.volume)


def _share(setup: Setup, base: Base, position: Any) -> Decimal:
    """The exact lots that a copy of a master's position should have."""
    volume: Decimal = position.volume
    if setup.sizing.mode is Mode.MULTIPLIER:
        return volume * setup.sizing.multiplier
    return setup.sizing.fixed_lot * volume / base.lots[position.identifier][1]


def _place(position: Any, *, netting: bool) -> tuple[Place, int]:
    """Where a position counts: its symbol and, on a hedging account, its side. And the sign of its lots there."""
    if netting:
        return (position.symbol, -1), -1 if position.type == t.POSITION_TYPE_SELL else 1
    return (position.symbol, position.type), 1


def _have(world: World) -> dict[Place, Decimal]:
    """What the client has, without what is the follower's own."""
    netting = world.setup.client_mode == "netting"
    have: dict[Place, Decimal] = defaultdict(Decimal)
    for position in world.client_broker.positions():
        if position.ticket not in world.foreign:
            place, side = _place(position, netting=netting)
            have[place] += side * position.volume
    if world.setup.mixed is not None:
        symbol, lots = world.setup.mixed
        have[symbol, -1] -= lots
    return {place: lots for place, lots in have.items() if lots}


def _unlike(world: World, setup: Setup, base: Base) -> list[str]:
    """Where the client's lots are not the master's share."""
    netting = setup.client_mode == "netting"
    wanted: dict[Place, Decimal] = defaultdict(Decimal)
    copies: Counter[Place] = Counter()
    for position in world.master_broker.positions():
        place, side = _place(position, netting=netting)
        wanted[place] += side * _share(setup, base, position)
        copies[place] += 1 + _filled_into(world, position)
    have = _have(world)
    early = _filled_early(world)
    found = []
    for where in wanted.keys() | have.keys():
        allowed = setup.client_step * copies[where]
        off = have.get(where, D(0)) - wanted[where]
        if abs(off) > allowed and where[0] not in early:
            found.append(
                f"{where}: the client has {have.get(where)}, the share is {wanted[where]} (allowed +-{allowed})"
            )
    pending = Counter(o.symbol for o in world.master_broker.orders())
    for order in world.client_broker.orders():
        pending[order.symbol] -= 1
    found += [f"{symbol}: {-n} more pending orders at the client" for symbol, n in pending.items() if n < 0]
    return found


def _filled_into(world: World, position: Any) -> int:
    """How many pending orders have filled into a position: each is copied as an entry of its own."""
    orders = world.master_broker.account.old_orders.items
    return sum(o.position_id == position.identifier and o.type > t.ORDER_TYPE_SELL for o in orders)


def _filled_early(world: World) -> set[str]:
    """Symbols on which the client's copy of a pending order has filled and the master's order has not: as documented,
    that position stays until the master's order fills or goes."""
    tags = {copy.tag for copy in world.ledger.values() if copy.client_kind == "position" and copy.kind == "order"}
    pending = {order.symbol for order in world.master_broker.orders()}
    return {p.symbol for p in world.client_broker.positions() if tags and p.symbol in pending}


def _sent_twice(world: World) -> list[str]:
    """A tag is that of one entry: all other orders with it take lots away. (The copy of a pending order that filled
    goes on under the position's tag: which side a tag's entry has is in the ledger.)"""
    if not world.copier.alive:
        return ["the copier does not run"]
    ledger = world.copier.objects.ledger
    entries: dict[str, set[int]] = defaultdict(set)
    for deal in world.client_broker.account.deals.items:
        if deal.magic != MAGIC or not deal.comment or deal.comment.startswith("["):
            continue
        copy = ledger.remembered(deal.comment, 0)
        if copy is not None and copy.action.buys == (deal.type == t.DEAL_TYPE_BUY):
            entries[deal.comment].add(deal.order)
    return [
        f"{tag} was entered {len(orders)} times: {sorted(orders)}" for tag, orders in entries.items() if len(orders) > 1
    ]


def _touched(world: World) -> list[str]:
    now = {p.ticket: p.volume for p in world.client_broker.positions()}
    return [
        f"the follower's own #{ticket} was touched" for ticket, lots in world.foreign.items() if now.get(ticket) != lots
    ]


# --- many of them ----------------------------------------------------------------------------------------------------


def _worker(job: tuple[tuple[str, ...], int, int]) -> tuple[int, Counter[str], str]:
    """So many histories; how many there were, of which pairs, and what failed."""
    pairs, count, first = job
    logging.disable(logging.CRITICAL)
    ran: Counter[str] = Counter()

    @seed(first)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(pairs), st.sampled_from(list(SIZINGS)), st.sampled_from(["0.01", "0.10"]), EVENTS, st.booleans()
    )
    def history(pair: str, sizing: str, step: str, events: list[Event], mixed: bool) -> None:
        ran[pair] += 1
        found = run_history(pair, sizing, step, events, mixed=mixed)
        assert not found, f"{pair} {sizing} {step} {events} mixed={mixed}: " + "; ".join(found)  # noqa: S101

    try:
        history()
    except AssertionError as error:
        return sum(ran.values()), ran, str(error)
    return sum(ran.values()), ran, ""


def _trial(job: tuple[str, int]) -> tuple[str, int, list[str]]:
    logging.disable(logging.CRITICAL)
    return (*job, run_with_faults(*job))


def _with_faults(pairs: Sequence[str], count: int, first: int, jobs: int) -> int:
    wrong = 0
    trials = [(pairs[n % len(pairs)], first + n) for n in range(count)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, (pair, at, found) in enumerate(pool.imap_unordered(_trial, trials, chunksize=4), 1):
            if found:
                wrong += 1
                print(f"WRONG  --faults --pair {pair} --replay {at}\n  " + "\n  ".join(found), flush=True)
            if number % 500 == 0:
                print(f"{number} trials, {wrong} wrong", flush=True)
    print(f"{'trials':<20} {count:>8,}\n{'WRONG':<20} {wrong:>8}")
    return 1 if wrong else 0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py campaign trades", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--histories", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--pair", choices=PAIRS, help="only this one (default: all four)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many at once (default: all cores)")
    parser.add_argument("--faults", action="store_true", help="with the faults of `campaign faults`")
    parser.add_argument("--replay", type=int, metavar="N", help="with --faults and --pair: tell one trial")
    options = parser.parse_args(argv)
    pairs = (options.pair,) if options.pair else PAIRS
    if options.replay is not None:
        found = run_with_faults(pairs[0], options.replay, trace=True)
        print("\n".join(found) or "nothing is wrong")
        return 1 if found else 0
    if options.faults:
        return _with_faults(pairs, options.histories, options.seed * 1_000_000, options.jobs)
    began = time.monotonic()
    chunk = max(1, min(500, options.histories // options.jobs))
    jobs = [(pairs, chunk, options.seed * 1_000_000 + n) for n in range(-(-options.histories // chunk))]
    print(f"{chunk * len(jobs)} histories, seed {options.seed}", flush=True)
    total, ran = 0, Counter[str]()
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for count, of_pairs, wrong in pool.imap_unordered(_worker, jobs):
            total, ran = total + count, ran + of_pairs
            if wrong:
                print(f"WRONG after {total} histories (seed {options.seed})\n{wrong}")
                return 1
    for pair in pairs:
        print(f"{pair:<20} {ran[pair]:>8,}")
    print(f"{'seconds':<20} {time.monotonic() - began:>8.0f}\n{'WRONG':<20} {0:>8}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
