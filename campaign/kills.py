"""Real processes that get killed: python run.py campaign kills [--kills 200] [--seed S] [--minutes M]

Server, sender, copier, two simulated terminals and a proxy between them and the server. A master trades at random while
one process or several are ended with kill -9 again and again, and the proxy breaks connections. Every now and then all
is left in peace until the accounts agree; then the histories of both brokers are compared. Only the money is simulated.

The seed decides what is drawn: victims, pauses, faults, trades. How far the processes have come by then is up to the
machine, so a run can be made again but not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn

from api_client import Api, ApiDown, ApiRefused
from campaign.accounts import Comparison, Finding, Shown, said_in
from campaign.processes import LOGINS, MAGIC, PARTS, PASSWORDS, Chain, Vain
from config import ApiSettings
from demo_accounts import NOTHING, ORDER, POSITION, Account, AccountFailed, Line

ALL_PARTS: Final = (*PARTS, "proxy")
MASTER: Final = "master_user"
MULTIPLIER: Final = Decimal("0.5")
SYMBOLS: Final = ("EURUSD", "USDJPY", "XAUUSD")
PAUSE_BETWEEN_KILLS_S: Final = (0.1, 2.0)
PAUSE_BETWEEN_FAULTS_S: Final = (0.3, 3.0)
PAUSE_BEFORE_RESTART_S: Final = (0.05, 0.8)
AIMED: Final = 0.6  # of the kills fall into the moments after a trade, when it is being copied
AIMED_WITHIN_S: Final = 0.15
AT_ONCE: Final = ((1, 85), (2, 9), (3, 4), (6, 2))  # how many are killed at once, and how often of 100
INTERRUPTED: Final = 130  # what shells report for Ctrl-C
PEACE_EVERY: Final = 50  # kills
PEACE_S: Final = 120.0  # within which the accounts must agree: longer than the longest rests and the age limit together
MOST_POSITIONS: Final = 14
MOST_ORDERS: Final = 6
FOREIGN_MAGIC: Final = 777
# What the network does, for how long (seconds), and how often of 100. A black hole of 11 s is longer than a request may
# take; one with a value of its own is closed after so many seconds.
NETWORK: Final = (
    ("latency", (0.05, 0.4), (0.5, 3.0), 12),
    ("uneven", (1.0, 5.0), (3.0, 8.0), 8),
    ("black_hole", (0.0, 0.0), (0.3, 3.0), 17),
    ("black_hole", (0.0, 0.0), (11.0, 11.0), 3),
    ("black_hole", (0.2, 1.0), (0.5, 2.0), 10),
    ("reset", (0.0, 0.0), (0.05, 0.5), 10),
    ("slow_close", (0.2, 1.5), (1.0, 3.0), 10),
    ("limit_data", (10, 700), (0.5, 2.0), 15),
    ("slicer", (1, 40), (1.0, 3.0), 8),
    ("down", (0.0, 0.0), (0.2, 2.0), 7),
)


class Parts(Chain):
    """The chain with the proxy before its server, and with parts that may be found dead."""

    listeners = ("master", "client", "server", "proxy")
    told_by_stdin = ("proxy",)
    terminal_options = ("--balance", "100000")  # no seed: both brokers quote the same market

    def first_ports(self) -> dict[str, int]:
        """Outside the range from which systems take ports for outgoing connections."""
        return dict(zip(self.listeners, free_ports(len(self.listeners)), strict=True))

    @property
    def way_to_server(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def command(self, part: str) -> list[str]:
        if part == "proxy":
            to = f"127.0.0.1:{self.ports['server']}"
            return ["campaign/proxy.py", "--listen", str(self.ports["proxy"]), "--to", to]
        return super().command(part)

    def network(self, command: str) -> None:
        """Tell the proxy, if there is one now. One that is started again lets everything pass."""
        process = self.running.get("proxy")
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(f"{command}\n".encode())
                process.stdin.flush()


def free_ports(number: int) -> set[int]:
    found: set[int] = set()
    while len(found) < number:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return found


class MasterTrader:
    """Does one thing after the other on the master's account, at random."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.done: Counter[str] = Counter()

    def act(self, account: Account) -> None:
        """One trade. What the broker refuses, because the price has moved, is not done. Raises `AccountFailed`."""
        lines = account.now()
        positions = [line for line in lines if line.kind == POSITION]
        orders = [line for line in lines if line.kind == ORDER]
        wanted: list[tuple[int, str, Callable[[], Any]]] = []
        if len(positions) < MOST_POSITIONS:
            wanted.append((60 if len(positions) < 4 else 25, "open", lambda: self._open(account)))
        if len(orders) < MOST_ORDERS:
            wanted.append((12, "place", lambda: self._place(account)))
        if positions:
            one = self._chance.choice(positions)
            wanted.append((22, "close", lambda: account.close_position(one.ticket)))
            wanted.append((14, "stops", lambda: account.set_stops(one.ticket, one.symbol, *self._stops(account, one))))
            if one.volume > Decimal("0.01"):
                wanted.append((14, "close a part", lambda: account.close_position(one.ticket, self._part(one))))
        if orders:
            order = self._chance.choice(orders)
            wanted.append((8, "move", lambda: self._move(account, order)))
            wanted.append((6, "remove", lambda: account.remove(order.ticket)))
        _, name, do = self._chance.choices(wanted, [weight for weight, _, _ in wanted])[0]
        do()
        self.done[name] += 1

    def pause(self) -> float:
        """Seconds until the next trade; often several come at once."""
        return self._chance.choice((0.0, 0.0, 0.05, 0.2, 0.4, 0.8))

    def _lots(self) -> Decimal:
        return Decimal(self._chance.randint(2, 60)) / 100

    def _part(self, line: Line) -> Decimal:
        return Decimal(self._chance.randint(1, int(line.volume * 100) - 1)) / 100

    def _away(self) -> int:
        """Points. Some are reached within seconds, most never."""
        return self._chance.choice((25, 60, 2_000, 3_000, 5_000))

    def _stops(self, account: Account, line: Line) -> tuple[Decimal, Decimal]:
        side = 1 if line.action.startswith("BUY") else -1
        sl = account.price(line.symbol, -side * self._away()) if self._chance.random() < 0.8 else NOTHING
        tp = account.price(line.symbol, side * self._away()) if self._chance.random() < 0.8 else NOTHING
        return sl, tp

    def _open(self, account: Account) -> None:
        symbol, action = self._chance.choice(SYMBOLS), self._chance.choice(("BUY", "SELL"))
        line = Line(POSITION, 0, symbol, action, NOTHING, NOTHING)
        stops = self._stops(account, line) if self._chance.random() < 0.4 else (NOTHING, NOTHING)
        account.open(symbol, action, self._lots(), *stops)

    def _price(self, account: Account, symbol: str, action: str) -> Decimal:
        below = action in ("BUY_LIMIT", "SELL_STOP")
        return account.price(symbol, (-1 if below else 1) * self._away(), ask=action.startswith("BUY"))

    def _place(self, account: Account) -> None:
        symbol = self._chance.choice(SYMBOLS)
        action = self._chance.choice(("BUY_LIMIT", "SELL_LIMIT", "BUY_STOP", "SELL_STOP"))
        account.place(symbol, action, self._lots(), self._price(account, symbol, action))

    def _move(self, account: Account, line: Line) -> None:
        account.move(line.ticket, self._price(account, line.symbol, line.action), NOTHING)


class Campaign:
    """Kills, disturbs, trades, and judges what has come of it."""

    def __init__(self, parts: Parts, seed: int, say: Callable[[str], None]) -> None:
        self.parts = parts
        self.say = say
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.findings: dict[Finding, None] = {}  # each once, in the order in which they were found
        self.reports: list[dict[str, Any]] = []
        self.compared: Comparison | None = None
        self.trader = MasterTrader(random.Random(seed + 1))
        self._chance = random.Random(seed)
        self._weather = random.Random(seed + 2)
        self._accounts: dict[str, Account] = {}
        self._api = Api(ApiSettings(parts.url, "admin", PASSWORDS["admin"], ""))
        self._network_changes_at = 0.0
        self._disturbed = False
        self._trades_at = 0.0
        self._starts: dict[str, float] = {}  # dead parts → when they are started again
        self._foreign: list[Line] = []

    # -- the accounts

    def account(self, part: str) -> Account:
        """Raises `AccountFailed` while the terminal is dead or starting."""
        if part not in self.parts.running:
            raise AccountFailed(f"the {part}'s terminal is dead")
        if part not in self._accounts:
            self._accounts[part] = Account(f"127.0.0.1:{self.parts.ports[part]}", LOGINS[part], PASSWORDS["terminal"])
        return self._accounts[part]

    def _forget_account(self, part: str) -> None:
        account = self._accounts.pop(part, None)
        if account is not None:
            account.close()

    def open_foreign(self) -> None:
        """What is not ours on the client's account, one with a comment like a tag."""
        client = self.account("client")
        client.open("EURUSD", "BUY", Decimal("0.03"))
        tick = client.mt5.symbol_info_tick("USDJPY")
        client.mt5.order_send(
            action=1, symbol="USDJPY", volume=0.04, type=1, price=tick.bid, type_filling=1, magic=FOREIGN_MAGIC,
            comment="pabc123.k3x",
        )  # fmt: skip
        client.place("XAUUSD", "BUY_LIMIT", Decimal("0.05"), client.price("XAUUSD", -20_000))
        self._foreign = client.now()
        if len(self._foreign) != 3:
            raise Vain(f"the client's broker refused the foreign positions: {self._foreign}")

    # -- a time of trouble

    def trouble(self, kills: int, until: float) -> None:
        """So many kills, or until this moment (monotonic)."""
        goal = self.kills.total() + kills
        kill_at, aimed = time.monotonic() + self._chance.uniform(*PAUSE_BETWEEN_KILLS_S), False
        while self.kills.total() < goal and time.monotonic() < until:
            now = time.monotonic()
            self._restart(now)
            self._notice_the_dead()
            if now >= self._network_changes_at:
                self._change_network(now)
            if now >= self._trades_at:
                self._trade(now)
            if now >= kill_at and not aimed and self._chance.random() < AIMED:
                self._trade(now)
                kill_at, aimed = time.monotonic() + self._chance.uniform(0.0, AIMED_WITHIN_S), True
            elif now >= kill_at:
                self._kill(now, goal - self.kills.total())
                kill_at, aimed = now + self._chance.uniform(*PAUSE_BETWEEN_KILLS_S), False
            time.sleep(0.002)

    def _trade(self, now: float) -> None:
        try:
            self._trades_at = now + self.trader.pause()
            self.trader.act(self.account("master"))
        except AccountFailed:  # refused, or the terminal is not there
            self._trades_at = now + 0.1

    def _change_network(self, now: float) -> None:
        self._disturbed = not self._disturbed
        if not self._disturbed:
            self.parts.network("clear")
            self._network_changes_at = now + self._weather.uniform(*PAUSE_BETWEEN_FAULTS_S)
            return
        name, values, lasts, _ = self._weather.choices(NETWORK, [often for *_, often in NETWORK])[0]
        value = self._weather.uniform(*values)
        self.parts.network(f"{name} {value:.3f}" if name not in ("limit_data", "slicer") else f"{name} {value:.0f}")
        self.faults[name] += 1
        self._network_changes_at = now + self._weather.uniform(*lasts)

    def _kill(self, now: float, most: int) -> None:
        alive = [part for part in ALL_PARTS if part in self.parts.running]
        numbers, often = zip(*AT_ONCE, strict=True)
        victims = self._chance.sample(alive, min(self._chance.choices(numbers, often)[0], len(alive), most))
        for part in victims:
            self.parts.kill(part)
            self._forget_account(part)
            self.kills[part] += 1
            self._starts[part] = now + self._chance.uniform(*PAUSE_BEFORE_RESTART_S)
        before, total = self.kills.total() - len(victims), self.kills.total()
        if victims and before // 10 != total // 10:
            self.say(f"{total} kills, {self.faults.total()} network faults, {self.trader.done.total()} trades")

    def _restart(self, now: float) -> None:
        for part, at in list(self._starts.items()):
            if now >= at:
                del self._starts[part]
                self.parts.launch(part)

    def _notice_the_dead(self) -> None:
        for part, process in list(self.parts.running.items()):
            code = process.poll()
            if code is not None:
                last = (self.parts.folder / f"{part}.out").read_text("utf-8", "replace").splitlines()[-1:]
                self._found(Finding("ended by itself", f"{part} ended with code {code}: {''.join(last)}"))
                self.parts.kill(part)
                self._forget_account(part)
                self._starts[part] = time.monotonic()

    def _found(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings[finding] = None
            self.say(f"VIOLATION {finding.what}: {finding.words}")

    # -- a time of peace

    def peace(self) -> None:
        """Everything runs and nothing is disturbed until the accounts agree; then compare all that happened."""
        began = time.monotonic()
        self.parts.network("clear")
        self._disturbed = False
        self._network_changes_at = 0.0
        if not self._agree("after the kills"):
            return
        took = time.monotonic() - began
        if self._canary() and self._agree("after a last trade"):
            self.say(f"the accounts agree again after {took:.1f} s, and copying goes on")

    def _agree(self, when: str, test: Callable[[Comparison], bool] = lambda compared: True) -> bool:
        """Wait until the accounts agree and the test passes; whether they did in time."""
        deadline = time.monotonic() + PEACE_S
        differences: list[Finding] = []
        while time.monotonic() < deadline:
            self._restart(float("inf"))
            self._notice_the_dead()
            try:
                client, master = Shown.of(self.account("client")), Shown.of(self.account("master"))
                foreign = self.account("client").now()
                self._read_reports()
            except (AccountFailed, ApiDown):  # still starting
                for part in ("master", "client"):
                    self._forget_account(part)
                time.sleep(0.05)
                continue
            compared = self.compared = Comparison(master, client, MASTER, MULTIPLIER, MAGIC)
            for finding in compared.broken_promises():
                self._found(finding)
            for line in self._foreign:
                if line not in foreign:
                    self._found(Finding("foreign", f"was touched: {line}"))
            said = said_in(self.reports)
            differences = compared.differences(said) + compared.unreported(said)
            if not differences and test(compared):
                return True
            time.sleep(0.1)
        for finding in differences or [Finding("missing", f"{when}: a trade was not followed")]:
            self._found(finding)
        return False

    def _canary(self) -> bool:
        """One more trade comes and goes: what was before it has been taken in, and copying goes on."""
        master = self.account("master")
        ticket = master.open("EURUSD", "BUY", Decimal("0.20"))
        if not self._agree("a new trade", lambda compared: ticket in compared.positions):
            return False
        master.close_position(ticket)
        return True

    def _read_reports(self) -> None:
        """Raises `ApiDown`."""
        while True:
            after = self.reports[-1]["number"] if self.reports else 0
            page = self._api.call("GET", f"/executions?after={after}&limit=500")["executions"]
            if not page:
                return
            self.reports += page

    # -- the end

    def close(self) -> None:
        for part in list(self._accounts):
            self._forget_account(part)
        self.parts.stop()

    def table(self) -> str:
        rows: list[tuple[str, Any]] = [(f"kills of {part}", self.kills[part]) for part in ALL_PARTS]
        rows += [("kills", self.kills.total())]
        rows += [(f"network: {name}", number) for name, number in sorted(self.faults.items())]
        rows += [("network faults", self.faults.total())]
        rows += [(f"master: {name}", number) for name, number in sorted(self.trader.done.items())]
        if self.compared is not None:
            trades, copied = self.compared.master.trades, self.compared.copied
            why: dict[int, str] = {}
            for report in self.reports:
                if report["event"] in ("skipped", "failed", "unknown", "refused"):
                    why[report["ticket"]] = f"{report['event']}: {report.get('reason', '')}"
            never = Counter(why.get(ticket, "closed before it could be copied") for ticket in trades - copied)
            rows += [("master's trades", len(trades)), ("copied", len(trades & copied))]
            rows += [(f"not copied, {reason}", number) for reason, number in sorted(never.items())]
        found = Counter(finding.what for finding in self.findings)
        names = dict.fromkeys(("duplicate", "lost close", "false close", *sorted(found)))
        rows += [(f"violations: {name}", found[name]) for name in names]
        rows += [("violations", found.total())]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {name:<{width}}  {number:>6}" for name, number in rows)


def run(folder: Path, seed: int, kills: int | None, minutes: float | None, say: Callable[[str], None]) -> Campaign:
    """The whole campaign. Raises `Vain` when the parts do not even start."""
    until = time.monotonic() + minutes * 60 if minutes is not None else float("inf")
    parts = Parts(folder)
    campaign = Campaign(parts, seed, say)
    try:
        parts.wait(lambda: parts.admin("GET", "/overview")["masters"], "the master's first book")
        parts.wait(lambda: "settings" in (folder / "copier.out").read_text("utf-8"), "the copier to be connected")
        campaign.open_foreign()
        left = kills
        while (left is None or left > 0) and time.monotonic() < until:
            now = PEACE_EVERY if left is None else min(PEACE_EVERY, left)
            campaign.trouble(now, until)
            campaign.peace()
            left = None if left is None else left - now
    finally:
        campaign.close()
    return campaign


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="campaign kills", description="Kills the processes of the whole system, and compares the accounts."
    )
    parser.add_argument("--kills", type=int, help="so many (default 200, without --minutes)")
    parser.add_argument("--minutes", type=float, help="go on for so long, or until --kills are done")
    parser.add_argument("--seed", type=int, help="the same seed does the same again")
    options = parser.parse_args(argv)
    kills = 200 if options.kills is None and options.minutes is None else options.kills
    seed = secrets.randbelow(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="aibot-kills-"))
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    before = signal.signal(signal.SIGTERM, _end)
    try:
        campaign = run(folder, seed, kills, options.minutes, say)
    except (Vain, AccountFailed, ApiDown, ApiRefused) as problem:
        print(f"{problem}\nthe campaign could not go on; everything is in {folder}", flush=True)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; everything is in {folder}", flush=True)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{campaign.table()}\n{time.monotonic() - began:.0f} s, seed {seed}", flush=True)
    if campaign.findings:
        for finding in campaign.findings:
            print(f"{finding.what}: {finding.words}")
        print(f"all logs, databases and accounts are in {folder}", flush=True)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end(signum: int, frame: object) -> NoReturn:
    """As Ctrl-C does, so that no process is left behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
