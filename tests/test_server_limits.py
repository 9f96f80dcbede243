"""What is slow, too much or too many costs the others nothing: deadlines of requests, limits of connections."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websocket
from server_kit import ORIGINAL_SIGNAL, Caller, FakeConnection, HandClock, Serving, serving

import hub
import webserver
import wire
from db import Store
from hub import Hub
from records import Role
from webserver import WebServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def held_open() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def address_of(server: Serving) -> tuple[str, int]:
    host, port = server.url.partition("://")[2].split(":")
    return host, int(port)


def connected(server: Serving, *, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(address_of(server), timeout=20, source_address=(source, 0))


def is_over(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except ConnectionError:
        return True


def answers(server: Serving) -> bool:
    return server.call("GET", "/health").status_code == 200


# --- slow requests ---------------------------------------------------------------------------------------------------


def drip(connection: socket.socket, data: bytes) -> None:
    """Send byte by byte for as long as the other side takes it: never silent, never finished."""
    with contextlib.suppress(OSError):
        for byte in data:
            connection.sendall(bytes((byte,)))
            time.sleep(0.02)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /token HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n",
    ],
    ids=["from the start", "in the head", "in the body"],
)
def test_a_request_that_drips_is_given_up_however_busily(
    server: Serving, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(webserver, "REQUEST_S", 0.5)
    monkeypatch.setattr(webserver, "SLOWEST", 20_000)
    with connected(server) as connection:
        connection.sendall(beginning)
        dripping = threading.Thread(target=drip, args=(connection, b"x" * 2000), daemon=True)
        dripping.start()
        assert is_over(connection)
        assert answers(server)
    dripping.join(60)


def test_a_kept_connection_that_begins_to_drip_has_no_more_time_than_a_new_one(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "REQUEST_S", 0.5)
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).endswith(b'{"status":"ok"}')
        connection.sendall(b"GET /heal")
        assert is_over(connection)


def test_a_kept_connection_ends_when_nothing_more_comes(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver, "IDLE_S", 0.2)
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).endswith(b'{"status":"ok"}')
        assert is_over(connection)


def test_an_answer_that_nobody_reads_is_given_up(
    server: Serving, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    master = server.user("master_user", "master")
    for _ in range(300):
        master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "comment": "x" * 64})
    monkeypatch.setattr(webserver, "REQUEST_S", 0.5)
    monkeypatch.setattr(webserver, "SLOWEST", 1 << 30)
    others = threading.active_count()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address_of(server))
        request = f"GET /signals?limit=1000 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {master.token}\r\n\r\n"
        connection.sendall(request.encode() * 100)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        wait_until(lambda: threading.active_count() <= others, "the thread of the connection to end")


def test_an_address_that_does_not_read_is_kept_few_long_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_open: contextlib.ExitStack, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(webserver, "MOST_LONG_ANSWERS", 2)
    with serving(tmp_path, most_from_address=50) as server:
        client = server.user("client_user")
        about = {"event": "opened", "master": "master_user", "kind": "position", "ticket": 1, "at": 1}
        numbers = {f"{n:064}": "\U0001f600" * 200 for n in range(32)}
        for n in range(20):
            client.post("/executions", {"executions": [{"id": f"{n}", **about, "numbers": numbers}]})
        asking = (
            f"GET /executions?limit=1000 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client.token}\r\n\r\n"
        )
        unread = contextlib.ExitStack()
        held_open.push(unread)
        for _ in range(2):
            connection = unread.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(address_of(server))
            connection.sendall(asking.encode() * 20)  # more than the system keeps for the server

        def status(source: str) -> bytes:
            with connected(server, source=source) as connection:
                connection.sendall(asking.encode().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            head, _, body = answer.partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
            return head.split()[1]

        wait_until(lambda: status("127.0.0.1") == b"503")
        assert answers(server)
        assert status("127.0.0.9") == b"200"
        unread.close()
        wait_until(lambda: status("127.0.0.1") == b"200")


def test_a_tls_handshake_has_the_deadline_of_a_request(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, held_open: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(webserver, "REQUEST_S", 2.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(tmp_path, tls=context) as server:
        server.session.verify = str(certificate[0])
        silent = [held_open.enter_context(connected(server)) for _ in range(50)]
        half = held_open.enter_context(connected(server))
        half.sendall(b"\x16\x03\x01\x02\x00\x01")  # a record of 512 bytes begins
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        greeted = [
            held_open.enter_context(trusting.wrap_socket(connected(server), server_hostname="localhost"))
            for _ in range(20)  # which finish the handshake and then say nothing
        ]
        assert answers(server)
        assert all(is_over(connection) for connection in (*silent, half, *greeted))
        assert answers(server)


def test_many_slow_requests_keep_nobody_from_being_answered(server: Serving, held_open: contextlib.ExitStack) -> None:
    master = server.user("master_user", "master")
    listening = server.user("client_user").listen().joined()
    slow = [held_open.enter_context(connected(server)) for _ in range(150)]
    for number, connection in enumerate(slow):
        connection.sendall(
            (
                b"",
                b"POST /token HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
                b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n{",
            )[number % 3]
        )
    for number in range(20):
        server.session.close()  # each request over a connection of its own, behind all of these
        master.post("/signal/broadcast", ORIGINAL_SIGNAL)
        assert listening.next("signal")["seq"] == number + 1
    for connection in slow:  # and none of them was ended to make room
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)


# --- too many connections --------------------------------------------------------------------------------------------


def refused_at_once(connection: socket.socket) -> bool:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            answer += piece
    if not answer:  # hung up before it could be read
        return True
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}".encode() in head
    return bool(json.loads(body)["error"]["code"] == "too_many_connections")


def test_an_address_has_so_many_connections_and_others_do_not_notice(
    tmp_path: Path, held_open: contextlib.ExitStack, wait_until: Callable[..., None]
) -> None:
    with serving(tmp_path, most_from_address=20) as server:
        for _ in range(20):
            connection = held_open.enter_context(connected(server, source="127.0.0.9"))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).endswith(b'{"status":"ok"}')
        for _ in range(30):
            with connected(server, source="127.0.0.9") as one_more:
                assert refused_at_once(one_more)
        assert answers(server)
        held_open.close()

        def fits_again() -> bool:
            with connected(server, source="127.0.0.9") as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    return connection.recv(65536).endswith(b'{"status":"ok"}')
                return False

        wait_until(fits_again)


def test_all_together_have_so_many_connections_and_followers_do_not_notice(
    server: Serving, monkeypatch: pytest.MonkeyPatch, held_open: contextlib.ExitStack, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(webserver, "MOST_CONNECTIONS", 10)
    master, client = server.user("master_user", "master"), server.user("client_user")
    listening = client.listen().joined()
    master.post("/signal/broadcast", ORIGINAL_SIGNAL)  # its connection is kept, as a sender's is
    for _ in range(9):
        held_open.enter_context(connected(server))
    wait_until(lambda: refused_at_once(held_open.enter_context(connected(server))))
    assert master.post("/signal/broadcast", ORIGINAL_SIGNAL)["delivered"] == 1
    assert [listening.next()["seq"] for _ in range(2)] == [1, 2]


def test_a_connection_that_becomes_a_websocket_no_longer_counts_as_a_request(tmp_path: Path) -> None:
    with serving(tmp_path, most_from_address=3) as server:
        server.session.close()
        for number in range(6):
            server.user(f"client_{number}").listen().joined()


def test_a_refused_tls_connection_is_hung_up_on(
    tmp_path: Path, certificate: tuple[Path, Path], held_open: contextlib.ExitStack
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(tmp_path, tls=context, most_from_address=1) as server:
        held_open.enter_context(connected(server))
        with connected(server) as one_more:
            assert one_more.recv(4096) == b""


def test_without_file_handles_the_accepting_thread_waits(
    server: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []

    def fails(_self: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(webserver.errno, "EMFILE", 24)
    monkeypatch.setattr(webserver.time, "sleep", pauses.append)
    web = WebServer("127.0.0.1", 0, lambda _environ, _start: [])
    with contextlib.closing(web.socket):
        monkeypatch.setattr(webserver.ThreadedWSGIServer, "get_request", fails)
        with pytest.raises(OSError, match="Too many"):
            web.get_request()
    assert pauses == [0.1]
    assert "no connection can be accepted" in caplog.text


# --- too many WebSockets ---------------------------------------------------------------------------------------------


def status_of_handshake(caller: Caller) -> tuple[int, str]:
    try:
        caller.listen().joined()
    except websocket.WebSocketBadStatusException as error:
        refused = error
    else:
        return 101, ""
    assert refused.resp_headers is not None
    assert int(refused.resp_headers["retry-after"]) >= 1
    return refused.status_code, json.loads(refused.resp_body)["error"]["code"]


def test_an_address_has_so_many_websockets(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    with serving(tmp_path, websockets_per_address=3) as server:
        callers = [server.user(f"client_{number}") for number in range(5)]
        followers = [caller.listen().joined() for caller in callers[:3]]
        assert status_of_handshake(callers[3]) == (429, "too_many_connections")
        followers[0].close()
        wait_until(lambda: server.hub.connected == 2)
        assert status_of_handshake(callers[3]) == (101, "")


def test_all_together_have_so_many_websockets(tmp_path: Path) -> None:
    with serving(tmp_path, most_websockets=2) as server:
        callers = [server.user(f"client_{number}") for number in range(3)]
        assert [status_of_handshake(caller)[0] for caller in callers] == [101, 101, 503]
        assert status_of_handshake(callers[2]) == (503, "full")


def test_masters_and_admins_have_so_many_connections_and_the_oldest_goes(tmp_path: Path) -> None:
    clock = HandClock()
    with contextlib.closing(Store(tmp_path / "server.db", clock)) as store:
        user = store.add_user("admin", "hash", Role.ADMIN)
        crowd = Hub(store, clock)
        connections = [FakeConnection(f"test:{number}") for number in range(hub.MOST_OF_USER + 2)]
        for number, connection in enumerate(connections):
            crowd.join(connection, user, 2**60, arrived=number)
            assert crowd.connected == min(number + 1, hub.MOST_OF_USER)
        assert [c.closed and c.closed[0] for c in connections] == [4409, 4409] + [None] * hub.MOST_OF_USER


def test_addresses_that_have_left_are_forgotten(tmp_path: Path) -> None:
    clock = HandClock()
    with contextlib.closing(Store(tmp_path / "server.db", clock)) as store:
        crowd = Hub(store, clock)
        for number in range(5):
            connection = FakeConnection()
            user = store.add_user(f"client_{number}", "hash", Role.CLIENT)
            crowd.join(connection, user, 2**60, "192.0.2.1", arrived=number)
            assert crowd.connected_from("192.0.2.1") == 1
            crowd.left(connection, 1000, "")
            crowd.left(connection, 1000, "")
        assert crowd.connected_from("192.0.2.1") == 0
        assert not crowd._addresses


# --- too much on a WebSocket -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flood",
    [b"\x89\x80\x00\x00\x00\x00" * 1000, b"\x01\x80\x00\x00\x00\x00" + b"\x00\x80\x00\x00\x00\x00" * 1000],
    ids=["pings", "pieces of nothing"],
)
def test_a_flood_of_frames_ends_its_connection_and_no_other(
    server: Serving, wait_until: Callable[..., None], flood: bytes
) -> None:
    flooding, quiet = server.user("flooding_user").listen().joined(), server.user("quiet_user").listen().joined()
    with contextlib.suppress(OSError):
        flooding.socket.sock.sendall(flood)
    wait_until(lambda: server.hub.closed[1008] == 1)
    assert server.hub.connected == 1
    server.user("master_user", "master").post("/signal/broadcast", ORIGINAL_SIGNAL)
    assert quiet.next("signal")["seq"] == 1


def test_frames_are_counted_anew_at_each_look(
    server: Serving, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(wire, "LOOK_S", 0.02)
    monkeypatch.setattr(wire, "MOST_HEARD", 5)
    listening = server.user("client_user").listen().joined()
    for _ in range(30):
        listening.socket.ping()
        opcode = None
        while opcode != websocket.ABNF.OPCODE_PONG:
            opcode, _ = listening.socket.recv_data(control_frame=True)
        time.sleep(0.02)
    assert server.hub.connected == 1
