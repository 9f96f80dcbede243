"""Stops at the client's broker: held to its levels, set in a second request where the first does not take them, told
while they are missing."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any

import pytest
from follower import Follower, order, position

from safety import Copying


def without_stops_in_the_open(follower: Follower) -> None:
    object.__setattr__(follower.broker.settings, "stops_on_open", False)


def stops(follower: Follower) -> list[tuple[float, float]]:
    return [(p.sl, p.tp) for p in follower.positions]


def details(follower: Follower, event: str) -> list[str]:
    return [report.get("detail", "") for report in follower.reports() if report["event"] == event]


# --- the stops level --------------------------------------------------------------------------------------------------


def test_stops_that_are_too_near_for_the_clients_broker_are_opened_farther_away_and_reported(
    follower: Follower,
) -> None:
    follower.mt5.sim_symbol("EURUSD", trade_stops_level=20)
    follower.master_opens(position(1, sl=D("1.09995"), tp=D("1.10012")))
    follower.passes(3)
    assert stops(follower) == [(1.0998, 1.1002)]
    assert follower.events() == ["opened", "stops_adjusted"]  # once, not each second
    (detail,) = details(follower, "stops_adjusted")
    assert "SL 1.0998 in place of 1.09995" in detail
    assert "TP 1.1002 in place of 1.10012" in detail


def test_an_adjusted_stop_comes_to_be_the_masters_when_the_price_allows_it(follower: Follower) -> None:
    follower.mt5.sim_symbol("EURUSD", trade_stops_level=20)
    follower.master_opens(position(1, sl=D("1.09995")))
    follower.passes(2)
    follower.mt5.sim_set_quote("EURUSD", 1.10100, 1.10110)
    follower.passes(2)
    assert stops(follower) == [(1.09995, 0.0)]
    assert follower.events() == ["opened", "stops_adjusted", "modified"]


def test_the_stops_of_a_pending_order_are_held_to_the_distance_from_its_own_price(follower: Follower) -> None:
    follower.mt5.sim_symbol("EURUSD", trade_stops_level=20)
    trade = follower.master_opens(order(7, sl=D("1.08995")))
    follower.passes(2)
    assert [(o.price_open, o.sl) for o in follower.orders] == [(1.09, 1.0898)]
    follower.master_modifies(trade, price=D("1.09100"), sl=D("1.09099"))
    follower.passes(3)
    assert [(o.price_open, o.sl) for o in follower.orders] == [(1.091, 1.0908)]
    assert follower.events() == ["opened", "modified"]  # and it is not modified for ever


def test_a_stop_that_the_master_moves_too_near_is_set_as_near_as_allowed(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.09")))
    follower.look()
    follower.mt5.sim_symbol("EURUSD", trade_stops_level=20)
    follower.master_modifies(trade, sl=D("1.09990"))
    follower.passes(3)
    assert stops(follower) == [(1.0998, 0.0)]
    assert follower.events() == ["opened", "modified", "stops_adjusted"]


@pytest.mark.parametrize("level", ["sl", "tp"])
def test_a_trade_whose_stop_the_price_has_passed_is_not_opened(follower: Follower, level: str) -> None:
    passed = {"sl": D("1.10000"), "tp": D("1.10000")}[level]
    follower.master_opens(position(1, **{level: passed}))
    follower.passes(3)
    assert follower.opened() == 0
    (report,) = follower.reports()
    assert (report["event"], report["reason"]) == ("refused", "stop_passed")
    follower.mt5.sim_set_quote("EURUSD", *((1.10020, 1.10030) if level == "sl" else (1.09980, 1.09990)))
    follower.passes(1)
    assert follower.opened() == 1  # the price came back while the trade was young


def test_the_passed_stop_of_an_open_copy_is_set_as_near_as_allowed(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.master_modifies(trade, sl=D("1.10200"))  # the master's broker has another price
    follower.passes(3)
    assert stops(follower) == [(1.09999, 0.0)]
    follower.mt5.sim_set_quote("EURUSD", 1.10300, 1.10310)
    follower.passes(2)
    assert stops(follower) == [(1.102, 0.0)]


def test_a_price_that_moves_with_every_look_is_not_followed_with_every_look(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    watched = follower.watch()
    follower.master_modifies(trade, sl=D("1.20000"))
    for pips in range(100):
        follower.mt5.sim_set_quote("EURUSD", 1.10000 + pips * 0.0001, 1.10010 + pips * 0.0001)
        follower.passes(1)
    assert len(watched.sent) <= 3


def test_while_the_price_moves_a_refused_stop_rests_all_the_same(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=10016, times=None)
    follower.master_modifies(trade, sl=D("1.20000"))
    for points in range(20):
        follower.mt5.sim_set_quote("EURUSD", 1.10000 + points * 0.00001, 1.10010 + points * 0.00001)
        follower.look(1)
    assert len(watched.sent) == 1


def test_a_copier_with_nothing_to_do_waits_for_the_next_second(follower: Follower) -> None:
    follower.master_opens(position(1, sl=D("1.08")))
    follower.passes(3)
    assert follower.copier.step() is False


# --- opened without, and set at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("exemode", [2, 3])
def test_stops_that_are_refused_in_the_open_are_set_right_after_it(follower: Follower, exemode: int) -> None:
    follower.mt5.sim_symbol("EURUSD", trade_exemode=exemode)
    without_stops_in_the_open(follower)
    watched = follower.watch()
    follower.master_opens(position(1, sl=D("1.08"), tp=D("1.12")))
    follower.look(4)  # no second goes by
    assert stops(follower) == [(1.08, 1.12)]
    assert [(r["action"], r.get("sl"), r.get("tp")) for r in watched.sent] == [
        (1, 1.08, 1.12),
        (1, 0.0, 0.0),
        (6, 1.08, 1.12),
    ]
    assert follower.opened() == 1
    assert follower.events() == ["refused", "opened", "modified"]
    assert "without SL and TP" in details(follower, "refused")[0]


def test_stops_that_the_broker_drops_silently_are_set_right_after_the_open(follower: Follower) -> None:
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look(1)
    (opened,) = follower.broker.positions()
    opened.sl = D(0)
    follower.look(1)
    assert stops(follower) == [(1.08, 0.0)]
    assert follower.events() == ["opened", "modified"]


def test_a_trade_without_stops_that_is_refused_with_10016_rests_like_any_other(follower: Follower) -> None:
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=10016, times=None)
    follower.master_opens(position(1))
    follower.look(20)
    assert len(watched.sent) == 1


def test_an_open_that_stays_refused_with_and_without_stops_is_not_sent_without_a_rest(follower: Follower) -> None:
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=10016, times=None)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look(20)
    assert [request["sl"] for request in watched.sent] == [1.08, 0.0]
    follower.passes(70)
    assert follower.opened() == 0
    assert follower.state(1) == "skipped"


def test_a_pending_order_that_is_refused_with_its_stops_gets_them_right_after_it_is_placed(follower: Follower) -> None:
    follower.mt5.inject("order_send", "retcode", retcode=10016, times=1)
    follower.master_opens(order(7, sl=D("1.08"), tp=D("1.12")))
    follower.look(4)
    assert [(o.sl, o.tp) for o in follower.orders] == [(1.08, 1.12)]


def test_while_a_stop_is_missing_it_is_told_once_and_tried_until_it_is_set(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    without_stops_in_the_open(follower)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look(2)
    assert stops(follower) == [(0.0, 0.0)]
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=10006, times=None)
    follower.passes(120)
    assert len(watched.sent) >= 20  # every 5 s at least, although other moves may rest for a minute
    assert follower.events() == ["refused", "opened", "stops_missing"]
    assert details(follower, "stops_missing") == ["not set yet: SL 1.08"]
    assert "1 WITHOUT THEIR STOP" in follower.copier.status().line
    assert sum("stops_missing" in line for line in caplog.messages) == 1
    follower.mt5.sim_clear_faults()
    follower.passes(6)
    assert stops(follower) == [(1.08, 0.0)]
    assert follower.events() == ["refused", "opened", "stops_missing", "modified"]
    assert "WITHOUT" not in follower.copier.status().line


def test_a_missing_stop_is_told_again_after_it_was_set_and_is_missing_again(follower: Follower) -> None:
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look()
    for _ in range(2):
        (held,) = follower.broker.positions()
        held.sl = D(0)
        follower.mt5.inject("order_send", "retcode", retcode=10006, times=2)
        follower.passes(30)
        assert stops(follower) == [(1.08, 0.0)]
    assert follower.events() == ["opened", *["stops_missing", "modified"] * 2]


def test_a_broker_that_says_done_and_sets_nothing_is_told_of(follower: Follower) -> None:
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look()
    (held,) = follower.broker.positions()
    held.sl = D(0)
    follower.mt5.inject("order_send", "retcode", retcode=10009, times=None)
    follower.passes(10)
    assert details(follower, "stops_missing") == ["not set yet: SL 1.08"]


def test_a_missing_stop_is_told_again_by_a_copier_that_was_started_again(follower: Follower) -> None:
    without_stops_in_the_open(follower)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look(2)
    follower.mt5.inject("order_send", "retcode", retcode=10006, times=None)
    follower.passes(3)
    follower.restart()
    follower.sends_book()
    follower.passes(3)
    assert len(details(follower, "stops_missing")) == 2
    follower.mt5.sim_clear_faults()
    follower.passes(6)
    assert stops(follower) == [(1.08, 0.0)]


def test_a_stop_loss_does_not_wait_for_a_take_profit_that_the_broker_does_not_take(follower: Follower) -> None:
    follower.mt5.sim_symbol("EURUSD", order_mode=127 - 32)  # no take profits on this symbol
    follower.master_opens(position(1, sl=D("1.08"), tp=D("1.12")))
    follower.look(6)
    assert stops(follower) == [(1.08, 0.0)]
    follower.passes(3)
    assert details(follower, "stops_missing")[-1] == "not set yet: TP 1.12"


def test_while_paused_no_stop_is_set_and_afterwards_it_is(make: Any) -> None:
    follower = make()
    without_stops_in_the_open(follower)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look(2)
    follower.restart(copying=Copying.PAUSED)
    follower.sends_book()
    follower.passes(5)
    assert stops(follower) == [(0.0, 0.0)]
    follower.restart(copying=Copying.CLOSE_ONLY)
    follower.sends_book()
    follower.passes(2)
    assert stops(follower) == [(1.08, 0.0)]


# --- the freeze level -------------------------------------------------------------------------------------------------


def test_a_change_of_a_frozen_position_waits_and_is_made_when_it_thaws(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.09900")))
    follower.look()
    follower.mt5.sim_symbol("EURUSD", trade_freeze_level=20)
    follower.mt5.sim_set_quote("EURUSD", 1.09915, 1.09925)
    watched = follower.watch()
    follower.master_modifies(trade, sl=D("1.08"))
    follower.passes(5)
    assert watched.sent == []
    follower.mt5.sim_set_quote("EURUSD", 1.09921, 1.09931)
    follower.passes(1)
    assert stops(follower) == [(1.08, 0.0)]


def test_a_frozen_position_is_closed_as_soon_as_the_broker_lets_it(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.09900")))
    follower.look()
    follower.mt5.sim_symbol("EURUSD", trade_freeze_level=20)
    follower.mt5.sim_set_quote("EURUSD", 1.09915, 1.09925)
    watched = follower.watch()
    follower.master_closes(trade)
    follower.passes(10)
    assert len(watched.sent) >= 3  # tried all the time, frozen or not
    follower.mt5.sim_set_quote("EURUSD", 1.09950, 1.09960)
    follower.passes(6)
    assert follower.positions == []


def test_a_frozen_pending_order_is_not_moved_but_its_removal_is_tried(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.mt5.sim_symbol("EURUSD", trade_freeze_level=20)
    follower.mt5.sim_set_quote("EURUSD", 1.09005, 1.09015)
    watched = follower.watch()
    trade = follower.master_modifies(trade, price=D("1.08"))
    follower.passes(3)
    assert watched.sent == []
    follower.master_closes(trade)
    follower.passes(3)
    assert [request["action"] for request in watched.sent][:1] == [8]
    follower.mt5.sim_set_quote("EURUSD", 1.10000, 1.10010)
    follower.passes(6)
    assert follower.orders == []


def test_a_freeze_that_only_the_broker_knows_of_is_waited_for(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.09")))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=10029, times=3)
    follower.master_modifies(trade, sl=D("1.08"))
    follower.passes(10)
    assert stops(follower) == [(1.08, 0.0)]


# --- netting accounts -------------------------------------------------------------------------------------------------


def netting(make: Any, **more: Any) -> Follower:
    follower: Follower = make(account={"margin_mode": "netting"}, **more)
    return follower


def test_on_a_netting_account_a_second_copy_never_leaves_the_position_without_its_stop(make: Any) -> None:
    follower = netting(make)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.look(3)
    watched = follower.watch()
    follower.master_opens(position(2, sl=D("1.07")))
    follower.look(1)
    assert [(p.volume, p.sl) for p in follower.positions] == [(0.2, 1.08)]
    assert watched.sent[0]["sl"] == 1.08
    follower.look(3)
    assert [(p.volume, p.sl) for p in follower.positions] == [(0.2, 1.07)]


def test_on_a_netting_account_stops_are_held_to_the_level_and_told_when_missing(make: Any) -> None:
    follower = netting(make)
    follower.mt5.sim_symbol("EURUSD", trade_stops_level=20)
    without_stops_in_the_open(follower)
    follower.master_opens(position(1, sl=D("1.09995")))
    follower.passes(6)
    assert stops(follower) == [(1.0998, 0.0)]
    assert follower.events() == ["refused", "opened", "modified", "stops_adjusted"]
