"""The programs sender and copier as a person starts them: command line, settings, beginning and end.

Exit codes: 0 it was asked to end, 1 it had to stop, 2 the settings or the options are wrong, 3 it cannot start.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from console import NoModule, log_to
from keyboard import Keyboard
from ledger import LedgerError, WrongLedger
from screen import Screen
from settings_file import ConfigError
from supervisor import CANNOT_START, Command, Supervisor, own_command
from version import VERSION
from windows import on_end, own_console, takes_escape_sequences
from worker import Channel, ToChannel, Worker

WRONG_SETTINGS: Final = 2
LAST_WORDS_S: Final = 0.5  # how long the console may take to show the end

log = logging.getLogger(__name__)


class Settings(Protocol):
    """What the settings of both programs have."""

    @property
    def folder(self) -> Path: ...


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Program(Generic[S]):
    """What makes a sender or a copier of it."""

    name: str
    script: str  # its file
    about: str
    config: str  # name of the settings file
    log: str  # name of the log file
    load: Callable[[Path, bytes | None], S]  # from the file, or from its content; raises `ConfigError`
    run: Callable[[S, Worker], int]  # the work; raises `WrongLedger`, `LedgerError`, `NoModule`
    unsettled: Callable[[S], list[str]]  # what is not known when the work has ended, one line each
    commands: Mapping[str, Command]  # what can be typed while it runs
    once: Mapping[str, str] = field(default_factory=dict)  # options for one start only → what they do


def main(program: Program[S], arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog=program.name, description=program.about)
    parser.add_argument("--config", type=Path, default=Path(program.config), help="default: %(default)s")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    for option, words in program.once.items():
        parser.add_argument(option, action="store_true", help=words)
    options = parser.parse_args(arguments)
    once = [option for option in program.once if getattr(options, option.strip("-").replace("-", "_"))]
    if options.worker:
        return work(program, options.config, frozenset(once))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console of another code page must not stop anything
    code = start(program, options.config, once)
    if code and own_console():
        with contextlib.suppress(OSError, EOFError, KeyboardInterrupt):
            input("\nPress Enter to close this window.")
    return code


def start(program: Program[S], config: Path, once: list[str]) -> int:
    """Read the settings, and keep the work going until it ends or somebody wants it to."""
    try:
        content, settings = settings_in(program, config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    command = [*own_command(program.script), "--worker", "--config", str(config.resolve())]
    stop, ended = threading.Event(), threading.Event()
    on_end(stop, ended)
    live = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and takes_escape_sequences()
    screen = Screen(sys.stdout, live=live)
    record = functools.partial(add_to_log, settings.folder / program.log)
    supervisor = Supervisor(command, once, content, program.commands, screen, record, stop)
    keyboard = Keyboard(live=live, typed=supervisor.type, typing=screen.typing, interrupt=stop.set)
    try:
        return supervisor.run()
    finally:
        keyboard.close()
        for line in program.unsettled(settings):
            screen.say(line, logging.WARNING)
            record(line)
        screen.say("ended")
        screen.close(LAST_WORDS_S)
        ended.set()


def settings_in(program: Program[S], config: Path) -> tuple[bytes, S]:
    """The content of the file and what it says. Raises `ConfigError`."""
    try:
        content = config.read_bytes()
    except OSError:
        content = None  # the loader says what is wrong
    return content or b"", program.load(config, content)


def add_to_log(path: Path, text: str) -> None:
    """Lines for the log file while no working part has it open."""
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(f"{now} ERROR   {text}\n")


def work(program: Program[S], config: Path, asked: frozenset[str]) -> int:
    """The working part: the exit code, which is announced before. An end without announcement is a crash."""
    channel = Channel()
    code = _work(program, config, asked, channel)
    logging.shutdown()
    if code is None:
        return 1
    channel.tell(end=code)
    return code


def _work(program: Program[S], config: Path, asked: frozenset[str], channel: Channel) -> int | None:
    """The exit code; None after a defect, which is a crash."""
    content = channel.settings()
    try:
        settings = program.load(config, content)
    except ConfigError as error:
        channel.tell(log=str(error), level=logging.ERROR)
        return WRONG_SETTINGS
    log_file = settings.folder / program.log
    try:
        log_to(log_file, ToChannel(channel))
    except OSError as error:
        channel.tell(log=f"{log_file} cannot be written: {error}", level=logging.ERROR)
        return CANNOT_START
    worker = Worker(channel, asked)
    worker.listen()
    log.info("%s %s, process %d", program.name, VERSION, os.getpid())
    try:
        return program.run(settings, worker)
    except (WrongLedger, LedgerError, NoModule) as error:
        log.error("%s", error)
        return CANNOT_START
    except Exception:
        log.exception("a defect of this program")
        return None
