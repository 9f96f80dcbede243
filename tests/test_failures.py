"""What goes wrong and what must come of it: rows of the failure list (docs/reliability.md) that no other test shows.

Each test names its rows.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from chain import Chain
from follower import Follower, Make, order, position
from server_kit import PASSWORD, FakeConnection, HandClock, Listening, Serving, serving, trade
from test_chain import running_copier
from test_sender import Desk

from api_client import Api
from config import ApiSettings
from copies import Copy, State, tag_of
from db import Store
from hub import Hub
from ledger import CopierLedger, LedgerError
from link import Heard, Listener
from mirror import Mirror
from records import Post, Role
from run_copier import Sent, check_newest
from safety import Limits, Mode, Sizing
from signals import Action, Kind, decode
from terminal import Terminal

MANY = Limits(50, 20, 500, D(1000), D(10), 60)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path).settled()
    yield one
    one.kill()


# --- the sender -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Deadly:
    """The way to a server; where it is told to, the process dies before or after a request has arrived."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.dies = ""

    def call(self, *request: Any) -> dict[str, Any]:
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise Killed
        answer = self._api.call(*request)
        if dies == "after":
            raise Killed
        return answer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server") as running:
        yield running


@pytest.mark.parametrize("dies", ["before", "after"])
@pytest.mark.parametrize("deed", ["signal", "close"])
def test_a_sender_killed_in_the_middle_of_a_post_has_told_it_once_when_it_is_back(
    server: Serving, tmp_path: Path, deed: str, dies: str
) -> None:
    """S1, S2."""
    server.user("master_user", "master")
    way = Deadly(Api(ApiSettings(server.url, "master_user", PASSWORD, "")))
    desk = Desk(tmp_path)
    desk.api = way  # type: ignore[assignment]
    desk.restart()
    desk.passes(20)
    ticket = desk.open()
    if deed == "close":
        desk.poll()
        desk.close(ticket)
    way.dies = dies
    with pytest.raises(Killed):
        desk.poll()
    desk.restart()
    desk.poll(3)
    desk.kill()
    told = [entry.change.type for entry in server.store.entries_after(0, 100)]
    assert [what for what in told if what != "modify"] == (["signal"] if deed == "signal" else ["signal", "close"])
    assert [t.ticket for t in server.store.book()] == ([ticket] if deed == "signal" else [])


def test_of_a_hundred_changes_between_two_polls_the_newest_is_told(desk: Desk) -> None:
    """S8."""
    ticket = desk.open()
    desk.poll()
    desk.api.said()
    for n in range(100):
        desk.stops(ticket, sl=1.05 + n / 10_000)
    desk.poll()
    assert desk.body()["sl"] == D("1.0599")
    assert desk.api.said() == ["POST /signal/modify"]


def given_another_ticket(desk: Desk, identifier: int) -> int:
    """The broker re-opens a position over night: its ticket changes, its identifier does not."""
    position = desk.broker.account.positions.pop(identifier)
    position.ticket = desk.broker.account.new_order_ticket()
    desk.broker.account.positions[position.ticket] = position
    return int(position.ticket)


def test_a_position_that_gets_another_ticket_is_still_the_same(desk: Desk) -> None:
    """S10."""
    identifier = desk.open()
    desk.poll()
    desk.api.said()
    ticket = given_another_ticket(desk, identifier)
    desk.poll(20)
    assert desk.server_agrees()
    assert set(desk.api.said()) <= {"PUT /signal/book"}, "which only says that it is alive"
    desk.close(ticket)
    desk.poll()
    assert desk.body()["ticket"] == identifier
    assert desk.api.said() == ["POST /signal/close"]


def test_after_an_hour_without_the_server_every_close_is_told_and_every_open_with_its_true_age(desk: Desk) -> None:
    """S14."""
    goes = [desk.open(), desk.open()]
    desk.poll()
    pages = desk.ledger._db.execute("PRAGMA page_count").fetchone()[0]
    desk.api.faults = ["down"] * 100_000
    opened_at: dict[int, float] = {}
    for ticket in (*goes, 0, 0):
        desk.passes(900, 2.0)
        opened_at[desk.open()] = desk.clock.monotonic()
        if ticket:
            desk.close(ticket)
    desk.api.faults = []
    desk.passes(6)
    assert desk.server_agrees()
    assert {ticket for _, ticket in desk.api.book} == set(opened_at)
    for ticket, at in opened_at.items():
        age, true_age = desk.api.ages[Kind.POSITION, ticket], (desk.clock.monotonic() - at) * 1000
        assert age is not None
        assert true_age - 7_000 <= age <= true_age + 2_500, "as old as it was when it was told at last"
    assert desk.ledger._db.execute("PRAGMA page_count").fetchone()[0] == pages, "nothing is kept for later"


# --- the server -------------------------------------------------------------------------------------------------------


def test_what_was_stored_and_never_sent_is_in_the_next_book(tmp_path: Path) -> None:
    """V1: the server is killed between the commit and the broadcast."""
    clock = HandClock()
    with closing(Store(tmp_path / "server.db", clock)) as store:
        master = store.add_user("master_user", "hash", Role.MASTER)
        client = store.add_user("client_user", "hash", Role.CLIENT)
        store.open_trade(master, trade(1), 0, Post())
        store.open_trade(master, trade(2), 0, Post())
        store.close_trade(master, 1, None, Post())
    with closing(Store(tmp_path / "server.db", clock)) as store:
        connection = FakeConnection()
        Hub(store, clock).join(connection, client, store.now_ms() + 1000, arrived=1)
    mirror = Mirror()
    mirror.apply(decode(json.dumps(connection.messages[0])), 0.0)
    assert [ticket for _, _, ticket in mirror.trades] == [2]
    assert mirror.seq == 3


def test_nothing_is_lost_while_the_token_ends_again_and_again(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    """V8: the real listener, and tokens that live for half a second."""
    with serving(tmp_path, token_seconds=0.5) as server:
        master, _ = server.user("master_user", "master").user, server.user("client_user")
        api = ApiSettings(server.url, "client_user", PASSWORD, server.url.replace("http", "ws", 1))
        stop, mirror, ends = threading.Event(), Mirror(), []
        listener = Listener(Api(api), api, queue.SimpleQueue(), stop)
        listener.start()

        def hear() -> None:
            heard = listener._inbox.get(timeout=20)
            if not isinstance(heard, Heard):
                ends.append(heard.why)
                mirror.disconnected()
            elif mirror.apply(heard.message, heard.at):
                listener.sync()

        def opens(ticket: int) -> None:
            server.hub.publish(master, lambda _: server.store.open_trade(master, trade(ticket), 0, Post()))

        ticket = 0
        try:
            while len(ends) < 4:
                ticket += 1
                opens(ticket)
                hear()
            while not mirror.synced or mirror.seq < server.store.last_seq():
                hear()
        finally:
            stop.set()
            listener.close()
            listener.join(10)
    assert all("4401" in end for end in ends[:4])
    assert {ticket for _, _, ticket in mirror.trades} == set(range(1, ticket + 1))


def test_fifty_followers_of_a_server_that_was_restarted_all_have_the_same_book(tmp_path: Path) -> None:
    """V11."""
    names = [f"client_{n}" for n in range(50)]
    with serving(tmp_path) as server:
        master = server.user("master_user", "master").user
        tokens = {name: server.user(name).token for name in names}
        for ticket in range(1, 101):
            server.store.open_trade(master, trade(ticket), 0, Post())
    with serving(tmp_path) as server:
        books: dict[str, Any] = {}

        def comes_back(name: str) -> None:
            listening = Listening(server.url, tokens[name])
            books[name] = listening.next("book")
            listening.close()

        threads = [threading.Thread(target=comes_back, args=(name,), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert books.keys() == set(names)
    assert len({json.dumps(book["data"]) for book in books.values()}) == 1
    assert len(books[names[0]]["data"]["trades"]) == 100


def test_a_server_database_put_back_from_an_old_copy_doubles_nothing_and_closes_nothing_wrongly(
    tmp_path: Path,
) -> None:
    """V10, with real processes."""
    chain = Chain(tmp_path)
    try:
        running_copier(chain)
        goes = chain.master_opens(0.2)
        chain.master_opens(0.4)
        chain.agrees("two trades")
        chain.kill("server")
        backup = tmp_path / "backup"
        backup.mkdir()
        for file in tmp_path.glob("server.db*"):
            shutil.copy(file, backup)
        chain.restart("server")
        chain.master_opens(0.6)
        chain.agrees("a third trade")
        for part in ("sender", "server"):
            chain.kill(part)
        for file in tmp_path.glob("server.db*"):
            file.unlink()
        for file in backup.iterdir():
            shutil.copy(file, tmp_path)
        chain.master_closes(goes)
        heard = (tmp_path / "copier.out").read_text().count("settings")
        chain.restart("server")
        chain.wait(lambda: (tmp_path / "copier.out").read_text().count("settings") > heard, "the copier to be back")
        chain.restart("sender")
        chain.agrees("after the server began with an old copy of its database")
        chain.master_opens(0.8, buy=False)
        chain.agrees("and copying goes on")
        assert chain.ever_opened() == 4
    finally:
        chain.stop()


# --- the copier: what the broker answers ------------------------------------------------------------------------------


def test_a_part_that_was_filled_is_the_copy_and_is_not_topped_up(follower: Follower) -> None:
    """C6."""
    follower.mt5.inject("order_send", "partial", fraction=0.4)
    trade = follower.master_opens(position(1, volume="1.00"))
    follower.passes(5)
    assert follower.volumes == [0.4]
    follower.master_closes(trade, "0.50")
    follower.passes(5)
    assert follower.volumes == [0.2]
    assert follower.opened() == 1


@pytest.mark.parametrize("retcode", [10004, 10018, 10020, 10021, 10024, 10026, 10027])
def test_an_open_refused_for_now_is_tried_again_while_the_trade_is_young(follower: Follower, retcode: int) -> None:
    """C7, C8."""
    follower.mt5.inject("order_send", "retcode", retcode=retcode, times=2)
    follower.master_opens(position(1))
    follower.passes(40)
    assert follower.opened() == 1
    follower.mt5.inject("order_send", "retcode", retcode=retcode, times=None)
    follower.master_opens(position(2, "SELL"))
    follower.passes(62)
    follower.mt5.sim_clear_faults()
    follower.passes(5)
    assert follower.opened() == 1
    assert follower.state(2) == "skipped"


@pytest.mark.parametrize("retcode", [10013, 10014, 10019, 10033, 10034, 10040, 10044])
def test_an_open_refused_for_good_is_tried_once(follower: Follower, retcode: int) -> None:
    """C9, C10."""
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=retcode, times=None)
    follower.master_opens(position(1))
    follower.passes(10)
    assert len(watched.sent) == 1
    assert follower.state(1) == "failed"


def test_a_trade_whose_price_the_broker_does_not_take_is_not_opened_without_its_stop(follower: Follower) -> None:
    """C10."""
    watched = follower.watch()
    follower.mt5.inject("order_send", "retcode", retcode=10015, times=None)
    follower.master_opens(position(1, sl=D("1.08")))
    follower.passes(62)
    assert follower.opened() == 0
    assert {request["sl"] for request in watched.sent} == {1.08}
    assert follower.state(1) == "skipped"


@pytest.mark.parametrize("retcode", [10008, 10025, 10036, 10038, 10039])
def test_a_close_is_done_when_the_position_is_gone_whatever_was_answered(follower: Follower, retcode: int) -> None:
    """C11."""
    trade = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=retcode, times=3)
    follower.master_closes(trade)
    follower.look()
    assert (follower.volumes, follower.state(1)) == ([0.1], "closing")
    follower.passes(30)
    assert (follower.volumes, follower.state(1)) == ([], "closed")


# --- the copier: what it hears, and when ------------------------------------------------------------------------------


def hears_nothing(follower: Follower) -> None:
    while not follower.inbox.empty():
        follower.inbox.get_nowait()


def test_after_ten_minutes_without_a_connection_every_close_is_made_at_once_and_nothing_old_is_opened(
    make: Make,
) -> None:
    """C14: a hundred closes and a hundred opens while the connection is cut."""
    follower = make(balance=10_000_000, limits=MANY)
    goes = [follower.master_opens(position(n, volume=f"{n / 100:.2f}")) for n in range(1, 101)]
    follower.look(10)
    assert len(follower.positions) == 100
    follower.disconnects()
    follower.look(1)
    for n, old in enumerate(goes, start=1):
        follower.master_closes(old)
        follower.master_opens(position(1000 + n, "SELL", volume=f"{n / 100:.2f}"))
        hears_nothing(follower)
        follower.passes(6, step=3)
    assert len(follower.positions) == 100, "what is not known is not done"

    watched = follower.watch()
    began = follower.clock.monotonic()
    follower.sends_book()
    follower.passes(2, step=0.25)
    closes = [at for request, at in zip(watched.sent, watched.sent_at, strict=True) if "position" in request]
    assert len(closes) == 100
    assert max(closes) - began <= 2
    assert all("position" in request for request in watched.sent[:100]), "what takes risk away comes first"
    young = {key for key, trade in follower.book.items() if began * 1000 - trade.opened_at <= 60_000}
    assert 5 <= len(young) <= 10
    assert {p.comment for p in follower.positions} == {tag_of(key) for key in young}
    assert [follower.state(1000 + n) for n in range(1, 90)] == ["skipped"] * 89
    assert follower.opened() == 100 + len(young)


def test_a_trade_that_the_master_closed_before_it_could_be_opened_is_not_opened(follower: Follower) -> None:
    """C16."""
    follower.mt5.inject("order_send", "requote", times=None)
    trade = follower.master_opens(position(1))
    follower.look(1)
    follower.master_closes(trade)
    follower.mt5.sim_clear_faults()
    follower.passes(70)
    assert follower.opened() == 0


def test_messages_that_come_three_times_and_again_after_a_restart_open_nothing_twice(follower: Follower) -> None:
    """C17."""
    said: list[dict[str, Any]] = []
    tell = follower.tell
    follower.tell = lambda message: (said.append(message), tell(message))[1]  # type: ignore[method-assign,func-returns-value]
    first = follower.master_opens(position(1))
    follower.master_opens(position(2, "SELL"))
    follower.master_closes(first)
    for _ in range(2):
        for message in said[:3]:
            tell(message)
        follower.look()
    follower.restart()
    follower.sends_book()
    for message in said[:3]:
        tell(message)
    follower.passes(3)
    assert follower.opened() <= 2
    assert [p.type for p in follower.positions] == [1]


def test_another_multiplier_is_for_new_trades_only(make: Make) -> None:
    """C20."""
    follower = make()
    trade = follower.master_opens(position(1, volume="0.40"))
    follower.look()
    follower.restart(sizing=Sizing(Mode.MULTIPLIER, D(0), D("0.5")))
    follower.sends_book()
    follower.passes(3)
    assert follower.volumes == [0.4]
    follower.master_opens(position(2, volume="0.40"))
    follower.master_closes(trade, "0.20")
    follower.look()
    assert follower.volumes == [0.2, 0.2]


# --- the copier: its disk ---------------------------------------------------------------------------------------------


def is_written(ledger: CopierLedger, number: int) -> bool:
    """Whether there is room for another copy and another report."""
    skipped = Copy("master_user", Kind.POSITION, number, State.SKIPPED, f"t{number}", "EURUSD", Action.BUY, 1)
    written = 0
    for change in ({"copies": [skipped]}, {"reports": [{"event": "skipped"}]}):
        try:
            ledger.record(*change.get("copies", ()), reports=change.get("reports", ()))
            written += 1
        except LedgerError:
            continue
    return written > 0


def test_on_a_full_disk_nothing_is_opened_every_close_is_made_and_the_message_is_not_forgotten(
    make: Make,
) -> None:
    """C13."""
    follower = make(limits=MANY)
    goes = follower.master_opens(position(1))
    follower.look()
    pages = follower.ledger._db.execute("PRAGMA page_count").fetchone()[0]
    follower.ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    assert not all(
        is_written(follower.ledger, number) for number in range(1000, 9000)
    )  # also what is free in its pages
    follower.master_opens(position(2, "SELL"))
    follower.master_closes(goes)
    errors = 0
    for _ in range(10):
        follower.clock.now += 1
        try:
            follower.look(1)
        except LedgerError:
            errors += 1
    assert errors
    assert follower.positions == []
    assert follower.opened() == 1
    follower.ledger._db.execute("PRAGMA max_page_count = 1000000")
    follower.passes(2)
    assert [p.type for p in follower.positions] == [1]
    assert follower.state(1) == "closed"


def test_a_damaged_ledger_is_put_aside_and_doubles_nothing(follower: Follower) -> None:
    """C22."""
    trade = follower.master_opens(position(1))
    by_hand = follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.mt5.sim_close_by_hand(follower.positions[1].ticket)
    follower.look()
    follower.kill()
    for leftover in follower.folder.glob("client.db-*"):
        leftover.unlink()
    (follower.folder / "client.db").write_bytes(b"not a database" * 1000)
    follower.start()
    follower.sends_book()
    follower.passes(70)
    assert (follower.state(1), follower.state(by_hand.ticket)) == ("open", "skipped")
    assert follower.opened() == 2
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []


class OldCopy:
    """A copy of a follower's ledger, and what happens when it is put back."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._folder = follower.folder / "backup"
        self._folder.mkdir()
        with closing(follower.ledger._connect_to(self._folder / "client.db")) as copy:
            follower.ledger._db.backup(copy)

    def is_put_back(self, foreign: Mapping[str, str] | None = None) -> None:
        """The copier is started on it, as `run()` starts it; when it has taken some lots for the follower's."""
        follower = self._follower
        follower.kill()
        for file in follower.folder.glob("client.db*"):
            file.unlink()
        shutil.copy(self._folder / "client.db", follower.folder)
        if foreign:
            with closing(CopierLedger(follower.folder / "client.db", "account 2001 at Sim")) as ledger:
                ledger.set(foreign=json.dumps(foreign))
        starts(follower)


def in_all(follower: Follower) -> float:
    return sum(follower.volumes)


def starts(follower: Follower) -> None:
    config = follower.config()
    with closing(CopierLedger(follower.folder / "client.db", "account 2001 at Sim", follower.clock)) as ledger:
        check_newest(ledger, Terminal(follower.mt5, config.mt5, follower.clock), config)
    follower.start()


@pytest.mark.parametrize("comment_length", [16, 0])
def test_an_old_ledger_put_back_does_not_open_again_what_was_closed_by_hand_since(
    follower: Follower, comment_length: int
) -> None:
    """C22b."""
    follower.broker_keeps_of_comments(comment_length)
    follower.master_opens(position(1))
    follower.look()
    old = OldCopy(follower)
    follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.mt5.sim_close_by_hand(follower.positions[1].ticket)
    follower.look()
    old.is_put_back()
    follower.sends_book()
    follower.passes(70)
    assert follower.opened() == 2
    assert (follower.state(1), follower.state(2)) == ("open", "skipped")
    follower.master_opens(position(3))
    follower.look()
    assert follower.opened() == 3


@pytest.mark.parametrize("comment_length", [16, 0])
@pytest.mark.parametrize("kind", [Kind.POSITION, Kind.ORDER])
def test_an_old_ledger_put_back_doubles_nothing_that_is_open(
    follower: Follower, comment_length: int, kind: Kind
) -> None:
    """C22b. Where the broker keeps the comment the copy is adopted; where not, it is reported and not touched."""
    follower.broker_keeps_of_comments(comment_length)
    old = OldCopy(follower)
    changes = {} if kind is Kind.POSITION else {"price": D("1.09"), "action": "BUY_LIMIT"}
    trade = follower.master_opens(position(1, kind=kind, **changes))
    follower.look()
    old.is_put_back()
    follower.mt5.inject("positions_get", "stale_empty", times=None)
    follower.mt5.inject("orders_get", "stale_empty", times=None)
    follower.sends_book()
    follower.passes(5)
    follower.mt5.sim_clear_faults()
    follower.passes(70)
    assert len(follower.positions) + len(follower.orders) == 1
    assert follower.opened() <= 1
    assert follower.state(1, kind) == ("open" if comment_length else "skipped")
    follower.master_closes(trade)
    follower.look()
    assert len(follower.positions) + len(follower.orders) == (0 if comment_length else 1)


def test_an_intent_of_an_old_ledger_does_not_take_a_part_that_was_closed_since_for_the_whole(
    follower: Follower,
) -> None:
    """C22b: the copy was made whole, and reduced with its master."""
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=2)
    trade = follower.master_opens(position(1, volume="0.50"))
    follower.look()
    old = OldCopy(follower)
    follower.ticks(3)
    follower.master_closes(trade, "0.30")
    follower.look()
    assert follower.volumes == [0.3]
    follower.master_opens(position(2, "SELL", volume="0.20"))  # which the old copy does not know
    follower.look()
    old.is_put_back()
    follower.sends_book()
    follower.passes(20)
    assert sorted(follower.volumes) == [0.2, 0.3]
    assert follower.opened() == 2


def test_an_intent_of_an_old_ledger_does_not_explain_an_order_that_asked_for_something_else(follower: Follower) -> None:
    """C22b: where the broker replaces comments, only what is like it can be what became of it."""
    follower.broker_keeps_of_comments(0)
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_opens(position(1, "SELL", volume="0.15"))
    follower.look(1)
    old = OldCopy(follower)
    follower.master_opens(order(2, "SELL_LIMIT", "1.11000"))
    follower.look(1)
    assert len(follower.orders) == 1
    old.is_put_back()
    follower.sends_book()
    follower.passes(20)
    assert len(follower.orders) == 1
    assert follower.state(2, Kind.ORDER) == "skipped"


def on_netting(make: Make) -> Follower:
    return make(account={"margin_mode": "netting"}, limits=Limits(50, 20, 10, D(20), D(50), 60))


@pytest.mark.parametrize("beside", [True, False])
def test_an_old_ledger_put_back_takes_up_what_was_opened_since_on_a_netting_account(make: Make, beside: bool) -> None:
    """C22b. What was sent since has the position's identifier, which the old copy knows, and a tag that it does not.
    Where it had no copies it may have taken those lots for the follower's."""
    follower = on_netting(make)
    if beside:
        other = follower.master_opens(position(1, volume="0.30"))
    follower.look()
    old = OldCopy(follower)
    trade = follower.master_opens(position(2))
    follower.look()
    old.is_put_back(foreign={} if beside else {"EURUSD": "0.10"})
    follower.sends_book()
    follower.passes(20)
    assert (follower.state(2), in_all(follower)) == ("open", 0.4 if beside else 0.1)
    follower.master_closes(trade)
    if beside:
        follower.master_closes(other)
    follower.passes(5)
    assert in_all(follower) == 0


@pytest.mark.parametrize("unreadable", [True, False])
def test_a_ledger_that_begins_anew_keeps_apart_what_is_the_followers(make: Make, unreadable: bool) -> None:
    follower = on_netting(make)
    follower.settings["allow_mixed_symbol"] = True
    follower.restart()
    follower.sends_book()
    follower.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.5, type=0, type_filling=1)
    follower.passes(2)
    follower.master_opens(position(1, "SELL"))
    follower.look()
    old = OldCopy(follower)
    if not unreadable:
        follower.master_opens(position(2, "SELL", volume="0.20"))
        follower.look()
    else:
        follower.mt5.inject("history_orders_get", "none", times=1)
    old.is_put_back()
    follower.sends_book()
    follower.passes(20)
    assert (follower.state(1), follower.copier._stock.foreign) == ("open", {"EURUSD": D("0.5")})


def test_the_newest_ledger_goes_on_after_a_restart_and_opens_what_is_young(follower: Follower) -> None:
    """C22b: what the rule must not cost."""
    trade = follower.master_opens(position(1, volume="0.40"))
    follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.master_closes(trade, "0.20")
    follower.mt5.sim_close_by_hand(follower.positions[1].ticket)
    follower.passes(3)
    follower.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.5, type=0, price=1.1001, magic=0, type_filling=1)
    follower.kill()
    follower.master_opens(position(3))
    starts(follower)
    follower.sends_book()
    follower.look()
    assert follower.state(3) == "open"


def test_a_new_ledger_is_not_taken_for_an_old_one_because_of_orders_from_before_it_began(follower: Follower) -> None:
    """C22b: what the rule must not cost."""
    trade = follower.master_opens(position(1))
    follower.look()
    follower.master_closes(trade)
    follower.look()
    follower.lose_ledger()
    follower.sends_book()
    follower.look()
    follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.kill()
    follower.master_opens(position(3))
    starts(follower)
    follower.sends_book()
    follower.look()
    assert [follower.state(ticket) for ticket in (2, 3)] == ["open", "open"]


@pytest.mark.parametrize("comment_length", [16, 0])
def test_a_ledger_is_not_taken_for_an_old_one_because_the_copier_was_killed_after_an_order(
    follower: Follower, comment_length: int
) -> None:
    """C22b: what the rule must not cost."""
    follower.broker_keeps_of_comments(comment_length)
    send = follower.terminal.open

    def killed(*args: Any, **more: Any) -> None:
        send(*args, **more)
        raise Killed

    follower.terminal.open = killed  # type: ignore[method-assign,assignment]
    follower.master_opens(position(1))
    with pytest.raises(Killed):
        follower.look()
    follower.kill()
    follower.master_opens(position(2, "SELL"))
    starts(follower)
    follower.sends_book()
    follower.look()
    assert [follower.state(ticket) for ticket in (1, 2)] == ["open", "open"]


def gives_up_the_first(follower: Follower, outcome: str, **details: Any) -> None:
    """The broker replaces comments, and the open of trade 1 is given up."""
    follower.broker_keeps_of_comments(0)
    follower.mt5.inject("order_send", outcome, **details)
    follower.master_opens(position(1))
    follower.ticks(18)
    assert follower.state(1) == "unknown"


def test_a_ledger_is_not_taken_for_an_old_one_because_an_order_that_was_given_up_has_filled(follower: Follower) -> None:
    """C22b: what the rule must not cost."""
    gives_up_the_first(follower, "timeout_late_fill", seconds=20)
    follower.kill()
    for _ in range(4):
        follower.clock.now += 1
        follower.sim.tick()
    assert follower.opened() == 1
    follower.master_opens(position(2, "SELL"))
    starts(follower)
    follower.sends_book()
    follower.look()
    assert [follower.state(ticket) for ticket in (1, 2)] == ["unknown", "open"]


def test_an_order_that_was_given_up_long_ago_explains_no_newer_one(follower: Follower) -> None:
    """C22b: the old copy of the ledger knows an order like it that was given up."""
    gives_up_the_first(follower, "timeout_not_executed")
    old = OldCopy(follower)
    follower.ticks(70)
    follower.master_opens(position(2))
    follower.look()
    assert follower.state(2) == "open"
    follower.mt5.sim_close_by_hand(follower.positions[-1].ticket)
    old.is_put_back()
    follower.sends_book()
    follower.passes(5)
    assert follower.opened() == 1
    assert follower.state(2) == "skipped"


@pytest.mark.parametrize(("at", "explains"), [(-2001, False), (-2000, True), (60_000, True), (60_001, False)])
def test_an_order_of_another_time_is_not_the_one_that_was_given_up(follower: Follower, at: int, explains: bool) -> None:
    """C22b: by the broker's clock, from the quote at which it was sent."""
    gives_up_the_first(follower, "timeout_not_executed")
    copy = follower.copy(1)
    assert copy is not None
    sent = Sent(5, copy.magic, "", copy.symbol, True, Kind.POSITION, copy.volume, copy.quoted_msc + at)
    assert sent.may_be(copy) is explains


def test_a_history_that_cannot_be_read_at_the_start_may_hide_an_old_ledger(follower: Follower) -> None:
    """C22b."""
    follower.kill()
    follower.mt5.inject("history_orders_get", "none", times=1)
    follower.master_opens(position(1))
    starts(follower)
    follower.sends_book()
    follower.look()
    assert follower.opened() == 0
    assert follower.copy(1).reason == "older_than_ledger"  # type: ignore[union-attr]


def test_a_copier_started_on_an_old_copy_of_its_ledger_says_so_and_doubles_nothing(tmp_path: Path) -> None:
    """C22b, with real processes."""
    chain = Chain(tmp_path)
    try:
        running_copier(chain)
        chain.master_opens(0.2)
        chain.agrees("one trade")
        chain.kill("copier")
        backup = tmp_path / "backup"
        backup.mkdir()
        for file in tmp_path.glob("client.db*"):
            shutil.copy(file, backup)
        chain.restart("copier")
        chain.master_opens(0.6)
        chain.agrees("two trades")
        copy = max(chain.client.positions_get(), key=lambda p: p.ticket)
        chain.client.sim_close_by_hand(copy.ticket)
        chain.kill("copier")
        for file in tmp_path.glob("client.db*"):
            file.unlink()
        for file in backup.iterdir():
            shutil.copy(file, tmp_path)
        chain.restart("copier")
        chain.wait(lambda: "is it an old copy?" in (tmp_path / "copier.out").read_text(), "the copier to notice")
        chain.wait(lambda: "older_than_ledger" in (tmp_path / "copier.out").read_text(), "what follows from it")
        chain.master_opens(0.8)
        chain.wait(lambda: sorted(c[2] for c in chain.copies()) == [0.1, 0.4], "the next trade alone")
        assert chain.ever_opened() == 3
    finally:
        chain.stop()


# --- the copier: the account ------------------------------------------------------------------------------------------


def test_a_copy_that_gets_another_ticket_is_still_followed(follower: Follower) -> None:
    """S10, C15: the copy's position is re-opened over night."""
    trade = follower.master_opens(position(1))
    follower.look()
    given_another_ticket(follower, follower.positions[0].identifier)  # type: ignore[arg-type]
    follower.passes(20)
    assert follower.state(1) == "open"
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []


def test_a_ticket_that_comes_back_after_its_end_is_not_copied_again(follower: Follower) -> None:
    """S10: missed and visible in the book, where a second entry would be real money."""
    trade = follower.master_opens(position(1))
    follower.look()
    follower.master_closes(trade)
    follower.look()
    follower.master_opens(position(1))
    follower.passes(5)
    assert follower.opened() == 1
    assert follower.positions == []


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
@pytest.mark.parametrize("outcome", ["none_after_fill", "timeout_late_fill"])
def test_a_copy_is_followed_whatever_the_broker_leaves_of_its_comment(
    follower: Follower, kept: int, outcome: str
) -> None:
    """C28."""
    follower.broker_keeps_of_comments(kept)
    follower.mt5.inject("order_send", outcome)
    trade = follower.master_opens(position(123_456))
    follower.ticks(14)
    assert follower.state(123_456) == "open"
    follower.restart()
    follower.sends_book()
    follower.passes(3)
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []
    assert follower.opened() == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_rest_without_its_comment_is_followed_when_the_history_shows_what_its_order_asked_for(
    follower: Follower, known: bool
) -> None:
    """C28: closed by hand in part, in the moment in which the answer to the order was lost."""
    follower.broker_keeps_of_comments(0)
    follower.mt5.inject("order_send", "timeout_after_fill")
    if not known:
        follower.mt5.inject("history_orders_get", "none", times=None)
    follower.master_opens(position(1))
    follower.look(1)
    follower.mt5.sim_close_by_hand(follower.positions[0].ticket, 0.04)
    follower.passes(5)
    assert follower.volumes == [0.06]
    assert follower.state(1) == ("open" if known else "opening")
    assert follower.opened() == 1


@pytest.mark.parametrize("jump", [-36_000, -60, 60, 36_000])
def test_a_clock_that_jumps_in_the_middle_of_everything_changes_no_trade(follower: Follower, jump: int) -> None:
    """C29."""
    goes = follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "timeout_not_executed")
    follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.clock.wall += jump
    follower.look(1)
    follower.sends_book()  # it asks, as after a sleep
    follower.passes(5)
    assert (follower.state(1), follower.state(2)) == ("open", "opening")
    old = position(3, "SELL", volume="0.30", opened_at=follower.server_ms() - 61_000)
    follower.master_opens(old)
    follower.master_opens(position(4, "SELL", volume="0.40"))
    follower.master_closes(goes)
    follower.look()
    assert follower.volumes == [0.4]
    follower.passes(20)
    assert follower.state(2) == "unknown"


@pytest.mark.parametrize("stands_still", [False, True])
def test_a_copier_that_was_stopped_for_a_minute_asks_first_and_opens_nothing_old(
    follower: Follower, stands_still: bool
) -> None:
    """C30: also where the monotonic clock stands still while the machine sleeps."""
    goes = follower.master_opens(position(1))
    follower.look()
    follower.master_opens(position(2, volume="0.20"))
    if stands_still:
        follower.clock.wall += 61
    else:
        follower.clock.now += 61
    follower.look(1)
    assert follower.link.syncs == 1
    assert follower.opened() == 1
    follower.master_closes(goes)
    if stands_still:  # the server's clock went on meanwhile
        for key, trade in follower.book.items():
            follower.book[key] = replace(trade, opened_at=trade.opened_at - 61_000)
    follower.sends_book()
    follower.look()
    assert follower.positions == []
    assert follower.opened() == 1
    assert follower.state(2) == "skipped"
