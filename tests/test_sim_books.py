"""Whatever is traded, the books of the simulated account agree with each other, and its file brings all of it back."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_desk import BUY, BUY_LIMIT, BUY_STOP, EVER, SELL, SELL_LIMIT, SELL_STOP, Desk

import mt5_sim
from sim_account import Account

SYMBOLS = {
    "EURUSD": {"depth": 0.5, "commission": 3.5, "trade_exemode": 3, "swap_long": -6.5, "swap_short": 2.1},
    "WINZ26": {"depth": 3, "commission": 0.25, "swap_mode": 7, "swap_long": -5, "swap_short": -5},
}
PRICES = {"EURUSD": (1.1, 0.0001, 0.0001), "WINZ26": (130000.0, 5.0, 5.0)}  # bid, its step, spread

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "buy",
                "sell",
                "close",
                "close by",
                "by hand",
                "limit",
                "stop",
                "remove",
                "levels",
                "night",
                "late",
                "part",
            ]
        ),
        st.sampled_from(list(PRICES)),
        st.integers(1, 9),
        st.integers(-20, 20),
        st.sampled_from([0, 1, 2]),
    ),
    max_size=20,
)


def act(desk: Desk, what: str, symbol: str, size: int, filling: int) -> None:
    """One thing a trader, his server or the night does; what is refused is as good."""
    tick = desk.mt5.symbol_info_tick(symbol)
    lots = float(size) if symbol == "WINZ26" else size / 10
    mine = desk.mt5.positions_get(symbol=symbol)
    fields = {"symbol": symbol, "volume": lots, "type_filling": filling, "magic": size, "comment": what}
    far = PRICES[symbol][1] * size * 3
    if what in ("late", "part"):
        desk.mt5.inject("order_send", "placed_late_fill" if what == "late" else "partial")
    if what in ("buy", "sell", "late", "part"):
        desk.send(**fields | {"type": SELL if what == "sell" else BUY})
    elif what in ("limit", "stop"):
        below = round(tick.bid - far, 5)
        above = round(tick.ask + far, 5)
        kinds = {"limit": ((BUY_LIMIT, below), (SELL_LIMIT, above)), "stop": ((BUY_STOP, above), (SELL_STOP, below))}
        kind, price = kinds[what][size % 2]
        desk.pending(**fields | {"type": kind, "price": price})
    elif what == "night":
        desk.mt5.sim_rollover()
    elif what == "remove":
        for order in desk.mt5.orders_get(symbol=symbol)[:1]:
            desk.send(action=8, order=order.ticket)
    elif mine and what == "close by":
        if all(position.type == mine[0].type for position in mine):
            desk.send(**fields | {"type": 1 - mine[0].type})
        for other in [p for p in desk.mt5.positions_get(symbol=symbol) if p.type != mine[0].type][:1]:
            desk.send(action=10, position=mine[0].ticket, position_by=other.ticket)
    elif mine and what == "close":
        desk.close(mine[-1], volume=min(lots, mine[-1].volume), type_filling=filling)
    elif mine and what == "by hand":
        desk.mt5.sim_close_by_hand(mine[0].ticket, min(lots, mine[0].volume))
    elif mine and what == "levels":
        desk.send(action=6, position=mine[0].ticket, sl=round(tick.bid - far, 5) if mine[0].type == BUY else 0.0)


def everything(mt5: mt5_sim.Client) -> list[Any]:
    history = [mt5.history_deals_get(*EVER), mt5.history_orders_get(*EVER)]
    return [mt5.positions_get(), mt5.orders_get(), *history, mt5.account_info()]


def check(desk: Desk) -> None:
    """The balance is the sum of the deals; positions, orders and deals tell of the same lots."""
    positions, waiting, deals, ended, info = everything(desk.mt5)
    assert info.balance == pytest.approx(sum(deal.profit + deal.swap + deal.commission for deal in deals), abs=1e-6)
    assert info.profit == pytest.approx(sum(position.profit + position.swap for position in positions), abs=1e-6)
    assert info.equity == pytest.approx(info.balance + info.profit, abs=1e-6)
    assert info.margin_free == pytest.approx(info.equity - info.margin, abs=1e-6)

    bought: Counter[int] = Counter()  # thousandths of a lot, by identifier
    for deal in deals[1:]:
        bought[deal.position_id] += round(deal.volume * 1000) * (1 if deal.type == BUY else -1)
    open_now = {p.identifier: round(p.volume * 1000) * (1 if p.type == BUY else -1) for p in positions}
    assert {identifier: lots for identifier, lots in bought.items() if lots} == open_now
    if desk.broker.settings.netting:
        assert len({position.symbol for position in positions}) == len(positions)

    filled: Counter[int] = Counter()
    for deal in deals[1:]:
        filled[deal.order] += round(deal.volume * 1000)
    for order in (*waiting, *ended):
        times = 2 if order.type == 8 else 1  # close-by makes a deal for each of the two
        assert filled.pop(order.ticket, 0) == times * round((order.volume_initial - order.volume_current) * 1000)
    assert not filled
    for rows in ((*waiting, *ended), deals, positions):
        assert len({row.ticket for row in rows}) == len(rows)


@settings(max_examples=60)
@given(steps=STEPS, mode=st.sampled_from(["hedging", "netting", "exchange"]))
def test_the_books_agree_after_whatever_is_traded(steps: list[Any], mode: str):
    desk = Desk(SYMBOLS, margin_mode=mode, balance=20_000, leverage=500)
    at = dict.fromkeys(PRICES, 0)
    for what, symbol, size, move, filling in steps:
        at[symbol] += move
        price, step, spread = PRICES[symbol]
        bid = round(price + at[symbol] * step, 5)
        desk.pass_time(1)
        desk.quote(symbol, bid, round(bid + spread, 5))
        act(desk, what, symbol, size, filling)
        check(desk)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.json"
        kept = desk.broker.account
        kept.save(file)
        read = Account(kept.settings, kept.market)
        read.load(file)
    for name in ("balance", "positions", "orders", "selected", "next_order", "next_deal"):
        assert getattr(read, name) == getattr(kept, name)
    assert (read.deals.items, read.old_orders.items) == (kept.deals.items, kept.old_orders.items)
