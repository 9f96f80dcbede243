"""What sender and copier share as programs: their start and end, log file and console, the MetaTrader5 module."""

from __future__ import annotations

import importlib
import io
import logging
import logging.handlers
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from ledger import LedgerError, WrongLedger
from settings_file import ConfigError

log = logging.getLogger(__name__)

LOG_BYTES: Final = 10_000_000
LOG_FILES: Final = 5


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


class _OneLine(logging.Formatter):
    """One line a record: control characters that came from outside cannot fake a second one."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info:
            return text  # a traceback is ours and needs its lines
        return re.sub(r"[\x00-\x1f\x7f]", lambda found: ascii(found.group())[1:-1], text)


def log_to(path: Path) -> None:
    """INFO and above to the console, and with the date to `path`, which is begun anew at 10 MB (5 are kept)."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    to_file = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    to_file.setFormatter(_OneLine("%(asctime)s %(levelname)-7s %(message)s"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console of another code page must not stop anything
    to_console = logging.StreamHandler(sys.stdout)
    to_console.setFormatter(_OneLine("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    root.addHandler(to_file)
    root.addHandler(to_console)


class Settings(Protocol):
    """What both programs' settings have."""

    @property
    def folder(self) -> Path: ...


S = TypeVar("S", bound=Settings)


def start(load: Callable[[Path], S], config: Path, log_name: str, run: Callable[[S, threading.Event], int]) -> int:
    """Read the settings, open the log, and run until Ctrl-C.

    The exit code: 0 it was asked to end, 1 it had to stop, 2 the settings are wrong, 3 it cannot start.
    """
    try:
        settings = load(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        log_to(settings.folder / log_name)
    except OSError as error:
        print(f"{settings.folder / log_name} cannot be written: {error}", file=sys.stderr)
        return 3
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        return run(settings, stop)
    except (WrongLedger, LedgerError, NoModule) as error:
        log.error("%s", error)
        return 3
    finally:
        log.info("ended")
        logging.shutdown()


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
