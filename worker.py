"""The working part of sender and copier: the process that reads the account and trades.

It is started, watched and started again by `supervisor.py`, which owns the console. What comes in on its standard
input: first one line with the settings, then one line for each command; the end of the input means: end. What goes
out on its standard output: one line of JSON for each line of the log, for the status and for the end. What is on its
standard error is none of this program's: the last words of a crash.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

STATUS_EVERY_S: Final = 1.0
CONNECTING: Final = "connecting to MetaTrader 5 (type check to look at all that has to be right)"
END_S: Final = 4.0  # how long this process may take to end when nobody is left who would end it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """How it goes now, for a person."""

    line: str  # of the console
    title: str  # of its window


class Channel:
    """The two pipes to the supervising process. Takes the place of standard input and output, so that nothing else of
    this process, nor a program that the MetaTrader5 package starts, can touch them."""

    def __init__(self) -> None:
        self._in = os.fdopen(_taken_over(0, os.open(os.devnull, os.O_RDONLY)), "rb", buffering=0)
        self._out = _taken_over(1, os.dup(2))
        self._lock = threading.Lock()

    def settings(self) -> bytes:
        """The content of the settings file, as the supervising process read it. Raises `EOFError`."""
        line = self._line()
        if line is None:
            raise EOFError("a working part is not started by hand")
        return str(json.loads(line)["settings"]).encode("latin-1")

    def lines(self) -> Iterator[str]:
        while (line := self._line()) is not None:
            yield line.strip()

    def _line(self) -> str | None:
        line = self._in.readline()
        return line.decode() if line.endswith(b"\n") else None

    def tell(self, **message: Any) -> None:
        """Never fails: when nobody hears it, the end of the input says so."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._out, line) :]
            except OSError:
                pass


def _taken_over(number: int, instead: int) -> int:
    """The file behind this number under another, private one; `instead` is now behind the number."""
    private = os.dup(number)  # not inherited by other processes
    os.dup2(instead, number)
    os.close(instead)
    return private


class ToChannel(logging.Handler):
    """Log records for the console."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.tell(log=self.format(record), level=record.levelno)


class Worker:
    """What the working part is handed: when to end, what was typed, and where to tell how it goes."""

    def __init__(self, channel: Channel, asked: frozenset[str]) -> None:
        """`asked` are the options that count for this start only."""
        self.asked = asked
        self.stop = threading.Event()
        self._channel = channel
        self._typed: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._status = Status(CONNECTING, "connecting")
        self._shown_at = 0.0

    def listen(self) -> None:
        """From now on hear commands and the request to end, and let it be known that this process is not standing."""
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, lambda *_: self.stop.set())
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervising process
        threading.Thread(target=self._hear, name="commands", daemon=True).start()
        threading.Thread(target=self._tell_status, name="status", daemon=True).start()

    def _hear(self) -> None:
        for line in self._channel.lines():
            number, _, word = line.partition(" ")
            self._typed.put((int(number), word))
        self.stop.set()
        time.sleep(END_S)
        os._exit(1)

    def _tell_status(self) -> None:
        while not self.stop.wait(STATUS_EVERY_S):
            self._channel.tell(status=self._status.line, title=self._status.title)

    def running(self) -> None:
        """Say that all is in place: from now on this work is kept going, whatever happens."""
        self._channel.tell(running=True)

    def carry_out(self, command: Callable[[str], str]) -> None:
        """Do what has been typed since the last time. `command` does one and says what that means."""
        with contextlib.suppress(queue.Empty):
            while True:
                number, word = self._typed.get_nowait()
                log.warning("%s: %s", word, command(word))
                self._channel.tell(done=number)

    def show(self, status: Callable[[], Status]) -> None:
        """How it goes now. It is asked for once a second."""
        now = time.monotonic()
        if now - self._shown_at >= STATUS_EVERY_S:
            self._shown_at = now
            self._status = status()

    def connecting(self) -> None:
        self._status = Status(CONNECTING, "connecting")
        self._shown_at = 0.0
