"""The processes of the demo: each writes to a log file of its own, and none outlives the demo.

    python demo_processes.py PROGRAM [arguments]

runs a program of this folder on a leash: when its standard input ends, which happens at the latest when the demo's
process is gone in whatever way, it is interrupted as by Ctrl-C. That works on Windows too, where one process cannot
interrupt another one without disturbing the console of both.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
END_S: Final = 8.0  # how long a program may take to end after it was interrupted
LINES_SHOWN: Final = 12  # of the log of a program that failed


class ChildFailed(Exception):
    """A program ended by itself, or did not say what was waited for; str() has the end of its log."""


class Child:
    """One program on its leash. The names of its files begin with `name`."""

    def __init__(self, name: str, command: Iterable[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.out"
        # A group of its own: Ctrl-C on the console reaches the demo only, which then ends all in the right order.
        with open(self.log, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "demo_processes.py"), *command],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows only
                start_new_session=sys.platform != "win32",
            )

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The first place in what the program printed that matches. Raises `ChildFailed`."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.said())
            if found:
                return found
            self.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} did not start within {seconds:.0f} s.{self._last_lines()}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `ChildFailed` when the program has ended."""
        code = self._process.poll()
        if code is not None:
            raise ChildFailed(f"{self.name} ended by itself (exit code {code}).{self._last_lines()}")

    def _last_lines(self) -> str:
        lines = self.said().splitlines()[-LINES_SHOWN:]
        return "".join(f"\n    {line}" for line in (f" The end of {self.log}:", *lines)) if lines else ""

    def let_go(self) -> None:
        """Ask the program to end, without waiting."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self) -> None:
        """Ask the program to end, wait, and end it by force if it does not."""
        self.let_go()
        try:
            self._process.wait(END_S + 2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Children:
    """All programs of the demo, in the order in which they were started. Leaving the context ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Settings and passwords that a person keeps in the environment are not for the demo.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("AIBOT_")}
        self._environment |= {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        self._started: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            for child in reversed(self._started):  # copier and sender before the server, this before the terminals
                child.end()

    def start(self, name: str, *command: str, **environment: str) -> Child:
        child = Child(name, command, self._folder, {**self._environment, **environment})
        self._started.append(child)
        return child

    def check(self) -> None:
        """Raises `ChildFailed` when one has ended."""
        for child in self._started:
            child.check()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not interrupt the cleaning up that the first one caused."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- in the child ----------------------------------------------------------------------------------------------------


def watch_leash() -> None:
    """Interrupt this process when its standard input ends; end it by force when it takes too long."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGINT)  # unlike interrupt_main this also wakes a main thread that waits
    time.sleep(END_S)
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Run a program of this folder as if it had been started itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # may be inherited as ignored
    threading.Thread(target=watch_leash, name="leash", daemon=True).start()
    sys.argv = [str(HERE / arguments[0]), *arguments[1:]]
    with contextlib.suppress(KeyboardInterrupt):  # before the program has made its own arrangements
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
