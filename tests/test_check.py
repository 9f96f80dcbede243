"""--check: a tick for what is right, a cross and what to do for what is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chain import MAGIC, PASSWORDS, ROOT, Chain
from test_chain import running_copier

import check
from check import Finding, symbol_finding
from config import load_client
from ledger import CopierLedger


class Desk:
    """The chain without its copier, whose settings are changed and checked."""

    def __init__(self, folder: Path) -> None:
        self.chain = Chain(folder)
        running_copier(self.chain)
        self.chain.master_opens(0.2)
        self.chain.agrees("one trade")
        self.chain.kill("copier")

    def check(self, part: str = "copier", **changes: dict[str, Any]) -> tuple[int, str]:
        """Exit code and table, with these values in the sections of the settings."""
        file = self.chain.folder / ("config_client.json" if part == "copier" else "config_sender.json")
        kept = file.read_text()
        settings = json.loads(kept)
        for section, values in changes.items():
            settings.setdefault(section, {}).update(values)
        file.write_text(json.dumps(settings))
        ended = subprocess.run(
            [sys.executable, str(ROOT / f"{part}.py"), "--check"],
            cwd=self.chain.folder, capture_output=True, text=True, encoding="utf-8", timeout=60,
            env={**os.environ, "PYTHONUTF8": "1"},
        )  # fmt: skip
        file.write_text(kept)
        assert ended.stderr == ""
        return ended.returncode, ended.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    one = Desk(tmp_path_factory.mktemp("check"))
    try:
        yield one
    finally:
        one.chain.stop()


def test_when_all_is_right_there_is_no_cross(desk: Desk) -> None:
    code, said = desk.check()
    assert (code, said.count("✗")) == (0, 0), said
    for line in (
        "✓ settings: no mistake",
        f"✓ folder: {desk.chain.folder}",
        "✓ room on the disk: ",
        "✓ this program: not running",
        f"✓ server: {desk.chain.url}",
        "- TLS: not encrypted (the same computer",
        "✓ log-in: client_user (client)",
        "✓ clock: the server's is 0 s",
        "✓ master: master_user (online)",
        "✓ other copier: none",
        "✓ WebSocket: the server speaks",
        "✓ MetaTrader 5: found",
        "✓ account: 2001 at Sim, connected to the broker",
        "✓ trading password: yes",
        "✓ API trading: yes",
        "✓ Algo Trading: yes",
        "✓ kind of account: hedging, equity ",
        "✓ copying: on",
        "✓ drawdown: equity ",
        f"✓ magic {MAGIC}: no other program uses it",
        "✓ EURUSD: spread now ",
        "all is good",
    ):
        assert line in said


def test_the_sender_is_checked_with_the_investor_password(desk: Desk) -> None:
    code, said = desk.check("sender")
    assert (code, said.count("✗")) == (0, 0), said
    assert "- this program: is running in this folder" in said
    assert "✓ log-in: master_user (master)" in said
    assert "Algo Trading" not in said


@pytest.mark.parametrize(
    ("changes", "cross", "todo"),
    [
        ({"api": {"url": "http://127.0.0.1:1"}}, "server: GET http://127.0.0.1:1/health: no connection", "is api.url"),
        ({"api": {"password": "wrong-password"}}, "log-in: ", "check api.username and api.password"),
        (
            {"api": {"username": "master_user", "password": PASSWORDS["master_user"]}},
            "log-in: master_user (master)",
            "needs a user with the role client",
        ),
        ({"api": {"ws_url": "ws://127.0.0.1:1"}}, "WebSocket: ", "firewall"),
        ({"mt5": {"path": "127.0.0.1:1"}}, "MetaTrader 5: no connection to the terminal", ""),
        ({"mt5": {"password": "wrong"}}, "MetaTrader 5: no connection to the terminal", ""),
        ({"mt5": {"password": PASSWORDS["investor"]}}, "trading password: the account is read-only", ""),
        ({"symbols": {"suffix": ".x"}}, "EURUSD = EURUSD.x: the broker has no symbol EURUSD.x", "symbols.map"),
        ({"symbols": {"map": {"DAX": "GER40"}}}, "DAX = GER40: the broker has no symbol GER40", "symbols.map"),
        ({"trade_copy": {"max_spread_points": 0}}, "EURUSD: spread now ", "max_spread_points"),
    ],
    ids=lambda value: next(iter(next(iter(value.values())))) if isinstance(value, dict) else "",
)
def test_what_is_wrong_has_a_cross_and_says_what_to_do(desk: Desk, changes: Any, cross: str, todo: str) -> None:
    code, said = desk.check(**changes)
    assert code == 1
    assert f"✗ {cross}" in said
    assert todo in said
    assert said.rstrip().endswith("to put right")


def test_https_to_a_server_without_tls_is_no_bad_certificate(desk: Desk) -> None:
    code, said = desk.check(api={"url": desk.chain.url.replace("http", "https")})
    assert code == 1
    assert re.search("✗ server: .* the server speaks no TLS at this address .*\n      -> is api.url right", said)
    assert "- TLS: not looked at" in said
    assert "certificate" not in said


def test_switches_of_the_terminal_have_a_line_each(desk: Desk) -> None:
    for given, line in (({"allowed": False}, "Algo Trading"), ({"api_disabled": True}, "API trading")):
        desk.chain.client.sim_trading(**given)
        code, said = desk.check()
        assert code == 1
        assert f"✗ {line}: " in said
        assert said.count("✗") == 1
    desk.chain.client.sim_trading()


def test_another_account_in_the_terminal_is_not_a_missing_terminal(desk: Desk) -> None:
    desk.chain.client.inject("account_info", "other_login", times=0)
    code, said = desk.check()
    desk.chain.client.sim_clear_faults()
    assert code == 1
    assert "✓ MetaTrader 5: found" in said
    assert "✗ account: the terminal is logged in to account 2002" in said
    assert "- Algo Trading: not looked at" in said


def test_a_terminal_that_hangs_is_a_cross_too(desk: Desk) -> None:
    desk.chain.client.inject("orders_get", "hang", times=0, gil=True)
    code, said = desk.check(mt5={"call_timeout_s": 1})
    desk.chain.client.sim_clear_faults()
    assert code == 1
    assert "✗ MetaTrader 5 does not answer\n      -> end it in the Task Manager" in said


def test_positions_with_our_magic_that_we_did_not_make_are_told(desk: Desk) -> None:
    tick = desk.chain.client.symbol_info_tick("EURUSD")
    done = desk.chain.client.order_send(
        action=1, symbol="EURUSD", volume=0.3, type=0, type_filling=1, price=tick.ask, magic=MAGIC
    )
    code, said = desk.check()
    desk.chain.client.sim_close_by_hand(done.order)
    assert code == 1
    assert f"✗ magic {MAGIC}: 1 positions or orders that this copier did not make" in said


@pytest.fixture
def running(desk: Desk) -> Iterator[Desk]:
    """The desk with its copier."""
    desk.chain.start("copier")
    desk.chain.wait(
        lambda: desk.chain.admin("GET", "/overview")["connected"].get("client_user"), "the copier to be connected"
    )
    yield desk
    desk.chain.kill("copier")


def in_ledger(desk: Desk, **values: str) -> None:
    mt5 = json.loads((desk.chain.folder / "config_client.json").read_text())["mt5"]
    owner = f"account {mt5['login']} at {mt5['server']}"
    with closing(CopierLedger(desk.chain.folder / "client.db", owner)) as ledger:
        ledger.set(**values)


def test_positions_with_our_magic_are_told_while_the_copier_runs_too(running: Desk) -> None:
    tick = running.chain.client.symbol_info_tick("EURUSD")
    done = running.chain.client.order_send(
        action=1, symbol="EURUSD", volume=0.3, type=0, type_filling=1, price=tick.ask, magic=MAGIC
    )
    code, said = running.check()
    running.chain.client.sim_close_by_hand(done.order)
    assert code == 1
    assert f"✗ magic {MAGIC}: 1 positions or orders that this copier did not make" in said
    assert said.count("✗") == 1


def test_a_running_copier_that_is_not_connected_is_a_cross(desk: Desk) -> None:
    file = desk.chain.folder / "config_client.json"
    kept = file.read_text()
    settings = json.loads(kept)
    settings["api"]["ws_url"] = "ws://127.0.0.1:1"
    file.write_text(json.dumps(settings))
    out = desk.chain.folder / "copier.out"
    before = out.read_text()
    desk.chain.start("copier")
    desk.chain.wait(lambda: "not connected to the server" in out.read_text()[len(before) :], "the copier to say so")
    code, said = desk.check()
    desk.chain.kill("copier")
    file.write_text(kept)
    assert code == 1
    assert "✗ WebSocket: the running copier is not connected\n      -> its console and client.log say why" in said
    assert said.count("✗") == 1


def test_what_somebody_does_not_want_copied_stands_out_and_is_no_fault(desk: Desk) -> None:
    desk.chain.api("client_user", "POST", "/users/config", {"copying": "close_only"})
    in_ledger(desk, typed_copying="paused")
    code, said = desk.check(trade_copy={"copying": "flatten"})
    in_ledger(desk, typed_copying="on")
    desk.chain.api("client_user", "POST", "/users/config", {"copying": "on"})
    assert (code, said.count("✗")) == (0, 0), said
    for line in (
        "! copying: flatten, in the settings file: every copy is closed, nothing is opened\n",
        "! copying: paused, typed at the console: nothing is opened or modified\n",
        "! copying: close_only, on the server: nothing is opened\n",
        "      -> to have trades opened again, type resume in the copier's window\n",
        "all is good, but see what is marked !",
    ):
        assert line in said
    code, said = desk.check()
    assert "✓ copying: on" in said
    assert "!" not in said


def test_a_drawdown_that_stops_the_opens_is_a_cross_with_its_numbers(desk: Desk) -> None:
    equity = desk.chain.client.account_info().equity
    in_ledger(desk, highest_equity=str(2 * equity))
    code, said = desk.check()
    assert code == 1
    assert re.search(
        r"✗ drawdown: equity \d+(\.\d+)? is (49|50)\.\d\d % below its highest, \d+(\.\d+)?; allowed 10 %\n", said
    )
    assert "start the copier once with --reset-drawdown" in said
    assert said.count("✗") == 1
    code, said = desk.check(safety={"max_drawdown_percent": 60})
    assert code == 0, said
    desk.chain.api("client_user", "POST", "/users/config", {"trade_copy": {"max_drawdown_percent": 20}})
    code, said = desk.check(safety={"max_drawdown_percent": 60})
    desk.chain.api("client_user", "POST", "/users/config", {"trade_copy": {}})
    in_ledger(desk, highest_equity="0")
    assert code == 1
    assert "allowed 20 %" in said


def test_a_check_changes_nothing_in_a_ledger_and_puts_none_aside(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere := desk.chain.folder / "another").mkdir()
    file = desk.chain.folder / "config_client.json"
    (elsewhere / file.name).write_text(file.read_text())
    (elsewhere / file.name).chmod(0o600)
    monkeypatch.setattr(desk.chain, "folder", elsewhere)
    ledger = elsewhere / "client.db"
    CopierLedger(ledger, "account 2002 at Sim").close()
    begun = ledger.read_bytes()
    _, said = desk.check()
    assert "ledger" not in said
    assert ledger.read_bytes() == begun
    ledger.write_bytes(b"damage" * 1000)
    code, said = desk.check()
    assert code == 1
    assert f"✗ ledger: {ledger} cannot be read: file is not a database" in said
    assert ledger.read_bytes() == b"damage" * 1000
    assert not [*elsewhere.glob("*damaged*")]


def test_a_running_copier_is_not_thrown_out_by_a_check(running: Desk) -> None:
    desk = running
    code, said = desk.check()
    assert code == 0, said
    assert "- this program: is running in this folder" in said
    assert "✓ WebSocket: connected" in said
    assert f"✓ magic {MAGIC}: no other program uses it" in said
    (elsewhere := desk.chain.folder / "elsewhere").mkdir()
    file = desk.chain.folder / "config_client.json"
    (elsewhere / file.name).write_text(file.read_text())
    (elsewhere / file.name).chmod(0o600)
    home, desk.chain.folder = desk.chain.folder, elsewhere
    code, said = desk.check()
    desk.chain.folder = home
    assert code == 1
    assert "✗ other copier: one is connected as client_user, and not from this folder" in said
    copier = desk.chain.running["copier"]
    assert copier.poll() is None
    assert "two copiers" not in (home / "copier.out").read_text()


# ---- without the chain


def quoted(**changes: Any) -> Any:
    values = {
        "opens_buy": True,
        "opens_sell": True,
        "bid": Decimal("1.1"),
        "ask": Decimal("1.1001"),
        "point": Decimal("0.0001"),
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize(
    ("symbol", "good", "words"),
    [
        (quoted(), True, "spread now 1 points, allowed 20"),
        (quoted(opens_buy=False), True, "spread"),
        (quoted(opens_buy=False, opens_sell=False), False, "cannot be traded"),
        (quoted(bid=Decimal(0), ask=Decimal(0)), None, "no quote now"),
        (quoted(ask=Decimal("1.1021")), False, "spread now 21 points"),
        (None, False, "the broker has no symbol EURUSD"),
    ],
)
def test_a_symbol_is_found_tradable_and_its_spread_within_the_limit(symbol: Any, good: bool | None, words: str) -> None:
    config = load_client(ROOT / "config_client.json", {})
    finding = symbol_finding(config, "EURUSD", "EURUSD", symbol)
    assert finding.good is good
    assert words in finding.words
    assert finding.todo or good is not False


def test_a_full_disk_and_a_folder_of_others_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    found = [*check.files(tmp_path)]
    assert [one.good for one in found] == [True, False]
    assert found[1].words == "0.1 GB free"
    (only,) = check.files(tmp_path / "missing")
    assert isinstance(only, Finding)
    assert not only.good


def test_a_wrong_clock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_client(ROOT / "config_client.json", {})
    now = check.time.time()
    for ahead, good in ((59, True), (-59, True), (65, False), (-65, False)):
        api: Any = SimpleNamespace(
            health=lambda: {},
            call=lambda *_, ahead=ahead: {"role": "client", "server_time": int((now + ahead) * 1000)},
        )
        found = {one.name: one for one in check.server(config.api, api, "client", {})}
        assert found["clock"].good is good


def test_symbols_of_quiet_masters_are_found_behind_the_changes_of_others() -> None:
    class Server:
        def call(self, method: str, path: str) -> dict[str, Any]:
            after = int(re.search(r"after=(\d+)", path)[1])  # type: ignore[index]
            return {"signals": [{"data": {"symbol": "EURUSD"}}] if after < 70_000 else []}

    server: Any = Server()
    assert check.traded(server, {"seq": 90_000}) == ["EURUSD"]
    assert check.traded(server, {"seq": 10**9}) == ["EURUSD"], "however far behind"
    server.call = lambda *_: {"signals": []}
    assert check.traded(server, {"seq": 90_000}) == []
    assert check.traded(server, {}) == []
