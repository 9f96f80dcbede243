"""What must be true when the faults are over: the brokers' own records against what the master really did.

Nothing here trusts the product: positions, deals and orders come from the simulated brokers, the truth about the master
from `World.trades`. Only reasons are looked up in the copiers' ledgers and the server's reports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import sim_types as t
from campaign.world import MAGIC, MAX_AGE_S, MULTIPLIER, START, UTC_OFFSET_S, Trade, World, position_of
from copies import State, tag_of
from link import FIRST_BOOK_S
from signals import Kind
from sim_records import Deal

D = Decimal
STEP: Final = D("0.01")
# The newest quote may be a tick old; and the first book after a start may have been on its way for so long.
AGE_TOLERANCE_S: Final = 1.5 + FIRST_BOOK_S
ENDED: Final = (State.CLOSED, State.CLOSED_BY_CLIENT, State.SKIPPED, State.FAILED, State.UNKNOWN)


def violations(world: World) -> list[str]:
    """Everything that is wrong; empty when nothing is."""
    return [
        *world.defects,
        *_opened_twice(world),
        *_opened_too_late(world),
        *_closed_wrongly(world),
        *_not_closed(world),
        *_not_alike(world),
        *_not_followed(world),
        *_without_reason(world),
        *_not_told(world),
        *_foreign_touched(world),
        *_undecided(world),
    ]


def master_of_tag(world: World) -> dict[str, Trade]:
    found = {}
    for ticket, trade in world.trades.items():
        for kind in Kind:
            found[tag_of(("master_user", kind, ticket))] = trade
    return found


def _true_time(msc: int) -> float:
    return msc / 1000 - UTC_OFFSET_S


class Copied:
    """What the client's broker has on record about the copies: by master's ticket, the positions ever opened."""

    def __init__(self, world: World) -> None:
        tags = master_of_tag(world)
        self.positions: dict[int, dict[int, list[object]]] = defaultdict(dict)
        self.master_of: dict[int, Trade] = {}
        broker = world.client_broker
        for deal in broker.account.deals.items:
            trade = tags.get(world.tags.get(deal.position_id, ""))
            if deal.entry == t.DEAL_ENTRY_IN and deal.magic == MAGIC and trade is not None:
                self.positions[trade.ticket].setdefault(deal.position_id, []).append(deal)
                self.master_of[deal.position_id] = trade
        for order in broker.account.orders.values():
            trade = tags.get(world.tags.get(order.ticket, ""))
            if order.magic == MAGIC and trade is not None and not order.position_id:
                self.positions[trade.ticket].setdefault(order.ticket, [])


def _opened_twice(world: World) -> list[str]:
    """An order that was under way, and showed nowhere, when an old copy of the ledger was put back may be repeated: not
    promised otherwise. Nor is anything about two copiers of which the server has forgotten one, where nothing on the
    account tells whose a position is."""
    if world.setup.comment and world.second_copier is not None and world.server_put_back:
        return []
    return [
        f"opened {len(positions)} times: master #{ticket} as {sorted(positions)}"
        for ticket, positions in Copied(world).positions.items()
        if len(positions.keys() - world.unseen_by_it) > 1
    ]


def _opened_too_late(world: World) -> list[str]:
    found = []
    orders = {o.ticket: o for o in (*world.client_broker.account.old_orders.items, *world.client_broker.orders())}
    for ticket, positions in Copied(world).positions.items():
        trade = world.trades[ticket]
        for identifier in positions:
            order = orders.get(identifier)
            if order is None:
                continue
            sent = _true_time(order.time_setup_msc)
            of_order = world.tags[identifier] == tag_of(("master_user", Kind.ORDER, ticket))
            began = trade.opened if of_order or trade.filled is None else trade.filled
            if sent - began > MAX_AGE_S + AGE_TOLERANCE_S:
                found.append(f"opened {sent - began:.1f} s after the master's #{ticket}: #{identifier}")
    return found


def _unseen_lots(world: World, deals: Iterable[Deal]) -> Decimal:
    """What a copier sent before its old ledger was put back, and that could not know of."""
    return sum((x.volume for x in deals if x.entry != t.DEAL_ENTRY_IN and x.order in world.unseen_by_it), D(0))


def _closed_wrongly(world: World) -> list[str]:
    """A copy closed or reduced by a program although the master still had that much."""
    found = []
    copied = Copied(world)
    broker = world.client_broker
    sent_at = {order.ticket: order.time_setup_msc for order in broker.account.old_orders.items}
    by_position: dict[int, list[Deal]] = defaultdict(list)
    for deal in broker.account.deals.items:
        if deal.position_id in copied.master_of:
            by_position[deal.position_id].append(deal)
    for identifier, deals in by_position.items():
        if world.ledger_lost and identifier in world.by_hand:
            continue  # proportions begin anew with what both sides hold
        trade = copied.master_of[identifier]
        left = whole = D(0)
        by_others: list[Deal] = []
        for number, deal in enumerate(deals, 1):
            if deal.entry == t.DEAL_ENTRY_IN:
                left, whole = left + deal.volume, whole + deal.volume
                continue
            left -= deal.volume
            if deal.reason != t.DEAL_REASON_EXPERT:
                by_others.append(deal)
                continue
            # What the follower closed while the order was on its way, the copier could not know of; nor of a reduction
            # that was under way, and showed nowhere, when its old ledger was put back.
            meanwhile = sum((x.volume for x in by_others if x.time_msc >= sent_at[deal.order]), D(0))
            meanwhile += _unseen_lots(world, deals[:number])
            when = _true_time(deal.time_msc)
            lots = trade.volume_at(when)
            # What the master had when the copy was made is the whole of the proportion; never less than it has now.
            # After a loss in the dark what was left then begins anew, with any lots that the master ever had.
            whole_now = min(whole, world.lost_in_the_dark.get(identifier, whole))
            share = whole_now * lots / max(volume for _, volume in trade.volumes)
            if lots and left + meanwhile < (share / STEP).to_integral_value(rounding="ROUND_FLOOR") * STEP:
                found.append(
                    f"closed at {when - START:.2f} to {left} lots although the master's #{trade.ticket} had {lots} "
                    f"of {trade.volumes[0][1]}: #{identifier}"
                )
    return found


def _followed(world: World) -> set[int]:
    return {copy.client_ticket for copy in world.ledger.values() if copy.state not in ENDED}


def _beyond_recognition(world: World) -> set[int]:
    """Copies that are reported and left alone: those of an order that was under way when an old copy of the ledger was
    put back, and that was repeated; and, where the broker replaces comments, those that nothing can tell whose they
    are, because their ledger is lost, or they were opened after their order was given up. And there such that a second
    copier opened while an order like it had no answer, and that were taken for that."""
    if not world.setup.comment:
        several = [positions.keys() for positions in Copied(world).positions.values() if len(positions) > 1]
        return {identifier for positions in several if positions & world.unseen_by_it for identifier in positions}
    positions = {p.identifier for p in world.client_broker.positions()}
    taken_for_another = set()
    if world.second_copier is not None:
        taken_for_another = {
            copy.client_ticket
            for copy in world.ledger.values()
            if copy.client_ticket in positions
            and world.tags.get(copy.client_ticket)
            not in (tag_of(copy.key), tag_of((copy.master, Kind.ORDER, copy.ticket)))
        }
    found = positions - _followed(world)
    given_up = {tag_of(copy.key) for copy in world.ledger.values() if copy.state is State.UNKNOWN}
    lost = {one for one in found if world.ledger_lost or world.tags.get(one) in given_up}
    return lost | taken_for_another


def _not_closed(world: World) -> list[str]:
    found = []
    known, beyond = _followed(world), _beyond_recognition(world)
    copied = Copied(world)
    for position in world.client_broker.positions():
        trade = copied.master_of.get(position.identifier)
        if trade is None or trade.ended is None:
            continue
        if world.ledger_lost and position.identifier not in known:
            world.counts["copies of a lost ledger, reported and left alone"] += 1
            continue
        if position.identifier in beyond:
            world.counts["opened after they were given up, without their comment: reported and left alone"] += 1
            continue
        found.append(f"still open although the master's #{trade.ticket} has ended: #{position.identifier}")
    tags = master_of_tag(world)
    for order in world.client_broker.orders():
        trade = tags.get(world.tags.get(order.ticket, ""))
        if order.magic == MAGIC and trade is not None and trade.ended is not None:
            if world.ledger_lost and order.ticket not in known:
                continue
            found.append(f"order #{order.ticket} still there although the master's #{trade.ticket} has ended")
    return found


def _not_alike(world: World) -> list[str]:
    """Open copies: lots in proportion, stop loss and take profit as the master's."""
    found = []
    beyond = _beyond_recognition(world)
    for identifier, trade in Copied(world).master_of.items():
        position = position_of(world.client_broker, identifier)
        master = position_of(world.master_broker, trade.ticket)
        if position is None or master is None or identifier in world.by_hand | beyond:
            continue
        whole = sum((d.volume for d in world.client_broker.deals(position=identifier) if d.entry == 0), D(0))
        first = trade.volumes[0][1]
        share = whole * master.volume / first
        least = min(whole, world.lost_in_the_dark.get(identifier, whole))  # see `_closed_wrongly`
        # A copy that began when the master had closed a part already is the proportion of what was left then; and a
        # ledger that was lost begins anew with what both have.
        too_much = position.volume > share + STEP and whole >= first * MULTIPLIER and not world.ledger_lost
        unseen = _unseen_lots(world, world.client_broker.deals(position=identifier))
        too_little = position.volume + unseen < min(least * master.volume / first, least) - STEP
        if too_much or too_little or position.volume > max(share, whole):
            found.append(f"#{identifier} has {position.volume} lots, the master's #{trade.ticket} {master.volume}")
        if (position.sl, position.tp) != (master.sl, master.tp):
            found.append(
                f"#{identifier} has SL {position.sl} TP {position.tp}, the master's #{trade.ticket} "
                f"SL {master.sl} TP {master.tp}"
            )
    return found


def _not_followed(world: World) -> list[str]:
    """An open copy of an open trade that the copier does not know of: nobody would close it with its master."""
    known = _followed(world) | _beyond_recognition(world)
    return [
        f"nobody follows #{identifier}, the copy of the master's #{trade.ticket}"
        for identifier, trade in Copied(world).master_of.items()
        if trade.ended is None and identifier not in known and position_of(world.client_broker, identifier) is not None
    ]


def _without_reason(world: World) -> list[str]:
    """A trade of the master that is open and has no copy: why must be in the ledger, and at the server."""
    found = []
    copied, ledger = Copied(world), world.ledger
    told = {report["ticket"] for report in world.reports()}
    for ticket, trade in world.trades.items():
        if trade.ended is not None or ticket in copied.positions:
            continue
        reasons = [c.reason for c in ledger.values() if c.ticket == ticket and c.reason]
        if not reasons:
            found.append(f"no copy and no reason: master #{ticket}")
        elif ticket not in told and not world.reports_lost:
            found.append(f"no copy, and the server was not told why: master #{ticket} ({reasons})")
        else:
            world.counts[f"skipped: {reasons[0]}"] += 1
    return found


def _not_told(world: World) -> list[str]:
    """The server must have a report of every copy that was made, and of every end."""
    if world.ledger_lost or world.reports_lost or not world.server.alive:
        return []
    told = {(report["ticket"], report["event"]) for report in world.reports()}
    tickets = {ticket for ticket, _ in told}
    ends = ("closed", "closed_by_client", "cancelled")
    found = [f"the server was not told of the copy of #{x}" for x in Copied(world).positions if x not in tickets]
    for copy in world.ledger.values():
        ended = copy.state in (State.CLOSED, State.CLOSED_BY_CLIENT) and copy.client_ticket
        if ended and not any((copy.ticket, event) in told for event in ends):
            found.append(f"the server was not told of the end of {copy.key}, #{copy.client_ticket}")
    return found


def _foreign_touched(world: World) -> list[str]:
    now = {p.ticket: p.volume for p in world.client_broker.positions() if p.ticket in world.foreign}
    return [] if now == world.foreign else [f"foreign positions were {world.foreign} and are {now}"]


def _undecided(world: World) -> list[str]:
    found = [
        f"{copy.state} for ever: {copy.key} as #{copy.client_ticket}"
        for copy in world.ledger.values()
        if copy.state in (State.OPENING, State.CLOSING)
    ]
    for part in (world.server, world.sender, world.copier):
        if not part.alive:
            found.append(f"the {part.name} does not run")
    if world.counts["restarts after the faults"] > 2:
        found.append("programs stop again and again although nothing is wrong any more")
    return found
