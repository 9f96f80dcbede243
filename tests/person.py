"""A person at a console: a real (pseudo-)terminal, a program that runs in it, and what is to be seen. POSIX only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
import threading
from pathlib import Path

import pyte

COLUMNS, LINES = 110, 40


class Person:
    def __init__(self, command: list[str], folder: Path) -> None:
        self.screen = pyte.HistoryScreen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self.pid, self._console = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            # Not the environment of this process, in which libraries note its own terminal.
            os.execve(command[0], command, {**os.environ, "TERM": "xterm"})
        fcntl.ioctl(self._console, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._reader = threading.Thread(target=self._watch, daemon=True)
        self._reader.start()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # the program has ended
            while data := os.read(self._console, 65536):
                with self._lock:
                    self._stream.feed(data)

    def sees(self) -> list[str]:
        """The lines on the screen that are not empty."""
        with self._lock:
            return [line.rstrip() for line in self.screen.display if line.strip()]

    def reads(self, words: str) -> bool:
        return words in "".join(line.ljust(COLUMNS) for line in self.sees())

    def types(self, text: str) -> None:
        os.write(self._console, text.encode())

    def ends(self) -> int:
        """The exit code of the program, which ends by itself."""
        _, status = os.waitpid(self.pid, 0)
        self._reader.join(10)
        os.close(self._console)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.ends()
