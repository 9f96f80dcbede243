"""A follower in one process: the real copier, ledger and terminal module, a simulated account, a clock by hand."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from config import ApiSettings, ClientConfig, Module, Mt5Settings
from copier import Copier
from copies import Copy, tag_of
from ledger import CopierLedger
from link import Heard, Lost
from mt5_sim import Client
from safety import Copying, Limits, Mode, Sizing
from signals import Action, Kind, Source, Trade, decode, encode, trade_for_client
from sim_account import AccountSettings
from sim_api import Terminal as SimTerminal
from sim_broker import Broker
from sim_symbols import symbols_with
from terminal import ConnectionLost, Terminal

D = Decimal
MAGIC = 123456
START = 1_790_000_000.0


class HandClock:
    """Moves only when it is told to. `wall` can jump on its own, as clocks of real machines do."""

    def __init__(self) -> None:
        self.now = START
        self.wall = 0.0

    def time(self) -> float:
        return self.now + self.wall

    def monotonic(self) -> float:
        return self.now


class Link:
    """What the copier asks of the connection."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self) -> None:
        self.syncs += 1


class Watched:
    """The MetaTrader5 module with a witness of every call. It can answer about a symbol with other values."""

    def __init__(self, mt5: Client, clock: HandClock) -> None:
        self._mt5 = mt5
        self._clock = clock
        self.calls: Counter[str] = Counter()
        self.sent: list[dict[str, Any]] = []
        self.sent_at: list[float] = []
        self.altered: dict[str, dict[str, Any]] = {}  # symbol → the fields of its symbol_info that are other

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._mt5, name)
        if not callable(value):
            return value

        def counted(*args: Any, **more: Any) -> Any:
            self.calls[name] += 1
            return value(*args, **more)

        return counted

    def order_send(self, request: dict[str, Any]) -> Any:
        self.sent.append(request)
        self.sent_at.append(self._clock.now)
        return self._mt5.order_send(request)

    def symbol_info(self, name: str) -> Any:
        info = self._mt5.symbol_info(name)
        if info is None or name not in self.altered:
            return info
        return SimpleNamespace(**{**info._asdict(), **self.altered[name]})


def position(ticket: int, action: str = "BUY", volume: str = "0.10", symbol: str = "EURUSD", **more: Any) -> Trade:
    fields: dict[str, Any] = {
        "ticket": ticket,
        "kind": Kind.POSITION,
        "symbol": symbol,
        "action": Action(action),
        "volume": D(volume),
        "initial_volume": D(volume),
        "price": D("1.10010") if action == "BUY" else D("1.10000"),
        "master": "master_user",
    }
    return Trade(**{**fields, **more})


def order(ticket: int, action: str = "BUY_LIMIT", price: str = "1.09000", **more: Any) -> Trade:
    return replace(position(ticket), kind=Kind.ORDER, action=Action(action), price=D(price), **more)


class Follower:
    """EURUSD stands at 1.10000/1.10010 until it is moved."""

    def __init__(
        self,
        folder: Path,
        *,
        balance: int = 10_000,
        account: dict[str, Any] | None = None,
        market: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """`account` changes the account's terms, `market` the broker's symbols, as a file of symbols does; `settings`
        are those of the copier's file."""
        self.folder = folder
        self.clock = HandClock()
        terms = AccountSettings(login=2001, balance=D(balance), **(account or {}))
        self.broker = Broker(terms, clock=self.clock, symbols=symbols_with(market or {}), seed=1)
        self.sim = SimTerminal(self.broker)
        self.mt5 = Client(self.sim)
        self.settings = settings
        self.defects_are_meant = False
        self.server_seq = 0
        self.epoch = "epoch-1"
        self.book: dict[tuple[str, Kind, int], Trade] = {}
        self.masters: dict[str, dict[str, Any]] = {
            "master_user": {"master": "master_user", "reported_at": 1, "online": True}
        }
        self.connect_mt5()
        self.mt5.sim_freeze()
        self.mt5.sim_set_quote("EURUSD", 1.10000, 1.10010)
        self.start()

    def connect_mt5(self) -> None:
        assert self.mt5.initialize("x", login=2001, password="demo", server="Sim"), self.mt5.last_error()

    def config(self) -> ClientConfig:
        own = {
            "sizing": Sizing(Mode.MULTIPLIER, D(0), D(1)),
            "limits": Limits(50, 20, 5, D(10), D(10), 60),
            "copying": Copying.ON,
            "magic": MAGIC,
        }
        return ClientConfig(
            api=ApiSettings("http://127.0.0.1:1", "client_user", "secret", "ws://127.0.0.1:1"),
            mt5=Mt5Settings(2001, "demo", "Sim", path="x", module=Module.MT5_SIM),
            folder=self.folder,
            **{**own, **self.settings},
        )

    def start(self) -> None:
        """Start the copier on whatever ledger there is."""
        self.inbox: Any = queue.SimpleQueue()
        self.link = Link()
        self.ledger = CopierLedger(self.folder / "client.db", "account 2001 at Sim", self.clock)
        self.terminal = Terminal(self.mt5, self.config().mt5, self.clock)
        self.copier = Copier(self.terminal, self.ledger, self.config(), self.inbox, self.link, self.clock)

    def watch(self) -> Watched:
        """From now on, until it is started again, the copier's terminal module is a witness of what is asked of it."""
        watched = Watched(self.mt5, self.clock)
        self.terminal._mt5 = watched
        return watched

    def kill(self) -> None:
        """The process ends; the account and the file stay."""
        self.ledger.close()

    def restart(self, **settings: Any) -> None:
        self.kill()
        self.settings |= settings
        self.start()

    def lose_ledger(self) -> None:
        self.kill()
        for file in self.folder.glob("client.db*"):
            file.unlink()
        self.start()

    # -- the server speaks, in its own encoding

    def tell(self, message: dict[str, Any]) -> None:
        self.inbox.put(Heard(decode(encode(message)), self.clock.monotonic()))

    def server_ms(self) -> int:
        return int(self.clock.monotonic() * 1000)

    def sends_book(self, *trades: Trade, config: dict[str, Any] | None = None, silent: bool = False) -> None:
        """The first messages after connecting: the book, then the settings (not when `silent`)."""
        for trade in trades:
            self.book[trade.master, *trade.key] = self._aged(trade)
        data = {
            "masters": list(self.masters.values()),
            "trades": [trade_for_client(t, t.volume) for t in self.book.values()],
        }
        self.tell(
            {"type": "book", "seq": self.server_seq, "epoch": self.epoch, "server_time": self.server_ms(), "data": data}
        )
        if not silent:
            self.sends_config(**(config or {}))

    def sends_config(self, *, copier_since: int | None = None, **settings: Any) -> None:
        since = {} if copier_since is None else {"copier_since": copier_since}
        self.tell({"type": "config", "data": {"trade_copy": {}, "copying": "on", "follow": None, **settings}, **since})

    def _aged(self, trade: Trade) -> Trade:
        self.clock.now += 0.005
        return trade if trade.opened_at else replace(trade, opened_at=self.server_ms())

    def _change(self, kind: str, trade: Trade, **more: Any) -> None:
        before, self.server_seq = self.server_seq, self.server_seq + 1
        self.tell(
            {
                "type": kind,
                "seq": self.server_seq,
                "prev": before,
                "server_time": self.server_ms(),
                "data": {**trade_for_client(trade, trade.volume), **more},
            }
        )

    def master_opens(self, trade: Trade) -> Trade:
        trade = self._aged(trade)
        self.book[trade.master, *trade.key] = trade
        self._change("signal", trade)
        return trade

    def master_modifies(self, trade: Trade, **changes: Any) -> Trade:
        trade = replace(trade, **changes)
        self.book[trade.master, *trade.key] = trade
        self._change("modify", trade)
        return trade

    def master_closes(self, trade: Trade, remaining: str = "0") -> Trade:
        key = (trade.master, *trade.key)
        if D(remaining):
            trade = replace(trade, volume=D(remaining))
            self.book[key] = trade
        else:
            del self.book[key]
        self._change("close", trade, remaining=D(remaining))
        return trade

    def disconnects(self) -> None:
        self.inbox.put(Lost("cut"))

    # -- time and looking

    def look(self, times: int = 3) -> None:
        """Take in what was said and go round a few times, as the program does while there is something to do."""
        for _ in range(times):
            self.copier.wait(0)
            try:
                self.copier.step()
            except ConnectionLost:
                self.terminal.connect()
            assert self.copier.defect == "" or self.defects_are_meant, self.copier.defect

    def passes(self, seconds: float, step: float = 1.0) -> None:
        """Time goes by, with a look every `step` seconds."""
        while seconds > 0:
            self.clock.now += min(step, seconds)
            seconds -= step
            self.look(1)

    def ticks(self, seconds: int) -> None:
        """Time goes by on the market too: what is late at the broker is done when its time has come."""
        for _ in range(seconds):
            self.sim.tick()
            self.passes(1)

    def heartbeat(self) -> None:
        self.tell({"type": "heartbeat", "seq": self.server_seq, "server_time": self.server_ms()})

    # -- the broker and its market

    def falls_to(self, price: float) -> None:
        self.mt5.sim_set_quote("EURUSD", price - 0.0001, price)
        self.sim.tick()

    def broker_keeps_of_comments(self, length: int) -> None:
        object.__setattr__(self.broker.settings, "comment_length", length)

    # -- what the account shows

    @property
    def positions(self) -> list[Any]:
        return list(self.mt5.positions_get())

    @property
    def orders(self) -> list[Any]:
        return list(self.mt5.orders_get())

    @property
    def volumes(self) -> list[float]:
        return [p.volume for p in self.positions]

    def opened(self) -> int:
        """How many positions were ever opened on the account."""
        deals = self.mt5.history_deals_get(1, 2_000_000_000)
        return sum(1 for deal in deals if deal.entry == 0 and deal.type in (0, 1))

    def copy(self, ticket: int, kind: Kind = Kind.POSITION, leg: int = 0) -> Copy | None:
        self.ledger.load([("master_user", kind, ticket, leg)])
        return self.ledger.copies.get(("master_user", kind, ticket, leg))

    def state(self, ticket: int, kind: Kind = Kind.POSITION) -> str:
        copy = self.copy(ticket, kind)
        return "" if copy is None else str(copy.state)

    def reports(self) -> list[dict[str, Any]]:
        return [body for _, body in self.ledger.reports(1000)]

    def events(self) -> list[str]:
        return [body["event"] for body in self.reports()]


Make = Callable[..., Follower]  # the fixture `make`: settings of the file → a follower that has heard its first book

__all__ = ["MAGIC", "D", "Follower", "Make", "Source", "Watched", "order", "position", "tag_of"]
