"""The simulated terminal: a process with an account in it, which `mt5_sim` talks to as MetaTrader5 talks to a terminal.

    python sim_terminal.py --port 18801 --login 1001 --balance 10000 --state master.json

It listens on loopback for newline-delimited JSON, one connection per client, several clients at once. Every
change of the account is in the state file before it is answered, so killing the process loses nothing that was
acknowledged. It also holds the faults that tests inject (docs/simulator.md lists them); without an injected fault
it never misbehaves.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import socketserver
import sys
import threading
import time
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import sim_types as t
from sim_account import AccountSettings
from sim_api import CallFailedError, Session, Terminal
from sim_broker import Broker
from sim_market import load_ticks
from sim_symbols import SetupError, load_symbols

log = logging.getLogger(__name__)

MAX_LINE = 1 << 20


class _Connection(socketserver.StreamRequestHandler):
    """One client: a line of JSON in, a line of JSON out."""

    server: TerminalServer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        session = Session(hold=lambda: self._write({"hold": True}))
        try:
            while line := self.rfile.readline(MAX_LINE):
                answer, go_on = self._answer(session, line)
                self._write(answer)
                if not go_on:
                    return
        except OSError:
            log.info("a client of terminal %s is gone", self.server.terminal.broker.settings.login)

    def _write(self, answer: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")

    def _answer(self, session: Session, line: bytes) -> tuple[dict[str, Any], bool]:
        try:
            call = json.loads(line)
            name, args = call["call"], call.get("args") or {}
            if not isinstance(name, str) or not isinstance(args, dict):
                raise SetupError("a call has a name and an object of arguments")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return {"wrong": f"not a call: {error!r}"}, False
        try:
            return {"result": self.server.terminal.call(session, name, args)}, True
        except CallFailedError as failed:
            return {"error": [failed.code, failed.text], "drop": failed.drop}, not failed.drop
        except SetupError as wrong:
            return {"wrong": str(wrong)}, True
        except Exception:  # the one place where a mistake of ours, or hostile input, ends: this call only
            log.exception("call %s failed", name)
            return {"error": [t.RES_E_FAIL, t.ERROR_TEXT[t.RES_E_FAIL]]}, True


class TerminalServer(socketserver.ThreadingTCPServer):
    """Serves a terminal to any number of clients, a thread each."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    # On Windows this option would let a second terminal take the same port.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, terminal: Terminal, host: str, port: int) -> None:
        self.terminal = terminal
        super().__init__((host, port), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("connection from %s ended badly", client_address)


def _decimal(text: str) -> D:
    try:
        value = D(text)
    except ArithmeticError:
        value = D("NaN")
    if not value.is_finite() or not 0 <= value <= D("1e12"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount")
    return value


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sim_terminal.py", description="A simulated MetaTrader 5 terminal.")
    add = parser.add_argument
    add("--port", type=int, default=18801, help="0 takes a free one (default 18801)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--login", type=int, default=1001, help="account number (default 1001)")
    add("--password", default="demo", help="master password (default demo)")
    add("--investor-password", default="investor", help="read-only password (default investor)")
    add("--server", default="Sim", help="name of the trade server (default Sim)")
    add("--balance", type=_decimal, default=D(10000), help="first deposit (default 10000)")
    add("--currency", default="USD", help="account currency (default USD)")
    add("--leverage", type=int, default=100, help="1:N (default 100)")
    add("--margin-mode", default="hedging", choices=("hedging", "netting", "exchange"))
    add("--margin-call", type=_decimal, default=D(100), help="margin level in per cent (default 100)")
    add("--stop-out", type=_decimal, default=D(50), help="margin level in per cent, 0 never (default 50)")
    add("--limit-orders", type=int, default=500, help="pending orders at most, 0 no limit (default 500)")
    add("--limit-positions", type=int, default=0, help="open positions at most, 0 no limit (default 0)")
    add("--comment-length", type=int, default=16, help="characters kept of a comment (default 16)")
    add("--comment-replaced", default="", metavar="TEXT", help="the server writes this in place of every comment")
    add("--no-stops-on-open", action="store_true", help="Market and Exchange execution opens take no SL and TP")
    add("--fifo", action="store_true", help="only the oldest position of a symbol may be closed (hedging)")
    add("--hedge-prohibited", action="store_true", help="no opposite positions of a symbol (hedging)")
    add("--rollover", action="store_true", help="charge swap at the server's midnight")
    add("--utc-offset", type=float, default=3.0, help="hours the server's clock is ahead of UTC (default 3)")
    add("--symbols", type=Path, metavar="FILE.json", help="changes to the default symbols")
    add("--ticks", type=Path, metavar="FILE.csv", help="replay these ticks (time_msc,bid,ask[,symbol])")
    add("--tick-speed", type=float, default=1.0, help="replay so many times as fast (default 1)")
    add("--seed", help="walk by this seed instead of following the market all terminals share")
    add("--tick-ms", type=int, default=200, help="milliseconds between steps of the market (default 200)")
    add("--state", type=Path, metavar="FILE.json", help="keep the account in this file")
    options = parser.parse_args(argv)
    if options.tick_ms < 1 or options.tick_speed <= 0 or not 0 <= options.port < 65536:
        parser.error("--tick-ms and --tick-speed must be positive, --port within 0 and 65535")
    return options


def _broker(options: argparse.Namespace) -> Broker:
    settings = AccountSettings(
        login=options.login,
        balance=options.balance,
        currency=options.currency,
        leverage=options.leverage,
        margin_mode=options.margin_mode,
        server=options.server,
        utc_offset=options.utc_offset,
        margin_call=options.margin_call,
        stop_out=options.stop_out,
        limit_orders=options.limit_orders,
        limit_positions=options.limit_positions,
        comment_length=options.comment_length,
        comment_replaced=options.comment_replaced,
        stops_on_open=not options.no_stops_on_open,
        fifo_close=options.fifo,
        hedge_prohibited=options.hedge_prohibited,
        rollover=options.rollover,
    )
    symbols = load_symbols(options.symbols) if options.symbols else None
    broker = Broker(settings, symbols=symbols, seed=options.seed, state=options.state)
    if options.ticks:
        broker.market.replay(load_ticks(options.ticks, broker.market.specs), options.tick_speed, broker.now_msc())
    try:
        broker.save()
    except OSError as error:
        raise SetupError(f"cannot write the state file: {error}") from error
    return broker


def main(argv: list[str] | None = None) -> int:
    """Run a terminal until Ctrl-C; 2 when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = _arguments(argv)
    for name in ("SIGTERM", "SIGBREAK"):  # the polite ends of POSIX and Windows, besides Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        terminal = Terminal(_broker(options), password=options.password, investor_password=options.investor_password)
        server = TerminalServer(terminal, options.host, options.port)
    except SetupError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot start on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 2
    host, port = server.server_address[:2]
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="serve", daemon=True)
    serving.start()
    print(f"terminal {options.login} listens on {host!s}:{port}", flush=True)
    try:
        rest = threading.Event()
        next_save = time.monotonic()
        while serving.is_alive():
            rest.wait(options.tick_ms / 1000)
            terminal.tick()
            if time.monotonic() >= next_save:  # quotes, so that a restart goes on from about here
                next_save = time.monotonic() + 5
                with terminal.lock:
                    terminal.broker.save()
    except KeyboardInterrupt:
        pass
    finally:
        terminal.close()
        server.shutdown()
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
