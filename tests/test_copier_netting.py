"""The copier between hedging and netting accounts: what it opens, follows and closes as a part of a sum, what it never
does twice, and that it leaves the follower's own lots alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from follower import MAGIC, Follower, Make, Watched, order, position

from copies import State, tag_of
from ledger import LedgerError
from names import SymbolNames
from safety import Copying, Limits, Mode, Sizing
from signals import Action, Increase, Kind, Trade

LIMITS = Limits(50, 20, 10, D(20), D(50), 60)
TENTH = Sizing(Mode.MULTIPLIER, D(0), D("0.1"))

Net = Callable[..., Follower]


@pytest.fixture
def net(make: Make) -> Net:
    """net(**settings): a follower on a netting account."""

    def one(margin_mode: str = "netting", **settings: Any) -> Follower:
        return make(account={"margin_mode": margin_mode}, **{"limits": LIMITS, **settings})

    return one


@pytest.fixture
def follower(net: Net) -> Follower:
    return net()


@pytest.fixture
def hedging(make: Make) -> Follower:
    return make(limits=LIMITS)


def lots(follower: Follower, symbol: str = "EURUSD") -> float:
    """What the account has of a symbol, below 0 when it is sold."""
    return float(sum(p.volume if p.is_buy else -p.volume for p in follower.broker.positions() if p.symbol == symbol))


def by_hand(follower: Follower, volume: float, side: int = 0, **more: Any) -> None:
    """The follower trades himself."""
    done = follower.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=volume, type=side, type_filling=1, **more)
    assert done.retcode == 10009, done


def entries(follower: Follower) -> list[tuple[int, float]]:
    """Every deal of ours on the account: 0 bought or 1 sold, lots."""
    deals = follower.mt5.history_deals_get(1, 2_000_000_000)
    return [(deal.type, deal.volume) for deal in deals if deal.magic == MAGIC]


# -- a netting master


def grows(follower: Follower, trade: Trade, by: str, price: str = "", order: int = 0, **more: Any) -> Trade:
    """The master's position has so many lots more, at the price now."""
    return _changed(follower, trade, trade.volume + D(by), trade.action, D(by), price, order, more)


def turns(follower: Follower, trade: Trade, action: str, volume: str, order: int = 0, **more: Any) -> Trade:
    return _changed(follower, trade, D(volume), Action(action), D(volume), "", order, more)


def _changed(
    follower: Follower, trade: Trade, volume: D, action: Action, came: D, price: str, order: int, more: Any
) -> Trade:
    follower.clock.now += 0.005
    at = D(price) if price else D("1.10010") if action is Action.BUY else D("1.10000")
    increase = replace(Increase(came, at, order, follower.server_ms()), **more)
    return follower.master_modifies(trade, volume=volume, action=action, increase=increase)


# --- a hedging master, a netting follower ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["netting", "exchange"])
def test_the_copies_of_a_symbol_add_up_to_one_position(net: Net, mode: str) -> None:
    follower = net(mode)
    long = follower.master_opens(position(1, volume="0.30"))
    short = follower.master_opens(position(2, "SELL", "0.20"))
    follower.look(4)
    assert lots(follower) == 0.1
    assert (follower.state(1), follower.state(2)) == ("open", "open")
    follower.master_closes(long)
    follower.look(4)
    assert lots(follower) == -0.2
    follower.master_closes(short)
    follower.look(4)
    assert follower.positions == []
    assert entries(follower) == [(0, 0.3), (1, 0.2), (1, 0.3), (0, 0.2)]
    assert follower.events() == ["opened", "opened", "closed", "closed"]


def test_two_trades_that_stand_against_each_other_are_no_position_and_two_copies(follower: Follower) -> None:
    long = follower.master_opens(position(1))
    follower.master_opens(position(2, "SELL"))
    follower.look(4)
    assert follower.positions == []
    follower.passes(30)
    assert (follower.state(1), follower.state(2)) == ("open", "open"), "an empty account is what they add up to"
    follower.master_closes(long)
    follower.passes(3)
    assert lots(follower) == -0.1


def test_the_next_order_of_a_symbol_waits_until_the_last_one_has_shown(follower: Follower) -> None:
    for ticket in range(1, 4):
        follower.master_opens(position(ticket, volume=f"0.{ticket}0"))
    follower.master_opens(position(9, symbol="GBPUSD", price=D("1.3001")))
    follower.mt5.sim_set_quote("GBPUSD", 1.3000, 1.3001)
    follower.look(1)
    assert (lots(follower), lots(follower, "GBPUSD")) == (0.1, 0.1), "another symbol does not wait"
    follower.look(1)
    assert lots(follower) == 0.3
    follower.look(1)
    assert lots(follower) == 0.6


def test_closes_of_a_symbol_go_one_by_one_and_before_opens(follower: Follower) -> None:
    trades = [follower.master_opens(position(ticket)) for ticket in (1, 2, 3)]
    follower.look(5)
    for trade in trades:
        follower.master_closes(trade)
    follower.master_opens(position(4, volume="0.05"))
    sold = []
    for _ in range(5):
        follower.look(1)
        sold.append(lots(follower))
    assert sold == [0.2, 0.1, 0.0, 0.05, 0.05]


def test_a_partial_close_and_the_rest_of_two_trades(follower: Follower) -> None:
    long = follower.master_opens(position(1, volume="0.50"))
    short = follower.master_opens(position(2, "SELL", "0.20"))
    follower.look(4)
    long = follower.master_closes(long, "0.20")
    follower.passes(2)
    assert lots(follower) == 0.0
    short = follower.master_closes(short, "0.05")
    follower.passes(2)
    assert lots(follower) == 0.15
    follower.master_closes(long)
    follower.master_closes(short)
    follower.passes(3)
    assert follower.positions == []
    assert len(entries(follower)) == 6


@pytest.mark.parametrize("master", ["hedging", "netting"])
def test_ten_partial_closes_of_a_tenth_each_end_flat_and_never_more_than_a_step_off(net: Net, master: str) -> None:
    follower = net(sizing=TENTH)
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    if master == "netting":
        trade = grows(follower, trade, "0.50")
        follower.look()
        trade = follower.master_closes(trade, "1.00")
        follower.passes(2)
    assert lots(follower) == 0.1
    for tenths in range(9, 0, -1):
        trade = follower.master_closes(trade, f"0.{tenths}0")
        follower.passes(2)
        assert abs(lots(follower) - tenths / 100) < 0.0100001
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.positions == []


def test_a_small_partial_close_never_closes_a_whole_fixed_lot(net: Net) -> None:
    follower = net(sizing=Sizing(Mode.FIX, D("0.01"), D(1)))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    follower.master_closes(trade, "0.90")
    follower.passes(3)
    assert lots(follower) == 0.01


def test_two_masters_on_one_symbol_are_two_copies(follower: Follower) -> None:
    follower.masters["other"] = {"master": "other", "reported_at": 1, "online": True}
    follower.sends_book()
    first = follower.master_opens(position(1, volume="0.30"))
    second = follower.master_opens(position(1, "SELL", "0.10", master="other"))
    follower.look(4)
    assert lots(follower) == 0.2
    follower.master_closes(first)
    follower.look(4)
    assert lots(follower) == -0.1
    follower.master_closes(second)
    follower.look(4)
    assert follower.positions == []


@pytest.mark.parametrize("copying", [Copying.PAUSED, Copying.CLOSE_ONLY])
def test_what_stops_opening_does_not_stop_a_close_or_a_reduction(follower: Follower, copying: Copying) -> None:
    first = follower.master_opens(position(1, volume="0.30"))
    second = follower.master_opens(position(2))
    follower.look(4)
    follower.restart(copying=copying)
    follower.sends_book()
    follower.master_closes(first, "0.20")
    follower.master_closes(second)
    follower.passes(3)
    assert lots(follower) == 0.2


# --- a netting master, a netting follower ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["netting", "exchange"])
def test_a_position_that_grows_shrinks_and_turns_round_is_followed(net: Net, mode: str) -> None:
    follower = net(mode)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20")
    follower.look()
    assert lots(follower) == 0.3
    trade = follower.master_closes(trade, "0.15")
    follower.passes(2)
    assert lots(follower) == 0.15
    trade = turns(follower, trade, "SELL", "0.20")
    follower.look(5)
    assert lots(follower) == -0.2
    trade = grows(follower, trade, "0.05")
    follower.look()
    assert lots(follower) == -0.25
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []
    bought = sum(volume for side, volume in entries(follower) if side == 0)
    assert bought == pytest.approx(sum(volume for side, volume in entries(follower) if side == 1))


def test_every_growth_is_a_copy_of_its_own(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    grows(follower, trade, "0.20")
    follower.look()
    first, second = follower.copy(1), follower.copy(1, leg=1)
    assert first is not None
    assert second is not None
    assert (first.volume, second.volume) == (D("0.10"), D("0.20"))
    assert first.tag != second.tag
    assert {deal.comment for deal in follower.mt5.history_deals_get(1, 2_000_000_000)} >= {first.tag, second.tag}


def test_what_is_closed_is_taken_from_the_oldest_growth(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20")
    follower.look()
    follower.master_closes(trade, "0.20")
    follower.passes(3)
    assert follower.state(1) == "closed"
    second = follower.copy(1, leg=1)
    assert second is not None
    assert (str(second.state), second.current) == ("open", D("0.20"))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"at": 0}, "age_unknown"),
        ({"at": 1_790_000_000_000 - 3_600_000}, "older_than_ledger"),
        ({"price": D("1.09000")}, "max_slippage_points"),
    ],
    ids=["age unknown", "too old", "price gone"],
)
@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_a_growth_is_decided_at_its_own_age_and_price(make: Make, mode: str, how: dict[str, Any], reason: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20", **how)
    follower.passes(3)
    assert lots(follower) == 0.1
    assert reason in [report.get("reason") for report in follower.reports()]
    trade = follower.master_closes(trade, "0.25")
    follower.passes(3)
    assert lots(follower) == 0.05, "the oldest lots are those that were copied"
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


def test_the_turn_of_a_position_is_not_copied_when_it_is_too_old_but_the_old_side_is_closed(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    turns(follower, trade, "SELL", "0.20", at=0)
    follower.passes(3)
    assert follower.positions == []
    assert len(entries(follower)) == 2


def test_a_trade_first_seen_after_it_grew_is_judged_by_the_age_of_each_part(follower: Follower) -> None:
    follower.passes(100)
    old = follower.server_ms() - 90_000
    young = Increase(D("0.20"), D("1.10010"), 0, follower.server_ms() - 1000)
    follower.master_opens(position(1, volume="0.30", opened_at=old, increase=young))
    follower.passes(3)
    assert lots(follower) == 0.2


def test_a_fixed_lot_stands_for_the_first_part_and_the_others_are_in_proportion(net: Net) -> None:
    follower = net(sizing=Sizing(Mode.FIX, D("0.10"), D(1)))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    trade = grows(follower, trade, "0.50")
    follower.look()
    assert lots(follower) == 0.15
    trade = turns(follower, trade, "SELL", "3.00")
    follower.look(5)
    assert lots(follower) == -0.1, "after a turn the first part is the new one"
    follower.master_closes(trade, "1.50")
    follower.passes(2)
    assert lots(follower) == -0.05


def test_what_rounding_leaves_over_of_a_growth_goes_to_the_next(net: Net) -> None:
    follower = net(sizing=TENTH)
    trade = follower.master_opens(position(1, volume="0.15"))
    follower.look()
    assert lots(follower) == 0.01
    trade = grows(follower, trade, "0.15")
    follower.look()
    assert lots(follower) == 0.03
    follower.master_closes(trade, "0.15")
    follower.passes(3)
    assert 0.015 <= lots(follower) < 0.025


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_a_copy_whose_lots_are_all_in_another_legs_by_rounding_was_closed_by_the_copier(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS, sizing=TENTH)
    trade = follower.master_opens(position(1, volume="0.15"))
    follower.look()
    trade = grows(follower, trade, "0.05")
    follower.look()
    assert lots(follower) == 0.02
    trade = follower.master_closes(trade, "0.10")
    follower.passes(10)
    assert lots(follower) == 0.01
    first = follower.copy(1)
    assert first is not None
    assert (first.state, first.reason) == (State.CLOSED, "master_closed")
    assert "closed_by_client" not in follower.events()
    trade = grows(follower, trade, "0.10")
    follower.passes(3)
    assert lots(follower) == 0.02
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


def test_each_tag_is_looked_up_once_however_many_deals_a_position_has(net: Net) -> None:
    follower = net(limits=Limits(50, 20, 50, D(20), D(50), 60))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    for left in range(90, 40, -10):
        trade = follower.master_closes(trade, f"0.{left}")
        follower.passes(2)
    asked: list[str] = []
    remembered = follower.ledger.remembered

    def counted(tag: str, client_ticket: int) -> Any:
        asked.append(tag)
        return remembered(tag, client_ticket)

    follower.ledger.remembered = counted  # type: ignore[method-assign]
    follower.master_closes(trade, "0.40")
    follower.look(1)
    follower.clock.now += 1
    asked.clear()
    follower.look(1)
    assert asked
    assert len(asked) == len(set(asked))


def test_growths_that_are_each_below_the_minimum_are_copied_when_they_are_enough(net: Net) -> None:
    follower = net(sizing=TENTH)
    trade = follower.master_opens(position(1, volume="0.06"))
    follower.look()
    assert follower.positions == []
    trade = grows(follower, trade, "0.06")
    follower.passes(2)
    assert lots(follower) == 0.01
    follower.passes(70)
    assert lots(follower) == 0.01
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


def test_the_parts_of_a_position_are_known_over_a_restart(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20")
    follower.look()
    follower.restart()
    follower.sends_book()
    follower.passes(3)
    assert lots(follower) == 0.3
    follower.master_closes(trade, "0.20")
    follower.passes(3)
    follower.restart()
    follower.sends_book()
    follower.passes(3)
    assert lots(follower) == 0.2
    assert len(entries(follower)) == 3


def test_a_growth_while_the_copier_was_not_running_is_copied_while_it_is_young(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.kill()
    follower.clock.now += 20
    grown = replace(trade, volume=D("0.30"), increase=Increase(D("0.20"), D("1.10010"), 0, follower.server_ms()))
    follower.start()
    follower.look(1)
    follower.clock.now += 4
    follower.sends_book(grown)
    follower.look(4)
    assert lots(follower) == 0.3


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_the_parts_of_a_position_that_has_ended_are_forgotten(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20")
    follower.look()
    assert follower.ledger.legs
    follower.master_closes(trade)
    follower.passes(6)
    assert follower.ledger.legs == {}


# --- a netting master, a hedging follower ----------------------------------------------------------------------------


def test_on_a_hedging_account_a_growth_is_a_position_of_its_own(hedging: Follower) -> None:
    trade = hedging.master_opens(position(1, sl=D("1.05")))
    hedging.look()
    trade = grows(hedging, trade, "0.20")
    hedging.look()
    assert hedging.volumes == [0.1, 0.2]
    assert [p.sl for p in hedging.positions] == [1.05, 1.05]
    hedging.master_modifies(trade, sl=D("1.06"))
    hedging.look()
    assert [p.sl for p in hedging.positions] == [1.06, 1.06]


def test_on_a_hedging_account_the_oldest_position_is_closed_first(hedging: Follower) -> None:
    trade = hedging.master_opens(position(1))
    hedging.look()
    for _ in range(2):
        trade = grows(hedging, trade, "0.20")
        hedging.look()
    trade = hedging.master_closes(trade, "0.35")
    hedging.passes(3)
    assert hedging.volumes == [0.15, 0.2]
    hedging.master_closes(trade)
    hedging.passes(3)
    assert hedging.positions == []
    assert hedging.opened() == 3


def test_on_a_hedging_account_a_turn_closes_all_and_opens_the_other_side(hedging: Follower) -> None:
    trade = hedging.master_opens(position(1))
    hedging.look()
    trade = grows(hedging, trade, "0.20")
    hedging.look()
    trade = turns(hedging, trade, "SELL", "0.05")
    hedging.look(5)
    assert [(p.type, p.volume) for p in hedging.positions] == [(1, 0.05)]
    trade = turns(hedging, trade, "BUY", "0.10")
    hedging.look(5)
    assert [(p.type, p.volume) for p in hedging.positions] == [(0, 0.1)]
    assert hedging.opened() == 4


# --- pending orders --------------------------------------------------------------------------------------------------


def test_a_pending_order_is_placed_moved_and_removed_on_a_netting_account(follower: Follower) -> None:
    trade = follower.master_opens(order(7, sl=D("1.08")))
    follower.look()
    (placed,) = follower.orders
    assert (placed.type, placed.price_open, placed.sl, placed.volume_current) == (2, 1.09, 1.08, 0.1)
    trade = follower.master_modifies(trade, price=D("1.091"))
    follower.look()
    assert follower.orders[0].price_open == 1.091
    follower.master_closes(trade)
    follower.look()
    assert follower.orders == []
    assert entries(follower) == []
    assert follower.events() == ["opened", "modified", "cancelled"]


def filled(follower: Follower, trade: Trade) -> Trade:
    """The master's order becomes a position."""
    became = follower.master_opens(position(trade.ticket, "BUY", str(trade.volume), price=trade.price))
    follower.master_closes(trade)
    return became


@pytest.mark.parametrize("first", ["master", "client"])
def test_a_pending_order_that_filled_on_both_sides_is_one_entry(follower: Follower, first: str) -> None:
    other = follower.master_opens(position(1, volume="0.20"))
    trade = follower.master_opens(order(7))
    follower.look(4)
    follower.falls_to(1.09)
    if first == "client":
        follower.passes(3)
        assert follower.state(7, Kind.ORDER) == "open"
    became = filled(follower, trade)
    follower.look(5)
    follower.passes(20)
    assert lots(follower) == 0.3
    assert (follower.state(7), follower.state(7, Kind.ORDER)) == ("open", "closed")
    follower.master_closes(became)
    follower.look(4)
    assert lots(follower) == 0.2
    follower.master_closes(other)
    follower.look(4)
    assert follower.positions == []
    assert len(entries(follower)) == 4


def test_a_pending_order_that_filled_at_the_master_only_is_taken_back_and_opened_at_market(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.mt5.sim_set_quote("EURUSD", 1.08995, 1.09005)
    filled(follower, trade)
    follower.look(6)
    assert (lots(follower), follower.orders) == (0.1, [])
    follower.falls_to(1.085)
    follower.passes(3)
    assert len(entries(follower)) == 1


def test_a_pending_order_that_filled_at_the_client_only_is_closed_when_the_master_cancels(follower: Follower) -> None:
    follower.master_opens(position(1, "SELL", "0.30"))
    trade = follower.master_opens(order(7))
    follower.look(4)
    follower.falls_to(1.09)
    follower.look()
    assert lots(follower) == -0.2
    follower.master_closes(trade)
    follower.look(4)
    assert lots(follower) == -0.3
    assert follower.state(1) == "open"


def test_a_pending_order_that_the_follower_deleted_is_not_entered_when_the_master_fills(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.mt5.sim_order_by_hand(action=8, order=follower.orders[0].ticket)
    follower.look()
    follower.master_opens(position(7))
    follower.master_closes(trade)
    follower.look(5)
    assert follower.positions == []
    assert follower.state(7) == "skipped"
    assert follower.copy(7).reason == "closed_by_client"  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_a_growth_by_a_pending_order_goes_on_with_the_orders_copy(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1, volume="0.20"))
    pending = follower.master_opens(order(7))
    follower.look(4)
    follower.falls_to(1.09)
    trade = grows(follower, trade, "0.10", "1.09", order=7)
    follower.master_closes(pending)
    follower.look(5)
    follower.passes(20)
    assert lots(follower) == 0.3
    assert len(entries(follower)) == 2, "not opened at market as well"
    assert follower.state(7, Kind.ORDER) == "closed"
    assert str(follower.copy(1, leg=1).state) == "open"  # type: ignore[union-attr]
    follower.master_closes(trade, "0.10")
    follower.passes(3)
    assert lots(follower) == 0.1
    assert follower.state(1) == "closed"


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_a_turn_by_a_pending_order_closes_the_old_side_and_goes_on_with_the_orders_copy(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1, "SELL", "0.20"))
    pending = follower.master_opens(replace(order(7), volume=D("0.30"), initial_volume=D("0.30")))
    follower.look(4)
    follower.falls_to(1.09)
    follower.look()
    assert lots(follower) == 0.1
    trade = turns(follower, trade, "BUY", "0.10", order=7)
    follower.master_closes(pending)
    follower.look(6)
    follower.passes(20)
    assert follower.state(1) == "closed"
    trade = follower.master_closes(trade)
    follower.passes(4)
    assert follower.positions == []


def test_an_order_that_fills_in_parts_at_the_client_is_one_copy(net: Net) -> None:
    follower = net("exchange", market={"EURUSD": {"depth": 0.04, "trade_exemode": 3}})
    trade = follower.master_opens(order(7))
    follower.look()
    for lots_now in (0.04, 0.08, 0.1):
        follower.falls_to(1.09)
        follower.passes(1)
        assert lots(follower) == lots_now
    follower.passes(20)
    became = filled(follower, trade)
    follower.look(5)
    follower.passes(3)
    assert lots(follower) == 0.1
    for _ in range(4):
        follower.mt5.sim_set_quote("EURUSD", 1.0899, 1.09)
        follower.passes(1)
    follower.master_closes(became)
    for _ in range(6):
        follower.mt5.sim_set_quote("EURUSD", 1.0899, 1.09)
        follower.passes(2)
    assert follower.positions == []


@pytest.mark.parametrize("comments", [16, 0])
@pytest.mark.parametrize("outcome", ["timeout_after_fill", "none_after_fill"])
def test_a_pending_order_of_unknown_outcome_is_found_and_removed_when_the_master_cancels(
    follower: Follower, outcome: str, comments: int
) -> None:
    follower.broker_keeps_of_comments(comments)
    follower.mt5.inject("order_send", outcome)
    trade = follower.master_opens(order(7))
    follower.passes(20)
    assert follower.state(7, Kind.ORDER) == "open"
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.orders == []


@pytest.mark.parametrize("comments", [16, 0])
@pytest.mark.parametrize("outcome", ["timeout_after_fill", "none_after_fill"])
def test_a_pending_order_of_unknown_outcome_that_filled_before_it_was_seen_is_a_copy(
    follower: Follower, outcome: str, comments: int
) -> None:
    follower.broker_keeps_of_comments(comments)
    other = follower.master_opens(position(1, volume="0.30"))
    follower.look()
    follower.mt5.inject("order_send", outcome, where={"action": 5})
    trade = follower.master_opens(order(7))
    follower.look(1)
    follower.falls_to(1.0900)
    ticks(follower, 3)
    assert (follower.state(7, Kind.ORDER), lots(follower)) == ("open", 0.4)
    assert follower.copier._stock.foreign == {}
    follower.master_closes(trade)
    follower.master_closes(other)
    ticks(follower, 5)
    assert follower.positions == []


def test_a_pending_order_that_shows_after_it_was_given_up_is_taken_up_and_removed(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_after_fill")
    follower.mt5.inject("orders_get", "stale_empty", times=None)
    trade = follower.master_opens(order(7))
    follower.passes(18)
    assert follower.state(7, Kind.ORDER) == "unknown"
    follower.mt5.sim_clear_faults()
    follower.passes(2)
    assert follower.state(7, Kind.ORDER) == "open"
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.orders == []


# --- orders whose outcome is not known -------------------------------------------------------------------------------

FILLED = ["timeout_after_fill", "none_after_fill", "retcode_after_fill"]
NOT_FILLED = ["timeout_not_executed", "none_not_executed"]
LATE = ["timeout_late_fill", "placed_late_fill", "retcode_late_fill"]


def unknown(follower: Follower, outcome: str, **more: Any) -> None:
    """The next order at market ends so."""
    details = {"retcode": 10011} if outcome.startswith("retcode") else {}
    follower.mt5.inject("order_send", outcome, where={"action": 1}, **details, **more)


def ticks(follower: Follower, seconds: int) -> None:
    for _ in range(seconds):
        follower.clock.now += 1
        follower.sim.tick()
        follower.look(1)


@contextmanager
def sent_of(follower: Follower) -> Iterator[Watched]:
    watched = follower.watch()
    yield watched
    follower.terminal._mt5 = follower.mt5


@contextmanager
def full_disk_after_an_order(follower: Follower) -> Iterator[None]:
    """The intent of the next order is written down, and nothing after it."""

    class Filling(Watched):
        def order_send(self, request: dict[str, Any]) -> Any:
            follower.ledger._db.execute("PRAGMA query_only = 1")
            return super().order_send(request)

    follower.terminal._mt5 = Filling(follower.mt5, follower.clock)
    yield
    follower.ledger._db.execute("PRAGMA query_only = 0")
    follower.terminal._mt5 = follower.mt5


def market_orders(watched: Watched) -> int:
    return sum(1 for request in watched.sent if request["action"] == 1)


# Lots that the symbol has besides, and characters that the broker keeps of a comment.
BESIDES = [(0.0, 16), (0.3, 16), (-0.3, 16), (0.3, 0)]


@pytest.mark.parametrize(("before", "comments"), BESIDES)
@pytest.mark.parametrize("outcome", FILLED + NOT_FILLED + LATE)
def test_an_open_of_unknown_outcome_is_never_sent_again(net: Net, outcome: str, before: float, comments: int) -> None:
    follower = net()
    follower.broker_keeps_of_comments(comments)
    other = None
    if before:
        other = follower.master_opens(position(1, "BUY" if before > 0 else "SELL", "0.30"))
        follower.look(4)
    unknown(follower, outcome)
    trade = follower.master_opens(position(2))
    with sent_of(follower) as watched:
        ticks(follower, 70)
        assert market_orders(watched) == 1
    executed = outcome not in NOT_FILLED
    assert lots(follower) == round(before + (0.1 if executed else 0), 2)
    assert follower.state(2) == ("open" if executed else "unknown")
    follower.master_closes(trade)
    if other is not None:
        follower.master_closes(other)
    ticks(follower, 20)
    assert follower.positions == []


@pytest.mark.parametrize(("rest", "comments"), BESIDES)
@pytest.mark.parametrize("left", ["0", "0.04"])
@pytest.mark.parametrize("outcome", FILLED + NOT_FILLED + LATE)
def test_a_close_or_reduction_of_unknown_outcome_is_sent_again_only_when_it_was_not_executed(
    net: Net, outcome: str, left: str, rest: float, comments: int
) -> None:
    """On a netting account the second close would open the other side."""
    follower = net()
    follower.broker_keeps_of_comments(comments)
    if rest:
        follower.master_opens(position(1, "BUY" if rest > 0 else "SELL", "0.30"))
    trade = follower.master_opens(position(2))
    follower.look(4)
    unknown(follower, outcome)
    follower.master_closes(trade, left)
    lowest = lots(follower)
    with sent_of(follower) as watched:
        for _ in range(40):
            ticks(follower, 1)
            lowest = min(lowest, lots(follower))
        assert market_orders(watched) == (2 if outcome in NOT_FILLED else 1)
    assert lots(follower) == lowest == round(rest + float(left), 2)
    assert follower.state(2) == ("open" if D(left) else "closed")


@pytest.mark.parametrize("left", ["0", "0.02"])
@pytest.mark.parametrize("earlier", ["open", "reduction"])
@pytest.mark.parametrize("outcome", FILLED)
def test_an_order_of_a_copy_is_not_taken_for_a_later_one(net: Net, outcome: str, earlier: str, left: str) -> None:
    """They have the same comment, and nobody told the ticket of either."""
    follower = net()
    follower.master_opens(position(1, volume="0.30"))
    follower.look()
    if earlier == "open":
        unknown(follower, outcome)
    trade = follower.master_opens(position(2))
    ticks(follower, 3)
    if earlier == "reduction":
        unknown(follower, outcome)
        trade = follower.master_closes(trade, "0.05")
        ticks(follower, 3)
    unknown(follower, "none_not_executed")
    follower.master_closes(trade, left)
    ticks(follower, 40)
    assert lots(follower) == round(0.3 + float(left), 2)
    assert follower.copier._stock.foreign == {}


@pytest.mark.parametrize("before", [0.0, 0.3])
def test_an_open_that_was_refused_and_executed_all_the_same_is_a_copy(net: Net, before: float) -> None:
    follower = net()
    if before:
        follower.master_opens(position(1, volume="0.30"))
        follower.look()
    follower.mt5.inject("order_send", "retcode_after_fill", retcode=10019)
    trade = follower.master_opens(position(2))
    follower.look()
    assert follower.state(2) in ("failed", "open")
    ticks(follower, 3)
    assert (follower.state(2), lots(follower)) == ("open", round(before + 0.1, 2))
    assert follower.copier._stock.foreign == {}
    follower.master_closes(trade)
    ticks(follower, 3)
    assert lots(follower) == before


@pytest.mark.parametrize(
    ("late", "left", "seconds"),
    [(0, "0.05", 1), (2, "0.04", 1), (2, "0.05", 4)],
    ids=["told by the history", "of other lots", "told by the history later"],
)
def test_a_reduction_whose_ticket_nobody_told_is_not_taken_for_the_close(
    follower: Follower, late: int, left: str, seconds: int
) -> None:
    """Where it is late the sum has shown it before the history did."""
    follower.master_opens(position(1, volume="0.30"))
    trade = follower.master_opens(position(2))
    follower.look(4)
    unknown(follower, "none_after_fill")
    follower.mt5.inject("history_orders_get", "late", seconds=late, times=1)
    follower.mt5.inject("history_deals_get", "late", seconds=late, times=1)
    trade = follower.master_closes(trade, left)
    ticks(follower, seconds)
    assert lots(follower) == round(0.3 + float(left), 2)
    unknown(follower, "none_not_executed")
    follower.master_closes(trade)
    ticks(follower, 40)
    assert lots(follower) == 0.3


def test_what_could_not_be_written_down_of_an_order_is_known_to_the_next(follower: Follower) -> None:
    follower.master_opens(position(1, volume="0.30"))
    follower.look()
    trade = follower.master_opens(position(2))
    with full_disk_after_an_order(follower):
        goes_on(follower, 3)
        assert lots(follower) == 0.4
        unknown(follower, "none_not_executed")
        follower.master_closes(trade)
        goes_on(follower, 30)
    goes_on(follower, 20)
    assert lots(follower) == 0.3


@pytest.mark.parametrize("outcome", NOT_FILLED + LATE)
def test_while_the_outcome_of_an_order_is_unknown_no_other_order_of_its_symbol_is_sent(net: Net, outcome: str) -> None:
    follower = net()
    first = follower.master_opens(position(1, volume="0.30"))
    follower.look()
    unknown(follower, outcome, **({"seconds": 10} if outcome in LATE else {}))
    follower.master_opens(position(2, volume="0.05"))
    follower.look()
    follower.master_closes(first)
    follower.master_opens(position(3, volume="0.07"))
    with sent_of(follower) as watched:
        ticks(follower, 8)
        assert watched.sent == []
    ticks(follower, 20)
    assert lots(follower) == (0.07 if outcome in NOT_FILLED else 0.12)


def test_an_order_that_fills_after_it_was_given_up_is_taken_up_or_closed(follower: Follower) -> None:
    unknown(follower, "timeout_late_fill", seconds=25)
    trade = follower.master_opens(position(1))
    ticks(follower, 18)
    assert follower.state(1) == "unknown"
    ticks(follower, 10)
    assert follower.state(1) == "open"
    follower.master_closes(trade)
    ticks(follower, 5)
    assert follower.positions == []


def test_an_order_that_fills_after_it_was_given_up_is_closed_when_the_master_has_closed(follower: Follower) -> None:
    unknown(follower, "timeout_late_fill", seconds=25)
    trade = follower.master_opens(position(1))
    ticks(follower, 18)
    follower.master_closes(trade)
    ticks(follower, 15)
    assert follower.positions == []
    assert entries(follower) == [(0, 0.1), (1, 0.1)]


def test_of_an_order_that_filled_in_part_only_that_part_is_ours(follower: Follower) -> None:
    follower.mt5.inject("order_send", "partial", fraction=0.4)
    trade = follower.master_opens(position(1))
    follower.look(4)
    assert lots(follower) == 0.04
    follower.mt5.inject("order_send", "partial", fraction=0.5)
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []
    assert sum(volume for side, volume in entries(follower) if side == 1) == pytest.approx(0.04)


def test_a_close_that_is_refused_is_sent_until_it_goes(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=10004, times=3)
    follower.master_closes(trade)
    follower.passes(6)
    assert follower.positions == []
    assert entries(follower) == [(0, 0.1), (1, 0.1)]


def test_orders_whose_deals_come_late_are_not_taken_for_the_followers(follower: Follower) -> None:
    first = follower.master_opens(position(1))
    second = follower.master_opens(position(2, "SELL", "0.30"))
    follower.look(4)
    follower.mt5.inject("history_deals_get", "late", seconds=5, times=4)
    follower.mt5.inject("history_orders_get", "late", seconds=5, times=4)
    follower.master_closes(first)
    follower.passes(2)
    follower.master_closes(second)
    ticks(follower, 20)
    assert follower.positions == []
    assert len(entries(follower)) == 4
    assert (follower.state(1), follower.state(2)) == ("closed", "closed")


@pytest.mark.parametrize("sent", ["close", "open"])
@pytest.mark.parametrize("outcome", ["timeout_not_executed", "timeout_late_fill", "timeout_after_fill"])
def test_an_account_that_shows_nothing_for_a_moment_decides_nothing_whenever_that_is(
    net: Net, outcome: str, sent: str
) -> None:
    """Not even while an order is waited for that would have made it so."""
    follower = net()
    for at in (0, 1, 5, 13, 14, 15, 16, 17):
        trade = follower.master_opens(position(10 * at + 1))
        follower.look(4)
        unknown(follower, outcome)
        if sent == "close":
            follower.master_closes(trade)
        else:
            other = follower.master_opens(position(10 * at + 2, "SELL"))
        for second in range(20):
            if second == at:
                follower.mt5.inject("positions_get", "stale_empty")
            ticks(follower, 1)
        if sent == "open":
            assert follower.state(10 * at + 1) == "open", at
            follower.master_closes(trade)
            ticks(follower, 3)
            follower.master_closes(other)
        ticks(follower, 20)
        assert follower.positions == [], at


# --- crashes ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def dies_at(follower: Follower, call: str, *, before: bool) -> None:
    """The copier dies just before or just after this call of the terminal."""
    real = getattr(follower.terminal, call)

    def killed(*args: Any, **more: Any) -> None:
        if not before:
            real(*args, **more)
        raise Killed

    setattr(follower.terminal, call, killed)


def dies(follower: Follower) -> None:
    with pytest.raises(Killed):
        follower.look(4)
    follower.restart()
    follower.sends_book()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("other", ["", "BUY", "SELL"])
@pytest.mark.parametrize("away", [0, 30])
def test_a_crash_around_an_open_doubles_nothing(net: Net, before: bool, other: str, away: int) -> None:
    follower = net()
    if other:
        follower.master_opens(position(1, other, "0.30"))
        follower.look(4)
    base = lots(follower)
    dies_at(follower, "open", before=before)
    trade = follower.master_opens(position(2))
    dies(follower)
    follower.clock.now += away
    follower.sends_book()
    follower.passes(70)
    assert lots(follower) == round(base + (0 if before else 0.1), 2)
    assert follower.state(2) == ("unknown" if before else "open")
    follower.master_closes(trade)
    follower.passes(3)
    assert lots(follower) == base


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("other", ["", "BUY", "SELL"])
@pytest.mark.parametrize("left", ["0", "0.04"])
def test_a_crash_around_a_close_or_reduction_closes_it_once(net: Net, before: bool, other: str, left: str) -> None:
    follower = net()
    if other:
        follower.master_opens(position(1, other, "0.30"))
        follower.look(4)
    base = lots(follower)
    trade = follower.master_opens(position(2))
    follower.look(4)
    dies_at(follower, "trade_against", before=before)
    follower.master_closes(trade, left)
    dies(follower)
    lowest = lots(follower)
    for _ in range(40):
        follower.passes(1)
        lowest = min(lowest, lots(follower))
    assert lots(follower) == lowest == round(base + float(left), 2)
    assert follower.state(2) == ("open" if D(left) else "closed")


def dies_after_commit(follower: Follower, number: int) -> None:
    """The copier dies just after it has written to the ledger for so many times."""
    real, left = follower.ledger._transaction, number

    @contextmanager
    def transaction() -> Iterator[Any]:
        nonlocal left
        with real() as db:
            yield db
        left -= 1
        if not left:
            raise Killed

    follower.ledger._transaction = transaction  # type: ignore[method-assign]


@pytest.mark.parametrize("part", [None, 0.5])
@pytest.mark.parametrize("left", ["0", "0.06"])
@pytest.mark.parametrize("other", ["", "BUY"])
def test_a_crash_after_any_commit_of_a_close_or_reduction_counts_it_once(
    tmp_path: Path, other: str, left: str, part: float | None
) -> None:
    """What an order has done and that it is settled are one change in the ledger."""
    for number in range(1, 9):
        folder = tmp_path / str(number)
        folder.mkdir()
        follower = Follower(folder, account={"margin_mode": "netting"}, limits=LIMITS)
        follower.sends_book()
        follower.look()
        if other:
            follower.master_opens(position(1, other, "0.30"))
            follower.look(4)
        base = lots(follower)
        trade = follower.master_opens(position(2))
        follower.look(4)
        if part is not None:
            follower.mt5.inject("order_send", "partial", fraction=part)
        dies_after_commit(follower, number)
        follower.master_closes(trade, left)
        with suppress(Killed):
            follower.look(8)
        follower.restart()
        follower.sends_book()
        follower.passes(40)
        assert lots(follower) == round(base + float(left), 2), number
        copy = follower.copy(2)
        assert copy is not None
        assert (copy.current, follower.copier._stock.foreign) == (D(left), {}), number
        follower.kill()


@pytest.mark.parametrize("call", ["open", "trade_against"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_a_crash_while_a_position_turns_round_doubles_nothing(make: Make, mode: str, call: str, before: bool) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = turns(follower, trade, "SELL", "0.20")
    if mode == "hedging" and call == "trade_against":
        call = "close_position"
    dies_at(follower, call, before=before)
    dies(follower)
    follower.passes(40)
    assert lots(follower) == (0.0 if call == "open" and before else -0.2)
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


def test_a_crash_after_an_order_of_a_growth_is_healed_although_the_comment_was_replaced(follower: Follower) -> None:
    follower.broker_keeps_of_comments(0)
    trade = follower.master_opens(position(1))
    follower.look()
    dies_at(follower, "open", before=False)
    grows(follower, trade, "0.20")
    dies(follower)
    follower.passes(20)
    assert lots(follower) == 0.3
    assert str(follower.copy(1, leg=1).state) == "open"  # type: ignore[union-attr]


# --- the follower's own lots -----------------------------------------------------------------------------------------


def refusals(follower: Follower) -> list[str]:
    return [report["reason"] for report in follower.reports() if "reason" in report]


@pytest.mark.parametrize("mode", ["netting", "exchange"])
def test_a_symbol_of_which_the_follower_has_lots_of_his_own_is_refused(net: Net, mode: str) -> None:
    follower = net(mode)
    by_hand(follower, 0.5)
    follower.master_opens(position(1))
    follower.master_opens(order(7))
    follower.passes(3)
    assert (lots(follower), follower.orders) == (0.5, [])
    assert set(refusals(follower)) == {"mixed_symbol"}
    (first, *_) = [report for report in follower.reports() if report.get("reason") == "mixed_symbol"]
    assert first["numbers"] == {"foreign_lots": 0.5}


def test_another_symbol_is_traded_and_the_refused_one_when_his_lots_are_gone(follower: Follower) -> None:
    by_hand(follower, 0.5)
    follower.mt5.sim_set_quote("GBPUSD", 1.3000, 1.3001)
    follower.master_opens(position(1))
    follower.master_opens(position(2, symbol="GBPUSD", price=D("1.3001")))
    follower.passes(3)
    assert (lots(follower), lots(follower, "GBPUSD")) == (0.5, 0.1)
    by_hand(follower, 0.5, 1)
    follower.passes(18)  # no deal can be asked for that would prove it
    assert lots(follower) == 0.1


def test_with_allow_mixed_symbol_it_is_traded_beside_the_followers_own_lots(net: Net) -> None:
    follower = net(allow_mixed_symbol=True)
    by_hand(follower, 0.5, 1)
    trade = follower.master_opens(position(1, sl=D("1.05")))
    follower.passes(3)
    assert lots(follower) == -0.4
    assert [p.sl for p in follower.positions] == [0.0], "the stops of what is his are his"
    trade = follower.master_closes(trade, "0.05")
    follower.passes(3)
    assert lots(follower) == -0.45
    follower.master_closes(trade)
    follower.passes(20)
    assert lots(follower) == -0.5
    assert follower.state(1) == "closed"


def test_lots_that_the_follower_adds_to_ours_stay_and_ours_are_closed(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    by_hand(follower, 0.5)
    follower.passes(2)
    assert sum("0.5 lots of EURUSD on this netting account are not the copier's" in m for m in caplog.messages) == 1
    follower.restart()
    follower.sends_book()
    follower.master_opens(position(2))
    follower.master_closes(trade)
    follower.passes(20)
    assert lots(follower) == 0.5
    assert follower.state(1) == "closed"
    assert follower.state(2) != "open"


def test_flatten_closes_our_part_only(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.master_opens(position(2, "SELL", "0.30"))
    follower.look(4)
    by_hand(follower, 0.5, 1)
    follower.passes(2)
    follower.restart(copying=Copying.FLATTEN)
    follower.passes(5)
    assert lots(follower) == -0.5


def test_his_stops_are_not_touched_when_he_has_lots_in_the_position(net: Net) -> None:
    follower = net(allow_mixed_symbol=True)
    by_hand(follower, 0.5, sl=1.02, tp=1.2)
    trade = follower.master_opens(position(1, sl=D("1.05"), tp=D("1.15")))
    follower.passes(3)
    (mixed,) = follower.positions
    assert (mixed.volume, mixed.sl, mixed.tp) == (0.6, 1.02, 1.2)
    follower.master_modifies(trade, sl=D("1.06"))
    follower.passes(3)
    assert follower.positions[0].sl == 1.02


# --- closed on the client --------------------------------------------------------------------------------------------


def test_what_the_follower_closed_by_hand_is_not_opened_again(follower: Follower) -> None:
    trades = [follower.master_opens(position(1, volume="0.30")), follower.master_opens(position(2, "SELL", "0.10"))]
    follower.look(4)
    follower.mt5.sim_close_by_hand(follower.positions[0].ticket)
    follower.passes(2)
    assert (follower.state(1), follower.state(2)) == ("closed_by_client", "closed_by_client")
    follower.passes(30)
    follower.restart()
    follower.sends_book()
    for trade in trades:
        follower.master_closes(trade)
    follower.passes(20)
    assert follower.positions == []
    assert len(entries(follower)) == 2


def test_of_a_position_closed_by_hand_in_part_the_master_closes_the_rest(follower: Follower) -> None:
    first = follower.master_opens(position(1, volume="0.30"))
    second = follower.master_opens(position(2, volume="0.20"))
    follower.look(4)
    by_hand(follower, 0.4, 1)
    follower.passes(2)
    assert follower.state(1) == "closed_by_client"
    follower.master_closes(first)
    follower.passes(3)
    assert lots(follower) == 0.1
    follower.master_closes(second)
    follower.passes(3)
    assert follower.positions == []


def test_a_follower_who_turned_the_position_round_keeps_what_he_has(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    by_hand(follower, 0.3, 1)
    follower.passes(2)
    assert follower.state(1) == "closed_by_client"
    follower.master_closes(trade)
    follower.passes(20)
    assert lots(follower) == -0.2


def test_a_stop_loss_at_the_client_is_reported_and_not_opened_again(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.095")))
    trade = grows(follower, trade, "0.20")
    follower.look(4)
    follower.mt5.sim_set_quote("EURUSD", 1.0940, 1.0941)
    follower.sim.tick()
    follower.passes(20)
    assert follower.positions == []
    assert (follower.state(1), str(follower.copy(1, leg=1).state)) == ("closed_by_client",) * 2  # type: ignore[union-attr]
    assert "stop loss" in follower.copy(1).detail  # type: ignore[union-attr]
    follower.master_closes(trade)
    follower.passes(5)
    assert follower.positions == []
    assert sum(1 for side, _ in entries(follower) if side == 0) == 2


@pytest.mark.parametrize("seconds", [1, 12])
def test_a_netting_account_that_shows_nothing_for_a_while_closes_and_opens_nothing(
    follower: Follower, seconds: int
) -> None:
    follower.master_opens(position(1))
    follower.master_opens(order(7))
    follower.look(4)
    for function in ("positions_get", "orders_get"):
        follower.mt5.inject(function, "stale_empty", times=None)
    follower.master_opens(position(2))
    follower.passes(seconds)
    follower.mt5.sim_clear_faults()
    assert follower.state(1) == "open"
    assert len(entries(follower)) == 1
    follower.passes(3)
    assert (lots(follower), len(follower.orders)) == (0.2, 1)


@pytest.mark.parametrize("outcome", ["none", "disconnected", "other_login"])
@pytest.mark.parametrize("function", ["positions_get", "orders_get"])
def test_a_netting_account_that_cannot_be_read_closes_and_opens_nothing(
    follower: Follower, outcome: str, function: str
) -> None:
    follower.master_opens(position(1))
    follower.look()
    try:
        follower.mt5.inject(function, outcome, times=None)
    except ValueError:
        pytest.skip("this function does not fail in this way")
    follower.passes(20)
    follower.mt5.sim_clear_faults()
    follower.passes(3)
    assert (lots(follower), follower.state(1), len(entries(follower))) == (0.1, "open", 1)


def test_patience_with_an_empty_account_begins_anew_after_an_unreadable_moment(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    for _ in range(3):
        follower.mt5.inject("positions_get", "stale_empty", times=None)
        follower.passes(12)
        follower.mt5.sim_clear_faults()
        follower.mt5.inject("positions_get", "none", times=1)
        follower.passes(1)
        follower.mt5.sim_clear_faults()
    assert follower.state(1) == "open"


# --- stops of the sum ------------------------------------------------------------------------------------------------


def stops(follower: Follower) -> tuple[float, float]:
    (only,) = follower.positions
    return only.sl, only.tp


def test_the_stops_of_the_position_are_the_farthest_of_its_copies(follower: Follower) -> None:
    first = follower.master_opens(position(1, sl=D("1.08"), tp=D("1.12")))
    follower.look(4)
    assert stops(follower) == (1.08, 1.12)
    second = follower.master_opens(position(2, sl=D("1.05"), tp=D("1.11")))
    follower.look(4)
    assert stops(follower) == (1.05, 1.12)
    second = follower.master_modifies(second, sl=D(0))
    follower.passes(2)
    assert stops(follower) == (0.0, 1.12), "one has none"
    follower.master_closes(second)
    follower.passes(3)
    assert stops(follower) == (1.08, 1.12)
    follower.master_modifies(first, sl=D("1.09"))
    follower.passes(2)
    assert stops(follower) == (1.09, 1.12)


def test_copies_on_the_other_side_have_no_say_in_the_stops(follower: Follower) -> None:
    long = follower.master_opens(position(1, volume="0.30", sl=D("1.08"), tp=D("1.12")))
    follower.master_opens(position(2, "SELL", sl=D("1.13"), tp=D("1.02")))
    follower.look(5)
    assert stops(follower) == (1.08, 1.12)
    follower.master_closes(long)
    follower.passes(3)
    assert lots(follower) == -0.1
    assert stops(follower) == (1.13, 1.02)


def test_the_position_never_stands_without_its_stops_while_it_grows(follower: Follower) -> None:
    """On a netting account an order at market replaces the stops, also by none."""
    trade = follower.master_opens(position(1, sl=D("1.08"), tp=D("1.12")))
    follower.look(4)
    grows(follower, trade, "0.20")
    follower.look(1)
    assert (lots(follower), stops(follower)) == (0.3, (1.08, 1.12))
    follower.master_opens(position(2, "SELL", "0.05"))
    follower.look(1)
    assert (lots(follower), stops(follower)) == (0.25, (1.08, 1.12))


# --- a ledger that was lost ------------------------------------------------------------------------------------------


def test_after_the_ledger_was_lost_the_parts_are_known_from_their_deals(follower: Follower) -> None:
    long = follower.master_opens(position(1, volume="0.30"))
    short = follower.master_opens(position(2, "SELL", "0.10"))
    follower.look(4)
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(20)
    assert (lots(follower), len(entries(follower))) == (0.2, 2)
    assert (follower.state(1), follower.state(2)) == ("open", "open")
    follower.master_closes(long)
    follower.passes(3)
    assert lots(follower) == -0.1
    follower.master_closes(short)
    follower.passes(3)
    assert follower.positions == []


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_after_the_ledger_was_lost_the_legs_of_a_position_are_taken_up_in_proportion(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.30")
    follower.look()
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(20)
    assert (lots(follower), len(entries(follower))) == (0.4, 2)
    trade = follower.master_closes(trade, "0.20")
    follower.passes(3)
    assert lots(follower) == 0.2
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_after_the_ledger_was_lost_a_copy_keeps_its_lots_whatever_the_book_tells_of_the_last_growth(
    make: Make, mode: str
) -> None:
    """The growth was reduced again before it could be copied: the one copy stands for all of the position."""
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1, volume="0.30"))
    follower.look()
    follower.lose_ledger()
    grown = replace(trade, increase=Increase(D("0.20"), D("1.1"), 0, follower.server_ms()))
    follower.sends_book(grown)
    follower.passes(20)
    assert (lots(follower), len(entries(follower))) == (0.3, 1)
    follower.master_closes(trade, "0.10")
    follower.passes(3)
    assert lots(follower) == 0.1


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_after_the_ledger_was_lost_a_later_leg_alone_is_followed_like_any_other(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.30")
    follower.look()
    trade = follower.master_closes(trade, "0.30")
    follower.passes(3)
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(20)
    assert lots(follower) == 0.3
    trade = follower.master_closes(trade, "0.10")
    follower.passes(3)
    assert lots(follower) == 0.1
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_after_the_ledger_was_lost_the_copy_of_a_trade_that_has_turned_round_is_closed(make: Make, mode: str) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    follower.kill()
    follower.clock.now += 20
    turned = replace(trade, action=Action.SELL, increase=Increase(D("0.10"), D("1.1"), 0, follower.server_ms()))
    follower.lose_ledger()
    follower.sends_book(turned)
    follower.passes(20)
    assert follower.positions == []
    assert len(entries(follower)) == 2, "and the other side, which is older than this ledger, is not opened"


def test_after_the_ledger_was_lost_what_does_not_add_up_is_the_followers_and_nothing_is_doubled(
    follower: Follower,
) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    by_hand(follower, 0.5)
    follower.look()
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(70)
    follower.master_closes(trade)
    follower.passes(20)
    assert lots(follower) == 0.6
    assert len(entries(follower)) == 1


def test_after_the_ledger_was_lost_nothing_is_decided_before_the_masters_book_is_known(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.lose_ledger()
    follower.passes(30)
    follower.sends_book()
    follower.passes(3)
    assert follower.state(1) == "open"
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


@pytest.mark.parametrize("filled", [False, True])
def test_after_the_ledger_was_lost_a_pending_order_that_stands_is_still_followed(
    follower: Follower, filled: bool
) -> None:
    follower.master_opens(position(1, volume="0.30"))
    trade = follower.master_opens(order(7))
    follower.look(4)
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(20)
    assert (follower.state(1), follower.state(7, Kind.ORDER)) == ("open", "open")
    if filled:
        follower.falls_to(1.09)
        ticks(follower, 3)
        assert lots(follower) == 0.4
    follower.master_closes(trade)
    ticks(follower, 3)
    assert (lots(follower), follower.orders) == (0.3, [])
    assert follower.copier._stock.foreign == {}


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_an_open_that_was_under_way_when_the_ledger_was_lost_is_a_copy_when_it_has_filled(
    make: Make, mode: str
) -> None:
    names = SymbolNames({"EUR/USD": "EURUSD"})
    follower = make(account={"margin_mode": mode}, limits=LIMITS, names=names)
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=8)
    trade = follower.master_opens(position(1, symbol="EUR/USD"))
    follower.look()
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(3)
    assert follower.state(1) == "skipped"
    ticks(follower, 10)
    assert (follower.state(1), lots(follower)) == ("open", 0.1)
    follower.master_closes(trade, "0.04")
    ticks(follower, 3)
    assert lots(follower) == 0.04
    follower.master_closes(trade)
    ticks(follower, 3)
    assert (lots(follower), len(entries(follower))) == (0, 3)


@pytest.mark.parametrize("mode", ["netting", "hedging"])
@pytest.mark.parametrize("comments", [16, 0])
@pytest.mark.parametrize("before", ["filled and closed by hand", "removed by hand", "none"])
def test_after_the_ledger_was_lost_a_pending_order_that_was_copied_is_not_entered_when_the_masters_fills(
    make: Make, mode: str, comments: int, before: str
) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    follower.broker_keeps_of_comments(comments)
    trade = follower.master_opens(order(7))
    if before != "none":
        follower.look()
    if before == "removed by hand":
        follower.mt5.sim_order_by_hand(action=8, order=follower.orders[0].ticket)
    elif before != "none":
        follower.falls_to(1.09)
        ticks(follower, 2)
        follower.mt5.sim_close_by_hand(follower.positions[0].ticket)
        follower.look()
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(20)
    assert follower.state(7, Kind.ORDER) == "skipped"
    follower.falls_to(1.09)
    follower.mt5.inject("history_orders_get", "none", times=2)
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.look(2)
    assert follower.positions == [], "while the history does not answer"
    ticks(follower, 3)
    assert len(follower.positions) == (1 if before == "none" else 0)
    if before != "none":
        assert follower.copy(7).reason == "older_than_ledger"  # type: ignore[union-attr]


def test_what_another_copier_opens_while_the_server_is_not_heard_is_not_the_followers(follower: Follower) -> None:
    first = follower.master_opens(position(1, volume="0.30"))
    follower.look()
    follower.disconnects()
    follower.look()
    second = position(2, "SELL", "0.10")
    by_hand(follower, 0.1, side=1, magic=MAGIC, comment=tag_of(("master_user", Kind.POSITION, 2, 0)))
    follower.passes(20)
    assert (follower.state(1), follower.copy(1).current) == ("open", D("0.30"))  # type: ignore[union-attr]
    follower.sends_book(replace(second, opened_at=follower.server_ms()))
    follower.look()
    assert (lots(follower), follower.copy(1).current) == (0.2, D("0.30")), (  # type: ignore[union-attr]
        "nothing is concluded in a look that has not asked the history"
    )
    follower.passes(1)
    assert (follower.state(1), follower.state(2)) == ("open", "open")
    follower.master_closes(second)
    follower.passes(3)
    assert lots(follower) == 0.3
    follower.master_closes(first)
    follower.passes(3)
    assert (lots(follower), follower.copier._stock.foreign) == (0, {})


def test_after_the_ledger_was_lost_nothing_is_skipped_while_the_history_cannot_be_read(follower: Follower) -> None:
    """What was opened with that ledger is then known with all its legs, and not only with those that are told now."""
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20")
    follower.look()
    trade = grows(follower, trade, "0.30")
    follower.look()
    follower.lose_ledger()
    follower.mt5.inject("history_deals_get", "none", times=None)
    follower.sends_book()
    follower.passes(20)
    assert follower.events().count("skipped") == 0
    follower.mt5.sim_clear_faults()
    follower.passes(3)
    assert follower.state(1) == "open"
    follower.master_closes(trade, "0.30")
    follower.passes(3)
    assert lots(follower) == 0.3


def test_a_copy_that_was_skipped_and_is_there_all_the_same_keeps_its_lots(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=8)
    trade = follower.master_opens(position(1))
    follower.look()
    follower.lose_ledger()
    follower.sends_book()
    ticks(follower, 12)
    assert (follower.state(1), lots(follower)) == ("open", 0.1)
    grows(follower, trade, "0.20")
    follower.passes(3)
    assert lots(follower) == 0.3, "several legs now: what the first should have is what it had"


def test_a_position_that_the_last_order_began_is_not_gone_because_a_reading_lacks_it(follower: Follower) -> None:
    """The copies stood against each other, so that the position they were in has ended; its deals add up to nothing."""
    follower.master_opens(position(1, volume="0.24"))
    short = follower.master_opens(position(2, "SELL", "0.24"))
    follower.look(4)
    assert follower.positions == []
    follower.master_closes(short, "0.23")
    follower.passes(2)
    assert lots(follower) == 0.01
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.passes(10)
    assert (follower.state(1), follower.state(2)) == ("open", "open")
    follower.mt5.sim_clear_faults()
    follower.passes(2)
    follower.master_closes(short)
    follower.passes(3)
    assert (follower.state(1), lots(follower)) == ("open", 0.24)


def test_a_position_that_the_last_order_began_is_known_to_be_closed_by_its_deals(follower: Follower) -> None:
    follower.master_opens(position(1, volume="0.24"))
    short = follower.master_opens(position(2, "SELL", "0.24"))
    follower.look(4)
    follower.master_closes(short, "0.23")
    follower.passes(2)
    by_hand(follower, 0.01, side=1)
    follower.passes(2)
    assert (follower.state(1), follower.state(2)) == ("closed_by_client", "closed_by_client")


def test_patience_with_the_lots_is_not_spent_on_an_order_that_is_looked_for(follower: Follower) -> None:
    follower.master_opens(position(1, volume="0.30"))
    follower.look()
    follower.mt5.inject("order_send", "none_not_executed")
    follower.master_opens(order(7))
    follower.passes(10)
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.passes(14)
    assert follower.state(1) == "open"
    follower.passes(3)
    assert follower.state(1) == "closed_by_client", "as promised: after 15 s of good readings without it"


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_legs_that_were_skipped_and_legs_that_nobody_told_of_are_taken_up_together(make: Make, mode: str) -> None:
    """The account showed nothing when the new ledger began, and the book tells of the last growth only."""
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    for by in ("0.20", "0.30"):
        trade = grows(follower, trade, by)
        follower.look()
    follower.lose_ledger()
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.sends_book()
    follower.passes(3)
    follower.mt5.sim_clear_faults()
    follower.passes(20)
    assert (lots(follower), len(entries(follower))) == (0.6, 3)
    trade = follower.master_closes(trade, "0.30")
    follower.passes(3)
    assert lots(follower) == 0.3
    follower.master_closes(trade)
    follower.passes(3)
    assert lots(follower) == 0


def test_a_growth_that_the_broker_refused_and_executed_leaves_the_other_legs_alone(make: Make) -> None:
    follower = make(limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "retcode_after_fill", retcode=10004)
    trade = grows(follower, trade, "0.20")
    follower.look(1)
    follower.passes(5)
    assert (lots(follower), len(entries(follower))) == (0.3, 2)
    follower.master_closes(trade)
    follower.passes(3)
    assert lots(follower) == 0


def test_a_leg_that_nobody_told_of_beside_a_copy_that_is_known_is_told_and_left_alone(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Another copier's, of a growth that has gone again: nothing tells what of the master's lots it stands for."""
    follower = make(limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    by_hand(follower, 0.2, magic=MAGIC, comment=tag_of(("master_user", Kind.POSITION, 1, 2)))
    follower.passes(3)
    assert (lots(follower), follower.state(1)) == (0.3, "open")
    assert "belongs to no trade that this copier knows" in caplog.text
    follower.master_closes(trade)
    follower.passes(3)
    assert lots(follower) == 0.2


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_what_legs_below_the_minimum_leave_over_is_not_taken_away_again_while_they_are_undecided(
    make: Make, mode: str
) -> None:
    half = Sizing(Mode.MULTIPLIER, D(0), D("0.5"))
    follower = make(account={"margin_mode": mode}, limits=LIMITS, sizing=half)
    trade = follower.master_opens(position(1, volume="0.01"))
    follower.passes(2)
    for expected in (0.01, 0.01, 0.02, 0.02, 0.03):
        trade = grows(follower, trade, "0.01")
        follower.passes(2)
        assert lots(follower) == expected
    follower.passes(70)
    assert (lots(follower), len(entries(follower))) == (0.03, 3), "nor when they are skipped for their age"
    follower.master_closes(trade, "0.02")
    follower.passes(3)
    assert lots(follower) == 0.01


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_after_the_ledger_was_lost_an_order_whose_masters_has_filled_does_not_stand_for_ever(
    make: Make, mode: str
) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(order(7))
    follower.look()
    follower.lose_ledger()
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.sends_book()
    follower.passes(200)
    assert (follower.orders, follower.positions) == ([], [])


@pytest.mark.parametrize("mode", ["netting", "hedging"])
@pytest.mark.parametrize("market_growth", [True, False])
@pytest.mark.parametrize("unreadable", [True, False])
def test_after_the_ledger_was_lost_an_order_whose_masters_has_filled_takes_nothing_away_from_the_position(
    make: Make, mode: str, market_growth: bool, unreadable: bool
) -> None:
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    if market_growth:
        trade = grows(follower, trade, "0.20")
        follower.look()
    placed = follower.master_opens(order(7))
    follower.look()
    follower.disconnects()
    follower.lose_ledger()
    trade = grows(follower, trade, "0.10", order=7)
    follower.master_closes(placed)
    if unreadable:
        follower.mt5.inject("history_deals_get", "none", times=1)
    follower.sends_book()
    follower.passes(30)
    assert (lots(follower), follower.orders) == (0.3 if market_growth else 0.1, [])
    follower.master_closes(trade)
    follower.passes(30)
    assert (lots(follower), follower.orders) == (0, [])


@pytest.mark.parametrize("how", ["flatten", "heard before"])
def test_while_the_server_is_away_lots_with_an_unknown_tag_hold_up_no_close(follower: Follower, how: str) -> None:
    trade = follower.master_opens(position(1, volume="0.30"))
    follower.look()
    if how == "flatten":
        follower.disconnects()
        follower.look()
    by_hand(follower, 0.1, magic=MAGIC, comment=tag_of(("master_user", Kind.POSITION, 2, 0)))
    if how == "flatten":
        follower.passes(20)
        follower.copier.command("flatten")
    else:
        follower.master_closes(trade)
        follower.disconnects()
    follower.passes(30)
    assert lots(follower) == 0.1


def test_a_ledger_that_cannot_be_read_for_the_trace_of_an_order_holds_up_no_close(make: Make) -> None:
    follower = make(limits=LIMITS)
    follower.broker_keeps_of_comments(0)
    placed = follower.master_opens(order(7))
    follower.look()
    follower.mt5.sim_order_by_hand(action=8, order=follower.orders[0].ticket)
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(3)
    trade = follower.master_opens(position(20))
    follower.look()
    assert len(follower.positions) == 1
    follower.falls_to(1.09)
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(placed)
    follower.master_closes(trade)

    def cannot(tag: str, ticket: int) -> None:
        raise LedgerError("cannot be read")

    follower.ledger.remembered = cannot  # type: ignore[method-assign, assignment]
    with suppress(LedgerError):
        follower.passes(3)
    assert follower.positions == []


@pytest.mark.parametrize("mode", ["netting", "hedging"])
def test_an_order_that_filled_does_not_take_the_place_of_a_copy_that_is_known(make: Make, mode: str) -> None:
    """The leg that the master's order became has been copied at market already: neither is forgotten."""
    follower = make(account={"margin_mode": mode}, limits=LIMITS)
    trade = follower.master_opens(position(1))
    follower.look()
    trade = grows(follower, trade, "0.20", order=7)
    follower.look()
    placed = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    ticks(follower, 2)
    assert lots(follower) == 0.4
    follower.master_closes(placed)
    follower.passes(3)
    assert {copy.current for copy in follower.ledger.copies.values() if copy.state is State.OPEN} == {
        D("0.1"),
        D("0.2"),
    }
    follower.master_closes(trade)
    follower.passes(5)
    assert lots(follower) == 0


def test_what_a_leg_has_left_over_goes_with_its_masters_lots(make: Make) -> None:
    """Legs below the client's minimum were copied with the next one; then the first of them is closed."""
    half = Sizing(Mode.MULTIPLIER, D(0), D("0.5"))
    follower = make(limits=LIMITS, sizing=half, market={"EURUSD": {"volume_min": 0.1, "volume_step": 0.1}})
    trade = follower.master_opens(position(1, volume="0.16"))
    follower.passes(2)
    trade = grows(follower, trade, "0.17")
    follower.passes(2)
    assert lots(follower) == 0.1
    trade = follower.master_closes(trade, "0.12")
    follower.passes(2)
    grows(follower, trade, "0.07")
    follower.passes(3)
    assert lots(follower) == 0.1, "half of 0.19"


def test_an_order_that_this_ledger_has_placed_is_no_trace_of_one_that_was_lost(follower: Follower) -> None:
    follower.broker_keeps_of_comments(0)
    trade = follower.master_opens(order(7))
    follower.lose_ledger()
    follower.sends_book()
    follower.look()
    follower.master_opens(order(8, price="1.08"))
    follower.look()
    assert (follower.state(7, Kind.ORDER), follower.state(8, Kind.ORDER)) == ("skipped", "open")
    follower.falls_to(1.09)
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.look()
    assert follower.state(7) == "open"


# --- a ledger that cannot be written ---------------------------------------------------------------------------------


@contextmanager
def full_disk(follower: Follower) -> Iterator[None]:
    follower.ledger._db.execute("PRAGMA query_only = 1")
    yield
    follower.ledger._db.execute("PRAGMA query_only = 0")


def goes_on(follower: Follower, looks: int) -> None:
    for _ in range(looks):
        follower.clock.now += 1
        try:
            follower.look(1)
        except LedgerError:
            continue


def test_on_a_full_disk_closes_go_once_and_nothing_is_opened(follower: Follower) -> None:
    trades = [follower.master_opens(position(1)), follower.master_opens(position(2, volume="0.20"))]
    kept = follower.master_opens(position(3, "SELL", "0.40"))
    follower.look(5)
    with full_disk(follower):
        for trade in trades:
            follower.master_closes(trade)
        follower.master_opens(position(4))
        goes_on(follower, 20)
        assert lots(follower) == -0.4
        assert len(entries(follower)) == 5
    goes_on(follower, 4)
    assert (follower.state(1), follower.state(2), follower.state(3)) == ("closed", "closed", "open")
    follower.restart()
    follower.sends_book()
    follower.master_closes(kept)
    follower.passes(20)
    assert lots(follower) in (0.0, 0.1)  # the fourth was young enough when there was room again
    assert follower.events().count("closed") == 3


def test_on_a_full_disk_a_part_is_not_closed_because_that_could_be_done_twice(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    with full_disk(follower):
        follower.master_closes(trade, "0.05")
        goes_on(follower, 10)
        assert lots(follower) == 0.1
    goes_on(follower, 4)
    assert lots(follower) == 0.05


def test_a_copier_that_died_on_a_full_disk_after_its_closes_opens_and_closes_nothing(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    kept = follower.master_opens(position(2, "SELL", "0.40"))
    follower.look(4)
    with full_disk(follower):
        follower.master_closes(trade)
        goes_on(follower, 3)
    follower.restart()
    follower.sends_book()
    follower.passes(20)
    assert lots(follower) == -0.4
    follower.master_closes(kept)
    follower.passes(5)
    assert lots(follower) == 0.0
    assert len(entries(follower)) == 4


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_life_on_a_netting_account_is_told_line_by_line(follower: Follower, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        trade = follower.master_opens(position(1))
        follower.look()
        trade = follower.master_closes(trade, "0.05")
        follower.passes(2)
        follower.master_closes(trade)
        follower.passes(2)
    assert follower.events() == ["opened", "reduced", "closed"]
    for words in ("opened BUY 0.1 EURUSD", "reduction to 0.05 lots of", "close of BUY 0.1 EURUSD", "closed BUY 0.1"):
        assert any(words in line for line in caplog.messages), words


# --- between the look and the order ----------------------------------------------------------------------------------


def test_a_close_opens_nothing_when_a_stop_at_the_client_was_first(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.09000")))
    follower.look()
    watched = follower.watch()
    send = watched._mt5.order_send

    def later(request: dict[str, Any]) -> Any:
        follower.falls_to(1.0899)
        return send(request)

    watched.order_send = later  # type: ignore[method-assign]
    follower.master_closes(trade)
    follower.look()
    follower.ticks(20)
    assert lots(follower) == 0
    assert follower.state(1) in ("closed", "closed_by_client")


def test_what_the_follower_buys_while_an_open_has_no_answer_is_his(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_not_executed")
    trade = follower.master_opens(position(1))
    follower.look()
    follower.clock.now += 1
    by_hand(follower, 0.1)
    follower.ticks(25)
    follower.master_closes(trade)
    follower.ticks(20)
    assert lots(follower) == 0.1
    assert follower.state(1) == "unknown"


def test_a_history_that_cannot_be_read_is_no_good_reading_of_an_empty_account(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("history_deals_get", "none", times=None)
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.passes(30)
    assert follower.state(1) == "open"
    follower.mt5.sim_clear_faults()
    follower.passes(3)
    assert (follower.state(1), lots(follower), follower.opened()) == ("open", 0.1, 1)
