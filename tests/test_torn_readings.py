"""A terminal is asked for its orders and then for its positions. What if a pending order fills in between?

It is then shown, and what it did to its symbol's position as well: told as two things, it would be copied twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from follower import Follower, order, position
from test_sender import BUY, BUY_LIMIT, Desk

from copies import State
from signals import Increase, Kind

SELL_LIMIT = 3
LOW, HIGH = 1.08990, 1.11000  # bids at which a buy limit of 1.09, and a sell limit of 1.11 fill


class Torn:
    """The MetaTrader5 module, with something that happens just after the orders were read."""

    def __init__(self, mt5: Any, happens: Callable[[], None]) -> None:
        self._mt5 = mt5
        self._happens: Callable[[], None] | None = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mt5, name)

    def orders_get(self, *args: Any, **more: Any) -> Any:
        orders = self._mt5.orders_get(*args, **more)
        if self._happens is not None:
            self._happens()
            self._happens = None
        return orders


# --- the sender ------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A netting master with 0.10 lots of EURUSD bought, told long ago."""
    one = Desk(tmp_path, margin_mode="netting")
    one.open(0.1)
    yield one.settled()
    one.kill()


def fills_meanwhile(desk: Desk, bid: float, **request: Any) -> int:
    """Place a pending order, tell it, and let it fill while the next reading is made; its ticket."""
    ticket = desk.send(action=5, type_filling=2, **request)
    desk.poll()
    desk.api.calls.clear()
    desk.terminal._mt5 = Torn(desk.mt5, lambda: desk.person.sim_set_quote("EURUSD", bid, bid + 0.0001))
    return ticket


def test_an_order_that_fills_while_the_sender_reads_is_what_made_the_position_grow(desk: Desk) -> None:
    ticket = fills_meanwhile(desk, LOW, type=BUY_LIMIT, price=1.09, volume=0.2)
    desk.poll()
    (trade,) = desk.api.book.values()
    assert (trade.volume, trade.increase) == (D("0.3"), Increase(D("0.2"), D("1.09"), ticket, age_ms=50))
    desk.passes(2)
    assert desk.api.said() == ["PUT /signal/book"], "told once, with the end of the order"


def test_an_order_that_turns_the_position_round_while_the_sender_reads_is_told_with_it(desk: Desk) -> None:
    ticket = fills_meanwhile(desk, HIGH, type=SELL_LIMIT, price=1.11, volume=0.3)
    desk.poll()
    (trade,) = desk.api.book.values()
    assert (trade.action, trade.volume) == ("SELL", D("0.2"))
    assert trade.increase == Increase(D("0.2"), D("1.11"), ticket, age_ms=50)


def test_an_order_that_still_waits_has_not_made_the_position_grow(desk: Desk) -> None:
    ticket = desk.place(price=1.09, volume=0.2)
    desk.poll()
    desk.open(0.2, BUY)
    desk.poll()
    assert desk.api.book[Kind.ORDER, ticket].volume == D("0.2")
    (grown,) = (trade for trade in desk.api.book.values() if trade.kind is Kind.POSITION)
    assert grown.increase == Increase(D("0.2"), D("1.1001"), 0, age_ms=50)


def test_of_an_order_that_fills_in_part_while_the_sender_reads_the_rest_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"EURUSD": {"depth": 0.15}}, "netting")
    desk.open(0.1)
    desk.settled()
    ticket = fills_meanwhile(desk, LOW, type=BUY_LIMIT, price=1.09, volume=0.2)
    desk.poll()
    left = desk.broker.orders()[0].volume_current
    assert 0 < left < D("0.2")
    assert desk.api.book[Kind.ORDER, ticket].volume == left
    (grown,) = (trade for trade in desk.api.book.values() if trade.kind is Kind.POSITION)
    assert grown.increase == Increase(D("0.2") - left, D("1.09"), ticket, age_ms=50)
    desk.kill()


# --- the copier ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "price", "bid"), [("BUY_LIMIT", "1.09000", LOW), ("SELL_LIMIT", "1.11000", HIGH)])
def test_an_order_that_fills_while_the_copier_reads_has_closed_nothing_and_is_nobody_elses(
    action: str, price: str, bid: float, tmp_path: Path
) -> None:
    follower = Follower(tmp_path, account={"margin_mode": "netting"})
    follower.sends_book()
    follower.look()
    follower.master_opens(position(77, volume="0.10"))
    follower.look()
    follower.master_opens(order(78, action, price))
    follower.look()
    assert follower.state(78, Kind.ORDER) == "open"
    follower.terminal._mt5 = Torn(follower.mt5, lambda: follower.mt5.sim_set_quote("EURUSD", bid, bid + 0.0001))
    for _ in range(4):
        follower.passes(0.6, 0.6)
        first = follower.copy(77)
        assert first is not None
        assert (first.state, first.signed) == (State.OPEN, D("0.10")), "nobody has closed it"
        assert follower.copier._stock.foreign == {}
    second = follower.copy(78, Kind.ORDER)
    assert second is not None
    assert (second.client_kind, second.signed) == (Kind.POSITION, D("0.10") if action == "BUY_LIMIT" else D("-0.10"))
    follower.kill()
