"""werkzeug's threaded server, made to keep its connections, to let a WebSocket's socket go, and to meet the internet.

werkzeug closes every connection after one answer, which would make a sender connect anew for each trade. Here the body
is read before the application is asked, so that nothing of it is taken for the next request; TLS begins in the
connection's own thread, so that a silent one holds nobody up; a request and its answer have a deadline, however
busily they drip; connections are counted, and what is too much is refused at once; and a socket can be given away
(`GIVE_SOCKET_TO`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.test import run_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

# Under this key of the WSGI environment stands a function. The one passed to it is called when the application is done
# with the request, and given the socket, which nobody else reads, writes or closes from then on, and what has been
# received beyond the request. What the application answers is then not sent.
GIVE_SOCKET_TO: Final = "aibot.give_socket_to"

REQUEST_S: Final = 15.0  # from the connection, TLS handshake included, or the first byte to the end of a request's head
IDLE_S: Final = 75.0  # the longest silence between two requests
SLOWEST: Final = 20_000  # bytes a second that a body or an answer has to make after these, on the whole
MOST_HEAD: Final = 16 << 10  # bytes of a request's first line and headers, which anybody may send
LITTLE: Final = 64 << 10  # bytes of a body that anybody may send; more is read from those only who may send it
MOST_READ: Final = 2 << 20  # above the limit of every route; more is refused unread
MOST_CONNECTIONS: Final = 2000  # at once, WebSockets aside; each has a thread
MOST_FROM_ADDRESS: Final = 100
LONG_ANSWER: Final = 64 << 10  # bytes; of longer ones ...
MOST_LONG_ANSWERS: Final = 8  # ... so many are kept for an address until it has read them
LINGER_S: Final = 3.0  # how long what follows a refused request is read away ...
MOST_LINGERING: Final = 256  # ... and how many pieces of it

# On every answer; the application may say otherwise.
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Content-Length: 74\r\nConnection: close\r\n\r\n"
    b'{"error":{"code":"too_many_connections","message":"try again in a while"}}'
)


class CannotListen(Exception):
    """The address cannot be had; the text says why."""


class WebServer(ThreadedWSGIServer):
    """Serves one WSGI application. Raises `CannotListen`."""

    request_queue_size = 1024
    # On Windows this option would let two servers share a port; elsewhere it only spares waiting for old connections.
    allow_reuse_address = sys.platform != "win32"
    allow_reuse_port = False

    def __init__(
        self,
        host: str,
        port: int,
        app: WSGIApplication,
        tls: ssl.SSLContext | None = None,
        *,
        most_from_address: int | None = MOST_FROM_ADDRESS,
        address_group: Callable[[str], str] = str,
        may_send_much: Callable[[str, str], bool] = lambda path, authorization: False,
    ) -> None:
        """`may_send_much` says by path and header of Authorization from whom more than `LITTLE` is read, so that nobody
        fills the memory who has no business here. `most_from_address` None = no such limit, behind a proxy, from which
        all connections come; `address_group` says which addresses count as one."""
        self.given_away: set[socket.socket] = set()
        self._most_from_address = most_from_address
        self._group = address_group
        self.may_send_much = may_send_much
        self._counting = threading.Lock()
        self._connections: Counter[str] = Counter()
        self._long_answers: Counter[str] = Counter()
        self._full = False
        super().__init__(host, port, app, RequestHandler)
        self.ssl_context = tls  # given to werkzeug, it would do the handshake in accept(), where all others wait

    def server_bind(self) -> None:
        try:
            if sys.platform == "win32":
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            socketserver.TCPServer.server_bind(self)  # HTTPServer's would look the name up in the DNS
        except OSError as error:  # as which werkzeug would print it and exit
            raise CannotListen(error.strerror or str(error)) from error

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"{'https' if self.ssl_context else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def get_request(self) -> tuple[Any, Any]:
        try:
            connection, address = super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # the connection stays in the queue: do not spin on it
                log.error("no connection can be accepted: %s", error)
                time.sleep(0.1)
            raise
        if self.ssl_context is not None:
            # The handshake is done by the first read.
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        group = self._group(client_address[0])
        with self._counting:
            too_many = self._connections.total() >= MOST_CONNECTIONS or (
                self._most_from_address is not None and self._connections[group] >= self._most_from_address
            )
            if not too_many:
                self._connections[group] += 1
            newly_full, self._full = too_many and not self._full, too_many
        if newly_full:
            log.warning("connections are being refused, the first from %s: it or all have too many", client_address[0])
        if too_many:
            self._refuse(request)
            return
        try:
            super().process_request(request, client_address)  # starts a thread
        except BaseException:
            self._ended(group)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._ended(self._group(client_address[0]))

    def _ended(self, group: str) -> None:
        with self._counting:
            self._connections[group] -= 1
            if not self._connections[group]:
                del self._connections[group]

    @contextlib.contextmanager
    def place_for_long_answer(self, address: str) -> Iterator[bool]:
        """Whether there is one. Behind a proxy, where all come from one address, there always is."""
        group = self._group(address)
        with self._counting:
            place = self._most_from_address is None or self._long_answers[group] < MOST_LONG_ANSWERS
            self._long_answers[group] += place
        try:
            yield place
        finally:
            with self._counting:
                self._long_answers[group] -= place
                if not self._long_answers[group]:
                    del self._long_answers[group]

    def _refuse(self, request: Any) -> None:
        """Say so and hang up, without ever waiting for anything: this is the thread that accepts."""
        if self.ssl_context is None:
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(TOO_MANY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        if request in self.given_away:
            self.given_away.discard(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        bug = not isinstance(error, OSError)  # ssl.SSLError and TimeoutError are
        log.log(
            logging.ERROR if bug else logging.DEBUG,
            "connection from %s ended: %s",
            client_address[0],
            error,
            exc_info=bug,
        )


class Incoming(io.RawIOBase):
    """What comes over a connection, until a deadline; then `TimeoutError`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until: float | None = None  # monotonic; None = never waits
        self._between = False
        self.allow(REQUEST_S)

    def allow(self, seconds: float, *, between_requests: bool = False) -> None:
        """Set the deadline. The first byte of a next request sets it anew, so that idling and dripping differ."""
        self._until, self._between = time.monotonic() + seconds, between_requests

    def never_wait(self) -> None:
        self._until = None
        self._connection.setblocking(False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._until is not None:
            self._connection.settimeout(left_until(self._until))
        try:
            size = self._connection.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        if self._between:
            self.allow(REQUEST_S)
        return size


class HeadTooLong(Exception):
    """The head of a request has more than `MOST_HEAD` bytes."""


class Received(io.BufferedReader):
    """What came and has not been looked at. Lines are read of heads only, and of each head `MOST_HEAD` bytes."""

    head_left = 0

    def readline(self, _size: int | None = -1, /) -> bytes:
        """The next line of the head. Raises `HeadTooLong`."""
        line = super().readline(self.head_left + 1)
        self.head_left -= len(line)
        if self.head_left < 0:
            raise HeadTooLong
        return line


def left_until(deadline: float) -> float:
    """Seconds left. Raises `TimeoutError`."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time allowed is over")
    return left


class RequestHandler(WSGIRequestHandler):
    """One connection and the requests that come over it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WebServer
    unread = False  # something was refused without having been read: nothing behind it can be understood
    adopt: Callable[[socket.socket, bytes], None] | None = None  # who is going to own the socket

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.incoming = Incoming(self.connection)
        self.rfile = self.received = Received(self.incoming)

    def handle_one_request(self) -> None:
        self.received.head_left = MOST_HEAD
        try:
            super().handle_one_request()
        except HeadTooLong:
            self.send_error(431, "the head of the request is too long")
        self.incoming.allow(IDLE_S, between_requests=True)

    def run_wsgi(self) -> None:
        """Put one request to the application and write its answer.

        In place of werkzeug's, which after each answer waits 10 ms and reads away whatever comes, a next request too.
        """
        if self.request_version == "HTTP/0.9":
            self.send_error(400, "not a request of HTTP/1.1")
            return
        if "transfer-encoding" in self.headers:
            self.send_error(411, "a body needs a Content-Length")
            return
        lengths = set(self.headers.get_all("content-length", ["0"]))
        length = lengths.pop().strip()
        if lengths or not (length.isascii() and length.isdigit() and len(length) < 16):
            self.send_error(400, "Content-Length is not a number")
            return
        try:
            environ = self.make_environ()
        except ValueError:
            self.send_error(400, "the address cannot be understood")
            return
        environ["wsgi.input"] = io.BytesIO(self._body(int(length)))
        environ[GIVE_SOCKET_TO] = self._give_socket_to
        try:
            pieces, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
        except Exception:  # the application answers its own mistakes: this is the last resort
            log.exception("%.16s %.200s failed outside of the application", self.command, self.path.partition("?")[0])
            self.send_error(500, "the server failed")
            return
        if self.adopt is None:
            self._answer(int(status[:3]), headers, b"".join(pieces))
        else:
            self._hand_over(self.adopt)

    def _body(self, length: int) -> bytes:
        self.incoming.allow(REQUEST_S + length / SLOWEST)
        path, authorization = self.path.partition("?")[0], self.headers.get("Authorization", "")
        if length > LITTLE and (length > MOST_READ or not self.server.may_send_much(path, authorization)):
            # It is going to be refused, for its length or for who sent it.
            self.close_connection = self.unread = True
            return b""
        body = self.received.read(length)
        if len(body) < length:
            raise ConnectionError("the connection ended within a request")
        return body

    def _answer(self, status: int, headers: Iterable[tuple[str, str]], content: bytes) -> None:
        lines = [f"HTTP/1.1 {status} {self.responses.get(status, ('',))[0]}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers]  # Content-Length is among them: Flask sees to it
        if self.close_connection:
            lines.append("Connection: close")
        everything = "\r\n".join([*lines, "", ""]).encode("latin-1") + content
        if len(content) <= LONG_ANSWER:
            self._send(everything)
            return
        with self.server.place_for_long_answer(self.client_address[0]) as place:
            if place:
                self._send(everything)
                return
        self.close_connection = True
        with contextlib.suppress(OSError):  # without waiting: it is the waiting that there is no place for
            self.connection.setblocking(False)
            self.connection.send(TOO_MANY)

    def _send(self, everything: bytes) -> None:
        rest = memoryview(everything)
        deadline = time.monotonic() + REQUEST_S + len(rest) / SLOWEST
        while rest:
            self.connection.settimeout(left_until(deadline))
            rest = rest[self.connection.send(rest) :]

    def _give_socket_to(self, adopt: Callable[[socket.socket, bytes], None]) -> None:
        self.adopt = adopt

    def _hand_over(self, adopt: Callable[[socket.socket, bytes], None]) -> None:
        self.close_connection = True
        self.incoming.never_wait()
        early = b""
        with contextlib.suppress(OSError):  # nothing there; a connection that is broken will be so to its new owner too
            early = self.received.peek()
        self.server.given_away.add(self.connection)
        adopt(self.connection, early)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is not even a request, or has met a mistake of ours."""
        words = (message or self.responses.get(code, ("error",))[0])[:200]  # the whole request may be quoted in it
        log.info("request from %s refused: %d %s", self.client_address[0], code, words)
        self.close_connection = self.unread = True
        name = "internal" if code == 500 else "bad_request"
        content = json.dumps({"error": {"code": name, "message": words}}).encode()
        own = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        self._answer(code, [*own, *SECURITY_HEADERS.items()], content)

    def finish(self) -> None:
        super().finish()
        if self.unread:
            self._linger()

    def _linger(self) -> None:
        """Let the other side read the answer: closing while it still sends would take the answer back (TCP reset)."""
        deadline = time.monotonic() + LINGER_S
        self.connection.shutdown(socket.SHUT_WR)
        for _ in range(MOST_LINGERING):
            self.connection.settimeout(left_until(deadline))
            if not self.connection.recv(64 << 10):
                break

    def log(self, type: str, message: str, *args: Any) -> None:
        log.debug("connection from %s: %s", self.client_address[0], message % args if args else message)
