"""The sender on a netting account: how a position grew, shrank and turned round.

And what it makes of close-by, swap and orders that fill in part, on any account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from test_sender import POLL, SELL, Desk

from signals import Action, Increase, Key, Kind

BUY_STOP_LIMIT, SELL_LIMIT = 6, 3
RETURN = 2

Make = Callable[..., Desk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Desk] = []

    def one(margin_mode: str = "netting", symbols: dict[str, Any] | None = None) -> Desk:
        desk = Desk(tmp_path, symbols, margin_mode)
        made.append(desk)
        return desk.settled()

    yield one
    for desk in made:
        desk.kill()


@pytest.fixture
def desk(make: Make) -> Desk:
    """A netting account with 0.10 lots of EURUSD bought at 1.10010, told long ago."""
    one = make()
    one.open(0.1)
    one.passes(20)
    one.api.calls.clear()
    return one


def of(ticket: int) -> Key:
    return (Kind.POSITION, ticket)


def ticket(desk: Desk) -> int:
    """The one position's identifier."""
    (position,) = desk.broker.positions()
    return position.identifier


def increase(desk: Desk) -> Increase | None:
    """What was told last of how the one position grew."""
    return desk.api.book[of(ticket(desk))].increase


def increase_told(desk: Desk) -> Increase:
    told = increase(desk)
    assert told is not None
    return told


def quote(desk: Desk, bid: float) -> None:
    desk.person.sim_set_quote("EURUSD", bid, bid + 0.0001)


# --- increases -------------------------------------------------------------------------------------------------------


def test_an_increase_is_told_as_one_whole_book_with_lots_price_and_age(desk: Desk) -> None:
    quote(desk, 1.10600)
    desk.open(0.2)
    desk.poll()
    (call,) = desk.api.calls
    assert call[0] == "PUT /signal/book"
    (told,) = call[1]["trades"]
    assert (told["action"], told["volume"], told["initial_volume"]) == ("BUY", D("0.3"), D("0.1"))
    assert told["price"] == (D("0.1") * D("1.10010") + D("0.2") * D("1.10610")) / D("0.3"), "the average, as shown"
    assert told["increase"] == {"volume": D("0.2"), "price": D("1.1061"), "order": 0, "age_ms": 1000 * POLL}
    assert desk.server_agrees()
    desk.passes(4)
    assert desk.api.said() == ["PUT /signal/book"], "once"


def test_a_sold_position_grows_at_the_bid(make: Make) -> None:
    desk = make("exchange")
    desk.open(0.1, SELL)
    desk.poll()
    quote(desk, 1.09000)
    desk.open(0.2, SELL)
    desk.poll()
    assert increase(desk) == Increase(D("0.2"), D("1.09"), age_ms=int(1000 * POLL))


def test_a_position_seen_for_the_first_time_has_not_grown(desk: Desk) -> None:
    desk.open(0.2, symbol="GBPUSD")
    desk.open(0.3, symbol="GBPUSD")
    desk.poll()
    assert desk.api.said() == ["POST /signal/broadcast"]
    assert [trade.increase for trade in desk.api.book.values()] == [None, None]


def test_the_next_increase_has_its_own_lots_price_and_age(desk: Desk) -> None:
    desk.open(0.2)
    desk.poll()
    desk.passes(7)
    quote(desk, 1.12000)
    desk.open(0.05)
    desk.poll()
    assert increase(desk) == Increase(D("0.05"), D("1.1201"), age_ms=int(1000 * POLL))
    assert desk.api.book[of(ticket(desk))].initial_volume == D("0.1")


def test_an_increase_and_another_stop_are_one_book(desk: Desk) -> None:
    desk.open(0.2, sl=1.05)
    desk.poll()
    assert desk.api.said() == ["PUT /signal/book"]
    assert increase_told(desk).volume == D("0.2")
    assert desk.server_agrees()


def test_an_increase_and_a_close_of_another_symbol_are_told_together(desk: Desk) -> None:
    other = desk.open(0.2, symbol="GBPUSD")
    desk.poll()
    desk.api.said()
    desk.open(0.2)
    desk.close(other)
    desk.poll()
    assert desk.api.said() == ["PUT /signal/book"]
    assert increase_told(desk).volume == D("0.2")
    assert desk.server_agrees()


@pytest.mark.parametrize("fault", ["down", "lost", 500])
def test_an_increase_is_told_until_the_server_has_acknowledged_it(desk: Desk, fault: str | int) -> None:
    desk.open(0.2)
    desk.api.faults = [fault] * 3
    desk.poll()
    quote(desk, 1.12000)
    desk.passes(7)
    told = [body["trades"][0] for what, body in desk.api.calls if what == "PUT /signal/book"]
    grown = [one["increase"] for one in told if "increase" in one]
    assert len(grown) == (4 if fault == "lost" else 1), "until it was acknowledged, and not once more"
    assert {(one["volume"], one["price"]) for one in grown} == {(D("0.2"), D("1.1001"))}, "as it was seen first"
    assert grown[-1]["age_ms"] > 3_000, "and as old as it is by now"
    assert desk.server_agrees()


def test_an_increase_that_was_not_acknowledged_and_another_one_are_as_old_as_the_first(desk: Desk) -> None:
    desk.open(0.2)
    desk.api.faults = ["down"]
    desk.poll()
    desk.clock.passes(2)
    desk.open(0.3)
    desk.poll()
    told = increase_told(desk)
    assert told.volume == D("0.5")
    assert told.age_ms is not None
    assert told.age_ms >= 2000


def test_an_increase_that_is_gone_before_it_was_told_is_never_told(desk: Desk) -> None:
    desk.open(0.2)
    desk.api.faults = ["down"]
    desk.poll()
    desk.close(ticket(desk), 0.25)
    desk.passes(3)
    assert increase(desk) is None
    assert desk.server_agrees()
    quote(desk, 1.12)
    desk.open(0.2)
    desk.poll()
    assert increase(desk) == Increase(D("0.2"), D("1.1201"), age_ms=int(1000 * POLL)), "nothing is left of the old one"


def test_an_increase_that_was_gone_while_the_server_was_down_lends_its_age_and_price_to_no_other(desk: Desk) -> None:
    desk.open(0.2)
    desk.api.faults = ["down", "down"]
    desk.poll()
    desk.close(ticket(desk), 0.2)
    desk.passes(1)
    quote(desk, 1.12)
    desk.open(0.2)
    desk.passes(2)
    told = increase_told(desk)
    assert told.price == D("1.1201")
    assert told.age_ms is not None
    assert told.age_ms < 2000


def test_an_increase_while_nobody_was_looking_is_of_unknown_age(desk: Desk) -> None:
    desk.open(0.2)
    desk.clock.passes(60)
    desk.poll()
    assert increase(desk) == Increase(D("0.2"), D("1.1001"), age_ms=None)


@pytest.mark.parametrize("lose_ledger", [False, True])
def test_an_increase_before_the_sender_was_started_is_of_unknown_age(desk: Desk, lose_ledger: bool) -> None:
    """What a sender without memory knows it has from the server."""
    desk.kill()
    desk.open(0.2)
    desk.start()
    if lose_ledger:
        desk.restart(lose_ledger=True)
    desk.poll()
    assert increase(desk) == Increase(D("0.2"), D("1.1001"), age_ms=None)


def test_an_increase_that_the_terminal_shows_late_is_as_old_as_the_broker_says(desk: Desk) -> None:
    before = desk.mt5.positions_get()
    desk.mt5.positions_get = lambda *_, **__: before  # type: ignore[method-assign]
    desk.open(0.2)
    desk.passes(7)
    del desk.mt5.positions_get
    desk.poll()
    told = increase_told(desk)
    assert told.age_ms == 7000 + 1000 * POLL


def test_without_a_quote_the_price_of_an_increase_is_the_average(desk: Desk) -> None:
    quote(desk, 1.10600)
    desk.open(0.2)
    desk.person.inject("symbol_info_tick", "none", times=None)
    desk.poll()
    assert increase_told(desk).price == desk.api.book[of(ticket(desk))].price


# --- reductions and reversals ----------------------------------------------------------------------------------------


def test_a_reduction_is_a_close_that_says_what_remains(desk: Desk) -> None:
    desk.open(0.04, SELL)
    desk.poll()
    (call,) = desk.api.calls
    assert call[0] == "POST /signal/close"
    assert call[1]["remaining"] == D("0.06")
    assert "price" not in call[1]
    assert increase(desk) is None
    assert desk.server_agrees()


def test_a_reversal_is_one_change_of_the_same_trade(desk: Desk) -> None:
    was = ticket(desk)
    quote(desk, 1.10600)
    desk.open(0.3, SELL)
    desk.poll()
    (call,) = desk.api.calls
    assert call[0] == "PUT /signal/book"
    (told,) = call[1]["trades"]
    assert told["ticket"] == was == ticket(desk)
    assert was not in [position.ticket for position in desk.broker.positions()], "the account has another ticket"
    assert (told["action"], told["volume"], told["initial_volume"]) == ("SELL", D("0.2"), D("0.2"))
    assert told["increase"] == {"volume": D("0.2"), "price": D("1.106"), "order": 0, "age_ms": 1000 * POLL}
    assert desk.server_agrees()


def test_a_turn_to_the_same_lots_is_told_as_a_turn(desk: Desk) -> None:
    desk.open(0.2, SELL)
    desk.poll()
    assert increase_told(desk).volume == D("0.1")
    assert desk.api.book[of(ticket(desk))].action is Action.SELL


def test_there_and_back_between_two_polls_is_no_change(desk: Desk) -> None:
    desk.open(0.3, SELL)
    desk.open(0.3)
    desk.poll()
    assert desk.api.book[of(ticket(desk))].volume == D("0.1")
    assert increase(desk) is None
    assert desk.server_agrees()


def test_a_position_that_turned_round_and_closed_is_told_at_once(desk: Desk) -> None:
    desk.open(0.3, SELL)
    desk.poll()
    desk.open(0.2)
    desk.poll()
    assert desk.api.said() == ["PUT /signal/book", "POST /signal/close"]
    assert desk.api.book == {}


def test_a_turn_is_no_proof_that_a_position_which_is_not_shown_has_closed(desk: Desk) -> None:
    desk.open(0.3, SELL)
    desk.poll()
    desk.api.said()
    desk.person.inject("positions_get", "stale_empty", times=100)
    desk.poll(100)
    assert desk.api.said() == []
    desk.poll()
    assert desk.server_agrees()


def test_a_close_and_an_entry_on_the_other_side_are_two_trades(desk: Desk) -> None:
    was = ticket(desk)
    desk.open(0.1, SELL)
    desk.open(0.2, SELL)
    desk.poll()
    assert desk.api.said() == ["POST /signal/close", "POST /signal/broadcast"]
    assert was != ticket(desk)
    assert desk.server_agrees()


@pytest.mark.parametrize("times", [1, 100, 200])
def test_a_netting_terminal_that_shows_nothing_for_a_while_closes_and_grows_nothing(desk: Desk, times: int) -> None:
    desk.open(0.2)
    desk.place()
    desk.poll()
    book = {key: (trade.action, trade.volume) for key, trade in desk.api.book.items()}
    desk.api.said()
    for function in ("positions_get", "orders_get"):
        desk.person.inject(function, "stale_empty", times=times)
    desk.poll(times)
    assert desk.api.said() == []
    desk.passes(30)
    assert {key: (trade.action, trade.volume) for key, trade in desk.api.book.items()} == book
    assert increase(desk) is None, "and what was there all the time has not grown"


def test_an_unreadable_netting_account_is_told_again_as_it_was(desk: Desk) -> None:
    desk.person.inject("positions_get", "none", times=30)
    desk.open(0.2)
    desk.poll(30)
    assert desk.api.said() == []
    desk.poll()
    assert increase_told(desk).age_ms == 31 * 1000 * POLL


# --- pending orders --------------------------------------------------------------------------------------------------


def test_the_increase_by_a_pending_order_names_it_and_its_price(desk: Desk) -> None:
    pending = desk.place(1.09, volume=0.2)
    desk.poll()
    desk.api.calls.clear()
    quote(desk, 1.08950)
    desk.poll()
    (call,) = desk.api.calls
    assert call[0] == "PUT /signal/book"
    (told,) = call[1]["trades"]
    assert (told["kind"], told["volume"]) == ("position", D("0.3"))
    assert told["increase"] == {"volume": D("0.2"), "price": D("1.09"), "order": pending, "age_ms": 1000 * POLL}


def test_a_pending_order_that_turned_the_position_round_is_named(desk: Desk) -> None:
    pending = desk.send(action=5, type=SELL_LIMIT, volume=0.3, price=1.11, type_filling=RETURN)
    desk.poll()
    quote(desk, 1.11000)
    desk.poll()
    assert increase(desk) == Increase(D("0.2"), D("1.11"), pending, age_ms=int(1000 * POLL))
    assert desk.api.book[of(ticket(desk))].action is Action.SELL


def test_a_pending_order_that_reduced_the_position_is_a_reduction(desk: Desk) -> None:
    pending = desk.send(action=5, type=SELL_LIMIT, volume=0.04, price=1.11, type_filling=RETURN)
    desk.poll()
    desk.api.calls.clear()
    quote(desk, 1.11000)
    desk.poll()
    told = [(what, body["ticket"], body["remaining"]) for what, body in desk.api.calls]
    assert told == [("POST /signal/close", ticket(desk), D("0.06")), ("POST /signal/close", pending, 0)]


def test_of_an_order_that_ended_and_one_that_filled_the_one_with_as_many_lots_is_named(desk: Desk) -> None:
    cancelled, filled = desk.place(1.05, volume=0.3), desk.place(1.09, volume=0.2)
    desk.poll()
    desk.cancel(cancelled)
    quote(desk, 1.08950)
    desk.poll()
    assert increase_told(desk).order == filled
    assert desk.server_agrees()


def test_of_the_orders_that_turned_a_position_round_the_one_with_all_the_lots_is_named(desk: Desk) -> None:
    """It closed what was there and then had as many lots as there are now."""
    fields: dict[str, Any] = {"action": 5, "type": SELL_LIMIT, "price": 1.11, "type_filling": RETURN}
    cancelled, filled = desk.send(volume=0.2, **fields), desk.send(volume=0.3, **fields)
    desk.poll()
    desk.cancel(cancelled)
    quote(desk, 1.11000)
    desk.poll()
    told = increase_told(desk)
    assert (told.volume, told.order) == (D("0.2"), filled)


def test_an_order_that_stands_as_before_is_not_named(desk: Desk) -> None:
    desk.place(1.05, volume=0.2)
    desk.poll()
    desk.open(0.2)
    desk.poll()
    assert increase_told(desk).order == 0


def test_two_orders_that_filled_at_once_are_an_increase_by_neither(desk: Desk) -> None:
    desk.place(1.09, volume=0.2)
    desk.place(1.091, volume=0.3)
    desk.poll()
    quote(desk, 1.08950)
    desk.poll()
    assert increase(desk) == Increase(D("0.5"), D("1.0896"), 0, age_ms=int(1000 * POLL))
    assert desk.api.book.keys() == {of(ticket(desk))}


@pytest.mark.parametrize("fields", [{"symbol": "GBPUSD", "price": 1.2}, {"type": SELL_LIMIT, "price": 1.2}], ids=str)
def test_an_order_of_another_symbol_or_side_that_ended_meanwhile_is_not_named(
    desk: Desk, fields: dict[str, Any]
) -> None:
    pending = desk.send(**{"action": 5, "type": 2, "volume": 0.2, "type_filling": RETURN, **fields})
    desk.poll()
    desk.cancel(pending)
    desk.open(0.2)
    desk.poll()
    assert increase_told(desk).order == 0


def test_an_order_whose_fill_is_a_position_of_its_own_is_no_increase(make: Make) -> None:
    desk = make()
    pending = desk.place(1.09, volume=0.2)
    desk.poll()
    quote(desk, 1.08950)
    desk.poll()
    assert ticket(desk) == pending
    assert increase(desk) is None


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_of_an_order_that_fills_in_parts_order_and_position_are_told_side_by_side(make: Make, margin_mode: str) -> None:
    desk = make(margin_mode, {"EURUSD": {"depth": 0.2, "trade_exemode": 3}})
    pending = desk.place(1.09, volume=0.5)
    desk.poll()
    quote(desk, 1.08950)
    desk.poll()
    assert desk.api.book.keys() == {(Kind.POSITION, pending), (Kind.ORDER, pending)}
    assert increase(desk) is None, "the position is seen for the first time"
    assert desk.server_agrees()
    assert desk.api.book[Kind.ORDER, pending].volume == D("0.3")
    quote(desk, 1.08940)
    desk.poll()
    assert increase(desk) == Increase(D("0.2"), D("1.09"), pending, age_ms=int(1000 * POLL))
    assert desk.server_agrees()
    quote(desk, 1.08930)
    desk.poll()
    assert increase(desk) == Increase(D("0.1"), D("1.09"), pending, age_ms=int(1000 * POLL))
    assert desk.api.book.keys() == {(Kind.POSITION, pending)}
    assert desk.server_agrees()


def test_a_position_is_no_more_than_its_order_was(make: Make) -> None:
    """When the order's first fill was not seen, all of the position is one entry, as old as itself."""
    desk = make("netting", {"EURUSD": {"depth": 0.2, "trade_exemode": 3}})
    pending = desk.place(1.09, volume=0.3)
    desk.poll()
    quote(desk, 1.08950)
    quote(desk, 1.08940)
    desk.poll()
    assert desk.api.book[of(pending)].volume == D("0.3")
    assert increase(desk) is None


def test_a_position_that_is_more_than_the_order_it_began_as_has_grown_by_the_rest(make: Make) -> None:
    desk = make()
    pending = desk.place(1.09, volume=0.2)
    desk.poll()
    quote(desk, 1.08950)
    desk.open(0.1)
    desk.poll()
    assert ticket(desk) == pending
    assert increase(desk) == Increase(D("0.1"), D("1.0896"), 0, age_ms=int(1000 * POLL))
    assert desk.api.book.keys() == {of(pending)}
    quote(desk, 1.12)
    desk.open(0.1)
    desk.poll()
    assert increase(desk) == Increase(D("0.1"), D("1.1201"), 0, age_ms=int(1000 * POLL))


def test_a_stop_limit_that_becomes_a_limit_is_the_same_order(desk: Desk) -> None:
    pending = desk.send(action=5, type=BUY_STOP_LIMIT, price=1.11, stoplimit=1.105, type_filling=RETURN)
    desk.poll()
    assert desk.api.book[Kind.ORDER, pending].action is Action.BUY_STOP_LIMIT
    desk.api.calls.clear()
    quote(desk, 1.11000)
    desk.poll()
    (call,) = desk.api.calls
    assert call[0] == "PUT /signal/book", "no other message can say it"
    (told,) = (one for one in call[1]["trades"] if one["kind"] == "order")
    assert (told["ticket"], told["action"], told["price"]) == (pending, "BUY_LIMIT", D("1.105"))
    assert "increase" not in told
    assert desk.server_agrees()
    quote(desk, 1.10450)
    desk.poll()
    assert increase_told(desk).order == pending


def test_an_order_that_expires_on_a_netting_account_just_ends(desk: Desk) -> None:
    expires = desk.broker.now_msc() // 1000 + 60
    pending = desk.place(volume=0.2, type_time=2, expiration=expires)
    desk.poll()
    desk.passes(61)
    assert "POST /signal/close" in desk.api.said()
    assert (Kind.ORDER, pending) not in desk.api.book
    assert increase(desk) is None
    assert desk.server_agrees()


# --- hedging accounts ------------------------------------------------------------------------------------------------


def test_of_a_close_by_the_smaller_one_is_closed_and_the_larger_one_shrinks(make: Make) -> None:
    desk = make("hedging")
    first, second = desk.open(0.3), desk.open(0.1, SELL)
    desk.poll()
    desk.api.calls.clear()
    assert desk.person.order_send(action=10, position=first, position_by=second).retcode == 10009
    desk.poll()
    told = {body["ticket"]: body["remaining"] for what, body in desk.api.calls if what == "POST /signal/close"}
    assert told == {first: D("0.2"), second: 0}
    assert len(desk.api.calls) == 2
    assert desk.server_agrees()


def test_of_a_close_by_of_equal_lots_both_are_closed_at_once_with_their_profits(make: Make) -> None:
    desk = make("hedging")
    first = desk.open(0.2)
    quote(desk, 1.10100)
    second = desk.open(0.2, SELL)
    desk.poll()
    desk.api.calls.clear()
    assert desk.person.order_send(action=10, position=first, position_by=second).retcode == 10009
    desk.poll()
    told = {body["ticket"]: (body["remaining"], body["price"], body["profit"]) for _, body in desk.api.calls}
    assert told == {first: (0, D("1.101"), D("18")), second: (0, D("1.101"), 0)}
    assert desk.api.book == {}


@pytest.mark.parametrize("swap", [0.0, -3.0])
@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_a_position_that_is_opened_again_for_its_swap_is_the_same_trade(
    make: Make, margin_mode: str, swap: float
) -> None:
    desk = make(margin_mode, {"EURUSD": {"swap_mode": 7, "swap_long": swap}})
    was = desk.open(0.2)
    desk.poll()
    book = dict(desk.api.book)
    desk.api.said()
    desk.person.sim_rollover()
    (position,) = desk.broker.positions()
    assert position.ticket != position.identifier == was
    desk.poll(200)
    assert desk.api.said().count("POST /signal/modify") == 1, "its price is another"
    assert set(desk.api.said()) <= {"PUT /signal/book"}
    assert desk.api.book.keys() == book.keys()
    assert desk.server_agrees()
    assert desk.api.book[of(was)].increase is None
    desk.api.said()
    desk.close(position.ticket)
    desk.poll()
    assert desk.api.said() == ["POST /signal/close"]
