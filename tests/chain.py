"""The whole chain as five real processes: two simulated terminals, server, sender, copier. Any may be killed."""

from __future__ import annotations

import json
import os
import re
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
PARTS = ("master", "client", "server", "sender", "copier")
PASSWORDS = {"master_user": "secret_password", "client_user": "client_password", "admin": "admin_password"}


class Chain:
    """Everything lies in one folder, so that a part that is started again finds its files."""

    def __init__(self, folder: Path, *, certificate: tuple[Path, Path] | None = None, **trade_copy: Any) -> None:
        """`certificate` (chain, key) makes the server speak https and wss."""
        self.folder = folder
        self.certificate = certificate
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self.quotes_seed = "7"
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
        for part in ("master", "client", "server"):
            self.start(part)
        self.make_users()
        self.write_configs()
        self.master, self.client = mt5_sim.Client(), mt5_sim.Client()
        for mt5, part, login in ((self.master, "master", 1001), (self.client, "client", 2001)):
            self.connect(mt5, part, login)
        self.start("sender")
        self.start("copier")

    def make_users(self) -> None:
        for name, role in (("master_user", "master"), ("client_user", "client")):
            self.admin("POST", "/users/", {"username": name, "password": PASSWORDS[name], "role": role})

    def connect(self, mt5: Any, part: str, login: int) -> None:
        assert mt5.initialize(f"127.0.0.1:{self.ports[part]}", login=login, password="demo", server="Sim")

    def write_configs(self) -> None:
        url = self.url
        ca_file = {"ca_file": str(self.certificate[0])} if self.certificate else {}
        sim = {"server": "Sim", "module": "mt5_sim"}
        sender = {
            "api": {"url": url, "username": "master_user", "password": PASSWORDS["master_user"], **ca_file},
            "mt5": {**sim, "login": 1001, "password": "investor", "path": f"127.0.0.1:{self.ports['master']}"},
        }
        client = {
            "api": {"url": url, "username": "client_user", "password": PASSWORDS["client_user"], **ca_file},
            "mt5": {**sim, "login": 2001, "password": "demo", "path": f"127.0.0.1:{self.ports['client']}"},
            "trade_copy": self.trade_copy,
        }
        (self.folder / "config_sender.json").write_text(json.dumps(sender))
        (self.folder / "config_client.json").write_text(json.dumps(client))

    def command(self, part: str) -> list[str]:
        port = str(self.ports.get(part, 0))
        if part in ("master", "client"):
            login = "1001" if part == "master" else "2001"
            more = ["--login", login, "--state", f"{part}.state.json", "--seed", self.quotes_seed]
            return ["sim_terminal.py", "--port", port, *more]
        if part == "server":
            tls = (
                ["--tls-cert", str(self.certificate[0]), "--tls-key", str(self.certificate[1])]
                if self.certificate
                else []
            )
            return ["server.py", "--port", port, "--database", "server.db", *tls]
        return [f"{part}.py"]

    def start(self, part: str, *more: str) -> None:
        script, *arguments = [*self.command(part), *more]
        log = self.folder / f"{part}.out"
        begins_at = log.stat().st_size if log.exists() else 0
        with open(log, "ab") as out:
            self.running[part] = subprocess.Popen(
                [sys.executable, str(ROOT / script), *arguments],
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "AIBOT_ADMIN_PASSWORD": PASSWORDS["admin"], "PYTHONUNBUFFERED": "1"},
            )
        if part in ("master", "client", "server"):
            pattern = re.compile(
                rb"listen\w* on \S*?:(\d+)\b" if part != "server" else rb"listening on https?://\S*?:(\d+)"
            )

            def port() -> re.Match[bytes] | None:
                return pattern.search(log.read_bytes()[begins_at:])

            self.wait(port, f"{part} to listen")
            found = port()
            assert found is not None
            self.ports[part] = int(found.group(1))

    def kill(self, part: str) -> None:
        process = self.running.pop(part)
        process.kill()
        process.wait()

    def restart(self, part: str) -> None:
        self.start(part)
        if part in ("master", "client"):
            self.connect(getattr(self, part), part, 1001 if part == "master" else 2001)

    def stop(self) -> None:
        for part in reversed(PARTS):
            if part in self.running:
                self.kill(part)
        self.master.shutdown()
        self.client.shutdown()

    def output(self) -> str:
        return "\n".join(f"--- {part}\n{(self.folder / f'{part}.out').read_text()[-6000:]}" for part in PARTS)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s in vain for {what}\n{self.output()}")
            time.sleep(0.02)

    # -- the server

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.ports['server']}"

    def api(self, user: str, method: str, path: str, body: Any = None) -> Any:
        url, verify = self.url, str(self.certificate[0]) if self.certificate else True
        login = {"username": user, "password": PASSWORDS[user]}
        token = requests.post(f"{url}/token", json=login, timeout=10, verify=verify).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.request(method, url + path, json=body, headers=headers, timeout=10, verify=verify)
        assert answer.ok, answer.text
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
        assert done.retcode == 10009, done
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
