"""What requests may say: the exact fields of every body, their types and ranges.

Pure. Everything here raises `signals.BadField`, whose text names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from config import HIGHEST_LOTS, HIGHEST_MULTIPLIER, HIGHEST_POINTS
from safety import Copying, Mode
from signals import (
    FIRST_SERVER_TICKET,
    SYMBOL,
    TICKET,
    TIME_MS,
    USERNAME,
    Action,
    BadField,
    Check,
    Kind,
    Trade,
    number,
    one_of,
    or_null,
    read_fields,
    text,
    trade_from_sender,
    whole,
)

BOOK_LIMIT: Final = 1 << 20  # bytes of a body that holds a whole book
EXECUTIONS_AT_ONCE: Final = 500


def measured(low: Decimal | int, high: Decimal | int) -> Check:
    """A number in [low, high] that somebody measured or computed: digits beyond the tenth decimal are dropped."""

    def check(value: Any) -> Decimal:
        if type(value) not in (int, Decimal) or not (exact := Decimal(value)).is_finite() or not low <= exact <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return round(exact, 10)

    return check


def list_of_objects(most: int) -> Check:
    def check(value: Any) -> list[dict[str, Any]]:
        if type(value) is not list or not all(type(item) is dict for item in value) or len(value) > most:
            raise ValueError(f"must be a list of at most {most} objects")
        return value

    return check


def an_object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("must be an object")
    return value


def flat_object(value: Any) -> dict[str, Any]:
    """An object of numbers and short texts."""
    fits = type(value) is dict and len(value) <= 32
    for key, item in value.items() if fits else ():
        is_text = type(item) is str and len(item) <= 200 and not _SURROGATES.search(item)
        is_number = type(item) in (int, Decimal) and -(10**18) < item < 10**18  # abs() of a Decimal may overflow
        fits = fits and len(key) <= 64 and not _SURROGATES.search(key) and (is_text or is_number)
    if not fits:
        raise ValueError("must be an object of at most 32 numbers and texts")
    return dict(value)


def names(value: Any) -> tuple[str, ...]:
    if type(value) is not list or len(value) > 100:
        raise ValueError("must be a list of at most 100 user names")
    return tuple(dict.fromkeys(USERNAME(item) for item in value))


def margin_mode(value: Any) -> str:
    """MetaTrader's number or its name; the name is kept."""
    modes = ("netting", "exchange", "hedging")
    if type(value) is int and 0 <= value < len(modes):
        return modes[value]
    if type(value) is str and value in modes:
        return value
    raise ValueError("must be one of netting, exchange, hedging (or 0, 1, 2)")


_SURROGATES: Final = re.compile("[\ud800-\udfff]")

MONEY: Final = measured(-(10**15), 10**15)
ANY_TEXT: Final = text(r"[^\x00\ud800-\udfff]{0,500}", "at most 500 characters")
LOGIN_TEXT: Final = text(r"[^\x00\ud800-\udfff]{1,128}", "1 to 128 characters")
SESSION: Final = text(r"[A-Za-z0-9_-]{1,64}", "a session as the server gave it")
IDEMPOTENCY_KEY: Final = text(r"[\x21-\x7e]{1,255}", "1 to 255 printable characters without spaces")
REV: Final = whole(0, 2**53)
LOGIN_NUMBER: Final = whole(0, 2**63 - 1)

ACCOUNT: Final[dict[str, Check]] = {
    "login": LOGIN_NUMBER,
    "balance": MONEY,
    "equity": MONEY,
    "currency": text(r"[\x20-\x7e]{1,16}", "1 to 16 characters"),
    "leverage": whole(0, 10**6),
    "margin_mode": margin_mode,
}

# The ranges are those of the copier's own file.
TRADE_COPY: Final[dict[str, Check]] = {
    "mode": one_of(Mode),
    "fixed_lot": number(0, HIGHEST_LOTS, above=True),
    "multiplier": number(0, HIGHEST_MULTIPLIER, above=True),
    "max_slippage_points": whole(0, HIGHEST_POINTS),
    "max_spread_points": whole(0, HIGHEST_POINTS),
    "max_exposure_trades": whole(1, 100_000),
    "max_exposure_lots": number(0, HIGHEST_LOTS, above=True),
    "max_drawdown_percent": number(0, 100, above=True),
    "max_signal_age_s": whole(1, 3600),
}
# Settings of the copier's file that the server could not carry out.
NOT_KEPT: Final = {
    "magic_number_copier": "it names the orders of that account",
    "contract_alignment": "the server does not know the contract sizes of that account's broker",
}


class Event(StrEnum):
    """What a copier reports."""

    OPENED = "opened"
    ADOPTED = "adopted"
    REFUSED = "refused"
    MODIFIED = "modified"
    REDUCED = "reduced"
    CLOSED = "closed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    FAILED = "failed"
    CLOSED_BY_CLIENT = "closed_by_client"
    UNKNOWN = "unknown"
    STOPS_MISSING = "stops_missing"  # SL or TP of a copy is not set yet
    STOPS_ADJUSTED = "stops_adjusted"  # SL or TP of a copy is farther away than the master's


EXECUTION_REQUIRED: Final[dict[str, Check]] = {
    "id": text(r"[A-Za-z0-9._:-]{1,64}", "1 to 64 letters, digits or . _ : -"),
    "event": one_of(Event),
    "master": USERNAME,
    "kind": one_of(Kind),
    "ticket": TICKET,
    "at": TIME_MS,
}
EXECUTION_OPTIONAL: Final[dict[str, Check]] = {
    "symbol": SYMBOL,
    "action": one_of(Action),
    "volume": measured(0, 1_000_000),
    "price": measured(0, 10**12),
    "client_ticket": whole(0, 2**63 - 1),
    "reason": text(r"[^\x00\ud800-\udfff]{0,64}", "at most 64 characters"),
    "detail": ANY_TEXT,
    "numbers": flat_object,
    "detected_at": TIME_MS,
    "server_time": TIME_MS,
    "received_at": TIME_MS,
    "sent_at": TIME_MS,
    "filled_at": TIME_MS,
    "login": LOGIN_NUMBER,
}


def within(place: str, body: Mapping[str, Any], required: Mapping[str, Check], optional: Mapping[str, Check]) -> Any:
    """The checked fields of an object inside the body; an error names the place."""
    try:
        return read_fields(body, required, optional)
    except BadField as error:
        raise BadField(f"{place}.{error.field}", error.problem) from error


def settings_from(body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `body` names, fields of `UserConfig`. Raises `BadField`."""
    found = read_fields(body, {}, {"trade_copy": an_object, "copying": one_of(Copying), "follow": or_null(names)})
    if "trade_copy" in found:
        for name, why in NOT_KEPT.items():
            if name in found["trade_copy"]:
                raise BadField(f"trade_copy.{name}", f"belongs into the copier's own file, {why}")
        trade_copy = found["trade_copy"] = within("trade_copy", found["trade_copy"], {}, TRADE_COPY)
        mode = trade_copy.get("mode")
        needed = {Mode.FIX: "fixed_lot", Mode.MULTIPLIER: "multiplier"}
        if mode is None and ("fixed_lot" in trade_copy or "multiplier" in trade_copy):
            raise BadField("trade_copy.mode", "missing, needed with fixed_lot or multiplier")
        if mode is not None and needed[mode] not in trade_copy:
            raise BadField(f"trade_copy.{needed[mode]}", f"missing, mode {mode} needs it")
    return found


def check_terminal_ticket(trade: Trade) -> None:
    if not trade.ticket:
        raise BadField("ticket", "missing, a trade of a terminal has one")
    if trade.ticket >= FIRST_SERVER_TICKET:
        raise BadField("ticket", f"those from {FIRST_SERVER_TICKET} on are given by the server")


def reported_trade(index: int, item: Mapping[str, Any]) -> tuple[Trade, int | None]:
    try:
        trade, age_ms = trade_from_sender(item)
        check_terminal_ticket(trade)
    except BadField as error:
        raise BadField(f"trades[{index}].{error.field}", error.problem) from error
    return trade, age_ms
