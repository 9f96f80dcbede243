"""Traps between server and copier: messages that cannot be read or do not come, restored databases, lost connections,
and a start with other settings.
"""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chain import ROOT
from fakes import SilentChannel
from follower import MAGIC, D, Follower, Make, order, position

from api_client import Api
from config import ApiSettings
from ledger import CopierLedger
from link import Listener, Lost, Reporter
from run_copier import run
from safety import Copying
from signals import Action, Increase, Source
from worker import Worker

MASTER = "master_user"

# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"type": "signal", "data": []},
        {"type": "close", "data": "x", "seq": 1},
        {"type": "master", "data": 5},
        {"type": "modify", "data": None},
    ],
    ids=lambda message: str(message["type"]),
)
def test_a_message_without_the_right_shape_is_answered_with_a_sync(follower: Follower, message: dict[str, Any]) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.tell(message)
    follower.look()
    assert follower.link.syncs == 1
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []


def test_a_book_that_cannot_be_read_is_asked_for_again_after_a_pause_and_not_at_once(follower: Follower) -> None:
    data = {"masters": [], "trades": [{"x": 1}]}
    bad = {"type": "book", "seq": 0, "epoch": "epoch-1", "server_time": follower.server_ms(), "data": data}
    follower.tell(bad)
    answered = 0
    for _ in range(50):  # this server answers each question at once
        follower.look(1)
        if follower.link.syncs > answered:
            answered = follower.link.syncs
            follower.tell(bad)
    assert answered == 1
    follower.tell(bad)
    follower.passes(5)
    follower.tell(bad)
    follower.passes(1)
    assert follower.link.syncs == 2


def test_a_close_is_believed_while_the_book_that_was_asked_for_does_not_come(follower: Follower) -> None:
    goes = follower.master_opens(position(1))
    stays = follower.master_opens(position(2, "SELL"))
    follower.look()
    follower.server_seq += 1  # a message is lost
    follower.master_modifies(stays, sl=D("1.2"))
    follower.look(1)
    follower.master_closes(goes)
    follower.look()
    assert [p.type for p in follower.positions] == [1]


def test_a_book_that_does_not_come_is_asked_for_again(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.server_seq += 1  # a message is lost
    follower.master_modifies(trade, sl=D("1.08"))
    for _ in range(20):
        follower.heartbeat()
        follower.passes(1)
    assert 3 <= follower.link.syncs <= 5


# --- a server's database that was restored ----------------------------------------------------------------------------


def test_a_close_of_a_trade_entered_by_hand_is_carried_out_after_the_database_was_restored(follower: Follower) -> None:
    follower.masters[MASTER]["reported_at"] = None
    follower.disconnects()
    follower.sends_book()
    follower.look()
    trade = follower.master_opens(position(8_000_000_000_000_001, source=Source.MANUAL))
    follower.look()
    assert follower.volumes == [0.1]
    follower.server_seq = 0
    follower.disconnects()
    follower.sends_book()  # the backup has the trade
    follower.look()
    follower.master_closes(trade)
    follower.look()
    assert follower.positions == []


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "started again"])
@pytest.mark.parametrize("then", ["1.00", "0.40"], ids=["more", "fewer"])
def test_the_lots_of_a_restored_database_are_not_followed_until_the_trade_is_told(
    follower: Follower, then: str, restarted: bool
) -> None:
    """The copy began with 0.7 of the master's lots. The backup shows the lots of before, which are no growth and no
    partial close; when the sender puts them right that is none either."""
    trade = follower.master_opens(position(1, volume="0.70", initial_volume=D("1.00")))
    follower.look()
    assert follower.volumes == [0.7]
    follower.disconnects()
    follower.server_seq = 0
    follower.book[trade.master, *trade.key] = replace(trade, volume=D(then), opened_at=1)
    if restarted:
        follower.restart()
    follower.sends_book()
    follower.passes(3)
    follower.master_modifies(replace(trade, volume=D(then)), sl=D("1.00000"))  # what tells of stops tells of no lots
    follower.passes(3)
    follower.master_closes(trade, remaining="0.70")
    follower.passes(3)
    assert follower.volumes == [0.7]
    assert follower.opened() == 1
    follower.master_closes(trade, remaining="0.35")
    follower.passes(3)
    assert follower.volumes == [0.35], "what is told is followed, also while the rest is in doubt"


def goes_back(follower: Follower, book: dict[Any, Any], seq: int) -> None:
    """The server's database is put back from a backup of then, and its master's sender is away."""
    follower.disconnects()
    follower.look()
    follower.book, follower.server_seq = book, seq
    follower.sends_book()
    follower.passes(30)


@pytest.mark.parametrize("margin_mode", ["hedging", "netting"])
def test_the_side_that_a_restored_database_shows_closes_nothing(make: Make, margin_mode: str) -> None:
    follower = make(account={"margin_mode": margin_mode})
    trade = follower.master_opens(position(1))
    follower.look(6)
    book, seq = dict(follower.book), follower.server_seq
    grown = Increase(D("0.10"), D("1.1"), 0, follower.server_ms() + 5)
    follower.master_modifies(trade, action=Action.SELL, price=D("1.1"), increase=grown)
    follower.look(8)
    now = dict(follower.book)
    assert [(p.type, p.volume) for p in follower.positions] == [(1, 0.1)]
    goes_back(follower, book, seq)
    assert [(p.type, p.volume) for p in follower.positions] == [(1, 0.1)], "the backup shows the side of then"
    follower.book = now
    for _ in range(2):
        follower.masters[MASTER]["reported_at"] = follower.server_ms()
        follower.server_seq += 1
        follower.sends_book()
        follower.passes(20)
    assert [(p.type, p.volume) for p in follower.positions] == [(1, 0.1)]
    assert follower.opened() == 2


def test_a_reversal_that_is_told_while_the_database_is_doubted_is_followed(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    goes_back(follower, dict(follower.book), 0)
    grown = Increase(D("0.10"), D("1.1"), 0, follower.server_ms())
    follower.master_modifies(trade, action=Action.SELL, price=D("1.1"), increase=grown)
    follower.passes(5)
    assert [(p.type, p.volume) for p in follower.positions] == [(1, 0.1)]


@pytest.mark.parametrize("what", ["expiration", "price"])
def test_what_a_restored_database_says_of_a_pending_order_is_not_followed_while_it_is_doubted(
    follower: Follower, what: str
) -> None:
    then = follower.server_ms() + 20_000 if what == "expiration" else 0
    trade = follower.master_opens(order(1, price="1.09000", expiration=then))
    follower.look(6)
    book, seq = dict(follower.book), follower.server_seq
    later = {"expiration": follower.server_ms() + 3_600_000} if what == "expiration" else {"price": D("1.08000")}
    follower.master_modifies(trade, **later)
    follower.look(6)
    (placed,) = follower.orders
    goes_back(follower, book, seq)
    assert [(o.ticket, o.price_open) for o in follower.orders] == [(placed.ticket, placed.price_open)]
    follower.master_modifies(trade, price=D("1.07000"), expiration=follower.server_ms() + 3_600_000)
    follower.passes(3)
    assert [o.price_open for o in follower.orders] == [1.07], "what is told is followed"


def test_that_a_lost_message_told_of_a_masters_first_report_is_found_out_by_asking(follower: Follower) -> None:
    """The server's database was lost, and the master has closed: its report to the new one changes nothing in it, so
    there is no number that would show that the message was lost."""
    follower.master_opens(position(1))
    follower.look()
    follower.disconnects()
    follower.book.clear()
    follower.epoch, follower.server_seq = "epoch-2", 0
    follower.masters[MASTER] = {"master": MASTER, "reported_at": None, "online": False}
    follower.sends_book()
    follower.passes(3)
    follower.masters[MASTER] = {"master": MASTER, "reported_at": 5, "online": True}  # told, and lost
    asked = follower.link.syncs
    for _ in range(10):
        follower.heartbeat()
        follower.passes(5)
        if follower.link.syncs > asked:
            asked = follower.link.syncs
            follower.masters[MASTER]["reported_at"] += 1
            follower.sends_book()
    assert follower.positions == []
    follower.passes(20)
    assert follower.link.syncs == asked, "and then there is nothing more to ask for"


def test_a_master_who_was_deactivated_in_the_backup_closes_nothing_when_he_is_active_again(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.disconnects()
    master = follower.masters.pop(MASTER)
    follower.book.clear()
    follower.server_seq = 0
    follower.sends_book()
    follower.passes(20)
    follower.restart()
    follower.sends_book()
    follower.passes(20)
    follower.masters[MASTER] = master  # as long past as the backup
    follower.sends_book()
    follower.passes(5)
    assert follower.volumes == [0.1]


def test_a_restored_database_whose_number_has_overtaken_ours_closes_nothing(follower: Follower) -> None:
    follower.masters[MASTER]["reported_at"] = 1000
    follower.disconnects()
    follower.sends_book()
    follower.look()
    follower.master_opens(position(1))
    follower.look()
    follower.disconnects()
    follower.book.clear()
    follower.masters[MASTER]["reported_at"] = 500  # that of the backup
    follower.server_seq = 50  # other masters have moved it on
    follower.sends_book()
    follower.passes(15)
    assert follower.volumes == [0.1]
    follower.masters[MASTER]["reported_at"] = 2000
    follower.sends_book()
    follower.look()
    assert follower.positions == []


def test_the_doubt_about_a_new_database_lasts_over_a_restart(follower: Follower) -> None:
    """The sender has lost its ledger too, and reports an account that its terminal does not show yet."""
    follower.master_opens(position(1))
    follower.look()
    follower.epoch, follower.server_seq = "another", 0
    follower.book.clear()
    follower.masters[MASTER]["reported_at"] = None
    follower.disconnects()
    follower.sends_book()
    follower.passes(3)
    follower.masters[MASTER]["reported_at"] = 2000
    follower.restart()
    follower.sends_book()
    follower.passes(16)
    assert follower.volumes == [0.1]
    follower.sends_book()
    follower.look()
    assert follower.volumes == [0.1], "the same report still counts for nothing"
    follower.masters[MASTER]["reported_at"] = 20_000
    follower.sends_book()
    follower.look()
    assert follower.positions == []


# --- what the server said last holds while it is away -----------------------------------------------------------------


def test_a_pause_that_the_server_ordered_does_not_end_with_the_connection(follower: Follower) -> None:
    trade = follower.master_opens(position(1, sl=D("1.08")))
    follower.look()
    follower.sends_config(copying="paused")
    follower.master_modifies(trade, sl=D("1.09"))
    follower.look()
    follower.disconnects()
    follower.look()
    assert follower.positions[0].sl == 1.08


def test_a_flatten_that_the_server_ordered_is_carried_out_although_the_connection_ended(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.mt5.inject("order_send", "retcode", retcode=10018, times=2)
    follower.sends_config(copying="flatten")
    follower.look()
    follower.disconnects()
    follower.passes(30)
    assert follower.positions == []


def test_a_flatten_in_the_file_needs_no_server(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.restart(copying=Copying.FLATTEN)
    follower.look()
    assert follower.positions == []


# --- the connection ---------------------------------------------------------------------------------------------------


class Answering:
    """Listens, reads one request from everybody who connects, gives always the same answer and hangs up."""

    def __init__(self, answer: str) -> None:
        self.heard: list[bytes] = []
        self._answer = answer.encode()
        self._ended = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended:
            connection, _ = self._listening.accept()
            with connection:
                if request := connection.recv(65536):
                    self.heard.append(request)
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._ended = True
        socket.create_connection(self._listening.getsockname()).close()  # wakes accept() on every system
        self._thread.join(10)
        self._listening.close()


def listen_once(server: Answering) -> tuple[Lost, bool]:
    settings = ApiSettings(f"http://{server.host}", "u", "p", f"ws://{server.host}")
    api = Api(settings)
    api._token = "the-token"
    return Listener(api, settings, queue.SimpleQueue(), threading.Event())._listen()


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\r\n\r\n",
        "garbage\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 302 Found\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://portal/login\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhi",
        "HTTP/1.1 101 X\r\n\r\n",
    ],
)
def test_an_odd_answer_to_the_upgrade_is_a_lost_connection_and_does_not_end_the_copier(answer: str) -> None:
    with closing(Answering(answer)) as server:
        lost, heard = listen_once(server)
        assert len(server.heard) == 1
    assert not lost.for_good
    assert not heard


def test_the_token_is_not_carried_to_where_the_server_is_said_to_have_moved() -> None:
    with closing(Answering("HTTP/1.1 404 No\r\n\r\n")) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: ws://{other.host}/ws\r\n\r\n"
        with closing(Answering(moved)) as server:
            lost, _ = listen_once(server)
            assert b"the-token" in server.heard[0]
        assert other.heard == []
    assert not lost.for_good


def test_reports_go_on_after_a_defect_in_reporting(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(0)

    class Desk:
        calls = 0

        def call(self, *_: Any) -> dict[str, Any]:
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError("unforeseen")
            return {}

    with closing(CopierLedger(tmp_path / "client.db", "account 7")) as ledger:
        ledger.record(reports=[{"event": "opened"}])
        stop = Impatient()
        reporter = Reporter(Desk(), ledger, stop)  # type: ignore[arg-type]
        reporter.start()
        try:
            wait_until(lambda: ledger.reports(1) == [], "the report")
        finally:
            stop.set()
            reporter.wake.set()
            reporter.join(10)
    assert not reporter.is_alive()


# --- a start with another magic number --------------------------------------------------------------------------------

ANOTHER_MAGIC = MAGIC + 1


def start_program(folder: Path, magic: int) -> tuple[int, str]:
    """Run copier.py as its user does, until it ends by itself: its exit code and what it said."""
    config = {
        "api": {"url": "http://127.0.0.1:1", "username": "client_user", "password": "client_password"},
        "mt5": {"login": 2001, "password": "demo", "server": "Sim", "module": "mt5_sim", "path": "127.0.0.1:1"},
        "trade_copy": {
            "mode": "multiplier",
            "fixed_lot": 0.01,
            "multiplier": 1.0,
            "magic_number_copier": magic,
            "max_slippage_points": 50,
            "max_spread_points": 20,
            "max_exposure_trades": 5,
            "max_exposure_lots": 10.0,
        },
    }
    (folder / "config_client.json").write_text(json.dumps(config))
    ended = subprocess.run(
        [sys.executable, str(ROOT / "copier.py")], cwd=folder, capture_output=True, text=True, timeout=30
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_another_magic_number_is_refused_while_copies_with_the_old_one_are_open(follower: Follower) -> None:
    follower.master_opens(position(1))
    follower.look()
    follower.kill()
    code, said = start_program(follower.folder, ANOTHER_MAGIC)
    assert code == 3
    assert f"magic number {MAGIC} are still open" in said
    assert "change magic_number_copier back" in said


def test_another_magic_number_is_refused_while_the_outcome_of_an_open_is_unknown(follower: Follower) -> None:
    follower.mt5.inject("order_send", "none_after_fill", drop=False)
    follower.master_opens(position(1))
    follower.look(1)
    assert follower.state(1) == "opening"
    follower.kill()
    code, said = start_program(follower.folder, ANOTHER_MAGIC)
    assert code == 3
    assert "change magic_number_copier back" in said


def test_an_order_that_was_given_up_and_fills_after_the_magic_number_was_changed_is_followed(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else has that number now is another program's."""
    follower.mt5.inject("order_send", "timeout_late_fill", seconds=60)
    trade = follower.master_opens(position(1))
    follower.ticks(20)
    assert follower.state(1) == "unknown"
    follower.restart(magic=ANOTHER_MAGIC)
    follower.sends_book()
    follower.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.2, type=0, type_filling=1, magic=MAGIC)
    follower.ticks(60)
    assert "belongs to no trade" not in caplog.text
    assert [(p.volume, p.magic) for p in follower.positions] == [(0.2, MAGIC), (0.1, MAGIC)]
    assert follower.state(1) == "open"
    follower.master_closes(trade)
    follower.ticks(3)
    assert follower.volumes == [0.2]


def test_another_magic_number_is_taken_when_no_copy_is_open_any_more(follower: Follower) -> None:
    trade = follower.master_opens(position(1))
    follower.look()
    follower.master_closes(trade)
    follower.look()
    assert follower.state(1) == "closed"
    follower.kill()
    worker = Worker(SilentChannel(), frozenset())
    worker.stop.set()
    assert run(replace(follower.config(), magic=ANOTHER_MAGIC), worker) == 0


def test_settings_that_were_lost_on_the_way_are_asked_for(make: Make) -> None:
    follower = make()
    follower.disconnects()
    follower.sends_book(silent=True)  # the message after the book does not arrive
    follower.look()
    asked = follower.link.syncs
    follower.passes(6)
    assert follower.link.syncs == asked + 1
    follower.sends_book()
    follower.master_opens(position(1))
    follower.look()
    assert follower.state(1) == "open"


def test_a_restored_database_is_asked_again_until_its_masters_have_reported(make: Make) -> None:
    follower = make()
    trade = follower.master_opens(position(1))
    follower.look()
    follower.book.clear()  # the backup does not know the trade, and the master has closed it meanwhile
    follower.server_seq = 0
    follower.sends_book()
    follower.passes(4)
    assert follower.state(trade.ticket) == "open", "not yet: its sender has not reported to the restored database"
    asked = follower.link.syncs
    follower.passes(3)
    assert follower.link.syncs == asked + 1
    follower.passes(8)
    follower.masters["master_user"]["reported_at"] = 99
    follower.sends_book()
    follower.look()
    assert follower.state(trade.ticket) == "closed"
