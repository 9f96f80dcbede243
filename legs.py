"""The legs of a master's trade: what was entered at once. Pure.

A position of a hedging account is one leg for its whole life. One of a netting account grows, shrinks and turns round:
each growth is a new leg, which is decided and copied by itself, at its own age and price; what is closed is taken from
the oldest leg first; and when the position turns round all its legs have ended and a new one begins.

The copier remembers the legs of a trade from the first time that it is not simply what it was.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from mirror import CopyKey, Held, Mirror
from signals import NOTHING, Increase, Trade


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a master's trade. The legs of a trade are in the order of their numbers, which begin with 0."""

    number: int
    buys: bool
    initial: Decimal  # the master's lots when it was entered
    left: Decimal  # of those
    price: Decimal
    order: int  # ticket of the pending order it came from, if it came from one
    opened_at: int  # UTC ms by the server's clock; 0 = age unknown


Legs = tuple[Leg, ...]


def one_leg(trade: Trade, buys: bool, lots: Decimal) -> Leg:
    """A trade that was entered at once."""
    return Leg(0, buys, lots, lots, trade.price, trade.first_order, trade.opened_at)


def first_legs(trade: Trade) -> Legs:
    """The legs of a trade as it is seen first: what it has grown by last is one of its own."""
    buys = trade.action.buys
    grown = trade.increase
    if grown is None:
        return (one_leg(trade, buys, trade.volume),)
    lots = min(grown.volume, trade.volume)
    before = trade.volume - lots
    if not before:
        return (Leg(0, buys, lots, lots, grown.price, grown.order or trade.first_order, grown.at),)
    return (
        one_leg(trade, buys, before),
        Leg(1, buys, lots, lots, grown.price, grown.order, grown.at),
    )


def followed(legs: Legs, trade: Trade, decided: Container[int]) -> Legs:
    """The legs after the trade has come to be as it is now. `decided` are the numbers of those that were copied or
    refused."""
    if any(leg.left and leg.buys != trade.action.buys for leg in legs):
        legs = tuple(replace(leg, left=NOTHING) for leg in legs)
    total = sum((leg.left for leg in legs), NOTHING)
    if trade.volume < total:
        return _reduced(legs, total - trade.volume)
    if trade.volume > total:
        return _increased(legs, trade, trade.volume - total, decided)
    return legs


def _reduced(legs: Legs, lots: Decimal) -> Legs:
    """The oldest are closed first."""
    after = []
    for leg in legs:
        taken = min(leg.left, lots)
        lots -= taken
        after.append(replace(leg, left=leg.left - taken))
    return tuple(after)


def _increased(legs: Legs, trade: Trade, lots: Decimal, decided: Container[int]) -> Legs:
    grown = trade.increase or Increase(lots, trade.price)
    last = legs[-1]
    if grown.order and grown.order == last.order and last.left and last.number not in decided:
        # More of the pending order it came from has filled: that is copied as one.
        return (*legs[:-1], replace(last, initial=last.initial + lots, left=last.left + lots))
    # An increase that was followed already must not make another one look young: an old copy of the server's database
    # may show lots that have gone.
    known = any(leg.opened_at == grown.at for leg in legs[1:])
    opened_at = 0 if known else grown.at
    return (*legs, Leg(last.number + 1, trade.action.buys, lots, lots, grown.price, grown.order, opened_at))


def held_as(held: Held, legs: Legs, mirror: Mirror, now: float) -> Iterator[tuple[CopyKey, Held]]:
    """The legs that are open, as trades of their own."""
    trade = held.trade
    base: Leg | None = None  # the first since the position turned round
    for leg in legs:
        if base is None or base.buys != leg.buys:
            base = leg
        if not leg.left:
            continue
        of_leg = replace(trade, volume=leg.left, price=leg.price, opened_at=leg.opened_at, increase=None)
        key = (trade.master, *trade.key, leg.number)
        one = replace(held, trade=of_leg, leg=leg.number, order=leg.order)
        if leg.opened_at != trade.opened_at:
            one = replace(one, age_at_receipt_ms=mirror.age_ms(leg.opened_at, now), received=now)
        if base is not leg:
            one = replace(one, of_lots=base.initial)
        yield key, one


def whole(held: Held) -> tuple[CopyKey, Held]:
    """A trade that was always one leg."""
    trade = held.trade
    key = (trade.master, *trade.key, 0)
    return key, held if held.order == trade.first_order else replace(held, order=trade.first_order)
