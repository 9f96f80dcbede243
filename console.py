"""What the programs share: their log, the rights on their files, and the MetaTrader5 module."""

from __future__ import annotations

import importlib
import io
import logging
import logging.handlers
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

LOG_BYTES: Final = 10_000_000
LOG_FILES: Final = 5
TRY_AGAIN_S: Final = 60.0  # to begin a log anew, when that has failed
CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Spoken:
    """Says a thing once, and again only when it has changed: the first failure and the recovery, not each try."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, str] = {}

    def say(self, topic: str, words: str, level: int = logging.WARNING) -> None:
        if self._said.get(topic) != words:
            self._said[topic] = words
            self._log.log(level, "%s", words)

    def clear(self, topic: str, words: str, *values: object) -> None:
        """The matter is settled: say so if anything was said about it. Empty `words` only forget it."""
        if self._said.pop(topic, None) is not None and words:
            self._log.info(words, *values)


class LogFile(logging.handlers.RotatingFileHandler):
    """A log that is begun anew at 10 MB; the last 5 are kept.

    Windows renames no file that another program has open (a viewer, a backup). The log then goes on in the same file,
    and a minute later this is tried again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace")
        self.not_before = 0.0  # monotonic

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        return time.monotonic() >= self.not_before and bool(super().shouldRollover(record))

    def doRollover(self) -> None:
        """The stock one renames in a row what is there, from the end: each attempt that fails would lose it a file."""
        files = [self.baseFilename, *(f"{self.baseFilename}.{number}" for number in range(1, self.backupCount + 1))]
        free = next((number for number, file in enumerate(files) if not os.path.exists(file)), self.backupCount)
        if self.stream is not None:
            self.stream.close()
            self.stream = None  # opened again for the record that is being written
        try:
            for number in range(free, 0, -1):
                os.replace(files[number - 1], files[number])
        except OSError:
            self.not_before = time.monotonic() + TRY_AGAIN_S


class OneLine(logging.Formatter):
    """One line a record: control characters that came from outside cannot fake a second one."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info:
            return text  # a traceback is ours and needs its lines
        return CONTROLS.sub(lambda found: ascii(found.group())[1:-1], text)


def print_any_letters() -> None:
    """From now on no letter stops anything: what the code page of the console, or of a file, lacks is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def owners_alone(path: Path) -> None:
    """Take the rights of others away from a file of secrets, as one that was copied may have them. Raises `OSError`.

    Windows keeps others out of a user's own folders by itself.
    """
    if sys.platform != "win32" and path.exists() and path.stat().st_mode & 0o077:
        path.chmod(0o600)
        log.warning("%s could be read by others on this computer; that is over now", path)


def log_to(path: Path, shown: logging.Handler) -> None:
    """INFO and above to the console, and with the date to `path`. Raises `OSError` when that cannot be written."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    to_file = LogFile(path)
    to_file.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(message)s"))
    shown.setFormatter(OneLine("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    root.addHandler(to_file)
    root.addHandler(shown)


class NoModule(Exception):
    """The MetaTrader5 package cannot be used here; str() says why and what to do."""


def load_module(name: str) -> Any:
    """The package `MetaTrader5`, or the simulator `mt5_sim`. Raises `NoModule`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NoModule(
            f"the Python package {name} cannot be loaded ({error}). MetaTrader5 exists for Windows only "
            '(pip install MetaTrader5); to try the program without it, set "module": "mt5_sim" in the section mt5.'
        ) from error
