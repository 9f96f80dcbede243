"""The copier's two threads towards the server: one listens to the WebSocket, one reports what was done.

Neither touches money. What the listener hears goes into a queue; what the reporter sends comes out of the ledger.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import websocket

from api_client import Api, ApiDown, ApiRefused
from config import ApiSettings, is_loopback
from ledger import CopierLedger, LedgerError
from signals import LEDGER_HEADER, BadJson, decode, encode

log = logging.getLogger(__name__)

SILENCE_S: Final = 15.0  # the server speaks every 5 s; three silent periods end the connection
# The book comes as soon as a connection stands. Nothing else shows how long a first message was on its way, so that one
# which may have been for longer is not waited for: its trades would look younger than they are. Where it was there and
# this program was not (a call of the terminal holds up all threads while it lasts), it counts as come before all that.
FIRST_BOOK_S: Final = 3.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
BATCH: Final = 200
NOT_TAKEN: Final = (413, 422)  # the server will never take these reports as they are

TOKEN_EXPIRED, DEACTIVATED, TAKEN_OVER = 4401, 4403, 4409


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and when it came (monotonic seconds)."""

    message: dict[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended. With `for_good` the program must stop: the server gave our place to another copier,
    or the thread that listens has ended."""

    why: str
    for_good: bool = False


Inbox = queue.SimpleQueue[Heard | Lost]


def pause(attempt: int) -> float:
    """Seconds before the next attempt: growing, and drawn by each copier, so that a thousand do not come at once."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 10))
    return random.uniform(longest / 2, longest)


class Listener(threading.Thread):
    """Keeps the WebSocket connected and puts everything it hears into `inbox`."""

    def __init__(self, api: Api, settings: ApiSettings, inbox: Inbox, stop: threading.Event, ledger: str = "") -> None:
        """`ledger` is the name of the copier's ledger, so that the server notices another copier of the user."""
        super().__init__(name="listener", daemon=True)
        self._api = api
        self._settings = settings
        self._inbox = inbox
        self._stop_event = stop
        self._ledger = ledger
        self._socket: websocket.WebSocket | None = None

    def sync(self) -> None:
        """Ask for the whole book."""
        self._send({"type": "sync"})

    def _send(self, message: dict[str, Any]) -> None:
        connected = self._socket
        if connected is None:
            return
        try:
            connected.send(encode(message))
        except (websocket.WebSocketException, OSError) as error:
            log.debug("nothing sent: %s", error)  # the listening thread notices the same and reports it

    def run(self) -> None:
        attempt = 0
        told = False
        try:
            while not self._stop_event.is_set():
                lost, heard_something = self._listen()
                if self._stop_event.is_set():
                    return
                attempt = 0 if heard_something else attempt + 1
                self._inbox.put(lost)
                if told := lost.for_good:
                    return
                self._stop_event.wait(pause(attempt))
        except Exception:
            log.exception("the listening thread failed")
            raise
        finally:
            if not (told or self._stop_event.is_set()):  # a copier that hears nothing must not look alive
                self._inbox.put(Lost("the listening thread has ended", for_good=True))

    def close(self) -> None:
        connected = self._socket
        if connected is not None:
            connected.abort()  # type: ignore[no-untyped-call]

    def _listen(self) -> tuple[Lost, bool]:
        """Connect and listen until the connection ends; whether anything was heard on it."""
        heard = False
        token = ""
        try:
            token = self._api.token()
            began = time.monotonic()
            connection = open_websocket(self._settings, token, self._ledger)
        except websocket.WebSocketBadStatusException as refused:
            if refused.status_code == 401:
                self._api.forget_token(token)
            return Lost(f"the server refused the WebSocket: {refused.status_code}"), False
        except (ApiDown, ApiRefused, websocket.WebSocketException, OSError) as error:
            return Lost(str(error)), False
        try:
            self._socket = connection
            connection.settimeout(FIRST_BOOK_S)
            while not self._stop_event.is_set():
                code, data = connection.recv_data(control_frame=True)
                if code == websocket.ABNF.OPCODE_CLOSE:
                    return self._closed(data, token), heard
                if code == websocket.ABNF.OPCODE_TEXT:
                    now = time.monotonic()
                    if not heard:
                        connection.settimeout(SILENCE_S)
                        now = began if now - began > FIRST_BOOK_S else now
                    self._inbox.put(Heard(decode(data), now))
                    heard = True
        except websocket.WebSocketTimeoutException:
            return Lost(f"nothing heard for {SILENCE_S if heard else FIRST_BOOK_S:.0f} s"), heard
        except BadJson as error:
            return Lost(f"the server sent what is not a message: {error}"), heard
        except (websocket.WebSocketException, OSError) as error:
            return Lost(str(error) or "the connection was closed"), heard
        finally:
            self._socket = None
            connection.abort()  # type: ignore[no-untyped-call]
            connection.shutdown()  # type: ignore[no-untyped-call]
        return Lost("stopped"), heard

    def _closed(self, data: bytes, token: str) -> Lost:
        code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
        reason = data[2:].decode("utf-8", "replace")
        if code == TAKEN_OVER:
            return Lost(
                "another copier has connected with this user name: two copiers on one account would fight, "
                "so this one stops. Close the other one, or give each follower a user of its own.",
                for_good=True,
            )
        if code in (TOKEN_EXPIRED, DEACTIVATED):
            self._api.forget_token(token)
        return Lost(f"the server closed the connection: {code} {reason}".rstrip())


def open_websocket(settings: ApiSettings, token: str, ledger: str = "") -> websocket.WebSocket:
    """A connection on which the server will speak first. Raises `WebSocketException`, `OSError`."""
    url = settings.ws_url.rstrip("/")
    if not urlsplit(url).path:
        url += "/ws"
    host = urlsplit(url).hostname or ""
    # A proxy that the environment names cannot reach this computer. The library asks whom it is not for only when
    # one is given.
    direct: dict[str, Any] = {"http_proxy_host": host, "http_no_proxy": [host]} if is_loopback(host) else {}
    # The library's own options keep quiet connections alive. Here silence ends one, and Wine refuses them.
    websocket.DEFAULT_SOCKET_OPTION.clear()
    return websocket.create_connection(
        url,
        **direct,
        timeout=SILENCE_S,
        redirect_limit=0,  # the token is for this server alone
        header=[f"Authorization: Bearer {token}", *([f"{LEDGER_HEADER}: {ledger}"] if ledger else [])],
        sockopt=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        sslopt={"ca_certs": settings.ca_file} if settings.ca_file else None,
        enable_multithread=True,  # sync() sends from the thread that trades
        suppress_origin=True,
    )


class Reporter(threading.Thread):
    """Sends the ledger's reports to the server, oldest first, until each is confirmed."""

    def __init__(self, api: Api, ledger: CopierLedger, stop: threading.Event) -> None:
        super().__init__(name="reporter", daemon=True)
        self._api = api
        self._ledger = ledger
        self._stop_event = stop
        self.wake = threading.Event()

    def run(self) -> None:
        attempt = 0
        while not self._stop_event.is_set():
            try:
                more = self.step()
                if attempt:
                    log.info("reports reach the server again")
                attempt = 0
            except (ApiDown, ApiRefused, LedgerError) as error:
                if not attempt:
                    log.warning("reports wait in the ledger: %s", error)
                attempt += 1
                self._stop_event.wait(pause(attempt))
                continue
            except Exception:  # a defect in reporting must not end the copying of closes; it is tried again, slowly
                log.exception("reporting failed")
                self._stop_event.wait(60.0)
                continue
            if not more:
                self.wake.wait(1.0)
                self.wake.clear()

    def step(self) -> bool:
        """Send one batch; whether there may be more. Raises `ApiDown`, `ApiRefused`, `LedgerError`."""
        batch = self._ledger.reports(BATCH)
        if not batch:
            return False
        try:
            self._send([body for _, body in batch])
        except ApiRefused as refused:
            if refused.status not in NOT_TAKEN:
                raise
            for _, body in batch:  # one report that the server cannot take must not hold up the others
                self._send_alone(body)
        self._ledger.confirmed(number for number, _ in batch)
        return True

    def _send(self, reports: list[dict[str, Any]]) -> None:
        self._api.call("POST", "/executions", {"executions": reports})

    def _send_alone(self, report: dict[str, Any]) -> None:
        try:
            self._send([report])
        except ApiRefused as refused:
            if refused.status not in NOT_TAKEN:
                raise
            log.error("the server cannot take a report, it stays in client.log only: %s: %s", refused, report)
