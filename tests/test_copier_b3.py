"""B3: the mini contracts of index (WIN) and dollar (WDO): whole contracts, ticks of 5 and 0.5, exchange execution."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any

import pytest
from follower import Follower, Make, order, position

from safety import Limits, Mode, Sizing

WIN, WDO = "WINZ26", "WDOZ26"
BID = {WIN: 130000.0, WDO: 5450.0}
TICK = {WIN: 5.0, WDO: 0.5}
BOTH = pytest.mark.parametrize("symbol", [WIN, WDO])
ACCOUNTS = pytest.mark.parametrize("margin_mode", ["exchange", "netting", "hedging"])


def desk(make: Make, sizing: Sizing | None = None, margin_mode: str = "exchange", **market: Any) -> Follower:
    """A follower at a Brazilian broker."""
    follower = make(
        balance=1_000_000,
        account={"currency": "BRL", "margin_mode": margin_mode},
        market={symbol: {"select": True, **market} for symbol in (WIN, WDO)},
        sizing=sizing or Sizing(Mode.MULTIPLIER, D(0), D(1), True),
        limits=Limits(50, 20, 5, D(500), D(10), 60),
    )
    for symbol in (WIN, WDO):
        quote(follower, symbol, BID[symbol])
    return follower


def quote(follower: Follower, symbol: str, bid: float) -> None:
    follower.mt5.sim_set_quote(symbol, bid, bid + TICK[symbol])


def mini(ticket: int, symbol: str, volume: str, action: str = "BUY", **more: Any) -> Any:
    price = D(str(BID[symbol])) + (D(str(TICK[symbol])) if action == "BUY" else 0)
    size = {WIN: D("0.2"), WDO: D(10)}[symbol]
    fields: dict[str, Any] = {"price": price, "contract_size": size}
    return position(ticket, action, volume, symbol, **{**fields, **more})


# --- whole contracts --------------------------------------------------------------------------------------------------


@BOTH
@ACCOUNTS
@pytest.mark.parametrize(
    ("multiplier", "master", "contracts"), [("1", "3", 3.0), ("0.5", "3", 1.0), ("2.5", "3", 7.0), ("0.34", "3", 1.0)]
)
def test_contracts_are_whole_and_rounded_down(
    make: Make, symbol: str, margin_mode: str, multiplier: str, master: str, contracts: float
) -> None:
    follower = desk(make, Sizing(Mode.MULTIPLIER, D(0), D(multiplier), True), margin_mode)
    trade = follower.master_opens(mini(1, symbol, master))
    follower.look()
    assert follower.volumes == [contracts]
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.volumes == []


@BOTH
@pytest.mark.parametrize("sizing", [Sizing(Mode.MULTIPLIER, D(0), D("0.33")), Sizing(Mode.FIX, D("0.99"), D(1))])
def test_less_than_a_contract_is_refused_with_its_numbers(make: Make, symbol: str, sizing: Sizing) -> None:
    follower = desk(make, sizing)
    follower.master_opens(mini(1, symbol, "3"))
    follower.passes(2)
    assert follower.opened() == 0
    (report,) = follower.reports()
    assert report["reason"] == "volume_below_minimum"
    assert (report["numbers"]["volume_min"], report["numbers"]["volume_step"]) == (1, 1)


@BOTH
@ACCOUNTS
def test_partial_closes_go_in_whole_contracts_and_end_flat(make: Make, symbol: str, margin_mode: str) -> None:
    follower = desk(make, Sizing(Mode.MULTIPLIER, D(0), D("0.3"), True), margin_mode)
    trade = follower.master_opens(mini(1, symbol, "10"))
    follower.look()
    assert follower.volumes == [3.0]
    for left in range(9, 0, -1):
        trade = follower.master_closes(trade, str(left))
        follower.passes(2)
        (held,) = follower.volumes
        assert held == int(held)
        assert 0 <= held - 0.3 * left < 1
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.volumes == []
    assert follower.opened() == 1


# --- ticks of 5 and 0.5 -----------------------------------------------------------------------------------------------


@ACCOUNTS
@pytest.mark.parametrize(
    ("symbol", "sl", "tp", "on_grid"),
    [
        (WIN, "129502", "130998", (129500.0, 131000.0)),
        (WIN, "129503", "130997", (129505.0, 130995.0)),
        (WDO, "5431.2", "5470.3", (5431.0, 5470.5)),
        (WDO, "5431.3", "5470.1", (5431.5, 5470.0)),
    ],
)
def test_stops_are_rounded_to_the_tick_and_not_to_the_point(
    make: Make, margin_mode: str, symbol: str, sl: str, tp: str, on_grid: tuple[float, float]
) -> None:
    follower = desk(make, margin_mode=margin_mode)
    follower.master_opens(mini(1, symbol, "1", sl=D(sl), tp=D(tp)))
    follower.passes(3)
    assert [(p.sl, p.tp) for p in follower.positions] == [on_grid]
    assert follower.events() == ["opened"]  # and they are not modified for ever


@pytest.mark.parametrize(
    ("symbol", "price", "on_grid"), [(WIN, "129003", 129005.0), (WIN, "129002", 129000.0), (WDO, "5400.3", 5400.5)]
)
def test_pending_orders_are_placed_on_the_tick(make: Make, symbol: str, price: str, on_grid: float) -> None:
    follower = desk(make)
    trade = follower.master_opens(order(7, price=price, symbol=symbol, volume=D(2), initial_volume=D(2)))
    follower.passes(3)
    assert [(o.price_open, o.volume_current) for o in follower.orders] == [(on_grid, 2.0)]
    assert follower.events() == ["opened"]
    quote(follower, symbol, on_grid - TICK[symbol])
    follower.sim.tick()
    follower.passes(2)
    assert follower.volumes == [2.0]
    follower.master_closes(trade)
    follower.passes(3)
    assert follower.volumes == []


@pytest.mark.parametrize(("symbol", "level", "nearest"), [(WIN, 12, 129985.0), (WDO, 12, 5448.5)])
def test_a_stop_that_is_held_to_the_stops_level_stays_on_the_tick(
    make: Make, symbol: str, level: int, nearest: float
) -> None:
    follower = desk(make, trade_stops_level=level)  # in points, of which a tick has 5
    follower.master_opens(mini(1, symbol, "1", sl=D(str(BID[symbol] - TICK[symbol]))))
    follower.passes(3)
    assert [p.sl for p in follower.positions] == [nearest]


@pytest.mark.parametrize(
    ("symbol", "ask", "opened"),
    [(WIN, 130055.0, 1), (WIN, 130060.0, 0), (WDO, 5455.5, 1), (WDO, 5456.0, 0)],  # the signal's and 50 points
)
def test_slippage_is_counted_in_points_also_where_a_tick_has_five(
    make: Make, symbol: str, ask: float, opened: int
) -> None:
    follower = desk(make)
    quote(follower, symbol, ask - TICK[symbol])
    follower.master_opens(mini(1, symbol, "1"))
    follower.passes(2)
    assert follower.opened() == opened
    assert opened or follower.reports()[0]["reason"] == "max_slippage_points"


@pytest.mark.parametrize(("symbol", "ticks", "opened"), [(WIN, 4, 1), (WIN, 5, 0), (WDO, 4, 1), (WDO, 5, 0)])
def test_the_spread_is_counted_in_points_also_where_a_tick_has_five(
    make: Make, symbol: str, ticks: int, opened: int
) -> None:
    follower = desk(make)
    follower.mt5.sim_set_quote(symbol, BID[symbol], BID[symbol] + ticks * TICK[symbol])
    follower.master_opens(mini(1, symbol, "1", price=D(str(BID[symbol] + ticks * TICK[symbol]))))
    follower.passes(2)
    assert follower.opened() == opened
    assert opened or follower.reports()[0]["reason"] == "max_spread_points"


# --- exchange execution -----------------------------------------------------------------------------------------------


@BOTH
@ACCOUNTS
@pytest.mark.parametrize("filling_mode", [0, 1, 2, 3])
def test_opens_and_closes_work_with_every_filling_of_an_exchange(
    make: Make, symbol: str, margin_mode: str, filling_mode: int
) -> None:
    follower = desk(make, None, margin_mode, filling_mode=filling_mode)
    watched = follower.watch()
    trade = follower.master_opens(mini(1, symbol, "5"))
    follower.look()
    trade = follower.master_closes(trade, "2")
    follower.passes(2)
    assert follower.volumes == [2.0]
    follower.master_closes(trade)
    follower.passes(2)
    assert follower.volumes == []
    assert len(watched.sent) == 3  # none was tried in vain


@BOTH
@ACCOUNTS
def test_an_order_that_the_exchange_fills_bit_by_bit_is_one_copy(
    make: Make, symbol: str, margin_mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    follower = desk(make, None, margin_mode, depth=2)
    trade = follower.master_opens(mini(1, symbol, "5"))
    follower.look()
    for _ in range(4):
        quote(follower, symbol, BID[symbol])  # the same prices, with new contracts
        follower.passes(1)
    assert follower.volumes == [5.0]
    assert follower.state(1) == "open"
    follower.master_closes(trade)
    for _ in range(8):
        quote(follower, symbol, BID[symbol])
        follower.passes(1)
    assert (follower.volumes, follower.orders) == ([], [])
    assert follower.state(1) == "closed"
    assert follower.events() == ["opened", "closed"]
    assert not [line for line in caplog.messages if "belongs to no trade" in line]


@BOTH
@ACCOUNTS
def test_what_is_still_being_filled_when_the_master_closes_ends_flat(make: Make, symbol: str, margin_mode: str) -> None:
    follower = desk(make, None, margin_mode, depth=2)
    trade = follower.master_opens(mini(1, symbol, "9"))
    follower.look(1)
    follower.master_closes(trade)
    for _ in range(30):
        quote(follower, symbol, BID[symbol])
        follower.passes(1)
    assert (follower.volumes, follower.orders) == ([], [])


@BOTH
def test_the_margin_of_a_contract_is_the_exchanges_and_limits_the_copy(make: Make, symbol: str) -> None:
    follower = desk(make)
    follower.mt5.sim_deposit(-1_000_000 + 700.0)  # four contracts at 150 or 160
    follower.ledger.set(highest_equity="0")
    follower.restart()
    follower.sends_book()
    trade = follower.master_opens(mini(1, symbol, "5"))
    follower.passes(2)
    assert follower.opened() == 0
    assert follower.reports()[-1]["reason"] == "margin_insufficient"
    follower.master_closes(trade)
    follower.master_opens(mini(2, symbol, "4", "SELL"))
    follower.passes(2)
    assert follower.volumes == [4.0]


@BOTH
def test_two_masters_trades_of_one_contract_are_one_position_of_the_exchange_account(make: Make, symbol: str) -> None:
    follower = desk(make)
    first = follower.master_opens(mini(1, symbol, "3"))
    follower.passes(1)
    second = follower.master_opens(mini(2, symbol, "2", "SELL"))
    follower.passes(2)
    assert [(p.type, p.volume) for p in follower.positions] == [(0, 1.0)]
    follower.master_closes(first)
    follower.passes(2)
    assert [(p.type, p.volume) for p in follower.positions] == [(1, 2.0)]
    follower.master_closes(second)
    follower.passes(2)
    assert follower.positions == []
