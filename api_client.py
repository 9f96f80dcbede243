"""The server as sender and copier see it: log-in, log-in again when the token has ended, errors sorted by what to do.

A request whose answer was lost may have been carried out: every request of this program is harmless to repeat.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from config import ApiSettings, is_loopback
from signals import BadJson, decode, encode

log = logging.getLogger(__name__)

TIMEOUT_S: Final = (5.0, 10.0)  # to connect, to be answered
# After the first, second … log-in in a row that was refused. The server looks at 5 wrong passwords in a minute and at
# 30 in an hour; whoever has tried more often waits, with the right one too.
LOG_IN_RESTS_S: Final = (5.0, 5.0, 5.0, 150.0)
# What OpenSSL says of an answer that is no TLS, before its version 3.2 and since.
NO_TLS: Final = ("wrong version number", "record layer failure", "packet length too long")


class ApiDown(Exception):
    """The server was not reached or could not answer now; try again later, in `wait_s` seconds when it said so."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class ApiRefused(Exception):
    """The server understood and said no. `status` is HTTP's, `code` the server's own word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({status} {code})")
        self.status = status
        self.code = code


class Api:
    """One user's access to the server. Usable from several threads."""

    def __init__(self, settings: ApiSettings, session: Any = None, *, role: str = "", clock: Any = time) -> None:
        """`session` is a `requests.Session` or what behaves like one. A user of another role than `role` is refused."""
        self._settings = settings
        self._role = role
        self._clock = clock
        self._log_in_from = -math.inf  # monotonic: before that none is tried, because of
        self._trouble: ApiDown | ApiRefused | None = None
        self._refused = 0  # log-ins in a row
        self._session = session if session is not None else requests.Session()
        if is_loopback(urlsplit(settings.url).hostname or ""):
            self._session.trust_env = False  # a proxy that the environment names cannot reach this computer
        self._token = ""
        self._lock = threading.Lock()

    def token(self) -> str:
        """The token in use, after a log-in when there is none. Raises `ApiDown`, `ApiRefused`."""
        with self._lock:
            if not self._token:
                self._token = self._log_in()
            return self._token

    def forget_token(self, token: str) -> None:
        """Log in again before the next request, because `token` was refused."""
        with self._lock:
            if self._token == token:
                self._token = ""

    def _log_in(self) -> str:
        s = self._settings
        if self._trouble is not None and self._clock.monotonic() < self._log_in_from:
            raise self._trouble.with_traceback(None)
        try:
            answer = self._request("POST", "/token", {"username": s.username, "password": s.password}, {})
            role = str(answer.get("role"))
            if self._role not in ("", role):
                needed = f"this program needs one with the role {self._role}"
                raise ApiRefused(403, "wrong_role", f"{s.username} is a user with the role {role}, and {needed}")
        except (ApiDown, ApiRefused) as trouble:
            rest = 0.0
            if isinstance(trouble, ApiDown):
                rest = min(trouble.wait_s, LOG_IN_RESTS_S[-1])
            elif trouble.code in ("wrong_credentials", "wrong_role"):
                rest = LOG_IN_RESTS_S[min(self._refused, len(LOG_IN_RESTS_S) - 1)]
                self._refused += 1
            self._trouble, self._log_in_from = trouble, self._clock.monotonic() + rest
            raise
        self._refused = 0
        token = answer.get("access_token")
        if type(token) is not str or not token.isascii() or not token.isprintable():
            raise ApiDown(f"POST {s.url}/token: answered, not as this server does: no access_token")
        log.info("logged in to %s as %s (%s)", s.url, s.username, role)
        return token

    def health(self) -> dict[str, Any]:
        """What the server says to anybody. Raises `ApiDown`, `ApiRefused`."""
        return self._request("GET", "/health", None, {})

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the server as a JSON object. Raises `ApiDown`, `ApiRefused`."""
        token = self.token()
        try:
            return self._request(method, path, body, {"Authorization": f"Bearer {token}"})
        except ApiRefused as refused:
            if refused.status != 401:
                raise
        self.forget_token(token)
        return self._request(method, path, body, {"Authorization": f"Bearer {self.token()}"})

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        url = self._settings.url.rstrip("/") + path
        content = None if body is None else encode(body).encode()
        try:
            response = self._session.request(
                method,
                url,
                data=content,
                headers={**headers, "Content-Type": "application/json"},
                auth=_as_it_is,
                verify=self._settings.ca_file or True,  # said here, REQUESTS_CA_BUNDLE cannot override it
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ApiDown(f"{method} {url}: {_plainly(error)}") from error
        try:
            answer = decode(response.content)
        except BadJson as error:
            raise ApiDown(
                f"{method} {url}: answered {response.status_code}, not as this server does: {error}"
            ) from error
        if response.status_code < 300:
            return answer
        problem = answer.get("error")
        code, message = "", ""
        if isinstance(problem, dict):
            code, message = str(problem.get("code", "")), str(problem.get("message", ""))
        if response.status_code >= 500 or response.status_code == 429:
            wait = response.headers.get("Retry-After", "")
            wait_s = float(wait) if re.fullmatch("[0-9]{1,6}", wait) else 0.0
            message += f" {_in_words(wait_s)}" if wait_s else ""
            raise ApiDown(f"{method} {url}: {response.status_code} {code} {message}".rstrip(), wait_s)
        raise ApiRefused(response.status_code, code, message or f"{method} {url} was refused")


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without this, requests takes a password out of ~/.netrc, where there is one, in the place of our token."""
    return request


def _plainly(error: requests.RequestException) -> str:
    """What a person can read of a network error, without the inner names of the library."""
    if isinstance(error, requests.exceptions.SSLError):
        if any(words in str(error) for words in NO_TLS):
            return "the server speaks no TLS at this address (is it http://, or another port?)"
        if "certificate" in str(error).lower():
            return f"the server's certificate is not accepted: {error}"
        return f"no TLS connection: {error}"
    if isinstance(error, requests.ConnectTimeout):
        return "no connection within the time allowed"
    if isinstance(error, requests.Timeout):
        return "no answer within the time allowed"
    if isinstance(error, requests.ConnectionError):
        return "no connection (is the server running, and is api.url right?)"
    return str(error)
