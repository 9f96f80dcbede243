"""Trades and log entries, as objects and as rows of the server's database. Lots and prices are decimal text there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Final

from records import Entry
from signals import Action, Change, ChangeType, Increase, Kind, Source, Trade

_DECIMALS: Final = ("volume", "initial_volume", "price", "stoplimit", "sl", "tp", "contract_size", "point")
COLUMNS: Final = (
    "kind",
    "ticket",
    "source",
    "symbol",
    "action",
    *_DECIMALS,
    "expiration",
    "magic",
    "comment",
    "digits",
    "opened_at",
    "increase",
)


def as_stored(trade: Trade, name: str) -> Any:
    """A field of a trade as a row holds it."""
    value = getattr(trade, name)
    if name == "increase":
        return (
            None
            if value is None
            else json.dumps({**asdict(value), "volume": str(value.volume), "price": str(value.price)})
        )
    return str(value) if name in _DECIMALS or name == "magic" else value


def text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _number(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def trade_of(row: sqlite3.Row | Mapping[str, Any], master: str) -> Trade:
    return Trade(
        ticket=row["ticket"],
        kind=Kind(row["kind"]),
        symbol=row["symbol"],
        action=Action(row["action"]),
        **{name: Decimal(row[name]) for name in _DECIMALS},
        expiration=row["expiration"],
        magic=int(row["magic"]),
        comment=row["comment"],
        digits=row["digits"],
        opened_at=row["opened_at"],
        master=master,
        source=Source(row["source"]),
        increase=_increase_of(row["increase"]),
    )


def _increase_of(stored: str | None) -> Increase | None:
    if stored is None:
        return None
    found = json.loads(stored)
    return Increase(**{**found, "volume": Decimal(found["volume"]), "price": Decimal(found["price"])})


def entry_of(row: sqlite3.Row) -> Entry:
    trade = trade_of(json.loads(row["trade"]), row["username"])
    change = Change(ChangeType(row["type"]), trade, _number(row["remaining"]))
    return Entry(row["seq"], row["at"], change, _number(row["close_price"]), _number(row["profit"]), row["detected_at"])
