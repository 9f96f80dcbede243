"""Tries the executables under Wine: python run.py windows-test [--no-build] [--keep]

It builds them, runs server.exe, sender.exe and copier.exe in Wine against a server and simulated terminals on Linux,
and writes what came out into docs/windows.md. It shows nothing about Windows 10 or 11 themselves, nor about a terminal
of a broker.

Exit codes: 0 all is good, 1 something is not, 2 wrong options, 77 skipped: there is no Wine here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import requests  # noqa: E402

import build  # noqa: E402
from campaign.processes import LISTENING, PASSWORDS, Chain, Vain  # noqa: E402
from version import VERSION  # noqa: E402
from wine import NoWine, Wine, windows_path  # noqa: E402

DIST: Final = ROOT / "dist"
PAPER: Final = ROOT / "docs" / "windows.md"
BEGIN, END = "<!-- written by: python run.py windows-test -->", "<!-- end of what is written -->"
SKIPPED: Final = 77
MOST_BYTES: Final = 30_000_000
TRADES: Final = 50
END_S: Final = 3.0
LONG_S: Final = 120.0  # for what takes some seconds; nothing is measured by it
FORCED_S: Final = 10.0  # far below the time after which the watchdog would end what hangs
IN_WINE: Final = ("sender", "copier")
AWKWARD: Final = "Área de trabalho do João"  # a folder as users have it


class Wrong(AssertionError):
    """What was tried came out otherwise; str() says how."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    good: bool
    seen: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="run.py windows-test", description="Tries the executables under Wine.")
    parser.add_argument("--no-build", action="store_true", help="try those that are in dist/")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the trial for looking at")
    options = parser.parse_args(arguments)
    try:
        wine = Wine()
    except NoWine as error:
        print(f"skipped: {error}")
        return SKIPPED
    if not options.no_build and (code := build.main([])):
        return code
    wine.start()
    folder = Path(tempfile.mkdtemp(prefix="windows-test-"))
    try:
        rows = tried(wine, folder)
    finally:
        wine.stop()
        if options.keep:
            print(f"The trial's files: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    write_paper(rows)
    bad = sum(not row.good for row in rows)
    print(f"{bad} of {len(rows)} are not good" if bad else f"all {len(rows)} are good")
    return 1 if bad else 0


def tried(wine: Wine, folder: Path) -> list[Row]:
    """Every trial, each in a folder of its own. One that fails stops no other."""
    rows = []
    for number, (what, trial) in enumerate(TRIALS.items()):
        place = folder / f"{number:02}"
        place.mkdir()
        began = time.monotonic()
        try:
            row = Row(what, True, trial(wine, place))
        except (Wrong, Vain, OSError, requests.RequestException) as error:
            row = Row(what, False, str(error).strip().splitlines()[0])
            print(error)
        rows.append(row)
        print(
            f"{'good' if row.good else 'BAD '}  {time.monotonic() - began:5.1f} s  {row.what}: {row.seen}", flush=True
        )
    return rows


def write_paper(rows: list[Row]) -> None:
    """The table, in place of the last one."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    lines = [BEGIN, "", f"Version {VERSION}, {when}, Wine on a Linux machine with {os.cpu_count()} cores.", ""]
    lines += ["| tried | | what was seen |", "|---|---|---|"]
    lines += [
        f"| {row.what} | {'good' if row.good else '**not good**'} | {row.seen.replace('|', '/')} |" for row in rows
    ]
    text = PAPER.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAPER.write_text(before + "\n".join([*lines, "", END]) + rest.split(END)[1], encoding="utf-8")


# --- programs in Wine ------------------------------------------------------------------------------------------------


class Program:
    """An executable that runs in Wine. What it says is kept, and written to `copy` when that is given."""

    def __init__(
        self,
        wine: Wine,
        executable: Path,
        *arguments: str,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        copy: Path | None = None,
    ) -> None:
        self._said = b""
        self._copy = copy
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            wine.command(executable, *arguments),
            cwd=folder or executable.parent,
            env=wine.environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101
        with contextlib.suppress(ValueError):
            while data := os.read(self.process.stdout.fileno(), 65536):
                data = data.replace(b"\r", b"")
                self._said += data
                if self._copy is not None:
                    with open(self._copy, "ab") as file:
                        file.write(data)

    def said(self) -> str:
        return self._said.decode("utf-8", "replace")

    def waits_for(self, words: str, times: int = 1) -> float:
        """Until it has said this so often; seconds since it was started."""
        until(lambda: self.said().count(words) >= times, lambda: f"it never said {words!r}. It said:\n{self.said()}")
        return time.monotonic() - self.began

    def types(self, line: str) -> None:
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(f"{line}\r\n".encode())
        self.process.stdin.flush()

    def ends(self) -> int:
        """Its exit code, when it has ended by itself."""
        try:
            code = self.process.wait(LONG_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Wrong(f"it did not end. It said:\n{self.said()}") from None
        time.sleep(0.2)  # what it said last is still on its way through the pipe
        return code

    def quits(self) -> float:
        """How long it took to end after `quit` was typed."""
        asked = time.monotonic()
        self.types("quit")
        expect(self.ends() == 0, "it did not end with 0", self)
        return time.monotonic() - asked


def until(condition: Callable[[], Any], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        if time.monotonic() > deadline:
            raise Wrong(otherwise())
        time.sleep(0.02)


def expect(condition: object, otherwise: str, program: Program | None = None) -> None:
    if not condition:
        raise Wrong(otherwise + (f". It said:\n{program.said()}" if program else ""))


def kill_all(executable: str, folder: Path) -> None:
    """kill -9 to every process of this executable that was started with a settings file in this folder."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            if executable.encode() in words and folder.name.encode() in words:
                os.kill(int(entry.name), signal.SIGKILL)


class WineChain(Chain):
    """The whole chain, sender and copier of which are the executables."""

    terminal_options = ("--seed", "7", "--balance", "1000000")

    def __init__(self, wine: Wine, folder: Path, call_timeout_s: int = 30) -> None:
        self._wine, self._call_timeout_s = wine, call_timeout_s
        self.programs: dict[str, Program] = {}
        super().__init__(folder, max_exposure_trades=2 * TRADES)

    def write_configs(self) -> None:
        super().write_configs()
        for part in IN_WINE:
            file = self.config(part)
            settings = json.loads(file.read_text())
            settings["mt5"]["call_timeout_s"] = self._call_timeout_s
            file.write_text(json.dumps(settings))

    def config(self, part: str) -> Path:
        return self.folder / f"config_{'client' if part == 'copier' else part}.json"

    def launch(self, part: str, *more: str) -> int:
        if part not in IN_WINE:
            return super().launch(part, *more)
        arguments = ["--config", windows_path(self.config(part)), *more]
        program = Program(self._wine, DIST / f"{part}.exe", *arguments, copy=self.folder / f"{part}.out")
        self.programs[part], self.running[part] = program, program.process
        return 0

    def kill(self, part: str) -> None:
        if part not in IN_WINE:
            super().kill(part)
            return
        kill_all(f"{part}.exe", self.folder)
        self.running.pop(part).wait()


@contextlib.contextmanager
def chain_in(wine: Wine, folder: Path, call_timeout_s: int = 30) -> Iterator[WineChain]:
    folder = Path(tempfile.mkdtemp(dir=folder, prefix="chain-"))  # a name by which its processes are found
    chain = WineChain(wine, folder, call_timeout_s)
    try:
        chain.wait(lambda: chain.admin("GET", "/overview")["masters"], "the master's first book", LONG_S)
        chain.programs["copier"].waits_for("settings: copying")
        time.sleep(1.0)  # the ledger has to be older than the first trade, whose age is measured generously
        yield chain
    finally:
        chain.stop()


def alone(name: str, folder: Path) -> Path:
    """The executable, copied into a folder of its own that is called as users' folders are."""
    place = folder / AWKWARD
    place.mkdir(exist_ok=True)
    return Path(shutil.copy(DIST / f"{name}.exe", place))


# --- the trials ------------------------------------------------------------------------------------------------------


def sizes(_wine: Wine, _folder: Path) -> str:
    found = {name: (DIST / f"{name}.exe").stat().st_size for name in build.PROGRAMS}
    words = ", ".join(f"{name}.exe {size / 1e6:.1f} MB" for name, size in found.items())
    expect(all(size < MOST_BYTES for size in found.values()), words)
    return words


def start_up_times(wine: Wine, _folder: Path) -> str:
    """From the start to the answer to --version, which comes when all is unpacked and imported."""
    words = []
    for name in build.PROGRAMS:
        times = []
        for _ in range(3):
            program = Program(wine, DIST / f"{name}.exe", "--version")
            times.append(program.waits_for(VERSION))
            expect(program.ends() == 0, "--version did not end with 0", program)
        words.append(f"{name}.exe {statistics.median(times):.1f} s")
    return ", ".join(words)


def papers(_wine: Wine, _folder: Path) -> str:
    code = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS.txt"], cwd=DIST, check=False).returncode  # noqa: S607
    expect(code == 0, "the sums of SHA256SUMS.txt are not those of the files")
    readme = (DIST / "README.txt").read_text(encoding="utf-8-sig")
    expect("ENGLISH" in readme and "PORTUGUÊS" in readme, "README.txt lacks a language")
    return f"{len((DIST / 'SHA256SUMS.txt').read_text().splitlines())} files, their sums are right"


def server_in_wine(wine: Wine, folder: Path) -> str:
    executable = alone("server", folder)
    server = Program(wine, executable, "--port", "0")
    server.waits_for("listening on")
    found = LISTENING.search(server.said().encode())
    assert found is not None  # noqa: S101
    url = f"http://127.0.0.1:{int(found[1])}"
    try:
        user = Program(
            wine,
            executable,
            "adduser",
            "master_user",
            "--role",
            "master",
            environment={"AIBOT_USER_PASSWORD": "x" * 12},
        )
        expect(user.ends() == 0, "adduser did not end with 0", user)
        answer = requests.post(f"{url}/token", json={"username": "master_user", "password": "x" * 12}, timeout=30)
        expect(answer.status_code == 200, f"the log-in was answered with {answer.status_code} {answer.text}", server)
        served = [requests.get(url + path, timeout=30).status_code for path in ("/health", "/openapi.json")]
        expect(served == [200, 200], f"answered with {served}", server)
    finally:
        kill_all("server.exe", folder)
        kill_all("server.exe", Path("--port"))
    return "it makes a user, serves, and takes the log-in"


def first_start(wine: Wine, folder: Path) -> str:
    for name, config in (("copier", "config_client.json"), ("sender", "config_sender.json")):
        executable = alone(name, folder)
        program = Program(wine, executable)
        expect(program.ends() == 2, "it did not end with 2", program)
        expect("This is the first start" in program.said(), "it did not say that this is the first start", program)
        expect("mt5.login, password, server" in program.said(), "it did not say what to fill in", program)
        expect((executable.parent / config).exists(), "it did not write the example", program)
        again = Program(wine, executable)
        expect(again.ends() == 2, "the example as it is did not end it with 2", again)
        expect("it is still the example's" in again.said(), "it did not say that it is still the example", again)
    return f"in a folder called {AWKWARD}: the example is written, what to fill in is said, exit code 2"


MISTAKES: Final = """{
  "api": {"url": "http://example.org", "usrname": "me", "password": "p"},
  "mt5": {"login": "12x", "password": "p", "server": ""},
  "trade_copy": {"mode": "fixed", "fixed_lot": -1}
}"""


def wrong_config(wine: Wine, folder: Path) -> str:
    executable = alone("copier", folder)
    (executable.parent / "config_client.json").write_text(MISTAKES, encoding="utf-8-sig")
    program = Program(wine, executable)
    expect(program.ends() == 2, "it did not end with 2", program)
    keys = (
        "api.url",
        "usrname",
        "mt5.login",
        "mt5.server",
        "trade_copy.mode",
        "trade_copy.fixed_lot",
        "magic_number_copier",
    )
    missing = [key for key in keys if key not in program.said()]
    expect(not missing, f"it did not say what is wrong with {', '.join(missing)}", program)
    return f"all {len(keys)} kinds of mistakes are listed at once, exit code 2"


def exit_codes(wine: Wine, folder: Path) -> str:
    with chain_in(wine, folder) as chain:
        wrong = Program(wine, DIST / "copier.exe", "--chek")
        expect(wrong.ends() == 2, "a wrong option did not end it with 2", wrong)
        second = Program(wine, DIST / "copier.exe", "--config", windows_path(chain.config("copier")))
        expect(second.ends() == 3, "a second one in the folder did not end with 3", second)
        expect("already running" in second.said(), "a second one in the folder did not say why it ends", second)
        expect(check(chain, "copier").ends() == 0, "--check did not end with 0 where all is good")
        other = chain.folder / "other"
        other.mkdir()
        shutil.copy(chain.config("copier"), other)
        taking_over = Program(wine, DIST / "copier.exe", "--config", windows_path(other / "config_client.json"))
        running = chain.programs["copier"]
        expect(running.ends() == 1, "the one that was thrown out did not end with 1", running)
        expect("another copier" in running.said(), "the one that was thrown out did not say why", running)
        seconds = taking_over.quits()
        expect(seconds <= END_S, f"it took {seconds:.1f} s to end", taking_over)
    return (
        f"0 quit, 1 thrown out by another copier, 2 wrong option, 3 running already; ended {seconds:.1f} s after quit"
    )


def check(chain: WineChain, part: str) -> Program:
    return Program(chain._wine, DIST / f"{part}.exe", "--check", "--config", windows_path(chain.config(part)))


def checked(wine: Wine, folder: Path) -> str:
    with chain_in(wine, folder) as chain:
        good = check(chain, "sender"), check(chain, "copier")
        for program in good:
            expect(program.ends() == 0, "it did not end with 0 where all is good", program)
            expect("all is good" in program.said(), "it did not say that all is good", program)
        lines = sum(len(program.said().strip().splitlines()) - 1 for program in good)
        chain.kill("server")
        bad = check(chain, "copier")
        expect(bad.ends() == 1, "it did not end with 1 without a server", bad)
        expect("-> is api.url right" in bad.said(), "it did not say what to do without a server", bad)
    return f"{lines} lines for sender and copier, 0 when all is good; without the server 1 and what to do"


def opens(chain: WineChain, opened: list[int], count: int) -> None:
    """So many more trades of the master, each with another volume, so that a copy is known by its own."""
    for _ in range(count):
        number = len(opened)
        volume, symbol = round(0.2 + 0.02 * number, 2), ("EURUSD", "GBPUSD")[number % 2]
        opened.append(chain.master_opens(volume, symbol, buy=number % 3 > 0))


def fifty_trades(wine: Wine, folder: Path) -> str:
    dead = TRADES // 10
    with chain_in(wine, folder) as chain:
        opened: list[int] = []
        opens(chain, opened, TRADES // 2)
        chain.wait(lambda: chain.copies() == chain.wanted(), "the first half to be copied", LONG_S)
        chain.kill("copier")
        opens(chain, opened, dead)
        chain.restart("copier")
        opens(chain, opened, TRADES - len(opened))
        chain.wait(lambda: chain.copies() == chain.wanted(), "all to be copied", LONG_S)
        for half in (opened[::2], opened[1::2]):
            for ticket in half:
                chain.master_closes(ticket)
            chain.wait(lambda: chain.copies() == chain.wanted(), "half of them to be closed", LONG_S)
        ever = chain.ever_opened()
        expect(ever == TRADES, f"{TRADES} trades of the master became {ever} copies")
    return (
        f"{ever} of {TRADES} copied, none missed, none twice, all closed; copier.exe was killed after {TRADES // 2}, "
        f"{dead} came while it was dead"
    )


def killed_at_work(wine: Wine, folder: Path) -> str:
    """An order that was claimed and perhaps not sent when the end came is looked for, and never sent again."""
    with chain_in(wine, folder) as chain:
        opened: list[int] = []
        opens(chain, opened, TRADES // 2)
        chain.wait(lambda: chain.ever_opened() >= TRADES // 5, "the first copies")
        chain.kill("copier")
        copied = chain.ever_opened()
        chain.restart("copier")
        given_up = "no trace of the order after"

        def told() -> int:
            return chain.programs["copier"].said().count(given_up)

        chain.wait(lambda: chain.ever_opened() + told() == TRADES // 2, "each to be copied or given up", LONG_S)
        left = [*chain.wanted()]
        for copy in chain.copies():
            expect(copy in left, f"{copy} is there twice, or is no copy")
            left.remove(copy)
        expect(len(left) == told() <= 1, f"{left} are missing")
        for ticket in opened:
            chain.master_closes(ticket)
        chain.wait(lambda: not chain.copies(), "all of them to be closed", LONG_S)
    return (
        f"when {copied} of {TRADES // 2} were copied; {TRADES // 2 - told()} were in the end, none twice; "
        f"{told()} whose outcome was unknown was told and not sent again"
    )


def no_terminal(wine: Wine, folder: Path) -> str:
    executable = alone("sender", folder)
    settings = {
        "api": {"url": "http://127.0.0.1:9", "username": "master_user", "password": "own_password"},
        "mt5": {"login": 1001, "password": "investor", "server": "Broker-Demo"},
    }
    (executable.parent / "config_sender.json").write_text(json.dumps(settings))
    program = Program(wine, executable)
    program.waits_for("MetaTrader 5 x64 not found")
    expect("terminal64.exe" in program.said(), "it did not say what to do", program)
    time.sleep(15.0)  # more than one attempt
    expect(program.process.poll() is None, "it did not keep trying", program)
    seconds = program.quits()
    return f"sender.exe says that no terminal was found and what to do, keeps trying, ended {seconds:.1f} s after quit"


def hung_terminal(wine: Wine, folder: Path) -> str:
    with chain_in(wine, folder, call_timeout_s=3) as chain:
        copier = chain.programs["copier"]
        chain.master_opens(0.2)
        chain.agrees("one trade")
        began = time.monotonic()
        chain.client.inject("orders_get", "hang", times=1, gil=True)
        copier.waits_for("MetaTrader 5 hangs")
        noticed = time.monotonic() - began
        copier.waits_for("settings: copying", 2)
        again = time.monotonic() - began
        chain.client.sim_clear_faults()
        chain.master_opens(0.4)
        chain.wait(lambda: chain.copies() == chain.wanted(), "the accounts to agree", LONG_S)
        expect(chain.ever_opened() == 2, f"2 trades became {chain.ever_opened()} copies", copier)
    with chain_in(wine, folder, call_timeout_s=120) as chain:
        copier = chain.programs["copier"]
        chain.client.inject("orders_get", "hang", times=None, gil=True)
        time.sleep(3)  # it looks every second
        asked = copier.quits()
        chain.client.sim_clear_faults()
        chain.running.pop("copier")
        chain.restart("copier")  # nothing is left that would hold its folder
        chain.programs["copier"].waits_for("settings: copying")
        chain.master_opens(0.2)
        chain.agrees("after the next start")
    expect(asked < FORCED_S, f"with a hung terminal it ended {asked:.1f} s after quit")
    times = f"noticed after {noticed:.1f} s, copying again after {again:.1f} s, ended {asked:.1f} s after quit"
    return f"with the GIL held, `call_timeout_s` 3: {times}, nothing opened twice"


class Window:
    """A console of its own, as a double-click opens one: a terminal that Wine takes for its console."""

    def __init__(self, wine: Wine, executable: Path) -> None:
        self._here, there = pty.openpty()
        tty.setraw(there)  # as Wine wants it: an Enter that comes before Wine has seen to that would be another key
        self.process = subprocess.Popen(
            wine.command(executable),
            cwd=executable.parent,
            env=wine.environment({"TERM": "xterm"}),
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        self._shown = b""

    def shows(self, words: str) -> None:
        until(lambda: words in self.text(), lambda: f"the window never showed {words!r}, but:\n{self.text()}")

    def text(self) -> str:
        while select.select([self._here], [], [], 0)[0]:
            try:
                self._shown += os.read(self._here, 65536)
            except OSError:  # nobody is at its other end any more
                break
        return " ".join(
            re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07", b" ", self._shown).decode("utf-8", "replace").split()
        )

    def presses(self, keys: str) -> None:
        os.write(self._here, keys.encode())

    def ends(self) -> int:
        """Its exit code. What it shows is looked at meanwhile, because a window that nobody reads stands still."""
        until(lambda: self.text() and self.process.poll() is not None, lambda: f"it did not end:\n{self.text()}")
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._here)


def as_a_person(wine: Wine, folder: Path) -> str:
    """Double-click, fill in the example with a slip of the pen, Enter, mend it, Enter; a trade is copied; quit."""
    with chain_in(wine, folder) as chain:
        chain.kill("copier")
        executable = alone("copier", chain.folder)
        config = executable.parent / "config_client.json"
        window = Window(wine, executable)
        try:
            window.shows("Press Enter to start, when that is done.")
            text = config.read_text(encoding="utf-8")
            for example, own in filled_in(chain).items():
                expect(example in text, f"the example has no {example}")
                text = text.replace(example, own)
            save_as_notepad(config, text.replace('"client_user",', '"client_user"'))
            window.presses("\r")
            window.shows("Press Enter to try again, when the file is right and saved.")
            expect("line 9, column 30: a comma" in window.text(), f"it did not say what is wrong:\n{window.text()}")
            save_as_notepad(config, text)
            window.presses("\r")
            window.shows("settings: copying")
            time.sleep(1.0)
            chain.master_opens(0.2)
            window.shows("opened BUY 0.01 EURUSD")
            window.presses("check\r")
            window.shows("all is good")
            again = Window(wine, executable)
            again.shows("Press Enter to look for the cause.")
            again.presses("\r")
            again.shows("Press Enter to close this window.")
            expect("already running" in again.text(), f"a second double-click does not say why:\n{again.text()}")
            again.presses("\r")
            expect(again.ends() == 3, f"a second double-click did not end with 3:\n{again.text()}")
            asked = time.monotonic()
            window.presses("quit\r")
            code, seconds = window.ends(), time.monotonic() - asked
            expect(code == 0, f"quit did not end it with 0:\n{window.text()}")
            expect(seconds <= END_S, f"it took {seconds:.1f} s to end")
        finally:
            kill_all("copier.exe", executable.parent)
            window.close()
    return (
        "first start, a comma forgotten and mended, first trade copied, `check` typed, a second double-click waits "
        f"for Enter, ended {seconds:.1f} s after quit"
    )


def filled_in(chain: WineChain) -> dict[str, str]:
    """What a person changes in the example; the last line is the simulated terminal's."""
    return {
        "http://127.0.0.1:8000": chain.url,
        "ws://127.0.0.1:8000": chain.url.replace("http", "ws", 1),
        "87654321": "2001",
        '"mt5_password"': f'"{PASSWORDS["terminal"]}"',
        '"Broker-Server",': f'"Sim", "module": "mt5_sim", "path": "127.0.0.1:{chain.ports["client"]}",',
    }


def save_as_notepad(file: Path, text: str) -> None:
    file.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))


TRIALS: Final[dict[str, Callable[[Wine, Path], str]]] = {
    "size": sizes,
    "start-up time (`--version`)": start_up_times,
    "what is in dist/": papers,
    "server.exe": server_in_wine,
    "first start": first_start,
    "wrong settings": wrong_config,
    "`--check`": checked,
    "exit codes": exit_codes,
    f"{TRADES} trades, copier.exe killed in between": fifty_trades,
    "copier.exe killed while it sends orders": killed_at_work,
    "as a person: double-click to first trade": as_a_person,
    "no terminal": no_terminal,
    "hung terminal": hung_terminal,
}


if __name__ == "__main__":
    sys.exit(main())
