"""The campaign of killed processes in short, its proxy, and that its comparison of accounts finds what it should."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

import mt5_sim
from campaign import kills
from campaign.accounts import Comparison, Shown, said_in
from campaign.proxy import Fault, Proxy, fault_from
from copies import tag_of
from signals import Kind
from sim_account import AccountSettings
from sim_broker import Broker

MAGIC = 123456


@pytest.mark.timeout(240)  # what has to be waited for in the worst case is longer than the suite's limit
def test_a_few_kills_leave_the_accounts_in_agreement(capsys: pytest.CaptureFixture[str]) -> None:
    code = kills.main(["--kills", "10", "--seed", "7"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.startswith("seed 7\n")
    assert "copying goes on" in said


# --- the comparison --------------------------------------------------------------------------------------------------


class Pair:
    """A master's and a client's account, and somebody who copies by hand, rightly or wrongly."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        clock = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now)
        brokers = [Broker(AccountSettings(login=login), clock=clock) for login in (1, 2)]
        self.master, self.client = (mt5_sim.Client(broker) for broker in brokers)
        for mt5 in (self.master, self.client):
            assert mt5.initialize()

    def _send(self, mt5: Any, **fields: Any) -> int:
        self.now += 1.0
        done = mt5.order_send(**{"symbol": "EURUSD", "type_filling": 1, **fields})
        assert done.retcode == 10009, done
        return int(done.order)

    def opens(self, mt5: Any, volume: float, **fields: Any) -> int:
        return self._send(mt5, action=1, type=0, volume=volume, price=mt5.symbol_info_tick("EURUSD").ask, **fields)

    def copies(self, ticket: int, volume: float = 0.1, magic: int = MAGIC, kind: Kind = Kind.POSITION) -> int:
        return self.opens(self.client, volume, magic=magic, comment=tag_of(("master_user", kind, ticket)))

    def closes(self, mt5: Any, ticket: int, volume: float, magic: int = MAGIC) -> None:
        price = mt5.symbol_info_tick("EURUSD").bid
        self._send(mt5, action=1, type=1, volume=volume, price=price, position=ticket, magic=magic)

    def places(self, mt5: Any, **fields: Any) -> int:
        return self._send(mt5, action=5, type=2, volume=0.2, price=0.9, type_filling=2, **fields)

    def compared(self) -> Comparison:
        client, master = (Shown.of(SimpleNamespace(mt5=mt5)) for mt5 in (self.client, self.master))
        return Comparison(master, client, "master_user", Decimal("0.5"), MAGIC)

    def finds(self, *reports: dict[str, Any]) -> list[str]:
        compared = self.compared()
        return sorted(f.what for f in compared.broken_promises() + compared.differences(said_in(reports)))


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_right_copy_is_no_finding(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    copy = pair.copies(ticket)
    assert pair.finds() == []
    pair.closes(pair.master, ticket, 0.1)
    pair.closes(pair.client, copy, 0.05)
    assert pair.finds() == []
    pair.closes(pair.master, ticket, 0.1)
    pair.closes(pair.client, copy, 0.05)
    assert pair.finds() == []


def test_a_copy_opened_twice_is_found_even_when_one_is_closed_again(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    copy = pair.copies(ticket)
    pair.copies(ticket, kind=Kind.ORDER)
    pair.client.sim_close_by_hand(copy)
    assert "duplicate" in pair.finds()


def test_a_close_that_was_not_copied_is_found(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    pair.copies(ticket)
    pair.closes(pair.master, ticket, 0.2)
    assert pair.finds() == ["lost close"]


def test_a_close_before_the_master_is_found_for_ever(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    copy = pair.copies(ticket)
    pair.closes(pair.client, copy, 0.1)
    assert pair.finds() == ["false close", "missing"]
    pair.closes(pair.master, ticket, 0.2)
    assert pair.finds() == ["false close"]


def test_a_part_closed_that_the_master_still_holds_is_found(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    pair.closes(pair.client, pair.copies(ticket), 0.05)
    assert pair.finds() == ["false close", "volume"]


def test_a_part_that_was_not_closed_is_found(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    pair.copies(ticket)
    pair.closes(pair.master, ticket, 0.1)
    assert pair.finds() == ["volume"]


def test_a_copy_of_another_size_is_found(pair: Pair) -> None:
    pair.copies(pair.opens(pair.master, 0.2), 0.2)
    assert pair.finds() == ["volume", "volume"]


def test_stops_that_differ_are_found(pair: Pair) -> None:
    pair.copies(pair.opens(pair.master, 0.2, sl=0.9))
    assert pair.finds() == ["stops"]


def test_a_trade_without_a_copy_needs_a_reason(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    report = {"kind": "position", "ticket": ticket, "event": "refused", "reason": "no_quote"}
    assert pair.finds() == ["missing"]
    assert pair.finds(report) == ["missing"]
    assert pair.finds({**report, "reason": "volume_below_minimum"}) == []
    assert pair.finds({**report, "event": "skipped"}) == []
    assert pair.finds({**report, "event": "skipped", "kind": "order"}) == ["missing"]
    assert pair.finds({**report, "event": "closed_by_client", "kind": "order"}) == []
    assert pair.compared().copied == set()


def test_a_pending_order_taken_back_too_early_is_found(pair: Pair) -> None:
    ticket = pair.places(pair.master)
    copy = pair.places(pair.client, magic=MAGIC, comment=tag_of(("master_user", Kind.ORDER, ticket)))
    assert pair.finds() == []
    pair._send(pair.client, action=8, order=copy)
    assert pair.finds() == ["false close", "missing"]


def test_a_pending_order_that_ends_while_it_is_read_is_one_order(pair: Pair) -> None:
    ticket = pair.places(pair.master)
    copy = pair.places(pair.client, magic=MAGIC, comment=tag_of(("master_user", Kind.ORDER, ticket)))
    before = Shown.of(SimpleNamespace(mt5=pair.client))
    pair._send(pair.master, action=8, order=ticket)
    pair._send(pair.client, action=8, order=copy)
    client, master = (Shown.of(SimpleNamespace(mt5=mt5)) for mt5 in (pair.client, pair.master))
    both = replace(client, orders=before.orders)
    assert Comparison(master, both, "master_user", Decimal("0.5"), MAGIC).broken_promises() == []


def test_a_copy_that_was_never_reported_is_found(pair: Pair) -> None:
    ticket = pair.opens(pair.master, 0.2)
    pair.copies(ticket)
    report = {"kind": "position", "ticket": ticket, "event": "refused", "reason": "no_quote"}
    assert [f.what for f in pair.compared().unreported(said_in([report]))] == ["unreported"]
    assert pair.compared().unreported(said_in([report, {**report, "event": "adopted"}])) == []


def test_what_is_ours_by_magic_and_the_copy_of_nothing_is_found(pair: Pair) -> None:
    pair.copies(4711)
    pair.copies(4712, magic=777)
    assert pair.finds() == ["stranger"]


# --- the proxy -------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that gives back what it gets; its port."""
    door = socket.create_server(("127.0.0.1", 0))

    def serve(one: socket.socket) -> None:
        with one:
            try:
                while data := one.recv(65_536):
                    one.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                one, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield int(door.getsockname()[1])
    with contextlib.suppress(OSError):  # Linux needs it to wake accept(), others refuse it
        door.shutdown(socket.SHUT_RDWR)
    door.close()
    thread.join(10)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    one = Proxy(0, ("127.0.0.1", echo))
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    yield one
    one.stop.set()
    thread.join(10)


@pytest.fixture
def line(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as one:
        assert said_back(one, b"hello", 5) == b"hello"
        yield one


def said_back(line: socket.socket, words: bytes, length: int) -> bytes:
    line.sendall(words)
    found = b""
    while len(found) < length and (data := line.recv(65_536)):
        found += data
    return found


def test_the_proxy_passes_everything(line: socket.socket) -> None:
    words = bytes(range(256)) * 1000
    assert said_back(line, words, len(words)) == words


def test_latency_delays(proxy: Proxy, line: socket.socket) -> None:
    proxy.fault = Fault("latency", 0.1)
    began = time.monotonic()
    assert said_back(line, b"late", 4) == b"late"
    assert time.monotonic() - began >= 0.2  # there and back


def test_what_fell_into_a_black_hole_arrives_after_it(proxy: Proxy, line: socket.socket) -> None:
    proxy.fault = Fault("black_hole")
    line.sendall(b"later")
    line.settimeout(0.2)
    with pytest.raises(TimeoutError):
        line.recv(10)
    line.settimeout(10)
    proxy.fault = Fault()
    assert said_back(line, b"", 5) == b"later"


def test_a_black_hole_with_a_time_ends_the_connection(proxy: Proxy, line: socket.socket) -> None:
    proxy.fault = Fault("black_hole", 0.1)
    assert line.recv(10) == b""


def test_reset_ends_with_a_reset(proxy: Proxy, line: socket.socket) -> None:
    proxy.fault = Fault("reset")
    with pytest.raises(ConnectionResetError):
        line.recv(10)


def test_a_reply_is_cut_in_the_middle(proxy: Proxy, line: socket.socket) -> None:
    proxy.fault = Fault("limit_data", 7)
    assert said_back(line, b"0123456789", 10) == b"0123456"


def test_the_slicer_changes_nothing_but_the_pieces(proxy: Proxy, line: socket.socket) -> None:
    proxy.fault = Fault("slicer", 3)
    assert said_back(line, b"0123456789", 10) == b"0123456789"


def test_down_means_that_nobody_listens_until_it_is_over(proxy: Proxy, line: socket.socket, wait_until: Any) -> None:
    def reached() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", proxy.port), 10) as other:
                return said_back(other, b"x", 1) == b"x"
        except OSError:
            return False

    proxy.fault = Fault("down")
    with pytest.raises(ConnectionResetError):
        line.recv(10)
    wait_until(lambda: not reached(), "the door to be shut")
    proxy.fault = Fault()
    wait_until(reached, "the door to be open again")


def test_a_slow_close_comes_later(line: socket.socket, proxy: Proxy, echo: int) -> None:
    proxy.fault = Fault("slow_close", 0.3)
    line.shutdown(socket.SHUT_WR)
    began = time.monotonic()
    assert line.recv(10) == b""
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("words", ["explode", "latency 1 2", "latency soon", ""])
def test_an_unknown_command_is_refused(words: str) -> None:
    with pytest.raises(ValueError):
        fault_from(words)


def test_a_command_names_the_fault_and_its_value() -> None:
    fault = fault_from("latency 0.25\n")
    assert (fault.name, fault.value) == ("latency", 0.25)
