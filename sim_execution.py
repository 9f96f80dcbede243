"""What comes of a trade at the simulated broker: positions, deals, and orders that end.

Hedging: every order opens a position of its own, or closes the one it was sent for. Netting: every order meets the one
position of its symbol, which it makes larger or smaller, closes or reverses. Nothing is refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from decimal import Decimal as D

import sim_types as t
from sim_account import Account
from sim_records import Deal, Order, Position

REOPENING = (t.SYMBOL_SWAP_MODE_REOPEN_CURRENT, t.SYMBOL_SWAP_MODE_REOPEN_BID)


class Execution:
    """Carries trades out on an account."""

    def __init__(self, account: Account, now_msc: Callable[[], int]) -> None:
        self._account = account
        self._market = account.market
        self._now_msc = now_msc
        # The deal that closes something may reach the history late, by this many milliseconds.
        self.closing_delay: Callable[[], int] = lambda: 0

    # ---- orders

    def place(self, order: Order) -> None:
        """Let an order wait."""
        self._account.orders[order.ticket] = order
        self._account.changed = True

    def fill(self, order: Order, volume: Decimal) -> Deal:
        """Execute so much of an order at the market. What is left of it goes on waiting, if it waits."""
        price = self._account.price(order.symbol, order.is_buy)
        if order.at_market:
            order.price_open = price
        position = self._position_met(order)
        if position is None:
            deal = self._open(order, volume, price)
        elif position.is_buy == order.is_buy:
            deal = self._increase(position, order, volume, price)
        elif volume <= position.volume:
            deal = self._reduce(position, order, volume, price, t.DEAL_ENTRY_OUT)
        else:
            deal = self._reverse(position, order, volume, price)
        self._market.take(order.symbol, order.is_buy, volume)
        order.position_id = deal.position_id
        order.volume_current -= volume
        if order.volume_current:
            order.state = t.ORDER_STATE_PARTIAL
        else:
            self.end(order, t.ORDER_STATE_FILLED, visible_msc=deal.visible_msc)
        return deal

    def end(self, order: Order, state: int, visible_msc: int = 0) -> None:
        """Move an order to the history."""
        self._account.orders.pop(order.ticket, None)
        order.state = state
        order.time_done_msc = self._now_msc()
        order.price_current = self._account.price(order.symbol, order.is_buy)
        order.due_msc, order.hidden, order.visible_msc = 0, False, visible_msc
        self._account.old_orders.append(order)
        self._account.changed = True

    def _position_met(self, order: Order) -> Position | None:
        """The position an order is executed against. Hedging: the one it was sent for, or has opened in part."""
        if self._account.settings.netting:
            return self._account.net_position(order.symbol)
        return self._account.position_with(order.position_id) if order.position_id else None

    # ---- positions

    def _open(self, order: Order, volume: Decimal, price: Decimal) -> Deal:
        self._add_position(order, order.ticket, volume, price)
        return self._book(order, volume, price, order.is_buy, order.ticket, t.DEAL_ENTRY_IN)

    def _add_position(self, order: Order, identifier: int, volume: Decimal, price: Decimal) -> None:
        now = self._now_msc()
        self._account.selected.add(order.symbol)
        self._account.positions[order.ticket] = Position(
            ticket=order.ticket,
            identifier=identifier,
            symbol=order.symbol,
            type=t.POSITION_TYPE_BUY if order.is_buy else t.POSITION_TYPE_SELL,
            volume=volume,
            price_open=price,
            sl=order.sl,
            tp=order.tp,
            magic=order.magic,
            reason=order.reason,
            comment=order.comment,
            time_msc=now,
            time_update_msc=now,
        )

    def _increase(self, position: Position, order: Order, volume: Decimal, price: Decimal) -> Deal:
        """Add to a position: the price becomes the average. Netting: SL and TP those of the order, be they none."""
        total = position.volume + volume
        position.price_open = (position.price_open * position.volume + price * volume) / total
        position.volume = total
        if self._account.settings.netting:
            position.sl, position.tp = order.sl, order.tp
        position.time_update_msc = self._now_msc()
        return self._book(order, volume, price, order.is_buy, position.identifier, t.DEAL_ENTRY_IN)

    def _reduce(self, position: Position, order: Order, volume: Decimal, price: Decimal, entry: int) -> Deal:
        """Take volume off a position, or all of it."""
        profit, swap = self._realised(position, volume, price)
        position.volume -= volume
        position.swap -= swap
        position.time_update_msc = self._now_msc()
        if not position.volume:
            del self._account.positions[position.ticket]
        return self._book(order, volume, price, not position.is_buy, position.identifier, entry, profit, swap)

    def _reverse(self, position: Position, order: Order, volume: Decimal, price: Decimal) -> Deal:
        """Close a netting position and open the opposite one, in one deal, which carries the profit of the close.

        The identifier stays, the ticket becomes that of the reversing order.
        """
        profit, swap = self._realised(position, position.volume, price)
        del self._account.positions[position.ticket]
        self._add_position(order, position.identifier, volume - position.volume, price)
        entry = t.DEAL_ENTRY_INOUT
        return self._book(order, volume, price, order.is_buy, position.identifier, entry, profit, swap)

    def close_by(self, order: Order, first: Position, second: Position) -> Deal:
        """Let two opposite positions close each other, as far as they go; the deal of the first."""
        volume, price = min(first.volume, second.volume), second.price_open
        order.symbol, order.type, order.price_open = first.symbol, t.ORDER_TYPE_CLOSE_BY, price
        order.volume_initial, order.volume_current = volume, D(0)
        order.position_id, order.position_by_id = first.identifier, second.identifier
        # The profit is booked on the position that is closed; on the other one nothing is left to book.
        deal = self._reduce(first, order, volume, price, t.DEAL_ENTRY_OUT_BY)
        self._reduce(second, order, volume, price, t.DEAL_ENTRY_OUT_BY)
        self.end(order, t.ORDER_STATE_FILLED, visible_msc=deal.visible_msc)
        return deal

    def close(self, position: Position, reason: int, comment: str, volume: Decimal | None = None) -> Deal:
        """Close a position (or some of it) at the market: SL, TP, stop-out, or by hand (CLIENT, magic 0)."""
        order = self._order_against(position, reason, comment, volume)
        return self.fill(order, order.volume_initial)

    def _order_against(self, position: Position, reason: int, comment: str, volume: Decimal | None = None) -> Order:
        volume = position.volume if volume is None else volume
        return Order(
            ticket=self._account.new_order_ticket(),
            symbol=position.symbol,
            type=t.ORDER_TYPE_SELL if position.is_buy else t.ORDER_TYPE_BUY,
            volume_initial=volume,
            volume_current=volume,
            price_open=D(0),
            time_setup_msc=self._now_msc(),
            magic=0 if reason == t.ORDER_REASON_CLIENT else position.magic,
            reason=reason,
            comment=comment,
            position_id=position.identifier,
            closing=True,
        )

    # ---- the night

    def charge_swap(self, position: Position, nights: int) -> None:
        """Charge or pay swap for so many nights, as the symbol's swap_mode says."""
        account, spec = self._account, self._account.spec(position.symbol)
        rate = spec.swap_long if position.is_buy else spec.swap_short
        if spec.swap_mode in REOPENING:
            self._reopen(position, rate * spec.point * nights)
        elif spec.swap_mode != t.SYMBOL_SWAP_MODE_DISABLED:
            position.swap += account.money(account.swap_per_night(spec, position, rate) * nights)
        account.changed = True

    def _reopen(self, position: Position, shift: Decimal) -> None:
        """Close the position and open it again: a new ticket, the same identifier, a price that has the swap in it.

        REOPEN_CURRENT closes at the price the position would be closed at now, REOPEN_BID at Bid.
        """
        account, spec = self._account, self._account.spec(position.symbol)
        at_bid = position.is_buy or spec.swap_mode == t.SYMBOL_SWAP_MODE_REOPEN_BID
        price = account.price(position.symbol, not at_bid)
        profit, swap = self._realised(position, position.volume, price)
        out = self._order_against(position, t.ORDER_REASON_CLIENT, position.comment)
        back = replace(out, ticket=account.new_order_ticket(), closing=False, type=position.type)
        # Paid swap makes the new price better for the holder, charged swap worse.
        again = price - shift if position.is_buy else price + shift
        again = spec.to_grid(again)
        del account.positions[position.ticket]
        for order, buy, at, entry, money in (
            (out, not position.is_buy, price, t.DEAL_ENTRY_OUT, (profit, swap)),
            (back, position.is_buy, again, t.DEAL_ENTRY_IN, (D(0), D(0))),
        ):
            order.magic, order.price_open, order.volume_current = position.magic, at, D(0)
            reason = t.DEAL_REASON_ROLLOVER
            deal = self._book(order, position.volume, at, buy, position.identifier, entry, *money, reason=reason)
            self.end(order, t.ORDER_STATE_FILLED, visible_msc=deal.visible_msc)
        now = self._now_msc()
        account.positions[back.ticket] = replace(
            position, ticket=back.ticket, price_open=again, time_msc=now, time_update_msc=now, swap=D(0)
        )

    # ---- money

    def _realised(self, position: Position, volume: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
        """Profit and swap of so much of a position when it closes at this price."""
        account = self._account
        profit = account.profit(position.symbol, position.is_buy, volume, position.price_open, price)
        swap = account.money(position.swap * volume / position.volume) if position.swap else D(0)
        return profit, swap

    def _book(
        self,
        order: Order,
        volume: Decimal,
        price: Decimal,
        buy: bool,
        position_id: int,
        entry: int,
        profit: Decimal = D(0),
        swap: Decimal = D(0),
        *,
        reason: int | None = None,
    ) -> Deal:
        account, now = self._account, self._now_msc()
        commission = -account.money(account.spec(order.symbol).commission * volume)
        account.balance += profit + swap + commission
        deal = Deal(
            ticket=account.new_deal_ticket(),
            order=order.ticket,
            time_msc=now,
            type=t.DEAL_TYPE_BUY if buy else t.DEAL_TYPE_SELL,
            entry=entry,
            magic=order.magic,
            position_id=position_id,
            reason=order.reason if reason is None else reason,  # both number the first seven alike
            volume=volume,
            price=price,
            commission=commission,
            swap=swap,
            profit=profit,
            symbol=order.symbol,
            comment=order.comment,
            visible_msc=0 if entry == t.DEAL_ENTRY_IN else now + self.closing_delay(),
        )
        self.record(deal)
        return deal

    def record(self, deal: Deal) -> None:
        self._account.deals.append(deal)
        self._account.changed = True
