"""Filling modes: whatever a broker takes, and however often he changes his mind, opens and closes all work."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any

import pytest
from follower import Follower, Make, order, position

REQUEST, INSTANT, MARKET, EXCHANGE = range(4)
FOK, IOC, RETURN = range(3)
# Execution mode, flags of the symbol, and the filling modes that the broker then takes at market.
BROKERS = {
    "only FOK": (MARKET, 1, {FOK}),
    "only IOC": (MARKET, 2, {IOC}),
    "FOK and IOC": (MARKET, 3, {FOK, IOC}),
    "only RETURN": (EXCHANGE, 0, {RETURN}),
    "RETURN and FOK": (EXCHANGE, 1, {RETURN, FOK}),
    "RETURN and IOC": (EXCHANGE, 2, {RETURN, IOC}),
    "all, by request": (REQUEST, 0, {FOK, IOC, RETURN}),
    "all, at once": (INSTANT, 0, {FOK, IOC, RETURN}),
}
EACH = pytest.mark.parametrize("broker", BROKERS)
ACCOUNTS = pytest.mark.parametrize("margin_mode", ["hedging", "netting", "exchange"])


def becomes(follower: Follower, broker: str) -> None:
    execution, flags, _ = BROKERS[broker]
    follower.mt5.sim_symbol("EURUSD", trade_exemode=execution, filling_mode=flags)


def all_of_it(follower: Follower, change: Any = None) -> None:
    """Open, reduce, close, and a pending order; `change()` before each."""
    change = change or (lambda: None)
    change()
    trade = follower.master_opens(position(1, volume="0.50", sl=D("1.08")))
    follower.passes(2)
    assert follower.volumes == [0.5]
    change()
    trade = follower.master_closes(trade, "0.20")
    follower.passes(2)
    assert follower.volumes == [0.2]
    change()
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.volumes == []
    change()
    pending = follower.master_opens(order(7))
    follower.passes(2)
    assert len(follower.orders) == 1
    change()
    follower.master_closes(pending)
    follower.passes(2)
    assert follower.orders == []
    assert follower.opened() == 1


@EACH
@ACCOUNTS
def test_opens_reductions_closes_and_pending_orders_work_with_every_broker(
    make: Make, broker: str, margin_mode: str
) -> None:
    follower = make(account={"margin_mode": margin_mode})
    becomes(follower, broker)
    watched = follower.watch()
    all_of_it(follower)
    taken = BROKERS[broker][2]
    at_market = [request["type_filling"] for request in watched.sent if request["action"] == 1]
    assert set(at_market) <= taken, "the flags of the symbol say which mode: nothing is tried in vain"


@EACH
@pytest.mark.parametrize("before", BROKERS)
def test_a_broker_that_changes_his_mind_between_an_open_and_its_close_is_followed(
    make: Make, before: str, broker: str
) -> None:
    follower = make()
    becomes(follower, before)
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    becomes(follower, broker)
    trade = follower.master_closes(trade, "0.20")
    follower.passes(2)
    assert follower.volumes == [0.2]
    becomes(follower, before)
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.volumes == []
    assert follower.opened() == 1


@ACCOUNTS
def test_a_broker_that_changes_his_mind_before_every_order_is_followed(make: Make, margin_mode: str) -> None:
    follower = make(account={"margin_mode": margin_mode})
    minds = iter(["only FOK", "only IOC", "only RETURN", "only FOK", "only RETURN"])
    all_of_it(follower, lambda: becomes(follower, next(minds)))


@ACCOUNTS
@pytest.mark.parametrize("times", [1, 2])
def test_a_broker_whose_flags_are_wrong_gets_the_mode_that_he_takes(make: Make, margin_mode: str, times: int) -> None:
    """He refuses with 10030 what his flags allow; the last of the three modes is the one."""
    follower = make(account={"margin_mode": margin_mode})
    becomes(follower, "all, at once")
    watched = follower.watch()

    def change() -> None:
        follower.mt5.sim_clear_faults()
        follower.mt5.inject("order_send", "retcode", retcode=10030, times=times)

    trade = position(1, volume="0.50")
    change()
    trade = follower.master_opens(trade)
    follower.look(2)
    assert follower.volumes == [0.5]
    assert len(watched.sent) == times + 1
    assert len({request["type_filling"] for request in watched.sent}) == times + 1  # each mode once
    change()
    follower.master_closes(trade)
    follower.look(2)
    assert follower.volumes == []
    assert follower.opened() == 1
    assert follower.events() == ["opened", "closed"]


def test_the_mode_that_was_taken_is_used_first_the_next_time(follower: Follower) -> None:
    becomes(follower, "all, at once")
    follower.mt5.inject("order_send", "retcode", retcode=10030, times=2)
    follower.master_opens(position(1))
    follower.look()
    watched = follower.watch()
    follower.master_opens(position(2, "SELL"))
    follower.look()
    assert [request["type_filling"] for request in watched.sent] == [RETURN]


def test_a_broker_who_takes_no_mode_at_all_is_told_and_a_close_is_tried_for_ever(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=10030, times=None)
    follower.master_opens(position(2, "SELL"))
    follower.master_closes(trade)
    follower.passes(30)
    assert follower.state(2) == "failed"
    assert follower.volumes == [0.1]
    follower.mt5.sim_clear_faults()
    follower.passes(6)
    assert follower.volumes == []
