"""What calls of the simulator give, beyond the facts that tests/test_sim_facts.py lists."""

import time
from datetime import datetime, timedelta

import pytest

import mt5_sim
from sim_account import AccountSettings
from sim_broker import Broker

GOOD = {"action": 1, "symbol": "EURUSD", "volume": 0.01, "type": 0, "type_filling": 1}


@pytest.fixture
def mt5() -> mt5_sim.Client:
    client = mt5_sim.Client(Broker(AccountSettings(login=7), seed=1))
    assert client.initialize()
    return client


@pytest.fixture
def held(mt5: mt5_sim.Client) -> mt5_sim.Client:
    """Three positions on two symbols, a pending order, and a closed position."""
    for symbol in ("EURUSD", "EURUSD", "USDJPY"):
        assert mt5.order_send({**GOOD, "symbol": symbol}).retcode == 10009
    closed = mt5.order_send(GOOD).order
    assert mt5.order_send({**GOOD, "type": 1, "position": closed}).retcode == 10009
    assert mt5.order_send({**GOOD, "action": 5, "type": 2, "price": 1.0}).retcode == 10009
    return mt5


def test_initialize_needs_an_address(monkeypatch: pytest.MonkeyPatch):
    mt5 = mt5_sim.Client()
    assert mt5.initialize() is False
    assert mt5.last_error()[0] == -10003
    assert "AIBOT_SIM_TERMINAL" in mt5.last_error()[1]
    monkeypatch.setenv("AIBOT_SIM_TERMINAL", "nonsense")
    assert mt5.initialize() is False
    assert mt5.last_error() == (-10003, "IPC initialize failed, Process create failed 'nonsense'")


def test_symbols_get_takes_its_group_either_way(mt5: mt5_sim.Client):
    assert [info.name for info in mt5.symbols_get("*JPY*")] == ["USDJPY"]
    assert [info.name for info in mt5.symbols_get(group="WIN*,WDO*")] == ["WINZ26", "WDOZ26"]
    assert len(mt5.symbols_get()) == mt5.symbols_total()


@pytest.mark.parametrize("volume", [float("nan"), float("inf"), 1e300])
def test_no_number_breaks_the_broker(mt5: mt5_sim.Client, volume: float):
    assert mt5.order_send({**GOOD, "volume": volume}).retcode == 10013
    assert mt5.order_calc_margin(0, "EURUSD", volume, 1.1) is None


def test_order_check_tells_the_margin_there_would_be(mt5: mt5_sim.Client):
    checked = mt5.order_check({**GOOD, "volume": 1.0})
    assert checked.margin == pytest.approx(mt5.symbol_info_tick("EURUSD").ask * 1000, abs=0.01)


def test_history_takes_dates_by_position(held: mt5_sim.Client):
    now = int(time.time())
    for first, last in (
        (now - 86400, now + 86400),
        (float(now - 86400), float(now + 86400)),
        (datetime.now() - timedelta(days=1), datetime.now() + timedelta(days=1)),
    ):
        assert len(held.history_deals_get(first, last)) == 6
        assert len(held.history_deals_get(first, last, group="*JPY*")) == 1
        assert held.history_deals_total(first, last) == 6
        assert held.history_orders_total(first, last) == 5
    assert held.history_deals_get(now + 86400, now + 172800) == ()


def test_history_by_order_and_by_position(held: mt5_sim.Client):
    deals = held.history_deals_get(1, 2**31 - 1)
    out = next(deal for deal in deals if deal.entry == 1)
    both = held.history_deals_get(position=out.position_id)
    assert [deal.entry for deal in both] == [0, 1]
    assert held.history_deals_get(ticket=out.order) == (out,)
    assert [order.ticket for order in held.history_orders_get(ticket=out.order)] == [out.order]
    assert len(held.history_orders_get(position=out.position_id)) == 2
    assert held.history_deals_get(ticket=1) == () == held.history_deals_get(position=1)


def test_ticks_and_bars_come_as_arrays_with_numpy(mt5: mt5_sim.Client):
    pytest.importorskip("numpy")
    mt5.sim_advance(20)
    ticks = mt5.copy_ticks_from("EURUSD", 1, 5, mt5.COPY_TICKS_ALL)
    assert len(ticks) == 5
    assert ticks["ask"][0] > ticks["bid"][0]
    bars = mt5.copy_rates_from_pos("EURUSD", mt5.TIMEFRAME_M1, 0, 5)
    assert bars["high"][-1] >= bars["close"][-1] >= bars["low"][-1]
