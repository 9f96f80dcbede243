"""What the accounts of master and client say about each other: nothing of the copier is asked, only the two brokers.

`broken_promises` looks at all that ever happened; what it finds stays wrong. `differences` looks at what is open now,
and is asked when everything has been left in peace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

import sim_types as t
from copies import tag_of
from demo_accounts import EVER, NOTHING, Account, AccountFailed
from safety import Reason, floor_to_step
from signals import Kind
from terminal import exact

STEP: Final = Decimal("0.01")  # lots, of every symbol that is traded here
PENDING: Final = range(t.ORDER_TYPE_BUY_LIMIT, t.ORDER_TYPE_SELL_STOP_LIMIT + 1)

# A refusal for now that a rule of the follower makes lasts as long as what it compares; the others must come to an end.
RULES: Final = frozenset({Reason.VOLUME_TOO_SMALL, Reason.SPREAD, Reason.SLIPPAGE, Reason.MARGIN})
# Reports of the copier that say why a trade has no copy: of the trade itself, and of the order it came from.
WHY_NOT: Final = frozenset({"skipped", "failed", "closed_by_client", "unknown", "ruled out"})
WHY_NOT_OF_ITS_ORDER: Final = frozenset({"closed_by_client", "unknown"})
TOLD: Final = frozenset({"opened", "adopted", "closed_by_client"})  # the last: gone again before it was seen

Said = Mapping[tuple[str, int], set[str]]  # (kind, master's ticket) → events that the copier has reported


def said_in(reports: Iterable[Mapping[str, Any]]) -> Said:
    """What the answers of GET /executions say of each trade."""
    said: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for report in reports:
        ruled_out = report["event"] == "refused" and report.get("reason") in RULES
        said[report["kind"], report["ticket"]].add("ruled out" if ruled_out else report["event"])
    return said


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be."""

    what: str  # duplicate, lost close, false close, volume, stops, missing, stranger, foreign, ended by itself
    words: str


@dataclass(frozen=True, slots=True)
class Shown:
    """An account with its whole history."""

    positions: Mapping[int, Any]  # by identifier
    orders: Mapping[int, Any]  # pending ones, by ticket
    old_orders: Mapping[int, Any]  # pending ones that have ended
    deals: Mapping[int, list[Any]]  # by position, in order of time

    @staticmethod
    def of(account: Account) -> Shown:
        """Orders first, then positions, then the past: what moves on meanwhile is seen twice, never missed.

        Raises `AccountFailed`.
        """
        orders = _answer(account, "orders_get")
        positions = _answer(account, "positions_get")
        old_orders = _answer(account, "history_orders_get", *EVER)
        deals: defaultdict[int, list[Any]] = defaultdict(list)
        for deal in sorted(_answer(account, "history_deals_get", *EVER), key=lambda d: (d.time_msc, d.ticket)):
            if deal.type in (t.DEAL_TYPE_BUY, t.DEAL_TYPE_SELL):
                deals[deal.position_id].append(deal)
        return Shown(
            {p.identifier: p for p in positions},
            {o.ticket: o for o in orders if o.type in PENDING},
            {o.ticket: o for o in old_orders if o.type in PENDING},
            deals,
        )

    @property
    def trades(self) -> set[int]:
        """A pending order and the position that it becomes are one trade and have one number."""
        return {*self.deals, *self.orders, *self.old_orders}

    def opened(self, position: int) -> Decimal:
        return sum((exact(d.volume) for d in self.deals.get(position, ()) if d.entry == t.DEAL_ENTRY_IN), NOTHING)

    def left_at(self, position: int, msc: float) -> Decimal:
        """Lots of a position after everything up to this moment of the broker's clock."""
        deals = [d for d in self.deals.get(position, ()) if d.time_msc <= msc]
        return sum((exact(d.volume) * (1 if d.entry == t.DEAL_ENTRY_IN else -1) for d in deals), NOTHING)

    def volumes(self, ticket: int) -> set[Decimal]:
        """All the volumes that a trade ever had."""
        found = {self.left_at(ticket, d.time_msc) for d in self.deals.get(ticket, ())}
        order = self.orders.get(ticket) or self.old_orders.get(ticket)
        if order is not None:
            found.add(exact(order.volume_initial))
        return found - {NOTHING}

    def ended_at(self, ticket: int) -> float:
        """When nothing was left of a trade, broker's ms; infinity while there is something."""
        if ticket in self.positions or ticket in self.orders:
            return float("inf")
        if ticket in self.deals:
            return float(self.deals[ticket][-1].time_msc)
        return float(self.old_orders[ticket].time_done_msc)


def _answer(account: Account, question: str, *args: Any) -> Any:
    answer = getattr(account.mt5, question)(*args)
    if answer is None:
        raise AccountFailed(f"the terminal did not answer {question}: {account.mt5.last_error()}")
    return answer


class Comparison:
    """Both accounts, and which of the client's positions and orders are copies of which trade."""

    def __init__(self, master: Shown, client: Shown, master_name: str, multiplier: Decimal, magic: int) -> None:
        """`client` must have been read before `master`: then a close that was copied is there at the master too."""
        self.master, self.client = master, client
        self._multiplier = multiplier
        self._magic = magic
        self.positions: defaultdict[int, list[int]] = defaultdict(list)  # master's ticket → client's positions, ever
        self.orders: defaultdict[int, list[Any]] = defaultdict(list)  # master's ticket → client's pending orders, ever
        self.strangers: list[Finding] = []
        tags = {tag_of((master_name, kind, ticket)): ticket for ticket in master.trades for kind in Kind}
        for position, deals in client.deals.items():
            if (ticket := self._copied_by(tags, deals[0], position)) is not None:
                self.positions[ticket].append(position)
        for order in {**client.orders, **client.old_orders}.values():  # one that ended meanwhile was read twice
            if (ticket := self._copied_by(tags, order, order.ticket)) is not None:
                self.orders[ticket].append(order)

    def _copied_by(self, tags: Mapping[str, int], thing: Any, number: int) -> int | None:
        """The master's trade that a deal or an order of the client is the copy of; None when it is not ours."""
        if thing.magic != self._magic:
            return None
        if thing.comment not in tags:
            self.strangers.append(Finding("stranger", f"client #{number} {thing.comment!r} is a copy of nothing"))
        return tags.get(thing.comment)

    @property
    def copied(self) -> set[int]:
        return {*self.positions, *self.orders}

    # -- all that ever happened

    def broken_promises(self) -> list[Finding]:
        found = list(self.strangers)
        for ticket, positions in self.positions.items():
            if len(positions) > 1:
                found.append(Finding("duplicate", f"master #{ticket} was opened as client's positions {positions}"))
            for position in positions:
                found += self._wrongly_opened(ticket, position)
                found += self._wrongly_closed(ticket, position)
        for ticket, orders in self.orders.items():
            if len(orders) > 1:
                numbers = [order.ticket for order in orders]
                found.append(Finding("duplicate", f"master #{ticket} was placed as client's orders {numbers}"))
            found += [finding for order in orders for finding in self._wrongly_removed(ticket, order)]
        return found

    def _first_volumes(self, ticket: int, opened: Decimal) -> list[Decimal]:
        """The volumes of the master that a copy of so many lots can have been made from."""
        return [v for v in self.master.volumes(ticket) if floor_to_step(v * self._multiplier, STEP) == opened]

    def _wrongly_opened(self, ticket: int, position: int) -> Iterable[Finding]:
        opened = self.client.opened(position)
        if not self._first_volumes(ticket, opened):
            yield Finding("volume", f"client #{position} was opened with {opened} lots, master #{ticket} differs")

    def _wrongly_closed(self, ticket: int, position: int) -> Iterable[Finding]:
        """Closed by the copier before the master, or by more than the master."""
        opened = self.client.opened(position)
        for deal in self.client.deals[position]:
            if deal.entry == t.DEAL_ENTRY_IN or deal.reason != t.DEAL_REASON_EXPERT or deal.magic != self._magic:
                continue
            left = self.client.left_at(position, deal.time_msc)
            of_master = self.master.left_at(ticket, deal.time_msc)
            if left:
                wrong = all(left < opened * of_master / first for first in self._first_volumes(ticket, opened))
            else:
                wrong = self.master.ended_at(ticket) > deal.time_msc
            if wrong:
                words = f"client #{position} was closed to {left} lots while master #{ticket} had {of_master}"
                yield Finding("false close", words)

    def _wrongly_removed(self, ticket: int, order: Any) -> Iterable[Finding]:
        """A pending order taken back while the master's was pending."""
        if order.state != t.ORDER_STATE_CANCELED:
            return
        of_master = self.master.old_orders.get(ticket)
        if ticket in self.master.orders or (of_master is not None and of_master.time_done_msc > order.time_done_msc):
            yield Finding("false close", f"client's order #{order.ticket} was removed, master's #{ticket} was pending")

    # -- what is open now

    def differences(self, said: Said) -> list[Finding]:
        return [finding for ticket in sorted(self.master.trades) for finding in self._difference(ticket, said)]

    def unreported(self, said: Said) -> list[Finding]:
        """Copies that the copier's reports do not mention."""
        told = {ticket for (_, ticket), events in said.items() if events & TOLD}
        return [Finding("unreported", f"the copy of master #{ticket}") for ticket in sorted(self.copied - told)]

    def _difference(self, ticket: int, said: Said) -> Iterable[Finding]:
        of_master, pending = self.master.positions.get(ticket), self.master.orders.get(ticket)
        positions = [self.client.positions.get(number) for number in self.positions.get(ticket, ())]
        position = next((p for p in positions if p is not None), None)
        order = next((o for o in self.orders.get(ticket, ()) if o.ticket in self.client.orders), None)
        if of_master is None and pending is None:
            if position is not None or order is not None:
                yield Finding("lost close", f"master #{ticket} has ended, client has {position or order}")
            return
        if of_master is not None and order is not None:
            yield Finding("lost close", f"master's order #{ticket} has filled, client's is still pending: {order}")
        wanted: Any = of_master or pending
        shown: Any = position or order
        if shown is None:
            reasons = said.get(("position", ticket), set()) if of_master else said.get(("order", ticket), set())
            of_order = said.get(("order", ticket), set()) if of_master else set()
            if not reasons & WHY_NOT and not of_order & WHY_NOT_OF_ITS_ORDER:
                yield Finding("missing", f"master #{ticket} has no copy, and nothing says why: {wanted}")
            return
        if (exact(wanted.sl), exact(wanted.tp)) != (exact(shown.sl), exact(shown.tp)):
            yield Finding("stops", f"master #{ticket} SL {wanted.sl} TP {wanted.tp}, copy SL {shown.sl} TP {shown.tp}")
        if pending is not None and order is not None and exact(pending.price_open) != exact(order.price_open):
            yield Finding("stops", f"master's order #{ticket} at {pending.price_open}, copy at {order.price_open}")
        if of_master is not None and position is not None:
            yield from self._volume_differs(ticket, exact(of_master.volume), position)

    def _volume_differs(self, ticket: int, now: Decimal, position: Any) -> Iterable[Finding]:
        opened = self.client.opened(position.identifier)
        shares = {opened * now / first for first in self._first_volumes(ticket, opened)}
        targets = {(share / STEP).to_integral_value(ROUND_CEILING) * STEP for share in shares}
        if exact(position.volume) not in targets:
            words = f"master #{ticket} has {now} lots, copy {position.volume} of {opened}"
            yield Finding("volume", words)
