"""Keeps a working part running: the process that a person starts and that owns the console.

Sender and copier do their work in a second process (`worker.py`), because a call into the MetaTrader5 package can hang
for ever and stops every thread of its process while it does. This one never touches the terminal. It shows what the
working part says, hands on what is typed, and starts it again when it has ended without having said that it would:
whatever the cause, the new one settles everything from the ledger and the account, as after any crash.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from screen import Screen
from watchdog import MARKS
from windows import Job

STOPPED: Final = 1  # exit codes of a working part, beside 0: it had to stop,
CANNOT_START: Final = 3  # it cannot start
END_S: Final = 2.5  # how long a working part may take to end; Windows gives a closed window five seconds in all
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
WELL_S: Final = 300.0  # after so long the next pause is the first one again
STALE_S: Final = 5.0  # without news from the working part the status says so
LOOK_S: Final = 0.2
SAID_LAST: Final = 300  # lines of a crash that are kept
CONFIRM_S: Final = 60.0
YES: Final = ("yes", "sim")
HANGS: Final = re.compile(r'watchdog\.py", line \d+ in (?!run\b|_)(\w+)|^Hung: (\w+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Command:
    """Something that can be typed at the console."""

    words: str  # what it does
    ask: str = ""  # the question that has to be answered with "yes" first


@dataclass(frozen=True, slots=True)
class Typed:
    line: str


@dataclass(frozen=True, slots=True)
class Told:
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spilled:
    """A line of the working part's standard error."""

    line: str


@dataclass(frozen=True, slots=True)
class Gone:
    code: int


Event = Typed | Told | Spilled | Gone


class Supervisor:
    """`run()` until the work has ended or `stop` is set. `type` takes in what was typed, from any thread."""

    def __init__(
        self,
        command: Sequence[str],
        once: Sequence[str],
        settings: bytes,
        commands: Mapping[str, Command],
        screen: Screen,
        record: Callable[[str], None],
        stop: threading.Event,
        check: Callable[[], object],
    ) -> None:
        """`command` starts the working part, with `once` the first one. `record` puts lines into the log file, which no
        working part has open at that moment. `check` looks at everything and says what it finds."""
        self._command = [*command]
        self._once = [*once]
        self._settings = settings
        self._commands = {
            **commands,
            "check": Command("look at all that has to be right"),
            "help": Command("this list"),
            "quit": Command("end, as Ctrl-C does"),
        }
        self._check = check
        self._screen = screen
        self._record = record
        self._stop = stop
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._job: Job | None = None  # the process and its children
        self._announced: int | None = None  # the end that the working part has announced
        self._well = False  # a working part has had everything in place: from now on the work is kept going
        self._last_words: collections.deque[str] = collections.deque(maxlen=SAID_LAST)
        self._undone: dict[int, str] = {}  # commands that no working part has carried out yet, numbered
        self._asked = 0  # commands so far
        self._question: tuple[str, float] | None = None  # the command to be confirmed, and until when
        self._status, self._title, self._heard_at = "starting", "", time.monotonic()

    def type(self, line: str) -> None:
        self._events.put(Typed(line))

    def run(self) -> int:
        """The exit code of the work."""
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            code = self._one_worker()
            ended = code is not None and (code in (0, STOPPED) or not self._well)
            if ended or self._stop.is_set():
                return code or 0
            if time.monotonic() - began > WELL_S:
                pause = FIRST_PAUSE_S
            self._tell_why(pause)
            self._look_until(time.monotonic() + pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
            if self._stop.is_set():
                return 0

    def _one_worker(self) -> int | None:
        """Start a working part and attend it until it is gone; the exit code that it announced, None for a crash."""
        self._announced = None
        self._last_words.clear()
        command, self._once = [*self._command, *self._once], []
        try:
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Windows: not on this console, so that Ctrl-C and the closing of the window reach this process alone.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._screen.say(f"{command[0]} cannot be started: {error}", logging.ERROR)
            return None if self._well else CANNOT_START
        self._job = job = Job(process)
        threading.Thread(target=self._read, args=(process,), name="worker", daemon=True).start()
        self._send(settings_line(self._settings))
        for number, word in self._undone.items():
            self._send(f"{number} {word}\n".encode())
        self._look_until(None)
        self._close_input(process)
        job.close()
        self._process = None
        return self._announced

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Everything that a working part says, until it is gone."""
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        spills = threading.Thread(target=self._read_spills, args=(process.stderr,), name="spills", daemon=True)
        spills.start()
        with process.stdout:
            for line in process.stdout:
                try:
                    self._events.put(Told(json.loads(line)))
                except ValueError:
                    self._events.put(Spilled(line.decode("utf-8", "replace").rstrip()))
        code = process.wait()
        spills.join()
        self._events.put(Gone(code))

    def _read_spills(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._events.put(Spilled(line.decode("utf-8", "replace").rstrip()))

    def _send(self, line: bytes) -> None:
        """A line for the working part. One that is gone or hangs does not get it."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.closed:
            with contextlib.suppress(OSError):
                process.stdin.write(line)
                process.stdin.flush()

    # -- attending

    def _look_until(self, deadline: float | None) -> None:
        """Until the working part is gone, or (while there is none) until the deadline or the request to end."""
        ask_by: float | None = None  # when it is ended by force
        while True:
            try:
                event = self._events.get(timeout=LOOK_S)
            except queue.Empty:
                event = None
            now = time.monotonic()
            if isinstance(event, Gone):
                return
            if event is not None:
                self._take(event)
            if deadline is not None and (now >= deadline or self._stop.is_set()):
                return
            if deadline is None and self._stop.is_set():
                if ask_by is None:
                    ask_by = now + END_S
                    self._ask_to_end()
                elif now > ask_by and self._job is not None:
                    self._job.kill()
            self._show(now)

    def _ask_to_end(self) -> None:
        self._screen.say("ending ...")
        if self._process is not None:
            self._close_input(self._process)

    @staticmethod
    def _close_input(process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # what could not be written any more
                process.stdin.close()

    def _take(self, event: Event) -> None:
        match event:
            case Typed(line):
                self._typed(line)
            case Spilled(line):
                self._last_words.append(line)
            case Told(message):
                self._told(message)

    def _told(self, message: Mapping[str, Any]) -> None:
        self._heard_at = time.monotonic()
        if "log" in message:
            self._screen.say(message["log"], message["level"])
        if "status" in message:
            self._status, self._title = message["status"], message["title"]
        if "running" in message:
            self._well = True
        if "done" in message:
            self._undone.pop(message["done"], None)
        if "end" in message:
            self._announced = message["end"]

    def _show(self, now: float) -> None:
        silent = now - self._heard_at
        stale = f"NO NEWS FOR {silent:.0f} s | " if silent > STALE_S and self._process is not None else ""
        self._screen.show(stale + self._status, self._title)

    def _tell_why(self, pause: float) -> None:
        """Why the working part ended, for the person at the console; and all of its last words for the log file."""
        words = "\n".join(self._last_words)
        if any(line.startswith(MARKS) for line in self._last_words):
            found = HANGS.search(words)
            call = f" ({found[1] or found[2]})" if found else ""
            why = (
                f"MetaTrader 5 hangs: it did not answer{call} in time. If this comes again, end it in the Task Manager "
                "and start it anew"
            )
        elif self._announced is not None:
            why = "the working part could not start"
        else:
            why = "the working part has crashed"
        text = f"{why}. It is started again in {pause:.0f} s; what was open is settled then."
        self._screen.say(text, logging.ERROR)
        self._status, self._title = f"{why}: starting again", "starting again"
        self._record("\n".join([text, *self._last_words]))

    # -- what is typed

    def _typed(self, line: str) -> None:
        word = line.lower()
        question, self._question = self._question, None
        if question is not None and time.monotonic() < question[1]:
            if word in YES:
                self._do(question[0])
            else:
                self._screen.say(f"{question[0]}: not done")
            return
        if not word:
            return
        if word == "quit":
            self._stop.set()
        elif word == "check":
            threading.Thread(target=self._check, name="check", daemon=True).start()
        elif word not in self._commands or word == "help":
            width = max(map(len, self._commands))
            lines = [f"  {name.ljust(width)}  {command.words}" for name, command in self._commands.items()]
            self._screen.say(
                "\n".join(["Known are:" if word == "help" else f"{line!r} is not known. Known are:", *lines])
            )
        elif self._commands[word].ask:
            self._question = (word, time.monotonic() + CONFIRM_S)
            self._screen.say(f"{self._commands[word].ask} Type yes, and Enter.", logging.WARNING)
        else:
            self._do(word)

    def _do(self, word: str) -> None:
        """Hand a command on; one that is lost with its working part is handed to the next."""
        self._asked += 1
        self._undone[self._asked] = word
        self._send(f"{self._asked} {word}\n".encode())


def settings_line(content: bytes) -> bytes:
    """The first line that a working part is told: the content of the settings file."""
    return json.dumps({"settings": content.decode("latin-1")}).encode() + b"\n"


def own_command(script: str) -> list[str]:
    """What starts this program anew: the executable itself when it is one, else Python with `script`."""
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, os.path.abspath(script)]
