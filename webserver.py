"""The HTTP side of the sockets: HTTP/1.1 with kept connections, a thread for each, in front of a WSGI application.

werkzeug's own server closes every connection after one answer, which makes a sender connect anew for each trade, and
lets a silent TLS connection block everybody; so the little that is needed stands here. An application that wants the
socket for itself (WebSocket) answers 101 and leaves a function in the environment; the socket is then handed to it.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import ssl
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

# Under this key of the WSGI environment an application that answered 101 leaves a function. It is given the socket,
# which nobody else reads or writes any more, and what had been received beyond the request.
ADOPT: Final = "aibot.adopt"

REQUEST_S: Final = 15.0  # the longest silence within a request, a TLS handshake, or before the first request
IDLE_S: Final = 75.0  # the longest silence between two requests
LINGER_S: Final = 1.0  # the longest silence while reading away what follows a refused body ...
MOST_LINGERING: Final = 256  # ... and how many pieces of it
MOST_DISCARDED: Final = 2 << 20  # bytes of an unread body that are read away, so that the other side sees the answer


class WebServer(socketserver.ThreadingMixIn, HTTPServer):
    """Serves one WSGI application. Raises `OSError` when the address cannot be had."""

    daemon_threads = True
    request_queue_size = 1024
    # On Windows this option would let two servers share a port; elsewhere it only spares waiting for old connections.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, host: str, port: int, app: WSGIApplication, tls: ssl.SSLContext | None = None) -> None:
        self.app = app
        self.tls = tls
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), RequestHandler)

    def server_bind(self) -> None:
        if sys.platform == "win32":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look the name up in the DNS
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"{'https' if self.tls else 'http'}://{host}:{self.server_port}"

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, in its own thread from the TLS handshake to the end."""
        adopted = False
        try:
            request.settimeout(REQUEST_S)
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            adopted = RequestHandler(request, client_address, self).adopted
        except OSError as error:  # ssl.SSLError and TimeoutError among them
            log.debug("connection from %s ended: %s", client_address[0], error)
        except Exception:
            log.exception("serving %s failed", client_address[0])
        finally:
            if not adopted:
                self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("a connection from %s could not be served", client_address[0])


class Body:
    """The body of one request: reads from the connection, and never beyond the body's end."""

    def __init__(self, connection: Any, length: int) -> None:
        self._connection = connection
        self.left = length

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._connection.read(self.left if size < 0 else min(size, self.left))
        if len(data) < min(self.left, size if size >= 0 else self.left):
            raise ConnectionError("the connection ended within a request")
        self.left -= len(data)
        return data

    def discard(self) -> bool:
        """Read away what nobody wanted; whether that was possible."""
        if self.left > MOST_DISCARDED:
            return False
        while self.left:
            self.read(min(self.left, 64 << 10))
        return True


class RequestHandler(BaseHTTPRequestHandler):
    """One connection and the requests that come over it."""

    protocol_version = "HTTP/1.1"
    timeout = REQUEST_S
    server: WebServer

    def setup(self) -> None:
        super().setup()
        self.adopted = False

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if not self.adopted:
            self.connection.settimeout(IDLE_S)

    def parse_request(self) -> bool:
        self.connection.settimeout(REQUEST_S)
        return super().parse_request()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every method: the application says which it knows
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        """Put one request to the application and write its answer."""
        if self.request_version == "HTTP/0.9":
            self.send_error(400, "not a request of HTTP/1.1")
            return
        length = self._body_length()
        if length is None:
            return
        body = Body(self.rfile, length)
        environ = self._environ(body, length)
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], Any]:
            head[:] = (status, headers)
            return lambda _data: None

        result = self.server.app(environ, start_response)
        try:
            content = b"".join(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        status, headers = head
        adopt = environ.get(ADOPT)
        if adopt is not None and status.startswith("101"):
            self.wfile.write(_head(status, headers))
            self._hand_over(adopt)
            return
        complete = body.discard()
        if not complete:
            self.close_connection = True
        lines = [("Date", self.date_time_string()), *headers]
        if not any(name.lower() == "content-length" for name, _ in headers):
            lines.append(("Content-Length", str(len(content))))
        if self.close_connection:
            lines.append(("Connection", "close"))
        self.wfile.write(_head(status, lines) + (b"" if self.command == "HEAD" else content))
        if not complete:
            self._linger()

    def _linger(self) -> None:
        """Let the other side read the answer: closing while it still sends would take the answer back (TCP reset)."""
        self.connection.settimeout(LINGER_S)
        self.connection.shutdown(socket.SHUT_WR)
        for _ in range(MOST_LINGERING):
            if not self.connection.recv(64 << 10):
                break

    def _body_length(self) -> int | None:
        if "transfer-encoding" in self.headers:
            self.send_error(411, "a body needs a Content-Length")
            return None
        given = set(self.headers.get_all("content-length", ["0"]))
        length = given.pop().strip()
        if given or not (length.isascii() and length.isdigit() and len(length) < 16):
            self.send_error(400, "Content-Length is not a number")
            return None
        return int(length)

    def _environ(self, body: Body, length: int) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        environ: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if self.server.tls else "http",
            "wsgi.input": body,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "REMOTE_ADDR": self.client_address[0],
            "REMOTE_PORT": str(self.client_address[1]),
            "SERVER_NAME": self.server.server_name,
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": self.request_version,
            "CONTENT_LENGTH": str(length),
            ADOPT: None,
        }
        for name, value in self.headers.items():
            if "_" in name:  # could pose as the same name with "-"
                continue
            key = name.upper().replace("-", "_")
            value = value.replace("\r\n", "")
            if key == "CONTENT_TYPE":
                environ[key] = value
            elif key != "CONTENT_LENGTH":
                key = f"HTTP_{key}"
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ

    def _hand_over(self, adopt: Callable[[socket.socket, bytes], None]) -> None:
        self.adopted = self.close_connection = True
        self.connection.setblocking(False)
        buffered: Any = self.rfile
        try:
            early = buffered.peek()  # what came with the request; a socket that does not block gives nothing new
        except ssl.SSLWantReadError:
            early = b""
        adopt(self.connection, early)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is not even a request."""
        self.close_connection = True
        words = message or self.responses.get(code, ("error",))[0]
        content = json.dumps({"error": {"code": "bad_request", "message": words}}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content))), ("Connection", "close")]
        log.info("request from %s refused: %d %s", self.client_address[0], code, words)
        self.wfile.write(_head(f"{int(code)} {self.responses.get(code, ('Error',))[0]}", headers) + content)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("connection from %s: %s", self.client_address[0], format % args)


def _head(status: str, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")
