"""Ticks and bars as the numpy arrays that the `copy_...` functions of the MetaTrader5 package give."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import sim_types as t
from sim_arguments import NoAnswerError

TICK_COLUMNS = "time:<i8 bid:<f8 ask:<f8 last:<f8 volume:<u8 time_msc:<i8 flags:<u4 volume_real:<f8"
RATE_COLUMNS = "time:<i8 open:<f8 high:<f8 low:<f8 close:<f8 tick_volume:<u8 spread:<i4 real_volume:<u8"
TIMEFRAMES = frozenset(value for name, value in t.CONSTANTS.items() if name.startswith("TIMEFRAME_"))
POINT = t.SymbolInfo.__match_args__.index("point")


def bar_start(seconds: int, frame: int) -> int:
    """When the bar of this moment began (broker time, seconds)."""
    if frame == t.TIMEFRAME_MN1:
        return int(datetime.fromtimestamp(seconds, UTC).replace(day=1, hour=0, minute=0, second=0).timestamp())
    if frame == t.TIMEFRAME_W1:  # weeks begin on Sunday; the epoch was a Thursday
        return (seconds + 4 * 86400) // 604800 * 604800 - 4 * 86400
    length = frame * 60 if frame < t.TIMEFRAME_H1 else (frame - 16384) * 3600
    return seconds // length * length


def bars_of(ticks: list[Any], point: float, frame: int) -> list[Any]:
    """[time, open, high, low, close, tick_volume, spread, real_volume] of each bar, from the ticks there are."""
    bars: list[list[Any]] = []
    for msc, bid, ask in ticks:
        start = bar_start(msc // 1000, frame)
        if not bars or bars[-1][0] != start:
            bars.append([start, bid, bid, bid, bid, 0, round((ask - bid) / point), 0])
        bar = bars[-1]
        bar[2], bar[3], bar[4], bar[5] = max(bar[2], bid), min(bar[3], bid), bid, bar[5] + 1
    return bars


def numpy() -> Any:
    """numpy, which only the copy_... functions need; without it they are unsupported."""
    try:
        return importlib.import_module("numpy")
    except ImportError:
        raise NoAnswerError(t.RES_E_UNSUPPORTED, "Unsupported function") from None


def _array(rows: Iterable[Iterable[Any]], columns: str) -> Any:
    kinds = [tuple(column.split(":")) for column in columns.split()]
    return numpy().array([tuple(row) for row in rows], dtype=kinds)


def tick_array(ticks: list[Any]) -> Any:
    flags = t.TICK_FLAG_BID | t.TICK_FLAG_ASK
    rows = ((msc // 1000, bid, ask, 0.0, 0, msc, flags, 0.0) for msc, bid, ask in ticks)
    return _array(rows, TICK_COLUMNS)


def rate_array(bars: list[Any]) -> Any:
    return _array(bars, RATE_COLUMNS)
