"""Traps on the way from the book to the account: each of these once doubled an entry, held up a close, closed what
should have stayed or opened from what was no longer true.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest
from follower import MAGIC, Follower, Make, order, position, tag_of

import sim_types as t
from copies import Copy, State
from ledger import LedgerError
from safety import Copying, Limits, Mode, Sizing
from signals import Action, Kind, Trade


def before_recording(follower: Follower, act: Callable[[tuple[Copy, ...]], None]) -> None:
    """`act` sees what is to be written to the ledger, first; what it raises is the ledger's answer."""
    record = follower.ledger.record

    def told(*copies: Copy, **more: Any) -> None:
        act(copies)
        record(*copies, **more)

    follower.ledger.record = told  # type: ignore[method-assign]


def goes_on(follower: Follower, looks: int) -> None:
    """What the program does when the ledger cannot be written: it looks again a second later."""
    for _ in range(looks):
        follower.clock.now += 1
        try:
            follower.look(1)
        except LedgerError:
            continue


def nothing() -> None: ...


def around_opens(
    follower: Follower, *, before: Callable[[], None] = nothing, after: Callable[[], None] = nothing
) -> None:
    """Something happens before or after each order to open, while the copier waits for the answer."""
    send = follower.terminal.open

    def slow(*args: Any, **more: Any) -> Any:
        before()
        outcome = send(*args, **more)
        after()
        return outcome

    follower.terminal.open = slow  # type: ignore[method-assign]


# --- what concerns one trade does not hold up the closes of others ----------------------------------------------------


def test_a_symbol_that_cannot_be_selected_holds_up_no_close_of_another(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("symbol_select", "none", times=None)
    follower.master_opens(position(2, symbol="BTCUSD"))
    follower.master_closes(trade)
    follower.look(1)
    assert follower.positions == []


def test_a_symbol_that_the_terminal_does_not_answer_about_holds_up_no_close_of_another(follower: Follower) -> None:
    follower.mt5.sim_set_quote("GBPUSD", 1.3000, 1.3001)
    follower.master_opens(position(2, symbol="GBPUSD", price=D("1.3001")))
    trade = follower.master_opens(position(1))
    follower.look()
    assert len(follower.positions) == 2
    follower.mt5.inject("symbol_info", "none", times=None, where={"symbol": "GBPUSD"})
    follower.master_closes(trade)
    follower.look(1)
    assert [p.symbol for p in follower.positions] == ["GBPUSD"]


def test_a_history_that_cannot_be_read_holds_up_no_close(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.master_opens(position(2, "SELL"))
    follower.look()
    for function in ("history_deals_get", "history_orders_get"):
        follower.mt5.inject(function, "none", times=None)
    follower.mt5.sim_close_by_hand(follower.positions[1].ticket)
    follower.master_closes(trade)
    follower.look(1)
    assert follower.positions == []
    follower.passes(60)
    assert follower.state(2) == "open", "no deal shows why it is gone, and no look was a good one"


@pytest.mark.parametrize(
    "fields",
    [{"volume_step": 0.0}, {"point": 0.0, "trade_tick_size": 0.0}, {"point": 1e-11, "trade_tick_size": 1e-11}],
    ids=str,
)
def test_a_symbol_that_is_not_filled_in_yet_is_no_defect_and_holds_up_no_close(
    follower: Follower, fields: dict[str, float]
) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    watched = follower.watch()
    watched.altered["GBPUSD"] = fields
    follower.mt5.sim_set_quote("GBPUSD", 1.3000, 1.3001)
    follower.master_opens(position(2, symbol="GBPUSD", price=D("1.3001"), sl=D("1.2")))
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []
    watched.altered.clear()
    follower.passes(2)
    assert [p.symbol for p in follower.positions] == ["GBPUSD"]


def test_a_close_does_not_wait_until_a_whole_batch_is_opened(follower: Follower) -> None:
    trade = follower.master_opens(position(99, "SELL"))
    follower.look()
    done: list[str] = []
    close = follower.terminal.close_position

    def opening() -> None:
        if not done:
            follower.master_closes(trade)
        done.append("open")
        follower.clock.now += 3

    def closes(*args: Any, **more: Any) -> Any:
        done.append("close")
        return close(*args, **more)

    around_opens(follower, before=opening)
    follower.terminal.close_position = closes  # type: ignore[method-assign]
    for ticket in range(1, 5):
        follower.master_opens(position(ticket, volume=f"0.1{ticket}"))
    follower.look(6)
    assert done == ["open", "close", "open", "open", "open"]


def takes_time(follower: Follower, seconds: float, meanwhile: Callable[[], None] = nothing) -> list[float]:
    """Each change of stops takes the broker so long; what happens meanwhile, and how often it was called."""
    send, sent = follower.terminal.modify_position, []

    def slow(*args: Any, **more: Any) -> Any:
        sent.append(follower.clock.now)
        follower.clock.now += seconds
        meanwhile()
        return send(*args, **more)

    follower.terminal.modify_position = slow  # type: ignore[method-assign]
    return sent


def trailed(make: Make, copies: int, sl: str = "1.08000") -> tuple[Follower, Callable[[], None]]:
    """A follower with so many copies, and what the master does with their stops each time."""
    follower = make(limits=Limits(50, 20, 50, D(10), D(10), 60))
    trades = [follower.master_opens(position(n, volume=f"0.{n:02}", sl=D(sl))) for n in range(1, copies + 1)]
    follower.look(3 * copies)
    assert len(follower.positions) == copies

    def trail() -> None:
        for number, trade in enumerate(trades):
            trades[number] = follower.master_modifies(trade, sl=trade.sl + D("0.00001"))

    return follower, trail


@pytest.mark.parametrize("copies", [1, 10])
def test_an_open_does_not_wait_for_stops_that_are_moved_again_and_again(make: Make, copies: int) -> None:
    follower, trail = trailed(make, copies)
    sent = takes_time(follower, 0.3, trail)
    trail()
    follower.look(3)
    follower.master_opens(position(99, volume="0.99"))
    before = len(sent)
    follower.look(2)
    assert follower.state(99) == "open"
    assert len(sent) - before <= 4


def test_of_many_stops_that_are_moved_again_and_again_each_has_its_turn(make: Make) -> None:
    follower, trail = trailed(make, 10)
    takes_time(follower, 0.2, trail)
    trail()
    before = {p.ticket: p.sl for p in follower.positions}
    follower.look(6)
    assert all(p.sl > before[p.ticket] for p in follower.positions)


def test_a_stop_whose_turn_comes_is_not_told_as_missing(make: Make) -> None:
    follower, _ = trailed(make, 4, sl="0")
    takes_time(follower, 0.3)
    for trade in list(follower.book.values()):
        follower.master_modifies(trade, sl=D("1.08000"))
    follower.look(6)
    assert [p.sl for p in follower.positions] == [1.08] * 4
    assert "stops_missing" not in follower.events()


def test_a_close_does_not_wait_until_all_stops_are_moved(make: Make) -> None:
    follower, trail = trailed(make, 10)
    trade = follower.book["master_user", Kind.POSITION, 7]
    sent = takes_time(follower, 0.2)
    trail()
    follower.look(1)
    follower.master_closes(trade)
    before = len(sent)
    follower.look(1)
    assert len(follower.positions) == 9
    assert before <= 2


def test_closes_wait_for_a_locked_ledger_once_and_not_once_each(follower: Follower) -> None:
    trades = [follower.master_opens(position(ticket, volume=f"0.1{ticket}")) for ticket in (1, 2, 3, 4)]
    follower.look()
    (waits_ms,) = follower.ledger._db.execute("PRAGMA busy_timeout").fetchone()
    assert waits_ms <= 1000
    follower.ledger._db.execute("PRAGMA busy_timeout = 1")
    written: list[tuple[Copy, ...]] = []
    before_recording(follower, written.append)
    with closing(sqlite3.connect(follower.ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for trade in trades:
            follower.master_closes(trade)
        goes_on(follower, 1)
        assert follower.positions == []
        assert [len(copies) for copies in written] == [4]
        other.execute("ROLLBACK")
    goes_on(follower, 2)
    assert {follower.state(ticket) for ticket in (1, 2, 3, 4)} == {"closed"}


def test_a_copy_that_the_ledger_does_not_take_holds_up_no_other(follower: Follower) -> None:
    def refused(copies: tuple[Copy, ...]) -> None:
        if any(copy.ticket == 1 and copy.state is State.OPEN for copy in copies):
            raise LedgerError("a constraint")

    before_recording(follower, refused)
    follower.master_opens(position(1))
    follower.master_opens(position(2, "SELL"))
    goes_on(follower, 3)
    assert (follower.state(1), follower.state(2)) == ("opening", "open")


# --- nothing is opened from what is no longer true --------------------------------------------------------------------


def test_no_trade_of_a_slow_batch_is_opened_after_it_became_too_old(follower: Follower) -> None:
    ages: list[float] = []

    def takes_25_s() -> None:
        follower.clock.now += 25

    told_at = follower.clock.now
    around_opens(follower, before=lambda: ages.append(follower.clock.now - told_at), after=takes_25_s)
    for ticket in range(1, 6):
        follower.master_opens(position(ticket, volume=f"0.1{ticket}"))
    follower.look(8)
    assert [round(age) for age in ages] == [0, 25, 50]
    assert [follower.state(ticket) for ticket in range(1, 6)] == ["open"] * 3 + ["skipped"] * 2


def test_no_trade_of_a_slow_batch_is_opened_at_a_price_that_nobody_looked_at(follower: Follower) -> None:
    def price_runs_away() -> None:
        follower.clock.now += 1
        follower.mt5.sim_set_quote("EURUSD", 1.2000, 1.2001)

    around_opens(follower, after=price_runs_away)
    for ticket in range(1, 4):
        follower.master_opens(position(ticket, volume=f"0.1{ticket}"))
    follower.look(4)
    assert [p.price_open for p in follower.positions] == [1.1001]
    assert [report["reason"] for report in follower.reports() if report["event"] == "refused"] == [
        "max_slippage_points",
        "max_slippage_points",
    ]


def reading_takes(follower: Follower, seconds: float, meanwhile: Callable[[], None] = nothing) -> None:
    """The next reading of the account takes so long; what it shows is the account as it was in the beginning."""
    read = follower.terminal.read

    def slow() -> Any:
        follower.terminal.read = read  # type: ignore[method-assign]
        reading = read()
        follower.clock.now += seconds
        meanwhile()
        return reading

    follower.terminal.read = slow  # type: ignore[method-assign]


def test_a_trade_that_became_too_old_while_the_account_was_read_is_not_opened(follower: Follower) -> None:
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1004)  # too wide a spread
    follower.master_opens(position(1, price=D("1.1004")))
    follower.passes(58)
    reading_takes(follower, 4, lambda: follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1001))
    follower.look()
    assert follower.opened() == 0
    assert follower.state(1) == "skipped"


def test_a_trade_that_the_master_closed_while_the_account_was_read_is_not_opened(follower: Follower) -> None:
    def master_closes() -> None:
        follower.master_closes(trade)

    trade = follower.master_opens(position(1))
    reading_takes(follower, 6, master_closes)
    follower.look()
    assert follower.opened() == 0


def test_after_a_defect_of_the_program_nothing_is_opened_and_closes_go_through(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.defects_are_meant = True
    follower.copier.stop_opening("a defect")
    follower.master_opens(position(2, "SELL"))
    follower.master_closes(trade)
    follower.passes(5)
    assert follower.positions == []
    assert follower.opened() == 1
    (refused,) = [report for report in follower.reports() if report["event"] == "refused"]
    assert (refused["ticket"], refused["reason"]) == (2, "program_defect")
    assert follower.copier.status().line.startswith("OPENS NOTHING")
    assert follower.copier.status().title.startswith("OPENS NOTHING")
    assert follower.state(2) == "", "started again it is decided on"


def test_a_defect_about_one_symbol_holds_up_no_close_of_another(follower: Follower) -> None:
    euro = follower.master_opens(position(1))
    follower.mt5.sim_set_quote("GBPUSD", 1.3000, 1.3001)
    pound = follower.master_opens(position(2, symbol="GBPUSD", price=D("1.3001")))
    follower.look()
    assert len(follower.positions) == 2
    symbol = follower.terminal.symbol

    def without_a_grid(name: str) -> Any:
        found = symbol(name)
        return replace(found, tick_size=D(0)) if found and name == "GBPUSD" else found

    follower.terminal.symbol = without_a_grid  # type: ignore[method-assign]
    follower.defects_are_meant = True
    follower.master_closes(euro)
    follower.master_opens(position(3, "SELL"))
    follower.look(1)
    assert [r["ticket"] for r in follower.reports() if r.get("reason") == "program_defect"] == [3]
    assert [p.symbol for p in follower.positions] == ["GBPUSD"]
    assert "DivisionByZero" in follower.copier.defect
    follower.master_closes(pound)
    follower.look()
    assert follower.positions == []


# --- patience is for one doubt, not for the next ----------------------------------------------------------------------


def test_the_patience_for_an_unknown_open_is_not_spent_on_the_position_that_it_became(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=14)
    follower.master_opens(position(1))
    while follower.state(1) != "open":
        follower.ticks(1)
        assert follower.state(1) in ("", "opening", "open")
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.passes(3)
    assert follower.state(1) == "open"


def test_the_patience_for_one_reduction_is_not_spent_on_the_next(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=14)
    trade = follower.master_closes(trade, "0.80")
    follower.ticks(14)
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=4)
    follower.master_closes(trade, "0.50")
    follower.ticks(12)
    assert follower.volumes == [0.5]


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_a_reduction_that_is_planned_anew_is_given_all_of_its_own_patience(make: Make, margin_mode: str) -> None:
    """The second order asks for the same as the first one, which left no trace."""
    follower = make(account={"margin_mode": margin_mode}, limits=Limits(500, 500, 50, D(100), D(50), 60))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_closes(trade, "0.80")
    follower.look()
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=5, times=None)
    follower.ticks(40)
    assert follower.volumes == [0.8]


def test_a_late_reduction_at_the_end_of_a_long_scaling_out_is_not_made_twice(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    for hundredths in range(98, 65, -2):
        trade = follower.master_closes(trade, f"0.{hundredths}")
        follower.passes(1)
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=4)
    follower.master_closes(trade, "0.40")
    follower.ticks(10)
    assert follower.volumes == [0.4]


# --- a position that was not shown for a while ------------------------------------------------------------------------


def disappears(follower: Follower) -> None:
    """The account reads empty for longer than the copier's patience, and then shows everything again."""
    for function in ("positions_get", "orders_get"):
        follower.mt5.inject(function, "stale_empty", times=None)
    follower.passes(20)
    follower.mt5.sim_clear_faults()


def test_a_copy_that_is_shown_again_keeps_its_proportion(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    follower.master_closes(trade, "0.20")
    follower.passes(2)
    assert follower.volumes == [0.2]
    disappears(follower)
    follower.passes(5)
    assert follower.volumes == [0.2]


def test_a_copy_that_is_shown_again_is_known_although_the_broker_replaced_its_comment(follower: Follower) -> None:
    follower.broker_keeps_of_comments(0)
    trade = follower.master_opens(position(1))
    follower.look()
    disappears(follower)
    follower.passes(3)
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.positions == []


def test_a_pending_order_that_vanished_without_a_trace_may_have_filled_and_is_not_doubled(follower: Follower) -> None:
    pending = follower.master_opens(order(7))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=10029)  # frozen: it is about to fill
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(pending)
    follower.look(1)
    follower.falls_to(1.09)
    disappears(follower)
    follower.passes(2)
    assert follower.opened() == 1


# --- whose position it is ---------------------------------------------------------------------------------------------


def test_the_position_of_one_trade_is_not_taken_for_the_lost_order_of_another(follower: Follower) -> None:
    follower.broker_keeps_of_comments(0)
    follower.mt5.inject("order_send", "timeout_not_executed")
    lost = follower.master_opens(position(1, volume="0.20"))
    follower.look(1)
    filled = follower.master_opens(position(2, volume="0.10"))
    follower.look(1)
    follower.passes(20)
    assert (follower.state(1), follower.state(2)) == ("unknown", "open")
    follower.master_closes(lost)
    follower.passes(3)
    assert follower.volumes == [0.1]
    follower.master_closes(filled)
    follower.passes(3)
    assert follower.positions == []


@pytest.mark.parametrize("length", [0, 16])
def test_a_pending_order_that_filled_long_ago_while_the_copier_was_down_is_the_copy_of_its_position(
    follower: Follower, length: int
) -> None:
    follower.broker_keeps_of_comments(length)
    pending = follower.master_opens(order(7))
    follower.look()
    follower.kill()
    follower.falls_to(1.09)
    filled = follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(pending)
    follower.clock.now += 120
    follower.start()
    follower.sends_book()
    follower.passes(5)
    assert follower.state(7) == "open"
    assert "skipped" not in follower.events()
    follower.master_closes(filled)
    follower.passes(5)
    assert follower.positions == []


def test_a_pending_order_of_which_the_master_has_a_part_is_not_ended_by_that_part(follower: Follower) -> None:
    pending = follower.master_opens(order(7, volume=D("1.00"), initial_volume=D("1.00")))
    follower.look()
    follower.falls_to(1.09)
    follower.look()
    assert follower.volumes == [1.0]
    part = follower.master_opens(position(7, volume="0.40", price=D("1.09")))
    pending = follower.master_closes(pending, "0.60")
    follower.passes(3)
    follower.master_modifies(part, volume=D("1.00"))
    follower.master_closes(pending)
    follower.passes(5)
    assert follower.volumes == [1.0]
    assert follower.opened() == 1


def test_an_unknown_open_that_fills_after_the_master_closed_is_closed(follower: Follower) -> None:
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=5)
    trade = follower.master_opens(position(1))
    follower.look(1)
    follower.master_closes(trade)
    follower.ticks(10)
    assert follower.opened() == 1
    assert follower.positions == []


def test_a_market_order_on_its_way_is_not_modified_as_if_it_were_pending(follower: Follower) -> None:
    watched = follower.watch()
    follower.mt5.inject("order_send", "placed_late_fill", seconds=8)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.ticks(12)
    assert [request["action"] for request in watched.sent] == [1]
    assert follower.volumes == [0.1]


def test_an_order_that_was_proven_not_to_be_sent_is_opened_later_once(follower: Follower) -> None:
    def connection_ends(copies: tuple[Copy, ...]) -> None:
        if any(copy.state is State.OPENING for copy in copies) and not cut:
            cut.append(True)
            follower.mt5.inject("terminal_info", "none", code=-10001)

    cut: list[bool] = []
    before_recording(follower, connection_ends)
    follower.master_opens(position(1))
    follower.passes(10)
    assert cut
    assert follower.opened() == 1
    assert follower.state(1) == "open"


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_a_reduction_of_which_a_part_was_filled_is_completed(follower: Follower) -> None:
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    follower.mt5.inject("order_send", "partial", fraction=0.5)
    follower.master_closes(trade, "0.20")
    follower.passes(3)
    assert follower.volumes == [0.2]


def test_a_position_whose_order_goes_on_filling_after_it_was_first_seen_keeps_all_of_it(follower: Follower) -> None:
    follower.mt5.inject("order_send", "partial", fraction=0.5)
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look(2)
    assert follower.volumes == [0.5]
    (filling,) = follower.broker.account.positions.values()
    filling.volume = D("1.00")
    follower.passes(3)
    assert follower.volumes == [1.0]
    follower.master_closes(trade, "0.40")
    follower.passes(3)
    assert follower.volumes == [0.4]


def closes_by_hand(follower: Follower, lots: str) -> None:
    (shown,) = follower.broker.account.positions.values()
    follower.broker.execution.close(shown, t.ORDER_REASON_CLIENT, "", D(lots))


def test_what_was_closed_by_hand_while_the_answer_was_on_its_way_belongs_to_the_proportion(follower: Follower) -> None:
    around_opens(follower, after=lambda: closes_by_hand(follower, "0.40"))
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    assert follower.volumes == [0.6]
    trade = follower.master_closes(trade, "0.80")
    follower.passes(3)
    assert follower.volumes == [0.6]
    follower.master_closes(trade, "0.30")
    follower.passes(3)
    assert follower.volumes == [0.3]


def test_what_was_closed_by_hand_of_a_pending_order_before_its_fill_was_seen_belongs_to_the_proportion(
    follower: Follower,
) -> None:
    pending = follower.master_opens(order(7, volume=D("1.00"), initial_volume=D("1.00")))
    follower.look()
    follower.kill()
    follower.falls_to(1.09)
    closes_by_hand(follower, "0.40")
    filled = follower.master_opens(position(7, volume="1.00", price=D("1.09")))
    follower.master_closes(pending)
    follower.start()
    follower.sends_book()
    follower.passes(3)
    follower.master_closes(filled, "0.80")
    follower.passes(3)
    assert follower.volumes == [0.6]


def test_a_history_that_cannot_be_read_does_not_hold_up_what_was_opened(follower: Follower) -> None:
    around_opens(follower, after=lambda: closes_by_hand(follower, "0.40"))
    follower.mt5.inject("history_deals_get", "none", times=None)
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.look()
    assert follower.state(1) == "open"
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []


# --- what was skipped, and is there all the same: a second copier opened it, or an old ledger knows nothing of it ---


def skipped_but_there(follower: Follower) -> Trade:
    """The copier is down, a trade of 1.00 lots in its ledger as skipped, and 0.50 lots of a copy on the account."""
    trade = follower.master_opens(position(1, volume="1.00", opened_at=1))
    follower.look()
    assert follower.state(1) == "skipped"
    follower.kill()
    done = follower.mt5.order_send(
        {
            "action": t.TRADE_ACTION_DEAL,
            "symbol": "EURUSD",
            "volume": 0.5,
            "type": t.ORDER_TYPE_BUY,
            "price": follower.mt5.symbol_info_tick("EURUSD").ask,
            "magic": MAGIC,
            "comment": tag_of(("master_user", Kind.POSITION, 1)),
            "type_filling": t.ORDER_FILLING_IOC,
        }
    )
    assert done.retcode == t.TRADE_RETCODE_DONE
    return follower.master_closes(trade, "0.50")


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_what_was_skipped_and_is_there_is_a_proportion_of_what_the_master_has_now(make: Make, margin_mode: str) -> None:
    """Also beside another copy of the symbol, and however long the server is not heard."""
    follower = make(account={"margin_mode": margin_mode}, limits=Limits(5000, 500, 50, D(100), D(50), 60))
    follower.master_opens(position(2))
    follower.look()
    trade = skipped_but_there(follower)
    follower.start()
    follower.passes(20)
    assert follower.state(1) == "skipped"
    follower.sends_book()
    follower.passes(20)
    assert follower.state(1) == "open"
    assert sum(follower.volumes) == pytest.approx(0.6)
    follower.master_closes(trade, "0.25")
    follower.passes(3)
    assert sum(follower.volumes) == pytest.approx(0.35)


def test_what_was_skipped_and_is_there_waits_while_its_master_is_doubted(follower: Follower) -> None:
    """The server's database is an old backup: what it says are the lots of then."""
    trade = skipped_but_there(follower)
    follower.start()
    follower.server_seq = 0
    follower.sends_book()
    follower.passes(20)
    assert follower.state(1) == "skipped"
    follower.masters[trade.master]["reported_at"] = follower.server_ms()
    follower.sends_book()
    follower.passes(5)
    assert follower.state(1) == "open"
    assert follower.volumes == [0.5]


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_what_was_skipped_and_is_there_is_closed_by_flatten_without_a_server(make: Make, margin_mode: str) -> None:
    follower = make(account={"margin_mode": margin_mode}, limits=Limits(5000, 500, 50, D(100), D(50), 60))
    follower.master_opens(position(2))
    follower.look()
    skipped_but_there(follower)
    follower.settings["copying"] = Copying.FLATTEN
    follower.start()
    follower.passes(3)
    assert follower.positions == []


# --- rules that the account and the symbol bring ----------------------------------------------------------------------


def test_a_sell_signal_that_names_no_price_is_not_opened_at_any_price(follower: Follower) -> None:
    follower.master_opens(position(1, "SELL", price=D(0)))
    follower.look()
    assert follower.opened() == 0
    assert follower.reports()[0]["reason"] == "max_slippage_points"


def test_lots_of_another_contract_size_are_not_multiplied(make: Make) -> None:
    follower = make()
    follower.master_opens(position(1, contract_size=D(1)))
    follower.look()
    assert follower.opened() == 0
    assert follower.reports()[0]["reason"] == "contract_size_differs"
    follower.restart(sizing=Sizing(Mode.FIX, D("0.03"), D(1)))  # which does not depend on the master's lots
    follower.sends_book()
    follower.look()
    assert follower.volumes == [0.03]


def test_the_margin_of_an_open_of_unknown_outcome_is_not_spent_twice(make: Make) -> None:
    follower = make(balance=300, limits=Limits(50, 20, 5, D(10), D(100), 60))
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_opens(position(1, volume="0.20"))  # takes 220 of the 300
    follower.look()
    follower.master_opens(position(2, "SELL", volume="0.20"))
    follower.look()
    assert follower.opened() == 0
    assert follower.reports()[-1]["reason"] == "margin_insufficient"


def test_an_expiration_is_kept_while_the_clock_of_the_broker_is_not_known(follower: Follower) -> None:
    follower.master_opens(order(7, expiration=(int(follower.clock.time()) + 3600) * 1000))
    follower.look()
    placed = follower.orders[0].time_expiration
    assert placed
    follower.clock.now += 40  # no quote has come since
    follower.restart()
    follower.sends_book()
    follower.look()
    assert follower.orders[0].time_expiration == placed


def test_an_expiration_is_kept_when_only_the_clock_of_this_machine_was_set(follower: Follower) -> None:
    class SetBack:
        def time(self) -> float:
            return follower.clock.time() - 1800

        def monotonic(self) -> float:
            return follower.clock.monotonic()

    follower.master_opens(order(7, expiration=(int(follower.clock.time()) + 7200) * 1000))
    follower.look()
    placed = follower.orders[0].time_expiration
    follower.terminal._clock = SetBack()
    follower.clock.now += 1
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1001)
    follower.sim.tick()
    follower.passes(2)
    assert follower.orders[0].time_expiration == placed


# --- the same thing is not said or done for ever ----------------------------------------------------------------------


def test_a_close_in_a_closed_market_is_tried_again_every_15_s_until_it_opens(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=10018, times=None)
    follower.master_closes(trade)
    follower.passes(300)
    pauses = {round(later - earlier) for earlier, later in zip(watched.sent_at, watched.sent_at[1:], strict=False)}
    assert pauses == {15}
    follower.mt5.sim_clear_faults()
    follower.passes(16)
    assert follower.positions == []
    assert follower.state(1) == "closed"


def test_a_close_that_the_terminal_cannot_send_lets_the_copier_rest(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("symbol_info", "none", code=-4, times=None)
    follower.mt5.inject("order_send", "none_not_executed", times=None)
    follower.master_closes(trade)
    follower.look(2)
    assert not any(follower.copier.step() for _ in range(20))  # all in the same instant


def test_a_modification_without_effect_is_repeated_ever_more_rarely(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.08")))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=10025, times=None)
    trade = follower.master_modifies(trade, sl=D("1.09"))
    follower.passes(600)
    assert 10 < follower.events().count("modified") < 30
    follower.mt5.sim_clear_faults()
    follower.master_modifies(trade, sl=D("1.095"))  # another aim does not wait for that
    follower.look()
    assert follower.positions[0].sl == 1.095


def test_the_history_is_asked_about_each_copy_at_most_twice_a_second_while_the_account_reads_empty(
    make: Make,
) -> None:
    follower = make(limits=Limits(50, 20, 50, D(10), D(10), 60))
    copies, seconds = 10, 3
    for ticket in range(1, copies + 1):
        follower.master_opens(position(ticket, volume=f"0.{10 + ticket}"))
    follower.look()
    assert len(follower.positions) == copies
    watched = follower.watch()
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.passes(seconds, step=1 / 16)
    for question in ("history_deals_get", "history_orders_get"):
        assert copies <= watched.calls[question] <= 2 * seconds * copies


def test_a_symbol_that_stays_unreadable_is_not_told_again_and_again(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    follower.mt5.inject("symbol_select", "none", times=None)
    follower.master_opens(position(2, symbol="BTCUSD"))
    follower.passes(50)
    assert sum("symbol_select(BTCUSD)" in line for line in caplog.messages) == 1
    assert len(caplog.messages) < 10


def test_an_order_that_only_waits_for_another_like_it_is_not_reported_as_refused(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.master_opens(position(2))
    follower.look(4)
    assert follower.events() == ["opened", "opened"]


def test_a_position_that_waits_for_the_copy_of_its_pending_order_is_not_reported_as_refused(
    follower: Follower,
) -> None:
    pending = follower.master_opens(order(7))
    follower.look()
    follower.falls_to(1.09)
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(pending)
    follower.look(5)
    assert "refused" not in follower.events()
    assert follower.opened() == 1
    assert follower.state(7) == "open"


def test_an_open_is_reported_as_opened_although_the_ledger_could_not_be_written_at_first(follower: Follower) -> None:
    def fails_once(copies: tuple[Copy, ...]) -> None:
        if any(copy.state is State.OPEN for copy in copies) and not failed:
            failed.append(True)
            raise LedgerError("disk full")

    failed: list[bool] = []
    before_recording(follower, fails_once)
    follower.master_opens(position(1))
    goes_on(follower, 4)
    assert failed
    assert follower.events() == ["opened"]
    assert follower.reports()[0]["filled_at"]


def test_a_reversal_is_closed_although_the_terminal_does_not_answer_about_the_symbol(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.watch().altered["EURUSD"] = {"volume_step": 0.0}
    follower.master_modifies(trade, action=Action.SELL)
    follower.look()
    assert follower.positions == []


# --- stop-limit orders, which become limit orders at each broker in his own time --------------------------------------


def stop_limit_order(make: Make, margin_mode: str) -> tuple[Follower, Trade]:
    """To buy at 1.1030 once 1.1050 has been reached, placed at both."""
    follower = make(account={"margin_mode": margin_mode}, limits=Limits(5000, 500, 50, D(100), D(50), 60))
    trade = follower.master_opens(order(1, action="BUY_STOP_LIMIT", price="1.10500", stoplimit=D("1.10300")))
    follower.look()
    return follower, trade


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_a_stop_limit_order_that_the_client_has_activated_first_keeps_its_limit_price(
    make: Make, margin_mode: str
) -> None:
    follower, trade = stop_limit_order(make, margin_mode)
    follower.falls_to(1.10510)
    watched = follower.watch()
    follower.passes(3)
    assert [(o.price_open, o.price_stoplimit) for o in follower.orders] == [(1.103, 0.0)]
    assert watched.sent == []
    trade = follower.master_modifies(trade, stoplimit=D("1.10200"))
    follower.look()
    assert [(o.price_open, o.price_stoplimit) for o in follower.orders] == [(1.102, 0.0)]
    follower.master_modifies(trade, action=Action.BUY_LIMIT, price=D("1.10200"), stoplimit=D(0))
    follower.passes(3)
    assert len(watched.sent) == 1
    assert follower.positions == []


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_a_stop_limit_order_that_the_master_has_activated_first_waits_for_the_clients_price(
    make: Make, margin_mode: str
) -> None:
    follower, trade = stop_limit_order(make, margin_mode)
    watched = follower.watch()
    trade = follower.master_modifies(trade, action=Action.BUY_LIMIT, price=D("1.10300"), stoplimit=D(0))
    follower.passes(10)
    assert watched.sent == []
    follower.master_modifies(trade, price=D("1.10200"))
    follower.passes(3)
    assert [(o.price_open, o.price_stoplimit) for o in follower.orders] == [(1.105, 1.102)]
    follower.falls_to(1.10510)
    follower.passes(3)
    assert [(o.price_open, o.price_stoplimit) for o in follower.orders] == [(1.102, 0.0)]
    assert len(watched.sent) == 1


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_the_fill_of_a_pending_order_that_another_copier_may_have_copied_is_not_entered(
    make: Make, margin_mode: str
) -> None:
    follower = make(account={"margin_mode": margin_mode}, limits=Limits(5000, 500, 50, D(100), D(50), 60))
    follower.clock.now += 1
    follower.disconnects()
    pending = order(7, opened_at=follower.server_ms())
    follower.sends_book(pending, config={"copier_since": follower.server_ms()})
    follower.passes(3)
    assert follower.state(7, Kind.ORDER) == "skipped"
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(pending)
    follower.passes(5)
    assert follower.opened() == 0
    assert follower.copy(7).reason == "another_copier"  # type: ignore[union-attr]
