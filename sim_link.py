"""How `mt5_sim` reaches a simulated terminal: over a socket to its process, or within this process."""

from __future__ import annotations

import ctypes
import importlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any, Protocol

import sim_types as t
from sim_arguments import NoAnswerError

if TYPE_CHECKING:
    from sim_api import Terminal

ENVIRONMENT = "AIBOT_SIM_TERMINAL"  # the address of a terminal when none is given


class SendFailedError(Exception):
    """The terminal was gone before the call reached it."""


class ReceiveFailedError(Exception):
    """The terminal went away before it answered."""


class Link(Protocol):
    """A connection to a terminal: one call at a time, answered with `result`, `error` or `wrong`."""

    def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]: ...

    def close(self) -> None: ...


class SocketLink:
    """To a terminal process. `timeout` bounds connecting only: like the real one, a call waits for ever."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def no_timeout(self) -> None:
        self._socket.settimeout(None)

    def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps({"call": name, "args": args}, separators=(",", ":")).encode() + b"\n"
        try:
            self._check_alive()
            self._socket.sendall(line)
        except TimeoutError:
            raise
        except OSError as error:
            raise SendFailedError from error
        try:
            answer = self._read()
            if "hold" in answer:
                self._wait_holding_the_gil()
                answer = self._read()
            return answer
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise ReceiveFailedError from error

    def _read(self) -> dict[str, Any]:
        answer = self._file.readline()
        if not answer.endswith(b"\n"):
            raise ReceiveFailedError
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    def _wait_holding_the_gil(self) -> None:
        """Until something comes, as the real package waits: no other thread of this process runs meanwhile."""
        self._socket.setblocking(True)
        library = ctypes.PyDLL("ws2_32" if sys.platform == "win32" else None)  # PyDLL: the GIL is not let go
        one = ctypes.create_string_buffer(1)
        library.recv(ctypes.c_size_t(self._socket.fileno()), one, 1, int(socket.MSG_PEEK))

    def _check_alive(self) -> None:
        """A send into a dead connection often succeeds; nothing to read and not ended means alive."""
        timeout = self._socket.gettimeout()
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        finally:
            self._socket.settimeout(timeout)
        raise ConnectionError("the terminal has closed the connection")

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class LocalLink:
    """To a terminal in this process."""

    def __init__(self, terminal: Terminal) -> None:
        module = importlib.import_module("sim_api")
        self._terminal = terminal
        self._session = module.Session()
        self._failed: type[Exception] = module.CallFailedError
        self._wrong: type[Exception] = module.SetupError

    def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        if not self._terminal.running:
            raise SendFailedError
        try:
            return {"result": self._terminal.call(self._session, name, args)}
        except self._failed as failed:
            return {"error": list(failed.args), "drop": getattr(failed, "drop", False)}
        except self._wrong as wrong:
            return {"wrong": str(wrong)}

    def close(self) -> None:
        """Nothing is held open."""


def connect(path: str | None, timeout: float) -> SocketLink:
    if not path:
        raise NoAnswerError(
            t.RES_E_INTERNAL_FAIL_INIT,
            f"IPC initialize failed, no terminal given: initialize('127.0.0.1:18801') or {ENVIRONMENT}=127.0.0.1:18801",
        )
    host, _, port = path.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise NoAnswerError(t.RES_E_INTERNAL_FAIL_INIT, f"IPC initialize failed, Process create failed '{path}'")
    try:
        return SocketLink(host, int(port), timeout if timeout > 0 else 60.0)
    except OSError:
        raise NoAnswerError(
            t.RES_E_INTERNAL_FAIL_INIT,
            f"IPC initialize failed, no terminal listens on {path} (start sim_terminal.py --port {port})",
        ) from None
