"""Log-in, log-in again, and errors sorted by what to do; over real HTTP."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from decimal import Decimal as D
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

import api_client
from api_client import LOG_IN_RESTS_S, Api, ApiDown, ApiRefused
from auth import WRONG_PASSWORDS
from config import ApiSettings

PASSWORD = "correct horse battery"


class Server:
    """Answers every request with the next of `answers` (status, body), and /token with `tokens` in turn."""

    def __init__(self) -> None:
        self.tokens = ["token-1", "token-2", "token-3"]
        self.log_in: tuple[int, Any] | None = None  # in place of a token
        self.retry_after = ""
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str, str | None, bytes]] = []  # method, path, Authorization, body
        self.broken: list[str] = []  # "drop" or "silence" for the next requests
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path, self.headers.get("Authorization"), body))
                fate = outer.broken.pop(0) if outer.broken else ""
                if fate == "drop":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fate == "silence":
                    outer.release.wait(60)
                    self.close_connection = True
                    return
                if self.path == "/token":
                    status, answer = outer.log_in or (200, {"access_token": outer.tokens.pop(0), "role": "master"})
                else:
                    status, answer = outer.answers.pop(0) if outer.answers else (200, {})
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if status in (301, 307):
                    self.send_header("Location", "/elsewhere")
                if outer.retry_after:
                    self.send_header("Retry-After", outer.retry_after)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_PUT = do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def log_ins(self) -> int:
        return sum(1 for _, path, _, _ in self.asked if path == "/token")


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        yield one


@pytest.fixture
def api(server: Server, session: requests.Session) -> Api:
    return Api(ApiSettings(server.url, "anna", PASSWORD, "ws://127.0.0.1:1"), session)


@pytest.fixture(autouse=True)
def nothing_secret_is_said(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens in a test: no password and no token in a log, down to the libraries' debugging."""
    with caplog.at_level(logging.DEBUG):
        yield
    for record in caplog.records:
        words = record.getMessage() + str(record.exc_info)
        assert PASSWORD not in words
        assert "token-" not in words


def secretless(error: BaseException) -> bool:
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(f"{cause!r} {cause}")
        cause = cause.__cause__ or cause.__context__
    return not any(PASSWORD in words or "token-" in words for words in chain)


def error(status: int, code: str = "some_code", message: str = "in words") -> tuple[int, Any]:
    return status, {"error": {"code": code, "message": message}}


class Hand:
    """A clock by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("answer", "rests"),
    [
        (error(401, "wrong_credentials", "wrong user name or password"), LOG_IN_RESTS_S),
        (error(429, "too_many_attempts", "wait"), (LOG_IN_RESTS_S[-1],)),
        (error(403, "inactive", "not active"), (0.0,)),
        (error(503), (0.0,)),
    ],
    ids=["wrong password", "too many attempts", "not active", "busy"],
)
def test_a_log_in_that_was_refused_is_not_tried_so_often_that_it_locks_its_user_out(
    server: Server, session: requests.Session, answer: tuple[int, Any], rests: tuple[float, ...]
) -> None:
    clock = Hand()
    api = Api(ApiSettings(server.url, "anna", PASSWORD, ""), session, clock=clock)
    for number, rest in enumerate(rests, 1):
        server.log_in, server.retry_after = answer, "3113" if answer[0] == 429 else ""
        with pytest.raises((ApiDown, ApiRefused)) as first:
            api.token()
        server.log_in = None
        if rest:
            clock.now += rest - 1
            with pytest.raises((ApiDown, ApiRefused)) as second:
                api.token()
            assert str(second.value) == str(first.value)
        assert server.log_ins() == number
        clock.now += 2
    assert api.token()
    assert server.log_ins() == len(rests) + 1


def test_the_rests_of_an_hour_are_within_what_the_server_looks_at() -> None:
    tries, now = [0.0], 0.0
    while now < 3600:
        now += LOG_IN_RESTS_S[min(len(tries) - 1, len(LOG_IN_RESTS_S) - 1)]
        tries.append(now)
    for limit in WRONG_PASSWORDS:
        assert all(sum(at <= later < at + limit.seconds for later in tries) < limit.most for at in tries)


def test_how_long_to_wait_is_said(server: Server, api: Api) -> None:
    server.log_in, server.retry_after = error(429, "too_many_attempts", "too many attempts: wait"), "3113"
    with pytest.raises(ApiDown, match="too many attempts: wait 52 minutes"):
        api.token()


def test_a_user_of_another_role_is_refused(server: Server, session: requests.Session) -> None:
    api = Api(ApiSettings(server.url, "anna", PASSWORD, ""), session, role="client")
    with pytest.raises(ApiRefused, match="anna is a user with the role master, and this program needs one with the ro"):
        api.call("GET", "/signal/book")
    assert [path for _, path, _, _ in server.asked] == ["/token"]


def test_the_first_request_logs_in_and_the_others_use_the_token(api: Api, server: Server) -> None:
    server.answers = [(200, {"seq": 5, "volume": 0.29}), (201, {"ticket": 9})]
    assert api.call("POST", "/signal/close", {"ticket": 1, "remaining": D("0.29")}) == {"seq": 5, "volume": D("0.29")}
    assert api.call("GET", "/signal/book") == {"ticket": 9}
    assert server.asked == [
        (
            "POST",
            "/token",
            None,
            json.dumps({"username": "anna", "password": PASSWORD}, separators=(",", ":")).encode(),
        ),
        ("POST", "/signal/close", "Bearer token-1", b'{"ticket":1,"remaining":0.29}'),
        ("GET", "/signal/book", "Bearer token-1", b""),
    ]


def test_an_ended_token_is_renewed_once_and_the_request_repeated(api: Api, server: Server) -> None:
    server.answers = [(200, {}), error(401), (200, {"seq": 5})]
    api.call("GET", "/signal/book")
    assert api.call("PUT", "/signal/book", {"rev": 1}) == {"seq": 5}
    assert server.log_ins() == 2
    assert [asked for asked in server.asked if asked[0] == "PUT"] == [
        ("PUT", "/signal/book", "Bearer token-1", b'{"rev":1}'),
        ("PUT", "/signal/book", "Bearer token-2", b'{"rev":1}'),
    ]


def test_a_new_token_that_is_refused_too_is_an_error_and_not_a_loop(api: Api, server: Server) -> None:
    server.answers = [error(401), error(401)]
    with pytest.raises(ApiRefused) as refused:
        api.call("GET", "/signal/book")
    assert refused.value.status == 401
    assert server.log_ins() == 2


def test_a_wrong_password_is_asked_once_and_said_without_the_password(api: Api, server: Server) -> None:
    server.log_in = error(401, "wrong_credentials", "wrong user name or password")
    with pytest.raises(ApiRefused, match="wrong user name or password") as refused:
        api.call("GET", "/signal/book")
    assert (refused.value.status, refused.value.code) == (401, "wrong_credentials")
    assert server.log_ins() == len(server.asked) == 1
    assert secretless(refused.value)


def test_a_token_is_fetched_again_only_if_it_is_the_one_that_was_refused(api: Api, server: Server) -> None:
    assert api.token() == "token-1"
    assert api.token() == "token-1"
    api.forget_token("an older one")
    assert api.token() == "token-1"
    api.forget_token("token-1")
    assert api.token() == "token-2"
    assert server.log_ins() == 2


def test_threads_that_need_a_token_at_once_share_one_log_in(api: Api, server: Server) -> None:
    start = threading.Barrier(5)
    got: list[str] = []

    def ask() -> None:
        start.wait()
        got.append(api.token())

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["token-1"] * 5
    assert server.log_ins() == 1


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 413, 415, 422])
def test_what_the_server_will_never_take_is_refused(api: Api, server: Server, status: int) -> None:
    server.answers = [error(status, "sl", "sl: must be a number")]
    with pytest.raises(ApiRefused, match="sl: must be a number") as refused:
        api.call("POST", "/signal/modify", {})
    assert (refused.value.status, refused.value.code) == (status, "sl")
    assert secretless(refused.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_the_server_cannot_do_now_is_tried_again_by_the_caller(api: Api, server: Server, status: int) -> None:
    server.answers = [error(status, "busy", "the database does not answer")]
    with pytest.raises(ApiDown, match=f"PUT http.*/signal/book: {status} busy the database does not answer") as down:
        api.call("PUT", "/signal/book", {})
    assert secretless(down.value)
    assert len(server.asked) == 2, "nothing is repeated behind the caller's back"


@pytest.mark.parametrize("answer", [b"<html>Bad gateway</html>", b"", b"[]", b'{"a":NaN}', b"\xff", b'{"a":1,"a":2}'])
@pytest.mark.parametrize("status", [200, 404, 502])
def test_an_answer_that_is_not_this_servers_is_no_answer(api: Api, server: Server, status: int, answer: bytes) -> None:
    server.answers = [(status, answer)]
    with pytest.raises(ApiDown, match=f"answered {status}, not as this server does") as down:
        api.call("GET", "/signal/book")
    assert secretless(down.value)


@pytest.mark.parametrize("answer", [{}, {"access_token": None}, {"access_token": 5}, {"access_token": "a\nb: c"}])
def test_a_log_in_without_a_token_is_no_log_in(api: Api, server: Server, answer: Any) -> None:
    server.log_in = (200, answer)
    with pytest.raises(ApiDown, match="not as this server does"):
        api.token()
    server.log_in = None
    assert api.token() == "token-1"


@pytest.mark.parametrize("problem", [{"error": "text"}, {"error": None}, {}, {"error": {"code": 5}}])
def test_a_refusal_in_another_form_is_still_a_refusal(api: Api, server: Server, problem: Any) -> None:
    server.answers = [(422, problem)]
    with pytest.raises(ApiRefused, match="was refused"):
        api.call("POST", "/signal/modify", {})


@pytest.mark.parametrize("status", [301, 307])
def test_a_password_or_a_trade_is_not_sent_on_to_another_address(api: Api, server: Server, status: int) -> None:
    server.answers = [(status, {})]
    with pytest.raises(ApiRefused):
        api.call("POST", "/signal/close", {"ticket": 1})
    assert [path for _, path, _, _ in server.asked] == ["/token", "/signal/close"]


def test_a_server_that_is_not_there_is_said_in_plain_words(session: requests.Session) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(ApiDown, match=r"POST http.*/token: no connection \(is the server running") as down:
            Api(ApiSettings(url, "anna", PASSWORD, ""), session).call("GET", "/signal/book")
    assert "urllib3" not in str(down.value)
    assert "object at 0x" not in str(down.value)
    assert secretless(down.value)


def test_a_server_without_tls_is_not_taken_for_one_with_a_bad_certificate(
    server: Server, session: requests.Session
) -> None:
    url = server.url.replace("http", "https")
    with pytest.raises(ApiDown) as down:
        Api(ApiSettings(url, "anna", PASSWORD, ""), session).call("GET", "/signal/book")
    assert str(down.value) == (
        f"POST {url}/token: the server speaks no TLS at this address (is it http://, or another port?)"
    )


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("[SSL] record layer failure (_ssl.c:1033)", "the server speaks no TLS at this address"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch",
            "certificate is not accepted",
        ),
        ("[X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate or crl found", "certificate is not accepted"),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", "no TLS connection: [SSL"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version", "no TLS connection: [SSL"),
    ],
)
def test_a_failed_handshake_is_told_by_its_cause(what: str, said: str) -> None:
    assert said in api_client._plainly(requests.exceptions.SSLError(what))


@pytest.mark.parametrize("fate", ["drop", "silence"])
def test_an_answer_that_does_not_come_is_an_error_of_the_moment(
    api: Api, server: Server, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "TIMEOUT_S", (5.0, 0.2))
    api.token()
    server.broken = [fate]
    with pytest.raises(ApiDown, match="no answer within" if fate == "silence" else "no connection") as down:
        api.call("PUT", "/signal/book", {"rev": 1})
    assert secretless(down.value)
    assert len(server.asked) == 2, "a request whose answer was lost is not repeated by itself"
    server.release.set()
    server.answers = [(200, {"seq": 1})]
    assert api.call("PUT", "/signal/book", {"rev": 2}) == {"seq": 1}
    assert server.log_ins() == 1


def test_every_request_has_a_time_limit(api: Api, session: requests.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    send = session.send

    def remember(request: Any, **options: Any) -> Any:
        limits.append(options["timeout"])
        return send(request, **options)

    monkeypatch.setattr(session, "send", remember)
    api.call("GET", "/signal/book")
    assert limits == [api_client.TIMEOUT_S] * 2


def test_a_netrc_file_does_not_replace_the_token(
    api: Api, server: Server, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.trust_env = True  # as for a server on another computer
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    api.call("GET", "/signal/book")
    assert [authorization for _, _, authorization, _ in server.asked] == [None, "Bearer token-1"]


def test_what_is_not_a_number_is_never_sent(api: Api, server: Server) -> None:
    api.token()
    with pytest.raises(ValueError):
        api.call("PUT", "/signal/book", {"balance": D("NaN")})
    assert server.log_ins() == len(server.asked)


def test_the_certificates_to_trust_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapter(requests.adapters.BaseAdapter):
        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
            used.append(options["verify"])
            raise requests.ConnectionError

        def close(self) -> None:
            pass

    used: list[Any] = []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/others.pem")
    with requests.Session() as session:
        session.mount("https://", Adapter())
        with pytest.raises(ApiDown):
            Api(ApiSettings("https://h", "anna", PASSWORD, "", ca_file="/etc/own.pem"), session).token()
    assert used == ["/etc/own.pem"]
