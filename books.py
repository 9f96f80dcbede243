"""The masters' books as the copier works with them: leg by leg, and with what the ledger knows of each.

The legs of a trade that has grown, shrunk or turned round are in the ledger, and written there before anything is done
about a change: legs.py works them out.
"""

from __future__ import annotations

from copies import LIVE, State
from ledger import CopierLedger
from legs import Legs, first_legs, followed, held_as, one_leg, whole
from mirror import CopyKey, Held, Mirror
from signals import Kind


class Books:
    """The mirror's trades, leg by leg."""

    def __init__(self, ledger: CopierLedger, mirror: Mirror) -> None:
        self._ledger = ledger
        self._mirror = mirror

    def load(self) -> None:
        """Have in memory what the ledger knows of the trades of the books, and of the orders they came from."""
        ledger, mirror = self._ledger, self._mirror
        needed = {(*key, 0) for key in mirror.trades}
        needed |= {(master, Kind.ORDER, ticket, 0) for master, _, ticket in mirror.trades}
        for key, legs in ledger.legs.items():
            needed |= {(*key, leg.number) for leg in legs}
            needed |= {(key[0], Kind.ORDER, leg.order, 0) for leg in legs if leg.order}
        needed |= {
            (key[0], Kind.ORDER, held.trade.increase.order, 0)
            for key, held in mirror.trades.items()
            if held.trade.increase is not None and held.trade.increase.order
        }
        ledger.load(needed)
        ledger.forget(needed)

    def store_legs(self) -> None:
        """Write down the legs that have changed, before anything is done about them. Raises `LedgerError`."""
        ledger, mirror = self._ledger, self._mirror
        changed = {
            held.trade_key: legs
            for held in mirror.trades.values()
            if (legs := self._legs_of(held)) != ledger.legs.get(held.trade_key, ())
        }
        live = {copy.key[:3] for copy in ledger.copies.values() if copy.state in LIVE or copy.state is State.UNKNOWN}
        for key in ledger.legs:
            if mirror.known and key not in mirror.trades and key not in live:
                changed[key] = ()
        if changed:
            ledger.record(legs=changed)

    def at(self, now: float) -> dict[CopyKey, Held]:
        """The masters' trades, leg by leg."""
        books: dict[CopyKey, Held] = {}
        for held in self._mirror.trades.values():
            legs = self._legs_of(held)
            if legs:
                books.update(held_as(held, legs, self._mirror, now))
            else:
                key, one = whole(held)
                books[key] = one
        return books

    def _legs_of(self, held: Held) -> Legs:
        """The legs of a master's trade now; none when it is one leg and always was."""
        key, trade = held.trade_key, held.trade
        copies = self._ledger.copies
        legs = self._ledger.legs.get(key, ())
        first = copies.get((*key, 0))
        if trade.kind is Kind.ORDER:
            return ()
        if not legs and first is None:
            return first_legs(trade) if trade.increase is not None else ()
        if not legs and first is not None:
            legs = (one_leg(trade, first.action.buys, first.master_volume),)
        if not self._mirror.believed(key):
            return legs  # as they were before the server's database was put back
        after = followed(legs, trade, {leg.number for leg in legs if (*key, leg.number) in copies})
        return after if after != legs or key in self._ledger.legs else ()
