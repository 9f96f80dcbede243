"""The console of sender and copier: a log that scrolls, below it one line that stays, and one that is being typed.

Nothing waits for the console. A thread of its own writes to it, because a console can stand still for hours: a click
into the window of Windows' console marks text, and until that is let go whoever writes to it is blocked.
Where the output is no terminal, the log is all there is.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import re
import threading
from typing import Final, TextIO

MOST_WAITING: Final = 2000  # lines; when the console has stood still for longer, the oldest are left out
PROMPT: Final = "> "
BETWEEN: Final = " | "  # the parts of the line that stays
RESET, YELLOW, RED, INVERSE = "\x1b[0m", "\x1b[33m", "\x1b[31m", "\x1b[7m"
UNPRINTABLE: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Screen:
    """`say` and the others only note what to show, and never wait."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        """`live`: `out` is a terminal that understands escape sequences."""
        self._out = out
        self._live = live
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = False
        self._waiting: collections.deque[tuple[str, int]] = collections.deque()
        self._left_out = 0
        self._status, self._title, self._typing = "", "", ""
        self._shown_title = ""
        self._drawn = False  # the two lines at the bottom are there
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Lines of the log."""
        with self._lock:
            for line in text.splitlines() or [""]:
                self._waiting.append((UNPRINTABLE.sub(" ", line), level))
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self._left_out += 1
        self._changed.set()

    def show(self, status: str, title: str) -> None:
        """The line that stays, and the window's title."""
        with self._lock:
            same = (status, title) == (self._status, self._title)
            self._status, self._title = UNPRINTABLE.sub(" ", status), UNPRINTABLE.sub(" ", title)
        if self._live and not same:
            self._changed.set()

    def typing(self, text: str) -> None:
        """What has been typed so far."""
        with self._lock:
            self._typing = UNPRINTABLE.sub(" ", text)
        if self._live:
            self._changed.set()

    def close(self, seconds: float) -> None:
        """Show what is left, for so long at most, and leave the console as it was found."""
        self._closing = True
        self._changed.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        closed = False
        while not closed:
            self._changed.wait()
            self._changed.clear()
            closed = self._closing
            with contextlib.suppress(OSError, ValueError):  # the console is gone; the work goes on
                self._out.write(self._next())
                if closed and self._drawn:
                    self._out.write(self._erased())
                self._out.flush()

    def _next(self) -> str:
        """All that is new, and the two lines at the bottom anew."""
        with self._lock:
            lines, left_out = [*self._waiting], self._left_out
            self._waiting.clear()
            self._left_out = 0
            status, title, typing = self._status, self._title, self._typing
        if left_out:
            lines.insert(0, (f"... {left_out} lines are not shown here; they are in the log file", logging.INFO))
        if not self._live:
            return "".join(f"{line}\n" for line, _ in lines)
        parts = [self._erased()]
        parts += [f"{_coloured(line, level)}\n" for line, level in lines]
        if title != self._shown_title:
            self._shown_title = title
            parts.append(f"\x1b]0;{title}\x07")
        if status:
            width = max(20, self._columns() - 1)  # a full line would begin another one
            shown = typing[-(width - len(PROMPT)) :]
            parts.append(f"{INVERSE}{_fitting(status, width).ljust(width)}{RESET}\n{PROMPT}{shown}")
            self._drawn = True
        return "".join(parts)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._out.fileno()).columns
        except (OSError, ValueError):
            return 80

    def _erased(self) -> str:
        """Go back to where the log ended. What was there is wiped out."""
        drawn, self._drawn = self._drawn, False
        return "\r\x1b[1A\x1b[J" if drawn else ""


def _fitting(status: str, width: int) -> str:
    """As many parts of it as fit: half a number would be another number."""
    if len(status) <= width:
        return status
    return status[: width + len(BETWEEN)].rpartition(BETWEEN)[0] or status[:width]


def _coloured(line: str, level: int) -> str:
    if level >= logging.ERROR:
        return f"{RED}{line}{RESET}"
    return f"{YELLOW}{line}{RESET}" if level >= logging.WARNING else line
