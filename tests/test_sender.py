"""The sender on a simulated master account: what it tells, what it never tells, and that the server's book is right."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from fakes import NOON, FakeApi, FakeClock

from api_client import ApiRefused
from config import ApiSettings, Module, Mt5Settings, SenderConfig
from ledger import LedgerError, SenderLedger
from mt5_sim import Client
from sender import BrokerClock, Sender, Superseded, poll
from signals import Action, Key, Kind
from sim_account import AccountSettings
from sim_api import Terminal as SimTerminal
from sim_broker import Broker
from sim_symbols import symbols_with
from terminal import CannotConnect, ConnectionLost, Terminal

BUY, SELL, BUY_LIMIT = 0, 1, 2
POLL = 0.05


class BrokerTime:
    """The broker's own clock, which no jump of this computer's wall clock moves."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._start = clock.monotonic()

    def time(self) -> float:
        return NOON + self._clock.monotonic() - self._start

    def goes_on(self, seconds: float) -> None:
        """While the computer of the sender sleeps, and its monotonic clock stands still."""
        self._start -= seconds
        self._clock.wall += seconds


class Desk:
    """A master account, a person who trades on it, and a sender with the investor password. EURUSD 1.10000/1.10010."""

    def __init__(self, folder: Path, symbols: dict[str, Any] | None = None, margin_mode: str = "hedging") -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.broker_time = BrokerTime(self.clock)
        self.broker = Broker(
            AccountSettings(login=1001, balance=D(100_000), margin_mode=margin_mode),
            clock=self.broker_time,
            symbols=symbols_with(symbols or {}),
            seed=1,
        )
        self.sim = SimTerminal(self.broker)
        self.person = Client(self.sim)
        assert self.person.initialize("x", login=1001, password="demo", server="Sim")
        self.person.sim_set_quote("EURUSD", 1.10000, 1.10010)
        self.api = FakeApi(self.clock)
        self.quotes_come = True
        self.start()

    def start(self) -> None:
        self.mt5 = Client(self.sim)
        settings = Mt5Settings(1001, "investor", "Sim", path="x", module=Module.MT5_SIM)
        self.config = SenderConfig(ApiSettings("http://h", "anna", "p", ""), settings, 50, self.folder)
        self.terminal = Terminal(self.mt5, settings, self.clock)
        self.terminal.connect()
        self.ledger = SenderLedger(self.folder / "sender.db", "account 1001 at Sim", self.clock)
        self.sender = Sender(self.terminal, self.api, self.ledger, self.config, self.clock)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.ledger.close()

    def restart(self, *, lose_ledger: bool = False) -> None:
        self.kill()
        if lose_ledger:
            for file in self.folder.glob("sender.db*"):
                file.unlink()
        self.start()

    # -- time

    def poll(self, times: int = 1, every: float = POLL) -> None:
        for _ in range(times):
            self.clock.passes(every)
            if self.quotes_come:
                self.broker.advance()
            try:
                self.sender.step()
            except ConnectionLost:
                with contextlib.suppress(CannotConnect):
                    self.terminal.connect()

    def passes(self, seconds: float, every: float = 0.5) -> None:
        self.poll(round(seconds / every), every)

    def settled(self) -> Desk:
        """The sender has been watching long enough; forget what it has said so far."""
        self.passes(20)
        self.api.calls.clear()
        return self

    # -- the person trades

    def send(self, **fields: Any) -> int:
        request = {"action": 1, "symbol": "EURUSD", "volume": 0.1, "type_filling": 1, **fields}
        sent = self.person.sim_order_by_hand(**request)
        assert sent.retcode == 10009, sent
        ticket: int = sent.order
        return ticket

    def open(self, volume: float = 0.1, side: int = BUY, **fields: Any) -> int:
        return self.send(volume=volume, type=side, **fields)

    def close(self, ticket: int, volume: float | None = None) -> None:
        self.person.sim_close_by_hand(ticket, volume)

    def stops(self, ticket: int, sl: float = 0.0, tp: float = 0.0) -> None:
        self.send(action=6, position=ticket, sl=sl, tp=tp)

    def place(self, price: float = 1.09, **fields: Any) -> int:
        return self.send(action=5, type=BUY_LIMIT, price=price, type_filling=2, **fields)

    def cancel(self, ticket: int) -> None:
        self.send(action=8, order=ticket)

    def vanish(self, ticket: int) -> None:
        """A position goes and the history never says why."""
        del self.broker.account.positions[ticket]

    # -- what must hold

    def server_agrees(self) -> bool:
        told = {key: (t.action, t.volume, t.sl, t.tp) for key, t in self.api.book.items()}
        return told == self.truth()

    def truth(self) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        for p in self.broker.positions():
            found[Kind.POSITION, p.identifier] = (list(Action)[p.type], p.volume, p.sl, p.tp)
        for o in self.broker.orders():
            found[Kind.ORDER, o.ticket] = (list(Action)[o.type], o.volume_current, o.sl, o.tp)
        return found

    def body(self, number: int = -1) -> dict[str, Any]:
        return self.api.calls[number][1]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Desk]:
    """A sender that has not looked yet."""
    one = Desk(tmp_path)
    yield one
    one.kill()


@pytest.fixture
def desk(fresh: Desk) -> Desk:
    return fresh.settled()


# --- telling -------------------------------------------------------------------------------------------------------


def test_the_first_thing_said_is_the_whole_book(fresh: Desk) -> None:
    ticket = fresh.open(0.29)
    fresh.place()
    fresh.poll()
    (get, _), (put, body) = fresh.api.calls
    assert (get, put) == ("GET /signal/book", "PUT /signal/book")
    assert body["session"] is None
    assert body["account"] == {
        "login": 1001, "balance": 100_000, "equity": D(str(body["account"]["equity"])), "currency": "USD",
        "leverage": 100, "margin_mode": 2,
    }  # fmt: skip
    assert len(body["trades"]) == 2
    assert body["trades"][0]["ticket"] == ticket
    assert str(body["trades"][0]["volume"]) == "0.29"
    assert fresh.server_agrees()


def test_an_empty_account_begins_with_an_empty_book(fresh: Desk) -> None:
    fresh.poll()
    assert fresh.body()["trades"] == []
    fresh.poll(5)
    assert fresh.api.said() == ["GET /signal/book", "PUT /signal/book"], "nothing is said while nothing happens"


def test_a_new_position_is_told_at_the_next_poll_with_everything_about_it(desk: Desk) -> None:
    ticket = desk.open(0.29, SELL, sl=1.2, tp=1.0, magic=77, comment="by hand")
    desk.poll()
    (call,) = desk.api.calls
    assert call[0] == "POST /signal/broadcast"
    body = dict(call[1])
    assert body.pop("age_ms") <= 1000 * POLL
    assert body.pop("detected_at") == int(desk.clock.time() * 1000)
    assert body.pop("as_of") == desk.api.server_ms()
    assert (body.pop("session"), body.pop("rev") > 0) == ("session-1", True)
    assert body == {
        "ticket": ticket, "kind": "position", "symbol": "EURUSD", "action": "SELL", "volume": D("0.29"),
        "initial_volume": D("0.29"), "price": D("1.1"), "stoplimit": D(0), "sl": D("1.2"), "tp": D(1), "expiration": 0,
        "magic": 77, "comment": "by hand", "contract_size": 100_000, "point": D("0.00001"), "digits": 5,
    }  # fmt: skip


def test_stops_partial_closes_and_closes_are_told_one_by_one(desk: Desk) -> None:
    ticket = desk.open(1.0)
    desk.poll()
    desk.stops(ticket, sl=1.05)
    desk.poll()
    assert desk.body()["sl"] == D("1.05")
    desk.close(ticket, 0.71)
    desk.poll()
    assert desk.body()["remaining"] == D("0.29")
    assert "price" not in desk.body(), "the price of a part is not the price of the trade"
    assert desk.server_agrees()
    desk.person.sim_set_quote("EURUSD", 1.10110, 1.10120)
    desk.close(ticket)
    desk.poll()
    assert (desk.body()["remaining"], desk.body()["price"]) == (0, D("1.1011"))
    assert desk.body()["profit"] == sum(d.profit for d in desk.broker.deals(position=ticket))
    assert desk.api.said() == [
        "POST /signal/broadcast",
        "POST /signal/modify",
        "POST /signal/close",
        "POST /signal/close",
    ]
    assert desk.server_agrees()


def test_a_partial_close_and_another_stop_between_two_polls_are_both_told(desk: Desk) -> None:
    ticket = desk.open(1.0)
    desk.poll()
    desk.close(ticket, 0.4)
    desk.stops(ticket, sl=1.05)
    desk.poll()
    assert desk.api.said() == ["POST /signal/broadcast", "POST /signal/close", "POST /signal/modify"]
    assert desk.server_agrees()
    assert desk.api.book[Kind.POSITION, ticket].initial_volume == 1


def test_three_changes_go_one_by_one_and_four_as_one_book(desk: Desk) -> None:
    for _ in range(3):
        desk.open()
    desk.poll()
    assert desk.api.said() == ["POST /signal/broadcast"] * 3
    for _ in range(4):
        desk.open()
    desk.poll()
    assert desk.api.said() == ["PUT /signal/book"]
    assert desk.server_agrees()


@pytest.mark.parametrize("change", [{"volume": D("0.30")}, {"type": SELL}])
def test_a_change_that_only_a_netting_account_knows_goes_as_one_book(desk: Desk, change: dict[str, Any]) -> None:
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    for name, value in change.items():
        setattr(desk.broker.account.positions[ticket], name, value)
    desk.poll()
    assert desk.api.said() == ["PUT /signal/book"]
    assert desk.server_agrees()


def test_the_whole_book_goes_every_five_seconds(desk: Desk) -> None:
    desk.open()
    desk.poll()
    desk.api.said()
    desk.passes(30)
    assert desk.api.said() == ["PUT /signal/book"] * 6


def test_the_whole_book_goes_every_five_seconds_also_while_a_stop_trails_all_the_time(desk: Desk) -> None:
    ticket = desk.open()
    for n in range(60):
        desk.stops(ticket, sl=1.05 + n / 10_000)
        desk.poll(1, 0.5)
    said = desk.api.said()
    assert said.count("PUT /signal/book") >= 5
    assert said.count("POST /signal/modify") >= 59, "and the stop is still told at once"
    assert desk.server_agrees()


def test_every_post_has_a_higher_number(desk: Desk) -> None:
    for _ in range(3):
        desk.open()
        desk.passes(6)
    revs = [body["rev"] for _, body in desk.api.calls]
    assert revs == sorted(set(revs))
    assert len(revs) > 4


def test_what_was_detected_asked_and_answered_is_in_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ticket = desk.open()
        desk.poll()
    words = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in words] == ["detected", "POST", "answered:"]
    assert f"#{ticket} BUY 0.1 EURUSD" in words[0]


def test_it_never_trades_and_needs_no_more_than_the_investor_password(desk: Desk) -> None:
    assert "investor" in desk.terminal.read().account.trading_refused
    asked: list[str] = []
    desk.mt5.order_send = lambda *_: asked.append("order_send")  # type: ignore[method-assign]
    ticket = desk.open()
    desk.poll()
    desk.close(ticket)
    desk.poll()
    assert asked == []
    assert desk.api.said() == ["POST /signal/broadcast", "POST /signal/close"]


# --- a server that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["down", "lost", 401, 404, 413, 422, 500])
@pytest.mark.parametrize("change", ["open", "modify", "partial", "close"])
def test_after_any_failure_the_whole_book_settles_it(desk: Desk, fault: str | int, change: str) -> None:
    ticket = desk.open(1.0)
    desk.poll()
    desk.api.said()
    match change:
        case "open":
            desk.open()
        case "modify":
            desk.stops(ticket, sl=1.05)
        case "partial":
            desk.close(ticket, 0.4)
        case "close":
            desk.close(ticket)
    desk.api.faults = [fault]
    desk.poll()
    desk.api.said()
    desk.passes(2)
    assert set(desk.api.said()) == {"PUT /signal/book"}
    assert desk.server_agrees()
    desk.open()
    desk.poll()
    assert desk.api.said() == ["POST /signal/broadcast"], "and then it is quick again"


def test_while_the_server_is_down_it_asks_with_growing_pauses_and_says_it_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = desk.open()
    desk.api.faults = ["down"] * 100
    desk.passes(60, 0.25)
    asked = 100 - len(desk.api.faults)
    assert 10 < asked < 25
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2  # the first failure, and that it goes on
    desk.close(ticket)
    desk.open()
    desk.api.faults = []
    with caplog.at_level(logging.INFO):
        desk.passes(6)
    assert "the server is reached again" in caplog.text
    assert desk.server_agrees()


def test_the_book_that_begins_the_session_may_be_lost_too(fresh: Desk) -> None:
    fresh.open()
    fresh.api.faults = [None, "lost"]
    fresh.passes(3)
    assert fresh.api.sessions == 2
    fresh.open()
    fresh.poll()
    assert fresh.server_agrees()


def test_a_sender_whose_master_was_taken_over_stops_and_says_so(desk: Desk) -> None:
    desk.api.call("PUT", "/signal/book", {"session": None, "rev": 1, "detected_at": 1, "trades": [], "account": {}})
    desk.open()
    with pytest.raises(Superseded, match="another sender"):
        desk.poll()
    assert desk.api.book == {}


def test_a_full_disk_stops_nothing_but_is_an_error_until_there_is_room(desk: Desk) -> None:
    pages = desk.ledger._db.execute("PRAGMA page_count").fetchone()[0]
    desk.ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(4):
        desk.open(comment="c" * 16)
    errors = 0
    for _ in range(40):
        desk.open()
        try:
            desk.poll()
        except LedgerError:
            errors += 1
    assert errors
    desk.ledger._db.execute("PRAGMA max_page_count = 1000000")
    desk.passes(6)
    assert desk.server_agrees()
    assert desk.ledger.acknowledged().keys() == desk.api.book.keys()


# --- vanished positions --------------------------------------------------------------------------------------------


def test_a_close_with_its_deals_is_told_at_once(desk: Desk) -> None:
    ticket = desk.open()
    desk.poll()
    desk.close(ticket)
    desk.poll()
    assert desk.api.said() == ["POST /signal/broadcast", "POST /signal/close"]


@pytest.mark.parametrize("seconds", [0.3, 1.0, 5.0])
def test_a_close_whose_deals_come_late_is_told_when_they_come(desk: Desk, seconds: float) -> None:
    ticket = desk.open()
    desk.poll()
    desk.person.inject("history_deals_get", "late", seconds=seconds)
    desk.close(ticket)
    desk.api.said()
    desk.poll(int(seconds / POLL) - 1)
    assert desk.api.said() == []
    desk.poll(3)
    assert desk.api.said()[0] == "POST /signal/close"
    assert desk.server_agrees()


def test_a_position_that_vanished_without_a_deal_is_closed_after_15_s_of_good_readings(desk: Desk) -> None:
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    desk.vanish(ticket)
    desk.poll(int(15 / POLL))  # the first of these readings is the one that begins the 15 s
    assert desk.api.said() == []
    desk.poll(2)
    assert "POST /signal/close" in desk.api.said()
    assert desk.server_agrees()


def test_until_a_vanished_position_is_settled_nothing_is_told_from_that_reading(desk: Desk) -> None:
    first = desk.open()
    desk.poll()
    desk.api.said()
    desk.vanish(first)
    desk.poll()
    desk.open()
    desk.passes(14)
    assert desk.api.said() == []
    desk.passes(2)
    assert desk.server_agrees()


@pytest.mark.parametrize("times", [1, 100, 200])
def test_a_terminal_that_shows_nothing_for_a_while_closes_nothing(desk: Desk, times: int) -> None:
    desk.open()
    desk.place()
    desk.poll()
    book = dict(desk.api.book)
    for function in ("positions_get", "orders_get"):
        desk.person.inject(function, "stale_empty", times=times)
    desk.api.said()
    desk.poll(times)
    assert desk.api.said() == []
    desk.passes(30)
    assert desk.api.book == book


@pytest.mark.parametrize("first", [True, False])
def test_what_the_server_may_have_got_with_a_lost_answer_is_not_forgotten(fresh: Desk, first: bool) -> None:
    if first:  # the book that begins the session
        fresh.api.faults = [None, "lost"]
    else:
        fresh.settled()
        fresh.api.faults = ["lost"]
    ticket = fresh.open()
    fresh.poll()
    assert (Kind.POSITION, ticket) in fresh.api.book
    fresh.person.inject("positions_get", "stale_empty", times=20)
    fresh.passes(9)
    assert (Kind.POSITION, ticket) in fresh.api.book
    fresh.api.said()
    fresh.passes(8)
    assert "PUT /signal/book" in fresh.api.said()
    assert fresh.server_agrees()


def test_a_part_that_was_closed_earlier_does_not_prove_that_the_rest_is_closed(desk: Desk) -> None:
    ticket = desk.open(1.0)
    desk.poll()
    desk.close(ticket, 0.6)
    desk.poll()
    desk.person.inject("positions_get", "stale_empty", times=100)
    desk.api.said()
    desk.poll(100)
    assert desk.api.said() == []
    desk.poll()
    assert desk.server_agrees()
    assert desk.api.book[Kind.POSITION, ticket].volume == D("0.4")


def test_an_unreadable_moment_begins_the_15_s_anew(desk: Desk) -> None:
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    desk.vanish(ticket)
    desk.passes(14)
    desk.person.inject("positions_get", "none")
    desk.passes(14)
    assert desk.api.said() == []
    desk.passes(2)
    assert "POST /signal/close" in desk.api.said()


def test_a_sleep_of_the_computer_is_no_15_s_of_good_readings(desk: Desk) -> None:
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    desk.person.inject("positions_get", "stale_empty", times=2)
    desk.poll()
    desk.poll(1, 60.0)
    desk.poll()
    assert "POST /signal/close" not in desk.api.said()
    assert (Kind.POSITION, ticket) in desk.api.book


def test_a_history_that_cannot_be_read_proves_nothing(desk: Desk) -> None:
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    desk.close(ticket)
    desk.person.inject("history_deals_get", "none", times=None)
    desk.passes(60)
    assert desk.api.said() == []
    desk.person.sim_clear_faults()
    desk.poll()
    assert desk.api.said()[0] == "POST /signal/close"


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        *((function, "none") for function in ("positions_get", "orders_get", "account_info", "terminal_info", "*")),
        *((function, "disconnected") for function in ("positions_get", "orders_get", "terminal_info", "*")),
        ("account_info", "other_login"),
    ],
)
def test_an_account_that_cannot_be_read_closes_nothing(
    desk: Desk, function: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.open()
    desk.place()
    desk.poll()
    book = dict(desk.api.book)
    desk.api.said()
    desk.person.inject(function, outcome, times=None)
    desk.passes(60)
    assert desk.api.said() == []
    assert desk.api.book == book
    (warning,) = [record for record in caplog.records if "cannot be read" in record.getMessage()]
    assert warning.levelno == logging.WARNING
    desk.person.sim_clear_faults()
    desk.passes(20)
    assert desk.api.book == book


def test_a_terminal_that_is_gone_closes_nothing_and_is_connected_again(desk: Desk) -> None:
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    desk.sim.running = False
    desk.passes(60)
    assert desk.api.said() == []
    desk.sim.running = True
    desk.close(ticket)
    desk.passes(2)
    assert desk.server_agrees()


# --- pending orders ------------------------------------------------------------------------------------------------


def test_a_pending_order_is_told_moved_and_cancelled(desk: Desk) -> None:
    ticket = desk.place(sl=1.0)
    desk.poll()
    desk.send(action=7, order=ticket, price=1.08, sl=1.0, tp=1.2)
    desk.poll()
    assert desk.api.book[Kind.ORDER, ticket].price == D("1.08")
    desk.cancel(ticket)
    desk.poll()
    assert (desk.body()["kind"], desk.body()["remaining"]) == ("order", 0)
    assert desk.api.said() == ["POST /signal/broadcast", "POST /signal/modify", "POST /signal/close"]
    assert desk.server_agrees()


def test_of_an_order_that_filled_the_position_is_told_before_the_orders_end(desk: Desk) -> None:
    ticket = desk.place(1.09)
    desk.poll()
    desk.person.sim_set_quote("EURUSD", 1.08980, 1.08990)
    desk.api.calls.clear()
    desk.poll()
    kinds = [(what, body["kind"], body["ticket"]) for what, body in desk.api.calls]
    assert kinds == [("POST /signal/broadcast", "position", ticket), ("POST /signal/close", "order", ticket)]
    assert desk.api.ages[Kind.POSITION, ticket] == 1000 * POLL
    assert desk.server_agrees()


def test_an_order_that_fills_while_the_account_is_read_is_seen_twice_and_never_not_at_all(desk: Desk) -> None:
    ticket = desk.place(1.09)
    desk.poll()
    read_orders = desk.mt5.orders_get

    def filled_meanwhile() -> Any:
        orders = read_orders()
        desk.person.sim_set_quote("EURUSD", 1.08980, 1.08990)
        return orders

    desk.mt5.orders_get = filled_meanwhile  # type: ignore[method-assign]
    desk.poll()
    assert desk.api.book.keys() == {(Kind.ORDER, ticket), (Kind.POSITION, ticket)}
    del desk.mt5.orders_get
    desk.poll()
    assert desk.api.book.keys() == {(Kind.POSITION, ticket)}


def test_an_order_that_filled_into_a_position_not_shown_yet_is_waited_for(desk: Desk) -> None:
    ticket = desk.place(1.09)
    desk.poll()
    desk.api.said()
    desk.person.sim_set_quote("EURUSD", 1.08980, 1.08990)
    desk.person.inject("positions_get", "stale_empty", times=20)
    desk.poll(20)
    assert desk.api.said() == []
    desk.poll()
    assert desk.api.book.keys() == {(Kind.POSITION, ticket)}


def test_an_order_that_filled_and_closed_between_two_polls_just_ends(desk: Desk) -> None:
    ticket = desk.place(1.09)
    desk.poll()
    desk.person.sim_set_quote("EURUSD", 1.08980, 1.08990)
    desk.close(ticket)
    desk.api.said()
    desk.poll()
    assert desk.api.said() == ["POST /signal/close"]
    assert desk.api.book == {}


def test_a_position_that_opened_and_closed_between_two_polls_is_never_told(desk: Desk) -> None:
    desk.close(desk.open())
    desk.poll(3)
    assert desk.api.said() == []


def test_an_order_that_expires_is_told(desk: Desk) -> None:
    expires = int(NOON) + 3 * 3600 + 60
    ticket = desk.place(type_time=2, expiration=expires)
    desk.poll()
    assert desk.api.book[Kind.ORDER, ticket].expiration == (expires - 3 * 3600) * 1000, "UTC on the wire"
    desk.passes(61)
    assert desk.api.book == {}


def test_the_expiration_that_was_told_stays_while_no_quote_shows_the_brokers_clock(desk: Desk) -> None:
    expires = int(NOON) + 3 * 3600 + 7 * 86_400
    ticket = desk.place(type_time=2, expiration=expires)
    desk.poll()
    desk.quotes_come = False
    desk.clock.passes(86_400 + 60)
    desk.restart()
    desk.api.said()
    for _ in range(40):
        desk.passes(60, 60)
    assert desk.api.book[Kind.ORDER, ticket].expiration == (expires - 3 * 3600) * 1000


def test_a_market_order_on_its_way_is_no_pending_order(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.person.inject("order_send", "placed_late_fill", seconds=2)
    sent = desk.person.order_send({"action": 1, "symbol": "EURUSD", "volume": 0.1, "type": BUY, "type_filling": 1})
    assert sent.retcode == 10008
    desk.poll(10)
    assert len(desk.mt5.orders_get()) == 1
    assert desk.api.said() == []
    desk.passes(3)
    assert "POST /signal/broadcast" in desk.api.said()
    assert "cannot be copied" not in caplog.text


# --- restarts ------------------------------------------------------------------------------------------------------


def test_a_restart_tells_what_happened_meanwhile(desk: Desk) -> None:
    closed, cut, kept = desk.open(), desk.open(1.0), desk.open()
    desk.poll()
    desk.kill()
    desk.clock.passes(120)
    desk.close(closed)
    desk.close(cut, 0.4)
    opened = desk.open()
    desk.start()
    desk.api.said()
    desk.poll()
    assert desk.api.said() == ["GET /signal/book", "PUT /signal/book"]
    assert desk.server_agrees()
    assert {ticket for _, ticket in desk.api.book} == {cut, kept, opened}
    assert desk.api.book[Kind.POSITION, cut].initial_volume == 1
    desk.open()
    desk.poll()
    assert desk.server_agrees()


@pytest.mark.parametrize("lose_ledger", [False, True])
def test_a_restart_into_a_terminal_that_shows_nothing_yet_closes_nothing(desk: Desk, lose_ledger: bool) -> None:
    desk.open()
    desk.open(1.0)
    desk.place()
    desk.poll()
    book = dict(desk.api.book)
    desk.restart(lose_ledger=lose_ledger)
    for function in ("positions_get", "orders_get"):
        desk.person.inject(function, "stale_empty", times=200)
    desk.api.said()
    desk.poll(200)
    assert desk.api.said() == ["GET /signal/book"]
    desk.passes(20)
    assert desk.api.book.keys() == book.keys()
    assert desk.server_agrees()


def test_a_lost_ledger_hides_no_close(desk: Desk) -> None:
    ticket = desk.open()
    kept = desk.open()
    desk.poll()
    desk.kill()
    desk.close(ticket)
    desk.restart(lose_ledger=True)
    desk.poll()
    assert desk.api.book.keys() == {(Kind.POSITION, kept)}


def test_trades_entered_by_hand_at_the_server_are_not_the_senders(desk: Desk) -> None:
    desk.open()
    desk.poll()
    key = (Kind.POSITION, 8_000_000_000_000_001)
    manual = replace(next(iter(desk.api.book.values())), ticket=key[1], source="manual")  # type: ignore[arg-type]
    desk.api.book[key] = manual
    desk.restart(lose_ledger=True)
    desk.poll(3)
    assert "missing" not in str(desk.sender._spoken._said)
    assert desk.api.said()[-1] == "PUT /signal/book"


@pytest.mark.parametrize("fault", ["down", "lost", 500, 403])
def test_nothing_is_said_before_the_server_has_told_what_it_knows(desk: Desk, fault: str | int) -> None:
    ticket = desk.open()
    desk.poll()
    desk.restart(lose_ledger=True)
    desk.close(ticket)
    desk.api.said()
    desk.api.faults = [fault]
    desk.poll(5)
    assert set(desk.api.said()) <= {"GET /signal/book"}
    desk.passes(3)
    assert desk.server_agrees()


# --- ages ----------------------------------------------------------------------------------------------------------


def test_a_position_opened_before_the_sender_began_has_its_true_age(fresh: Desk) -> None:
    ticket = fresh.open()
    fresh.passes(0)
    fresh.clock.passes(3600)
    fresh.poll(20)
    age = fresh.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert 3_600_000 <= age <= 3_602_000


def test_while_no_quote_comes_the_age_of_what_was_there_already_is_not_known(fresh: Desk) -> None:
    """The last quote may be from just after the position was opened, hours ago: that does not make it young."""
    ticket = fresh.open()
    fresh.quotes_come = False
    fresh.clock.passes(3600)
    fresh.passes(40)
    assert fresh.api.ages[Kind.POSITION, ticket] is None
    fresh.api.said()
    fresh.quotes_come = True
    fresh.poll(2)
    age = fresh.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert age >= 3_640_000
    assert fresh.api.said() == ["PUT /signal/book"], "an age that is known at last is told at once"


def test_a_position_opened_while_the_sender_was_down_is_not_new(desk: Desk) -> None:
    desk.kill()
    ticket = desk.open()
    desk.clock.passes(600)
    desk.start()
    desk.poll(5)
    age = desk.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert age >= 600_000


def test_a_position_opened_while_the_account_could_not_be_read_is_not_new(desk: Desk) -> None:
    desk.person.inject("positions_get", "none", times=None)
    ticket = desk.open()
    desk.passes(120)
    desk.person.sim_clear_faults()
    desk.passes(1)
    age = desk.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert age >= 120_000


def test_a_position_that_the_terminal_shows_late_is_not_new(desk: Desk) -> None:
    desk.person.inject("positions_get", "stale_empty", times=200)
    ticket = desk.open()
    desk.poll(201)
    age = desk.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert age >= 10_000


def test_a_position_that_a_starting_terminal_shows_late_is_not_new(fresh: Desk) -> None:
    ticket = fresh.open()
    fresh.clock.passes(3600)
    fresh.quotes_come = False
    fresh.person.inject("positions_get", "stale_empty", times=100)
    fresh.poll(110)
    assert fresh.api.ages[Kind.POSITION, ticket] is None


def test_a_position_first_seen_while_watched_is_new_even_without_any_quote(fresh: Desk) -> None:
    fresh.quotes_come = False
    fresh.settled()
    ticket = fresh.open()
    fresh.poll()
    assert fresh.api.ages[Kind.POSITION, ticket] == 1000 * POLL
    fresh.passes(10)
    age = fresh.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert 5_000 <= age <= 10_050


@pytest.mark.parametrize(("slept", "age"), [(4.0, 4000), (60.0, None)])
def test_a_position_opened_while_nobody_looked_is_as_old_as_that_may_be(
    fresh: Desk, slept: float, age: int | None
) -> None:
    fresh.quotes_come = False
    fresh.settled()
    ticket = fresh.open()
    fresh.poll(1, slept)
    assert fresh.api.ages[Kind.POSITION, ticket] == age


@pytest.mark.parametrize("poll", [0.01, 5.0])
def test_ages_are_known_however_often_it_polls(fresh: Desk, poll: float) -> None:
    fresh.config = replace(fresh.config, poll_ms=int(poll * 1000))
    fresh.sender = Sender(fresh.terminal, fresh.api, fresh.ledger, fresh.config, fresh.clock)  # type: ignore[arg-type]
    old = fresh.open()
    fresh.clock.passes(600)
    fresh.poll(5, poll)
    fresh.passes(40, 5.0)
    new = fresh.open()
    fresh.poll(1, poll)
    assert fresh.api.ages[Kind.POSITION, old] is not None
    assert fresh.api.ages[Kind.POSITION, new] == poll * 1000


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_jump_of_the_wall_clock_makes_nothing_older_or_younger(desk: Desk, hours: int) -> None:
    ticket = desk.open()
    desk.poll()
    desk.clock.wall += hours * 3600
    desk.passes(10)
    other = desk.open()
    desk.poll()
    first, second = desk.api.ages[Kind.POSITION, ticket], desk.api.ages[Kind.POSITION, other]
    assert first is not None
    assert second is not None
    assert first <= 10_100
    assert second <= 100
    assert desk.server_agrees()


def test_what_was_opened_while_the_computer_slept_is_not_young_because_a_clock_stood_still(desk: Desk) -> None:
    kept = desk.open()
    grows = desk.open(0.2)
    desk.poll()
    desk.quotes_come = False
    ticket = desk.open()
    desk.broker_time.goes_on(30)
    desk.poll()
    assert desk.api.ages[Kind.POSITION, ticket] is None, "no quote shows the broker's clock"
    desk.quotes_come = True
    desk.passes(2)
    for one in (ticket, kept, grows):
        age = desk.api.ages[Kind.POSITION, one]
        assert age is not None
        assert age >= 30_000


def test_after_the_broker_has_set_its_clock_back_new_positions_are_new_again(desk: Desk) -> None:
    kept = desk.open()
    desk.passes(60)
    desk.broker.change_account({"utc_offset": 2.0})
    for _ in range(13):
        desk.passes(60, 1.0)
    ticket = desk.open()
    desk.poll()
    age = desk.api.ages[Kind.POSITION, ticket]
    assert age is not None
    assert age < 1000
    assert (Kind.POSITION, kept) in desk.api.book


@pytest.mark.parametrize("held", [True, False], ids=["a position is held", "the account is flat"])
def test_after_the_broker_has_set_its_clock_back_over_a_weekend_no_trade_seems_an_hour_old(
    desk: Desk, held: bool
) -> None:
    first = desk.open()
    desk.passes(30)
    if not held:
        desk.close(first)
        desk.passes(5)
    desk.quotes_come = False
    desk.passes(3600, 5.0)
    desk.broker.change_account({"utc_offset": 2.0})
    desk.quotes_come = True
    for _ in range(3):
        ticket = desk.open()
        desk.poll(3)
        age = desk.api.ages[Kind.POSITION, ticket]
        assert age is not None
        assert age < 1000
        desk.passes(60, 1.0)


def test_the_quotes_that_come_first_after_an_outage_do_not_make_a_trade_young(desk: Desk) -> None:
    """Nobody could look for 40 minutes; then the terminal shows a trade of then, and first a quote of then."""
    clock = desk.sender._broker_clock
    before = clock.now_msc(desk.clock.monotonic())
    assert before is not None
    desk.mt5.inject("positions_get", "none", times=None)
    desk.passes(2400, 5.0)
    now = desk.clock.monotonic()
    clock.look({"US30": before}, now, now)
    clock.look({"US30": before + 60_000}, now + 1, now)
    after = clock.now_msc(now + 1)
    assert after is not None
    assert after - before > 2_390_000


def test_the_status_says_that_the_account_is_read_also_while_the_server_is_down(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.api.faults = ["down"] * 20
    desk.poll(5)
    assert desk.sender.status().line.startswith("NOT CONNECTED | account read | ")
    desk.mt5.inject("positions_get", "none", times=None)
    desk.poll(2, 10.0)
    assert " | ACCOUNT NOT READ | " in desk.sender.status().line
    desk.kill()


def test_the_brokers_clock_is_not_known_before_a_quote_has_come_in() -> None:
    clock = BrokerClock()
    clock.look({}, 100.0, 0.0)
    clock.look({"EURUSD": 5_000}, 101.0, 0.0)
    clock.look({"EURUSD": 5_000, "US30": 9_000}, 102.0, 0.0)
    assert clock.now_msc(102.0) is None
    clock.look({"EURUSD": 6_000, "US30": 9_000}, 103.0, 0.0)
    assert clock.now_msc(103.0) == 6_000
    assert clock.now_msc(104.5) == 7_500


def test_a_quote_that_came_while_nobody_looked_shows_nothing() -> None:
    clock = BrokerClock()
    clock.look({"EURUSD": 5_000}, 100.0, 0.0)
    clock.look({"EURUSD": 6_000}, 3700.0, 0.0)
    clock.look({"US30": 6_000}, 3701.0, 0.0)
    clock.look({"EURUSD": 7_000, "US30": 6_000}, 3702.0, 0.0)  # in the book again: it may have been made long ago
    assert clock.now_msc(3702.0) is None


def test_a_quote_that_comes_late_does_not_hold_the_brokers_clock_back() -> None:
    clock = BrokerClock()
    clock.look({"EURUSD": 0, "US30": 0}, 100.0, 0.0)
    clock.look({"EURUSD": 100_000, "US30": 0}, 101.0, 0.0)
    clock.look({"EURUSD": 100_000, "US30": 40_000}, 102.0, 0.0)
    assert clock.now_msc(102.0) == 101_000


@pytest.mark.parametrize("rate", [1 - 1e-4, 1.0, 1 + 1e-4])
def test_two_clocks_that_drift_apart_for_two_weeks_do_not_make_trades_old_or_young(rate: float) -> None:
    clock = BrokerClock()
    for now in range(0, 14 * 86_400, 60):
        clock.look({"EURUSD": int((now - 0.1) * rate * 1000)}, now - 0.1, 0.0)
        clock.look({"EURUSD": int(now * rate * 1000)}, float(now), 0.0)
        known = clock.now_msc(float(now))
        assert known is None or abs(known - now * rate * 1000) < 100


# --- what cannot be said -------------------------------------------------------------------------------------------


def test_a_trade_that_the_wire_does_not_take_is_left_out_loudly_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path, {"Schatz€": {"like": "EURUSD"}}).settled()
    poison = desk.open(symbol="Schatz€")
    good = desk.open()
    desk.poll()
    desk.passes(30)
    assert desk.api.book.keys() == {(Kind.POSITION, good)}
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"Schatz€ #{poison} cannot be copied: symbol" in error.getMessage()
    desk.close(poison)
    desk.stops(good, sl=1.05)
    desk.poll()
    assert desk.server_agrees()
    desk.kill()


def test_a_trade_that_can_be_said_no_more_stays_as_it_was_told_and_is_not_closed(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = desk.open()
    desk.poll()
    told = desk.api.book[Kind.POSITION, ticket]
    desk.broker.account.positions[ticket].sl = D(-5)
    other = desk.open()
    desk.passes(60)
    assert desk.api.book[Kind.POSITION, ticket] == told
    assert (Kind.POSITION, other) in desk.api.book
    assert f"#{ticket} cannot be copied: sl" in caplog.text
    desk.close(ticket)
    desk.poll()
    assert desk.api.book.keys() == {(Kind.POSITION, other)}


@pytest.mark.parametrize("comment", ["two\nlines", "zero\x00", "half \ud800"])
def test_a_comment_never_keeps_a_trade_from_being_copied(desk: Desk, comment: str) -> None:
    ticket = desk.open()
    desk.broker.account.positions[ticket].comment = comment
    desk.poll()
    assert desk.api.book[Kind.POSITION, ticket].comment.startswith(comment[:3])


# --- everything at once --------------------------------------------------------------------------------------------


class Watchful(FakeApi):
    """Checks with every post what must never be told: the end of what is open, and an age that is too young."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk.clock)
        self.desk = desk

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        before = set(self.book)
        try:
            return super().call(method, path, body)
        finally:
            broker = self.desk.broker
            open_now = {(Kind.POSITION, p.identifier) for p in broker.positions()}
            pending = {(Kind.ORDER, o.ticket) for o in broker.orders()}
            assert not (before - set(self.book)) & (open_now | pending), "the end of something that is open was told"
            for position in broker.positions():
                age = self.ages.get((Kind.POSITION, position.identifier))
                true_age = broker.now_msc() - position.time_msc
                if (Kind.POSITION, position.identifier) not in before and age is not None:
                    assert age >= true_age - 2000, "an old trade was told as a young one"


def moved(desk: Desk, position: Any, chance: random.Random) -> None:
    sl = round(chance.uniform(0.9, 1.0), 5)
    desk.stops(position.ticket, **({"sl": sl} if position.is_buy else {"tp": sl}))


def anything_happens(desk: Desk, chance: random.Random) -> None:
    person, positions, orders = desk.person, desk.broker.positions(), desk.broker.orders()
    actions: list[Callable[[], Any]] = [
        lambda: desk.open(chance.choice([0.1, 0.29, 1.0]), chance.choice([BUY, SELL])),
        lambda: desk.place(float(desk.broker.market.quotes["EURUSD"].ask) - round(chance.uniform(0.001, 0.02), 4)),
        lambda: positions and desk.close(chance.choice(positions).ticket),
        lambda: positions and (p := chance.choice(positions)).volume > D("0.1") and desk.close(p.ticket, 0.1),
        lambda: positions and moved(desk, chance.choice(positions), chance),
        lambda: orders and desk.cancel(chance.choice(orders).ticket),
        lambda: person.sim_set_quote("EURUSD", bid := round(chance.uniform(1.06, 1.12), 5), round(bid + 0.0001, 5)),
        lambda: desk.api.faults.extend(chance.choices(["down", "lost", 500, 422, None], k=chance.randint(1, 3))),
        lambda: person.inject("positions_get", "none", times=chance.randint(1, 40)),
        lambda: person.inject("positions_get", "stale_empty", times=chance.randint(1, 10)),
        lambda: person.inject("orders_get", "stale_empty", times=chance.randint(1, 10)),
        lambda: person.inject("account_info", "other_login", times=chance.randint(1, 5)),
        lambda: person.inject("terminal_info", "disconnected", times=chance.randint(1, 20)),
        lambda: person.inject("history_deals_get", "late", seconds=chance.choice([0.5, 3])),
        lambda: person.inject("history_deals_get", "none", times=chance.randint(1, 5)),
        lambda: desk.restart(lose_ledger=chance.random() < 0.3),
        lambda: desk.clock.passes(chance.choice([3.0, 60.0])),
        lambda: setattr(desk, "quotes_come", chance.random() < 0.7),
        lambda: setattr(desk.clock, "wall", desk.clock.wall + chance.choice([-3600, 3600])),
    ]
    chance.choice(actions)()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_no_open_trade_is_told_as_closed_and_in_the_end_the_books_agree(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    desk = Desk(tmp_path)
    desk.api = Watchful(desk)
    desk.restart()
    for _ in range(120):
        try:
            anything_happens(desk, chance)
            desk.poll(chance.randint(1, 5), chance.choice([POLL, POLL, 0.5]))
        except CannotConnect:
            desk.person.sim_clear_faults()
            desk.start()
    desk.api.faults = []
    desk.person.sim_clear_faults()
    desk.quotes_come = True
    desk.passes(40)
    assert desk.server_agrees()
    assert None not in {desk.api.ages[key] for key in desk.api.book}
    desk.kill()


def test_a_refusal_that_is_not_409_is_no_takeover(desk: Desk) -> None:
    desk.open()
    desk.api.faults = [403]
    desk.poll()
    desk.passes(2)
    assert desk.server_agrees()
    with pytest.raises(ApiRefused):
        desk.api.call("POST", "/signal/broadcast", {"session": "no", "rev": 9**9, "detected_at": 1})


def test_the_account_is_looked_at_every_poll_ms() -> None:
    class Looks:
        """A sender that does nothing, and its own worker with a stop event that counts its rests."""

        def __init__(self) -> None:
            self.looks = 0
            self.rests: list[float] = []
            self.stop = self
            self.command = self.status = self.carry_out = self.show = lambda *_: None

        def step(self) -> None:
            self.looks += 1

        def is_set(self) -> bool:
            return len(self.rests) == 3

        def wait(self, seconds: float) -> None:
            self.rests.append(seconds)

    longest = {}
    for poll_ms in (5_000, 10):
        looks: Any = Looks()
        assert poll(looks, looks, poll_ms, looks) == 0
        assert looks.looks == 3
        longest[poll_ms] = max(looks.rests)
        assert 0 <= longest[poll_ms] <= poll_ms / 1000
    assert longest[5_000] > longest[10]


def test_a_symbol_about_which_the_terminal_does_not_answer_holds_up_no_trade(fresh: Desk) -> None:
    fresh.settled()
    first = fresh.open()
    fresh.poll(3)
    fresh.person.inject("symbol_info", "none", times=None)
    second = fresh.open(side=SELL)
    fresh.close(first)
    fresh.poll(3)
    fresh.person.sim_clear_faults()
    assert fresh.api.book.keys() == {(Kind.POSITION, second)}


# --- posts that are long on their way --------------------------------------------------------------------------------


def test_ages_are_not_told_as_measured_by_the_clock_of_a_database_that_was_lost(desk: Desk) -> None:
    desk.open(0.3)
    desk.poll()
    desk.api.loses_database()
    desk.passes(20)
    desk.api.calls.clear()
    measured = desk.api.server_ms()
    desk.open(0.1)
    desk.poll()
    (post,) = [body for what, body in desk.api.calls if what == "POST /signal/broadcast"]
    assert 0 <= post["as_of"] - measured <= 1000 * POLL


def test_a_post_says_when_its_ages_were_measured_by_the_servers_clock(desk: Desk) -> None:
    measured = desk.api.server_ms()
    desk.open(0.1)
    desk.open(0.2)
    desk.api.while_serving = lambda: desk.clock.passes(4)  # each request is on its way for so long
    desk.poll()
    posts = [body for what, body in desk.api.calls if what == "POST /signal/broadcast"]
    assert [0 <= body["as_of"] - measured <= 1000 * POLL for body in posts] == [True, True], "not when they were sent"


def test_a_beginning_whose_answer_was_lost_is_found_out_and_begun_anew(desk: Desk) -> None:
    desk.restart()
    desk.open(0.1)
    desk.api.said()
    desk.api.faults = [None, "lost"]
    desk.poll(120)
    assert desk.api.said()[:5] == [
        "GET /signal/book",
        "PUT /signal/book",
        "PUT /signal/book",
        "GET /signal/book",
        "PUT /signal/book",
    ]  # fmt: skip  the second beginning names the session from before the first, which has arrived
    assert desk.api.sessions == 3
    assert len(desk.api.book) == 1
