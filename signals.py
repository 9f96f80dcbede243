"""The vocabulary of the system: trades, books, the changes between two books, and the JSON on the wire.

Pure: no clock, no socket, no terminal, no database. Lots and prices are `Decimal`, so that 0.29 lots stay 29
hundredths; times are UTC milliseconds; 0 stands for "none" in prices and times, as in MetaTrader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeVar

# Tickets that the server hands out itself begin here, far above any broker's. All tickets stay below 2**53, up to which
# JavaScript counts exactly.
FIRST_SERVER_TICKET: Final = 8_000_000_000_000_000
LAST_TICKET: Final = 2**53 - 1
NOTHING: Final = Decimal(0)
LEDGER_HEADER: Final = "X-Ledger"  # of a copier's WebSocket handshake: the name of its ledger


class Kind(StrEnum):
    """What a line of the book is."""

    POSITION = "position"
    ORDER = "order"


class Source(StrEnum):
    """Where a trade came from: a sender's account, or a web-hook, a script, the dashboard."""

    TERMINAL = "terminal"
    MANUAL = "manual"


class Action(StrEnum):
    """What is traded: the first two are positions, the others pending orders."""

    BUY = "BUY"
    SELL = "SELL"
    BUY_LIMIT = "BUY_LIMIT"
    SELL_LIMIT = "SELL_LIMIT"
    BUY_STOP = "BUY_STOP"
    SELL_STOP = "SELL_STOP"
    BUY_STOP_LIMIT = "BUY_STOP_LIMIT"
    SELL_STOP_LIMIT = "SELL_STOP_LIMIT"

    @property
    def buys(self) -> bool:
        return self.startswith("BUY")

    @property
    def kind(self) -> Kind:
        return Kind.POSITION if self in (Action.BUY, Action.SELL) else Kind.ORDER


Key = tuple[Kind, int]  # a partly filled pending order coexists with its position under the same ticket


@dataclass(frozen=True, slots=True)
class Increase:
    """How a position last grew or turned round: on netting accounts, or when the rest of a pending order fills."""

    volume: Decimal  # lots that came then; of a position that turned round all it had then
    price: Decimal  # at which that was, as near as the sender saw it
    order: int = 0  # ticket of the pending order whose fill it was; 0 = at market
    at: int = 0  # UTC ms by the server's clock; 0 = age unknown
    age_ms: int | None = None  # in place of `at` on the way from the sender to the server


@dataclass(frozen=True, slots=True)
class Trade:
    """One line of a master's book: an open position or a pending order, always in its whole state."""

    ticket: int  # a position's identifier (constant for its life) or a pending order's ticket
    kind: Kind
    symbol: str  # as the master's broker writes it
    action: Action
    volume: Decimal  # lots now
    initial_volume: Decimal  # lots when first seen
    price: Decimal  # open price of a position, order price of a pending order
    stoplimit: Decimal = NOTHING
    sl: Decimal = NOTHING
    tp: Decimal = NOTHING
    expiration: int = 0  # UTC ms
    magic: int = 0
    comment: str = ""
    contract_size: Decimal = NOTHING  # of the master's symbol; 0 when the master did not say
    point: Decimal = NOTHING
    digits: int = 0
    opened_at: int = 0  # UTC ms by the server's clock; 0 = age unknown
    master: str = ""  # user name, set by the server
    source: Source = Source.TERMINAL
    increase: Increase | None = None  # None = has not grown since it was first seen

    @property
    def key(self) -> Key:
        return (self.kind, self.ticket)

    @property
    def first_order(self) -> int:
        """Ticket of the order that opened it, whose number a position keeps for life; 0 of a pending order."""
        return self.ticket if self.kind is Kind.POSITION else 0


Book = Mapping[Key, Trade]  # one master's trades


def book_of(trades: Iterable[Trade]) -> dict[Key, Trade]:
    return {trade.key: trade for trade in trades}


# --- changes between two books ---------------------------------------------------------------------------------------


class ChangeType(StrEnum):
    """The three messages about a trade."""

    SIGNAL = "signal"
    MODIFY = "modify"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one trade. `trade` is its state afterwards; for a full close its last known state."""

    type: ChangeType
    trade: Trade
    remaining: Decimal | None = None  # CLOSE only: lots left on the master, 0 when it is gone

    @property
    def gone(self) -> bool:
        return self.type is ChangeType.CLOSE and not self.remaining


# What /signal/modify can say. Every other difference (side, more volume, symbol) needs the whole book.
MODIFIABLE: Final = ("sl", "tp", "price", "stoplimit", "expiration")


def diff(old: Book, new: Book) -> list[Change]:
    """The changes that turn the book `old` into `new`, in the order in which a copier should carry them out.

    Closes of positions first (they take risk away), then modifications, new trades, and vanished pending orders last: a
    pending order that filled then shows as "its position is there" before "the order is gone", never as neither.
    """
    closed: list[Change] = []
    modified: list[Change] = []
    opened: list[Change] = []
    cancelled: list[Change] = []
    for key, was in old.items():
        if key not in new:
            gone = Change(ChangeType.CLOSE, was, NOTHING)
            (closed if was.kind is Kind.POSITION else cancelled).append(gone)
    for key, now in new.items():
        known = old.get(key)
        if known is None:
            opened.append(Change(ChangeType.SIGNAL, now))
            continue
        if now.volume < known.volume and now.action is known.action:
            closed.append(Change(ChangeType.CLOSE, now, now.volume))
            known = replace(known, volume=now.volume)
        if differs(known, now):
            modified.append(Change(ChangeType.MODIFY, now))
    return closed + modified + opened + cancelled


def differs(one: Trade, other: Trade) -> bool:
    """Whether two states of a trade differ in what a copier must act on."""
    return any(getattr(one, name) != getattr(other, name) for name in (*MODIFIABLE, "action", "volume", "symbol"))


def modifiable(one: Trade, other: Trade) -> bool:
    """Whether /signal/modify can say the difference between two states of a trade."""
    return one.action is other.action and one.symbol == other.symbol and one.volume == other.volume


# --- JSON on the wire ------------------------------------------------------------------------------------------------


class BadJson(ValueError):
    """The bytes are not the JSON that this system speaks; str() says why."""


class BadField(ValueError):
    """A field is missing, unknown, of the wrong type or out of range."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def encode(message: Mapping[str, Any]) -> str:
    """Compact JSON; a `Decimal` becomes a number. NaN and Infinity raise `ValueError`."""
    return _ENCODER.encode(message)


def _plain(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)  # the shortest repr of a double gives back every lot and price of up to 15 digits
    raise TypeError(f"{type(value).__name__} has no place in a message")


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def decode(raw: bytes | str) -> dict[str, Any]:
    """A JSON object with fractions as `Decimal`. Raises `BadJson`; stricter than `json`, see the tests' corpus."""
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        message = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise BadJson("the body is not UTF-8") from error
    except RecursionError as error:
        raise BadJson("the body is nested too deeply") from error
    except ArithmeticError as error:  # an exponent beyond what Decimal can hold
        raise BadJson("the body has a number with an exponent beyond every number") from error
    except ValueError as error:
        raise BadJson(f"the body is not valid JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadJson("the body must be a JSON object")
    return message


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


_DECODER: Final = json.JSONDecoder(
    parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_object_without_repeats
)


Check = Callable[[Any], Any]  # takes what JSON gave, returns the value of our type; raises ValueError with the rule


def read_fields(
    body: Mapping[str, Any],
    required: Mapping[str, Check],
    optional: Mapping[str, Check] | None = None,
    *,
    others_allowed: bool = False,
) -> dict[str, Any]:
    """The checked fields of `body`. Raises `BadField` for the first that is missing, unknown or wrong."""
    optional = optional or {}
    if not others_allowed:
        for name in body:
            if name not in required and name not in optional:
                allowed = ", ".join(sorted({*required, *optional}))
                raise BadField(_shown(name), f"unknown field; allowed: {allowed}")
    found = {}
    for name, check in {**required, **optional}.items():
        if name not in body:
            if name in required:
                raise BadField(name, "missing")
            continue
        try:
            found[name] = check(body[name])
        except ValueError as error:
            raise BadField(name, str(error)) from error
    return found


def _shown(name: str) -> str:
    return ascii(name)[1:-1][:40]


def whole(low: int, high: int) -> Check:
    """An integer in [low, high]; `true` is not 1 and 1.0 is not 1."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def number(low: Decimal | int, high: Decimal | int, *, above: bool = False) -> Check:
    """A number in [low, high] (with `above`: greater than low) of at most 10 decimals, as `Decimal`."""

    rule = f"must be a number {'above' if above else 'from'} {low} {'and at most' if above else 'to'} {high}"

    def check(value: Any) -> Decimal:
        if type(value) is not int and type(value) is not Decimal:
            raise ValueError(rule)
        exact = Decimal(value)
        if not exact.is_finite() or not low <= exact <= high or (above and exact == low):
            raise ValueError(rule)
        if exact != round(exact, 10):
            raise ValueError("has more than 10 decimals")
        return exact

    return check


def text(pattern: str, rule: str) -> Check:
    """A string that matches the whole `pattern`."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if type(value) is not str or not compiled.fullmatch(value):
            raise ValueError(f"must be {rule}")
        return value

    return check


E = TypeVar("E", bound=StrEnum)


def one_of(kind: type[E]) -> Check:
    """A member of an enumeration, given by its value."""

    def check(value: Any) -> E:
        try:
            if isinstance(value, str):
                return kind(value)
        except ValueError:
            pass
        raise ValueError("must be one of " + ", ".join(kind))

    return check


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return value


def an_object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("must be an object")
    return value


def or_null(check: Check) -> Check:
    """What `check` takes, or null."""
    return lambda value: None if value is None else check(value)


LOTS: Final = number(0, 1_000_000, above=True)
LOTS_LEFT: Final = number(0, 1_000_000)
PRICE: Final = number(0, 10**12)
TICKET: Final = whole(1, LAST_TICKET)
TIME_MS: Final = whole(0, 10**14)
AGE_MS: Final = whole(0, 10**13)
ORDER_OR_NONE: Final = whole(0, LAST_TICKET)
SYMBOL: Final = text(r"[!-~](?:[ -~]{0,30}[!-~])?", "1 to 32 ASCII characters, no blank at the ends")
USERNAME: Final = text(r"[A-Za-z0-9_.-]{3,64}", "3 to 64 letters, digits or _ . -")
COMMENT: Final = text(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,64}", "at most 64 printable characters")


def _increase_from_sender(value: Any) -> Increase:
    return Increase(
        **read_fields(
            an_object(value), {"volume": LOTS, "price": PRICE, "age_ms": or_null(AGE_MS)}, {"order": ORDER_OR_NONE}
        )
    )


def _increase_from_server(value: Any) -> Increase:
    fields = {"volume": LOTS, "price": PRICE, "order": ORDER_OR_NONE, "at": TIME_MS}
    return Increase(**read_fields(an_object(value), fields, others_allowed=True))


# What a message about a trade must and may say. `age_ms` is how old the sender measured the trade to be (null =
# unknown); the server turns it into `opened_at`.
TRADE_REQUIRED: Final[dict[str, Check]] = {
    "symbol": SYMBOL,
    "action": one_of(Action),
    "volume": LOTS,
    "price": PRICE,
}
TRADE_OPTIONAL: Final[dict[str, Check]] = {
    "ticket": TICKET,
    "kind": one_of(Kind),
    "initial_volume": LOTS,
    "stoplimit": PRICE,
    "sl": PRICE,
    "tp": PRICE,
    "expiration": TIME_MS,
    "magic": whole(0, 2**64 - 1),
    "comment": COMMENT,
    "contract_size": number(0, 10**9),
    "point": number(0, 10**6),
    "digits": whole(0, 10),
    "age_ms": or_null(AGE_MS),
    "increase": _increase_from_sender,
}


def trade_from_sender(body: Mapping[str, Any]) -> tuple[Trade, int | None]:
    """A trade as a sender or a script reports it, and its age in ms (None = unknown, 0 when the body says nothing).

    `ticket` 0 means that the body has none. Raises `BadField`.
    """
    found = read_fields(body, TRADE_REQUIRED, TRADE_OPTIONAL)
    age = found.pop("age_ms", 0)
    action: Action = found["action"]
    if found.setdefault("kind", action.kind) is not action.kind:
        raise BadField("kind", f"{action} is not a kind of {found['kind']}")
    found.setdefault("ticket", 0)
    found.setdefault("initial_volume", found["volume"])
    return Trade(**found), age


_PLAIN: Final = tuple(name for name in (*TRADE_REQUIRED, *TRADE_OPTIONAL) if name not in ("age_ms", "increase"))


def trade_for_sender(trade: Trade, age_ms: int | None) -> dict[str, Any]:
    """The body with which a sender reports a trade; `trade_from_sender` reads it back."""
    body = {**{name: getattr(trade, name) for name in _PLAIN}, "age_ms": age_ms}
    if (grown := trade.increase) is not None:
        said = {"volume": grown.volume, "price": grown.price, "order": grown.order, "age_ms": grown.age_ms}
        body["increase"] = said
    return body


def trade_for_client(trade: Trade, volume: Decimal) -> dict[str, Any]:
    """A trade as a client sees it: `volume` is what the client's settings on the server make of `master_volume`."""
    body = {
        **{name: getattr(trade, name) for name in _PLAIN},
        "master": trade.master,
        "source": trade.source,
        "opened_at": trade.opened_at,
        "volume": volume,
        "master_volume": trade.volume,
    }
    if (grown := trade.increase) is not None:
        body["increase"] = {"volume": grown.volume, "price": grown.price, "order": grown.order, "at": grown.at}
    return body


# `volume` is not read: a copier sizes from `master_volume`, and what the server's settings make of that has any number
# of decimals.
_CLIENT_REQUIRED: Final[dict[str, Check]] = {
    **{name: check for name, check in {**TRADE_REQUIRED, **TRADE_OPTIONAL}.items() if name in _PLAIN},
    "master": USERNAME,
    "source": one_of(Source),
    "opened_at": TIME_MS,
    "master_volume": LOTS,
}
del _CLIENT_REQUIRED["volume"]


def trade_from_server(data: Mapping[str, Any]) -> Trade:
    """A trade out of a server's message, its volume being the master's. Fields of a newer server are passed over.

    Raises `BadField`.
    """
    found = read_fields(data, _CLIENT_REQUIRED, {"increase": _increase_from_server}, others_allowed=True)
    found["volume"] = found.pop("master_volume")
    return Trade(**found)
