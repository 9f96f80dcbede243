"""A trader's desk at a simulated broker of its own: what the tests of the simulator trade with."""

from decimal import Decimal as D
from typing import Any

import mt5_sim
from sim_account import AccountSettings
from sim_broker import Broker
from sim_symbols import symbols_with

BUY, SELL, BUY_LIMIT, SELL_LIMIT, BUY_STOP, SELL_STOP, BUY_STOP_LIMIT, SELL_STOP_LIMIT = range(8)
EVER = (1, 2**31 - 1)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


class Desk:
    """A client of a broker of its own, with frozen prices: EURUSD 1.10000/1.10010."""

    def __init__(self, symbols: dict[str, Any] | None = None, **settings: Any) -> None:
        self.clock = Clock()
        settings = {"login": 7, "balance": D(10000)} | settings
        self.broker = Broker(AccountSettings(**settings), clock=self.clock, symbols=symbols_with(symbols or {}), seed=1)
        self.mt5 = mt5_sim.Client(self.broker)
        assert self.mt5.initialize()
        for name in self.broker.market.specs:
            self.mt5.symbol_select(name, True)
        self.quote("EURUSD", 1.10000, 1.10010)

    def quote(self, symbol: str, bid: float, ask: float) -> None:
        self.mt5.sim_set_quote(symbol, bid, ask)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.broker.advance()

    def send(self, **fields: Any) -> Any:
        """A market order unless the fields say otherwise."""
        return self.mt5.order_send({"action": 1, "symbol": "EURUSD", "volume": 0.1, "type_filling": 1} | fields)

    def open(self, **fields: Any) -> Any:
        """The position a market order opens."""
        sent = self.send(**fields)
        assert sent.retcode == 10009, sent
        return self.position(sent.order)

    def pending(self, **fields: Any) -> Any:
        return self.send(**{"action": 5, "type_filling": 2} | fields)

    def close(self, position: Any, /, **fields: Any) -> Any:
        back = {"position": position.ticket, "type": 1 - position.type, "volume": position.volume}
        return self.send(**{"symbol": position.symbol} | back | fields)

    def position(self, ticket: int) -> Any:
        found = self.mt5.positions_get(ticket=ticket)
        return found[0] if found else None

    def order(self, ticket: int) -> Any:
        found = self.mt5.orders_get(ticket=ticket)
        return found[0] if found else None

    def deals(self, position: int) -> Any:
        return self.mt5.history_deals_get(position=position)

    def old_order(self, ticket: int) -> Any:
        return self.mt5.history_orders_get(ticket=ticket)[0]
