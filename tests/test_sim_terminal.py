"""The simulated terminal as a process: real sockets, several clients, kill and restart."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

import mt5_sim
import sim_terminal
from sim_account import AccountSettings

ROOT = Path(__file__).resolve().parent.parent
GOOD = {"action": 1, "symbol": "EURUSD", "volume": 0.01, "type": 0, "type_filling": 1}
EVER = (1, 2**31 - 1)


class Process:
    """A terminal that listens on `address`."""

    def __init__(self, *options: str) -> None:
        # A group of its own on Windows, where Ctrl-C goes to a whole group.
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if sys.platform == "win32" else {}
        command = [sys.executable, str(ROOT / "sim_terminal.py"), *options]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **flags)
        assert self.popen.stdout
        self.line = self.popen.stdout.readline()
        self.address = self.line.split()[-1] if self.line else ""

    def kill(self) -> None:
        self.popen.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        _, errors = self.popen.communicate(timeout=30)
        return self.popen.returncode, errors


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def run(*options: str) -> Process:
        running.append(Process("--port", "0", "--tick-ms", "20", *options))
        return running[-1]

    yield run
    for process in running:
        if process.popen.poll() is None:
            process.kill()


@pytest.fixture
def connect() -> Iterator[Callable[..., mt5_sim.Client]]:
    clients: list[mt5_sim.Client] = []

    def to(address: str, **credentials: Any) -> mt5_sim.Client:
        client = mt5_sim.Client()
        clients.append(client)
        assert client.initialize(address, **credentials), client.last_error()
        return client

    yield to
    for client in clients:
        client.shutdown()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_it_says_where_it_listens_and_takes_orders(start: Any, connect: Any):
    terminal = start("--login", "1001", "--balance", "2500.50", "--leverage", "30")
    assert terminal.line == f"terminal 1001 listens on {terminal.address}\n"
    mt5 = connect(terminal.address, login=1001, password="demo", server="Sim")
    info = mt5.account_info()
    assert (info.login, info.balance, info.leverage, info.margin_mode) == (1001, 2500.5, 30, 2)
    sent = mt5.order_send(GOOD)
    assert sent.retcode == 10009
    assert [position.ticket for position in mt5.positions_get()] == [sent.order]
    assert mt5.version()[0] == 500


def test_the_module_itself_is_one_client(start: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIBOT_SIM_TERMINAL", start("--login", "5").address)
    assert mt5_sim.initialize()
    assert mt5_sim.account_info().login == 5
    assert mt5_sim.order_send(**GOOD).retcode == 10009
    assert mt5_sim.shutdown()
    assert mt5_sim.account_info() is None


def test_wrong_credentials_and_no_listener(start: Any):
    terminal, mt5 = start("--password", "secret"), mt5_sim.Client()
    assert mt5.initialize(terminal.address, login=1001, password="demo") is False
    assert mt5.last_error()[0] == -6
    assert mt5.initialize(terminal.address, login=1002, password="secret") is False
    assert mt5.initialize(terminal.address, login=1001, password="secret")
    assert mt5.initialize(f"127.0.0.1:{free_port()}") is False
    code, text = mt5.last_error()
    assert (code, text[:23]) == (-10003, "IPC initialize failed, ")
    assert mt5.positions_get() is None


def test_several_clients_are_served_at_once(start: Any, connect: Any):
    terminal = start()
    clients = [connect(terminal.address) for _ in range(6)]
    watcher = connect(terminal.address)
    failures: list[Any] = []

    def trade(mt5: mt5_sim.Client) -> None:
        for _ in range(10):
            sent = mt5.order_send(GOOD)
            if sent is None or sent.retcode != 10009 or not mt5.positions_get(ticket=sent.order):
                failures.append(sent)

    threads = [threading.Thread(target=trade, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    tickets = [position.ticket for position in watcher.positions_get()]
    assert failures == []
    assert len(set(tickets)) == 60


def test_a_client_that_hangs_delays_nobody(start: Any, connect: Any):
    terminal = start()
    hanging, other = connect(terminal.address), connect(terminal.address)
    other.inject("positions_get", "hang")
    thread = threading.Thread(target=hanging.positions_get, daemon=True)
    thread.start()
    assert other.order_send(GOOD).retcode == 10009
    other.sim_clear_faults()
    thread.join(30)
    assert not thread.is_alive()


def test_initialize_gives_up_on_a_terminal_that_does_not_answer(start: Any, connect: Any):
    terminal = start()
    connect(terminal.address).inject("initialize", "hang")
    mt5 = mt5_sim.Client()
    assert mt5.initialize(terminal.address, timeout=200) is False
    assert mt5.last_error() == (-10005, "IPC timeout")
    assert mt5.initialize(terminal.address)
    mt5.shutdown()


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"nonsense\n", b"\xff\xfe\x00\n", b"[]\n", b"5\n", b'{"call": 5}\n',
        b'{"call": "positions_get", "args": 5}\n',
        b'{"call": "nope"}\n', b'{"call": "order_send", "args": {"action": "x"}}\n', b"[" * 5000 + b"\n",
        b'{"call": "history_deals_get", "args": {}}\n', b"9" * 5000 + b"\n", b"x" * (2 << 20) + b"\n",
        b'{"call": "inject", "args": {"function": "positions_get", "outcome": [1]}}\n',
        b'{"call": "sim_advance", "args": {"steps": "x"}}\n', b'{"call": "sim_set_quote", "args": {"bid": NaN}}\n',
    ],
)  # fmt: skip
def test_hostile_input_does_not_kill_it(hostile: Process, line: bytes):
    host, _, port = hostile.address.rpartition(":")
    with socket.create_connection((host, int(port)), 30) as raw:
        try:
            raw.sendall(b'{"call": "initialize", "args": {}}\n' + line)
            raw.shutdown(socket.SHUT_WR)
            with raw.makefile("rb") as answers:
                first, second = (json.loads(answer) for answer in answers)
            assert first == {"result": True}
            assert second.keys() & {"wrong", "error", "result"}
        except OSError:  # it may hang up while we are still talking
            pass
    mt5 = mt5_sim.Client()
    assert mt5.initialize(hostile.address)
    assert mt5.account_info().login == 1001
    mt5.shutdown()


def test_nothing_is_told_before_the_login(hostile: Process):
    host, _, port = hostile.address.rpartition(":")
    with socket.create_connection((host, int(port)), 30) as raw, raw.makefile("rb") as answers:
        for call in ("positions_get", "order_send", "account_info"):
            raw.sendall(json.dumps({"call": call, "args": GOOD}).encode() + b"\n")
            assert json.loads(answers.readline())["error"] == [-10004, "No IPC connection"]
        raw.sendall(b'{"call": "initialize", "args": {"login": 1001, "password": "x"}}\n')
        assert json.loads(answers.readline())["error"][0] == -6
        raw.sendall(b'{"call": "positions_get"}\n')
        assert json.loads(answers.readline())["error"][0] == -10004


@pytest.fixture(scope="module")
def hostile() -> Iterator[Process]:
    process = Process("--port", "0")
    yield process
    process.kill()


def test_a_killed_terminal_is_noticed_and_stays_lost(start: Any, connect: Any):
    terminal = start()
    mt5 = connect(terminal.address)
    assert mt5.positions_get() == ()
    terminal.kill()
    for _ in range(2):
        assert mt5.positions_get() is None
        assert mt5.last_error() == (-10001, "IPC send failed")


def test_a_terminal_killed_during_a_call_is_noticed_as_such(start: Any, connect: Any, wait_until: Any):
    terminal = start()
    mt5, other = connect(terminal.address), connect(terminal.address)
    other.inject("positions_get", "hang")
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append((mt5.positions_get(), mt5.last_error())), daemon=True)
    thread.start()
    wait_until(lambda: other.sim_faults() == [], "the call to begin")
    terminal.kill()
    thread.join(30)
    assert answers == [(None, (-10002, "IPC recv failed"))]
    assert mt5.positions_get() is None
    assert mt5.last_error() == (-10004, "No IPC connection")


def test_kill_loses_nothing_that_was_acknowledged(start: Any, connect: Any, tmp_path: Path):
    state = str(tmp_path / "state.json")
    terminal = start("--state", state)
    mt5 = connect(terminal.address)
    first = [mt5.order_send(GOOD).order for _ in range(5)]
    mt5.order_send({**GOOD, "type": 1, "position": first[0]})
    pending = mt5.order_send({**GOOD, "action": 5, "type": 2, "price": 1.0}).order
    last = mt5.order_send(GOOD).order
    terminal.kill()

    terminal = start("--state", state)
    again = connect(terminal.address)
    assert [position.ticket for position in again.positions_get()] == [*first[1:], last]
    assert [order.ticket for order in again.orders_get()] == [pending]
    assert len(again.history_deals_get(position=first[0])) == 2
    assert again.order_send(GOOD).order > last


def test_prices_go_on_after_a_restart(start: Any, connect: Any, tmp_path: Path):
    options = ("--state", str(tmp_path / "state.json"), "--seed", "9")
    terminal = start(*options)
    mt5 = connect(terminal.address)
    mt5.sim_set_quote("EURUSD", 1.2, 1.20008)
    mt5.order_send(GOOD)  # saves the quotes as well
    terminal.kill()
    assert connect(start(*options).address).symbol_info_tick("EURUSD").bid > 1.19


def test_two_terminals_quote_the_same_market_with_their_own_spread(start: Any, connect: Any, tmp_path: Path):
    symbols = tmp_path / "symbols.json"
    symbols.write_text('{"EURUSD": {"spread": 15, "volume_min": 0.1, "volume_step": 0.1}}')
    master = connect(start("--login", "1001", "--utc-offset", "2").address)
    client = connect(start("--login", "1002", "--symbols", str(symbols)).address)
    ticks = master.symbol_info_tick("EURUSD"), client.symbol_info_tick("EURUSD")
    assert abs(ticks[0].bid - ticks[1].bid) < 0.002
    assert [round((tick.ask - tick.bid) * 1e5) for tick in ticks] == [8, 15]
    assert 3500 < ticks[1].time - ticks[0].time < 3700
    assert client.order_send(GOOD).retcode == 10014
    assert master.order_send(GOOD).order != client.order_send({**GOOD, "volume": 0.1}).order


def test_the_market_moves_by_itself_and_triggers(start: Any, connect: Any, wait_until: Any):
    mt5 = connect(start("--seed", "2").address)
    tick = mt5.symbol_info_tick("EURUSD")
    wait_until(lambda: mt5.symbol_info_tick("EURUSD").time_msc > tick.time_msc, "a new tick")
    # Stops on both sides: whichever way the price goes, one of them is reached.
    mt5.order_send({**GOOD, "sl": round(tick.bid - 0.00020, 5)})
    mt5.order_send({**GOOD, "type": 1, "sl": round(tick.ask + 0.00020, 5)})
    wait_until(lambda: any(deal.reason == 4 for deal in mt5.history_deals_get(*EVER)), "a stop")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--margin-mode netting", {"margin_mode": "netting"}),
        ("--margin-mode exchange --currency BRL", {"margin_mode": "exchange", "currency": "BRL"}),
        ("--balance 250.5 --leverage 30 --server B3", {"balance": D("250.5"), "leverage": 30, "server": "B3"}),
        ("--margin-call 80 --stop-out 20", {"margin_call": D(80), "stop_out": D(20)}),
        ("--limit-orders 3 --limit-positions 2", {"limit_orders": 3, "limit_positions": 2}),
        ("--comment-length 8 --comment-replaced web", {"comment_length": 8, "comment_replaced": "web"}),
        ("--no-stops-on-open", {"stops_on_open": False}),
        ("--fifo --hedge-prohibited", {"fifo_close": True, "hedge_prohibited": True}),
        ("--rollover --utc-offset 2", {"rollover": True, "utc_offset": 2.0}),
    ],
)
def test_every_term_of_the_account_has_an_option(options: str, settings: dict[str, Any]):
    parsed = sim_terminal._arguments(["--login", "7", *options.split()])
    assert sim_terminal._broker(parsed).settings == AccountSettings(login=7, **settings)


def test_a_terminal_of_a_netting_account_with_its_own_symbols(start: Any, connect: Any, tmp_path: Path):
    symbols = tmp_path / "symbols.json"
    symbols.write_text('{"EURUSD": {"depth": 0.02}, "GBPUSD": {"sessions": "closed"}}')
    mt5 = connect(start("--margin-mode", "netting", "--symbols", str(symbols)).address)
    first = mt5.order_send({**GOOD, "volume": 0.03})
    assert (mt5.account_info().margin_mode, first.retcode, first.volume) == (0, 10010, 0.02)
    mt5.sim_symbol("EURUSD", depth=0)
    assert mt5.order_send({**GOOD, "volume": 0.05, "type": 1}).retcode == 10009
    (position,) = mt5.positions_get()
    assert (position.identifier, position.type, position.volume) == (first.order, 1, 0.03)
    assert mt5.order_send({**GOOD, "symbol": "GBPUSD"}).retcode == 10018


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--margin-mode", "nettin"), "netting"),
        (("--margin-mode", "netting", "--fifo"), "fifo_close"),
        (("--symbols", "missing.json"), "missing.json"),
        (("--ticks", "missing.csv"), "missing.csv"),
        (("--state", "no/such/folder/x.json"), "state file"),
        (("--balance", "much"), "not an amount"),
        (("--login", "0"), "login"),
        (("--tick-ms", "0"), "must be positive"),
    ],
)
def test_it_does_not_start_on_a_mistake_and_says_which(options: tuple[str, ...], words: str):
    process = Process("--port", "0", *options)
    code, errors = process.end()
    assert (code, process.line) == (2, "")
    assert words in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_named(start: Any):
    port = start().address.rpartition(":")[2]
    code, errors = Process("--port", port).end()
    assert code == 2
    assert port in errors


def test_ctrl_c_ends_it_cleanly(start: Any, connect: Any):
    terminal = start()
    mt5 = connect(terminal.address)
    mt5.inject("positions_get", "hang")
    threading.Thread(target=mt5.positions_get, daemon=True).start()
    if sys.platform == "win32":
        os.kill(terminal.popen.pid, signal.CTRL_BREAK_EVENT)
    else:
        terminal.popen.send_signal(signal.SIGINT)
    code, errors = terminal.end()
    assert (code, "Traceback" in errors) == (0, False)
