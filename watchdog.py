"""Ends this process when the terminal does not answer a call; the supervising process then starts it again.

A call into the MetaTrader5 package has no time limit and holds the GIL for as long as it lasts (measured): while one
hangs, no thread of this process runs, not even one that would notice. So the clock that ends it is faulthandler's, a
thread in C that needs no GIL; the thread below winds it up again every moment, which it can do only while the GIL is
free. A crash at any point is harmless by design: the next process settles everything from the ledger and the account.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from typing import Any, Final

STARTING_S: Final = 120.0  # on top of `timeout_ms`: the package starts the terminal and waits for it (docs, initialize)
STARTS: Final = frozenset(("initialize", "login"))
# The first words of what is written before the end; the supervising process tells a hang from a crash by them. The
# first are faulthandler's own.
MARKS: Final = ("Timeout (", "Hung: ")


class Watchdog(threading.Thread):
    """From `start()` until `close()`. `watched()` is what the package is reached through."""

    def __init__(self, limit_s: float, timeout_ms: int) -> None:
        """`limit_s` is how long a call may take; one that starts the terminal or logs in has `timeout_ms` besides."""
        super().__init__(name="watchdog", daemon=True)
        self._limit_s = limit_s
        self._starting_s = max(limit_s, timeout_ms / 1000 + STARTING_S)
        self._rest_s = min(1.0, limit_s / 4)
        self._call: tuple[str, float, float] | None = None  # name, limit, when it has passed (monotonic)
        self._lock = threading.Lock()  # what is wound up and the call that it is for
        self._closed = threading.Event()

    def watched(self, mt5: Any) -> Any:
        return _Watched(mt5, self)

    def start(self) -> None:
        self._wind_up(self._limit_s)  # here, because the first call may hang before the thread runs
        super().start()

    def run(self) -> None:
        while not self._closed.wait(self._rest_s):
            with self._lock:
                call = self._call
                self._wind_up(call[1] if call else self._limit_s)
            if call is not None and time.monotonic() > call[2]:
                _end_process(call[0], call[1])  # it hangs without the GIL, as the simulator's calls do

    def close(self) -> None:
        self._closed.set()
        if self.is_alive():
            self.join()
        faulthandler.cancel_dump_traceback_later()

    def begins(self, name: str) -> None:
        limit = self._starting_s if name in STARTS else self._limit_s
        call = (name, limit, time.monotonic() + limit)
        if name not in STARTS:
            self._call = call
            return
        with self._lock:
            self._call = call
            self._wind_up(limit)

    def ends(self) -> None:
        call, self._call = self._call, None
        if call is not None and call[0] in STARTS:
            with self._lock:
                self._wind_up(self._limit_s)

    def _wind_up(self, limit_s: float) -> None:
        if not self._closed.is_set():
            faulthandler.dump_traceback_later(limit_s + self._rest_s, exit=True, file=sys.__stderr__ or sys.stderr)


class _Watched:
    """The package, with every call under watch."""

    def __init__(self, mt5: Any, watchdog: Watchdog) -> None:
        self._mt5 = mt5
        self._watchdog = watchdog

    def __getattr__(self, name: str) -> Any:
        """Asked once for each name: what it makes is kept."""
        value = getattr(self._mt5, name)
        if callable(value):
            value = _watched(value, name, self._watchdog)
        setattr(self, name, value)
        return value


def _watched(function: Any, name: str, watchdog: Watchdog) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        watchdog.begins(name)
        try:
            return function(*args, **kwargs)
        finally:
            watchdog.ends()

    call.__code__ = call.__code__.replace(co_name=name)  # so that the stack in the log says which call hangs
    return call


def _end_process(name: str, limit_s: float) -> None:
    print(f"Hung: {name} was not answered for {limit_s:.0f} s", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)
