"""What a reading says of the copies: found by ticket, by tag, by likeness; ended only with proof."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account import Account, Deal, Entry, MarginMode, Order, OrderEnd, PastOrder, Position, Reading
from copies import PATIENCE_S, Copy, Ended, Evidence, Observation, Reduced, Seen, State, observe, tag_of, unseen
from legs import whole
from mirror import CopyKey, Held
from safety import Reason
from signals import FIRST_SERVER_TICKET, LAST_TICKET, Action, Kind, Trade

MAGIC = 7
ACCOUNT = Account(1, "Sim", "USD", 100, D(10000), D(10000), D(10000), MarginMode.HEDGING)
KEY: CopyKey = ("m", Kind.POSITION, 100, 0)
COPY = Copy(
    "m", Kind.POSITION, 100, State.OPENING, tag_of(KEY), "EURUSD", Action.BUY, MAGIC,
    volume=D("0.10"), master_volume=D("0.10"), after_ticket=500,
)  # fmt: skip
OPEN = replace(COPY, state=State.OPEN, client_kind=Kind.POSITION, client_ticket=501, current=D("0.10"))


def shown(identifier: int = 501, comment: str = "", **more: Any) -> Position:
    fields: dict[str, Any] = {
        "ticket": identifier,
        "identifier": identifier,
        "symbol": "EURUSD",
        "action": Action.BUY,
        "volume": D("0.10"),
        "price": D("1.1"),
        "sl": D(0),
        "tp": D(0),
        "magic": MAGIC,
        "comment": comment,
        "time_msc": 1,
        "profit": D(0),
    }
    return Position(**{**fields, **more})


def pending(ticket: int = 501, comment: str = "", **more: Any) -> Order:
    fields: dict[str, Any] = {
        "ticket": ticket,
        "symbol": "EURUSD",
        "action": Action.BUY_LIMIT,
        "initial_volume": D("0.10"),
        "volume": D("0.10"),
        "price": D("1.0"),
        "stoplimit": D(0),
        "sl": D(0),
        "tp": D(0),
        "magic": MAGIC,
        "comment": comment,
        "time_msc": 1,
        "expiration_msc": 0,
    }
    return Order(**{**fields, **more})


def deal(entry: Entry, volume: str = "0.10", reason: int = 3) -> Deal:
    return Deal(1, 2, 501, entry, entry is Entry.IN, D(volume), D("1.1"), D(0), reason, MAGIC, "", 5)


def look(
    *copies: Copy,
    things: tuple[Position | Order, ...] = (),
    evidence: Evidence | None = None,
    waited: float = 0.0,
    by_tag: tuple[Copy, ...] = (),
    trades: tuple[Trade, ...] = (),
    ordered: str = "",
    at: int = 1,
) -> Observation:
    """`ordered`: the lots that each position's opening order asked for, and when; empty = the history does not tell."""
    positions = tuple(thing for thing in things if isinstance(thing, Position))
    orders = tuple(thing for thing in things if isinstance(thing, Order))
    books = dict(whole(Held(trade, 0, 0.0)) for trade in trades)
    return observe(
        copies,
        Reading(ACCOUNT, positions, orders),
        {copy.key: evidence for copy in copies} if evidence else {},
        {copy.key: waited for copy in copies},
        {thing.identifier: copy for thing in things for copy in by_tag if copy.tag == thing.comment},
        books,
        MAGIC,
        {
            p.identifier: PastOrder(
                p.identifier, p.identifier, OrderEnd.FILLED, p.symbol, p.action, D(ordered), p.volume, MAGIC, "", at
            )
            for p in positions
            if ordered
        },
        told=lambda copy: True,
    )


def test_what_a_copy_had_at_first_is_what_was_opened_since_there_was_nothing() -> None:
    """A broker may close and open a position anew overnight."""
    first, closed, part, anew = (
        replace(deal(entry, lots), time_msc=at)
        for at, (entry, lots) in enumerate(
            ((Entry.IN, "0.60"), (Entry.OUT, "0.60"), (Entry.IN, "0.20"), (Entry.IN, "0.40"))
        )
    )
    rest = replace(deal(Entry.OUT, "0.10"), time_msc=9)
    assert Evidence(deals=(first,)).at_first == D("0.60")
    assert Evidence(deals=(rest, first)).at_first == D("0.60")
    assert Evidence(deals=(anew, part, closed, first, rest)).at_first == D("0.60")


def news(*copies: Copy, **more: Any) -> Any:
    (only,) = look(*copies, **more).news
    return only


# --- tags ------------------------------------------------------------------------------------------------------------

KEYS = st.tuples(
    st.from_regex(r"[A-Za-z0-9_.-]{3,64}", fullmatch=True),
    st.sampled_from(Kind),
    st.integers(1, LAST_TICKET) | st.integers(FIRST_SERVER_TICKET, FIRST_SERVER_TICKET + 9),
    st.just(0) | st.integers(1, 10_000),
)


@given(KEYS)
def test_a_tag_is_at_most_16_ascii_characters_and_always_the_same(key: CopyKey) -> None:
    tag = tag_of(key)
    assert tag.isascii()
    assert 3 <= len(tag) <= 16
    assert tag == tag_of(key)


@given(KEYS, KEYS)
def test_tags_of_one_master_differ(one: CopyKey, other: CopyKey) -> None:
    assert (tag_of(one) == tag_of((one[0], *other[1:]))) == (one[1:] == other[1:])


# --- finding an order whose outcome is not known ----------------------------------------------------------------------


def test_an_order_is_found_by_its_ticket_even_among_others_like_it() -> None:
    found = news(replace(COPY, order=502), things=(shown(501), shown(502)))
    assert isinstance(found, Seen)
    assert found.ticket == 502


def test_an_order_is_found_by_its_tag_even_among_others_like_it() -> None:
    found = news(COPY, things=(shown(501), shown(502, COPY.tag)))
    assert isinstance(found, Seen)
    assert found.ticket == 502


def test_an_order_whose_comment_the_broker_replaced_is_found_by_its_likeness() -> None:
    assert news(COPY, things=(shown(501, "FX-9981"),)).ticket == 501


@pytest.mark.parametrize(
    "thing",
    [
        shown(500),  # was there before the order was sent
        shown(symbol="GBPUSD"),
        shown(action=Action.SELL),
        shown(volume=D("0.11")),
        shown(magic=0),
        shown(magic=8),
        shown(comment=tag_of(("m", Kind.POSITION, 99))),  # is another trade's copy
        pending(),
    ],
)
def test_what_cannot_be_it_is_not_taken_for_it(thing: Position | Order) -> None:
    assert look(COPY, things=(thing,)).news == ()


def test_two_that_are_alike_are_nobodys() -> None:
    seen = look(COPY, things=(shown(501), shown(502)))
    assert seen.news == ()
    assert len(seen.strangers) == 2


def test_what_has_all_the_lots_of_one_order_is_not_taken_for_a_part_of_a_larger_one() -> None:
    larger = replace(COPY, ticket=98, tag=tag_of(("m", Kind.POSITION, 98)), volume=D("0.20"))
    seen = look(COPY, larger, things=(shown(501, "#"), shown(502, "#", volume=D("0.20"))))
    assert {(news.copy.ticket, news.ticket) for news in seen.news if isinstance(news, Seen)} == {
        (COPY.ticket, 501),
        (98, 502),
    }
    assert seen.strangers == ()


def test_what_became_of_an_order_that_is_known_is_not_taken_for_another() -> None:
    known = replace(
        COPY, ticket=98, tag=tag_of(("m", Kind.POSITION, 98)), state=State.OPEN, current=D("0.10"),
        client_kind=Kind.ORDER, client_ticket=501,
    )  # fmt: skip
    seen = look(COPY, known, things=(shown(501, "#"),), ordered="0.10")
    assert [(news.copy.ticket, news.ticket) for news in seen.news if isinstance(news, Seen)] == [(98, 501)]


def test_what_was_ordered_before_this_order_was_sent_did_not_come_of_it() -> None:
    """It filled late: of a ledger that was lost, or an order that was given up."""
    sent = replace(COPY, quoted_msc=100_000)
    assert look(sent, things=(shown(),), ordered="0.10", at=97_000).news == ()
    assert news(sent, things=(shown(),), ordered="0.10", at=99_000).copy == sent
    pending_one = replace(sent, kind=Kind.ORDER, action=Action.BUY_LIMIT)
    assert look(pending_one, things=(pending(time_msc=97_000),)).news == ()
    assert news(pending_one, things=(pending(time_msc=100_000),)).copy == pending_one


def test_what_may_be_of_two_orders_is_nobodys() -> None:
    other = replace(COPY, ticket=98, tag=tag_of(("m", Kind.POSITION, 98)))
    seen = look(COPY, other, things=(shown(501, "#", volume=D("0.04")),), ordered="0.10")
    assert seen.news == ()
    assert len(seen.strangers) == 1


def test_a_fill_of_part_of_the_volume_is_found_when_the_history_has_its_order() -> None:
    part = shown(volume=D("0.04"))
    assert news(COPY, things=(part,), ordered="0.10").volume == D("0.04")
    assert look(COPY, things=(part,)).news == ()


def test_what_another_order_asked_for_is_no_part_of_this_one() -> None:
    assert look(COPY, things=(shown(volume=D("0.04")),), ordered="0.04").news == ()
    assert look(COPY, things=(shown(),), ordered="0.20").news == ()


def test_an_order_given_up_is_found_by_its_tag_only() -> None:
    given_up = replace(COPY, state=State.UNKNOWN)
    assert look(given_up, things=(shown(501),)).news == ()
    assert news(given_up, things=(shown(501, COPY.tag),)).ticket == 501


def test_a_part_of_an_order_is_not_what_became_of_one_that_was_given_up() -> None:
    given_up = replace(COPY, ticket=99, tag=tag_of(("m", Kind.POSITION, 99)), state=State.UNKNOWN, volume=D("0.04"))
    seen = look(given_up, COPY, things=(shown(volume=D("0.04")),))
    assert seen.news == ()
    assert len(seen.strangers) == 1
    assert news(given_up, COPY, things=(shown(),)).copy == COPY
    assert news(given_up, COPY, things=(shown(volume=D("0.04")),), ordered="0.10").copy == COPY


def test_a_pending_order_is_found_as_an_order_or_as_the_position_it_became() -> None:
    copy = replace(COPY, kind=Kind.ORDER, action=Action.BUY_LIMIT)
    assert news(copy, things=(pending(),)).kind is Kind.ORDER
    assert news(copy, things=(shown(),)).kind is Kind.POSITION


def test_an_open_without_a_trace_is_given_up_only_after_good_readings_for_the_whole_time() -> None:
    assert look(COPY, waited=PATIENCE_S - 0.01).news == ()
    end = news(COPY, waited=PATIENCE_S)
    assert isinstance(end, Ended)
    assert end.state is State.UNKNOWN


def test_an_open_that_was_closed_before_it_was_seen_is_not_opened_again() -> None:
    past = PastOrder(501, 501, OrderEnd.FILLED, "EURUSD", Action.BUY, D("0.10"), D("0.10"), MAGIC, COPY.tag, 1)
    end = news(COPY, evidence=Evidence(past, (deal(Entry.IN), deal(Entry.OUT, reason=4))))
    assert end.state is State.CLOSED_BY_CLIENT
    assert "stop loss" in end.detail


def test_an_order_that_the_broker_cancelled_unfilled_has_failed() -> None:
    past = PastOrder(501, 0, OrderEnd.CANCELLED, "EURUSD", Action.BUY, D("0.10"), D(0), MAGIC, COPY.tag, 1)
    assert news(COPY, evidence=Evidence(past)).state is State.FAILED


def test_an_order_that_filled_in_part_before_it_was_cancelled_has_not_failed() -> None:
    past = PastOrder(501, 501, OrderEnd.CANCELLED, "EURUSD", Action.BUY, D("0.10"), D("0.04"), MAGIC, COPY.tag, 1)
    assert look(COPY, evidence=Evidence(past, (deal(Entry.IN, "0.04"),))).news == ()


# --- open copies -----------------------------------------------------------------------------------------------------


def test_a_copy_that_is_shown_as_known_is_no_news() -> None:
    assert look(OPEN, things=(shown(),)) == Observation()


def test_another_volume_is_news() -> None:
    assert news(OPEN, things=(shown(volume=D("0.05")),)).volume == D("0.05")


def test_a_copy_that_is_not_shown_is_in_doubt_until_a_deal_or_time_proves_its_end() -> None:
    assert look(OPEN, waited=PATIENCE_S - 0.01).doubt == (OPEN,)
    assert look(OPEN, evidence=Evidence(None, (deal(Entry.IN),))).doubt == (OPEN,)
    assert look(OPEN, evidence=Evidence(None, (deal(Entry.IN), deal(Entry.OUT, "0.09")))).doubt == (OPEN,)
    assert look(OPEN, evidence=Evidence(None, (deal(Entry.OUT),))).doubt == (OPEN,)  # of an earlier partial close?
    by_deal = news(OPEN, evidence=Evidence(None, (deal(Entry.IN), deal(Entry.OUT, reason=5))))
    assert (by_deal.state, by_deal.deal.reason) == (State.CLOSED_BY_CLIENT, 5)
    assert news(OPEN, waited=PATIENCE_S).state is State.CLOSED_BY_CLIENT


def test_the_end_of_a_copy_that_was_being_closed_is_no_deed_of_the_clients() -> None:
    closing = replace(OPEN, state=State.CLOSING)
    assert news(closing, evidence=Evidence(None, (deal(Entry.IN), deal(Entry.OUT)))).state is State.CLOSED


def test_several_deals_that_closed_part_each_prove_the_end_together() -> None:
    deals = (deal(Entry.IN), deal(Entry.OUT, "0.04"), deal(Entry.OUT_BY, "0.06"))
    assert news(OPEN, evidence=Evidence(None, deals)).state is State.CLOSED_BY_CLIENT


def test_a_pending_order_that_filled_is_seen_as_its_position() -> None:
    copy = replace(OPEN, kind=Kind.ORDER, client_kind=Kind.ORDER)
    found = news(copy, things=(shown(501),))
    assert (found.kind, found.ticket) == (Kind.POSITION, 501)


def test_a_pending_order_that_filled_under_another_ticket_is_found_through_the_history() -> None:
    copy = replace(OPEN, kind=Kind.ORDER, client_kind=Kind.ORDER)
    past = PastOrder(501, 777, OrderEnd.FILLED, "EURUSD", Action.BUY, D("0.10"), D("0.10"), MAGIC, "", 1)
    found = news(copy, things=(shown(777),), evidence=Evidence(past))
    assert (found.kind, found.ticket) == (Kind.POSITION, 777)


@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        (OrderEnd.CANCELLED, State.CLOSED_BY_CLIENT, Reason.CLOSED_BY_CLIENT),
        (OrderEnd.EXPIRED, State.CLOSED, Reason.EXPIRED),
    ],
)
def test_a_pending_order_that_was_deleted_or_expired_has_ended(end: OrderEnd, state: State, reason: Reason) -> None:
    copy = replace(OPEN, kind=Kind.ORDER, client_kind=Kind.ORDER)
    past = PastOrder(501, 0, end, "EURUSD", Action.BUY, D("0.10"), D(0), MAGIC, "", 1)
    ended = news(copy, evidence=Evidence(past))
    assert (ended.state, ended.reason) == (state, reason)


def test_a_reduction_is_done_when_the_volume_is_reached_and_planned_anew_when_it_left_no_trace() -> None:
    copy = replace(OPEN, reduce_to=D("0.06"))
    assert look(copy, things=(shown(),), waited=PATIENCE_S - 0.01).news == ()
    assert news(copy, things=(shown(),), waited=PATIENCE_S) == Reduced(copy, done=False)
    seen = look(copy, things=(shown(volume=D("0.06")),)).news
    assert seen[-1] == Reduced(copy, done=True)


# --- what has our magic and belongs to nobody ------------------------------------------------------------------------


def trade(kind: Kind = Kind.POSITION) -> Trade:
    action = Action.BUY if kind is Kind.POSITION else Action.BUY_LIMIT
    return Trade(100, kind, "EURUSD", action, D("0.10"), D("0.10"), D("1.1"), master="m")


def test_the_copies_of_a_lost_ledger_are_adopted_by_their_tags() -> None:
    seen = look(things=(shown(501, COPY.tag),), trades=(trade(),))
    assert [held.key for held, _ in seen.adopted] == [KEY]
    assert look(things=(shown(501, "x"),), trades=(trade(),)).adopted == ()


def test_a_position_with_the_tag_of_the_pending_order_it_came_from_is_adopted() -> None:
    of_order = tag_of(("m", Kind.ORDER, 100))
    seen = look(things=(shown(501, of_order),), trades=(trade(),))
    assert [held.key for held, _ in seen.adopted] == [KEY]


def test_one_trade_adopts_one_position_and_the_second_is_a_stranger() -> None:
    seen = look(things=(shown(501, COPY.tag), shown(502, COPY.tag)), trades=(trade(),))
    assert (len(seen.adopted), len(seen.strangers)) == (1, 1)
    seen = look(OPEN, things=(shown(501), shown(502, COPY.tag)), trades=(trade(),), by_tag=(OPEN,))
    assert (seen.adopted, len(seen.strangers)) == ((), 1)


def test_a_copy_that_had_ended_and_is_shown_again_is_taken_up_again() -> None:
    ended = replace(COPY, state=State.CLOSED)
    seen = look(things=(shown(501, COPY.tag),), by_tag=(ended,))
    assert [type(n) for n in seen.news] == [Seen]


def test_only_live_copies_that_the_reading_does_not_show_are_asked_about() -> None:
    reading = Reading(ACCOUNT, (shown(501),), ())
    gone = replace(OPEN, ticket=101, client_ticket=601)
    ended = replace(OPEN, ticket=102, client_ticket=602, state=State.CLOSED)
    order = replace(OPEN, ticket=103, client_kind=Kind.ORDER)  # its ticket is a position now
    assert unseen([OPEN, gone, ended, order, COPY], reading) == [gone, order, COPY]
