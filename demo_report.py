"""What the demo says at its end: both accounts trade by trade, four numbers, and where the time went.

Pure. The comparison believes the two accounts only: a copy is found by the comment that marks it, and counted whether
it is still open or not. The one thing taken from the copier's reports is why a trade is not there at all.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any, Final

from copies import tag_of
from demo_accounts import NOTHING, ORDER, POSITION, Key, Line, plain
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
    """One trade of the master (a position, one leg of a netting position, a pending order) and all that the client has
    of it. `ticket` 0: of nothing that the master had."""

    ticket: int
    master: Line
    copies: tuple[Line, ...]
    verdict: Verdict
    detail: str = ""

    @property
    def key(self) -> Key:
        return (self.ticket, self.master.leg)


# --- the comparison --------------------------------------------------------------------------------------------------


def tags(ticket: int, leg: int = 0, order: int = 0) -> tuple[str, str]:
    """The comments that copies of a position, or of one leg of it, and of the order that opened it carry."""
    return tag_of((MASTER, Kind.POSITION, ticket, leg)), tag_of((MASTER, Kind.ORDER, order or ticket, 0))


def tags_of(line: Line) -> tuple[str, str]:
    return tags(line.ticket, line.leg, line.order)


def marks(master: Iterable[Line]) -> dict[str, Key]:
    """Every comment that a copy of the master's trades may carry, and whose it is. A pending order that filled is the
    position, or the leg, that it opened."""
    lines = sorted(master, key=lambda line: line.kind == POSITION)
    return {tag: line.key for line in lines for tag in tags_of(line)}


def compare(
    master: Iterable[Line],
    client: Iterable[Line],
    brokers: Mapping[str, Broker],
    multiplier: Decimal,
    refused: Callable[[int], str],
    overdue: Mapping[Key, str],
    *,
    stops: bool = True,
) -> list[Row]:
    """Every trade of the master's account, in the order of its tickets, with the verdict on it.

    `refused` gives the reason why the copier did not copy a ticket ("" = it gave none); `overdue` what was not seen on
    the client in time, even if it is there now; `stops` whether each of the client's positions has its own SL and TP.
    What the client has beyond copies of the master's trades comes last.
    """
    lines = list(master)
    positions = {line.key: line for line in lines if line.kind == POSITION}
    became = {line.order or line.ticket: key for key, line in positions.items()}
    orders = {became.get(line.ticket, line.key): line for line in lines if line.kind == ORDER}
    whose = marks(lines)
    copies: dict[Key, list[Line]] = {}
    strangers = []
    for line in client:
        key = whose.get(line.comment)
        if key not in positions and key not in orders:
            strangers.append(line)
        else:
            copies.setdefault(key, []).append(line)
    trades = {**orders, **positions}
    reasons = {key: refused(key[0]) for key in trades if key not in copies}
    wanted = shares(trades.values(), brokers, multiplier, {order.ticket for order in orders.values()}, reasons)
    rows = []
    for key in sorted(trades):
        position, order = positions.get(key), orders.get(key)
        shown = position or orders[key]
        found = tuple(copies.get(key, ()))
        if reason := reasons.get(key):
            rows.append(Row(key[0], shown, (), Verdict.REFUSED, reason))
            continue
        verdict, detail = judge(position, order, found, brokers[shown.symbol], wanted[key], stops=stops)
        late = overdue.get(key) or (order and overdue.get(order.key))
        if verdict is Verdict.COPIED and late:
            verdict, detail = Verdict.MISSED, late
        rows.append(Row(key[0], shown, found, verdict, detail))
    rows += [Row(0, line, (line,), Verdict.DOUBLED, "is a copy of nothing the master had") for line in strangers]
    return rows


def judge(
    position: Line | None, order: Line | None, copies: Sequence[Line], broker: Broker, share: Decimal, *, stops: bool
) -> tuple[Verdict, str]:
    """Whether the client's copies of one trade, of `share` lots, are what they should be, and if not, why not.

    The master's trade is a position, a pending order, or both: an order and the position that it became. An order that
    filled and became none has closed something on a netting account; what the client's copy of it opened has gone then.
    """
    held = [copy for copy in copies if copy.kind == POSITION]
    placed = [copy for copy in copies if copy.kind == ORDER]
    if len(held) > 1 or len(placed) > 1:
        return Verdict.DOUBLED, f"{len(held)} positions and {len(placed)} pending orders instead of one"
    if placed and order is None:
        return Verdict.DOUBLED, f"pending order #{placed[0].ticket} instead of a position only"
    if position is None:
        if held and order is not None and order.filled and not order.volume:
            if held[0].volume:
                return Verdict.DOUBLED, f"position #{held[0].ticket} is open; the master's order only closed something"
        elif held:
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
    wrong = difference(original, copy, broker, share, stops=stops or original.kind == ORDER)
    return (Verdict.MISSED, wrong) if wrong else (Verdict.COPIED, "")


def difference(original: Line, copy: Line, broker: Broker, share: Decimal, *, stops: bool) -> str:
    """In what a copy is not as its original demands; "" when it is right."""
    if (original.symbol, original.action) != (copy.symbol, copy.action):
        return f"{copy.action} {copy.symbol} instead of {original.action} {original.symbol}"
    if copy.opened != share:
        return f"{copy.opened} lots instead of {share}"
    if not original.volume:
        return f"still open on the client with {copy.volume} lots" if copy.volume else ""
    if not copy.volume:
        return "closed on the client, open on the master"
    if not is_proportional(copy.volume, share, original.volume, original.opened, broker):
        return f"{copy.volume} lots left of {share}; the master has {original.volume} of {original.opened}"
    if not stops:
        return ""
    for name in ("sl", "tp") if original.kind == POSITION else ("price", "sl", "tp"):
        wanted, found = on_grid(getattr(original, name), broker), getattr(copy, name)
        if wanted != found:
            return f"{name.upper() if name != 'price' else name} {found} instead of {wanted}"
    return ""


def shares(
    lines: Iterable[Line],
    brokers: Mapping[str, Broker],
    multiplier: Decimal,
    placed: Container[int],
    reasons: Mapping[Key, str],
) -> dict[Key, Decimal]:
    """The lots that the copy of each position, leg or pending order should have at first.

    What rounding leaves over of a leg goes to the next one of the position until it turns round. It is lost where a leg
    was refused (`reasons`) unless for being too small. Legs that were `placed` as pending orders stand for themselves.
    """
    found: dict[Key, Decimal] = {}
    rest, before = NOTHING, None
    for line in sorted(lines, key=lambda line: line.key):
        goes_on = before is not None and (before.ticket, before.action) == (line.ticket, line.action)
        carried = rest if goes_on and (line.order or line.ticket) not in placed else NOTHING
        broker, asked = brokers[line.symbol], line.opened * multiplier + carried
        whole = floored(asked, broker)
        share = min(whole, floored(broker.volume_max, broker))
        if share < broker.volume_min:
            found[line.key], rest = NOTHING, asked
        else:
            found[line.key], rest = share, NOTHING if reasons.get(line.key) else asked - whole
        before = line
    return found


def floored(volume: Decimal, broker: Broker) -> Decimal:
    return (volume / broker.volume_step).to_integral_value(ROUND_FLOOR) * broker.volume_step


def expected_volume(master_volume: Decimal, broker: Broker, multiplier: Decimal) -> Decimal:
    """Lots of the copy of what was entered at once."""
    return min(floored(master_volume * multiplier, broker), floored(broker.volume_max, broker))


def is_proportional(
    left: Decimal, share: Decimal, master_left: Decimal, master_opened: Decimal, broker: Broker
) -> bool:
    """Whether `left` lots of a copy are what a partial close of the master leaves: the exact share or less than a step
    more, except where the broker's minimum stands in the way."""
    steps = (share * master_left / master_opened / broker.volume_step).to_integral_value(ROUND_CEILING)
    wanted = max(steps * broker.volume_step, broker.volume_min)
    return left == wanted or (wanted < left <= share and left - wanted < broker.volume_min)


# --- the comparison symbol by symbol ---------------------------------------------------------------------------------


Stops = tuple[Decimal, Decimal]  # SL and TP, 0 = none


@dataclass(frozen=True, slots=True)
class Net:
    """What both accounts have of a symbol, lots that are sold below 0."""

    symbol: str
    master: Decimal
    refused: Decimal  # of those
    copies: Decimal  # what the client's copies, trade by trade, add up to
    client: Decimal  # what the client's terminal shows
    wanted: Stops | None = None  # SL and TP that the client's position should have; None = each copy has its own
    found: Stops | None = None

    @property
    def wrong(self) -> str:
        if self.client != self.copies:
            return f"{side_of(self.client)} instead of {side_of(self.copies)}"
        if self.wanted != self.found:
            return "other SL / TP than its copies ask for"
        return ""


def nets(
    rows: Sequence[Row], master: Sequence[Line], client: Sequence[Line], brokers: Mapping[str, Broker], *, netting: bool
) -> list[Net]:
    """Both accounts symbol by symbol. `master` and `client` are the open positions as their terminals show them;
    `netting`: the client has one for each symbol, with one SL and TP."""
    refused = [row.master for row in rows if row.verdict is Verdict.REFUSED and row.master.kind == POSITION]
    copied = [(row.master, copy) for row in rows for copy in row.copies if copy.kind == POSITION and copy.volume]
    copies = [copy for _, copy in copied]
    wholes = {line.symbol: line for line in client} if netting else {}
    found = []
    for symbol in sorted({line.symbol for line in (*master, *client, *copies)}):
        wanted = shown = None
        if (whole := wholes.get(symbol)) is not None:
            alike = [line for line, copy in copied if (copy.symbol, copy.action) == (symbol, whole.action)]
            wanted, shown = joint_stops(alike, whole.action, brokers[symbol]), (whole.sl, whole.tp)
        lots = [net_lots(lines, symbol) for lines in (master, refused, copies, client)]
        found.append(Net(symbol, lots[0], lots[1], lots[2], lots[3], wanted, shown))
    return found


def net_lots(lines: Iterable[Line], symbol: str) -> Decimal:
    return sum((line.signed for line in lines if line.symbol == symbol), NOTHING)


def joint_stops(originals: Iterable[Line], action: str, broker: Broker) -> Stops:
    """SL and TP of a position that is made of copies of these trades: the farthest, none where one of them has none."""
    stops = [(on_grid(line.sl, broker), on_grid(line.tp, broker)) for line in originals]
    losses, profits = [sl for sl, _ in stops], [tp for _, tp in stops]
    low, high = (min, max) if action == "BUY" else (max, min)
    sl = low(losses) if losses and all(losses) else NOTHING
    tp = high(profits) if profits and all(profits) else NOTHING
    return sl, tp


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


def hops(reports: Iterable[Mapping[str, Any]], visible: Mapping[int, Sequence[int]]) -> dict[str, list[int]]:
    """Milliseconds that each hop took, one number for each open that the copier reported with all its times.

    `visible` says of a ticket when (UTC ms) the master's terminal had confirmed it, and each growth of it. A report has
    the ticket only; it is of what was confirmed nearest to its detection.
    """
    found: dict[str, list[int]] = {name: [] for name, _, _ in HOPS}
    for report in reports:
        confirmed, detected = visible.get(report.get("ticket", 0), ()), report.get("detected_at") or 0
        times = {**report, "visible_at": min(confirmed, key=lambda at: abs(at - detected), default=0)}
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


def side_of(lots: Decimal) -> str:
    """Lots that are sold below 0, in words."""
    return f"{'BUY' if lots > 0 else 'SELL'} {plain(abs(lots))}" if lots else "flat"


def stops(line: Line | None) -> str:
    return "-" if line is None or not line.volume else pair((line.sl, line.tp))


def pair(prices: Stops | None) -> str:
    if prices is None or not any(prices):
        return "-"
    return " / ".join(plain(price) if price else "none" for price in prices)


def number_of(line: Line) -> str:
    """How a trade of the master is called: 4409195544, and its second leg 4409195544-1."""
    return f"{line.ticket}-{line.leg}" if line.leg else str(line.ticket)


def both(one: str, other: str) -> str:
    return one if one == other else f"{one} | {other}"


def shown_copy(row: Row) -> Line | None:
    """Of the copies the one that stands for them all in the table."""
    return min(row.copies, key=lambda line: (line.kind != row.master.kind, not line.volume), default=None)


def table(rows: Sequence[Row], *, own_stops: bool = True) -> list[str]:
    """One line for each trade, below a line of headings. `own_stops`: each of the client's positions has its own."""
    whose = "master | client" if own_stops else "master"
    columns = ("side", "lots master", "lots client", f"SL / TP ({whose})", "client #", "state", "")
    cells: list[tuple[str, ...]] = [("master #", "symbol", *columns)]
    for row in rows:
        copy = shown_copy(row)
        stranger = not row.ticket
        theirs = stops(copy) if copy and (own_stops or copy.kind == ORDER) else stops(row.master)
        cells.append(
            (
                "-" if stranger else number_of(row.master),
                row.master.symbol,
                row.master.action,
                "-" if stranger else lots(row.master),
                lots(copy),
                both(stops(row.master), theirs),
                ", ".join(dict.fromkeys(str(line.ticket) for line in row.copies)) or "-",
                both(state(row.master), state(copy)) if copy else f"{state(row.master)} | -",
                f"{row.verdict}: {row.detail}" if row.detail else row.verdict,
            )
        )
    return aligned(cells, right=(0, 3, 4, 6))


def net_table(found: Sequence[Net]) -> list[str]:
    """One line for each symbol, below a line of headings."""
    one_for_all = any(net.found is not None for net in found)
    heading = "SL / TP (wanted | found)" if one_for_all else ""
    cells = [("symbol", "master", "client's copies", "client's account", heading, "")]
    for net in found:
        master, copies, client = (side_of(lots) for lots in (net.master, net.copies, net.client))
        master += f" ({plain(abs(net.refused))} refused)" if net.refused else ""
        prices = both(pair(net.wanted), pair(net.found)) if one_for_all else ""
        cells.append((net.symbol, master, copies, client, prices, net.wrong or "agrees"))
    return aligned(cells)


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
