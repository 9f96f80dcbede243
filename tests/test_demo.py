"""The demo: its comparison must notice what is wrong, and it must leave nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path

import pytest

import mt5_sim
import sim_types as t
from demo import agrees, main, margin_modes, unforeseen_refusals
from demo_accounts import Key, Line, all_lines, legs, parts
from demo_processes import ChildFailed, Children
from demo_replay import BadFile, Tape, read_tape
from demo_report import (
    TOTAL,
    Broker,
    Row,
    Verdict,
    compare,
    expected_volume,
    hops,
    is_proportional,
    latency_table,
    marks,
    net_table,
    nets,
    percentile,
    shares,
    shortened,
    summary,
    table,
    tags,
)
from sim_account import AccountSettings
from sim_broker import Broker as SimBroker

ROOT = Path(__file__).resolve().parents[1]
HALF = D("0.5")
BROKER = Broker(volume_min=D("0.01"), volume_max=D(50), volume_step=D("0.01"), tick_size=D("0.00001"))

# --- the comparison --------------------------------------------------------------------------------------------------

POSITION_TAG, ORDER_TAG = tags(77)
MASTER = Line("position", 77, "EURUSD", "BUY", D("0.4"), D("0.4"), D("1.1"), D("1.09"), D("1.12"))
COPY = Line("position", 5, "EURUSD", "BUY", D("0.2"), D("0.2"), D("1.1"), D("1.09"), D("1.12"), POSITION_TAG)
MASTER_ORDER = Line("order", 77, "EURUSD", "BUY_LIMIT", D("0.4"), D("0.4"), D("1.08"), D("1.07"))
ORDER_COPY = Line("order", 5, "EURUSD", "BUY_LIMIT", D("0.2"), D("0.2"), D("1.08"), D("1.07"), comment=ORDER_TAG)


def compared(
    master: list[Line], client: list[Line], refused: str = "", overdue: dict[Key, str] | None = None
) -> list[Row]:
    return compare(master, client, {"EURUSD": BROKER, "XAUUSD": BROKER}, HALF, lambda _: refused, overdue or {})


def verdict(master: list[Line], client: list[Line]) -> tuple[Verdict, str]:
    row = compared(master, client)[0]
    return row.verdict, row.detail


def ended(line: Line, **more: object) -> Line:
    return replace(line, volume=D(0), **more)  # type: ignore[arg-type]


RIGHT = {
    "an open position": ([MASTER], [COPY]),
    "closed on both": ([ended(MASTER)], [ended(COPY)]),
    "closed in part, in proportion": ([replace(MASTER, volume=D("0.1"))], [replace(COPY, volume=D("0.05"))]),
    "the share rounded up to a step": ([replace(MASTER, volume=D("0.37"))], [replace(COPY, volume=D("0.19"))]),
    "a pending order": ([MASTER_ORDER], [ORDER_COPY]),
    "cancelled on both": ([ended(MASTER_ORDER)], [ended(ORDER_COPY)]),
    "filled on both": (
        [ended(MASTER_ORDER, filled=True), MASTER],
        [ended(ORDER_COPY, filled=True), replace(COPY, comment=ORDER_TAG)],
    ),
    "an order cancelled here and opened at market": (
        [ended(MASTER_ORDER, filled=True), MASTER],
        [ended(ORDER_COPY), COPY],
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_copy_is_copied(name: str) -> None:
    master, client = RIGHT[name]
    assert verdict(master, client) == (Verdict.COPIED, "")


WRONG = {
    "no copy": ([MASTER], [], Verdict.MISSED, "never opened"),
    "no order": ([MASTER_ORDER], [], Verdict.MISSED, "never placed"),
    "two open copies": ([MASTER], [COPY, replace(COPY, ticket=6)], Verdict.DOUBLED, "2 positions"),
    "two copies, both closed by now": (
        [ended(MASTER)],
        [ended(COPY), ended(replace(COPY, ticket=6))],
        Verdict.DOUBLED,
        "2 positions",
    ),
    "a copy of the order and one of the position": (
        [ended(MASTER_ORDER, filled=True), MASTER],
        [COPY, replace(COPY, ticket=6, comment=ORDER_TAG)],
        Verdict.DOUBLED,
        "2 positions",
    ),
    "two orders": ([MASTER_ORDER], [ORDER_COPY, replace(ORDER_COPY, ticket=6)], Verdict.DOUBLED, "2 pending"),
    "an order for a position": ([MASTER], [COPY, ORDER_COPY], Verdict.DOUBLED, "instead of a position only"),
    "filled on the client only": ([MASTER_ORDER], [replace(COPY, comment=ORDER_TAG)], Verdict.DOUBLED, "did not"),
    "an order left beside the position": (
        [ended(MASTER_ORDER, filled=True), MASTER],
        [ORDER_COPY, COPY],
        Verdict.DOUBLED,
        "still there",
    ),
    "too many lots": ([MASTER], [replace(COPY, opened=D("0.21"), volume=D("0.21"))], Verdict.MISSED, "instead of 0.20"),
    "too few lots": ([MASTER], [replace(COPY, opened=D("0.19"), volume=D("0.19"))], Verdict.MISSED, "instead of 0.20"),
    "a wrong volume although closed": ([ended(MASTER)], [ended(COPY, opened=D("0.4"))], Verdict.MISSED, "0.4 lots"),
    "the other side": ([MASTER], [replace(COPY, action="SELL")], Verdict.MISSED, "SELL EURUSD instead of BUY"),
    "another symbol": ([MASTER], [replace(COPY, symbol="XAUUSD")], Verdict.MISSED, "BUY XAUUSD instead"),
    "a partial close that did not come": ([replace(MASTER, volume=D("0.1"))], [COPY], Verdict.MISSED, "0.2 lots left"),
    "too much closed": (
        [replace(MASTER, volume=D("0.1"))],
        [replace(COPY, volume=D("0.04"))],
        Verdict.MISSED,
        "0.04 lots left",
    ),
    "not closed": ([ended(MASTER)], [COPY], Verdict.MISSED, "still open on the client"),
    "closed on the client only": ([MASTER], [ended(COPY)], Verdict.MISSED, "closed on the client"),
    "another SL": ([MASTER], [replace(COPY, sl=D("1.08"))], Verdict.MISSED, "SL 1.08 instead of 1.09"),
    "no TP": ([MASTER], [replace(COPY, tp=D(0))], Verdict.MISSED, "TP 0 instead of 1.12"),
    "another order price": ([MASTER_ORDER], [replace(ORDER_COPY, price=D("1.081"))], Verdict.MISSED, "price 1.081"),
    "not cancelled": ([ended(MASTER_ORDER)], [ORDER_COPY], Verdict.MISSED, "still open"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_copy_is_noticed(name: str) -> None:
    master, client, wanted, words = WRONG[name]
    found, detail = verdict(master, client)
    assert found is wanted
    assert words in detail


def test_a_trade_that_was_refused_is_not_missed() -> None:
    rows = compared([ended(MASTER)], [], refused="max_spread_points: 35 points, allowed 20")
    assert [(row.verdict, row.detail) for row in rows] == [
        (Verdict.REFUSED, "max_spread_points: 35 points, allowed 20")
    ]


def test_a_refusal_that_ended_in_a_wrong_copy_does_not_excuse_it() -> None:
    assert compared([MASTER], [replace(COPY, opened=D(1))], refused="max_spread_points: …")[0].verdict is Verdict.MISSED


def test_what_nobody_asked_for_is_doubled() -> None:
    rows = compared([MASTER], [COPY, replace(COPY, ticket=9, comment="by hand")])
    assert [row.verdict for row in rows] == [Verdict.COPIED, Verdict.DOUBLED]
    assert "nothing the master had" in rows[1].detail


def test_what_came_too_late_is_missed_even_if_it_is_there_now() -> None:
    rows = compared([MASTER], [COPY], overdue={(77, 0): "not seen within 15 s"})
    assert (rows[0].verdict, rows[0].detail) == (Verdict.MISSED, "not seen within 15 s")


def test_the_last_line_counts_every_verdict() -> None:
    rows = compared([MASTER, replace(MASTER, ticket=78)], [COPY, replace(COPY, ticket=9, comment="by hand")])
    assert summary(rows) == "copied 1, refused 0, missed 1, doubled 1"


def test_a_refusal_counts_as_foreseen_only_where_it_was() -> None:
    refused = Row(1, replace(MASTER, ticket=1), (), Verdict.REFUSED)
    copied = Row(2, replace(MASTER, ticket=2), (COPY,), Verdict.COPIED)
    assert unforeseen_refusals([refused, copied], {(1, 0)}) == []
    assert unforeseen_refusals([refused, copied], set()) == ["#1 was refused, and no rule was meant to"]
    assert unforeseen_refusals([refused, copied], {(1, 0), (2, 0)}) == [
        "#2 was copied, and a rule was meant to refuse it"
    ]


@pytest.mark.parametrize(
    ("master", "lots"),
    [("1", "0.5"), ("0.58", "0.29"), ("0.59", "0.29"), ("200", "50")],  # 0.29 stays 29 steps; the broker's maximum
)
def test_the_expected_lots_are_whole_steps(master: str, lots: str) -> None:
    assert expected_volume(D(master), BROKER, HALF) == D(lots)


@pytest.mark.parametrize(
    ("left", "right"), [("0.04", False), ("0.05", True), ("0.06", False), ("0.1", False), ("0.00", False)]
)
def test_what_a_partial_close_leaves_is_exact_to_the_step(left: str, right: bool) -> None:
    assert is_proportional(D(left), D("0.2"), D("0.1"), D("0.4"), BROKER) is right


@pytest.mark.parametrize(("left", "right"), [("0.5", True), ("0.4", True), ("0.3", True), ("0.2", False)])
def test_a_reduction_below_the_brokers_minimum_may_wait(left: str, right: bool) -> None:
    """0.3 lots should be left of 0.5; this broker takes no order below 0.3."""
    coarse = Broker(volume_min=D("0.3"), volume_max=D(50), volume_step=D("0.1"), tick_size=D("0.1"))
    assert is_proportional(D(left), D("0.5"), D("0.6"), D(1), coarse) is right


# --- netting accounts ------------------------------------------------------------------------------------------------

WHOLE = Broker(volume_min=D(1), volume_max=D(500), volume_step=D(1), tick_size=D(5))
BROKERS = {"EURUSD": BROKER, "WINZ26": WHOLE}


def mark(leg: int = 0) -> str:
    return tags(77, leg)[0]


class Netting:
    """A netting account in this process, EURUSD 1.10000/1.10010, and who trades on it."""

    def __init__(self) -> None:
        self.mt5 = mt5_sim.Client(SimBroker(AccountSettings(1001, margin_mode="netting")))
        assert self.mt5.initialize("", login=1001, password="demo", server="Sim")
        self.mt5.sim_set_quote("EURUSD", 1.1, 1.1001)

    def trade(self, lots: str, comment: str = "", **fields: float) -> int:
        """Buy so many lots at market, or sell when they are below 0; the order's ticket."""
        side = t.ORDER_TYPE_BUY if D(lots) > 0 else t.ORDER_TYPE_SELL
        request = {"action": 1, "symbol": "EURUSD", "type": side, "volume": abs(float(lots)), "comment": comment}
        return self._sent({**request, "price": 1.1, **fields})

    def place(self, lots: str, price: float, comment: str = "") -> int:
        kind = t.ORDER_TYPE_BUY_LIMIT if D(lots) > 0 else t.ORDER_TYPE_SELL_LIMIT
        request = {"action": 5, "symbol": "EURUSD", "type": kind, "volume": abs(float(lots)), "price": price}
        return self._sent({**request, "type_filling": 2, "comment": comment})

    def _sent(self, request: dict[str, object]) -> int:
        sent = self.mt5.order_send(request)
        assert sent.retcode == t.TRADE_RETCODE_DONE, sent
        order: int = sent.order
        return order

    def deals(self) -> tuple[object, ...]:
        return tuple(self.mt5.history_deals_get(1, 2**31 - 1))

    def legs(self) -> list[tuple[int, str, D, D]]:
        found = legs(self.mt5.positions_get(), self.deals())
        return [(line.leg, line.action, line.opened, line.volume) for line in found]


def test_each_entry_of_a_netting_position_is_a_leg_and_the_oldest_is_closed_first() -> None:
    account = Netting()
    first = account.trade("0.4")
    second = account.trade("0.2", sl=1.09, tp=1.12)
    account.trade("-0.3")
    assert account.legs() == [(0, "BUY", D("0.4"), D("0.1")), (1, "BUY", D("0.2"), D("0.2"))]
    found = legs(account.mt5.positions_get(), account.deals())
    assert [(line.ticket, line.order, line.sl, line.tp) for line in found] == [
        (first, first, D("1.09"), D("1.12")),
        (first, second, D("1.09"), D("1.12")),
    ]
    account.trade("-0.2")
    assert account.legs() == [(0, "BUY", D("0.4"), D(0)), (1, "BUY", D("0.2"), D("0.1"))]


def test_a_position_that_turns_round_has_ended_its_legs_and_begun_another() -> None:
    account = Netting()
    account.trade("0.4")
    account.trade("0.2")
    account.trade("-0.9")
    ended = [(0, "BUY", D("0.4"), D(0)), (1, "BUY", D("0.2"), D(0))]
    assert account.legs() == [*ended, (2, "SELL", D("0.3"), D("0.3"))]
    account.trade("0.3")
    account.trade("0.1")
    assert account.legs() == [*ended, (2, "SELL", D("0.3"), D(0)), (0, "BUY", D("0.1"), D("0.1"))]  # another one


def test_a_pending_order_that_fills_is_the_leg_it_opened() -> None:
    account = Netting()
    position = account.trade("0.4")
    order = account.place("0.2", 1.099)
    account.mt5.sim_set_quote("EURUSD", 1.0989, 1.099)
    (_, leg) = legs(account.mt5.positions_get(), account.deals())
    assert (leg.ticket, leg.leg, leg.order, leg.opened) == (position, 1, order, D("0.2"))


def test_the_copies_in_a_netting_position_are_told_apart_by_the_comments_of_its_deals() -> None:
    account = Netting()
    account.trade("0.2", mark())
    account.trade("-0.5", mark(1))  # a copy of the other side, so the position turns round
    account.trade("-0.05", mark())
    account.place("0.1", 1.099, ORDER_TAG)
    account.mt5.sim_set_quote("EURUSD", 1.0989, 1.099)
    account.trade("-0.1", mark(2))  # closes under its new name what the pending order opened
    account.trade("0.03", "by hand")
    whose = {mark(): (77, 0), mark(1): (77, 1), ORDER_TAG: (77, 2), mark(2): (77, 2)}
    found = [(line.comment, line.action, line.opened, line.volume) for line in parts(account.deals(), whose)]
    assert found == [
        (mark(), "BUY", D("0.2"), D("0.15")),
        (mark(1), "SELL", D("0.5"), D("0.5")),
        (ORDER_TAG, "BUY", D("0.1"), D(0)),
        ("by hand", "BUY", D("0.03"), D("0.03")),
    ]
    (position,) = account.mt5.positions_get()
    assert sum(line.signed for line in parts(account.deals(), whose)) == D("-0.32") == -D(str(position.volume))


def netting_verdict(master: list[Line], account: Netting) -> tuple[Verdict, str]:
    copies = parts(account.deals(), marks(master))
    row = compare(master, copies, BROKERS, HALF, lambda _: "", {}, stops=False)[0]
    return row.verdict, row.detail


def test_a_right_part_of_a_netting_position_is_copied() -> None:
    account = Netting()
    account.trade("0.2", mark())
    assert netting_verdict([MASTER], account) == (Verdict.COPIED, "")
    account.trade("-0.15", mark())
    assert netting_verdict([replace(MASTER, volume=D("0.1"))], account) == (Verdict.COPIED, "")
    account.trade("-0.05", mark())
    assert netting_verdict([ended(MASTER)], account) == (Verdict.COPIED, "")


WRONG_TRADES = {
    "opened twice": (["0.2", "0.2"], MASTER, Verdict.DOUBLED, "2 positions"),
    "opened twice, closed by now": (["0.2", "0.2", "-0.4"], ended(MASTER), Verdict.DOUBLED, "2 positions"),
    "too many lots": (["0.3"], MASTER, Verdict.MISSED, "0.3 lots instead of 0.2"),
    "the other side": (["-0.2"], MASTER, Verdict.MISSED, "SELL EURUSD instead of BUY"),
    "not closed": (["0.2"], ended(MASTER), Verdict.MISSED, "still open on the client with 0.2"),
    "closed twice": (["0.2", "-0.2", "-0.2"], ended(MASTER), Verdict.MISSED, "still open on the client with -0.2"),
    "not opened": ([], MASTER, Verdict.MISSED, "never opened"),
}


@pytest.mark.parametrize("name", WRONG_TRADES)
def test_a_wrong_part_of_a_netting_position_is_noticed(name: str) -> None:
    trades, master, wanted, words = WRONG_TRADES[name]
    account = Netting()
    for lots in trades:
        account.trade(lots, mark())
    found, detail = netting_verdict([master], account)
    assert found is wanted
    assert words in detail


LEG = replace(MASTER, leg=1, order=79, opened=D("0.2"), volume=D("0.2"))
LEG_COPY = replace(COPY, ticket=6, comment=mark(1), opened=D("0.1"), volume=D("0.1"))


def test_every_leg_has_its_own_verdict() -> None:
    rows = compared([MASTER, LEG], [COPY, LEG_COPY])
    assert [(row.key, row.verdict) for row in rows] == [((77, 0), Verdict.COPIED), ((77, 1), Verdict.COPIED)]
    assert [line.split()[0] for line in table(rows)[1:]] == ["77", "77-1"]
    rows = compared([MASTER, LEG], [COPY])
    assert [row.verdict for row in rows] == [Verdict.COPIED, Verdict.MISSED]
    rows = compared([MASTER, LEG], [replace(LEG_COPY, opened=D("0.3"), volume=D("0.3"))])
    assert [row.verdict for row in rows] == [Verdict.MISSED, Verdict.MISSED]
    assert "0.3 lots instead of 0.10" in rows[1].detail


def test_a_leg_that_was_a_pending_order_is_one_trade_with_it() -> None:
    order = replace(MASTER_ORDER, ticket=79, opened=D("0.2"), volume=D(0), filled=True)
    copy = replace(LEG_COPY, comment=tags(79)[1])
    rows = compared([MASTER, LEG, order], [COPY, copy, ended(replace(ORDER_COPY, comment=copy.comment), filled=True)])
    assert [(row.key, row.verdict) for row in rows] == [((77, 0), Verdict.COPIED), ((77, 1), Verdict.COPIED)]
    rows = compared([MASTER, LEG, order], [COPY, copy], overdue={(79, 0): "not seen within 15 s"})
    assert [row.verdict for row in rows] == [Verdict.COPIED, Verdict.MISSED]


def test_what_a_filled_order_only_closed_at_the_master_must_be_gone_at_the_client() -> None:
    order = replace(MASTER_ORDER, ticket=79, volume=D(0), filled=True)
    placed = ended(replace(ORDER_COPY, comment=tags(79)[1]), filled=True)
    position = replace(COPY, comment=tags(79)[1])
    assert verdict([order], [placed, ended(position)]) == (Verdict.COPIED, "")
    found, words = verdict([order], [placed, position])
    assert (found, "only closed something" in words) == (Verdict.DOUBLED, True)


@pytest.mark.parametrize(
    ("lots", "expected"),
    [
        (["4", "3", "1"], ["2", "1", "1"]),  # 1.5 and 0.5: the halves make one
        (["3", "1", "1", "1"], ["1", "1", "0", "1"]),  # 1.5; 0.5 and 0.5; 0.5; 0.5 and 0.5
        (["1", "-1", "-1"], ["0", "0", "1"]),  # it turned round in between: nothing goes on from before
        (["3", "refused 1", "1"], ["1", "1", "0"]),  # the half is gone with the leg that was refused
        (["3", "order 3", "1"], ["1", "1", "1"]),  # a pending order is rounded for itself, and leaves its own rest
    ],
)
def test_what_rounding_leaves_over_of_a_leg_goes_to_the_next(lots: list[str], expected: list[str]) -> None:
    found = []
    for leg, words in enumerate(lots):
        volume = D(words.split()[-1])
        action = "BUY" if volume > 0 else "SELL"
        found.append(Line("position", 77, "WINZ26", action, abs(volume), D(0), leg=leg, order=100 + leg))
    orders = {100 + leg for leg, words in enumerate(lots) if words.startswith("order")}
    reasons = {(77, leg): "max_spread_points" for leg, words in enumerate(lots) if words.startswith("refused")}
    assert list(shares(found, BROKERS, HALF, orders, reasons).values()) == [D(lots) for lots in expected]


def symbol_by_symbol(client: list[Line], rows: list[Row], *, netting: bool = True) -> list[str]:
    found = nets(rows, [MASTER], client, BROKERS, netting=netting)
    assert agrees(rows, found) is not any(net.wrong for net in found)
    return [net.wrong for net in found]


def test_the_account_must_have_of_each_symbol_what_its_copies_add_up_to() -> None:
    rows = compared([MASTER], [COPY])
    assert symbol_by_symbol([COPY], rows) == [""]
    assert symbol_by_symbol([replace(COPY, volume=D("0.3"))], rows) == ["BUY 0.3 instead of BUY 0.2"]
    assert symbol_by_symbol([], rows) == ["flat instead of BUY 0.2"]
    assert symbol_by_symbol([replace(COPY, action="SELL")], rows) == ["SELL 0.2 instead of BUY 0.2"]
    assert symbol_by_symbol([COPY, replace(COPY, symbol="WINZ26")], rows) == ["", "BUY 0.2 instead of flat"]


def test_a_netting_position_must_have_the_farthest_stops_of_its_copies() -> None:
    nearer = replace(MASTER, ticket=78, sl=D("1.095"), tp=D("1.13"))
    against = replace(MASTER, ticket=79, action="SELL", opened=D("0.2"), volume=D("0.2"), sl=D("1.2"), tp=D(1))
    copies = [COPY, replace(COPY, comment=tags(78)[0]), replace(LEG_COPY, action="SELL", comment=tags(79)[0])]
    rows = compare([MASTER, nearer, against], copies, BROKERS, HALF, lambda _: "", {}, stops=False)
    whole = replace(COPY, volume=D("0.3"), sl=D("1.09"), tp=D("1.13"))
    assert symbol_by_symbol([whole], rows) == [""]
    assert symbol_by_symbol([replace(whole, sl=D("1.095"))], rows) == ["other SL / TP than its copies ask for"]
    assert symbol_by_symbol([replace(whole, tp=D(0))], rows) == ["other SL / TP than its copies ask for"]
    without = [replace(row, master=replace(row.master, sl=D(0))) for row in rows]
    assert symbol_by_symbol([replace(whole, sl=D(0))], without) == [""]
    assert symbol_by_symbol([replace(whole, sl=D("1.08"))], rows, netting=False) == [""]  # each has its own there


def test_the_table_of_symbols_shows_both_sides_and_what_was_refused() -> None:
    rows = compared([MASTER], [], refused="max_spread_points: 35 points, allowed 20")
    (line,) = net_table(nets(rows, [MASTER], [], BROKERS, netting=True))[1:]
    assert line.split("  ") == ["EURUSD", "BUY 0.4 (0.4 refused)", "flat", *line.split("  ")[3:]]
    assert line.endswith("agrees")


def test_the_margin_mode_is_that_of_both_accounts_or_of_each() -> None:
    assert margin_modes("netting") == ("netting", "netting")
    assert margin_modes("hedging:exchange") == ("hedging", "exchange")


# --- times and tables ------------------------------------------------------------------------------------------------


def test_each_hop_is_the_difference_of_two_stations() -> None:
    stations = {"detected_at": 1040, "server_time": 1042, "received_at": 1045, "sent_at": 1049, "filled_at": 1060}
    reports = [
        {"event": "opened", "ticket": 77, **stations},
        {"event": "closed", "ticket": 77},
        {"event": "opened", "ticket": 78, **stations},  # nobody knows when its master's order was confirmed
    ]
    found = hops(reports, {77: [1000]})
    assert list(found.values()) == [[40], [2], [3], [4], [11], [60]]
    assert found[TOTAL] == [60]
    assert latency_table(found)[-1].split()[-4:] == ["60", "60", "60", "1"]


def test_reports_of_a_position_that_grew_are_told_apart_by_the_time() -> None:
    stations = {"server_time": 5000, "received_at": 5000, "sent_at": 5000, "filled_at": 5000}
    reports = [{"event": "opened", "ticket": 77, "detected_at": at, **stations} for at in (1040, 2999)]
    assert hops(reports, {77: [1000, 3000]})[TOTAL] == [4000, 2000]


def test_a_percentile_is_one_of_the_values() -> None:
    values = list(range(1, 21))
    assert [percentile(values, p) for p in (50, 95, 100)] == [10, 19, 20]
    assert percentile([7], 95) == 7


def test_the_table_shows_both_sides_where_they_differ() -> None:
    rows = compared([replace(MASTER, volume=D("0.1"))], [replace(COPY, sl=D("1.08"))])
    line = table(rows)[1]
    for words in ("77", "EURUSD", "0.4 -> 0.1", "1.09 / 1.12 | 1.08 / 1.12", "open", "missed: 0.2 lots left"):
        assert words in line


def test_a_long_table_keeps_what_was_not_copied() -> None:
    rows = [Row(number, MASTER, (COPY,), Verdict.COPIED) for number in range(100)]
    rows[50] = replace(rows[50], verdict=Verdict.MISSED)
    assert [row.ticket for row in shortened(rows)] == [0, 1, 2, 3, 4, 50, 95, 96, 97, 98, 99]


# --- reading an account ----------------------------------------------------------------------------------------------


def test_an_account_shows_everything_that_ever_was_in_it() -> None:
    mt5 = mt5_sim.Client(SimBroker(AccountSettings(1001), seed=1))
    assert mt5.initialize("", login=1001, password="demo", server="Sim")
    ask = mt5.symbol_info_tick("EURUSD").ask
    deal = {"action": t.TRADE_ACTION_DEAL, "symbol": "EURUSD", "price": ask}
    reduced = mt5.order_send({**deal, "volume": 0.3, "comment": "one"}).order
    closed = mt5.order_send({**deal, "volume": 0.1}).order
    mt5.order_send({**deal, "type": t.ORDER_TYPE_SELL, "volume": 0.1, "position": reduced})
    mt5.order_send({**deal, "type": t.ORDER_TYPE_SELL, "volume": 0.1, "position": closed})
    order = {"action": t.TRADE_ACTION_PENDING, "symbol": "EURUSD", "volume": 0.2, "type_filling": 2}
    limit = {**order, "type": t.ORDER_TYPE_SELL_LIMIT, "price": round(ask + 0.001, 5)}
    filled, cancelled, pending = (mt5.order_send(limit).order for _ in range(3))
    mt5.order_send({"action": t.TRADE_ACTION_REMOVE, "order": cancelled})
    mt5.order_send({"action": t.TRADE_ACTION_MODIFY, "order": pending, "price": 1.2})
    mt5.sim_set_quote("EURUSD", round(ask + 0.001, 5), round(ask + 0.0011, 5))
    found = all_lines(
        mt5.positions_get(), mt5.orders_get(), mt5.history_deals_get(1, 2**31 - 1), mt5.history_orders_get(1, 2**31 - 1)
    )
    shown = {(line.kind, line.ticket): (line.action, line.opened, line.volume, line.filled) for line in found}
    assert shown == {
        ("position", reduced): ("BUY", D("0.3"), D("0.2"), False),
        ("position", closed): ("BUY", D("0.1"), D(0), False),
        ("position", filled): ("SELL", D("0.2"), D("0.2"), False),
        ("order", filled): ("SELL_LIMIT", D("0.2"), D(0), True),
        ("order", cancelled): ("SELL_LIMIT", D("0.2"), D(0), False),
        ("order", pending): ("SELL_LIMIT", D("0.2"), D("0.2"), False),
    }
    assert {line.comment for line in found if line.ticket == reduced} == {"one"}


# --- a file of deals -------------------------------------------------------------------------------------------------

HEADER = "ticket,order,time,time_msc,type,entry,magic,position_id,reason,volume,price,commission,swap,profit,fee,symbol"
DEPOSIT = (1, 0, 2, 0, 0, 0.0, "")


def a_file(path: Path, *deals: tuple[object, ...]) -> Path:
    """Deals as (ticket, order, type, entry, position, volume, symbol), a second apart, in the order given."""
    lines = [HEADER]
    for second, (ticket, order, kind, entry, position, volume, symbol) in enumerate(deals):
        lines.append(
            f"{ticket},{order},{second},{second}000,{kind},{entry},0,{position},3,{volume},1.1,0,0,0,0,{symbol}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def did(tape: Tape) -> list[tuple[int, str, str]]:
    return [(step.position, "open" if step.opens else "close", str(step.volume)) for step in tape.steps]


SEVERAL = (
    DEPOSIT,
    (11, 101, 0, 0, 101, 0.3, "EURUSD"),
    (12, 102, 1, 0, 102, 0.1, "USDJPY"),
    (13, 103, 1, 1, 101, 0.1, "EURUSD"),
    (14, 104, 0, 0, 104, 0.2, "EURUSD"),
    (15, 105, 0, 1, 102, 0.1, "USDJPY"),
    (16, 106, 1, 1, 101, 0.2, "EURUSD"),
    (17, 107, 1, 1, 104, 0.2, "EURUSD"),
)


def test_positions_overlap_and_close_in_parts_as_in_the_file(tmp_path: Path) -> None:
    tape = read_tape(a_file(tmp_path / "deals.csv", *SEVERAL))
    assert did(tape) == [
        (101, "open", "0.3"),
        (102, "open", "0.1"),
        (101, "close", "0.1"),
        (104, "open", "0.2"),
        (102, "close", "0.1"),
        (101, "close", "0.2"),
        (104, "close", "0.2"),
    ]
    assert tape.positions == 3
    assert tape.notes == ("left out, lines that are no trades (deposits, fees): 1",)


def test_the_order_of_time_counts_not_that_of_the_file(tmp_path: Path) -> None:
    path = a_file(tmp_path / "deals.csv", *SEVERAL)
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(["\ufeff" + head, *reversed(lines)]), encoding="utf-8")
    assert did(read_tape(path))[0] == (101, "open", "0.3")


def test_a_limit_takes_the_first_positions_whole(tmp_path: Path) -> None:
    tape = read_tape(a_file(tmp_path / "deals.csv", *SEVERAL), limit=1)
    assert did(tape) == [(101, "open", "0.3"), (101, "close", "0.1"), (101, "close", "0.2")]


def test_an_order_filled_in_two_parts_is_one_position(tmp_path: Path) -> None:
    deals = [
        (11, 101, 0, 0, 101, 0.3, "EURUSD"),
        (12, 101, 0, 0, 101, 0.2, "EURUSD"),
        (13, 9, 1, 1, 101, 0.5, "EURUSD"),
    ]
    assert did(read_tape(a_file(tmp_path / "deals.csv", *deals))) == [(101, "open", "0.5"), (101, "close", "0.5")]


def test_what_the_file_leaves_open_is_closed_at_the_end(tmp_path: Path) -> None:
    deals = [(11, 101, 0, 0, 101, 0.3, "EURUSD"), (13, 9, 1, 1, 101, 0.1, "EURUSD")]
    tape = read_tape(a_file(tmp_path / "deals.csv", *deals))
    assert did(tape)[-1] == (101, "close", "0.2")
    assert "closed at the end, positions that the file leaves open: 1" in tape.notes


def test_what_cannot_be_replayed_is_left_out_and_said(tmp_path: Path) -> None:
    deals = [
        (10, 100, 1, 1, 100, 0.3, "EURUSD"),  # opened before the file begins
        (11, 101, 0, 0, 101, 0.3, "EURUSD"),
        (12, 102, 0, 0, 102, 1.0, "GER40.cash"),
        (13, 103, 1, 1, 102, 1.0, "GER40.cash"),
        (14, 104, 1, 3, 101, 0.3, "EURUSD"),  # closed by an opposite position
    ]
    tape = read_tape(a_file(tmp_path / "deals.csv", *deals))
    assert did(tape) == [(101, "open", "0.3"), (101, "close", "0.3")]
    assert tape.notes == (
        "left out, positions whose opening is not in the file: 1",
        "left out, positions of symbols that the simulator does not have: GER40.cash (1)",
    )


EURO: tuple[object, ...] = (11, 101, 0, 0, 101, 0.3, "EURUSD")
BAD_FILES: dict[str, tuple[list[tuple[object, ...]], str]] = {
    "a netting account turns": ([EURO, (12, 2, 1, 2, 101, 0.6, "EURUSD")], "line 3: entry 2 turns a position round"),
    "a netting account adds": ([EURO, (12, 2, 0, 0, 101, 0.6, "EURUSD")], "line 3: position 101 is opened a second"),
    "more is closed than open": ([EURO, (12, 2, 1, 1, 101, 0.4, "EURUSD")], "line 3: closes 0.4 lots of position 101"),
    "a close that opens": ([EURO, (12, 2, 0, 1, 101, 0.3, "EURUSD")], "line 3: does not close position 101"),
    "a volume in words": ([EURO, (12, 2, 0, 0, 2, "many", "EURUSD")], "line 3: volume must be a number of lots"),
    "a volume that is no number": ([EURO, (12, 2, 0, 0, 2, "nan", "EURUSD")], "line 3: volume must be a number"),
    "a negative ticket": ([(-11, 1, 0, 0, 1, 0.3, "EURUSD")], "line 2: ticket must be a whole number, not '-11'"),
    "an unknown entry": ([(11, 1, 0, 7, 1, 0.3, "EURUSD")], "line 2: entry must be"),
    "no position": ([(11, 1, 0, 0, 0, 0.3, "EURUSD")], "line 2: position_id is 0"),
    "no symbol": ([(11, 1, 0, 0, 1, 0.3, "")], "line 2: symbol is empty"),
    "a field too many": ([(11, 1, 0, 0, 1, 0.3, "EURUSD,7")], "line 2: has not as many fields"),
    "the same deal twice": ([EURO, EURO], "line 2: deal 11 is in the file more than once"),
    "lots the broker does not take": ([(11, 1, 0, 0, 1, 0.005, "EURUSD")], "line 2: the simulated broker takes 0.01"),
    "only a deposit": ([DEPOSIT], "nothing to replay: no deal in it opens a position"),
    "only unknown symbols": ([(11, 1, 0, 0, 1, 1, "GER40")], "nothing to replay: the simulator does not have its"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_the_line(name: str, tmp_path: Path) -> None:
    deals, words = BAD_FILES[name]
    path = a_file(tmp_path / "deals.csv", *deals)
    with pytest.raises(BadFile) as error:
        read_tape(path)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    path = a_file(tmp_path / "deals.csv", *[(number, 1, 0, 0, 1, "x", "EURUSD") for number in range(1, 21)])
    with pytest.raises(BadFile, match=r"(?s)line 2: .*line 11: .*and 10 more"):
        read_tape(path)


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("time_msc,bid,ask\n1,2,3\n", encoding="utf-8")
    with pytest.raises(BadFile, match="line 1: the columns ticket, type, entry, position_id, volume, symbol are"):
        read_tape(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'ticket,"time', b"\x00" * 20])
def test_a_file_that_is_no_table_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(BadFile):
        read_tape(path)


# --- the processes ---------------------------------------------------------------------------------------------------


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_child_outlives_the_demo(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("terminal", "sim_terminal.py", "--port", "0")
        port = int(child.wait_for(r"listens on \S+:(\d+)", 30)[1])
        assert is_listening(port)
        children.check()
    assert not is_listening(port)
    assert "Traceback" not in child.said()
    with pytest.raises(ChildFailed, match=r"terminal ended by itself \(exit code 0\)"):
        child.check()


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("sender", "sender.py", "--config", "not_there.json")
        with pytest.raises(ChildFailed, match=r"(?s)sender ended by itself \(exit code 2\).*not_there.json"):
            child.wait_for("never said", 30)


def test_settings_of_the_person_do_not_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIBOT_API_PASSWORD", "my own")
    with Children(tmp_path) as children:
        assert "AIBOT_API_PASSWORD" not in children._environment


# --- the whole -------------------------------------------------------------------------------------------------------


@contextmanager
def demo(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo with `tmp_path` for its temporary folder, behind a proxy that does not work."""
    folders = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path))
    nowhere = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "demo.py"), "--pace", "0", *arguments],
        cwd=tmp_path,
        env={**os.environ, **folders, **nowhere},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            process.kill()


def ended_with(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    output, _ = process.communicate(timeout=100)
    return process.returncode, output.splitlines()


def folders_in(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("aibot-demo-*"))


def test_the_demo_copies_everything_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        code, lines = ended_with(process)
    said = "\n".join(lines)
    assert (code, lines[-1]) == (0, "copied 11, refused 2, missed 0, doubled 0"), said
    assert re.search(r"GBPUSD #\d+ +refused by max_spread_points: spread of GBPUSD is 35.0 points, allowed 20", said)
    assert re.search(r"refused by max_exposure_trades: 8 copies are open, allowed 8", said)
    assert re.search(r"SELL_LIMIT EURUSD #\d+ is reached by the market +SELL 0.15", said)
    assert re.search(r"visible on the master -> filled on the client +\d+ +\d+ +\d+ +11", said)
    assert not folders_in(tmp_path)


@pytest.mark.parametrize(
    ("modes", "copied", "shown"),
    [
        (
            "hedging:netting",
            11,
            [
                r"client account +netting: one position for each symbol",
                r"SELL_LIMIT EURUSD #\d+ is reached by the market +SELL 0.15 at [\d.]+, in all SELL 0.07",
                r"EURUSD +SELL 0.74 +SELL 0.37 +SELL 0.37 .* agrees",
            ],
        ),
        (
            "netting:hedging",
            16,
            [
                r"BUY 3 WINZ26 more, now 7 #\d+-1 +BUY 1 at ",
                r"closes 0.24 of 0.6 lots of EURUSD #\d+ +0.18 lots left in 2 copies",
                r"turns BUY 6 WINZ26 to SELL 3 #\d+-3 +SELL 1 at ",
                r"BUY_LIMIT EURUSD #\d+ fills, #\d+-2 +BUY 0.15 at",
                r"SELL_LIMIT XAUUSD #\d+ fills and closes 0.2 +0.1 lots left",
                r"SELL 2 WINZ26 more, now 5 #\d+-4 +refused by max_exposure_trades",
                r"EURUSD +BUY 0.4 +BUY 0.2 +BUY 0.2 +agrees",
            ],
        ),
        ("netting", 16, [r"BUY 1 WINZ26 more, now 8 #\d+-2 +BUY 1 at \d+, in all BUY 4"]),
    ],
)
def test_the_demo_copies_everything_between_other_kinds_of_accounts(
    modes: str, copied: int, shown: list[str], tmp_path: Path
) -> None:
    with demo(tmp_path, "--margin-mode", modes) as process:
        code, lines = ended_with(process)
    said = "\n".join(lines)
    assert (code, lines[-1]) == (0, f"copied {copied}, refused 2, missed 0, doubled 0"), said
    for words in shown:
        assert re.search(words, said), f"{words}\n{said}"
    assert not folders_in(tmp_path)


@pytest.mark.parametrize("modes", ["hedging", "hedging:netting"])
def test_a_file_is_replayed_and_both_accounts_end_flat(modes: str, tmp_path: Path) -> None:
    path = a_file(tmp_path / "deals.csv", *SEVERAL)
    with demo(tmp_path, "--replay", str(path), "--all", "--keep", "--margin-mode", modes) as process:
        code, lines = ended_with(process)
    said = "\n".join(lines)
    assert code == 0, said
    assert "copied 3, refused 0, missed 0, doubled 0" in lines
    assert "Both accounts are flat: no position and no pending order is open." in lines
    assert re.search(r"closes 0.1 of 0.3 EURUSD #\d+ +0.2 lots left", said)
    assert "prices are the simulator's" in said
    (kept,) = folders_in(tmp_path)
    assert (kept / "client.log").is_file()
    assert lines[-1].endswith(str(kept))


def test_a_replay_at_its_own_speed_does_not_wait_for_the_client(tmp_path: Path) -> None:
    path = a_file(tmp_path / "deals.csv", *SEVERAL)
    with demo(tmp_path, "--replay", str(path), "--speed", "1000", "--limit", "2") as process:
        code, lines = ended_with(process)
    assert (code, lines[-1]) == (0, "copied 2, refused 0, missed 0, doubled 0"), "\n".join(lines)


def test_a_bad_file_starts_nothing(tmp_path: Path) -> None:
    path = a_file(tmp_path / "deals.csv", *BAD_FILES["a volume in words"][0])
    with demo(tmp_path, "--replay", str(path)) as process:
        code, lines = ended_with(process)
    assert code == 2
    assert lines == [f"{path}: line 3: volume must be a number of lots above 0, not 'many'"]
    assert not folders_in(tmp_path)


def while_it_trades(process: subprocess.Popen[str]) -> list[int]:
    """Wait until the first trade is copied; the ports that its programs listen on."""
    ports = []
    assert process.stdout is not None
    for line in process.stdout:
        ports += [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", line)]
        if re.search(r"#\d+ .* ms$", line.rstrip()):
            return ports
    pytest.fail("the demo ended before it traded")


def working_in(folder: Path) -> list[str]:
    """Processes whose working folder this is, where the system tells (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink() == folder:
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        ports = while_it_trades(process)
        (folder,) = folders_in(tmp_path)
        assert len(ports) == 3
        assert all(is_listening(port) for port in ports)
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        code, lines = ended_with(process)
    assert code == 130
    assert lines[-1] == "Interrupted. Everything has been ended."
    assert not any(is_listening(port) for port in ports)
    assert not working_in(folder)
    assert not folder.exists()


def test_even_a_killed_demo_leaves_no_process(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    with demo(tmp_path) as process:
        ports = while_it_trades(process)
        (folder,) = folders_in(tmp_path)
        process.kill()
        process.communicate(timeout=60)
    wait_until(lambda: not any(is_listening(port) for port in ports), "the servers to end")
    wait_until(lambda: not working_in(folder), "the sender and the copier to end")


def test_a_reader_that_goes_away_ends_the_demo(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        ports = while_it_trades(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 1
    assert not any(is_listening(port) for port in ports)
    assert not folders_in(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "3"], "--limit needs --replay"),
        (["--pace", "inf"], "'inf' is not a number from 0 to 60"),
        (["--replay", "x", "--limit", "0"], "'0' is not a whole number from 1 on"),
        (["--replay", "x", "--speed", "0"], "'0' is not a number from 0.001"),
        (["--margin-mode", "netted"], "'netted' is not hedging, netting, exchange, or two of them"),
        (["--margin-mode", "hedging:netting:hedging"], "is not hedging, netting, exchange"),
        (["--replay", "x", "--margin-mode", "netting"], "--replay replays the positions of a hedging account"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"nowhere.csv: No such file"):
        read_tape(tmp_path / "nowhere.csv")
