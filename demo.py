"""The whole system on one machine in one command, with simulated accounts: python run.py demo

Starts the server, two simulated terminals with different brokers, the sender and the copier as separate processes in
a temporary folder, trades on the master as a person would, and shows each trade arriving on the client. At the end it
compares both accounts trade by trade, and symbol by symbol where one of them is a netting account. No real account and
no real money is involved, and nothing is left behind.

Exit code: 0 = every trade was copied, or refused by the rule that was meant to; 1 = something was missed or doubled,
or did not run; 2 = wrong use or a file that cannot be replayed; 130 = Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from api_client import Api, ApiDown, ApiRefused
from config import ApiSettings
from demo_accounts import PASSWORD, POSITION, SERVER, Account, AccountFailed, Key
from demo_netting import NettingTrader, play_netting
from demo_processes import Child, ChildFailed, Children
from demo_replay import BadFile, Tape, play_tape, read_tape
from demo_report import (
    MASTER,
    TOTAL,
    Net,
    Row,
    Verdict,
    compare,
    hops,
    latency_table,
    marks,
    net_table,
    nets,
    number_of,
    percentile,
    shortened,
    summary,
    table,
)
from demo_script import Event, MasterTrader, NotTakenUp, Reports, Stage, play

FAILED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130

CLIENT: Final = "client_user"
MASTER_LOGIN: Final = 1001
CLIENT_LOGIN: Final = 2002
MAGIC: Final = 123456

START_S: Final = 60.0  # for one program to be ready on a slow machine
SETTLE_S: Final = 10.0  # at the end, for the accounts to agree
STILL_AGREED_S: Final = 1.0  # and they must still agree so much later: a doubled trade would show by then

# The client's broker: what differs from the master's, whose symbols are the simulator's own.
SPREADS: Final = {
    "EURUSD": 12, "GBPUSD": 35, "USDJPY": 14, "XAUUSD": 19, "US30": 18, "BTCUSD": 1800, "WINZ26": 10, "WDOZ26": 10,
}  # fmt: skip
VOLUMES: Final[Mapping[str, Mapping[str, float]]] = {
    "USDJPY": {"volume_min": 0.1, "volume_step": 0.1},
    "XAUUSD": {"volume_max": 0.3},
    "US30": {"volume_min": 0.5, "volume_step": 0.5, "volume_max": 50},
}
SCRIPT_RULES: Final = {
    "mode": "multiplier",
    "fixed_lot": 0.01,
    "multiplier": 0.5,
    "magic_number_copier": MAGIC,
    "max_slippage_points": 200,
    "max_spread_points": 20,
    "max_exposure_trades": 8,
    "max_exposure_lots": 10.0,
}
HEDGING: Final = "hedging"
MARGIN_MODES: Final = {
    HEDGING: "every trade is a position of its own",
    "netting": "one position for each symbol",
    "exchange": "one position for each symbol, as at B3",
}
# Wide open: a replay shows that everything arrives, whatever the file holds.
REPLAY_RULES: Final = {
    **SCRIPT_RULES,
    "multiplier": 1.0,
    "max_slippage_points": 1_000_000,
    "max_spread_points": 1_000_000,
    "max_exposure_trades": 100_000,
    "max_exposure_lots": 10_000,
}


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # as far as the system has them
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end_as_by_ctrl_c)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        tape = read_tape(options.replay, options.limit) if options.replay else None
    except BadFile as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    try:
        with temporary_folder(options.keep) as folder:
            code = Demo(options, tape, folder).run()
            if code:
                raise Failed
            return code
    except Failed:
        return FAILED
    except KeyboardInterrupt:
        print("\nInterrupted. Everything has been ended.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads the story any more (demo.py | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing it would fail once more
        return FAILED


def end_as_by_ctrl_c(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="demo.py",
        description="The whole system on this machine: server, two simulated terminals, sender and copier as separate "
        "processes. A scripted trader opens, changes and closes trades on the master; you see each arrive on the "
        "client, and at the end both accounts are compared trade by trade. No real money, no real account.",
        epilog="Exit code 0: nothing was missed or doubled. Ctrl-C ends everything.",
    )
    add = found.add_argument
    add(
        "--replay",
        type=Path,
        metavar="FILE",
        help="instead of the script, replay the trades of a CSV file with the columns of history_deals_get; the prices "
        "are the simulator's, only sides, volumes and order are the file's",
    )
    add("--limit", type=count, metavar="N", help="with --replay: only the first N positions")
    add(
        "--speed",
        type=times,
        metavar="X",
        help="with --replay: X times as fast as in the file, pauses of at most 2 s (default: each step as soon as the "
        "client has followed the one before)",
    )
    add("--all", action="store_true", help="with --replay: show every step and every line of the table")
    add(
        "--margin-mode",
        type=margin_modes,
        default=(HEDGING, HEDGING),
        metavar="MODE",
        help=f"kind of both accounts: {', '.join(MARGIN_MODES)} (default {HEDGING}); or of master and client, as "
        "hedging:netting",
    )
    add("--seed", type=int, default=1, metavar="N", help="another number, other sides in the script (default 1)")
    add(
        "--pace",
        type=seconds,
        default=0.6,
        metavar="S",
        help="seconds between two steps of the script, to read along (default 0.6)",
    )
    add("--keep", action="store_true", help="keep the temporary folder with databases, settings and logs")
    return found


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    arguments_parser = parser()
    options = arguments_parser.parse_args(arguments)
    if not options.replay:
        for name in ("limit", "speed", "all"):
            if getattr(options, name):
                arguments_parser.error(f"--{name} needs --replay")
    elif options.margin_mode[0] != HEDGING:
        arguments_parser.error(
            "--replay replays the positions of a hedging account: --margin-mode hedging, or hedging:netting"
        )
    return options


def margin_modes(text: str) -> tuple[str, str]:
    """Of master and client."""
    modes = text.split(":")
    if len(modes) > 2 or not all(mode in MARGIN_MODES for mode in modes):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not {', '.join(MARGIN_MODES)}, or two of them as in hedging:netting (master:client)"
        )
    return modes[0], modes[-1]


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def times(text: str) -> float:
    return number_in(text, 0.001, 1e9)


def seconds(text: str) -> float:
    return number_in(text, 0.0, 60.0)


def number_in(text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
    return number


# --- the folder ------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """The demo has said what went wrong; its folder is kept."""


@contextlib.contextmanager
def temporary_folder(keep: bool) -> Iterator[Path]:
    """A folder that is gone afterwards, unless it is to be kept or something failed."""
    folder = Path(tempfile.mkdtemp(prefix="aibot-demo-"))
    try:
        yield folder
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except BaseException:
        keep = True
        raise
    finally:
        if keep:
            print(f"\nLogs, settings and databases of this run are kept in {folder}")
        else:
            remove(folder)


def remove(folder: Path) -> None:
    """Delete the folder; Windows may take a moment to let go of the files of a process that has ended."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    print(f"The folder {folder} could not be removed.", file=sys.stderr)


# --- the demo --------------------------------------------------------------------------------------------------------


class Demo:
    """One run, from an empty folder to the verdict."""

    def __init__(self, options: argparse.Namespace, tape: Tape | None, folder: Path) -> None:
        self._options = options
        self._tape = tape
        self._folder = folder
        self._began = time.monotonic()
        self._out = Console(self._began)
        self._rules = SCRIPT_RULES if tape is None else REPLAY_RULES

    def run(self) -> int:
        try:
            with Children(self._folder) as children:
                stage = self._set_up(children)
                self._trade(stage)
                return self._report(stage, *self._settled(stage))
        except (ChildFailed, AccountFailed, ApiDown, ApiRefused) as error:
            self._out.bad(f"The demo cannot go on: {error}")
            return FAILED

    # -- setting up

    def _set_up(self, children: Children) -> Stage:
        out = self._out
        out.say("AIBOT Trade Copier: a demonstration with simulated accounts, no real money.")
        admin_password = secrets.token_urlsafe(16)
        server = children.start(
            "server", "server.py", "--port", "0", "--database", "server.db", AIBOT_ADMIN_PASSWORD=admin_password
        )
        modes = dict(zip(("master", "client"), self._options.margin_mode, strict=True))
        master_at = self._terminal(children, "master", MASTER_LOGIN, "--margin-mode", modes["master"])
        symbols = self._folder / "client_symbols.json"
        symbols.write_text(json.dumps(client_symbols(replay=self._tape is not None), indent=1), encoding="utf-8")
        client_at = self._terminal(
            children, "client", CLIENT_LOGIN, "--margin-mode", modes["client"], "--symbols", symbols.name
        )
        url = server.wait_for(r"listening on (http://\S+)", START_S)[1]
        master_address, client_address = (address_of(child) for child in (master_at, client_at))
        admin = Api(ApiSettings(url, "admin", admin_password, url.replace("http", "ws", 1)))
        passwords = {MASTER: secrets.token_urlsafe(16), CLIENT: secrets.token_urlsafe(16)}
        for name, role in ((MASTER, "master"), (CLIENT, "client")):
            admin.call("POST", "/users/", {"username": name, "password": passwords[name], "role": role})
        self._write("config_sender.json", sender_settings(url, passwords[MASTER], master_address))
        self._write("config_client.json", client_settings(url, passwords[CLIENT], client_address, self._rules))
        children.start("sender", "sender.py", "--config", "config_sender.json")
        children.start("copier", "copier.py", "--config", "config_client.json")
        stage = Stage(
            master=Account(master_address, MASTER_LOGIN),
            client=Account(client_address, CLIENT_LOGIN),
            reports=Reports(admin),
            check=children.check,
            tell=self._tell,
            multiplier=Decimal(str(self._rules["multiplier"])),
        )
        wait_until_connected(admin, children)
        out.say(f"  server            {url}")
        out.say(f"  master terminal   account {MASTER_LOGIN} at {master_address}, watched by the sender every 50 ms")
        out.say(
            f"  client terminal   account {CLIENT_LOGIN} at {client_address}, another broker: other spreads and lots"
        )
        out.say(f"  copier            {described(self._rules)}")
        if set(modes.values()) != {HEDGING}:
            for name, mode in modes.items():
                out.say(f"  {name} account    {mode}: {MARGIN_MODES[mode]}")
        return stage

    def _terminal(self, children: Children, name: str, login: int, *more: str) -> Child:
        rich = self._tape is not None
        account = ("--balance", "1000000000" if rich else "50000", "--leverage", "500" if rich else "100")
        return children.start(
            f"{name}_terminal", "sim_terminal.py", "--port", "0", "--login", str(login), *account,
            "--state", f"{name}_state.json", *more,
        )  # fmt: skip

    def _write(self, name: str, settings: Mapping[str, Any]) -> None:
        path = self._folder / name
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")

    # -- trading

    def _trade(self, stage: Stage) -> None:
        out, options = self._out, self._options
        out.say()
        try:
            if self._tape is None:
                out.headings()
                if stage.master.netting:
                    play_netting(NettingTrader(stage, options.seed, options.pace, out.chapter))
                else:
                    play(MasterTrader(stage, options.seed, options.pace, out.chapter))
                return
            tape = self._tape
            out.say(f"Replaying {tape.positions} positions of {options.replay}.")
            out.say("Sides, volumes and order are the file's; prices are the simulator's, and so is the profit.")
            for words in tape.notes:
                out.say(f"  {words}")
            if options.all:
                out.headings()
            play_tape(tape, stage, options.speed, self._progress(stage))
        except NotTakenUp as error:
            out.bad(f"Nothing more is traded: {error}")

    def _tell(self, event: Event) -> None:
        if self._tape is None or self._options.all or event.was_refused:
            self._out.event(event)

    def _progress(self, stage: Stage) -> Callable[[int, int], None]:
        told = time.monotonic()

        def progress(done: int, of: int) -> None:
            nonlocal told
            if time.monotonic() - told > 3 or done == of:
                told = time.monotonic()
                median = percentile(stage.latencies, 50) if stage.latencies else 0
                self._out.timed(f"{done} of {of} steps done on the master; the client follows after {median:.0f} ms")

        return progress

    # -- comparing

    def _settled(self, stage: Stage) -> tuple[list[Row], list[Net]]:
        """The comparison trade by trade and symbol by symbol, once both accounts agree and go on agreeing, or when they
        have had time enough to."""
        deadline = time.monotonic() + SETTLE_S
        agreed_since: float | None = None
        while True:
            stage.reports.fetch()
            rows, symbols = self._compared(stage)
            now = time.monotonic()
            if not agrees(rows, symbols):
                agreed_since = None
            elif agreed_since is None:
                agreed_since = now
            elif now - agreed_since >= STILL_AGREED_S:
                return rows, symbols
            if now > deadline:
                return rows, symbols
            time.sleep(0.1)

    @staticmethod
    def _compared(stage: Stage) -> tuple[list[Row], list[Net]]:
        netting = stage.client.netting
        master = stage.master.ever()
        client = stage.client.copies(marks(master))
        brokers = {line.symbol: stage.broker(line.symbol) for line in (*master, *client)}
        refused, overdue = stage.reports.refused, stage.overdue
        rows = compare(master, client, brokers, stage.multiplier, refused, overdue, stops=not netting)
        held = [[line for line in account.now() if line.kind == POSITION] for account in (stage.master, stage.client)]
        return rows, nets(rows, held[0], held[1], brokers, netting=netting)

    def _report(self, stage: Stage, rows: Sequence[Row], symbols: Sequence[Net]) -> int:
        out = self._out
        out.say("\nBoth accounts, trade by trade, as their terminals show them:\n")
        shown = rows if self._options.all else shortened(rows)
        out.rows(table(shown, own_stops=not stage.client.netting), [COLOURS[row.verdict] for row in shown])
        if len(shown) < len(rows):
            out.say(f"({len(rows) - len(shown)} more that were copied; --all shows them)")
        if symbols and (stage.master.netting or stage.client.netting):
            out.say("\nBoth accounts, symbol by symbol:\n")
            out.rows(net_table(symbols), [RED if net.wrong else "" for net in symbols])
        if self._tape is not None and not any(line.volume for row in rows for line in (row.master, *row.copies)):
            out.say("\nBoth accounts are flat: no position and no pending order is open.")
        self._report_latencies(stage)
        unforeseen = unforeseen_refusals(rows, stage.meant_refused)
        reasons = Counter(row.detail.partition(":")[0] for row in rows if row.verdict is Verdict.REFUSED)
        if reasons:
            out.say("\nRefused: " + ", ".join(f"{number} by {reason}" for reason, number in reasons.items()))
        for words in unforeseen:
            out.bad(words)
        bad = bool(unforeseen) or not agrees(rows, symbols)
        out.say(f"\nIn {time.monotonic() - self._began:.0f} s, from nothing to here:")
        (out.bad if bad else out.good)(summary(rows))
        return FAILED if bad else 0

    def _report_latencies(self, stage: Stage) -> None:
        """Of opens where the time went; of everything that was copied how long it took to be seen."""
        out = self._out
        measured = hops(stage.reports.all, stage.visible)
        if measured[TOTAL]:
            out.say("\nWhere the time of an open goes (the sender looks every 50 ms; all on this one machine):\n")
            for line in latency_table(measured):
                out.say(line)
        if stage.latencies:
            out.say("\nOf all that was copied, changes and closes too:\n")
            for line in latency_table({"confirmed by the master -> seen on the client": stage.latencies}):
                out.say(line)


def agrees(rows: Sequence[Row], symbols: Sequence[Net]) -> bool:
    wrong = any(row.verdict in (Verdict.MISSED, Verdict.DOUBLED) for row in rows)
    return not wrong and not any(net.wrong for net in symbols)


def unforeseen_refusals(rows: Sequence[Row], meant: Collection[Key]) -> list[str]:
    """What was refused and should have been copied, or the other way round, in words."""
    refused = {row.key for row in rows if row.verdict is Verdict.REFUSED}
    names = {row.key: f"#{number_of(row.master)}" for row in rows}
    found = [f"{names[key]} was refused, and no rule was meant to" for key in sorted(refused - set(meant))]
    found += [f"{names[key]} was copied, and a rule was meant to refuse it" for key in sorted(set(meant) - refused)]
    return found


# --- settings --------------------------------------------------------------------------------------------------------


def client_symbols(replay: bool) -> dict[str, dict[str, float]]:
    """How the client's broker differs. A replay needs the lots of the file, so there only the spreads differ."""
    volumes = {} if replay else VOLUMES
    return {name: {"spread": spread, **volumes.get(name, {})} for name, spread in SPREADS.items()}


def address_of(terminal: Child) -> str:
    return terminal.wait_for(r"listens on (\S+:\d+)", START_S)[1]


def mt5_section(login: int, address: str) -> dict[str, Any]:
    return {"module": "mt5_sim", "path": address, "login": login, "password": PASSWORD, "server": SERVER}


def sender_settings(url: str, password: str, address: str) -> dict[str, Any]:
    return {
        "api": {"url": url, "username": MASTER, "password": password},
        "mt5": mt5_section(MASTER_LOGIN, address),
    }


def client_settings(url: str, password: str, address: str, rules: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "api": {"url": url, "ws_url": url.replace("http", "ws", 1), "username": CLIENT, "password": password},
        "mt5": mt5_section(CLIENT_LOGIN, address),
        "trade_copy": dict(rules),
    }


def described(rules: Mapping[str, Any]) -> str:
    if rules is REPLAY_RULES:
        return "as many lots as the master, limits wide open"
    return (
        f"{rules['multiplier']} times the master's lots, spread at most {rules['max_spread_points']} points, "
        f"at most {rules['max_exposure_trades']} copies at once"
    )


def wait_until_connected(admin: Api, children: Children) -> None:
    """Until the server has the master's book and the copier listens."""
    deadline = time.monotonic() + START_S
    while True:
        overview = admin.call("GET", "/overview")
        if overview["connected"].get(CLIENT) and any(master["online"] for master in overview["masters"]):
            return
        children.check()
        if time.monotonic() > deadline:
            raise ChildFailed(f"sender and copier did not both reach the server within {START_S:.0f} s")
        time.sleep(0.05)


# --- the console -----------------------------------------------------------------------------------------------------

BOLD, GREEN, YELLOW, RED = "1", "32", "33", "31"
COLOURS: Final = {
    Verdict.COPIED: "",
    Verdict.REFUSED: YELLOW,
    Verdict.MISSED: RED,
    Verdict.DOUBLED: RED,
}
MASTER_WIDTH, CLIENT_WIDTH = 60, 40
NARROW: Final = 120  # on a smaller terminal the client's answer goes on a line of its own


class Console:
    """Prints the story. Colours only on a terminal that shows them."""

    def __init__(self, began: float) -> None:
        self._began = began
        terminal = sys.stdout.isatty()
        modern = os.name != "nt" or any(name in os.environ for name in ("WT_SESSION", "TERM", "ANSICON"))
        self._colour = terminal and modern and "NO_COLOR" not in os.environ
        self._narrow = terminal and shutil.get_terminal_size().columns < NARROW

    def _in(self, colour: str, words: str) -> str:
        return f"\x1b[{colour}m{words}\x1b[0m" if self._colour and colour else words

    def say(self, words: str = "") -> None:
        print(words)

    def good(self, words: str) -> None:
        self.say(self._in(GREEN, words))

    def bad(self, words: str) -> None:
        self.say(self._in(RED, words))

    def timed(self, words: str) -> None:
        self.say(f"{time.monotonic() - self._began:5.1f} s  {words}")

    def headings(self) -> None:
        if self._narrow:
            self.say(self._in(BOLD, "         what the master does, and below it what the client shows"))
        else:
            words = f"         {'the master':{MASTER_WIDTH}}  {'the client':{CLIENT_WIDTH}}  after"
            self.say(self._in(BOLD, words))

    def chapter(self, words: str) -> None:
        self.say(f"\n{self._in(BOLD, words)}")

    def event(self, event: Event) -> None:
        """One thing the master did and what came of it."""
        answer = event.answer or ""
        if event.was_refused:
            answer = self._in(YELLOW, answer)
        elif event.timed:
            answer = f"{answer:{CLIENT_WIDTH}}  {event.took_ms:4.0f} ms"
        if self._narrow:
            self.timed(event.words)
            self.say(f"           -> {answer}")
        else:
            self.timed(f"{event.words:{MASTER_WIDTH}}  {answer}")

    def rows(self, lines: Sequence[str], colours: Sequence[str]) -> None:
        """A table: a line of headings, and lines with a colour for each."""
        self.say(self._in(BOLD, lines[0]))
        for line, colour in zip(lines[1:], colours, strict=True):
            self.say(self._in(colour, line))


if __name__ == "__main__":
    sys.exit(main())
