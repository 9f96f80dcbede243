"""What is typed at the console of sender and copier, line by line.

At a terminal the letters are read one by one, so that the line stays on the screen while the log scrolls above it.
Elsewhere, from a pipe for example, whole lines are read; that their source ends means nothing.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

ENTER, ERASE, CANCEL, CTRL_C = "\r\n", "\x08\x7f", "\x15\x1b", "\x03"
LONGEST: Final = 200  # letters of a line
REST_S: Final = 0.05
OTHER_KEYS: Final = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]")  # arrows and the like


class Keyboard:
    """A thread that hands over each line that was typed, until `close()`."""

    def __init__(
        self, *, live: bool, typed: Callable[[str], None], typing: Callable[[str], None], interrupt: Callable[[], None]
    ) -> None:
        """`typing` hears what a line is so far; `interrupt` of a Ctrl-C that came as a letter."""
        self._typed, self._typing, self._interrupt = typed, typing, interrupt
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._letters if live else self._lines, name="keyboard", daemon=True)
        self._live = live
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._live:
            self._thread.join(1.0)  # the other way of reading may wait for ever

    def _lines(self) -> None:
        begun = b""
        with contextlib.suppress(OSError):  # no standard input, or none for a program in the background
            while data := os.read(0, 1024):
                *lines, begun = (begun + data).split(b"\n")
                for line in lines:
                    self._typed(line.decode("utf-8", "replace").strip())

    def _letters(self) -> None:
        line = ""
        with contextlib.suppress(OSError):
            for letter in _keys(self._closed):
                if letter in ENTER:
                    self._typed(line.strip())
                    line = ""
                elif letter in ERASE:
                    line = line[:-1]
                elif letter in CANCEL:
                    line = ""
                elif letter == CTRL_C:
                    self._interrupt()
                elif letter.isprintable() and len(line) < LONGEST:
                    line += letter
                self._typing(line)


if sys.platform == "win32":
    import msvcrt

    def _keys(closed: threading.Event) -> Iterator[str]:
        """Each letter typed; keys that are none are left out."""
        while not closed.wait(REST_S):
            while msvcrt.kbhit():
                letter = msvcrt.getwch()
                if letter in "\x00\xe0":
                    msvcrt.getwch()  # the second half of an arrow or function key
                else:
                    yield letter

else:
    import select
    import termios

    def _keys(closed: threading.Event) -> Iterator[str]:
        """Each letter typed; keys that are none are left out."""
        before = termios.tcgetattr(0)
        now = termios.tcgetattr(0)
        now[3] &= ~(termios.ICANON | termios.ECHO)  # Ctrl-C stays a signal
        termios.tcsetattr(0, termios.TCSANOW, now)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while not closed.is_set():
                if not select.select([0], [], [], REST_S)[0]:
                    continue
                data = os.read(0, 1024)
                if not data:
                    return
                yield from OTHER_KEYS.sub("", decoder.decode(data))
        finally:
            termios.tcsetattr(0, termios.TCSANOW, before)
