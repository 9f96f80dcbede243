"""The argument rules of the MetaTrader5 package: what each function takes, and how it says no.

Pure functions. `NoAnswerError` is what ends a call with None (or False) and a `last_error()`; TypeError and
SystemError are raised where the package raises them.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, NoReturn

import sim_types as t

TEXT_UNITS = 29  # UTF-16 units of a symbol, comment or group mask


class NoAnswerError(Exception):
    """A call ends without a result; its arguments become `last_error()`."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code, text or t.ERROR_TEXT[code])
        self.error = (code, text or t.ERROR_TEXT[code])


def invalid(text: str) -> NoReturn:
    raise NoAnswerError(t.RES_E_INVALID_PARAMS, text)


def system_error(function: str, reason: str) -> SystemError:
    """What CPython makes of a C function that returns a result with an exception set."""
    error = SystemError(f"<built-in function {function}> returned a result with an exception set")
    error.__cause__ = OverflowError(reason)
    return error


def unsigned(value: Any, name: str, function: str) -> int:
    if not isinstance(value, int):
        invalid(f'Invalid "{name}" argument')
    if value < 0:
        raise system_error(function, "can't convert negative int to unsigned")
    if value >= 2**64:
        raise system_error(function, "int too big to convert")
    return int(value)


def text_in(value: Any, name: str) -> str:
    # A character is one unit or two.
    if not isinstance(value, str) or (
        len(value) * 2 > TEXT_UNITS and len(value.encode("utf-16-le", "surrogatepass")) // 2 > TEXT_UNITS
    ):
        invalid(f'Invalid "{name}" argument')
    return value


def integer_in(values: dict[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if not isinstance(value, int):
        invalid(f'Invalid "{name}" argument')
    return value


def credentials_in(values: dict[str, Any]) -> dict[str, Any]:
    """login, password and server as far as they are given."""
    found: dict[str, Any] = {}
    if "login" in values:
        found["login"] = integer_in(values, "login", 0)
    for name in ("password", "server"):
        if name in values:
            if not isinstance(values[name], str):
                invalid(f'Invalid "{name}" argument')
            found[name] = values[name]
    return found


def only_symbol(args: tuple[Any, ...]) -> str:
    if len(args) != 1:
        invalid("Invalid number of arguments")
    return text_in(args[0], "symbol")


def parsed(function: str, args: tuple[Any, ...], kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """Arguments of the functions that parse them in C: another type or number raises SystemError."""

    def fits(value: Any, kind: type) -> bool:
        if kind is float:
            return isinstance(value, (int, float))
        if kind is datetime:
            return isinstance(value, (datetime, int, float))
        return isinstance(value, kind)

    if len(args) != len(kinds) or not all(fits(value, kind) for value, kind in zip(args, kinds, strict=True)):
        error = SystemError(f"<built-in function {function}> returned a result with an exception set")
        error.__cause__ = TypeError(f"{function}() wrong number or type of arguments")
        raise error
    return tuple(float(value) if kind is float else value for value, kind in zip(args, kinds, strict=True))


_FLOATS = frozenset(("volume", "price", "stoplimit", "sl", "tp"))
_UNSIGNED = frozenset(("magic", "order", "deviation", "position", "position_by"))


def trade_request(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> t.StructSequence:
    """The request a dict or keywords describe. Strict types, unknown keys ignored, what is missing is zero."""
    if len(args) > 1 or (args and not isinstance(args[0], dict)):
        invalid("Invalid arguments")
    if not args and not kwargs:
        invalid("Invalid number of arguments")
    fields = args[0] if args else kwargs
    values: list[Any] = []
    for name in t.TradeRequest.__match_args__:
        if name in ("symbol", "comment"):
            values.append(text_in(fields.get(name, ""), name))
        elif name in _FLOATS:
            value = fields.get(name, 0.0)
            if not isinstance(value, float):
                invalid(f'Invalid "{name}" argument')
            values.append(float(value))
        elif name in _UNSIGNED:
            values.append(unsigned(fields.get(name, 0), name, function))
        else:
            value = integer_in(fields, name, 0)
            if not -(2**63) <= value < 2**63:
                raise system_error(function, "int too big to convert")
            values.append(int(value))
    return t.TradeRequest(values)


def int32(value: Any, function: str) -> int:
    """A date as the package passes it on: seconds in 32 bits; too large a float becomes the smallest number."""
    if isinstance(value, datetime):
        value = value.timestamp()
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and -(2**31) <= value < 2**31 else -(2**31)
    if not -(2**31) <= value < 2**31:
        raise system_error(function, "Python int too large to convert to C long")
    return int(value)


def dates_in(function: str, args: tuple[Any, ...]) -> dict[str, Any] | None:
    """From and to. None for a date of 0, which the package leaves uninitialised: nothing is to be had from it."""
    for value in args:
        if not isinstance(value, (datetime, int, float)):
            invalid("Invalid arguments")
    first, last = (int32(value, function) for value in args)
    return {"from": first, "to": last} if first and last else None


def in_group(symbol: str, group: str) -> bool:
    """Masks separated by commas, applied in turn: `*` stands for anything, `!` takes out again."""
    found = False
    for mask in group.split(","):
        mask = mask.lstrip(" ")
        if mask.startswith("!"):
            found = found and not _matches(symbol, mask[1:])
        else:
            found = found or _matches(symbol, mask)
    return found


def _matches(symbol: str, mask: str) -> bool:
    first, *rest = mask.split("*")
    if not rest:
        return symbol == mask
    if not symbol.startswith(first):
        return False
    place = len(first)
    for part in rest[:-1]:
        place = symbol.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return len(symbol) - len(rest[-1]) >= place and symbol.endswith(rest[-1])
