"""When a pending order of the client's ends by itself: the master's expiration as his broker can have it. Pure.

Not every symbol takes the second of the end (MT5 docs, SYMBOL_EXPIRATION_MODE). Where it does not, the order gets the
nearest later end that the broker knows, and the copier removes it when its time has come: by the server's clock, which
needs no connection, and never by the clock of this machine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from account import Lifetime, Order

DAY_S: Final = 86_400
# For so long the broker is left to do it himself when he was told the second; then it is done for him.
GRACE_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Until:
    """How long an order is to stand."""

    lifetime: Lifetime
    at: int = (
        0  # seconds of the broker's clock: the end, or any second of the last day; 0 where the lifetime says it all
    )


def until(expires_ms: int, lifetimes: Collection[Lifetime], offset_s: int | None, utc_ms: int | None) -> Until:
    """The end at the client's broker of an order that ends at `expires_ms` (UTC; 0 = never), never before that.

    `lifetimes` are those the symbol takes, `offset_s` how far the broker's clock is ahead of UTC, `utc_ms` what time it
    is; None = not known.
    """
    open_end = Lifetime.GTC if Lifetime.GTC in lifetimes or Lifetime.DAY not in lifetimes else Lifetime.DAY
    if not expires_ms or offset_s is None:
        return Until(open_end)
    at = expires_ms // 1000 + offset_s
    if Lifetime.SPECIFIED in lifetimes:
        return Until(Lifetime.SPECIFIED, at)
    if Lifetime.SPECIFIED_DAY in lifetimes:
        return Until(Lifetime.SPECIFIED_DAY, at)
    if Lifetime.DAY in lifetimes and utc_ms is not None and at // DAY_S == (utc_ms // 1000 + offset_s) // DAY_S:
        return Until(Lifetime.DAY)
    return Until(open_end)


def shown(order: Order) -> Until:
    """How long an order on the account stands. For GTC and DAY brokers may show an end or none."""
    dated = order.lifetime in (Lifetime.SPECIFIED, Lifetime.SPECIFIED_DAY)
    return Until(order.lifetime, order.expiration_msc // 1000 if dated else 0)


def is_same(one: Until, other: Until) -> bool:
    if one.lifetime is Lifetime.SPECIFIED_DAY is other.lifetime:
        return one.at // DAY_S == other.at // DAY_S
    return one == other


def is_over(expires_ms: int, utc_ms: int | None, order: Order | None = None) -> bool:
    """Whether an order's time has come; of one that stands, also whether its broker has had his turn."""
    if not expires_ms or utc_ms is None:
        return False
    told = order is not None and order.lifetime is Lifetime.SPECIFIED
    return utc_ms >= expires_ms + (GRACE_MS if told else 0)
