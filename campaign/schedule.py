"""What happens in one trial: the master's trades and the faults, drawn from a seed.

Each fault is a function of the world; its docstring is what the report calls it. Events are drawn before the trial
begins, so that a trial with a kill at another boundary meets the same ones.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import sim_types as t
from campaign.world import FOREIGN_MAGIC, SYMBOLS, MachineClock, Part, Setup, Trade, World, position_of
from db import Store
from ledger import CopierLedger
from sim_api import Session
from sim_api import Terminal as SimTerminal
from sim_broker import Broker
from sim_records import Request

D = Decimal

Happening = Callable[[World, random.Random], None]


@dataclass(frozen=True, slots=True)
class Event:
    at: float  # seconds from the beginning
    name: str
    seed: int
    act: Happening


# --- the master's trades ---------------------------------------------------------------------------------------------


def open_trades(world: World, kind: str = "") -> list[Trade]:
    return [
        x for x in world.trades.values() if x.ended is None and (not kind or (x.kind == "order") == (kind == "order"))
    ]


def opens(world: World, draw: random.Random) -> None:
    lots = D(draw.choice(("0.02", "0.10", "0.10", "0.30", "1.00", "0.58")))
    world.master_opens(draw.choice(list(SYMBOLS)), lots, draw.random() < 0.5, draw.random() < 0.6, draw.random() < 0.4)


def places(world: World, draw: random.Random) -> None:
    kind = draw.choice((t.ORDER_TYPE_BUY_LIMIT, t.ORDER_TYPE_SELL_LIMIT, t.ORDER_TYPE_BUY_STOP, t.ORDER_TYPE_SELL_STOP))
    world.master_places(draw.choice(list(SYMBOLS)), D("0.20"), kind, draw.choice((80, 120, 200)))


def closes(world: World, draw: random.Random) -> None:
    """Wholly or in part; a pending order is removed."""
    found = open_trades(world)
    if not found:
        return
    trade = draw.choice(found)
    position = position_of(world.master_broker, trade.ticket)
    if position is None:
        world.master_broker.send(Request(action=t.TRADE_ACTION_REMOVE, order=trade.ticket))
        world.note("master", f"removes the order #{trade.ticket}")
    else:
        part = draw.random() < 0.45 and position.volume > D("0.02")
        volume = (position.volume * D(draw.choice(("0.1", "0.3", "0.5")))).quantize(D("0.01")) if part else None
        world.master_broker.execution.close(position, t.ORDER_REASON_CLIENT, "", volume or None)
        world.note("master", f"closes {volume or 'all'} of #{trade.ticket}")
    world.watch_master()


def moves(world: World, draw: random.Random) -> None:
    """Another stop loss, take profit or price of a pending order."""
    found = open_trades(world)
    if not found:
        return
    trade = draw.choice(found)
    broker = world.master_broker
    position = position_of(broker, trade.ticket)
    shift = D(draw.randint(0, 40)) * D("0.00001")
    if position is not None:
        bid = broker.market.quotes[position.symbol].bid
        side = 1 if position.is_buy else -1
        request = Request(
            action=t.TRADE_ACTION_SLTP, position=position.ticket, symbol=position.symbol,
            sl=bid - side * (D("0.00250") + shift), tp=draw.choice((D(0), bid + side * (D("0.00250") + shift))),
        )  # fmt: skip
    else:
        order = broker.account.orders[trade.ticket]
        away = shift if order.price_open > broker.market.quotes[order.symbol].bid else -shift
        request = Request(action=t.TRADE_ACTION_MODIFY, order=order.ticket, price=order.price_open + away)
    done = broker.send(request)
    world.note("master", f"moves #{trade.ticket}: {done.retcode}")


def swap(broker: Broker, identifier: int) -> None:
    """The broker opens a position anew overnight: another ticket, the same identifier."""
    position = position_of(broker, identifier)
    if position is not None:
        del broker.account.positions[position.ticket]
        position.ticket = broker.account.new_order_ticket()
        broker.account.positions[position.ticket] = position
        broker.account.changed = True


def swaps_ticket(world: World, draw: random.Random) -> None:
    broker = draw.choice((world.master_broker, world.client_broker))
    positions = [p for p in broker.positions() if p.identifier not in world.foreign]
    if positions:
        position = draw.choice(positions)
        world.note("broker", f"re-opens #{position.identifier} under another ticket")
        swap(broker, position.identifier)


TRADING: Final[tuple[tuple[str, Happening, int], ...]] = (
    ("opens", opens, 10),
    ("places", places, 3),
    ("closes", closes, 8),
    ("moves", moves, 4),
    ("swaps ticket", swaps_ticket, 1),
)


# --- the faults ------------------------------------------------------------------------------------------------------


def _a_part(world: World, draw: random.Random) -> Part:
    return draw.choice((world.server, world.sender, world.copier))


def _at_boundary(name: str) -> Happening:
    def kill(world: World, draw: random.Random) -> None:
        part: Part = getattr(world, name)
        if part.alive:
            part.kill_in = draw.choice((1, 2, 3, 4, 5, 6, 8, 12, 20))

    return kill


def _killed_now(world: World, draw: random.Random) -> None:
    part = _a_part(world, draw)
    if part.alive:
        world.note(part.name, "is killed")
        world.bury(part)


def _all_killed(world: World, draw: random.Random) -> None:
    for part in (world.server, world.sender, world.copier):
        if part.alive:
            world.bury(part)


def _reads(
    side: str, function: str, outcome: str, lasts: tuple[int, ...] = (1, 2, 4, 8, 14), **details: Any
) -> Happening:
    def break_it(world: World, draw: random.Random) -> None:
        sim: SimTerminal = getattr(world, f"{side}_sim")
        seconds = draw.choice(lasts)
        _inject(sim, function, outcome, times=None, lasts=seconds, **details)
        world.note(side, f"terminal: {function} {outcome} for {seconds} s")

    return break_it


def _inject(sim: SimTerminal, function: str, outcome: str, times: int | None = 1, **details: Any) -> None:
    sim.call(Session(), "inject", {"function": function, "outcome": outcome, "times": times, "details": details})


def _order(outcome: str, **details: Any) -> Happening:
    def next_order(world: World, draw: random.Random) -> None:
        more = dict(details)
        if outcome.endswith("late_fill") and not details:
            more["seconds"] = draw.choice((1, 2, 4, 7, 10))
        if outcome == "partial":
            more["fraction"] = draw.choice((0.2, 0.4, 0.8))
        if outcome == "retcode":
            more["retcode"] = draw.choice(CODES)
        _inject(world.client_sim, "order_send", outcome, draw.choice((1, 1, 2)), **more)

    return next_order


CODES: Final = tuple(
    code
    for name, code in t.CONSTANTS.items()
    if name.startswith("TRADE_RETCODE_")
    and code
    not in (
        t.TRADE_RETCODE_DONE,
        t.TRADE_RETCODE_DONE_PARTIAL,
        t.TRADE_RETCODE_PLACED,
        t.TRADE_RETCODE_NO_CHANGES,
        t.TRADE_RETCODE_POSITION_CLOSED,
    )
)  # fmt: skip  those five would be lies about what was executed


def _raises(what: str) -> Happening:
    def next_order(world: World, draw: random.Random) -> None:
        world.order_fault = what

    return next_order


def _terminal_gone(world: World, draw: random.Random) -> None:
    sim = draw.choice((world.master_sim, world.client_sim))
    sim.running = False
    world.later(draw.choice((1.0, 3.0, 6.0)), lambda: setattr(sim, "running", True))


def _trading_off(world: World, draw: random.Random) -> None:
    button = draw.random() < 0.5
    sim = world.client_sim
    sim.call(Session(), "sim_trading", {"allowed": not button, "api_disabled": not button})
    world.later(draw.choice((2.0, 5.0)), lambda: sim.call(Session(), "sim_trading", {}))


def _network(kind: str) -> Happening:
    def break_it(world: World, draw: random.Random) -> None:
        part = draw.choice((world.sender, world.sender, world.copier))
        part.network, part.network_until = kind, world.clock.now + draw.choice((1, 3, 6, 12))
        if kind == "cut" and part is world.copier and part.alive:
            part.objects.line.cut_until = part.network_until

    return break_it


def _line_cut(world: World, draw: random.Random) -> None:
    if world.copier.alive:
        world.copier.objects.line.lost("reset", server_knows=draw.random() < 0.5)


def _long_cut(world: World, draw: random.Random) -> None:
    if world.copier.alive:
        world.copier.objects.line.cut_until = world.clock.now + draw.choice((5, 12, 20))


def _line_stalled(world: World, draw: random.Random) -> None:
    if world.copier.alive:
        world.copier.objects.line.stalled_until = world.clock.now + draw.choice((2, 6, 12, 20))


def _frames_lost(world: World, draw: random.Random) -> None:
    if world.copier.alive:
        world.copier.objects.line.lose_frames = draw.choice((1, 1, 2))


def _last_frame_lost(world: World, draw: random.Random) -> None:
    """The next change of the master is the last for a while, and nobody hears of it."""
    if world.copier.alive:
        world.copier.objects.line.lose_frames = 1
        closes(world, draw)


def _frame_in_parts(world: World, draw: random.Random) -> None:
    if world.copier.alive:
        world.copier.objects.line.stall_within_s = draw.choice((4.0, 8.0, 14.0, 18.0))


def _disk_full(name: str) -> Happening:
    def fill(world: World, draw: random.Random) -> None:
        part: Part = getattr(world, name)
        part.disk_full_until = world.clock.now + draw.choice((1, 4, 9))

    return fill


def _file_lost(name: str) -> Happening:
    def lose(world: World, draw: random.Random) -> None:
        part: Part = getattr(world, name)
        _stopped(world, part, draw)
        world._remove(world.folder / f"{name}.db")
        _remember_loss(world, name)

    return lose


def _file_damaged(name: str) -> Happening:
    def damage(world: World, draw: random.Random) -> None:
        part: Part = getattr(world, name)
        _stopped(world, part, draw)
        path = world.folder / f"{name}.db"
        if path.exists():
            for log in world.folder.glob(f"{path.name}-*"):
                log.unlink()
            with open(path, "r+b") as file:
                size = file.seek(0, 2)
                file.seek(draw.choice((0, size // 3 // 4096 * 4096, max(0, size - 4096))))
                file.write(draw.randbytes(300))
        _remember_loss(world, name)

    return damage


def _stopped(world: World, part: Part, draw: random.Random) -> None:
    if part.alive:
        world.stop(part, draw.choice((0.5, 2.0, 5.0)))


def _remember_loss(world: World, name: str) -> None:
    if name == "copier":
        world.ledger_is_lost()
    if name == "server":
        world.reports_lost = True


def back_up(world: World, draw: random.Random) -> None:
    if world.server.alive:
        _keep(world.server.objects.store, world.folder / "server.copy")


def copy_ledger(world: World, draw: random.Random) -> None:
    if world.copier.alive:
        _keep(world.copier.objects.ledger, world.folder / "copier.copy")


def _keep(source: Store | CopierLedger, file: Path) -> None:
    copy = sqlite3.connect(file)
    source._db.backup(copy)
    copy.close()


def _put_back(name: str) -> Happening:
    """The part's file as it was some time ago, put back."""

    def put_back(world: World, draw: random.Random) -> None:
        kept = world.folder / f"{name}.copy"
        if kept.exists():
            _stopped(world, getattr(world, name), draw)
            world._remove(world.folder / f"{name}.db")
            shutil.copy(kept, world.folder / f"{name}.db")
            _remember_loss(world, name)
            world.ledger_put_back |= name == "copier"
            if name == "server":
                world.backup_unheard = world.server_put_back = True

    return put_back


def _second_sender(world: World, draw: random.Random) -> None:
    """Somebody starts a second sender for the account; later it ends, and the first is started again."""
    if world.second_sender is not None:
        return
    second = world.second_sender = Part("sender two", MachineClock(world.clock))
    second.starts_at = world.clock.now

    def over() -> None:
        world.second_sender = None
        world._down(second)
        if not world.sender.alive:
            world.sender.starts_at = world.clock.now

    world.later(draw.choice((2.0, 6.0)), over)


def _second_copier(world: World, draw: random.Random) -> None:
    """Somebody starts a second copier in another folder; later it ends, and the first is started again."""
    if world.second_copier is not None:
        return
    second = world.second_copier = Part("copier two", MachineClock(world.clock))
    second.starts_at = world.clock.now

    def over() -> None:
        world._down(second)
        second.starts_at = None
        if not world.copier.alive and world.copier.starts_at is None:
            world.copier.starts_at = world.clock.now

    world.ledger_is_lost()  # neither of the two knows everything
    world.later(draw.choice((3.0, 7.0)), over)


def _by_hand(world: World, draw: random.Random) -> None:
    """The follower closes a copy himself, wholly or in part."""
    mine = [p for p in world.client_broker.positions() if p.identifier not in world.foreign]
    if not mine:
        return
    position = draw.choice(mine)
    part = draw.random() < 0.4 and position.volume > D("0.02")
    volume = max(D("0.01"), (position.volume / 3).quantize(D("0.01"))) if part else None
    world.client_broker.execution.close(position, t.ORDER_REASON_CLIENT, "", volume)
    world.by_hand.add(position.identifier)
    world.note("follower", f"closes {volume or 'all'} of #{position.identifier} by hand")


def _own_trade(world: World, draw: random.Random) -> None:
    """The follower opens a position of his own, or another program does: as large as a copy may be."""
    side = draw.choice((t.ORDER_TYPE_BUY, t.ORDER_TYPE_SELL))
    lots = D(draw.choice(("0.05", "0.15", "0.50")))
    world.follower_opens(draw.choice(list(SYMBOLS)), lots, side, draw.choice((0, FOREIGN_MAGIC)))


# A partial close that is executed when patience has run out may be made twice: that is not promised otherwise.
OF_AN_OPEN: Final = {"position": 0}


def _closed_while_under_way(world: World, draw: random.Random) -> None:
    """The master's next trade ends while nobody knows yet what became of its copy, which is opened later."""
    _inject(world.client_sim, "order_send", "timeout_late_fill", seconds=draw.choice((4, 8, 18, 25)), where=OF_AN_OPEN)
    opens(world, draw)
    ticket = max(world.trades)

    def ends() -> None:
        position = position_of(world.master_broker, ticket)
        if position is not None:
            world.master_broker.execution.close(position, t.ORDER_REASON_CLIENT, "", None)
            world.watch_master()

    world.later(draw.choice((1.5, 3.0, 6.0)), ends)


def _removed_by_hand(world: World, draw: random.Random) -> None:
    mine = [order for order in world.client_broker.orders() if not order.due_msc]
    if mine:
        order = draw.choice(mine)
        world.client_broker.send(Request(action=t.TRADE_ACTION_REMOVE, order=order.ticket))
        world.by_hand.add(order.ticket)
        world.note("follower", f"removes the order #{order.ticket} by hand")


def _jump(side: str) -> Happening:
    def jump(world: World, draw: random.Random) -> None:
        """The price jumps to stops and pending orders, for a moment, at one of the brokers or at both."""
        only = None if side == "both" else getattr(world, f"{side}_broker")
        symbol, points = draw.choice(list(SYMBOLS)), draw.choice((-350, -130, 130, 350))
        world.move_market(symbol, points, only=only)
        world.watch_master()
        world.note(side, f"{symbol} jumps by {points} points")

    return jump


def _clock_set(world: World, draw: random.Random) -> None:
    _a_part(world, draw).clock.wall_ahead += draw.choice((-3600.0, 3600.0, -5.0, 40.0))


def _asleep(world: World, draw: random.Random) -> None:
    """A machine sleeps; its monotonic clock counts that, or does not."""
    part = _a_part(world, draw)
    _sleeps(world, draw, part, draw.choice((6.0, 12.0, 60.0)))


def _asleep_for_patience(world: World, draw: random.Random) -> None:
    """As long as the patience that a doubt is given."""
    _sleeps(world, draw, _a_part(world, draw), draw.choice((14.5, 16.0, 17.0, 18.0)))


def _sleeps(world: World, draw: random.Random, part: Part, seconds: float) -> None:
    part.asleep_until = world.clock.now + seconds
    if draw.random() < 0.5 and part is not world.server:  # the server has a clock that goes on (server.AwakeClock)
        world.later(seconds, lambda: _stood_still(part, seconds))
    if part is world.copier and part.alive and draw.random() < 0.5:
        part.objects.line.lost("the machine sleeps")
    world.note(part.name, f"sleeps {seconds:g} s")


def _stood_still(part: Part, seconds: float) -> None:
    if part.asleep_until:  # and was not woken before, when all faults ended
        part.clock.slept += seconds


def _tokens_expire(world: World, draw: random.Random) -> None:
    """From the server's next start tokens live for seconds; it starts now."""
    world.token_seconds = draw.choice((3.0, 8.0))
    if world.server.alive:
        world.bury(world.server)


def _deactivated(world: World, draw: random.Random) -> None:
    if not world.server.alive:
        return
    name = draw.choice(("client_user", "client_user", "master_user"))

    def switch(active: bool) -> None:
        server = world.server
        if not server.alive:
            world.later(1.0, lambda: switch(active))
            return

        def change() -> None:
            user = server.objects.store.change_user(name, active=active)
            server.objects.hub.user_changed(user.id)

        if world.clock.now < server.disk_full_until or not world.as_part(server, change):
            world.later(1.0, lambda: switch(active))

    world.note("operator", f"deactivates {name}")
    switch(False)
    world.later(draw.choice((1.0, 4.0)), lambda: switch(True))


FAULTS: Final[dict[str, Happening]] = {
    "sender killed at a boundary": _at_boundary("sender"),
    "server killed at a boundary": _at_boundary("server"),
    "copier killed at a boundary": _at_boundary("copier"),
    "a part killed in between": _killed_now,
    "all parts killed at once": _all_killed,
    "master terminal: reads answer None": _reads("master", "positions_get", "none"),
    "master terminal: disconnected": _reads("master", "*", "disconnected"),
    "master terminal: empty after a reconnection": _reads("master", "positions_get", "stale_empty"),
    "master terminal: another account": _reads("master", "account_info", "other_login"),
    "master terminal: history late": _reads("master", "history_deals_get", "late", seconds=3),
    "client terminal: reads answer None": _reads("client", "positions_get", "none"),
    "client terminal: disconnected": _reads("client", "*", "disconnected"),
    "client terminal: empty after a reconnection": _reads("client", "positions_get", "stale_empty"),
    "client terminal: another account": _reads("client", "account_info", "other_login"),
    "client terminal: history late": _reads("client", "history_deals_get", "late", seconds=3),
    "client terminal: history unreadable": _reads("client", "history_deals_get", "none"),
    "a terminal is gone": _terminal_gone,
    "order: refused by a code": _order("retcode"),
    "order: filled in part": _order("partial"),
    "order: done, answer timed out": _order("timeout_after_fill"),
    "order: not done, answer timed out": _order("timeout_not_executed"),
    "order: timed out, filled late": _order("timeout_late_fill"),
    "order: placed, filled late": _order("placed_late_fill"),
    "order: done, answer None": _order("none_after_fill"),
    "order: not done, answer None": _order("none_not_executed"),
    "order: requote": _order("requote"),
    "order: exception after the fill": _raises("exception_after_fill"),
    "order: exception, not executed": _raises("exception_not_executed"),
    "order: slow": _raises("slow"),
    "algo trading switched off": _trading_off,
    "requests: no network": _network("cut"),
    "requests: lossy network": _network("lossy"),
    "requests: reply lost": _network("lost_reply"),
    "requests: duplicated": _network("duplicated"),
    "requests: delayed and reordered": _network("delayed"),
    "websocket: cut": _line_cut,
    "websocket: cut for long": _long_cut,
    "websocket: stalled": _line_stalled,
    "websocket: frames lost": _frames_lost,
    "websocket: last frame lost": _last_frame_lost,
    "disk full at the sender": _disk_full("sender"),
    "disk full at the server": _disk_full("server"),
    "disk full at the copier": _disk_full("copier"),
    "ledger of the sender lost": _file_lost("sender"),
    "ledger of the copier lost": _file_lost("copier"),
    "database of the server lost": _file_lost("server"),
    "ledger of the sender damaged": _file_damaged("sender"),
    "ledger of the copier damaged": _file_damaged("copier"),
    "database of the server damaged": _file_damaged("server"),
    "database of the server restored from an old backup": _put_back("server"),
    "second sender": _second_sender,
    "second copier": _second_copier,
    "copy closed by hand": _by_hand,
    "pending copy removed by hand": _removed_by_hand,
    "price jumps at the client": _jump("client"),
    "price jumps at both brokers": _jump("both"),
    "clock set": _clock_set,
    "machine asleep": _asleep,
    "tokens expire": _tokens_expire,
    "account deactivated": _deactivated,
}


# Drawn by themselves, in the seeds that have room for what lasts as long as patience.
MORE_FAULTS: Final[dict[str, Happening]] = {
    "client terminal: history unreadable beyond patience": _reads("client", "history_deals_get", "none", (16, 20)),
    "master terminal: history unreadable beyond patience": _reads("master", "history_deals_get", "none", (16, 20)),
    "order: timed out, filled after it was given up": _order("timeout_late_fill", seconds=20, where=OF_AN_OPEN),
    "order: master closes before it is filled": _closed_while_under_way,
    "requests: delayed for 20 to 30 s": _network("very late"),
    "websocket: frame in parts": _frame_in_parts,
    "old ledger of the copier put back": _put_back("copier"),
    "follower trades himself": _own_trade,
    "machine asleep as long as patience": _asleep_for_patience,
}
# Drawn by themselves, early enough to end by themselves, in the seeds whose clock is the coarsest.
OUTAGES: Final[dict[str, Happening]] = {
    f"{side} terminal: {what} beyond patience": _reads(side, function, outcome, (18, 20))
    for side in ("client", "master")
    for what, function, outcome in (
        ("reads answer None", "positions_get", "none"),
        ("pending orders unreadable", "orders_get", "none"),
        ("disconnected", "*", "disconnected"),
    )
}
ALL_FAULTS: Final[dict[str, Happening]] = FAULTS | MORE_FAULTS | OUTAGES


def setup_of(seed: int) -> Setup:
    """Every fourth client has a broker that replaces comments."""
    return Setup(comment="#from web") if seed % 4 == 3 else Setup()


@dataclass(frozen=True, slots=True)
class Pace:
    """For how long things go wrong in a trial, and how often the programs look meanwhile."""

    seconds: float
    tick_s: float


CALM: Final = Pace(30, 1)
FINE: Final = Pace(30, 0.5)
CROWDED: Final = Pace(20, 1)  # these find the most in a second of computing
COARSE: Final = Pace(30, 2)


def pace_of(seed: int) -> Pace:
    if seed % 2:
        return CALM
    if seed % 14 == 0:
        return FINE
    return CROWDED if seed % 4 else COARSE


def drawn(seed: int, *, faults: int | None = None) -> list[Event]:
    """The events of a trial, in order."""
    draw = random.Random(f"schedule {seed}")
    pace = pace_of(seed)
    seconds = pace.seconds
    names, acts, weights = zip(*TRADING, strict=True)
    events = [
        Event(draw.uniform(1.0, seconds), names[i], draw.getrandbits(32), acts[i])
        for i in draw.choices(range(len(names)), weights, k=draw.randint(8, 18))
    ]
    many = draw.choice((1, 2, 3, 4, 6)) if faults is None else faults
    for name in draw.choices(list(FAULTS), k=many):
        at = draw.uniform(3.0, seconds)
        if name == "database of the server restored from an old backup":
            events.append(Event(draw.uniform(1.0, at), "backup", 0, back_up))
        events.append(Event(at, name, draw.getrandbits(32), FAULTS[name]))
    if pace is CALM and faults is None:
        name = draw.choice(list(MORE_FAULTS))
        at = draw.uniform(3.0, seconds)
        if name == "old ledger of the copier put back":
            events.append(Event(draw.uniform(1.0, at), "copy of the ledger", 0, copy_ledger))
        events.append(Event(at, name, draw.getrandbits(32), MORE_FAULTS[name]))
    if pace is COARSE and faults is None:
        name = draw.choice(list(OUTAGES))
        events.append(Event(draw.uniform(3.0, 10.0), name, draw.getrandbits(32), OUTAGES[name]))
    return sorted(events, key=lambda event: event.at)
