"""The whole chain as five real processes: two simulated terminals, server, sender, copier. Any may be killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

import mt5_sim

ROOT = Path(__file__).resolve().parent.parent
MAGIC = 123456
LISTENING = re.compile(rb"listen\w* on \S*?:(\d+)\b")
PARTS = ("master", "client", "server", "sender", "copier")
PASSWORDS = {
    "master_user": "secret_password",
    "client_user": "client_password",
    "admin": "admin_password",
    "terminal": "trading_password",  # of both accounts
    "investor": "reading_password",
}
LOGINS = {"master": 1001, "client": 2001}


class Vain(AssertionError):
    """Something did not come about within its time; str() says what, and what the parts have written."""


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """kill -9 to a process that leads a session of its own, and to all that it has started."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], check=False, capture_output=True)  # noqa: S607
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class Chain:
    """Everything lies in one folder, so that a part that is started again finds its files."""

    listeners: tuple[str, ...] = ("master", "client", "server")
    told_by_stdin: tuple[str, ...] = ()
    terminal_options: tuple[str, ...] = ("--seed", "7")

    def __init__(self, folder: Path, *, certificate: tuple[Path, Path] | None = None, **trade_copy: Any) -> None:
        """`certificate` (chain, key) makes the server speak https and wss."""
        self.folder = folder
        self.certificate = certificate
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens: dict[str, str] = {}
        self.ports: dict[str, int] = self.first_ports()
        self.trade_copy = {
            "mode": "multiplier",
            "fixed_lot": 0.01,
            "multiplier": 0.5,
            "magic_number_copier": MAGIC,
            "max_slippage_points": 500,
            "max_spread_points": 500,
            "max_exposure_trades": 50,
            "max_exposure_lots": 100.0,
            **trade_copy,
        }
        self.master, self.client = mt5_sim.Client(), mt5_sim.Client()
        try:
            self.start_all()
        except BaseException:  # also Ctrl-C: no process is left behind
            self.stop()
            raise

    def start_all(self) -> None:
        for part in self.listeners:
            self.start(part)
        self.make_users()
        self.write_configs()
        self.connect("master")
        self.connect("client")
        self.start("sender")
        self.start("copier")

    def first_ports(self) -> dict[str, int]:
        """Ports that are not left to the system. The system's own choice may be taken while a part is dead."""
        return {}

    def make_users(self) -> None:
        for name, role in (("master_user", "master"), ("client_user", "client")):
            self.admin("POST", "/users/", {"username": name, "password": PASSWORDS[name], "role": role})

    def connect(self, part: str) -> None:
        mt5 = self.master if part == "master" else self.client
        address = f"127.0.0.1:{self.ports[part]}"
        if not mt5.initialize(address, login=LOGINS[part], password=PASSWORDS["terminal"], server="Sim"):
            raise Vain(f"{address} does not answer: {mt5.last_error()}")

    def write_configs(self) -> None:
        url = self.way_to_server
        ca_file = {"ca_file": str(self.certificate[0])} if self.certificate else {}
        sim = {"server": "Sim", "module": "mt5_sim"}
        sender = {
            "api": {"url": url, "username": "master_user", "password": PASSWORDS["master_user"], **ca_file},
            "mt5": {
                **sim,
                "login": 1001,
                "password": PASSWORDS["investor"],
                "path": f"127.0.0.1:{self.ports['master']}",
            },
        }
        client = {
            "api": {"url": url, "username": "client_user", "password": PASSWORDS["client_user"], **ca_file},
            "mt5": {
                **sim,
                "login": 2001,
                "password": PASSWORDS["terminal"],
                "path": f"127.0.0.1:{self.ports['client']}",
            },
            "trade_copy": self.trade_copy,
        }
        (self.folder / "config_sender.json").write_text(json.dumps(sender))
        (self.folder / "config_client.json").write_text(json.dumps(client))

    def command(self, part: str) -> list[str]:
        port = str(self.ports.get(part, 0))
        if part in ("master", "client"):
            more = ["--login", str(LOGINS[part]), "--state", f"{part}.state.json", *self.terminal_options]
            more += ["--password", PASSWORDS["terminal"], "--investor-password", PASSWORDS["investor"]]
            return ["sim_terminal.py", "--port", port, *more]
        if part == "server":
            tls = (
                ["--tls-cert", str(self.certificate[0]), "--tls-key", str(self.certificate[1])]
                if self.certificate
                else []
            )
            return ["server.py", "--port", port, "--database", "server.db", *tls]
        return [f"{part}.py"]

    def launch(self, part: str, *more: str) -> int:
        """Start the process and wait for nothing; where its new output begins in its file."""
        script, *arguments = [*self.command(part), *more]
        log = self.folder / f"{part}.out"
        begins_at = log.stat().st_size if log.exists() else 0
        with open(log, "ab") as out:
            self.running[part] = subprocess.Popen(
                [sys.executable, str(ROOT / script), *arguments],
                cwd=self.folder,
                stdin=subprocess.PIPE if part in self.told_by_stdin else None,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=sys.platform != "win32",
                env={**os.environ, "AIBOT_ADMIN_PASSWORD": PASSWORDS["admin"], "PYTHONUNBUFFERED": "1"},
            )
        return begins_at

    def start(self, part: str, *more: str) -> None:
        begins_at = self.launch(part, *more)
        if part in self.listeners:
            log = self.folder / f"{part}.out"
            found = self.wait(lambda: LISTENING.search(log.read_bytes()[begins_at:]), f"{part} to listen")
            self.ports[part] = int(found.group(1))

    def kill(self, part: str) -> None:
        """End it, and the second process that sender and copier work in, at the same moment and without warning."""
        process = self.running.pop(part)
        kill_tree(process)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def restart(self, part: str) -> None:
        self.start(part)
        if part in ("master", "client"):
            self.connect(part)

    def stop(self) -> None:
        for part in [*reversed(self.running)]:
            self.kill(part)
        self.master.shutdown()
        self.client.shutdown()

    def output(self) -> str:
        files = sorted(self.folder.glob("*.out"))
        return "\n".join(f"--- {file.stem}\n{file.read_text('utf-8', 'replace')[-6000:]}" for file in files)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
        """What the condition gave, as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise Vain(f"waited {seconds:g} s in vain for {what}\n{self.output()}")
            time.sleep(0.02)
        return found

    # -- the server

    @property
    def way_to_server(self) -> str:
        """The address that sender and copier are given."""
        return self.url

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.ports['server']}"

    def api(self, user: str, method: str, path: str, body: Any = None) -> Any:
        url, verify = self.url, str(self.certificate[0]) if self.certificate else True

        def answered() -> requests.Response:
            if user not in self._tokens:
                login = {"username": user, "password": PASSWORDS[user]}
                token = requests.post(f"{url}/token", json=login, timeout=10, verify=verify).json()["access_token"]
                self._tokens[user] = token
            headers = {"Authorization": f"Bearer {self._tokens[user]}"}
            return requests.request(method, url + path, json=body, headers=headers, timeout=10, verify=verify)

        answer = answered()
        if answer.status_code == 401:  # of another database
            del self._tokens[user]
            answer = answered()
        if not answer.ok:
            raise Vain(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        return self.api("admin", method, path, body)

    # -- the accounts

    def master_opens(self, volume: float = 0.2, symbol: str = "EURUSD", buy: bool = True) -> int:
        tick = self.master.symbol_info_tick(symbol)
        done = self.master.order_send(
            action=1, symbol=symbol, volume=volume, type=0 if buy else 1, type_filling=1,
            price=tick.ask if buy else tick.bid,
        )  # fmt: skip
        if done.retcode != 10009:
            raise Vain(f"the master's broker refused: {done}")
        return int(done.order)

    def master_closes(self, ticket: int, volume: float | None = None) -> None:
        self.master.sim_close_by_hand(ticket, volume)

    def copies(self) -> list[tuple[str, int, float]]:
        return sorted((p.symbol, p.type, p.volume) for p in self.client.positions_get() or () if p.magic == MAGIC)

    def wanted(self) -> list[tuple[str, int, float]]:
        positions = self.master.positions_get() or ()
        return sorted((p.symbol, p.type, round(p.volume / 2, 2)) for p in positions)

    def ever_opened(self) -> int:
        """Positions ever opened on the client's account."""
        deals = self.client.history_deals_get(1, 2_000_000_000)
        return sum(1 for deal in deals if deal.entry == 0 and deal.type in (0, 1))

    def agrees(self, what: str) -> None:
        self.wait(lambda: self.copies() == self.wanted(), f"the accounts to agree: {what}")
