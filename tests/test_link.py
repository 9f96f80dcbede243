"""The two threads towards the server: what is heard, how a connection ends, and that every report arrives."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import link
from api_client import ApiDown, ApiRefused
from config import ApiSettings
from ledger import CopierLedger, LedgerError
from link import Heard, Inbox, Listener, Lost, Reporter, pause

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
Wait = Callable[..., None]


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, request: str, headers: dict[str, str]) -> None:
        self.sock, self.request, self.headers = sock, request, headers

    def frame(self, opcode: int, payload: bytes) -> None:
        length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
        self.sock.sendall(bytes([0x80 | opcode]) + length + payload)

    def say(self, message: dict[str, Any]) -> None:
        self.frame(TEXT, json.dumps(message).encode())

    def close(self, code: int, reason: str = "") -> None:
        self.frame(CLOSE, struct.pack(">H", code) + reason.encode())

    def hear(self) -> tuple[int, bytes]:
        """The next frame of the other side; (0, b"") when it has gone."""
        head = self._read(2)
        if len(head) < 2:
            return 0, b""
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._read(2))
        mask = self._read(4)
        return head[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(self._read(length)))

    def _read(self, count: int) -> bytes:
        content = b""
        with contextlib.suppress(OSError):
            while len(content) < count and (more := self.sock.recv(count - len(content))):
                content += more
        return content


class SocketServer:
    """Agrees to every WebSocket and does with it what the next of `scripts` says; without one it waits for the end."""

    def __init__(self) -> None:
        self.scripts: list[Callable[[Peer], None]] = []
        self.refuse: list[int] = []  # statuses in place of an upgrade
        self.before_agreeing: Callable[[], None] = lambda: None
        self.peers: list[Peer] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                more = sock.recv(4096)
                if not more:
                    return
                head += more
            request, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            peer = Peer(sock, request, headers)
            self.peers.append(peer)
            if self.refuse:
                sock.sendall(f"HTTP/1.1 {self.refuse.pop(0)} No\r\nContent-Length: 0\r\n\r\n".encode())
                return
            self.before_agreeing()
            key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            sock.sendall(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            if self.scripts:
                self.scripts.pop(0)(peer)
            while peer.hear() != (0, b""):
                pass

    def close(self) -> None:
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept() on Linux; closing does on Windows
        self._listening.close()
        for thread in self._threads:
            thread.join(5)


class Tokens:
    """What the listener needs of the API."""

    def __init__(self) -> None:
        self.number = 1
        self.troubles: list[Exception] = []

    def token(self) -> str:
        if self.troubles:
            raise self.troubles.pop(0)
        return f"token-{self.number}"

    def forget_token(self, token: str) -> None:
        if token == f"token-{self.number}":
            self.number += 1


class Ear:
    """A running listener and what it has put into its inbox."""

    def __init__(self, url: str) -> None:
        self.tokens = Tokens()
        self.inbox: Inbox = queue.SimpleQueue()
        self.stop = threading.Event()
        self.listener = Listener(self.tokens, ApiSettings("http://h", "u", "p", url), self.inbox, self.stop)  # type: ignore[arg-type]

    def next(self) -> Heard | Lost:
        return self.inbox.get(timeout=30)

    def next_lost(self) -> Lost:
        while True:
            heard = self.next()
            if isinstance(heard, Lost):
                return heard

    def message(self) -> dict[str, Any]:
        heard = self.next()
        assert isinstance(heard, Heard), heard
        return heard.message

    def end(self) -> None:
        self.stop.set()
        self.listener.close()
        if self.listener.ident is not None:
            self.listener.join(10)
            assert not self.listener.is_alive()


@pytest.fixture
def server() -> Iterator[SocketServer]:
    one = SocketServer()
    yield one
    one.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The attempts for which a pause was asked; nobody really waits."""
    attempts: list[int] = []

    def no_pause(attempt: int) -> float:
        attempts.append(attempt)
        return 0.001

    monkeypatch.setattr(link, "pause", no_pause)
    return attempts


@pytest.fixture
def ear(server: SocketServer, pauses: list[int]) -> Iterator[Ear]:
    one = Ear(server.url)
    yield one
    one.end()


def says(*messages: dict[str, Any]) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        for message in messages:
            peer.say(message)

    return script


def closes(code: int, reason: str = "", *messages: dict[str, Any]) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        says(*messages)(peer)
        peer.close(code, reason)

    return script


# --- listening --------------------------------------------------------------------------------------------------------


def test_what_is_heard_goes_into_the_inbox_with_its_time(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({"type": "book", "seq": 1, "lots": 0.29}, {"type": "config"})]
    before = time.monotonic()
    ear.listener.start()
    first = ear.next()
    assert isinstance(first, Heard)
    assert str(first.message["lots"]) == "0.29", "numbers stay exact"
    assert before <= first.at <= time.monotonic()
    assert ear.message() == {"type": "config"}


def test_the_token_is_in_the_header_and_never_in_the_address(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({})]
    ear.listener.start()
    ear.message()
    (peer,) = server.peers
    assert peer.request == "GET /ws HTTP/1.1"
    assert peer.headers["authorization"] == "Bearer token-1"
    assert "origin" not in peer.headers


def test_the_ledger_is_named_where_there_is_one(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({}), says({})]
    ear.listener.start()
    ear.message()
    named = Ear(server.url)
    named.listener = Listener(
        named.tokens, ApiSettings("http://h", "u", "p", server.url), named.inbox, named.stop, "ab12"
    )  # type: ignore[arg-type]
    named.listener.start()
    named.message()
    named.end()
    assert [peer.headers.get("x-ledger") for peer in server.peers] == [None, "ab12"]


def test_an_address_with_a_path_of_its_own_keeps_it(server: SocketServer, pauses: list[int]) -> None:
    server.scripts = [says({})]
    ear = Ear(server.url + "/behind/proxy/")
    ear.listener.start()
    ear.message()
    ear.end()
    assert server.peers[0].request == "GET /behind/proxy HTTP/1.1"


def test_a_copier_whose_place_was_taken_stops_for_good(server: SocketServer, ear: Ear) -> None:
    server.scripts = [closes(4409, "another connection", {"type": "book"})]
    ear.listener.start()
    ear.message()
    lost = ear.next_lost()
    assert lost.for_good
    assert "another copier" in lost.why
    ear.listener.join(10)
    assert not ear.listener.is_alive()
    assert len(server.peers) == 1, "it must not take the place back"


@pytest.mark.parametrize(
    ("code", "token"), [(4401, "token-2"), (4403, "token-2"), (1013, "token-1"), (1001, "token-1")]
)
def test_after_other_closes_it_comes_back_with_a_token_that_may_be_good(
    server: SocketServer, ear: Ear, code: int, token: str
) -> None:
    server.scripts = [closes(code, "because", {"n": 1}), says({"n": 2})]
    ear.listener.start()
    assert ear.message() == {"n": 1}
    assert ear.next() == Lost(f"the server closed the connection: {code} because")
    assert ear.message() == {"n": 2}
    assert server.peers[1].headers["authorization"] == f"Bearer {token}"


def test_a_close_without_a_code_is_a_close(server: SocketServer, ear: Ear) -> None:
    server.scripts = [lambda peer: peer.frame(CLOSE, b""), says({})]
    ear.listener.start()
    assert ear.next() == Lost("the server closed the connection: 1005")
    assert ear.message() == {}


@pytest.mark.parametrize(("status", "token"), [(401, "token-2"), (403, "token-1"), (503, "token-1")])
def test_a_refused_upgrade_is_tried_again_with_a_new_token_if_that_was_it(
    server: SocketServer, ear: Ear, status: int, token: str
) -> None:
    server.refuse, server.scripts = [status], [says({})]
    ear.listener.start()
    assert ear.next() == Lost(f"the server refused the WebSocket: {status}")
    assert ear.message() == {}
    assert server.peers[1].headers["authorization"] == f"Bearer {token}"


def test_silence_ends_the_connection(server: SocketServer, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENCE_S", 0.1)
    server.scripts = [says({"n": 1})]
    ear.listener.start()
    assert ear.message() == {"n": 1}
    assert ear.next_lost().why.startswith("nothing heard")


def test_a_first_book_that_was_not_taken_in_at_once_counts_as_come_before_the_connection(
    server: SocketServer, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trades must not look younger than they are: it may have been there all the time."""
    monkeypatch.setattr(link, "FIRST_BOOK_S", 0.2)
    asked: list[float] = []

    def late() -> None:
        asked.append(time.monotonic())
        time.sleep(0.3)

    server.before_agreeing = late
    server.scripts.append(says({"type": "book"}, {"type": "heartbeat"}))
    ear.listener.start()
    first, second = ear.next(), ear.next()
    assert isinstance(first, Heard)
    assert isinstance(second, Heard)
    assert first.at <= asked[0]
    assert second.at > asked[0] + 0.2


def test_silence_is_15_seconds(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({"n": 1})]
    ear.listener.start()
    ear.message()
    assert ear.listener._socket is not None
    assert ear.listener._socket.gettimeout() == link.SILENCE_S == 15.0


def test_a_ping_is_answered_and_is_no_silence(server: SocketServer, ear: Ear) -> None:
    answers: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.frame(PING, b"are you there")
        answers.append(peer.hear())
        peer.say({"n": 1})

    server.scripts = [script]
    ear.listener.start()
    assert ear.message() == {"n": 1}
    assert answers == [(PONG, b"are you there")]


@pytest.mark.parametrize(
    "garbage",
    [b"{", b"[]", b'{"seq":NaN}', b'{"a":1,"a":2}', b"\xff\xfe", b"", b"[" * 50_000],
    ids=["cut off", "a list", "NaN", "twice", "not UTF-8", "empty", "deep"],
)
def test_what_is_no_message_ends_the_connection_and_nothing_else(
    server: SocketServer, ear: Ear, garbage: bytes
) -> None:
    server.scripts = [lambda peer: peer.frame(TEXT, garbage), says({"n": 2})]
    ear.listener.start()
    lost = ear.next()
    assert isinstance(lost, Lost)
    assert not lost.for_good
    assert ear.message() == {"n": 2}


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\n", b"\x83\x00", b"\xff\xff\xff\xff", b"\x00\x01x"])
def test_bytes_that_are_no_frames_end_the_connection_and_nothing_else(
    server: SocketServer, ear: Ear, raw: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.sock.sendall(raw)
        peer.sock.shutdown(socket.SHUT_WR)

    server.scripts = [script, says({"n": 2})]
    ear.listener.start()
    assert isinstance(ear.next(), Lost)
    assert ear.message() == {"n": 2}


def test_a_connection_cut_in_the_middle_of_a_message_gives_no_half_of_it(server: SocketServer, ear: Ear) -> None:
    def script(peer: Peer) -> None:
        peer.say({"n": 1})
        peer.sock.sendall(b"\x81\x20" + b'{"type":"close"')
        peer.sock.shutdown(socket.SHUT_RDWR)

    server.scripts = [script, says({"n": 2})]
    ear.listener.start()
    assert ear.message() == {"n": 1}
    assert not ear.next_lost().for_good
    assert ear.message() == {"n": 2}


def test_a_message_in_pieces_is_one_message_and_a_binary_one_is_passed_over(server: SocketServer, ear: Ear) -> None:
    def script(peer: Peer) -> None:
        peer.frame(BINARY, b"\x00\x01")
        peer.sock.sendall(b"\x01\x04" + b'{"n"' + b"\x80\x03" + b":7}")

    server.scripts = [script]
    ear.listener.start()
    assert ear.message() == {"n": 7}


@pytest.mark.parametrize(
    "trouble", [ApiDown("no connection"), ApiRefused(403, "inactive", "this account is not active")]
)
def test_without_a_token_it_says_why_and_tries_again(server: SocketServer, ear: Ear, trouble: Exception) -> None:
    ear.tokens.troubles = [trouble]
    server.scripts = [says({"n": 1})]
    ear.listener.start()
    assert ear.next() == Lost(str(trouble))
    assert ear.message() == {"n": 1}


def test_pauses_grow_while_nothing_is_heard_and_begin_anew_afterwards(
    server: SocketServer, ear: Ear, pauses: list[int]
) -> None:
    server.refuse = [503, 503, 503]
    server.scripts = [lambda peer: peer.close(1001), closes(1001, "", {"n": 1}), says({"n": 2})]
    ear.listener.start()
    while ear.next_lost().why != "the server closed the connection: 1001":
        pass
    assert ear.message() == {"n": 1}
    ear.next_lost()
    assert ear.message() == {"n": 2}
    assert pauses == [1, 2, 3, 4, 0]


def test_a_pause_is_drawn_between_half_and_all_of_a_growing_time() -> None:
    for attempt in range(40):
        longest = min(15.0, 0.5 * 2**attempt)
        drawn = [pause(attempt) for _ in range(50)]
        assert longest / 2 <= min(drawn) < max(drawn) <= longest


def test_the_whole_book_is_asked_for_over_the_connection(server: SocketServer, ear: Ear) -> None:
    asked: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.say({"n": 1})
        asked.append(peer.hear())
        peer.say({"n": 2})

    server.scripts = [script]
    ear.listener.sync()  # not connected yet: the book comes first anyway
    ear.listener.start()
    assert ear.message() == {"n": 1}
    ear.listener.sync()
    assert ear.message() == {"n": 2}
    assert asked == [(TEXT, b'{"type":"sync"}')]


def test_asking_over_a_connection_that_has_just_ended_is_harmless(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({"n": 1})]
    ear.listener.start()
    ear.message()
    connection = ear.listener._socket
    assert connection is not None
    ear.stop.set()
    ear.listener.close()
    ear.listener.join(10)
    ear.listener._socket = connection
    ear.listener.sync()


def test_an_ended_connection_is_closed_and_not_left_to_the_garbage_collector(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({"n": 1})]
    ear.listener.start()
    ear.message()
    connection = ear.listener._socket
    assert connection is not None
    ear.end()
    assert connection.sock is None


def test_stopping_ends_a_waiting_listener_and_is_no_trouble(server: SocketServer, ear: Ear) -> None:
    server.scripts = [says({"n": 1})]
    ear.listener.start()
    assert ear.message() == {"n": 1}
    ear.end()
    assert ear.inbox.empty()


def test_a_listener_that_fails_does_not_leave_a_copier_that_looks_alive(
    ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    ear.tokens.troubles = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        ear.listener.run()
    lost = ear.next()
    assert isinstance(lost, Lost)
    assert lost.for_good
    assert "the listening thread failed" in caplog.text


# --- reporting --------------------------------------------------------------------------------------------------------


class Desk:
    """Takes reports as the server does: all of a batch or none, each id once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.stored: dict[str, int] = {}
        self.faults: list[Exception | None] = []
        self.cannot_take: dict[int, int] = {}  # number of the report → status

    def call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (method, path) == ("POST", "/executions")
        reports = body["executions"]
        self.batches.append([report["n"] for report in reports])
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        for report in reports:
            if report["n"] in self.cannot_take:
                raise ApiRefused(self.cannot_take[report["n"]], "executions", "cannot be taken")
        for report in reports:
            self.stored.setdefault(report["id"], report["n"])
        return {"stored": len(reports)}

    def has(self) -> list[int]:
        return sorted(self.stored.values())


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[CopierLedger]:
    with closing(CopierLedger(tmp_path / "client.db", "account 7")) as one:
        yield one


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def reporter(desk: Desk, ledger: CopierLedger, stop: threading.Event, pauses: list[int]) -> Reporter:
    return Reporter(desk, ledger, stop)  # type: ignore[arg-type]


def report(ledger: CopierLedger, *numbers: int) -> None:
    ledger.record(reports=[{"n": number} for number in numbers])


def waiting(ledger: CopierLedger) -> list[int]:
    return [body["n"] for _, body in ledger.reports(10_000)]


def test_reports_go_in_batches_oldest_first(reporter: Reporter, desk: Desk, ledger: CopierLedger) -> None:
    assert not reporter.step()
    assert desk.batches == []
    report(ledger, *range(450))
    assert [reporter.step() for _ in range(4)] == [True, True, True, False]
    assert desk.batches == [[*range(200)], [*range(200, 400)], [*range(400, 450)]]
    assert waiting(ledger) == []


@pytest.mark.parametrize(
    "trouble", [ApiDown("no answer"), ApiRefused(401, "x", "x"), ApiRefused(403, "x", "x"), ApiRefused(404, "x", "x")]
)
def test_what_is_not_confirmed_stays_in_the_ledger(
    reporter: Reporter, desk: Desk, ledger: CopierLedger, trouble: Exception
) -> None:
    report(ledger, 1, 2)
    desk.faults = [trouble]
    with pytest.raises(type(trouble)):
        reporter.step()
    assert waiting(ledger) == [1, 2]
    reporter.step()
    assert desk.has() == [1, 2]


def test_a_lost_answer_does_not_report_anything_twice(reporter: Reporter, desk: Desk, ledger: CopierLedger) -> None:
    report(ledger, 1, 2)
    real = desk.call

    def lost(method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        real(method, path, body)
        raise ApiDown("no answer within the time allowed")

    desk.call = lost  # type: ignore[method-assign]
    with pytest.raises(ApiDown):
        reporter.step()
    desk.call = real  # type: ignore[method-assign]
    reporter.step()
    assert desk.has() == [1, 2]
    assert desk.batches == [[1, 2], [1, 2]]


@pytest.mark.parametrize("status", [413, 422])
def test_a_report_that_the_server_cannot_take_does_not_hold_up_the_others(
    reporter: Reporter, desk: Desk, ledger: CopierLedger, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    report(ledger, 1, 2, 3)
    desk.cannot_take = {2: status}
    assert reporter.step()
    assert desk.has() == [1, 3]
    assert waiting(ledger) == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "'n': 2" in record.getMessage()
    report(ledger, 4)
    reporter.step()
    assert desk.has() == [1, 3, 4]


def test_a_server_that_goes_away_among_single_reports_gets_them_again(
    reporter: Reporter, desk: Desk, ledger: CopierLedger
) -> None:
    report(ledger, 1, 2, 3)
    desk.cannot_take = {2: 422}
    desk.faults = [None, None, ApiDown("gone")]
    with pytest.raises(ApiDown):
        reporter.step()
    assert waiting(ledger) == [1, 2, 3]
    reporter.step()
    assert desk.has() == [1, 3]
    assert waiting(ledger) == []


def test_a_ledger_that_cannot_be_read_is_an_error_of_the_moment(reporter: Reporter, ledger: CopierLedger) -> None:
    ledger.close()
    with pytest.raises(LedgerError):
        reporter.step()


def test_the_thread_keeps_trying_with_growing_pauses_and_says_it_once(
    reporter: Reporter,
    desk: Desk,
    ledger: CopierLedger,
    stop: threading.Event,
    pauses: list[int],
    wait_until: Wait,
    caplog: pytest.LogCaptureFixture,
) -> None:
    report(ledger, 1)
    desk.faults = [ApiDown("down"), ApiDown("down"), ApiRefused(403, "x", "x")]
    with caplog.at_level("INFO"):
        reporter.start()
        wait_until(lambda: desk.has() == [1], "the report")
        report(ledger, 2)
        reporter.wake.set()
        wait_until(lambda: desk.has() == [1, 2], "the second report")
        stop.set()
        reporter.wake.set()
        reporter.join(10)
    assert not reporter.is_alive()
    assert pauses == [1, 2, 3]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
