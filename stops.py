"""Stop loss and take profit: which of the master's levels the client's broker takes now. Pure.

A level must keep the symbol's stops level away from the price that would close the position (MT5 docs,
SYMBOL_TRADE_STOPS_LEVEL; a buy is closed at the bid, a sell at the ask), and lie on the right side of it. One that the
master has nearer is moved outward, away from the price, as little as possible: never nearer, which would end the copy
before the master's trade. A stops level of 0 may also mean that it varies; that shows in the broker's refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from account import Order, Position, Symbol
from signals import NOTHING, Action, Trade

LIMITED_STOPS = (Action.BUY_STOP_LIMIT, Action.SELL_STOP_LIMIT)


@dataclass(frozen=True, slots=True)
class Levels:
    """0 = none."""

    sl: Decimal
    tp: Decimal


def closing_price(buys: bool, symbol: Symbol) -> Decimal:
    return symbol.bid if buys else symbol.ask


def entry_price(trade: Trade) -> Decimal:
    """From where the levels of a pending order are measured: the price at which it would become a position."""
    return trade.stoplimit if trade.action in LIMITED_STOPS else trade.price


def passed(trade: Trade, price: Decimal) -> str:
    """Which level of a trade the price has reached or passed; empty when none."""
    for name, level, below in (("SL", trade.sl, trade.action.buys), ("TP", trade.tp, not trade.action.buys)):
        if level and (price <= level if below else price >= level):
            return f"{name} {level}"
    return ""


def for_new(buys: bool, price: Decimal, asked: Levels, symbol: Symbol) -> Levels:
    """What a new order may ask for, its closing (of a pending order: its own) price being `price`."""
    return Levels(_outward(price, buys, asked.sl, symbol), _outward(price, not buys, asked.tp, symbol))


def for_open(position: Position, asked: Levels, symbol: Symbol) -> Levels:
    """What an open position may be given now in place of what it has."""
    buys = position.action.buys
    price = closing_price(buys, symbol)
    return Levels(
        _next(price, buys, asked.sl, position.sl, symbol), _next(price, not buys, asked.tp, position.tp, symbol)
    )


def missing(position: Position, asked: Levels) -> str:
    """The levels that a position should have and has none of; empty when it has them."""
    lacks = [f"SL {asked.sl}"] if asked.sl and not position.sl else []
    lacks += [f"TP {asked.tp}"] if asked.tp and not position.tp else []
    return " and ".join(lacks)


def displaced(position: Position, asked: Levels) -> str:
    """The levels that a position has elsewhere than the master; empty when they are the same."""
    pairs = (("SL", position.sl, asked.sl), ("TP", position.tp, asked.tp))
    return ", ".join(f"{name} {has} in place of {wanted}" for name, has, wanted in pairs if has != wanted)


def is_frozen(position: Position, symbol: Symbol) -> bool:
    """Whether the broker would refuse to change a position, because one of its levels is about to be reached."""
    price = closing_price(position.action.buys, symbol)
    return any(level and _within(price, level, symbol) for level in (position.sl, position.tp))


def is_frozen_order(order: Order, symbol: Symbol) -> bool:
    """The same for a pending order that is about to fill."""
    return _within(symbol.ask if order.action.buys else symbol.bid, order.price, symbol)


def of_increase(position: Position | None, buys: bool, lots: Decimal, own: Levels) -> Levels:
    """What an order at market must carry on a netting account, where `position` is the symbol's.

    The levels of an order that makes the position larger, or turns it round, take the place of the position's, and none
    delete them; one that makes it smaller changes nothing (MT5 help, rules of inheritance of SL and TP, netting).
    """
    if position is None:
        return own
    if position.action.buys == buys:
        return Levels(position.sl, position.tp)
    return own if lots > position.volume else Levels(NOTHING, NOTHING)


def _within(price: Decimal, level: Decimal, symbol: Symbol) -> bool:
    return symbol.freeze_level > 0 and abs(price - level) <= symbol.freeze_level * symbol.point


def _nearest(price: Decimal, below: bool, symbol: Symbol) -> Decimal:
    """The level below or above the price that is nearest to it and that the broker takes."""
    tick = symbol.tick_size
    distance = max(symbol.stops_level * symbol.point, tick)
    steps = (price - distance if below else price + distance) / tick
    return max(steps.to_integral_value(ROUND_FLOOR if below else ROUND_CEILING) * tick, NOTHING)


def _outward(price: Decimal, below: bool, asked: Decimal, symbol: Symbol) -> Decimal:
    if not asked or price <= 0:
        return asked
    nearest = _nearest(price, below, symbol)
    return min(asked, nearest) if below else max(asked, nearest)


def _next(price: Decimal, below: bool, asked: Decimal, has: Decimal, symbol: Symbol) -> Decimal:
    """What a level is set to next.

    One that had to be set farther away than the master's comes nearer when the price lets it, by half of what is
    missing at least: so it is not moved with every tick.
    """
    if has == asked:
        return asked
    possible = _outward(price, below, asked, symbol)
    is_farther = has and (has < asked if below else has > asked)
    if possible == asked or not is_farther:
        return possible
    gained, lacking = (possible - has, asked - has) if below else (has - possible, has - asked)
    return possible if gained * 2 >= lacking else has
