"""Replays the trades of a file of deals on the demo's master.

The file is a CSV with the columns of MetaTrader's `history_deals_get`. Sides, volumes, order and overlap of the
positions are those of the file; the prices are the simulator's, so profits are not.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

import sim_types as t
from demo_accounts import POSITION, Line, plain
from demo_report import expected_volume
from demo_script import Event, Stage, gone, opened, reduced
from sim_symbols import SymbolSpec, default_symbols

COLUMNS: Final = ("ticket", "time_msc", "type", "entry", "position_id", "volume", "symbol")
MISTAKES_SHOWN: Final = 10
LONGEST_PAUSE_S: Final = 2.0  # between two deals, with --speed
HIGHEST: Final = 2**63 - 1


class BadFile(Exception):
    """The file cannot be replayed; str() says why, with the line where it has one."""


@dataclass(frozen=True, slots=True)
class FileDeal:
    """One line of the file that traded."""

    line: int
    ticket: int
    order: int
    time_msc: int
    buys: bool
    opens: bool
    position: int
    volume: Decimal
    symbol: str


@dataclass(frozen=True, slots=True)
class Step:
    """Open a position of the file, or close so many lots of it."""

    at_msc: int
    position: int
    symbol: str
    opens: bool
    buys: bool  # the side of the position
    volume: Decimal


@dataclass(frozen=True, slots=True)
class Tape:
    """What is to be done on the master."""

    steps: tuple[Step, ...]
    positions: int
    notes: tuple[str, ...]  # what of the file is left out or added, in words


# --- reading ---------------------------------------------------------------------------------------------------------


def read_tape(path: Path, limit: int | None = None, symbols: Mapping[str, SymbolSpec] | None = None) -> Tape:
    """The first `limit` positions of a file of deals. Raises `BadFile`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            deals, others = read_deals(csv.DictReader(file, strict=True))
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    except (BadFile, UnicodeError, csv.Error) as error:
        raise BadFile(f"{path}: {error}") from error
    try:
        return tape_of(deals, others, limit, default_symbols() if symbols is None else symbols)
    except BadFile as error:
        raise BadFile(f"{path}: {error}") from error


def read_deals(rows: csv.DictReader[str]) -> tuple[list[FileDeal], int]:
    """The deals that traded, in the order of time, and how many lines were something else (deposits, fees)."""
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise BadFile(
            f"line 1: the columns {', '.join(missing)} are missing. The file must have those of history_deals_get, "
            f"at least {', '.join(COLUMNS)}"
        )
    deals, others, mistakes = [], 0, []
    for row in rows:
        try:
            deal = deal_in(rows.line_num, row)
        except ValueError as error:
            mistakes.append(f"line {rows.line_num}: {error}")
            continue
        if deal is None:
            others += 1
        else:
            deals.append(deal)
    if mistakes:
        more = [f"and {len(mistakes) - MISTAKES_SHOWN} more"] if len(mistakes) > MISTAKES_SHOWN else []
        raise BadFile("\n  ".join([*mistakes[:MISTAKES_SHOWN], *more]))
    tickets = Counter(deal.ticket for deal in deals)
    for deal in deals:
        if tickets[deal.ticket] > 1:
            raise BadFile(f"line {deal.line}: deal {deal.ticket} is in the file more than once")
    return sorted(deals, key=lambda deal: (deal.time_msc, deal.ticket)), others


def deal_in(line: int, row: Mapping[str, str | None]) -> FileDeal | None:
    """The deal of one line, None when it did not trade. Raises `ValueError`."""
    if None in row or None in row.values():
        raise ValueError("has not as many fields as the first line")
    kind = whole(row, "type")
    if kind not in (t.DEAL_TYPE_BUY, t.DEAL_TYPE_SELL):
        return None
    entry = whole(row, "entry")
    if entry == t.DEAL_ENTRY_INOUT:
        raise ValueError(
            "entry 2 turns a position round, which only a netting account does; the demo replays hedging accounts"
        )
    if entry not in (t.DEAL_ENTRY_IN, t.DEAL_ENTRY_OUT, t.DEAL_ENTRY_OUT_BY):
        raise ValueError(f"entry must be 0 (in), 1 (out) or 3 (out by), not {entry}")
    deal = FileDeal(
        line=line,
        ticket=whole(row, "ticket"),
        order=whole(row, "order") if "order" in row else 0,
        time_msc=whole(row, "time_msc"),
        buys=kind == t.DEAL_TYPE_BUY,
        opens=entry == t.DEAL_ENTRY_IN,
        position=whole(row, "position_id"),
        volume=lots(row),
        symbol=(row["symbol"] or "").strip(),
    )
    if not deal.position:
        raise ValueError("position_id is 0")
    if not deal.symbol:
        raise ValueError("symbol is empty")
    return deal


def whole(row: Mapping[str, str | None], name: str) -> int:
    text = (row[name] or "").strip()
    if not (text.isascii() and text.isdigit()) or int(text) > HIGHEST:
        raise ValueError(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def lots(row: Mapping[str, str | None]) -> Decimal:
    text = (row["volume"] or "").strip()
    try:
        volume = Decimal(text)
    except InvalidOperation:
        volume = Decimal("NaN")
    if not volume.is_finite() or not 0 < volume <= 1_000_000:
        raise ValueError(f"volume must be a number of lots above 0, not {text[:40]!r}")
    return volume.normalize()


def tape_of(deals: Iterable[FileDeal], others: int, limit: int | None, symbols: Mapping[str, SymbolSpec]) -> Tape:
    """The steps that open and close the first `limit` positions as the deals say. Raises `BadFile`."""
    steps: list[Step] = []
    first: dict[int, FileDeal] = {}  # the deal that opened each position
    open_lots: dict[int, Decimal] = {}
    orphans: set[int] = set()
    unknown: dict[str, set[int]] = {}
    beyond: set[int] = set()
    for deal in deals:
        before = first.get(deal.position)
        if deal.symbol not in symbols:
            unknown.setdefault(deal.symbol, set()).add(deal.position)
        elif deal.position in beyond:
            pass
        elif deal.opens and before is None:
            if limit is not None and len(first) >= limit:
                beyond.add(deal.position)
                continue
            first[deal.position], open_lots[deal.position] = deal, deal.volume
            steps.append(Step(deal.time_msc, deal.position, deal.symbol, True, deal.buys, deal.volume))
        elif before is None:
            orphans.add(deal.position)
        elif deal.opens:
            add_fill(steps, deal, before)
            open_lots[deal.position] += deal.volume
        else:
            check_close(deal, before, open_lots[deal.position])
            open_lots[deal.position] -= deal.volume
            steps.append(Step(deal.time_msc, deal.position, deal.symbol, False, before.buys, deal.volume))
    left = {position: volume for position, volume in open_lots.items() if volume}
    if steps:
        end = steps[-1].at_msc
        steps += [Step(end, p, first[p].symbol, False, first[p].buys, volume) for p, volume in left.items()]
    for step in steps:
        check_volume(step, first[step.position], symbols[step.symbol])
    names = ", ".join(f"{name} ({len(positions)})" for name, positions in sorted(unknown.items()))
    if not steps:
        why = f"the simulator does not have its symbols: {names}" if names else "no deal in it opens a position"
        raise BadFile(f"nothing to replay: {why}")
    notes = {
        f"left out, lines that are no trades (deposits, fees): {others}": others,
        f"left out, positions whose opening is not in the file: {len(orphans)}": orphans,
        f"left out, positions of symbols that the simulator does not have: {names}": unknown,
        f"closed at the end, positions that the file leaves open: {len(left)}": left,
    }
    return Tape(tuple(steps), len(first), tuple(words for words, some in notes.items() if some))


def add_fill(steps: list[Step], deal: FileDeal, before: FileDeal) -> None:
    """Put a second part of the opening order to its first."""
    if not deal.order or deal.order != before.order or deal.buys != before.buys or deal.symbol != before.symbol:
        raise BadFile(
            f"line {deal.line}: position {deal.position} is opened a second time (first in line {before.line}), which "
            "only a netting account does; the demo replays hedging accounts"
        )
    for index, step in enumerate(steps):
        if step.opens and step.position == deal.position:
            steps[index] = Step(step.at_msc, step.position, step.symbol, True, step.buys, step.volume + deal.volume)


def check_close(deal: FileDeal, before: FileDeal, left: Decimal) -> None:
    if deal.buys == before.buys or deal.symbol != before.symbol:
        raise BadFile(f"line {deal.line}: does not close position {deal.position}, which line {before.line} opened")
    if deal.volume > left:
        raise BadFile(f"line {deal.line}: closes {deal.volume} lots of position {deal.position}, which has {left} left")


def check_volume(step: Step, deal: FileDeal, spec: SymbolSpec) -> None:
    if step.opens and not spec.volume_fits(step.volume):
        raise BadFile(
            f"line {deal.line}: the simulated broker takes {spec.volume_min} to {spec.volume_max} lots of {spec.name} "
            f"in steps of {spec.volume_step}, not {step.volume}"
        )


# --- replaying -------------------------------------------------------------------------------------------------------


def play_tape(tape: Tape, stage: Stage, speed: float | None, progress: Callable[[int, int], None]) -> None:
    """Do all steps on the master and watch the client follow.

    Without `speed` each step begins when the client shows the one before. With it the steps keep the distances of the
    file, shortened so many times (and to `LONGEST_PAUSE_S`); only a close waits until its own position was copied,
    because the life of many is shorter than a look of the sender when it is shortened so.
    """
    trades: dict[int, Line] = {}  # position in the file -> on the master
    waiting: dict[int, list[Event]] = {}
    due, before = time.monotonic(), tape.steps[0].at_msc
    for number, step in enumerate(tape.steps):
        if speed is not None:
            due += min((step.at_msc - before) / 1000 / speed, LONGEST_PAUSE_S)
            before = step.at_msc
            stage.watch([event for events in waiting.values() for event in events], until=due)
            time.sleep(max(0.0, due - time.monotonic()))
            stage.watch(waiting.get(step.position, ()))
        event = do(step, stage, trades)
        if speed is None:
            stage.watch([event])
        else:
            waiting[step.position] = [event]
        progress(number + 1, len(tape.steps))
    stage.watch([event for events in waiting.values() for event in events])


def do(step: Step, stage: Stage, trades: dict[int, Line]) -> Event:
    """One step on the master, and what the client must show then."""
    if step.opens:
        action = "BUY" if step.buys else "SELL"
        ticket = stage.master.open(step.symbol, action, step.volume)
        trade = trades[step.position] = Line(POSITION, ticket, step.symbol, action, step.volume, step.volume)
        words = f"{action} {plain(step.volume)} {step.symbol} #{ticket}"
        return stage.did(words, trade, opened(trade), opens=True)
    before = trades[step.position]
    trade = trades[step.position] = replace(before, volume=before.volume - step.volume)
    stage.master.close_position(trade.ticket, step.volume)
    words = f"closes {plain(step.volume)} of {plain(before.volume)} {step.symbol} #{trade.ticket}"
    if not trade.volume:
        return stage.did(words, trade, gone(trade))
    broker = stage.broker(step.symbol)
    share = expected_volume(trade.opened, broker, stage.multiplier)
    return stage.did(words, trade, reduced(trade, share, broker))
