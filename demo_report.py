"""What the demo says at its end: both accounts trade by trade, four numbers, and where the time went.

Pure. The comparison believes the two accounts only: a copy is found by the comment that marks it, and counted whether
it is still open or not. The one thing taken from the copier's reports is why a trade is not there at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any, Final

from copies import tag_of
from demo_accounts import NOTHING, ORDER, POSITION, Line, plain
from signals import Kind

MASTER: Final = "master_user"  # the master's name on the server: part of the mark of a copy
ROWS_SHOWN: Final = 40  # of a longer table, only what was not copied and both ends


class Verdict(StrEnum):
    """What became of a trade of the master."""

    COPIED = "copied"
    REFUSED = "refused"  # by a rule, and the copier said which
    MISSED = "missed"  # it, or a change of it, has not reached the client
    DOUBLED = "doubled"  # the client has more of it than it should


@dataclass(frozen=True, slots=True)
class Broker:
    """What the client's broker takes of a symbol."""

    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal
    tick_size: Decimal


@dataclass(frozen=True, slots=True)
class Row:
    """One trade of the master and all that the client has of it."""

    ticket: int
    master: Line
    copies: tuple[Line, ...]
    verdict: Verdict
    detail: str = ""


# --- the comparison --------------------------------------------------------------------------------------------------


def tags(ticket: int) -> tuple[str, str]:
    """The comments that copies of a position and of a pending order with this ticket carry."""
    return tag_of((MASTER, Kind.POSITION, ticket)), tag_of((MASTER, Kind.ORDER, ticket))


def compare(
    master: Iterable[Line],
    client: Iterable[Line],
    brokers: Mapping[str, Broker],
    multiplier: Decimal,
    refused: Callable[[int], str],
    overdue: Mapping[int, str],
) -> list[Row]:
    """Every trade of the master's account, in the order of its tickets, with the verdict on it.

    `refused` gives the reason why the copier did not copy a ticket ("" = it gave none); `overdue` what was not seen on
    the client in time, even if it is there now. What the client has beyond copies of the master's trades comes last.
    """
    lines = sorted(master, key=lambda line: line.ticket)
    positions = {line.ticket: line for line in lines if line.kind == POSITION}
    orders = {line.ticket: line for line in lines if line.kind == ORDER}
    marks = {tag: ticket for ticket in {**orders, **positions} for tag in tags(ticket)}
    copies: dict[int, list[Line]] = {}
    strangers = []
    for line in client:
        ticket = marks.get(line.comment)
        if ticket is None:
            strangers.append(line)
        else:
            copies.setdefault(ticket, []).append(line)
    rows = []
    for ticket in sorted({**orders, **positions}):
        shown = positions.get(ticket) or orders[ticket]
        found = tuple(copies.get(ticket, ()))
        if not found and (reason := refused(ticket)):
            rows.append(Row(ticket, shown, (), Verdict.REFUSED, reason))
            continue
        verdict, detail = judge(positions.get(ticket), orders.get(ticket), found, brokers[shown.symbol], multiplier)
        if verdict is Verdict.COPIED and ticket in overdue:
            verdict, detail = Verdict.MISSED, overdue[ticket]
        rows.append(Row(ticket, shown, found, verdict, detail))
    rows += [Row(0, line, (line,), Verdict.DOUBLED, "is a copy of nothing the master had") for line in strangers]
    return rows


def judge(
    position: Line | None, order: Line | None, copies: Sequence[Line], broker: Broker, multiplier: Decimal
) -> tuple[Verdict, str]:
    """Whether the client's copies of one trade are what they should be, and if not, why not.

    The master's trade is a position, a pending order, or both: an order and the position that it became.
    """
    held = [copy for copy in copies if copy.kind == POSITION]
    placed = [copy for copy in copies if copy.kind == ORDER]
    if len(held) > 1 or len(placed) > 1:
        return Verdict.DOUBLED, f"{len(held)} positions and {len(placed)} pending orders instead of one"
    if placed and order is None:
        return Verdict.DOUBLED, f"pending order #{placed[0].ticket} instead of a position only"
    if position is None:
        if held:
            return Verdict.DOUBLED, f"the client's order became position #{held[0].ticket}, the master's did not"
        if not placed:
            return Verdict.MISSED, "the pending order was never placed"
        assert order is not None  # noqa: S101 - a trade is at least one of the two
        original, copy = order, placed[0]
    else:
        if not held:
            return Verdict.MISSED, "the position was never opened"
        if placed and placed[0].volume:
            return Verdict.DOUBLED, f"pending order #{placed[0].ticket} is still there beside the position"
        original, copy = position, held[0]
    wrong = difference(original, copy, broker, multiplier)
    return (Verdict.MISSED, wrong) if wrong else (Verdict.COPIED, "")


def difference(original: Line, copy: Line, broker: Broker, multiplier: Decimal) -> str:
    """In what a copy is not as its original demands; "" when it is right."""
    if (original.symbol, original.action) != (copy.symbol, copy.action):
        return f"{copy.action} {copy.symbol} instead of {original.action} {original.symbol}"
    share = expected_volume(original.opened, broker, multiplier)
    if copy.opened != share:
        return f"{copy.opened} lots instead of {share}"
    if not original.volume:
        return f"still open on the client with {copy.volume} lots" if copy.volume else ""
    if not copy.volume:
        return "closed on the client, open on the master"
    if not is_proportional(copy.volume, share, original.volume, original.opened, broker):
        return f"{copy.volume} lots left of {share}; the master has {original.volume} of {original.opened}"
    for name in ("sl", "tp") if original.kind == POSITION else ("price", "sl", "tp"):
        wanted, found = on_grid(getattr(original, name), broker), getattr(copy, name)
        if wanted != found:
            return f"{name.upper() if name != 'price' else name} {found} instead of {wanted}"
    return ""


def expected_volume(master_volume: Decimal, broker: Broker, multiplier: Decimal) -> Decimal:
    """Lots of a copy: the share of the master's, in whole steps of the client's broker, at most what it takes."""
    steps = (min(master_volume * multiplier, broker.volume_max) / broker.volume_step).to_integral_value(ROUND_FLOOR)
    return steps * broker.volume_step


def is_proportional(
    left: Decimal, share: Decimal, master_left: Decimal, master_opened: Decimal, broker: Broker
) -> bool:
    """Whether `left` lots of a copy are what a partial close of the master leaves: the exact share or less than a step
    more, except where the broker's minimum stands in the way."""
    steps = (share * master_left / master_opened / broker.volume_step).to_integral_value(ROUND_CEILING)
    wanted = max(steps * broker.volume_step, broker.volume_min)
    return left == wanted or (wanted < left <= share and left - wanted < broker.volume_min)


def on_grid(price: Decimal, broker: Broker) -> Decimal:
    return (price / broker.tick_size).to_integral_value(ROUND_HALF_EVEN) * broker.tick_size


def counts(rows: Iterable[Row]) -> dict[Verdict, int]:
    found = dict.fromkeys(Verdict, 0)
    for row in rows:
        found[row.verdict] += 1
    return found


def summary(rows: Iterable[Row]) -> str:
    """The demo's last line."""
    return ", ".join(f"{verdict} {number}" for verdict, number in counts(rows).items())


# --- where the time went ---------------------------------------------------------------------------------------------

VISIBLE_TO_DETECTED: Final = "visible on the master -> detected by the sender"
TOTAL: Final = "visible on the master -> filled on the client"
HOPS: Final = (
    (VISIBLE_TO_DETECTED, "visible_at", "detected_at"),
    ("detected -> numbered and stored by the server", "detected_at", "server_time"),
    ("stored -> received by the copier", "server_time", "received_at"),
    ("received -> order sent (rules, ledger)", "received_at", "sent_at"),
    ("order sent -> filled by the client's broker", "sent_at", "filled_at"),
    (TOTAL, "visible_at", "filled_at"),
)


def hops(reports: Iterable[Mapping[str, Any]], visible: Mapping[int, int]) -> dict[str, list[int]]:
    """Milliseconds that each hop took, one number for each open that the copier reported with all its times.

    `visible` says of a ticket when (UTC ms) the master's terminal had confirmed it.
    """
    found: dict[str, list[int]] = {name: [] for name, _, _ in HOPS}
    for report in reports:
        times = {**report, "visible_at": visible.get(report.get("ticket", 0), 0)}
        if all(times.get(name) for _, *ends in HOPS for name in ends):
            for name, begin, end in HOPS:
                found[name].append(max(0, int(times[end]) - int(times[begin])))
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """By nearest rank: 95 of 20 values is the 19th."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


# --- on paper --------------------------------------------------------------------------------------------------------


def lots(line: Line | None) -> str:
    if line is None:
        return "-"
    return (
        f"{plain(line.opened)}"
        if line.volume in (line.opened, NOTHING)
        else f"{plain(line.opened)} -> {plain(line.volume)}"
    )


def state(line: Line) -> str:
    if line.volume:
        return "open" if line.kind == POSITION else "pending"
    if line.kind == POSITION:
        return "closed"
    return "filled" if line.filled else "cancelled"


def stops(line: Line | None) -> str:
    if line is None or not line.volume or not (line.sl or line.tp):
        return "-"
    return " / ".join(f"{plain(price)}" if price else "none" for price in (line.sl, line.tp))


def both(one: str, other: str) -> str:
    return one if one == other else f"{one} | {other}"


def shown_copy(row: Row) -> Line | None:
    """Of the copies the one that stands for them all in the table."""
    return min(row.copies, key=lambda line: (line.kind != row.master.kind, not line.volume), default=None)


HEADINGS: Final = (
    "master #", "symbol", "side", "lots master", "lots client", "SL / TP (master | client)", "client #", "state", "",
)  # fmt: skip


def table(rows: Sequence[Row]) -> list[str]:
    """One line for each trade, below a line of headings."""
    cells: list[tuple[str, ...]] = [HEADINGS]
    for row in rows:
        copy = shown_copy(row)
        stranger = not row.ticket
        cells.append(
            (
                "-" if stranger else str(row.ticket),
                row.master.symbol,
                row.master.action,
                "-" if stranger else lots(row.master),
                lots(copy),
                both(stops(row.master), stops(copy)) if copy else stops(row.master),
                ", ".join(dict.fromkeys(str(line.ticket) for line in row.copies)) or "-",
                both(state(row.master), state(copy)) if copy else f"{state(row.master)} | -",
                f"{row.verdict}: {row.detail}" if row.detail else row.verdict,
            )
        )
    return aligned(cells, right=(0, 3, 4, 6))


def shortened(rows: Sequence[Row]) -> list[Row]:
    """Of a long list everything that was not copied, and some of the rest."""
    if len(rows) <= ROWS_SHOWN:
        return list(rows)
    ends = {*range(5), *range(len(rows) - 5, len(rows))}
    return [row for index, row in enumerate(rows) if index in ends or row.verdict is not Verdict.COPIED]


def latency_table(measured: Mapping[str, Sequence[float]]) -> list[str]:
    """Median, 95th percentile and largest of each list of milliseconds."""
    cells: list[tuple[str, ...]] = [("", "median ms", "p95 ms", "max ms", "number")]
    for name, values in measured.items():
        if values:
            numbers = (percentile(values, 50), percentile(values, 95), max(values))
            cells.append((name, *(f"{number:.0f}" for number in numbers), str(len(values))))
    return aligned(cells, right=(1, 2, 3, 4))


def aligned(cells: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    flush = set(right)
    lines = []
    for row in cells:
        words = (
            text.rjust(width) if index in flush else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(words).rstrip())
    return lines
