"""The programs sender and copier as a person starts them: command line, settings, beginning and end.

Exit codes: 0 it was asked to end, 1 it had to stop, 2 the settings or the options are wrong, 3 it cannot start.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import startup
from check import Finding
from config import Module, Mt5Settings
from console import NoModule, log_to, owners_alone, print_any_letters
from keyboard import Keyboard
from ledger import LedgerError, WrongLedger
from screen import Screen
from settings_file import ConfigError, Mistake, Table, read
from supervisor import CANNOT_START, STOPPED, Command, Supervisor, own_command, settings_line
from version import VERSION
from windows import is_frozen, on_end, open_in_editor, own_console, takes_escape_sequences, wait_for_enter
from worker import Channel, ToChannel, Worker

WRONG_SETTINGS: Final = 2
# What stands in the two example files and is nobody's own; a user may well be called as there.
EXAMPLE: Final[Mapping[str, tuple[object, ...]]] = {
    "api.password": ("secret_password", "client_password"),
    "mt5.login": (12345678, 87654321),
    "mt5.password": ("mt5_password",),
    "mt5.server": ("Broker-Server",),
}
READABLE: Final = Mistake(
    "others on this computer can read the passwords in it, and that cannot be changed",
    "The file must belong to the user who starts this program",
)
LAST_WORDS_S: Final = 0.5  # how long the console may take to show the end

log = logging.getLogger(__name__)


class Settings(Protocol):
    """What the settings of both programs have."""

    @property
    def folder(self) -> Path: ...

    @property
    def mt5(self) -> Mt5Settings: ...


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
    check: Callable[[S], Iterator[Finding]]  # what has to be right
    fill_in: tuple[str, ...]  # what a person has to write into the example, one line each
    commands: Mapping[str, Command]  # what can be typed while it runs
    once: Mapping[str, str] = field(default_factory=dict)  # options for one start only → what they do


def main(program: Program[S], arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog=program.name, description=program.about)
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"default: {program.config}")
    parser.add_argument("--check", action="store_true", help="look at all that has to be right, and end")
    parser.add_argument("--install-startup", action="store_true", help="start with Windows from now on, and end")
    parser.add_argument("--remove-startup", action="store_true", help="start with Windows no more, and end")
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    for option, words in program.once.items():
        parser.add_argument(option, action="store_true", help=words)
    options = parser.parse_args(arguments)
    config = (options.config or default_place() / program.config).absolute()
    once = [option for option in program.once if getattr(options, option.strip("-").replace("-", "_"))]
    if options.worker:
        return work(program, config, frozenset(once), look_only=options.check)
    print_any_letters()
    person = own_console()
    try:
        if options.install_startup or options.remove_startup:
            code = change_startup(program, config, install=options.install_startup)
        else:
            code = start(program, config, once, person=person, given=options.config is not None, check=options.check)
    except KeyboardInterrupt:  # before the work began
        return 0
    except Exception:  # a defect, whose words must not vanish with the window
        if not person:
            raise
        traceback.print_exc()
        code = STOPPED
    if person and (code or options.check or options.install_startup or options.remove_startup):
        wait_for_enter("close this window")
    return code


def default_place() -> Path:
    """Where the settings are when nothing else is said: beside the executable, or in the working folder."""
    return Path(sys.executable).parent if is_frozen() else Path()


def start(
    program: Program[S], config: Path, once: list[str], *, person: bool, given: bool = True, check: bool = False
) -> int:
    """Read the settings, and keep the work going until it ends or somebody wants it to.

    `person`: somebody sits at this window, and it closes with the program. `given`: the settings file was named.
    """
    if is_frozen() and Path(tempfile.gettempdir()).resolve() in Path(sys.executable).resolve().parents:
        print("It was started from inside the zip file. Extract that into a folder of yours first.", file=sys.stderr)
        return CANNOT_START
    try:
        content, settings = settings_of(program, config, person=person, given=given)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    except OSError as error:
        print(
            f"{config.parent} cannot be written: {error.strerror or error}. Move the program to a folder of yours, "
            "in Documents for example.",
            file=sys.stderr,
        )
        return CANNOT_START
    command = [*own_command(program.script), "--worker", "--config", str(config)]
    if check:
        return look_at_all(command, content, print)
    code = supervise(program, command, once, content, settings)
    if person and code == CANNOT_START:
        wait_for_enter("look for the cause")
        look_at_all(command, content, print)
    return code


def supervise(program: Program[S], command: list[str], once: list[str], content: bytes, settings: S) -> int:
    """The exit code of the work."""
    stop, ended = threading.Event(), threading.Event()
    on_end(stop, ended)
    live = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and takes_escape_sequences()
    screen = Screen(sys.stdout, live=live)
    record = functools.partial(add_to_log, settings.folder / program.log)
    look = functools.partial(look_at_all, command, content, screen.say)
    supervisor = Supervisor(command, once, content, program.commands, screen, record, stop, look)
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


# --- the settings ----------------------------------------------------------------------------------------------------


def settings_of(program: Program[S], config: Path, *, person: bool, given: bool) -> tuple[bytes, S]:
    """The content of the settings file and what it says; a person at the window may put it right until it can be used.

    At the first start the example is written. Raises `ConfigError`, and `OSError` when it cannot be written.
    """
    if not given and not config.exists():
        config.write_bytes(example_for(config, Path(program.script).with_name(program.config)))
        print(f"This is the first start: an example of the settings was written,\n  {config}\nFill in there:")
        print("\n".join(f"  {line}" for line in program.fill_in))
        print("Save it" + (" in the window that has opened." if person else ", and start this program again."))
        open_in_editor(config)
        if person:
            wait_for_enter("start, when that is done")
    while True:
        try:
            return settings_in(program, config)
        except ConfigError as error:
            if not person:
                raise
            print(f"\n{error}")
            if not wait_for_enter("try again, when the file is right and saved"):
                raise


def example_for(config: Path, example: Path) -> bytes:
    """The example, which lies beside the program. Somebody may have filled it in there: then it is nobody's example any
    more, and his passwords are not copied. Raises `ConfigError`."""
    try:
        content = example.read_bytes()
    except OSError as error:
        problem = f"the settings file is missing, and so is its example, {example}: {error.strerror or error}"
        hint = "Put the file back, or take the example from the zip file or repository that this program came from"
        raise ConfigError(config, [Mistake(problem, hint)]) from error
    if len(examples_values(example, content)) < len(EXAMPLE):
        problem = f"the settings file is missing here, and {example} is no example any more: it is filled in"
        hint = f'Start the program in that folder; or with --config and the name of a file, "{example}" for example'
        raise ConfigError(config, [Mistake(problem, hint)])
    return content


def settings_in(program: Program[S], config: Path) -> tuple[bytes, S]:
    """The content of the file and what it says. Raises `ConfigError`."""
    try:
        content = config.read_bytes()
    except OSError:
        content = None  # the loader says what is wrong
    settings = program.load(config, content)
    left = [one for one in examples_values(config, content) if attrgetter(one.key)(settings) in EXAMPLE[one.key]]
    if left and settings.mt5.module is Module.METATRADER5:  # a simulated account may have any password
        raise ConfigError(config, left)
    try:
        owners_alone(config)
    except OSError as error:
        raise ConfigError(config, [replace(READABLE, problem=f"{READABLE.problem}: {error.strerror}")]) from error
    return content or b"", settings


def examples_values(path: Path, content: bytes | None) -> list[Mistake]:
    """The values of a settings file that are the example's, in the order of the file. One whose password comes from the
    environment may have the example's too. Raises `ConfigError` when it cannot be understood."""
    table, _ = read(path, content)
    found = []
    for name, values in EXAMPLE.items():
        section, _, key = name.partition(".")
        inner = table.entries.get(section)
        node = inner.value.entries.get(key) if inner is not None and isinstance(inner.value, Table) else None
        if node is not None and node.value in values:
            found.append(Mistake("it is still the example's", "Write your own", name, node.line))
    return sorted(found, key=lambda one: one.line or 0)


def change_startup(program: Program[S], config: Path, *, install: bool) -> int:
    try:
        if install:
            settings_in(program, config)  # nobody is there to put it right when Windows starts it
            print(startup.install(program.name, own_command(program.script), config))
        else:
            print(startup.remove(program.name, config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    except (startup.NotHere, OSError) as error:
        print(error, file=sys.stderr)
        return CANNOT_START
    return 0


def add_to_log(path: Path, text: str) -> None:
    """Lines for the log file while no working part has it open."""
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(f"{now} ERROR   {text}\n")


# --- the check -------------------------------------------------------------------------------------------------------


def look_at_all(command: list[str], content: bytes, say: Callable[[str], None]) -> int:
    """The table of `check.py`, looked at by a process of its own, because the terminal may hang. 0 when all is good."""
    good, bad, unknown = marks()
    say("")
    say(f"  {good} settings: no mistake found in the file")
    with subprocess.Popen(
        [*command, "--check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    ) as process:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(OSError):
            process.stdin.write(settings_line(content))
            process.stdin.flush()
        wrong, noted, announced = 0, 0, False
        for line in process.stdout:
            message = json.loads(line)
            announced = announced or "end" in message
            if "finding" in message:
                name, fine, words, todo = message["finding"]
                wrong += fine is False
                noted += fine is None and bool(todo)
                mark = good if fine else bad if fine is False else "!" if todo else unknown
                say(f"  {mark} {name}: {words or ('not looked at' if fine is None else 'yes')}")
                if todo and not fine:
                    say(f"      -> {todo}")
    if not announced:
        wrong += 1
        say(f"  {bad} MetaTrader 5 does not answer")
        say("      -> end it in the Task Manager, start it again and log in")
    say(f"  {wrong} to put right" if wrong else "  all is good, but see what is marked !" if noted else "  all is good")
    return 1 if wrong else 0


def marks() -> tuple[str, str, str]:
    """For good, bad and not known, such as the console's font and encoding have."""
    good, bad = ("\u221a", "\u00d7") if sys.platform == "win32" else ("\u2713", "\u2717")
    try:
        (good + bad).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "+", "X", "-"
    return good, bad, "-"


# --- the working part ------------------------------------------------------------------------------------------------


def work(program: Program[S], config: Path, asked: frozenset[str], *, look_only: bool) -> int:
    """The working part: the exit code, which is announced before. An end without announcement is a crash."""
    channel = Channel()
    content = channel.settings()
    try:
        settings = program.load(config, content)
    except ConfigError as error:
        channel.tell(log=str(error), level=logging.ERROR)
        code: int | None = WRONG_SETTINGS
    else:
        code = _look(program, settings, channel) if look_only else _work(program, settings, asked, channel)
    logging.shutdown()
    if code is None:
        return 1
    channel.tell(end=code)
    return code


def _look(program: Program[S], settings: S, channel: Channel) -> int:
    for one in program.check(settings):
        channel.tell(finding=[one.name, one.good, one.words, one.todo])
    return 0


def _work(program: Program[S], settings: S, asked: frozenset[str], channel: Channel) -> int | None:
    """The exit code; None after a defect, which is a crash."""
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
