"""The symbols of the simulated broker: their specifications, what these allow, and the file that changes them.

A `SymbolSpec` answers the questions a broker asks of a request: is this volume, price, filling mode allowed?
Prices and lots are `Decimal`, and a price is always a multiple of the symbol's tick size.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_UP, Decimal
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import sim_sessions
import sim_types as t


class SetupError(ValueError):
    """A file or an option the terminal cannot start with; the text says which and what is allowed."""


def decimal_of(value: float) -> Decimal:
    """The decimal number a float was written as: 0.29, never 0.28999999999999998."""
    return D(repr(value)).quantize(D("1e-8"), ROUND_HALF_UP).normalize() if value else D(0)


@dataclass(frozen=True)
class SymbolSpec:
    """One symbol as the broker trades it. Field names are those of `symbol_info()` where it has the field."""

    name: str
    price: Decimal  # the bid the random walk begins at
    digits: int
    description: str = ""
    path: str = ""
    exchange: str = ""
    trade_tick_size: Decimal = D(0)  # 0: one point
    trade_contract_size: Decimal = D(100000)
    trade_tick_value: Decimal = D(0)  # futures only: worth of one tick of one lot, in currency_profit
    spread: int = 10  # points between bid and ask
    volatility: int = 2  # ticks a price moves at most in one step of the walk
    volume_min: Decimal = D("0.01")
    volume_max: Decimal = D(100)
    volume_step: Decimal = D("0.01")
    volume_limit: Decimal = D(0)  # lots per direction, open and pending together; 0: none
    trade_stops_level: int = 0
    trade_freeze_level: int = 0
    trade_calc_mode: int = t.SYMBOL_CALC_MODE_FOREX
    trade_mode: int = t.SYMBOL_TRADE_MODE_FULL
    trade_exemode: int = t.SYMBOL_TRADE_EXECUTION_MARKET
    filling_mode: int = t.SYMBOL_FILLING_FOK | t.SYMBOL_FILLING_IOC
    order_mode: int = 127
    expiration_mode: int = 15
    order_gtc_mode: int = t.SYMBOL_ORDERS_GTC
    sessions: str = ""  # when it is traded, by the server's clock; empty: always
    depth: Decimal = D(0)  # lots each side of the market has at a price; 0: without limit
    currency_base: str = "USD"
    currency_profit: str = "USD"
    currency_margin: str = "USD"
    margin_initial: Decimal = D(0)  # futures only: per lot, in currency_margin
    margin_hedged: Decimal | None = None  # contract size charged for opposite positions; None: the whole
    commission: Decimal = D(0)  # per lot and deal, in the account's currency
    swap_mode: int = t.SYMBOL_SWAP_MODE_POINTS
    swap_long: Decimal = D(0)
    swap_short: Decimal = D(0)
    select: bool = True  # in Market Watch from the start

    def __post_init__(self) -> None:
        if not self.trade_tick_size:
            object.__setattr__(self, "trade_tick_size", self.point)
        object.__setattr__(self, "price", self.to_grid(self.price))
        if self.margin_hedged is None:
            object.__setattr__(self, "margin_hedged", self.trade_contract_size)
        wrong = [text for text, bad in self._contradictions() if bad]
        try:
            sim_sessions.sessions_in(self.sessions or sim_sessions.CLOSED)
        except ValueError as error:
            wrong.append(f"sessions: {error}")
        if wrong:
            raise SetupError(f"symbol {self.name}: {'; '.join(wrong)}")

    def _contradictions(self) -> Iterable[tuple[str, bool]]:
        yield "digits must be 0..8", not 0 <= self.digits <= 8
        yield "trade_tick_size must be a multiple of one point", bool(self.trade_tick_size % self.point)
        yield "price must be positive", self.price <= 0
        yield "spread must not be negative", self.spread < 0
        yield "volatility must be at least 0", self.volatility < 0
        yield "trade_contract_size must be positive", self.trade_contract_size <= 0
        yield "volume_step must be positive", self.volume_step <= 0
        yield "volume_min must be positive and not above volume_max", not 0 < self.volume_min <= self.volume_max
        if self.volume_step > 0:
            yield "volume_min must be a multiple of volume_step", bool(self.volume_min % self.volume_step)
        yield "trade_mode must be 0..4", not 0 <= self.trade_mode <= 4
        yield "trade_exemode must be 0..3", not 0 <= self.trade_exemode <= 3
        yield "filling_mode must be 0..7", not 0 <= self.filling_mode <= 7
        yield (
            "order_mode must be 0..127 and expiration_mode 0..15",
            bool(self.order_mode >> 7 or self.expiration_mode >> 4),
        )
        yield "order_gtc_mode must be 0..2", not 0 <= self.order_gtc_mode <= 2
        yield "swap_mode must be 0..8", not 0 <= self.swap_mode <= 8
        yield "depth and volume_limit must not be negative", min(self.depth, self.volume_limit) < 0
        yield "levels must not be negative", min(self.trade_stops_level, self.trade_freeze_level) < 0
        yield "a future needs trade_tick_value", self.is_future and self.trade_tick_value <= 0

    @property
    def point(self) -> Decimal:
        return D(1).scaleb(-self.digits)

    @property
    def is_future(self) -> bool:
        return self.trade_calc_mode in (t.SYMBOL_CALC_MODE_FUTURES, t.SYMBOL_CALC_MODE_EXCH_FUTURES)

    @property
    def at_requested_price(self) -> bool:
        """Request and Instant execution: price and deviation of the request count."""
        return self.trade_exemode in (t.SYMBOL_TRADE_EXECUTION_REQUEST, t.SYMBOL_TRADE_EXECUTION_INSTANT)

    @property
    def has_last(self) -> bool:
        """An exchange shows the price of the last trade besides bid and ask."""
        return self.trade_exemode == t.SYMBOL_TRADE_EXECUTION_EXCHANGE

    def is_open(self, now_msc: int) -> bool:
        """Whether it is traded now (broker time)."""
        return sim_sessions.is_open(self.sessions, now_msc)

    @property
    def unit_value(self) -> Decimal:
        """What a move of 1.0 in price is worth for one lot, in currency_profit."""
        if self.is_future:
            return self.trade_tick_value / self.trade_tick_size
        return self.trade_contract_size

    @property
    def stops_distance(self) -> Decimal:
        return self.trade_stops_level * self.point

    @property
    def freeze_distance(self) -> Decimal:
        return self.trade_freeze_level * self.point

    def to_grid(self, price: Decimal) -> Decimal:
        steps = (price / self.trade_tick_size).quantize(D(1), ROUND_HALF_UP)
        return (steps * self.trade_tick_size).quantize(self.point)

    def on_grid(self, price: Decimal) -> bool:
        return price % self.trade_tick_size == 0

    def price_text(self, price: Decimal) -> str:
        return f"{price:.{self.digits}f}"

    def volume_fits(self, volume: Decimal) -> bool:
        return self.volume_min <= volume <= self.volume_max and volume % self.volume_step == 0

    def whole_steps(self, volume: Decimal) -> Decimal:
        return volume // self.volume_step * self.volume_step

    def order_type_fits(self, order_type: int) -> bool:
        """Whether the symbol takes orders of this type (order_mode)."""
        flags = (
            (MARKET_TYPES, t.SYMBOL_ORDER_MARKET),
            (LIMIT_TYPES, t.SYMBOL_ORDER_LIMIT),
            (STOP_TYPES, t.SYMBOL_ORDER_STOP),
            (STOP_LIMIT_TYPES, t.SYMBOL_ORDER_STOP_LIMIT),
        )
        return any(order_type in types and self.order_mode & flag for types, flag in flags)

    def filling_fits(self, filling: int, order_type: int) -> bool:
        """Whether a filling mode may be used (the table of symbol_filling_mode in the MQL5 reference).

        Instant and Request allow FOK, IOC and RETURN; Market and Exchange allow FOK and IOC by flag, and
        RETURN never (Market) or always (Exchange). Pending orders may always use RETURN.
        """
        pending = order_type in PENDING_TYPES
        if filling == t.ORDER_FILLING_BOC:
            return order_type in LIMIT_TYPES and bool(self.filling_mode & t.SYMBOL_FILLING_BOC)
        if filling == t.ORDER_FILLING_RETURN:
            return pending or self.trade_exemode != t.SYMBOL_TRADE_EXECUTION_MARKET
        if filling not in (t.ORDER_FILLING_FOK, t.ORDER_FILLING_IOC):
            return False
        flag = t.SYMBOL_FILLING_FOK if filling == t.ORDER_FILLING_FOK else t.SYMBOL_FILLING_IOC
        return self.at_requested_price or bool(self.filling_mode & flag)


BUY_TYPES = frozenset((t.ORDER_TYPE_BUY, t.ORDER_TYPE_BUY_LIMIT, t.ORDER_TYPE_BUY_STOP, t.ORDER_TYPE_BUY_STOP_LIMIT))
MARKET_TYPES = frozenset((t.ORDER_TYPE_BUY, t.ORDER_TYPE_SELL))
LIMIT_TYPES = frozenset((t.ORDER_TYPE_BUY_LIMIT, t.ORDER_TYPE_SELL_LIMIT))
STOP_TYPES = frozenset((t.ORDER_TYPE_BUY_STOP, t.ORDER_TYPE_SELL_STOP))
STOP_LIMIT_TYPES = frozenset((t.ORDER_TYPE_BUY_STOP_LIMIT, t.ORDER_TYPE_SELL_STOP_LIMIT))
PENDING_TYPES = LIMIT_TYPES | STOP_TYPES | STOP_LIMIT_TYPES


def default_symbols() -> dict[str, SymbolSpec]:
    """The symbols every simulated terminal knows: forex, metal, index, crypto, and two B3 mini contracts."""
    b3: dict[str, Any] = {
        "exchange": "BM&FBOVESPA",
        "volume_min": D(1),
        "volume_max": D(1000),
        "volume_step": D(1),
        "trade_calc_mode": t.SYMBOL_CALC_MODE_EXCH_FUTURES,
        "trade_exemode": t.SYMBOL_TRADE_EXECUTION_EXCHANGE,
        "currency_base": "BRL",
        "currency_profit": "BRL",
        "currency_margin": "BRL",
        "swap_mode": t.SYMBOL_SWAP_MODE_DISABLED,
        "select": False,
    }
    specs = (
        SymbolSpec(
            "EURUSD",
            D("1.08500"),
            5,
            "Euro vs US Dollar",
            "Forex\\EURUSD",
            spread=8,
            currency_base="EUR",
            currency_margin="EUR",
            swap_long=D("-6.5"),
            swap_short=D("2.1"),
        ),
        SymbolSpec(
            "GBPUSD",
            D("1.27250"),
            5,
            "Great Britain Pound vs US Dollar",
            "Forex\\GBPUSD",
            spread=11,
            volatility=3,
            currency_base="GBP",
            currency_margin="GBP",
            swap_long=D("-3.2"),
            swap_short=D("-1.4"),
        ),
        SymbolSpec(
            "USDJPY",
            D("150.250"),
            3,
            "US Dollar vs Japanese Yen",
            "Forex\\USDJPY",
            spread=10,
            volatility=3,
            currency_profit="JPY",
            swap_long=D("9.1"),
            swap_short=D("-18.3"),
        ),
        SymbolSpec(
            "XAUUSD",
            D("2650.00"),
            2,
            "Gold vs US Dollar",
            "Metals\\XAUUSD",
            trade_contract_size=D(100),
            spread=16,
            volatility=12,
            volume_max=D(50),
            trade_calc_mode=t.SYMBOL_CALC_MODE_CFDLEVERAGE,
            currency_base="XAU",
            swap_long=D("-35.5"),
            swap_short=D("18.0"),
        ),
        SymbolSpec(
            "US30",
            D("42500.0"),
            1,
            "Dow Jones 30 index CFD",
            "Indices\\US30",
            trade_contract_size=D(1),
            spread=15,
            volatility=15,
            volume_min=D("0.1"),
            volume_max=D(200),
            volume_step=D("0.1"),
            trade_calc_mode=t.SYMBOL_CALC_MODE_CFDLEVERAGE,
            trade_exemode=t.SYMBOL_TRADE_EXECUTION_INSTANT,
            swap_mode=t.SYMBOL_SWAP_MODE_DISABLED,
            select=False,
        ),
        SymbolSpec(
            "BTCUSD",
            D("65000.00"),
            2,
            "Bitcoin vs US Dollar",
            "Crypto\\BTCUSD",
            trade_contract_size=D(1),
            spread=1500,
            volatility=300,
            volume_max=D(20),
            trade_calc_mode=t.SYMBOL_CALC_MODE_CFDLEVERAGE,
            currency_base="BTC",
            swap_mode=t.SYMBOL_SWAP_MODE_DISABLED,
            select=False,
        ),
        SymbolSpec(
            "WINZ26",
            D(130000),
            0,
            "Ibovespa mini future, December 2026",
            "BMF\\WINZ26",
            trade_tick_size=D(5),
            trade_contract_size=D("0.2"),
            trade_tick_value=D(1),
            spread=5,
            margin_initial=D(150),
            **b3,
        ),
        SymbolSpec(
            "WDOZ26",
            D("5450.0"),
            1,
            "US dollar mini future, December 2026",
            "BMF\\WDOZ26",
            trade_tick_size=D("0.5"),
            trade_contract_size=D(10),
            trade_tick_value=D(5),
            spread=5,
            margin_initial=D(160),
            **b3,
        ),
    )
    return {spec.name: spec for spec in specs}


SPEC_FIELDS = {item.name: item for item in fields(SymbolSpec) if item.name != "name"}


def changed_spec(spec: SymbolSpec, changes: dict[str, Any]) -> SymbolSpec:
    """The spec with some of its fields changed; SetupError for a key or a value it cannot have."""
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in SPEC_FIELDS:
            near = difflib.get_close_matches(key, SPEC_FIELDS, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SetupError(f"symbol {spec.name}: unknown key {key!r}{hint}; keys are {', '.join(SPEC_FIELDS)}")
        values[key] = value_for(f"symbol {spec.name}", key, str(SPEC_FIELDS[key].type), value)
    if "digits" in values and "trade_tick_size" not in values:
        values["trade_tick_size"] = D(0)
    if "trade_contract_size" in values and "margin_hedged" not in values:
        values["margin_hedged"] = None
    return replace(spec, **values)


def value_for(owner: str, key: str, kind: str, value: Any) -> Any:
    """A value from a file or a control as a field of that type wants it; SetupError when it is of another."""
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and is_number and value == int(value):
        return int(value)
    if kind == "float" and is_number:
        return float(value)
    if kind.startswith("Decimal") and is_number and abs(value) < D("1e15"):
        return decimal_of(value) if isinstance(value, float) else D(value)
    wanted = {"str": "text", "bool": "true or false", "int": "a whole number"}.get(kind, "a number")
    raise SetupError(f"{owner}: {key} must be {wanted}, not {value!r}")


def _spec_value(name: str, key: str, value: Any) -> Any:
    return value_for(f"symbol {name}", key, str(SPEC_FIELDS[key].type), value)


def symbols_with(changes: dict[str, Any]) -> dict[str, SymbolSpec]:
    """The default symbols with a symbols file's changes: {"EURUSD": {"spread": 15}, "EURUSD.m": {"like": "EURUSD"}}.

    `null` takes a symbol away. A new symbol is made "like" another one, or needs `price` and `digits`.
    """
    specs = default_symbols()
    for name, values in changes.items():
        if values is None:
            specs.pop(name, None)
            continue
        if not isinstance(values, dict):
            raise SetupError(f"symbol {name}: must be an object of settings or null, not {values!r}")
        if not 0 < len(name) < 32:
            raise SetupError(f"symbol {name!r}: a name has 1 to 31 characters")
        values = dict(values)
        like = values.pop("like", name)
        base = default_symbols().get(like) or specs.get(like)
        if base is not None:
            base = replace(base, name=name, path=base.path.rpartition("\\")[0] + "\\" + name)
        elif "like" in changes[name]:
            raise SetupError(f"symbol {name}: like {like!r}: there is no such symbol")
        elif {"price", "digits"} <= set(values):
            price, digits = (_spec_value(name, key, values[key]) for key in ("price", "digits"))
            base = SymbolSpec(name, price, digits)
        else:
            raise SetupError(f'symbol {name}: a new symbol needs "like", or "price" and "digits"')
        specs[name] = changed_spec(base, values)
    if not specs:
        raise SetupError("no symbol is left")
    return specs


def load_symbols(path: Path) -> dict[str, SymbolSpec]:
    """Read a symbols file; SetupError names the file and what is wrong."""
    try:
        changes = json.loads(path.read_text(encoding="utf-8-sig"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise SetupError(f"{path}: {error}") from error
    if not isinstance(changes, dict):
        raise SetupError(f"{path}: must be a JSON object of symbol names")
    try:
        return symbols_with(changes)
    except SetupError as error:
        raise SetupError(f"{path}: {error}") from error
