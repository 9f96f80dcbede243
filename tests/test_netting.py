"""A follower's netting account: what the sum of a symbol, its deals and its orders say of the copies it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest
from follower import MAGIC, position

from account import PATIENCE_S, Account, Deal, Entry, MarginMode, Order, OrderEnd, PastOrder, Position, Reading
from copies import Copy, Ended, Evidence, Reduced, Seen, State, tag_of
from legs import whole
from mirror import Held
from netting import (
    Look,
    NetSeen,
    busy_symbols,
    could_be_of,
    gone_orders,
    is_asked_about,
    is_like,
    lots_of,
    observe_net,
    ours,
    part_of,
    questioned,
    stops_of,
)
from safety import Reason
from signals import Action, Increase, Kind, Trade

ACCOUNT = Account(1, "Sim", "USD", 100, D(10000), D(10000), D(10000), MarginMode.NETTING)
POSITION = 900  # identifier of the symbol's position
IMPATIENT = PATIENCE_S


def copy(ticket: int = 1, action: str = "BUY", lots: str = "0.10", **more: Any) -> Copy:
    """An open part of the position."""
    kind = Action(action).kind
    fields: dict[str, Any] = {
        "state": State.OPEN, "symbol": "EURUSD", "volume": D(lots), "master_volume": D(lots), "current": D(lots),
        "client_kind": kind, "client_ticket": POSITION, "after_ticket": 500, "net_before": D(0), **more,
    }  # fmt: skip
    tag = tag_of(("master_user", kind, ticket, 0))
    return Copy(master="master_user", kind=kind, ticket=ticket, tag=tag, action=Action(action), magic=MAGIC, **fields)


def opening(action: str = "BUY", lots: str = "0.10", before: str = "0", **more: Any) -> Copy:
    """One whose order was sent when the symbol had `before` lots."""
    fields = {"state": State.OPENING, "client_kind": None, "client_ticket": 0, "current": D(0), **more}
    return copy(2, action, lots, net_before=D(before), **fields)


def trimming(lots: str = "0.10", to: str = "0", before: str = "0.10", **more: Any) -> Copy:
    """One of which a part is being closed, or all."""
    state = State.OPEN if D(to) else State.CLOSING
    return copy(lots=lots, **{"state": state, "reduce_to": D(to), "net_before": D(before), **more})


def pending(ticket: int = 7, action: str = "BUY_LIMIT", **more: Any) -> Copy:
    """The copy of a pending order, with the ticket 800 on the account."""
    return copy(ticket, action, **{"client_ticket": 800, **more})


def placing(**more: Any) -> Copy:
    fields = {"state": State.OPENING, "client_kind": None, "client_ticket": 0, "current": D(0), **more}
    return pending(**fields)


def held(lots: str, symbol: str = "EURUSD") -> Position:
    volume = D(lots)
    action = Action.BUY if volume > 0 else Action.SELL
    return Position(POSITION, POSITION, symbol, action, abs(volume), D("1.1"), D(0), D(0), MAGIC, "", 1, D(0))


def standing(lots: str = "0.10", of: str = "0.10", ticket: int = 800, comment: str = "", **more: Any) -> Order:
    fields: dict[str, Any] = {"action": Action.BUY_LIMIT, "magic": MAGIC, "symbol": "EURUSD", **more}
    return Order(
        ticket=ticket, initial_volume=D(of), volume=D(lots), price=D("1.0"), stoplimit=D(0), sl=D(0), tp=D(0),
        comment=comment, time_msc=1, expiration_msc=0, **fields,
    )  # fmt: skip


def deal(lots: str, order: int = 0, comment: str = "", at: int = 5, price: str = "1.2", **more: Any) -> Deal:
    """Bought, or sold when the lots are below 0."""
    volume = D(lots)
    fields: dict[str, Any] = {"reason": 3, "magic": MAGIC, **more}
    return Deal(
        1, order, POSITION, Entry.IN, volume > 0, abs(volume), D(price), D(0), comment=comment, time_msc=at, **fields
    )


def past(end: OrderEnd, filled: str = "0", ticket: int = 600, position_id: int = POSITION) -> PastOrder:
    return PastOrder(ticket, position_id, end, "EURUSD", Action.BUY, D("0.10"), D(filled), MAGIC, "", 1)


def observe(
    *copies: Copy,
    account: tuple[Position | Order, ...] = (),
    evidence: Evidence | None = None,
    proofs: Mapping[Any, Evidence] | None = None,
    history: tuple[Deal, ...] | None = None,
    waited: float = 0.0,
    contradicted: float = 0.0,
    foreign: Mapping[str, D] | None = None,
    remembered: Mapping[str, Copy] | None = None,
    orders: Mapping[int, Copy] | None = None,
    trades: tuple[Trade, ...] = (),
    legs: tuple[Trade, ...] = (),
    books_known: bool = True,
) -> NetSeen:
    reading = Reading(
        ACCOUNT,
        tuple(thing for thing in account if isinstance(thing, Position)),
        tuple(thing for thing in account if isinstance(thing, Order)),
    )
    look = Look(
        reading,
        proofs or ({} if evidence is None else {one.key: evidence for one in copies}),
        {} if history is None else {"EURUSD": history},
        {one.key: waited for one in copies},
        {"EURUSD": contradicted},
        foreign or {},
        remembered or {},
        orders or {},
    )
    books = dict(whole(Held(trade, 0, 0.0)) for trade in trades)
    books |= {(*held.trade_key, 1): held for held in (Held(trade, 0, 0.0, leg=1) for trade in legs)}
    return observe_net(copies, look, books, MAGIC, books_known=books_known, told=lambda copy: True)


def news(seen: NetSeen) -> list[Any]:
    """What a look has to tell, in short: (Seen, lots), (state) or (Reduced, done)."""
    short: list[Any] = []
    for item in seen.observation.news:
        match item:
            case Seen():
                short.append((item.copy.ticket, str(item.kind), str(item.volume)))
            case Ended():
                short.append((item.copy.ticket, str(item.state)))
            case Reduced():
                short.append((item.copy.ticket, item.done, *([str(item.left)] if item.left is not None else [])))
    return short


NOTHING_YET = ([], frozenset({"EURUSD"}))


def nothing_yet(seen: NetSeen) -> bool:
    """It waits: no news, and no order of the symbol may be sent."""
    return (news(seen), seen.blocked) == NOTHING_YET


# --- an order that was sent: the sum shows what became of it ---------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "before", "now"),
    [("BUY", "0", "0.10"), ("SELL", "0", "-0.10"), ("BUY", "0.50", "0.60"), ("SELL", "0.50", "0.40"),
     ("BUY", "-0.05", "0.05")],
)  # fmt: skip
def test_an_order_has_filled_when_the_symbol_has_exactly_its_lots_more(action: str, before: str, now: str) -> None:
    others = [copy(1, "BUY" if D(before) > 0 else "SELL", str(abs(D(before))))] if D(before) else []
    seen = observe(*others, opening(action, before=before), account=(held(now),))
    assert news(seen) == [(2, "position", "0.10")]
    assert seen.observation.news[0].ticket == POSITION  # type: ignore[union-attr]
    assert seen.blocked == frozenset()


@pytest.mark.parametrize("now", ["0.05", "0.15", "-0.10"])
def test_an_order_is_waited_for_while_the_symbol_has_other_lots(now: str) -> None:
    assert nothing_yet(observe(opening(), account=(held(now),)))
    assert nothing_yet(observe(opening()))


def test_an_order_that_shows_in_part_only_is_believed_after_a_while() -> None:
    assert news(observe(opening(), account=(held("0.04"),), waited=IMPATIENT)) == [(2, "position", "0.04")]


@pytest.mark.parametrize("now", ["0.15", "-0.10", "0.00"])
def test_an_order_of_which_there_is_no_trace_is_given_up_after_a_while(now: str) -> None:
    account = (held(now),) if D(now) else ()
    seen = observe(opening(), account=account, waited=IMPATIENT, contradicted=0.0)
    assert news(seen) == [(2, "unknown")]
    (end,) = seen.observation.news
    assert isinstance(end, Ended)
    assert end.reason is Reason.OUTCOME_UNKNOWN
    assert nothing_yet(observe(opening(), account=account, waited=IMPATIENT - 0.1))


def test_an_order_that_was_given_up_is_not_found_in_the_sum() -> None:
    """What came later may be anybody's."""
    given_up = opening(state=State.UNKNOWN)
    seen = observe(given_up, account=(held("0.10"),), history=(deal("0.10", magic=0),))
    assert news(seen) == []
    assert seen.foreign == {"EURUSD": D("0.10")}


def test_the_sum_shows_the_order_that_is_waited_for_and_not_the_one_that_was_given_up() -> None:
    given_up = replace(opening(state=State.UNKNOWN), ticket=3)
    assert news(observe(given_up, opening(), account=(held("0.10"),))) == [(2, "position", "0.10")]


def test_the_ticket_that_the_history_told_is_handed_on() -> None:
    proof = Evidence(past(OrderEnd.FILLED, "0.10"), (deal("0.10", 600),))
    (opened,) = observe(opening(), account=(held("0.10"),), evidence=proof).observation.news
    proof = Evidence(past(OrderEnd.FILLED, "0.04", 601), (deal("-0.04", 601),))
    (reduced,) = observe(trimming(to="0.06"), account=(held("0.06"),), evidence=proof).observation.news
    (failed,) = observe(
        trimming(to="0.06"), account=(held("0.10"),), evidence=Evidence(past(OrderEnd.CANCELLED, ticket=602))
    ).observation.news
    told = [item.order for item in (opened, reduced, failed) if not isinstance(item, Ended)]
    assert told == [600, 601, 602]


@pytest.mark.parametrize(
    ("sent", "changes", "fits"),
    [
        (opening(), {}, True),
        (opening(), {"ticket": 500}, False),
        (opening(), {"action": Action.SELL}, False),
        (opening(), {"action": None}, False),
        (trimming(), {"action": Action.SELL}, True),
        (trimming(), {}, False),
        (trimming(to="0.04"), {"action": Action.SELL}, False),
        (trimming(to="0.04"), {"action": Action.SELL, "volume": D("0.06")}, True),
        (trimming(to="0.04"), {"action": Action.SELL, "volume": D("0.06"), "ticket": 500}, False),
    ],
)
def test_of_the_orders_with_a_copys_comment_one_can_be_that_which_is_waited_for(
    sent: Copy, changes: dict[str, Any], fits: bool
) -> None:
    assert could_be_of(sent, replace(past(OrderEnd.FILLED), **changes)) is fits


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"comment": "changed by the broker"}, True),
        ({"comment": tag_of(("master_user", Kind.ORDER, 8, 0))}, False),
        ({"ticket": 500}, False),
        ({"symbol": "GBPUSD"}, False),
        ({"action": Action.SELL_LIMIT}, False),
        ({"volume": D("0.20")}, False),
    ],
)
def test_an_order_without_its_comment_is_like_the_pending_order_that_is_waited_for(
    changes: dict[str, Any], fits: bool
) -> None:
    alike = replace(past(OrderEnd.FILLED), **{"action": Action.BUY_LIMIT, **changes})
    assert is_like(placing(), alike) is fits


def test_of_two_orders_at_once_the_sum_shows_neither() -> None:
    """Which is not sent, but a pending order may fill at any time."""
    one, other = opening("BUY", "0.10"), replace(opening("SELL", "0.10"), ticket=3)
    assert nothing_yet(observe(one, other, account=(held("0.10"),)))
    assert nothing_yet(observe(pending(), opening("BUY", "0.10"), account=(held("0.10"),)))


def test_while_the_broker_is_still_at_it_nothing_is_concluded() -> None:
    waits = replace(opening(), order=600)
    shown = standing(ticket=600, action=Action.BUY)
    assert nothing_yet(observe(waits, account=(shown, held("0.10")), waited=IMPATIENT))
    by_tag = standing(ticket=601, action=Action.BUY, comment=waits.tag)
    assert nothing_yet(observe(replace(waits, order=0), account=(by_tag, held("0.10")), waited=IMPATIENT))


@pytest.mark.parametrize(("to", "found"), [("0", [(1, "closed")]), ("0.04", [(1, True, "0.04")])])
def test_a_close_or_reduction_shows_in_the_sum(to: str, found: list[Any]) -> None:
    other = copy(3, lots="0.50")
    left = D("0.50") + D(to)
    seen = observe(trimming(to=to, before="0.60"), other, account=(held(str(left)),))
    assert news(seen) == found
    assert seen.blocked == frozenset()


def test_what_pending_orders_have_filled_since_an_order_was_sent_is_not_taken_for_its_doing() -> None:
    filled = (copy(7, "SELL_LIMIT", "0.28"), copy(8, "BUY_STOP", "0.05"))
    filled = tuple(replace(one, client_kind=Kind.POSITION) for one in filled)
    sent = trimming("0.27", before="0.27")
    seen = observe(sent, *filled, account=(held("0.04"),), waited=IMPATIENT)
    assert news(seen) == [(1, False)]
    assert (seen.foreign, seen.blocked) == ({}, frozenset())
    assert news(observe(sent, *filled, account=(held("-0.23"),))) == [(1, "closed")]
    bought = opening(lots="0.10", before="0.27")
    assert nothing_yet(observe(bought, copy(1, lots="0.27"), *filled[1:], account=(held("0.32"),)))
    assert news(observe(bought, copy(1, lots="0.27"), *filled[1:], account=(held("0.42"),))) == [
        (2, "position", "0.10")
    ]


def test_a_sold_copy_is_closed_by_buying() -> None:
    short = copy(1, "SELL", state=State.CLOSING, reduce_to=D(0), net_before=D("0.40"))
    assert news(observe(short, copy(3, lots="0.50"), account=(held("0.50"),))) == [(1, "closed")]


def test_a_close_that_shows_in_part_is_believed_after_a_while_and_the_rest_is_planned_anew() -> None:
    half_closed = observe(trimming(before="0.10"), account=(held("0.06"),), waited=IMPATIENT)
    assert news(half_closed) == [(1, True, "0.06")]


def test_a_close_that_left_no_trace_is_planned_anew_after_a_while() -> None:
    seen = observe(trimming(), account=(held("0.10"),), waited=IMPATIENT)
    assert news(seen) == [(1, False)]
    assert seen.blocked == frozenset()
    assert nothing_yet(observe(trimming(), account=(held("0.10"),), waited=IMPATIENT - 0.1))


@pytest.mark.parametrize("waited", [0.0, IMPATIENT])
@pytest.mark.parametrize("sent", [trimming(), opening("SELL", before="0.10"), opening("SELL", "0.20", before="0.10")])
def test_an_account_that_shows_nothing_is_no_witness(sent: Copy, waited: float) -> None:
    others = () if sent.state is State.CLOSING else (copy(lots="0.10"),)
    seen = observe(sent, *others, history=(deal("0.10"),), waited=waited)
    assert not any(isinstance(item, Seen) or getattr(item, "state", "") == "closed" for item in seen.observation.news)
    assert seen.blocked == {"EURUSD"}


@pytest.mark.parametrize("sent", [trimming(), opening("SELL", before="0.10")])
def test_an_account_that_shows_nothing_is_believed_when_its_deals_say_the_same(sent: Copy) -> None:
    others = () if sent.state is State.CLOSING else (copy(lots="0.10"),)
    seen = observe(sent, *others, history=(deal("0.10"), deal("-0.10", 600)))
    assert news(seen) == ([(1, "closed")] if sent.state is State.CLOSING else [(2, "position", "0.10")])
    assert seen.blocked == frozenset()


# --- an order that was sent: the history shows what became of it -----------------------------------------------------


def test_the_deals_of_an_order_are_all_that_counts_where_they_are_known() -> None:
    """The follower has bought as well meanwhile."""
    evidence = Evidence(past(OrderEnd.FILLED, "0.10"), (deal("0.30", 599), deal("0.04", 600), deal("0.06", 600, at=6)))
    seen = observe(opening(), account=(held("0.40"),), evidence=evidence, history=evidence.deals)
    assert news(seen) == [(2, "position", "0.10")]
    assert seen.foreign == {"EURUSD": D("0.30")}


@pytest.mark.parametrize(("end", "filled"), [(OrderEnd.CANCELLED, "0.06"), (OrderEnd.FILLED, "0.06")])
def test_an_order_that_filled_in_part_is_a_copy_of_that_part(end: OrderEnd, filled: str) -> None:
    evidence = Evidence(past(end, filled), (deal(filled, 600),))
    seen = observe(opening(), account=(held(filled),), evidence=evidence)
    assert news(seen) == [(2, "position", "0.06")]


def test_an_order_whose_deals_are_not_there_yet_filled_what_it_says() -> None:
    seen = observe(opening(), account=(held("0.10"),), evidence=Evidence(past(OrderEnd.FILLED, "0.10")))
    assert news(seen) == [(2, "position", "0.10")]


def test_an_order_that_the_history_has_not_decided_is_waited_for() -> None:
    seen = observe(opening(), evidence=Evidence(past(OrderEnd.UNDECIDED), (deal("0.10", 600),)))
    assert nothing_yet(seen)


@pytest.mark.parametrize("end", [OrderEnd.CANCELLED, OrderEnd.EXPIRED])
def test_an_order_that_the_broker_ended_without_a_fill_is_a_failure(end: OrderEnd) -> None:
    seen = observe(opening(), evidence=Evidence(past(end), ()))
    assert news(seen) == [(2, "failed")]
    assert seen.blocked == frozenset()


def test_a_close_that_the_broker_ended_without_a_fill_is_planned_anew() -> None:
    seen = observe(trimming(), account=(held("0.10"),), evidence=Evidence(past(OrderEnd.CANCELLED), ()))
    assert news(seen) == [(1, False)]


def test_a_close_is_as_large_as_its_deals() -> None:
    evidence = Evidence(past(OrderEnd.FILLED, "0.07"), (deal("-0.07", 600),))
    seen = observe(trimming(), account=(held("0.03"),), evidence=evidence)
    assert news(seen) == [(1, True, "0.03")]


def test_a_close_tells_its_price() -> None:
    evidence = Evidence(past(OrderEnd.FILLED, "0.10"), (deal("-0.10", 600, price="1.3"), deal("0.10", 599, at=9)))
    (end,) = observe(trimming(), evidence=evidence).observation.news
    assert isinstance(end, Ended)
    assert end.reason is Reason.MASTER_CLOSED
    assert end.deal is not None
    assert end.deal.price == D("1.3")


def test_an_order_that_was_given_up_and_fills_late_is_taken_up() -> None:
    evidence = Evidence(past(OrderEnd.FILLED, "0.10"), (deal("0.10", 600),))
    seen = observe(opening(state=State.UNKNOWN), account=(held("0.10"),), evidence=evidence)
    assert news(seen) == [(2, "position", "0.10")]
    assert seen.foreign == {}


def test_an_order_that_was_given_up_and_ends_without_a_fill_stays_given_up() -> None:
    seen = observe(opening(state=State.UNKNOWN), evidence=Evidence(past(OrderEnd.CANCELLED)), waited=IMPATIENT)
    assert news(seen) == []
    assert news(observe(opening(state=State.UNKNOWN), waited=IMPATIENT)) == []


# --- pending orders --------------------------------------------------------------------------------------------------


def test_a_pending_order_that_was_placed_is_found_by_ticket_tag_or_likeness() -> None:
    sent = placing()
    assert news(observe(replace(sent, order=800), account=(standing(),))) == [(7, "order", "0.10")]
    assert news(observe(sent, account=(standing(comment=sent.tag),))) == [(7, "order", "0.10")]
    assert news(observe(sent, account=(standing(comment="replaced"),))) == [(7, "order", "0.10")]


@pytest.mark.parametrize(
    "other",
    [{"magic": 5}, {"symbol": "GBPUSD"}, {"action": Action.SELL_LIMIT}, {"of": "0.20", "lots": "0.20"}, {"ticket": 499},
     {"action": Action.BUY}],
    ids=str,
)  # fmt: skip
def test_an_order_that_cannot_be_ours_is_not_taken_for_ours(other: dict[str, Any]) -> None:
    assert news(observe(placing(), account=(standing(**other),))) == []


def test_an_order_of_another_copy_is_not_taken_for_ours() -> None:
    assert news(observe(placing(), pending(8), account=(standing(),))) == []


def test_a_pending_order_that_was_given_up_and_shows_later_is_taken_up() -> None:
    sent = placing(state=State.UNKNOWN)
    assert news(observe(sent, account=(standing(comment=sent.tag),))) == [(7, "order", "0.10")]
    vanished = pending(state=State.UNKNOWN, current=D(0))
    assert news(observe(vanished, account=(standing(),))) == [(7, "order", "0.10")]
    assert news(observe(sent, vanished)) == []


def test_a_pending_order_that_is_as_it_was_is_no_news() -> None:
    seen = observe(pending(), account=(standing(),))
    assert (news(seen), seen.blocked, seen.foreign) == ([], frozenset(), {})


def test_what_has_filled_of_a_standing_order_is_ours() -> None:
    seen = observe(pending(), account=(standing("0.06"), held("0.04")), history=(deal("0.04", 800),))
    assert news(seen) == [(7, "order", "0.06")]
    assert seen.foreign == {}
    sold = pending(7, "SELL_LIMIT")
    selling = standing("0.06", action=Action.SELL_LIMIT)
    seen = observe(sold, account=(selling, held("-0.04")), history=(deal("-0.04", 800),))
    assert seen.foreign == {}


def test_a_pending_order_that_filled_is_a_part_of_the_position() -> None:
    evidence = Evidence(past(OrderEnd.FILLED, "0.10", 800), (deal("0.10", 800),))
    seen = observe(pending(), copy(1, lots="0.20"), account=(held("0.30"),), evidence=evidence)
    assert news(seen) == [(7, "position", "0.10")]
    assert seen.observation.news[0].ticket == POSITION  # type: ignore[union-attr]
    assert seen.blocked == frozenset()


def test_a_pending_order_that_filled_in_part_and_was_cancelled_is_that_part() -> None:
    evidence = Evidence(past(OrderEnd.CANCELLED, "0.04", 800), (deal("0.04", 800),))
    assert news(observe(pending(), account=(held("0.04"),), evidence=evidence)) == [(7, "position", "0.04")]


@pytest.mark.parametrize(
    ("sent", "state", "reason"),
    [
        (pending(), State.CLOSED_BY_CLIENT, Reason.CLOSED_BY_CLIENT),
        (pending(state=State.CLOSING), State.CLOSED, Reason.MASTER_CLOSED),
        (placing(order=800), State.FAILED, Reason.BROKER_REFUSED),
    ],
    ids=["open", "closing", "opening"],
)
def test_a_pending_order_that_was_cancelled_has_ended(sent: Copy, state: State, reason: Reason) -> None:
    (end,) = observe(sent, evidence=Evidence(past(OrderEnd.CANCELLED, "0", 800))).observation.news
    assert isinstance(end, Ended)
    assert (end.state, end.reason) == (state, reason)


@pytest.mark.parametrize("sent", [pending(), placing()], ids=["vanished", "never seen"])
def test_a_pending_order_without_a_trace_is_given_up_after_a_while_only(sent: Copy) -> None:
    """It may have filled, and then another entry would double it."""
    assert news(observe(sent, waited=IMPATIENT - 0.1)) == []
    assert news(observe(sent, waited=IMPATIENT)) == [(7, "unknown")]


def test_while_a_pending_order_is_gone_without_a_trace_its_symbol_waits() -> None:
    assert nothing_yet(observe(pending(), copy(1), account=(held("0.20"),), history=(deal("0.20"),)))


# --- what was no order of ours ---------------------------------------------------------------------------------------


def test_lots_as_they_should_be_are_no_news() -> None:
    seen = observe(copy(1, lots="0.30"), copy(2, "SELL", "0.10"), account=(held("0.20"),))
    assert (news(seen), seen.blocked, seen.foreign) == ([], frozenset(), {})


def test_an_empty_account_that_no_deal_explains_is_doubted_and_believed_after_a_while() -> None:
    seen = observe(copy(1), history=(deal("0.10"),))
    assert nothing_yet(seen)
    assert [one.ticket for one in seen.observation.doubt] == [1]
    assert nothing_yet(observe(copy(1), contradicted=PATIENCE_S - 0.1))
    assert news(observe(copy(1), contradicted=PATIENCE_S)) == [(1, "closed_by_client")]


def test_what_the_deals_prove_is_believed_at_once() -> None:
    closing = replace(deal("-0.10", comment="", price="1.3"), ticket=2)  # of the same millisecond
    seen = observe(copy(1), history=(deal("0.10"), closing))
    (end,) = seen.observation.news
    assert isinstance(end, Ended)
    assert (end.state, end.deal) == (State.CLOSED_BY_CLIENT, closing)
    assert "1.3" in end.detail
    assert (seen.blocked, seen.observation.doubt) == (frozenset(), ())


def by_hand(*copies: Copy, leaves: str, foreign: str = "0") -> NetSeen:
    """The follower has traded by hand so that the symbol has these lots; the history shows it."""
    account = (held(leaves),) if D(leaves) else ()
    before = {"EURUSD": D(foreign)} if D(foreign) else {}
    return observe(*copies, account=account, history=(deal(leaves),) if D(leaves) else (), foreign=before)


def test_a_part_that_was_closed_by_hand_is_taken_from_the_oldest_copies() -> None:
    copies = copy(1, lots="0.10"), copy(2, lots="0.20"), copy(3, lots="0.30")
    assert news(by_hand(*copies, leaves="0.55")) == [(1, "position", "0.05")]
    assert news(by_hand(*copies, leaves="0.50")) == [(1, "closed_by_client")]
    assert news(by_hand(*copies, leaves="0.35")) == [(1, "closed_by_client"), (2, "position", "0.05")]


def test_a_part_that_was_closed_by_hand_is_taken_from_the_copies_on_that_side() -> None:
    copies = copy(1, "SELL", "0.10"), copy(2, lots="0.40")
    seen = by_hand(*copies, leaves="0.10")
    assert news(seen) == [(2, "position", "0.20")]
    assert seen.foreign == {}


def test_a_part_that_was_bought_back_by_hand_is_taken_from_the_sold_copies() -> None:
    copies = copy(1, lots="0.10"), copy(2, "SELL", "0.40")
    assert news(by_hand(*copies, leaves="-0.10")) == [(2, "position", "0.20")]


def test_a_stop_that_closed_the_position_before_a_pending_order_filled_closes_no_copy_of_that_order() -> None:
    long, short = copy(1, lots="0.30"), pending(7, "SELL_STOP", lots="0.20")
    seen = observe(
        long, short, account=(held("-0.20"),), evidence=Evidence(past(OrderEnd.FILLED, "0.20", 800)),
        history=(deal("0.30"), deal("-0.30", reason=4), deal("-0.20", 800)),
    )  # fmt: skip
    assert news(seen) == [(7, "position", "0.20"), (1, "closed_by_client")]
    assert seen.foreign == {}


def test_a_stop_that_closed_copies_of_both_sides_leaves_what_has_filled_since() -> None:
    long, short, new = copy(1, lots="0.30"), copy(2, "SELL", "0.10"), pending(7, "SELL_STOP", lots="0.20")
    seen = observe(
        long, short, new, account=(held("-0.20"),), history=(deal("0.20"), deal("-0.20", reason=4), deal("-0.20", 800)),
        proofs={new.key: Evidence(past(OrderEnd.FILLED, "0.20", 800))},
    )  # fmt: skip
    assert news(seen) == [(7, "position", "0.20"), (1, "closed_by_client"), (2, "closed_by_client")]
    assert seen.foreign == {}


def test_a_change_that_is_exactly_one_sides_copies_closes_those_and_no_other() -> None:
    """The position was closed while an order had no answer, and one on the other side has filled since."""
    seen = by_hand(copy(1, "SELL", "0.12"), copy(2, lots="0.04"), leaves="0.04")
    assert news(seen) == [(1, "closed_by_client")]
    assert seen.foreign == {}


def test_a_stop_closes_also_what_an_order_without_an_answer_has_just_added() -> None:
    sold, more = copy(1, "SELL", "0.26"), opening("SELL", "0.03", order=602)
    bought = pending(7, "BUY_STOP", lots="0.19")
    deals = (deal("-0.26", 601), deal("-0.03", 602), deal("0.29", reason=4), deal("0.19", 800))
    reading_ = (held("0.19"),)
    proofs = {
        more.key: Evidence(past(OrderEnd.FILLED, "0.03", 602), deals),
        bought.key: Evidence(past(OrderEnd.FILLED, "0.19", 800), deals),
    }
    seen = observe(sold, more, bought, account=reading_, proofs=proofs, history=deals)
    assert news(seen) == [
        (2, "position", "0.03"), (7, "position", "0.19"), (1, "closed_by_client"), (2, "closed_by_client"),
    ]  # fmt: skip
    assert seen.foreign == {}


def test_nothing_shown_is_no_proof_while_the_history_lacks_an_order_of_ours() -> None:
    """The last order began another position, which the reading lacks though it is there."""
    copies = copy(1, lots="0.24", order=601), copy(2, "SELL", "0.23", order=603)
    deals = (deal("0.24", 601), deal("-0.24", 602))
    assert news(observe(*copies, history=deals)) == []
    known = observe(*copies, history=(*deals, deal("0.01", 603)))
    assert news(known) == [], "with it they do not add up to nothing"
    flat = observe(*copies, history=(*deals, deal("0.01", 603), deal("-0.01", 604)))
    assert news(flat) == [(1, "closed_by_client"), (2, "closed_by_client")]


@pytest.mark.parametrize("leaves", ["0", "-0.05"])
def test_a_symbol_that_was_closed_has_no_copies_any_more(leaves: str) -> None:
    """Also not such as stood against each other: what their master closes later must not open anything."""
    copies = copy(1, lots="0.30"), copy(2, "SELL", "0.10")
    seen = by_hand(*copies, leaves=leaves)
    assert news(seen) == [(1, "closed_by_client"), (2, "closed_by_client")]
    assert seen.foreign == ({"EURUSD": D(leaves)} if D(leaves) else {})


def test_a_close_of_ours_that_somebody_else_finished_is_the_masters() -> None:
    assert news(by_hand(copy(1, state=State.CLOSING), leaves="0")) == [(1, "closed")]


def test_a_close_that_was_not_written_down_is_known_from_its_deals() -> None:
    """The disk was full, and then the copier died."""
    closed, other = copy(1), copy(2, "SELL", "0.40")
    opened = deal("0.10", comment=closed.tag), deal("-0.40", comment=other.tag)
    whole_ = observe(closed, other, account=(held("-0.40"),), history=(*opened, deal("-0.10", comment=closed.tag)))
    assert (news(whole_), whole_.foreign) == ([(1, "closed")], {})
    part = observe(closed, other, account=(held("-0.36"),), history=(*opened, deal("-0.06", comment=closed.tag)))
    assert (news(part), part.foreign) == ([(1, "position", "0.04")], {})


@pytest.mark.parametrize(
    "deals",
    [
        (deal("0.10", comment="p1.f3x"), deal("-0.10", comment="p1.f3x", magic=5)),
        (deal("0.10", comment="p1.f3x"), deal("-0.10", comment="p9.f3x")),
        (deal("0.10", comment="o1.f3x"), deal("-0.10", comment="p1.f3x")),  # it may have opened under another tag
    ],
)
def test_deals_that_are_not_its_own_do_not_say_that_a_copy_was_closed(deals: tuple[Deal, ...]) -> None:
    assert copy(1).tag == "p1.f3x"
    seen = observe(copy(1), copy(2, "SELL", "0.40"), account=(held("-0.40"),), history=(*deals, deal("-0.40")))
    assert news(seen) == []


@pytest.mark.parametrize(
    ("copies", "leaves", "foreign"),
    [
        ((copy(1, lots="0.10"),), "0.60", "0.50"),  # on top
        ((copy(1, "SELL", "0.10"),), "-0.60", "-0.50"),
        ((copy(1, lots="0.10"), copy(2, "SELL", "0.10")), "0.50", "0.50"),  # ours add up to nothing
        ((), "0.50", "0.50"),  # none are ours
        ((), "-0.50", "-0.50"),
    ],
)
def test_what_comes_on_top_is_the_followers_own(copies: tuple[Copy, ...], leaves: str, foreign: str) -> None:
    seen = by_hand(*copies, leaves=leaves)
    assert news(seen) == []
    assert seen.foreign == {"EURUSD": D(foreign)}
    assert seen.blocked == frozenset()


def test_the_followers_own_lots_are_closed_before_ours() -> None:
    ours_ = copy(1, lots="0.30")
    for leaves, found, foreign in (
        ("0.60", [], "0.30"),
        ("0.30", [], "0"),
        ("0.20", [(1, "position", "0.20")], "0"),
        ("-0.10", [(1, "closed_by_client")], "-0.10"),
    ):
        seen = by_hand(ours_, leaves=leaves, foreign="0.50")
        assert (news(seen), seen.foreign) == (found, {"EURUSD": D(foreign)} if D(foreign) else {}), leaves


def test_when_the_follower_closes_his_own_lots_and_the_symbol_is_flat_all_copies_have_ended() -> None:
    copies = copy(1, lots="0.10"), copy(2, "SELL", "0.10")
    seen = by_hand(*copies, leaves="0", foreign="0.20")
    assert news(seen) == [(1, "closed_by_client"), (2, "closed_by_client")]


def test_the_followers_own_lots_on_the_other_side_are_bought_back_before_ours_grow() -> None:
    seen = by_hand(copy(1, lots="0.30"), leaves="0.20", foreign="-0.20")
    assert (news(seen), seen.foreign) == ([], {"EURUSD": D("-0.10")})
    seen = by_hand(copy(1, lots="0.30"), leaves="0.40", foreign="-0.20")
    assert (news(seen), seen.foreign) == ([], {"EURUSD": D("0.10")})


def test_the_followers_own_lots_are_remembered_while_they_are_there() -> None:
    seen = observe(copy(1), account=(held("0.60"),), foreign={"EURUSD": D("0.50"), "GBPUSD": D("1.00")})
    assert seen.foreign == {"EURUSD": D("0.50"), "GBPUSD": D("1.00")}
    assert nothing_yet(observe(foreign={"EURUSD": D("0.50")}, history=(deal("0.50"),)))
    assert observe(foreign={"EURUSD": D("0.50")}, history=(deal("0.50"), deal("-0.50"))).foreign == {}


def test_symbols_are_judged_one_by_one() -> None:
    pound = replace(copy(5), symbol="GBPUSD")
    seen = observe(copy(1), pound, account=(held("0.10", "GBPUSD"),))
    assert seen.blocked == {"EURUSD"}
    assert news(seen) == []


# --- a ledger that was lost ------------------------------------------------------------------------------------------

LONG, SHORT = position(1, "BUY", "0.30"), position(2, "SELL", "0.10")
TAGS = {trade.ticket: tag_of(("master_user", trade.kind, trade.ticket, 0)) for trade in (LONG, SHORT)}
DEALS = (deal("0.30", comment=TAGS[1]), deal("-0.10", comment=TAGS[2]))


def adopted(*deals: Deal, account: str = "0.20", **more: Any) -> NetSeen:
    return observe(account=(held(account),), history=deals, **{"trades": (LONG, SHORT), **more})


def parts(seen: NetSeen) -> list[tuple[int, str]]:
    return [(held_.trade.ticket, str(thing.volume)) for held_, thing in seen.observation.adopted]


def test_a_position_is_taken_up_as_the_copies_that_its_deals_name() -> None:
    seen = adopted(*DEALS)
    assert parts(seen) == [(1, "0.30"), (2, "0.10")]
    assert {thing.identifier for _, thing in seen.observation.adopted} == {POSITION}
    assert (seen.foreign, seen.blocked) == ({}, frozenset())


def test_of_a_copy_that_was_reduced_only_what_is_left_is_taken_up_and_nothing_of_one_that_has_ended() -> None:
    gone = tag_of(("master_user", Kind.POSITION, 99, 0))
    deals = (*DEALS, deal("-0.20", comment=TAGS[1]), deal("0.05", comment=gone), deal("-0.05", comment=gone))
    assert parts(adopted(*deals, deal("-0.05", comment=TAGS[2]), account="-0.05")) == [(1, "0.10"), (2, "0.15")]


def test_the_copy_of_a_trade_that_has_turned_round_is_taken_up_on_the_side_it_has() -> None:
    ((_, thing),) = adopted(deal("-0.30", comment=TAGS[1]), account="-0.30").observation.adopted
    assert (thing.action, thing.volume) == (Action.SELL, D("0.30"))


def test_the_copy_of_a_pending_order_that_filled_is_taken_up_as_that_of_the_position() -> None:
    tag = tag_of(("master_user", Kind.ORDER, 1, 0))
    assert parts(adopted(deal("0.30", comment=tag), account="0.30")) == [(1, "0.30")]


def test_what_was_entered_as_a_pending_order_and_reduced_as_a_position_is_one_copy() -> None:
    tag = tag_of(("master_user", Kind.ORDER, 1, 0))
    seen = adopted(deal("0.30", comment=tag), deal("-0.10", comment=TAGS[1]), account="0.20")
    assert parts(seen) == [(1, "0.20")]
    beside = observe(
        copy(2, "SELL", "0.10"), account=(held("0.10"),), trades=(LONG, SHORT),
        history=(DEALS[1], deal("0.30", comment=tag), deal("-0.10", comment=TAGS[1], at=6)),
    )  # fmt: skip
    assert parts(beside) == [(1, "0.20")]


def test_parts_of_one_trade_that_stand_against_each_other_are_one_copy() -> None:
    """The copy of a pending order that became a later leg was entered with one tag and reduced with another."""
    order = deal("0.30", comment=tag_of(("master_user", Kind.ORDER, 1, 0)))
    reduction = deal("-0.10", comment=tag_of(("master_user", Kind.POSITION, 1, 2)))
    assert parts(adopted(order, reduction, account="0.20")) == [(1, "0.20")]


def test_a_growth_by_a_pending_order_that_the_book_has_no_more_is_a_part_of_the_trade_that_it_made_larger() -> None:
    larger = replace(LONG, increase=Increase(D("0.10"), D("1.1"), 0, 1))
    trades = (larger, SHORT)
    grown = deal("0.10", comment=tag_of(("master_user", Kind.ORDER, 77, 0)))
    assert parts(adopted(deal("0.20", comment=TAGS[1]), grown, account="0.30", trades=trades)) == [(1, "0.30")]
    never = adopted(deal("0.20", comment=TAGS[1]), grown, account="0.30")
    assert parts(never) == [], "a trade that has not grown is another one of his"
    of_another = deal("0.10", comment=tag_of(("somebody_else", Kind.ORDER, 77, 0)))
    for other in (of_another, deal("0.10", comment=tag_of(("master_user", Kind.POSITION, 77, 0)))):
        assert parts(adopted(deal("0.20", comment=TAGS[1]), other, account="0.30", trades=trades)) == []
    both = (larger, replace(SHORT, increase=larger.increase))
    two = adopted(*DEALS, grown, account="0.30", trades=both)
    assert parts(two) == [], "which of the two it has made larger nothing tells"


def test_the_copy_of_a_later_leg_is_taken_up_as_that_leg() -> None:
    leg = deal("0.10", comment=tag_of(("master_user", Kind.POSITION, 1, 3)))
    seen = adopted(deal("0.20", comment=TAGS[1]), leg, account="0.30")
    assert parts(seen) == [(1, "0.20"), (1, "0.10")]
    assert [held_.leg for held_, _ in seen.observation.adopted] == [0, 3]


@pytest.mark.parametrize(
    ("deals", "account", "why"),
    [
        ((DEALS[0],), "0.35", "they do not add up to it"),
        ((deal("0.30", comment="somebody"),), "0.30", "nobody knows the comment"),
        ((deal("0.20", comment=TAGS[1]), deal("0.10")), "0.30", "a part has no comment"),
        ((deal("0.30", comment=TAGS[1], magic=5),), "0.30", "nothing of it has our magic"),
        ((), "0.30", "there are no deals"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_position_that_is_not_proven_to_be_ours_is_not_taken_up(
    deals: tuple[Deal, ...], account: str, why: str
) -> None:
    seen = adopted(*deals, account=account, contradicted=PATIENCE_S)
    assert seen.observation.adopted == ()
    assert seen.foreign == {"EURUSD": D(account)}


def test_what_this_ledger_knows_to_have_ended_is_not_taken_up_again() -> None:
    known = copy(1, state=State.CLOSED_BY_CLIENT, client_kind=None, client_ticket=0)
    seen = adopted(*DEALS, remembered={TAGS[1]: known})
    assert seen.observation.adopted == ()
    assert seen.foreign == {"EURUSD": D("0.20")}


def test_beside_a_copy_that_is_known_another_is_taken_up_when_its_deals_are_what_is_strange() -> None:
    """The broker executed what it said to have refused."""
    known = copy(1, lots="0.30")
    seen = observe(known, account=(held("0.20"),), history=DEALS, trades=(LONG, SHORT))
    assert parts(seen) == [(2, "0.10")]
    assert (news(seen), seen.foreign) == ([], {})
    flat = observe(copy(1, lots="0.10"), history=(deal("0.10"), DEALS[1]), trades=(LONG, SHORT))
    assert parts(flat) == [(2, "0.10")], "also when the symbol is flat with it"


@pytest.mark.parametrize(
    ("lots", "changes"),
    [
        ("0.25", {}),
        ("0.20", {"trades": (LONG,)}),
        ("0.20", {"legs": (SHORT,)}),
        ("0.20", {"remembered": {TAGS[2]: copy(2, "SELL", state=State.CLOSED)}}),
        ("0.20", {"history": (DEALS[0], replace(DEALS[1], magic=0))}),
    ],
    ids=["other lots", "no trade of a master", "several legs", "known to have ended", "not our number"],
)
def test_beside_a_copy_that_is_known_nothing_is_taken_up_without_proof(lots: str, changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"history": DEALS, "trades": (LONG, SHORT), "contradicted": PATIENCE_S, **changes}
    seen = observe(copy(1, lots="0.30"), account=(held(lots),), **fields)
    assert seen.observation.adopted == ()
    assert news(seen) == [(1, "position", lots)]


PLACED = replace(SHORT, kind=Kind.ORDER, ticket=7, action=Action.SELL_LIMIT)
ORDER_TAG = tag_of(("master_user", Kind.ORDER, 7, 0))


def stands(lots: str = "0.10", comment: str = ORDER_TAG) -> Order:
    return standing(lots, comment=comment, action=Action.SELL_LIMIT)


def test_a_pending_order_that_stands_is_taken_up_by_its_tag() -> None:
    seen = observe(account=(stands(),), trades=(PLACED,))
    ((held_, thing),) = seen.observation.adopted
    assert (held_.trade.ticket, thing.kind, thing.identifier) == (7, Kind.ORDER, 800)
    assert (seen.foreign, seen.blocked) == ({}, frozenset())


@pytest.mark.parametrize("whose", [{"comment": ""}, {"trades": ()}], ids=["no comment", "no trade of a master"])
def test_a_pending_order_of_which_nobody_knows_whose_it_is_is_told(whose: dict[str, Any]) -> None:
    thing = stands(comment=whose.get("comment", ORDER_TAG))
    seen = observe(account=(thing,), trades=whose.get("trades", (PLACED,)))
    assert (seen.observation.strangers, seen.observation.adopted) == ((thing,), ())
    strange = observe(account=(standing(magic=5),), trades=(PLACED,))
    assert strange.observation == observe().observation, "another program's orders are nothing to us"


def test_a_pending_order_that_this_ledger_skipped_is_taken_up_when_it_stands_all_the_same() -> None:
    skipped = pending(7, "SELL_LIMIT", state=State.SKIPPED, client_kind=None, client_ticket=0, current=D(0))
    seen = observe(account=(stands(),), trades=(PLACED,), orders={800: skipped})
    assert parts(seen) == [(7, "0.10")]
    gone = observe(account=(stands(),), orders={800: skipped})
    assert (news(gone), parts(gone)) == ([(7, "order", "0.10")], []), "its master's is gone: it is removed"


@pytest.mark.parametrize("remembered", [False, True])
def test_what_has_filled_of_a_pending_order_that_is_taken_up_is_its_own(remembered: bool) -> None:
    skipped = pending(7, "SELL_LIMIT", state=State.SKIPPED, client_kind=None, client_ticket=0, current=D(0))
    filled = deal("-0.04", 800, ORDER_TAG)
    seen = observe(
        account=(stands("0.06"), held("0.26")), history=(DEALS[0], filled), trades=(LONG, PLACED),
        orders={800: skipped} if remembered else {}, remembered={ORDER_TAG: skipped} if remembered else {},
    )  # fmt: skip
    assert sorted(parts(seen)) == [(1, "0.30"), (7, "0.06")]
    assert (seen.foreign, seen.blocked) == ({}, frozenset())


@pytest.mark.parametrize("skipped", [False, True])
def test_what_a_standing_order_has_filled_is_no_copy_beside_it(skipped: bool) -> None:
    """Also where lots of the follower's own are there, so that nothing adds up."""
    known = pending(7, "SELL_LIMIT", state=State.SKIPPED, client_kind=None, client_ticket=0, current=D(0))
    seen = observe(
        account=(stands("0.06"), held("0.16")), history=(deal("0.20", magic=0), deal("-0.04", 800, ORDER_TAG)),
        trades=(PLACED,), orders={800: known} if skipped else {}, remembered={ORDER_TAG: known} if skipped else {},
    )  # fmt: skip
    assert (news(seen), parts(seen), seen.foreign) == ([], [(7, "0.06")], {"EURUSD": D("0.20")})


def test_what_a_standing_order_has_filled_does_not_hide_a_copy_that_nobody_told_of() -> None:
    history = (*DEALS, deal("-0.04", 800, ORDER_TAG))
    seen = observe(
        copy(1, lots="0.30"), account=(stands("0.06"), held("0.16")), history=history, trades=(SHORT, PLACED)
    )
    assert sorted(parts(seen)) == [(2, "0.10"), (7, "0.06")]
    assert (news(seen), seen.foreign) == ([], {})


def test_beside_a_pending_order_that_is_known_a_position_is_taken_up_with_all_its_legs() -> None:
    leg = deal("0.10", comment=tag_of(("master_user", Kind.POSITION, 1, 3)))
    deals = (deal("0.20", comment=TAGS[1]), leg)
    seen = observe(pending(), account=(standing(), held("0.30")), history=deals, trades=(LONG,), legs=(LONG,))
    assert parts(seen) == [(1, "0.20"), (1, "0.10")]


@pytest.mark.parametrize("state", [State.FAILED, State.SKIPPED])
def test_an_order_that_this_ledger_knows_not_to_have_been_opened_is_a_copy_when_it_has_deals(state: State) -> None:
    """The broker executed what it refused; or it was under way when the ledger was lost."""
    known = copy(1, lots="0.30", state=state, client_kind=None, client_ticket=0, current=D(0))
    seen = adopted(DEALS[0], account="0.30", remembered={TAGS[1]: known})
    assert seen.foreign == {}
    if state is State.SKIPPED:
        assert parts(seen) == [(1, "0.30")], "with all its legs"
        seen = adopted(DEALS[0], account="0.30", remembered={TAGS[1]: known}, trades=())
    assert (news(seen), seen.observation.adopted) == ([(1, "position", "0.30")], ())


def test_before_the_books_are_known_a_position_is_neither_ours_nor_the_followers() -> None:
    seen = adopted(*DEALS, books_known=False, contradicted=PATIENCE_S)
    assert nothing_yet(seen)
    assert (seen.foreign, seen.observation.adopted) == ({}, ())


def test_before_the_books_are_known_what_has_an_unknown_tag_is_not_the_followers() -> None:
    """Another copier has opened it, beside a copy that this ledger knows."""
    known = copy(1, lots="0.30")
    seen = observe(
        known, account=(held("0.20"),), history=DEALS, remembered={TAGS[1]: known}, books_known=False,
        contradicted=PATIENCE_S,
    )  # fmt: skip
    assert nothing_yet(seen)
    assert seen.foreign == {}
    sold = (DEALS[0], deal("-0.10"))
    seen = observe(known, account=(held("0.20"),), history=sold, remembered={TAGS[1]: known}, books_known=False)
    assert news(seen) == [(1, "position", "0.20")], "what has no tag of ours was the follower"


# --- small questions -------------------------------------------------------------------------------------------------


def reading(*things: Position | Order) -> Reading:
    positions = tuple(thing for thing in things if isinstance(thing, Position))
    return Reading(ACCOUNT, positions, tuple(thing for thing in things if isinstance(thing, Order)))


def test_the_lots_of_a_symbol_are_below_0_when_they_are_sold() -> None:
    account = reading(held("-0.30"), held("0.20", "GBPUSD"))
    assert [lots_of(account, name) for name in ("EURUSD", "GBPUSD", "USDJPY")] == [D("-0.30"), D("0.20"), D(0)]


def test_a_part_of_the_position_has_its_own_side_and_lots_and_the_positions_stops() -> None:
    whole_ = replace(held("0.20"), sl=D("1.0"), tp=D("1.2"), ticket=901)
    part = part_of(copy(2, "SELL", "0.10", client_ticket=POSITION), reading(whole_))
    assert part is not None
    assert (part.action, part.volume, part.sl, part.tp) == (Action.SELL, D("0.10"), D("1.0"), D("1.2"))
    assert (part.ticket, part.identifier) == (901, POSITION)
    assert part_of(copy(2, current=D(0)), reading(whole_)) is None
    assert part_of(pending(), reading(whole_)) is None
    of_none = part_of(copy(2), reading())
    assert of_none is not None, "two that stand against each other have no position, and are there"
    assert of_none.ticket == 0


def test_a_symbol_is_busy_while_an_order_at_market_is_waited_for() -> None:
    assert busy_symbols([opening()]) == {"EURUSD"}
    assert busy_symbols([trimming()]) == {"EURUSD"}
    assert busy_symbols([trimming(to="0.05")]) == {"EURUSD"}
    others = copy(1), pending(), placing(), copy(3, state=State.CLOSED, reduce_to=D(0)), opening(state=State.UNKNOWN)
    assert busy_symbols(others) == set()


def test_what_the_ledger_says_is_ours() -> None:
    copies = copy(1, lots="0.30"), copy(2, "SELL", "0.10"), pending(), opening(), copy(4, state=State.CLOSED)
    assert ours(copies, reading(standing("0.06")), "EURUSD") == D("0.24")
    assert ours(copies, reading(), "GBPUSD") == 0


def test_the_history_is_asked_only_about_what_is_not_as_it_should_be() -> None:
    account = reading(held("0.10"), standing())
    assert questioned([copy(1), pending()], account, {}) == set()
    assert questioned([copy(1)], reading(held("0.20")), {}) == {"EURUSD"}
    assert questioned([copy(1)], reading(held("0.20")), {"EURUSD": D("0.10")}) == set()
    assert questioned([], reading(held("0.20")), {}) == {"EURUSD"}
    assert questioned([], reading(), {"EURUSD": D("0.10")}) == {"EURUSD"}
    assert questioned([copy(1), pending()], reading(held("0.10")), {}) == {"EURUSD"}
    for sent, lots in ((opening(), ()), (placing(), ()), (trimming(), (held("0.10"),))):
        assert questioned([sent], reading(*lots), {}) == {"EURUSD"}
    asked = [one for one in (copy(1), pending(), opening(), placing(), trimming()) if is_asked_about(one, account)]
    assert asked == [opening(), placing(), trimming()]
    assert is_asked_about(pending(), reading())
    assert is_asked_about(opening(state=State.UNKNOWN), account)
    assert [gone_orders([one], reading()) for one in (pending(), pending(state=State.UNKNOWN), copy(1))] == [
        [pending()], [], [],
    ]  # fmt: skip


# --- stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "long", "stops"),
    [
        ([("1.05", "1.20")], True, ("1.05", "1.20")),
        ([("1.05", "1.20"), ("1.00", "1.15")], True, ("1.00", "1.20")),
        ([("1.15", "1.00"), ("1.20", "1.05")], False, ("1.20", "1.00")),
        ([("1.05", "1.20"), ("0", "1.15")], True, ("0", "1.20")),
        ([("1.05", "0"), ("1.00", "1.15")], True, ("1.00", "0")),
        ([("1.15", "0"), ("0", "1.05")], False, ("0", "0")),
    ],
)
def test_the_stops_of_the_sum_are_the_farthest_and_none_where_one_has_none(
    pairs: list[tuple[str, str]], long: bool, stops: tuple[str, str]
) -> None:
    assert stops_of([(D(sl), D(tp)) for sl, tp in pairs], long=long) == (D(stops[0]), D(stops[1]))
