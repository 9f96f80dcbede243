"""The copier on a simulated account: what it opens, follows, closes, refuses, and what it never does twice."""

from __future__ import annotations

import logging
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from follower import MAGIC, Follower, order, position

from ledger import LedgerError
from safety import Copying, Limits, Mode, Sizing
from signals import Action, Kind, Source

# --- copying ---------------------------------------------------------------------------------------------------------


def test_a_trade_of_the_master_is_opened_with_its_stops_and_reported(follower: Follower) -> None:
    follower.master_opens(position(1, sl=D("1.08"), tp=D("1.12")))
    follower.look()
    (copy,) = follower.positions
    assert (copy.volume, copy.type, copy.sl, copy.tp, copy.magic) == (0.1, 0, 1.08, 1.12, MAGIC)
    assert len(copy.comment) <= 16
    assert follower.state(1) == "open"
    (report,) = follower.reports()
    assert report["event"] == "opened"
    assert report["client_ticket"] == copy.ticket


def test_29_hundredths_of_a_lot_stay_29_hundredths(follower: Follower) -> None:
    follower.master_opens(position(1, volume="0.29"))
    follower.look()
    assert follower.volumes == [0.29]


def test_a_fixed_lot_is_the_same_for_every_trade(make: Any) -> None:
    follower = make(sizing=Sizing(Mode.FIX, D("0.03"), D(1)))
    follower.master_opens(position(1, volume="1.00"))
    follower.master_opens(position(2, "SELL", volume="0.01"))
    follower.look()
    assert follower.volumes == [0.03, 0.03]


def test_a_stop_that_the_master_moves_is_moved(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.08"), tp=D("1.12")))
    follower.look()
    follower.master_modifies(trade, sl=D("1.09"), tp=D(0))
    follower.look()
    (copy,) = follower.positions
    assert (copy.sl, copy.tp) == (1.09, 0.0)


def test_a_stop_between_two_ticks_of_the_clients_symbol_goes_to_the_nearest(make: Any) -> None:
    follower = make(limits=Limits(50, 100, 5, D(10), D(10), 60))
    follower.mt5.sim_symbol("EURUSD", trade_tick_size=0.0005)
    follower.mt5.sim_set_quote("EURUSD", 1.1, 1.1005)
    follower.master_opens(position(1, sl=D("1.08012"), price=D("1.1005")))
    follower.look()
    (copy,) = follower.positions
    assert copy.sl == pytest.approx(1.0800)
    assert follower.events() == ["opened"]  # and it is not modified for ever


def test_a_partial_close_is_followed_in_proportion(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    follower.master_closes(trade, "0.20")
    follower.look()
    assert follower.volumes == [0.2]
    assert follower.events() == ["opened", "reduced"]


def test_a_second_partial_close_is_not_lost(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    trade = follower.master_closes(trade, "0.30")
    follower.look()
    follower.master_closes(trade, "0.10")
    follower.passes(1)
    assert follower.volumes == [0.1]


def test_ten_partial_closes_of_a_tenth_each_end_flat_and_never_more_than_a_step_off(make: Any) -> None:
    follower = make(sizing=Sizing(Mode.MULTIPLIER, D(0), D("0.1")))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    assert follower.volumes == [0.1]
    for tenths in range(9, 0, -1):
        trade = follower.master_closes(trade, f"0.{tenths}0")
        follower.passes(2)
        assert abs(follower.volumes[0] - tenths / 100) < 0.0100001
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.volumes == []


def test_a_small_partial_close_never_closes_a_whole_fixed_lot(make: Any) -> None:
    follower = make(sizing=Sizing(Mode.FIX, D("0.01"), D(1)))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    follower.master_closes(trade, "0.90")
    follower.passes(2)
    assert follower.volumes == [0.01]


def test_a_close_of_the_master_closes_the_copy(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []
    assert follower.state(1) == "closed"
    assert follower.events() == ["opened", "closed"]


def test_a_pending_order_is_placed_moved_and_cancelled(follower: Follower) -> None:
    trade = follower.master_opens(order(7, sl=D("1.08")))
    follower.look()
    (pending,) = follower.orders
    assert (pending.type, pending.price_open, pending.sl, pending.volume_current) == (2, 1.09, 1.08, 0.1)
    trade = follower.master_modifies(trade, price=D("1.091"))
    follower.look()
    assert follower.orders[0].price_open == 1.091
    follower.master_closes(trade)
    follower.look()
    assert follower.orders == []
    assert follower.opened() == 0
    assert follower.events() == ["opened", "modified", "cancelled"]


def test_an_expiration_is_translated_to_the_clock_of_the_clients_broker(follower: Follower) -> None:
    in_an_hour = int(follower.clock.time()) + 3600
    follower.master_opens(order(7, expiration=in_an_hour * 1000))
    follower.look()
    assert follower.orders[0].time_expiration == in_an_hour + 3 * 3600  # the simulated broker is at UTC+3
    follower.passes(3)
    assert follower.events() == ["opened"]  # not moved for ever


# --- pending orders that fill -----------------------------------------------------------------------------------------


def test_a_pending_order_that_filled_on_both_sides_is_one_position(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.look(5)
    follower.passes(20)
    assert len(follower.positions) == 1
    assert follower.opened() == 1
    assert follower.state(7) == "open"
    assert follower.state(7, Kind.ORDER) == "closed"
    follower.master_closes(position(7, price=D("1.09")))
    follower.look()
    assert follower.positions == []


def test_a_pending_order_that_filled_at_the_master_only_is_taken_back_and_opened_at_market(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.mt5.sim_set_quote("EURUSD", 1.08995, 1.09005)  # half a pip short at this broker
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.look(6)
    assert follower.orders == []
    assert len(follower.positions) == 1
    assert follower.opened() == 1
    follower.falls_to(1.085)
    follower.passes(3)
    assert follower.opened() == 1


def test_a_pending_order_that_filled_at_the_client_only_is_closed_when_the_master_cancels(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    follower.look()
    assert len(follower.positions) == 1
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []
    assert follower.orders == []


def test_a_pending_order_that_filled_first_at_the_client_waits_for_the_master(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    follower.passes(5)
    assert len(follower.positions) == 1
    follower.master_opens(position(7, price=D("1.09")))
    follower.look()
    follower.master_closes(trade)
    follower.look(4)
    assert len(follower.positions) == 1
    assert follower.opened() == 1
    assert follower.state(7) == "open"


def test_a_filled_pending_order_is_not_closed_because_the_message_of_its_masters_fill_is_missing(
    follower: Follower,
) -> None:
    trade = follower.master_opens(order(7))
    other = follower.master_opens(order(8, price="1.05"))
    follower.look()
    follower.falls_to(1.09)
    follower.look()
    follower.server_seq += 1  # one message is lost, then: the fill of the order 7, and that it and the other have gone
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.master_closes(other)
    follower.look()
    assert (len(follower.positions), follower.orders) == (1, [])
    follower.sends_book()
    follower.look(5)
    assert (len(follower.positions), follower.opened(), follower.state(7)) == (1, 1, "open")


def test_a_filled_pending_order_is_closed_when_the_book_shows_that_its_master_has_cancelled(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    follower.look()
    follower.server_seq += 1
    follower.master_closes(trade)
    follower.look()
    assert len(follower.positions) == 1, "a message is missing: he may have filled"
    follower.sends_book()
    follower.look(5)
    assert follower.positions == []


def test_a_pending_order_that_the_follower_deleted_is_not_entered_when_the_master_fills(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.mt5.sim_order_by_hand(action=8, order=follower.orders[0].ticket)
    follower.look()
    assert follower.state(7, Kind.ORDER) == "closed_by_client"
    follower.master_opens(position(7))
    follower.master_closes(trade)
    follower.look(4)
    assert follower.positions == []
    assert follower.state(7) == "skipped"
    assert follower.copy(7).reason == "closed_by_client"  # type: ignore[union-attr]


# --- what the follower does himself -----------------------------------------------------------------------------------


def test_a_trade_that_the_follower_closed_by_hand_stays_closed(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.sim_close_by_hand(follower.positions[0].ticket)
    follower.look()
    assert follower.state(1) == "closed_by_client"
    follower.passes(30)
    follower.restart()
    follower.sends_book()
    follower.look()
    assert follower.opened() == 1
    follower.master_closes(trade)  # a no-op
    follower.look()
    assert follower.opened() == 1


def test_a_stop_loss_at_the_client_is_reported_and_not_opened_again(follower: Follower) -> None:
    follower.master_opens(position(1, sl=D("1.095")))
    follower.look()
    follower.mt5.sim_set_quote("EURUSD", 1.0940, 1.0941)
    follower.sim.tick()
    follower.passes(5)
    assert follower.opened() == 1
    assert follower.positions == []
    assert "stop loss" in follower.copy(1).detail  # type: ignore[union-attr]


def test_positions_with_another_magic_are_never_touched(follower: Follower) -> None:
    for magic in (0, 5):
        follower.mt5.sim_order_by_hand(
            action=1, symbol="EURUSD", volume=0.5, type=0, price=1.1001, magic=magic, type_filling=1
        )
    trade = follower.master_opens(position(1))
    follower.look()
    follower.master_closes(trade)
    follower.restart(copying=Copying.FLATTEN)
    follower.sends_book()
    follower.passes(20)
    assert follower.volumes == [0.5, 0.5]


def test_a_position_with_our_magic_that_nobody_knows_is_reported_and_not_touched(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    follower.mt5.sim_order_by_hand(
        action=1, symbol="EURUSD", volume=0.5, type=0, price=1.1001, magic=MAGIC, type_filling=1
    )
    follower.passes(20)
    assert follower.volumes == [0.5]
    assert sum("belongs to no trade" in line for line in caplog.messages) == 1


# --- readings that failed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["none", "disconnected", "stale_empty", "other_login"])
@pytest.mark.parametrize("function", ["positions_get", "account_info", "terminal_info", "orders_get"])
def test_a_reading_that_failed_closes_and_opens_nothing(follower: Follower, outcome: str, function: str) -> None:
    follower.master_opens(position(1))
    follower.look()
    try:
        follower.mt5.inject(function, outcome, times=None)
    except ValueError:
        pytest.skip("this function does not fail in this way")
    follower.passes(12)
    follower.mt5.sim_clear_faults()
    follower.passes(3)
    assert follower.volumes == [0.1]
    assert follower.opened() == 1
    assert follower.state(1) == "open"


def test_the_patience_for_a_missing_position_begins_anew_after_an_unreadable_moment(follower: Follower) -> None:
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


def test_nothing_is_opened_while_a_reading_contradicts_the_ledger(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.master_opens(position(2))
    follower.passes(5)
    assert follower.opened() == 1
    follower.mt5.sim_clear_faults()
    follower.passes(1)
    assert follower.opened() == 2


# --- orders whose outcome is not known --------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["timeout_after_fill", "none_after_fill"])
def test_an_order_that_filled_although_it_timed_out_is_adopted_and_not_sent_again(
    follower: Follower, outcome: str
) -> None:
    follower.mt5.inject("order_send", outcome)
    follower.master_opens(position(1))
    follower.passes(70)
    assert follower.opened() == 1
    assert follower.state(1) == "open"


@pytest.mark.parametrize("outcome", ["timeout_not_executed", "none_not_executed"])
def test_an_order_that_left_no_trace_is_given_up_and_not_sent_again(follower: Follower, outcome: str) -> None:
    follower.mt5.inject("order_send", outcome)
    follower.master_opens(position(1))
    follower.passes(70)
    assert follower.opened() == 0
    assert follower.state(1) == "unknown"
    assert follower.events() == ["unknown"]


def test_an_order_that_fills_late_is_adopted(follower: Follower) -> None:
    follower.mt5.inject("order_send", "placed_late_fill", seconds=8)
    follower.master_opens(position(1))
    for _ in range(20):
        follower.sim.tick()
        follower.passes(1)
    assert follower.opened() == 1
    assert follower.state(1) == "open"


def test_an_order_that_fills_after_it_was_given_up_is_closed_when_the_master_has_closed(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=25)
    trade = follower.master_opens(position(1))
    follower.passes(18)
    assert follower.state(1) == "unknown"
    follower.master_closes(trade)
    for _ in range(15):
        follower.sim.tick()
        follower.passes(1)
    assert follower.opened() == 1
    assert follower.positions == []


def test_an_unknown_order_is_found_although_the_broker_replaced_its_comment(follower: Follower) -> None:
    object.__setattr__(follower.broker.settings, "comment_length", 0)
    follower.mt5.inject("order_send", "none_after_fill")
    follower.master_opens(position(1))
    follower.passes(20)
    assert follower.opened() == 1
    assert follower.state(1) == "open"


def test_no_order_that_could_be_mistaken_for_an_unresolved_one_is_sent(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_opens(position(1))
    follower.look()
    follower.master_opens(position(2))
    follower.master_opens(position(3, "SELL"))
    follower.passes(3)
    assert [p.type for p in follower.positions] == [1]
    follower.passes(20)
    assert sorted(p.type for p in follower.positions) == [0, 1]


def test_a_crash_between_the_intent_and_the_order_opens_nothing_later(follower: Follower) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    follower.terminal.open = killed  # type: ignore[method-assign]
    follower.master_opens(position(1))
    with pytest.raises(Killed):
        follower.look()
    follower.restart()
    follower.sends_book()
    follower.passes(70)
    assert follower.opened() == 0
    assert follower.state(1) == "unknown"


def test_a_crash_between_the_order_and_its_record_is_healed_by_the_account(follower: Follower) -> None:
    class Killed(BaseException):
        pass

    send = follower.terminal.open

    def killed(*args: Any, **more: Any) -> None:
        send(*args, **more)
        raise Killed

    follower.terminal.open = killed  # type: ignore[method-assign,assignment]
    follower.master_opens(position(1))
    with pytest.raises(Killed):
        follower.look()
    follower.restart()
    follower.sends_book()
    follower.passes(20)
    assert follower.opened() == 1
    assert follower.state(1) == "open"


@pytest.mark.parametrize("outcome", ["timeout_after_fill", "none_after_fill"])
def test_a_partial_close_of_unknown_outcome_is_not_done_twice(follower: Follower, outcome: str) -> None:
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    follower.mt5.inject("order_send", outcome)
    follower.master_closes(trade, "0.30")
    follower.passes(30)
    assert follower.volumes == [0.3]


def test_a_partial_close_that_left_no_trace_is_made_again(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_closes(trade, "0.30")
    follower.passes(10)
    assert follower.volumes == [0.5]
    follower.passes(15)
    assert follower.volumes == [0.3]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refused_open_is_looked_at_again_until_it_is_too_old(follower: Follower) -> None:
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1004)
    follower.master_opens(position(1, price=D("1.1004")))
    follower.passes(10)
    assert follower.events() == ["refused"]
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1001)
    follower.passes(1)
    assert follower.volumes == [0.1]


def test_a_trade_that_stays_refused_is_skipped_with_the_last_reason(follower: Follower) -> None:
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1004)
    follower.master_opens(position(1, price=D("1.1004")))
    follower.passes(62)
    assert follower.events() == ["refused", "skipped"]
    assert follower.copy(1).reason == "max_spread_points"  # type: ignore[union-attr]
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1001)
    follower.passes(5)
    assert follower.opened() == 0


def test_a_refusal_for_now_by_the_broker_is_tried_again(follower: Follower) -> None:
    follower.mt5.inject("order_send", "requote", times=2)
    follower.master_opens(position(1))
    follower.passes(5)
    assert follower.volumes == [0.1]
    assert follower.events() == ["refused", "opened"]


def test_a_refusal_for_good_is_not_tried_again(follower: Follower) -> None:
    follower.mt5.inject("order_send", "retcode", retcode=10019)
    follower.master_opens(position(1))
    follower.passes(5)
    assert follower.opened() == 0
    assert follower.state(1) == "failed"


@pytest.mark.parametrize("retcode", [10004, 10018, 10026, 10027, 10024, 10031, 10012, 10014, 10017, 10029])
def test_a_close_is_repeated_until_the_position_is_gone(follower: Follower, retcode: int) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "retcode", times=3, retcode=retcode)
    follower.master_closes(trade)
    follower.passes(60)
    assert follower.positions == []
    assert follower.state(1) == "closed"


@pytest.mark.parametrize("copying", [Copying.CLOSE_ONLY, Copying.PAUSED, Copying.FLATTEN])
def test_nothing_is_opened_unless_copying_is_on_and_closes_go_through(make: Any, copying: Copying) -> None:
    follower = make()
    trade = follower.master_opens(position(1))
    follower.look()
    follower.restart(copying=copying)
    follower.sends_book()
    follower.master_opens(position(2))
    follower.look()
    assert follower.opened() == 1
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []


def test_flatten_closes_everything_of_ours(make: Any) -> None:
    follower = make()
    follower.master_opens(position(1))
    follower.master_opens(order(7))
    follower.look()
    follower.sends_config(copying="flatten")
    follower.look(4)
    assert follower.positions == []
    assert follower.orders == []
    follower.sends_config(copying="on")
    follower.passes(5)
    assert follower.opened() == 1


def test_paused_also_keeps_stops_where_they_are_and_close_only_does_not(make: Any) -> None:
    follower = make()
    trade = follower.master_opens(position(1, sl=D("1.08")))
    follower.look()
    follower.sends_config(copying="paused")
    trade = follower.master_modifies(trade, sl=D("1.09"))
    follower.look()
    assert follower.positions[0].sl == 1.08
    follower.sends_config(copying="close_only")
    follower.look()
    assert follower.positions[0].sl == 1.09


def test_the_stricter_of_file_and_server_holds(make: Any) -> None:
    follower = make(limits=Limits(50, 20, 5, D(10), D(10), 60))
    follower.sends_config(trade_copy={"max_exposure_trades": 1, "max_spread_points": 1000, "mode": "fix"})
    follower.master_opens(position(1))
    follower.master_opens(position(2))
    follower.look()
    assert follower.opened() == 1
    assert follower.copier.rules().limits.max_spread_points == 20
    follower.restart(copying=Copying.PAUSED)
    follower.sends_book(config={"copying": "on"})
    follower.look()
    assert follower.copier.rules().copying is Copying.PAUSED


def test_nothing_is_opened_before_the_servers_settings_are_known(follower: Follower) -> None:
    follower.disconnects()
    follower.look()
    follower.sends_book(silent=True)
    follower.master_opens(position(1))
    follower.look()
    assert follower.opened() == 0
    follower.sends_config()
    follower.look()
    assert follower.opened() == 1


def test_exposure_counts_what_is_opened_in_the_same_moment(make: Any) -> None:
    follower = make(limits=Limits(50, 20, 2, D(10), D(10), 60))
    for ticket in (1, 2, 3, 4):
        follower.master_opens(position(ticket, volume=f"0.1{ticket}"))
    follower.look()
    assert len(follower.positions) == 2


def test_the_highest_equity_survives_a_restart(make: Any) -> None:
    follower = make(limits=Limits(50, 20, 5, D(10), D(5), 60))
    follower.mt5.sim_deposit(-600.0)
    follower.restart()
    follower.sends_book()
    follower.master_opens(position(1))
    follower.look()
    assert follower.opened() == 0
    assert follower.reports()[-1]["reason"] == "max_drawdown_percent"


def test_a_trade_is_never_opened_when_its_age_is_unknown_or_above_the_limit(follower: Follower) -> None:
    follower.master_opens(position(1, opened_at=follower.server_ms() - 61_000))
    trade = position(2)
    follower.book[trade.master, *trade.key] = trade
    follower._change("signal", trade)  # opened_at 0: the server does not know
    follower.look()
    assert follower.opened() == 0
    assert follower.state(1) == "skipped"


def test_a_jump_of_the_wall_clock_changes_nothing(follower: Follower) -> None:
    follower.clock.wall = -3600
    follower.look()  # asks for a fresh book, because the machine may have slept
    assert follower.link.syncs == 1
    follower.sends_book()
    follower.master_opens(position(1))
    follower.look()
    follower.clock.wall = 3600
    follower.look()
    follower.sends_book()
    follower.master_opens(position(2, opened_at=follower.server_ms() - 120_000))
    follower.master_opens(position(3))
    follower.look()
    assert follower.opened() == 2
    assert follower.state(2) == "skipped"


# --- connection, restart, loss ----------------------------------------------------------------------------------------


def test_nothing_is_opened_from_a_book_that_may_be_out_of_date(follower: Follower) -> None:
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1004)
    follower.master_opens(position(1, price=D("1.1004")))
    follower.look()
    follower.disconnects()
    follower.look()
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1001)
    follower.passes(5)
    assert follower.opened() == 0


def test_a_missing_message_is_noticed_and_the_whole_book_asked_for(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.inbox.get_nowait() if not follower.inbox.empty() else None
    follower.master_closes(trade)
    follower.inbox.get_nowait()  # this one is lost on the way
    follower.heartbeat()
    follower.look()
    assert follower.link.syncs == 1
    follower.sends_book()
    follower.look()
    assert follower.positions == []


def test_a_close_made_while_the_copier_was_down_is_carried_out_when_it_is_back(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.kill()
    follower.master_closes(trade)
    follower.start()
    follower.sends_book()
    follower.look()
    assert follower.positions == []
    assert follower.state(1) == "closed"


def test_a_server_that_lost_its_database_closes_nothing_until_the_master_has_reported(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.disconnects()
    follower.book.clear()
    follower.epoch, follower.server_seq = "epoch-2", 0
    follower.masters["master_user"] |= {"reported_at": None, "online": False}
    follower.sends_book()
    follower.passes(20)
    assert follower.volumes == [0.1]
    for reported_at in (5, 6):
        assert follower.volumes == [0.1]
        report = {"master": "master_user", "online": True, "reported_at": reported_at, "since": 5}
        follower.tell({"type": "master", "data": report})
        follower.passes(15)
    assert follower.positions == []


def test_a_server_restored_from_an_old_backup_closes_nothing_until_the_master_has_reported(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.disconnects()
    follower.book.clear()
    follower.server_seq = 0
    follower.sends_book()
    follower.passes(20)
    assert follower.volumes == [0.1]
    follower.restart()
    follower.sends_book()
    follower.passes(15)
    assert follower.volumes == [0.1]
    follower.masters["master_user"]["reported_at"] = 99
    follower.sends_book()
    follower.look()
    assert follower.positions == []


def test_a_trade_entered_by_hand_is_gone_when_the_same_database_no_longer_has_it(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    follower.masters["master_user"]["reported_at"] = None
    follower.sends_book()
    trade = follower.master_opens(position(8_000_000_000_000_001, source=Source.MANUAL))
    follower.look()
    assert follower.volumes == [0.1]
    follower.disconnects()
    follower.look()
    follower.master_closes(trade)
    follower.inbox.get_nowait()  # lost
    follower.sends_book()
    follower.look()
    assert follower.positions == []
    follower.ledger.close()


def test_what_is_older_than_the_place_of_another_copier_of_this_user_is_not_opened(follower: Follower) -> None:
    follower.disconnects()
    follower.clock.now += 1
    old, taken_over = position(1, opened_at=follower.server_ms()), follower.server_ms()
    follower.sends_book(old, silent=True)
    follower.look()
    assert follower.opened() == 0, "nothing before the settings say since when"
    follower.sends_config(copier_since=taken_over)
    follower.master_opens(position(2))
    follower.look()
    assert follower.opened() == 1
    assert (follower.state(1), follower.state(2)) == ("skipped", "open")
    assert follower.copy(1).reason == "another_copier"  # type: ignore[union-attr]
    follower.sends_config()
    follower.look()
    assert follower.state(1) == "skipped"


def test_a_new_ledger_opens_nothing_that_is_older_than_itself(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    follower.sends_book(position(1))
    follower.passes(5)
    assert follower.opened() == 0
    assert follower.copy(1).reason == "older_than_ledger"  # type: ignore[union-attr]
    follower.master_opens(position(2))
    follower.look()
    assert follower.opened() == 1
    follower.ledger.close()


def test_a_lost_ledger_adopts_what_the_account_shows_and_doubles_nothing(follower: Follower) -> None:
    first = follower.master_opens(position(1))
    follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.mt5.sim_close_by_hand(follower.positions[1].ticket)
    follower.look()
    follower.lose_ledger()
    follower.sends_book()
    follower.passes(70)
    assert follower.opened() == 2
    assert (follower.state(1), follower.state(2)) == ("open", "skipped")
    follower.master_closes(first)
    follower.look()
    assert follower.positions == []


def test_a_lost_ledger_doubles_nothing_even_when_the_account_reads_empty_at_first(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.lose_ledger()
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.sends_book()
    follower.passes(20)
    follower.mt5.sim_clear_faults()
    follower.passes(2)
    assert follower.opened() == 1
    assert follower.state(1) == "open"


def test_a_lost_ledger_and_a_lost_server_database_together_double_nothing(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.mt5.sim_close_by_hand(follower.positions[0].ticket)
    follower.look()
    follower.passes(10)
    follower.lose_ledger()
    follower.epoch = "epoch-2"
    follower.book.clear()
    follower.sends_book()
    follower.look()
    follower.master_opens(position(1, opened_at=follower.server_ms() - 10_000))
    follower.look()
    assert follower.opened() == 1


def test_after_a_sleep_the_book_is_asked_for_before_anything_is_opened(follower: Follower) -> None:
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1004)
    follower.master_opens(position(1, price=D("1.1004")))
    follower.look()
    follower.clock.now += 30
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1001)
    follower.look()
    assert follower.link.syncs == 1
    assert follower.opened() == 0
    follower.sends_book()
    follower.look()
    assert follower.opened() == 1


def test_two_copiers_that_would_fight_end_the_older_one(follower: Follower) -> None:
    from link import Lost

    follower.inbox.put(Lost("another copier", for_good=True))
    follower.look()
    assert follower.copier.ended == "another copier"


def test_closes_go_through_although_the_ledger_cannot_be_written(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.ledger._db.execute("PRAGMA query_only = ON")
    follower.master_closes(trade)
    follower.master_opens(position(2))
    for _ in range(4):
        try:
            follower.look(1)
        except LedgerError:
            caplog.set_level(logging.INFO)
    assert follower.positions == []
    assert follower.opened() == 1
    follower.ledger._db.execute("PRAGMA query_only = OFF")
    follower.passes(2)
    assert follower.state(1) == "closed"
    assert follower.opened() == 2


def test_a_message_that_cannot_be_understood_is_answered_with_a_sync_and_changes_nothing(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.tell({"type": "close", "seq": 2, "prev": 1, "server_time": 1, "data": {"ticket": "x", "remaining": 0}})
    follower.look()
    assert follower.link.syncs == 1
    assert follower.volumes == [0.1]


def test_symbols_that_the_broker_does_not_have_are_refused_by_name(follower: Follower) -> None:
    follower.master_opens(position(1, symbol="NOPE"))
    follower.look()
    assert follower.reports()[0]["reason"] == "symbol_unknown"
    assert "NOPE" in follower.reports()[0]["detail"]


def test_a_sell_is_a_sell(follower: Follower) -> None:
    follower.master_opens(position(1, "SELL"))
    follower.look()
    assert follower.positions[0].type == 1
    assert follower.copy(1).action is Action.SELL  # type: ignore[union-attr]


def test_an_open_of_unknown_outcome_counts_as_exposure(make: Any) -> None:
    follower = make(limits=Limits(50, 20, 1, D(10), D(10), 60))
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_opens(position(1))
    follower.look()
    follower.master_opens(position(2, "SELL"))
    follower.passes(5)
    assert follower.opened() == 0
    follower.passes(15)
    assert follower.opened() == 1


def test_trades_of_others_on_the_account_do_not_count_as_exposure(make: Any) -> None:
    follower = make(limits=Limits(50, 20, 1, D("0.1"), D(10), 60))
    follower.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.5, type=0, price=1.1001, magic=0, type_filling=1)
    follower.master_opens(position(1))
    follower.look()
    assert follower.opened() == 2


def test_a_trade_opened_by_hand_is_not_taken_for_an_order_of_unknown_outcome(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_opens(position(1))
    follower.look()
    follower.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.1, type=0, price=1.1001, magic=0, type_filling=1)
    follower.passes(20)
    assert follower.state(1) == "unknown"


def test_a_filled_pending_order_survives_a_lost_ledger(follower: Follower) -> None:
    trade = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    filled = follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(trade)
    follower.look(5)
    follower.lose_ledger()
    follower.sends_book()
    follower.look()
    assert follower.opened() == 1
    assert follower.state(7) == "open"
    follower.master_closes(filled)
    follower.look()
    assert follower.positions == []


def test_a_sleep_is_not_taken_for_good_readings(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.look()
    follower.clock.now += 30
    follower.look()
    assert follower.state(1) == "open"
    follower.passes(14)
    assert follower.state(1) == "open"


def test_the_status_line_begins_with_what_is_not_as_it_should_be(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    begins = "connected | master_user online | copying on | copies 1/5 | lots 0.1/10 | drawdown 0.0/10 % | equity "
    assert follower.copier.status().line.startswith(begins)
    follower.broker.change_account({"trade_expert": False})
    follower.look()
    assert follower.copier.status().line.startswith("connected | master_user online | ORDERS REFUSED | copying on")
    follower.disconnects()
    follower.look()
    line = follower.copier.status().line
    assert line.startswith("NOT CONNECTED | ORDERS REFUSED"), "who is online is not known then"


def test_a_drawdown_beyond_the_limit_stands_out_in_the_status_line(follower: Follower) -> None:
    follower.look()
    assert " | drawdown 0.0/10 % | " in follower.copier.status().line
    follower.ledger.set(highest_equity="20000")
    follower.restart()
    follower.sends_book()
    follower.look()
    assert " | DRAWDOWN 50.0/10 % | " in follower.copier.status().line


@pytest.mark.parametrize("flatten", [False, True], ids=["the master closed", "flatten"])
def test_what_the_copier_closed_is_not_told_as_closed_by_a_program(follower: Follower, flatten: bool) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    if flatten:
        follower.copier.command("flatten")
    else:
        follower.master_closes(trade)
    follower.passes(2)
    (closed,) = [report for report in follower.reports() if report["event"] == "closed"]
    assert closed["detail"].startswith("closed by flatten at" if flatten else "closed because the master closed at")


def test_settings_of_the_server_that_cannot_be_understood_stop_opening_only(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.sends_config(copying="no_such_state")
    follower.look()
    assert follower.link.syncs == 1
    follower.master_opens(position(2))
    follower.master_closes(trade)
    follower.sends_book(silent=True)
    follower.look()
    assert follower.positions == []
    assert follower.opened() == 1


def test_a_restored_server_database_is_remembered_over_a_restart_of_the_copier(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.book.clear()
    follower.server_seq = 0
    follower.sends_book()
    follower.look()
    follower.restart()
    follower.sends_book()
    follower.look()
    assert follower.volumes == [0.1]
