"""werkzeug's threaded server, made to keep its connections and to let a WebSocket's socket go.

werkzeug closes every connection after one answer, which would make a sender connect anew for each trade. Here the body
is read before the application is asked, so that nothing of it is taken for the next request; TLS begins in the
connection's own thread, so that a silent one holds nobody up; and a socket can be given away (`GIVE_SOCKET_TO`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import socketserver
import ssl
import sys
from collections.abc import Callable, Iterable
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

REQUEST_S: Final = 15.0  # the longest silence within a request, a TLS handshake, or before the first request
IDLE_S: Final = 75.0  # the longest silence between two requests
MOST_READ: Final = 2 << 20  # bytes of a body, above the limit of every route; more is refused unread
LINGER_S: Final = 1.0  # the longest silence while reading away what follows a refused request ...
MOST_LINGERING: Final = 256  # ... and how many pieces of it


class CannotListen(Exception):
    """The address cannot be had; the text says why."""


class WebServer(ThreadedWSGIServer):
    """Serves one WSGI application. Raises `CannotListen`."""

    request_queue_size = 1024
    # On Windows this option would let two servers share a port; elsewhere it only spares waiting for old connections.
    allow_reuse_address = sys.platform != "win32"
    allow_reuse_port = False

    def __init__(self, host: str, port: int, app: WSGIApplication, tls: ssl.SSLContext | None = None) -> None:
        self.given_away: set[socket.socket] = set()
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
        connection, address = super().get_request()
        if self.ssl_context is not None:
            # The handshake is done by the first read.
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

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


class RequestHandler(WSGIRequestHandler):
    """One connection and the requests that come over it."""

    protocol_version = "HTTP/1.1"
    timeout = REQUEST_S
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    server: WebServer
    unread = False  # something was refused without having been read: nothing behind it can be understood
    adopt: Callable[[socket.socket, bytes], None] | None = None  # who is going to own the socket

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if not self.close_connection:
            self.connection.settimeout(IDLE_S)

    def parse_request(self) -> bool:
        self.connection.settimeout(REQUEST_S)
        return super().parse_request()

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

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
        pieces, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
        if self.adopt is None:
            self._answer(int(status[:3]), headers, b"".join(pieces))
        else:
            self._hand_over(self.adopt)

    def _body(self, length: int) -> bytes:
        if length > MOST_READ:  # which is more than any route takes: it is going to be refused for its length
            self.close_connection = self.unread = True
            return b""
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the connection ended within a request")
        return body

    def _answer(self, status: int, headers: Iterable[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        for name, value in headers:  # Content-Length is among them: Flask sees to it
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def _give_socket_to(self, adopt: Callable[[socket.socket, bytes], None]) -> None:
        self.adopt = adopt

    def _hand_over(self, adopt: Callable[[socket.socket, bytes], None]) -> None:
        self.close_connection = True
        self.connection.setblocking(False)
        buffered: Any = self.rfile
        early = b""
        with contextlib.suppress(OSError):  # nothing there; a connection that is broken will be so to its new owner too
            early = buffered.peek()
        self.server.given_away.add(self.connection)
        adopt(self.connection, early)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is not even a request."""
        words = message or self.responses.get(code, ("error",))[0]
        log.info("request from %s refused: %d %s", self.client_address[0], code, words)
        self.close_connection = self.unread = True
        self.request_version = self.protocol_version  # to HTTP/0.9 http.server would send no head
        content = json.dumps({"error": {"code": "bad_request", "message": words}}).encode()
        self._answer(code, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))], content)

    def finish(self) -> None:
        super().finish()
        if self.unread:
            self._linger()

    def _linger(self) -> None:
        """Let the other side read the answer: closing while it still sends would take the answer back (TCP reset)."""
        self.connection.settimeout(LINGER_S)
        self.connection.shutdown(socket.SHUT_WR)
        for _ in range(MOST_LINGERING):
            if not self.connection.recv(64 << 10):
                break

    def log(self, type: str, message: str, *args: Any) -> None:
        log.debug("connection from %s: %s", self.client_address[0], message % args if args else message)
