"""Bytes that nobody would send, to whatever reads bytes of others: JSON, bodies, WebSocket frames, requests.

Good examples are bent and broken at random, with a seed. Whatever comes, it is either understood or refused in the way
that is meant for it: no other exception, nothing understood in two ways, no thread that ends.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

import bodies
import signals
from webserver import Received, RequestHandler, WebServer
from wire import INTERNAL, SocketThread, WebSocket

TRADE: Final = {
    "symbol": "EURUSD",
    "action": "BUY",
    "volume": 0.1,
    "price": 1.085,
    "sl": 1.08,
    "ticket": 5,
    "age_ms": 0,
}
BOOK: Final = {
    "session": None,
    "rev": 1,
    "trades": [TRADE, {**TRADE, "ticket": 6, "increase": {"volume": 0.1, "price": 1.1, "age_ms": None, "order": 7}}],
    "account": {
        "login": 1,
        "balance": 1e4,
        "equity": 10012.35,
        "currency": "USD",
        "leverage": 100,
        "margin_mode": "hedging",
    },
}
SETTINGS: Final = {"trade_copy": {"mode": "fix", "fixed_lot": 0.01}, "copying": "on", "follow": ["master_user"]}
EXECUTION: Final = {"id": "a-1", "event": "opened", "master": "mmm", "kind": "position", "ticket": 1, "at": 1}
MESSAGES: Final = [json.dumps(found).encode() for found in (TRADE, BOOK, SETTINGS, EXECUTION, {"type": "sync"})]
FRAMES: Final = [
    b"\x81\x8f\x01\x02\x03\x04" + bytes(b ^ (i % 4 + 1) for i, b in enumerate(b'{"type":"sync"}')),
    b"\x89\x80\x00\x00\x00\x00",
    b"\x8a\x82\x00\x00\x00\x00hi",
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x01\x81\x00\x00\x00\x00{\x80\x81\x00\x00\x00\x00}",
    b"\x81\xfe\x01\x00\x00\x00\x00\x00" + b" " * 256,
]
REQUESTS: Final = [
    b"GET /signals?after=1&limit=2 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer eyJ.x.y\r\n\r\n",
    b'POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{"username":""}',
    b"POST /token HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b",
    b"PUT /signal/book HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"HEAD http://x/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
]
PIECES: Final = [
    *(b"NaN", b"Infinity", b"-0", b"1e999", b"1e-999", b"9" * 400, b"0.1000000000000000000000001", b"true", b"null"),
    *(b'"', b"\\", b"\\ud800", b"\\u0000", b"{", b"}", b"[" * 2000, b",", b":", b"\x00", b"\xff\xfe", b"\xed\xa0\x80"),
    *(
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 1\r\n",
        b"Content-Length: -1\r\n",
    ),
    *(b"\x80", b"\x81\xff", b"\x7f" * 8, b"%00", b"%ff", b"\xc3\x28", b"../", b"HTTP/0.9", b"_", b'"ticket": 5'),
]


def bent(rng: random.Random, examples: Sequence[bytes]) -> bytes:
    """A good example after some accidents."""
    data = bytearray(rng.choice(examples))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at, until = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(6):
            case 0:
                data[at:at] = rng.choice(PIECES)
            case 1:
                data[at:until] = rng.choice(PIECES)
            case 2:
                del data[at : min(until, at + rng.choice((1, 2, 8, 1000)))]
            case 3:
                data[at:at] = data[at:until]
            case 4:
                data[at:at] = rng.choice(examples)
            case 5 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


# --- what must hold, whatever comes ----------------------------------------------------------------------------------


def json_is_strict(rng: random.Random) -> str:
    """What is understood is an object, says the same when written again, and is what the library understands too."""
    raw = bent(rng, MESSAGES)
    try:
        found = signals.decode(raw)
    except signals.BadJson:
        return "refused"
    assert type(found) is dict, raw
    assert found == json.loads(raw.decode(), parse_float=Decimal), raw
    finite = not any(type(value) is Decimal and not value.is_finite() for value in found.values())
    assert finite, raw
    return "understood"


def bodies_are_checked_whole(rng: random.Random) -> str:
    """An object becomes a trade, settings, an account or a report of which every part is of its type, or is refused."""
    try:
        body = signals.decode(bent(rng, MESSAGES))
    except signals.BadJson:
        return "no JSON"
    taken = 0
    for read in READERS:
        try:
            read(body)
            taken += 1
        except signals.BadField as error:
            problem = str(error)
        else:
            problem = ""
        assert problem.isprintable(), body
    return "taken" if taken else "refused"


def _trade(body: dict[str, Any]) -> None:
    trade, age_ms = signals.trade_from_sender(body)
    assert age_ms is None or type(age_ms) is int
    shown = signals.trade_for_client(trade, trade.volume)
    again = signals.trade_from_server(signals.decode(signals.encode({**shown, "master": "mmm"})))
    for name in ("ticket", "symbol", "action", "kind", "comment", "magic"):
        assert getattr(again, name) == getattr(trade, name), body


def _book(body: dict[str, Any]) -> None:
    for index, item in enumerate(bodies.list_of_objects(1000)(body.get("trades", []))):
        bodies.reported_trade(index, item)
    bodies.within("account", bodies.an_object(body.get("account", {})), bodies.ACCOUNT, {})


def _raising_fields(read: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    def reading(body: dict[str, Any]) -> object:
        try:
            return read(body)
        except signals.BadField:
            raise
        except ValueError as error:  # of a check, which the caller turns into this
            raise signals.BadField("field", str(error)) from error

    return reading


READERS: Final = tuple(
    _raising_fields(read)
    for read in (
        _trade,
        _book,
        lambda body: signals.encode(bodies.settings_from(body)),
        lambda body: signals.encode(bodies.within("r", body, bodies.EXECUTION_REQUIRED, bodies.EXECUTION_OPTIONAL)),
    )
)


class _Listener:
    def __init__(self) -> None:
        self.codes: list[int] = []

    def received(self, _connection: WebSocket, message: str) -> None:
        message.encode()

    def left(self, _connection: WebSocket, code: int, reason: str) -> None:
        self.codes.append(code)
        reason.encode()


def frames_end_at_most_their_connection(rng: random.Random) -> str:
    """The thread of the sockets reads on, and the other side is told with a code of its own fault."""
    failures: list[str] = []
    thread, listener = SocketThread(time, "fuzz", lambda: failures.append("the thread ended")), _Listener()
    ours, other = socket.socketpair()
    try:
        thread.adopt(ours, "fuzz", b"", listener)
        data = bent(rng, [b"".join(rng.choices(FRAMES, k=rng.randrange(1, 5)))])
        for start in range(0, len(data), size := rng.choice((1, 7, 4096))):
            thread.step(0)
            try:
                other.sendall(data[start : start + size])
            except OSError:
                break
        thread.step(0)
        assert not failures
        assert INTERNAL not in listener.codes, data  # an exception of ours, kept to this connection
        assert all(1000 <= code < 5000 for code in listener.codes), data
        return str(listener.codes[0]) if listener.codes else "open"
    finally:
        thread.close()
        other.close()


class _Handled(RequestHandler):
    """Reads a request out of memory and keeps its answer."""

    def setup(self) -> None:
        self.connection = self.request
        self.rfile = self.received = Received(self.request)
        self.incoming = self.request
        self.wfile = io.BytesIO()


class _Memory(io.RawIOBase):
    """A connection of which all that the other side says is there already."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.answer = bytearray()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)

    def recv(self, size: int) -> bytes:
        return self._data.read(size)

    def send(self, data: Any) -> int:
        self.answer += data
        return len(data)

    def allow(self, _seconds: float, *, between_requests: bool = False) -> None: ...

    def settimeout(self, _seconds: float | None) -> None: ...

    def shutdown(self, _how: int) -> None: ...


def _application(environ: Any, start: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


_server = WebServer.__new__(WebServer)
_server.app = _application
_server.ssl_context = None
_server.server_address = ("127.0.0.1", 1)


def requests_are_answered_or_hung_up_on(rng: random.Random) -> str:
    """Whatever a request looks like: whole answers, JSON when it is refused, no exception of ours."""
    connection = _Memory(bent(rng, REQUESTS))
    try:
        _Handled(connection, ("127.0.0.1", 1), _server)  # type: ignore[arg-type]
    except ConnectionError:
        return "broken off"
    rest, status = bytes(connection.answer), 0
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        HTTPStatus(status)
        if status == 100:
            continue
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert length <= len(rest) or b"HEAD" in connection._data.getvalue(), connection._data.getvalue()
        assert status != 500, connection._data.getvalue()
        if status >= 400:
            json.loads(rest[:length])
        rest = rest[length:] if rest[:5] != b"HTTP/" else rest
    return str(status)


PROPERTIES: Final[tuple[Callable[[random.Random], str], ...]] = (
    json_is_strict,
    bodies_are_checked_whole,
    frames_end_at_most_their_connection,
    requests_are_answered_or_hung_up_on,
)


def run(seed: int, *, times: int | None = None, seconds: float = 0.0) -> dict[str, Counter[str]]:
    """Try each property so many times, or for its share of the seconds. Raises what a property raises."""
    results = {}
    for number, held in enumerate(PROPERTIES):
        outcomes: Counter[str] = Counter()
        until = time.monotonic() + seconds / len(PROPERTIES)
        while outcomes.total() < times if times is not None else time.monotonic() < until:
            case = seed * 1_000_003 + outcomes.total() * len(PROPERTIES) + number
            try:
                outcomes[held(random.Random(case))] += 1
            except Exception as error:
                error.add_note(f"{held.__name__}, case {case}")
                raise
        results[held.__name__] = outcomes
    return results


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py campaign fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="(default: drawn)")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    logging.disable(logging.WARNING)
    for name, outcomes in run(options.seed, seconds=options.seconds).items():
        print(f"{name.replace('_', ' '):44} {outcomes.total():8}  {dict(sorted(outcomes.items()))}")
    return 0
