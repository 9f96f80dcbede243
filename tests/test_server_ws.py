"""The WebSocket over real sockets: who gets in, what comes first, and what happens to bad and slow connections."""

import contextlib
import json
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from server_kit import ACCOUNT, ORIGINAL_SIGNAL, PASSWORD, Caller, Serving, report, serving

import wire
from database import Unavailable
from records import User


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def master(server: Serving) -> Caller:
    return server.user("master_user", "master")


@pytest.fixture
def client(server: Serving) -> Caller:
    return server.user("client_user", "client")


def refused(caller: Caller, **options: Any) -> tuple[int, str]:
    """Status and error code of a handshake that does not succeed."""
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        caller.listen(**options)
    return caught.value.status_code, json.loads(caught.value.resp_body)["error"]["code"]


# --- getting in ------------------------------------------------------------------------------------------------------


def test_the_original_signal_reaches_the_follower(master: Caller, client: Caller) -> None:
    client.post("/users/config", {"trade_copy": {"mode": "fix", "fixed_lot": 0.01}})
    listening = client.listen().joined()
    assert master.post("/signal/broadcast", ORIGINAL_SIGNAL, 201)["delivered"] == 1
    message = listening.next()
    assert (message["type"], message["seq"], message["prev"]) == ("signal", 1, 0)
    original = {"symbol": "EURUSD", "action": "BUY", "volume": 0.01, "price": 1.085, "sl": 1.08, "tp": 1.09}
    assert original.items() <= message["data"].items()
    assert message["data"]["master_volume"] == 0.1
    assert message["data"]["master"] == "master_user"


def test_without_a_good_token_there_is_no_upgrade(server: Serving, client: Caller) -> None:
    good = client.token
    for header in ([], ["Authorization: Bearer x"], [f"Authorization: Basic {good}"], [f"Authorization: {good}"]):
        assert refused(client, header=header) == (401, "unauthorized")
    head, _, signature = good.rpartition(".")
    client.token = f"{head}.{signature[:-2]}xx"
    assert refused(client) == (401, "unauthorized")


def test_a_token_in_the_address_is_not_looked_at(server: Serving, client: Caller) -> None:
    url = f"{server.url.replace('http', 'ws')}/ws?token={client.token}&access_token={client.token}"
    with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
        websocket.create_connection(url, timeout=20)


def test_a_browser_gives_its_token_as_a_subprotocol(client: Caller) -> None:
    listening = client.listen(header=[], subprotocols=["bearer", client.token])
    assert listening.socket.subprotocol == "bearer"
    assert listening.next()["type"] == "book"
    assert refused(client, header=[], subprotocols=["bearer", "x"]) == (401, "unauthorized")
    assert refused(client, header=[], subprotocols=[client.token]) == (401, "unauthorized")


def test_pages_of_other_sites_may_not_connect(server: Serving, client: Caller) -> None:
    own = server.url
    client.listen(origin=own).joined()
    client.listen(suppress_origin=True).joined()
    for origin in ("https://evil.example", "null", own + ".evil.example", own.replace("127.0.0.1", "localhost")):
        assert refused(client, origin=origin) == (403, "foreign_origin")


def test_an_ordinary_request_is_told_what_this_address_is(server: Serving, client: Caller) -> None:
    assert client.call("GET", "/ws").status_code == 426
    assert server.call("GET", "/ws").status_code == 401
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert client.call("GET", "/ws", **upgrade).status_code == 400
    good = {**upgrade, "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for wrong in (
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Version": "12"},
        {"Sec_WebSocket_Protocol": "\xe9"},
        {"X_Ledger": "a" * 65},
        {"X_Ledger": "a b"},
    ):
        answer = client.call("GET", "/ws", **{**good, **wrong})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_handshake"), wrong
    assert client.get("/users/config")  # over the same connection


def handshake(client: Caller, **headers: str) -> bytes:
    lines = {
        "Host": client.serving.url.partition("://")[2],
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Authorization": f"Bearer {client.token}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return "\r\n".join(["GET /ws HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]).encode()


def read_until(raw: socket.socket, *wanted: bytes) -> bytes:
    received = b""
    while not all(words in received for words in wanted):
        piece = raw.recv(65536)
        assert piece, received
        received += piece
    return received


def plain(server: Serving) -> socket.socket:
    host, port = server.url.partition("://")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_what_is_sent_together_with_the_handshake_is_not_lost(server: Serving, client: Caller) -> None:
    with plain(server) as raw:
        raw.sendall(handshake(client) + masked(9, b"early"))
        received = read_until(raw, b"\x8a\x05early", b'"type":"book"', b'"type":"config"')
    head, _, _ = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # the example of RFC 6455, section 1.3
    assert b"content-length" not in head.lower()
    assert received.count(b"HTTP/1.1") == 1


def test_a_handshake_may_follow_other_requests_of_its_connection(server: Serving, client: Caller) -> None:
    with plain(server) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + handshake(client) + masked(9, b"early"))
        received = read_until(raw, b"\x8a\x05early", b'"type":"book"')
    assert received.index(b'{"status":"ok"}') < received.index(b"HTTP/1.1 101 ")


def test_nothing_is_compressed_whatever_the_client_offers(server: Serving, client: Caller, master: Caller) -> None:
    with plain(server) as raw:
        raw.sendall(handshake(client, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))
        received = read_until(raw, b'"type":"config"')
        assert b"sec-websocket-extensions" not in received.lower()
        master.post("/signal/broadcast", ORIGINAL_SIGNAL)
        assert b'"EURUSD"' in read_until(raw, b'"type":"signal"', b'"prev":')


def test_followers_cost_no_thread_each(server: Serving, wait_until: Callable[..., None]) -> None:
    server.call("GET", "/health")
    before = threading.active_count()
    server.user("first").listen().joined()
    for number in range(20):
        server.user(f"client_{number}").listen().joined()
    assert len(server.hub.connected_users()) == 21
    wait_until(lambda: threading.active_count() <= before + 1)


def test_who_breaks_off_within_the_handshake_leaves_nothing_behind(
    server: Serving, client: Caller, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    for _ in range(30):
        with plain(server) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset
            raw.sendall(handshake(client))
    client.listen().joined()
    wait_until(lambda: server.hub.connected_users() == {"client_user": 1})
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_connection_that_ends_before_it_is_let_in_is_not_connected(
    server: Serving, client: Caller, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    gone, leave = threading.Event(), server.hub.left

    def left(*said: Any) -> None:
        leave(*said)
        gone.set()

    monkeypatch.setattr(server.hub, "left", left)
    before = threading.active_count()
    with server.hub._publishing:  # a slow disk, or many who come back at once
        with plain(server) as raw:
            raw.sendall(handshake(client))
            read_until(raw, b"HTTP/1.1 101 ")
        assert gone.wait(20)
    wait_until(lambda: threading.active_count() <= before + 1)  # that of the sockets: who waited has been seen to
    assert (server.hub.connected_users(), server.hub.connected) == ({}, 0)


def test_a_connection_that_was_given_up_does_not_take_the_place_of_the_next_one(
    server: Serving, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    join, newer_is_in = server.hub.join, threading.Event()
    first: list[Any] = []

    def join_in_another_order(connection: Any, *said: Any, **more: Any) -> None:
        if not first:
            first.append(connection)
            assert newer_is_in.wait(20)
        join(connection, *said, **more)
        newer_is_in.set()

    monkeypatch.setattr(server.hub, "join", join_in_another_order)
    given_up = client.listen()  # and nobody has noticed: a cut line says nothing
    kept = client.listen().joined()
    opcode, data = given_up.socket.recv_data(control_frame=True)
    assert (opcode, data[:2]) == (websocket.ABNF.OPCODE_CLOSE, (4409).to_bytes(2))
    server.user("master_user", "master").post("/signal/broadcast", ORIGINAL_SIGNAL)
    assert kept.next("signal")["seq"] == 1


# --- what comes ------------------------------------------------------------------------------------------------------


def test_every_kind_of_message_in_order(server: Serving, master: Caller, client: Caller) -> None:
    listening = client.listen()
    assert [listening.next()["type"] for _ in range(2)] == ["book", "config"]
    session = master.put_book(None, 1, report(1), report(2))["session"]
    master.post("/signal/modify", {"ticket": 1, "sl": 1.07, "session": session, "rev": 2, "detected_at": 77})
    master.post("/signal/close", {"ticket": 2, "remaining": 0.04, "session": session, "rev": 3})
    master.put_book(session, 4, report(1, sl=1.07))
    client.post("/users/config", {"copying": "paused"})
    got = [listening.next() for _ in range(7)]
    assert [(m["type"], m.get("seq"), m.get("prev")) for m in got] == [
        ("signal", 1, 0),
        ("signal", 2, 1),
        ("master", None, None),
        ("modify", 3, 2),
        ("close", 4, 3),
        ("close", 5, 4),
        ("config", None, None),
    ]
    assert got[3]["detected_at"] == 77
    assert [m["data"]["remaining"] for m in got[4:6]] == [0.04, 0]
    assert all("server_time" in m for m in got[:6])


def test_a_client_may_ask_for_the_book(master: Caller, client: Caller) -> None:
    listening = client.listen().joined()
    master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 5})
    assert listening.next()["type"] == "signal"
    listening.socket.send('{"type":"sync"}')
    book = listening.next()
    assert (book["type"], [t["ticket"] for t in book["data"]["trades"]]) == ("book", [5])


def test_quiet_is_broken_by_heartbeats(master: Caller, client: Caller) -> None:
    listening = client.listen().joined()
    master.post("/signal/broadcast", ORIGINAL_SIGNAL)
    listening.next("signal")
    beat = json.loads(listening.socket.recv())
    assert (beat["type"], beat["seq"]) == ("heartbeat", 1)


def test_a_book_larger_than_any_socket_buffer_arrives_whole(master: Caller, client: Caller) -> None:
    listening = client.listen().joined()
    master.put_book(None, 1, *(report(ticket, comment="x" * 60) for ticket in range(1, 2501)))
    seqs = [listening.next("signal")["seq"] for _ in range(2500)]
    assert seqs == list(range(1, 2501))
    listening.socket.send('{"type":"sync"}')
    assert len(listening.next("book")["data"]["trades"]) == 2500


def test_nothing_falls_between_the_book_and_the_first_change(server: Serving, master: Caller) -> None:
    """Followers join while trades are made; each must be able to tell the whole book from what it got."""
    stop = threading.Event()
    clients = [server.user(f"client_{n}") for n in range(8)]
    made: list[int] = []

    def trade() -> None:
        while not stop.is_set():
            made.append(master.post("/signal/broadcast", ORIGINAL_SIGNAL)["seq"])

    trading = threading.Thread(target=trade, daemon=True)
    trading.start()
    listenings = [client.listen() for client in clients]
    books = [listening.next() for listening in listenings]
    stop.set()
    trading.join(20)
    last = made[-1]
    for book, listening in zip(books, listenings, strict=True):
        seqs = {trade["ticket"] for trade in book["data"]["trades"]}
        assert len(seqs) == book["seq"]
        reached = book["seq"]
        while reached < last:
            message = listening.next("signal")
            assert message["prev"] <= reached < message["seq"]
            reached = message["seq"]


# --- getting out -----------------------------------------------------------------------------------------------------


def test_a_second_connection_of_a_client_closes_the_first(master: Caller, client: Caller) -> None:
    first = client.listen().joined()
    second = client.listen().joined()
    assert first.close_code() == 4409
    master.post("/signal/broadcast", ORIGINAL_SIGNAL)
    assert second.next()["type"] == "signal"


def test_a_token_that_expires_closes_the_connection(tmp_path: Path) -> None:
    with serving(tmp_path, token_seconds=1) as server:
        assert server.user("client_user").listen().close_code() == 4401


@pytest.mark.parametrize("change", [{"active": False}, {"password": "another horse"}, {"role": "master"}], ids=str)
def test_a_changed_account_is_closed_at_once(server: Serving, client: Caller, change: dict[str, Any]) -> None:
    admin = server.user("admin", "admin")
    listening = client.listen().joined()
    started = time.monotonic()
    assert admin.call("PATCH", "/users/client_user", change).status_code == 200
    assert listening.close_code() == 4403
    assert time.monotonic() - started < 10  # at once, and not at the next ping


def test_the_end_of_the_server_is_said(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        listening = server.user("client_user").listen().joined()
        server.hub.close_all()
        assert listening.close_code() == 1001


def test_a_client_that_says_goodbye_is_answered_and_forgotten(
    server: Serving, client: Caller, wait_until: Callable[..., None]
) -> None:
    listening = client.listen().joined()
    listening.socket.send_close(1000, b"done")
    assert listening.close_code() == 1000
    wait_until(lambda: not server.hub.connected_users())


def test_a_client_that_vanishes_is_forgotten(server: Serving, client: Caller, wait_until: Callable[..., None]) -> None:
    listening = client.listen().joined()
    assert server.hub.connected_users() == {"client_user": 1}
    listening.socket.sock.close()
    wait_until(lambda: not server.hub.connected_users())


def masked(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    head = bytes(((0x80 if fin else 0) | rsv | opcode,))
    size = len(payload)
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 1 << 16:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload  # a mask of zeros changes nothing


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02{}", 1002),  # not masked
        (masked(1, b"{}", rsv=0x40), 1002),
        (masked(3, b"x"), 1002),
        (masked(0, b"x"), 1002),
        (masked(9, b"x" * 126), 1002),
        (masked(9, b"x", fin=False), 1002),
        (masked(1, b"\xff\xfe"), 1007),
        (masked(1, b"no json"), 1007),
        (masked(2, b"binary"), 1003),
        (masked(1, b"x" * 70000), 1009),
        (masked(1, b"x" * 40000, fin=False) + masked(0, b"x" * 40000), 1009),
        (masked(8, b"\x03"), 1002),
        (masked(8, struct.pack("!H", 1005)), 1002),
        (masked(1, b'{"type":"x"}') * 40, 1008),
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_bad_frames_end_their_connection_and_no_other(
    server: Serving, client: Caller, master: Caller, data: bytes, code: int
) -> None:
    good = server.user("good_client").listen().joined()
    bad = client.listen().joined()
    bad.socket.sock.sendall(data)
    assert bad.close_code() == code
    master.post("/signal/broadcast", ORIGINAL_SIGNAL)
    assert good.next()["type"] == "signal"


def test_fragments_and_pings_between_them_are_understood(client: Caller) -> None:
    listening = client.listen().joined()
    whole = (
        masked(1, b'{"type":', fin=False)
        + masked(9, b"are you there")
        + masked(0, b'"sy', fin=False)
        + masked(0, b'nc"}')
    )
    for byte in whole:
        listening.socket.sock.sendall(bytes((byte,)))
    opcode, data = listening.socket.recv_data(control_frame=True)
    assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, b"are you there")
    assert listening.next()["type"] == "book"


def test_a_reader_that_stops_holds_nobody_up_and_is_dropped(
    server: Serving, master: Caller, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured elsewhere: a plain loop over blocking sends stands still for everybody for ever."""
    monkeypatch.setattr(wire, "PING_S", 1000.0)  # its silence shall not end it first
    good = [server.user(f"good_{n}").listen().joined() for n in range(5)]
    stalled = client.listen(sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]).joined()
    session, slowest, told = master.put_book(None, 1)["session"], 0.0, 0
    for listening in good:
        assert listening.next()["type"] == "master"
    for rev in range(2, 200):
        trades = [report(rev * 100 + n, comment="x" * 64) for n in range(100)]
        body = {"session": session, "rev": rev, "trades": trades, "account": ACCOUNT}
        started = time.monotonic()
        told += master.call("PUT", "/signal/book", body).json()["changes"]
        slowest = max(slowest, time.monotonic() - started)
        for listening in good:
            while listening.next()["seq"] < told:
                pass
        if server.hub.closed[1013]:
            break
    assert server.hub.closed[1013] == 1
    assert slowest < 5
    assert set(server.hub.connected_users()) == {f"good_{n}" for n in range(5)}
    again = client.listen()
    assert again.next()["seq"] == told
    stalled.socket.shutdown()


def test_silence_ends_a_connection(
    server: Serving, client: Caller, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(wire, "PING_S", 0.5)
    monkeypatch.setattr(wire, "LOOK_S", 0.1)
    client.listen().joined()  # reads nothing from here on, so it answers no ping
    wait_until(lambda: not server.hub.connected_users())
    assert server.hub.closed[1008] == 1


def test_who_answers_pings_stays(server: Serving, client: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PING_S", 0.2)
    monkeypatch.setattr(wire, "LOOK_S", 0.05)
    listening = client.listen().joined()
    pings = 0
    while pings < 8:
        opcode, _ = listening.socket.recv_data(control_frame=True)
        pings += opcode == websocket.ABNF.OPCODE_PING
    assert server.hub.connected_users() == {"client_user": 1}


def test_frames_of_many_writers_never_mix(server: Serving, client: Caller) -> None:
    """Signals from several threads, pongs and books on one socket: every frame must come out whole."""
    masters = [server.user(f"master_{n}", "master") for n in range(3)]
    listening = client.listen().joined()
    listening.socket.sock.settimeout(30)

    def post(caller: Caller) -> None:
        for _ in range(30):
            caller.post("/signal/broadcast", ORIGINAL_SIGNAL)

    threads = [threading.Thread(target=post, args=(caller,), daemon=True) for caller in masters]
    for thread in threads:
        thread.start()
    for n in range(60):
        listening.socket.ping(str(n))
    reached = 0
    pongs: list[bytes] = []
    while reached < 90 or len(pongs) < 60:
        opcode, data = listening.socket.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_PONG:
            pongs.append(data)
        elif opcode == websocket.ABNF.OPCODE_TEXT:
            message = json.loads(data)
            if message["type"] == "signal":
                assert message["prev"] == reached
                reached = message["seq"]
    for thread in threads:
        thread.join(10)
    assert pongs == [str(n).encode() for n in range(60)]


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_a_silent_tls_connection_holds_nobody_up(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusted = str(certificate[0])
    with serving(tmp_path, tls=context) as server, contextlib.ExitStack() as held_open:
        server.session.verify = trusted
        host, port = server.url.removeprefix("https://").split(":")
        silent = [held_open.enter_context(socket.create_connection((host, int(port)))) for _ in range(5)]
        assert len(silent) == 5
        master, client = server.user("master_user", "master"), server.user("client_user")
        credentials = {"username": "client_user", "password": PASSWORD}
        assert server.call("POST", "/token", credentials).status_code == 200
        listening = client.listen(sslopt={"ca_certs": trusted}).joined()
        master.put_book(None, 1, *(report(ticket, comment="x" * 60) for ticket in range(1, 1501)))
        assert [listening.next("signal")["seq"] for _ in range(1500)] == list(range(1, 1501))
        listening.socket.send('{"type":"sync"}')
        assert len(listening.next("book")["data"]["trades"]) == 1500


def test_a_websocket_over_tls_keeps_what_comes_with_its_handshake(
    tmp_path: Path, certificate: tuple[Path, Path], wait_until: Callable[..., None]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with serving(tmp_path, tls=context) as server:
        server.session.verify = str(certificate[0])
        client = server.user("client_user")
        with trusting.wrap_socket(plain(server), server_hostname="localhost") as raw:
            raw.sendall(handshake(client) + masked(9, b"early"))
            raw.sendall(masked(9, b"later"))
            read_until(raw, b"\x8a\x05early", b"\x8a\x05later", b'"type":"config"')
            server.user("master_user", "master").post("/signal/broadcast", ORIGINAL_SIGNAL)
            read_until(raw, b'"type":"signal"')
        wait_until(lambda: not server.hub.connected_users())


def test_plain_http_on_a_tls_port_harms_nobody(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(tmp_path, tls=context) as server:
        server.session.verify = str(certificate[0])
        host, port = server.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(4096):
                    pass
        assert server.call("GET", "/health").status_code == 200


def test_the_database_failing_while_somebody_joins_asks_it_to_come_back(
    server: Serving, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_user_id: int) -> User:
        raise Unavailable("disk full")

    real = server.store.config_of
    monkeypatch.setattr(server.store, "config_of", fails)
    assert client.listen().close_code() == 1013
    monkeypatch.setattr(server.store, "config_of", real)
    client.listen().joined()
