"""Stand-ins written by hand: a clock, the MetaTrader5 package, the server's API."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import sim_types
from api_client import ApiDown, ApiRefused
from signals import Key, Kind, Source, Trade, decode, encode, read_fields, trade_for_client, trade_from_sender

NOON = 1_790_000_000.0


class FakeClock:
    """Stands still until it is moved. The wall clock can jump on its own, as those of real machines do."""

    def __init__(self) -> None:
        self.wall = NOON
        self.elapsed = 500.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.elapsed

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


class FakeMt5:
    """The package as it answers what it was told to answer; `asked` has every call in order.

    `answers[function]` is the answer of each call, `then[function]` a list of those of the next calls; an exception is
    raised, a function is called with the call's arguments. An answer of None or False leaves `error` as last_error().
    """

    def __init__(self, login: int = 7, server: str = "Broker-Demo") -> None:
        self.asked: list[tuple[str, Any]] = []
        self.error = (-1, "Terminal: Call failed")
        self.terminal = SimpleNamespace(connected=True, trade_allowed=True, tradeapi_disabled=False)
        self.account = SimpleNamespace(
            login=login, server=server, currency="USD", leverage=100, balance=1000.0, equity=1000.1,
            margin_free=900.0, margin_mode=2, trade_allowed=True, trade_expert=True,
        )  # fmt: skip
        self.symbol = SimpleNamespace(
            name="EURUSD", select=True, visible=True, point=1e-05, digits=5, trade_tick_size=1e-05,
            trade_contract_size=100000.0, volume_min=0.01, volume_max=100.0, volume_step=0.01, trade_stops_level=0,
            trade_freeze_level=0, trade_mode=4, expiration_mode=15, filling_mode=3, trade_exemode=2,
        )  # fmt: skip
        self.quote = SimpleNamespace(bid=1.1, ask=1.1001, time_msc=1_790_010_800_000)
        self.answers: dict[str, Any] = {
            "initialize": True,
            "shutdown": True,
            "symbol_select": True,
            "terminal_info": self.terminal,
            "account_info": self.account,
            "symbol_info": self.symbol,
            "symbol_info_tick": self.quote,
            "orders_get": (),
            "positions_get": (),
            "history_orders_get": (),
            "history_deals_get": (),
            "order_calc_margin": 1100.5,
            "order_send": self.result(10009),
        }
        self.then: dict[str, list[Any]] = {}

    @staticmethod
    def result(retcode: int, **fields: Any) -> Any:
        named = {"order": 5, "deal": 6, "volume": 0.1, "price": 1.1001, "comment": "", **fields}
        return SimpleNamespace(retcode=retcode, **named)

    def last_error(self) -> tuple[int, str]:
        return self.error

    def __getattr__(self, name: str) -> Any:
        if name in sim_types.CONSTANTS:
            return sim_types.CONSTANTS[name]
        if name not in self.answers:
            raise AttributeError(name)
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.asked.append((name, args or kwargs))
        waiting = self.then.get(name)
        answer = waiting.pop(0) if waiting else self.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        return answer(*args, **kwargs) if callable(answer) else answer

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def sent(self) -> list[dict[str, Any]]:
        """The requests given to order_send."""
        return [given[0] for name, given in self.asked if name == "order_send"]


class FakeApi:
    """The server as a sender meets it, by the contract: session, rev, duplicate, 409, and the book that comes of it.

    `faults` are the fates of the next calls: "down" (nothing arrives), "lost" (done, the answer does not arrive), a
    status (refused), or None.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.session: str | None = None
        self.behind_ms = 0
        self.sessions = 0
        self.rev = -1
        self.book: dict[Key, Trade] = {}
        self.ages: dict[Key, int | None] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []  # "PUT /signal/book" and the body, as they arrived
        self.faults: list[str | int | None] = []
        self.while_serving: Callable[[], None] = lambda: None
        self.reports = 0

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "down":
            raise ApiDown(f"{method} {path}: no connection")
        if isinstance(fault, int):
            raise ApiRefused(fault, "refused", f"{method} {path} was refused")
        arrived = decode(encode(body or {}))
        self.calls.append((f"{method} {path}", decode(encode(body or {}))))
        self.while_serving()
        answer = decode(encode(self._answer(f"{method} {path}", arrived)))
        if fault == "lost":
            raise ApiDown(f"{method} {path}: no answer within the time allowed")
        return answer

    def server_ms(self) -> int:
        """The server's clock, which has nothing to do with the sender's."""
        return 1_000_000_000 + int(self._clock.monotonic() * 1000) - self.behind_ms

    def loses_database(self) -> None:
        """And begins another one, with a clock that is behind."""
        self.session, self.behind_ms = None, self.behind_ms + 13_000
        self.book.clear()

    def _answer(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        if what == "GET /signal/book":
            trades = [trade_for_client(trade, trade.volume) for trade in self.book.values()]
            return {"session": self.session, "trades": trades, "server_time": self.server_ms()}
        body.pop("detected_at")
        body.pop("as_of", None)
        session, rev = body.pop("session"), body.pop("rev")
        if session is None:
            assert what == "PUT /signal/book", "only a whole book begins a session"
            if body.pop("replaces", self.session) != self.session:
                raise ApiRefused(409, "stale", "another session has begun meanwhile")
            self.sessions += 1
            self.session, self.rev = f"session-{self.sessions}", rev
        elif self.session is None:
            raise ApiRefused(409, "no_session", "this database does not know the session: begin a new one")
        elif session != self.session:
            raise ApiRefused(409, "superseded", "another sender has begun a session for this master")
        elif rev <= self.rev:
            return {"session": session, "seq": 0, "changes": 0, "duplicate": True}
        self.rev = rev
        match what:
            case "PUT /signal/book":
                self.reports += 1
                read_fields(body, {"trades": list, "account": dict})
                reported = [trade_from_sender(item) for item in body["trades"]]
                self.book = {trade.key: _named(trade) for trade, _ in reported}
                self.ages |= {trade.key: age for trade, age in reported}
                answer = {"session": self.session, "seq": 1, "changes": len(reported)}
                return {**answer, "server_time": self.server_ms()}
            case "POST /signal/broadcast":
                trade, age = trade_from_sender(body)
                if trade.key in self.book:
                    return {"seq": 1, "ticket": trade.ticket, "delivered": 0, "duplicate": True}
                self.book[trade.key], self.ages[trade.key] = _named(trade), age
            case "POST /signal/modify":
                key = (Kind(body.pop("kind")), body.pop("ticket"))
                assert set(body) == {"sl", "tp", "price", "stoplimit", "expiration"}
                self._known(key)
                self.book[key] = SimpleTrade.changed(self.book[key], body)
            case "POST /signal/close":
                key = (Kind(body["kind"]), body["ticket"])
                self._known(key)
                if body["remaining"]:
                    self.book[key] = SimpleTrade.changed(self.book[key], {"volume": body["remaining"]})
                else:
                    del self.book[key]
            case _:
                raise AssertionError(f"the server has no {what}")
        return {"seq": 1, "ticket": 1, "delivered": 1}

    def _known(self, key: Key) -> None:
        if key not in self.book:
            raise ApiRefused(404, "unknown_ticket", "no such trade")

    def said(self) -> list[str]:
        """What was called since the last time this was asked."""
        calls, self.calls = self.calls, []
        return [what for what, _ in calls]


class SimpleTrade:
    """What changes a trade of the fake server's book."""

    @staticmethod
    def changed(trade: Trade, fields: dict[str, Any]) -> Trade:
        values = {name: Decimal(v) if type(v) is int and name != "expiration" else v for name, v in fields.items()}
        return Trade(**{name: values.get(name, getattr(trade, name)) for name in Trade.__dataclass_fields__})


def _named(trade: Trade) -> Trade:
    return SimpleTrade.changed(trade, {"master": "master_user", "source": Source.TERMINAL})


class SilentChannel:
    """To nobody: keeps what a working part tells the supervising process."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def tell(self, **message: Any) -> None:
        self.told.append(message)
