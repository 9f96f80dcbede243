"""Sizing and the safety rules, each at its exact edge."""

from __future__ import annotations

import ast
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account import Account, MarginMode, Symbol
from names import SymbolNames
from safety import (
    Allowed,
    Copying,
    Exposure,
    Limits,
    Mode,
    Reason,
    Refusal,
    Sizing,
    decide,
    fitted_volume,
    floor_to_step,
    remaining_volume,
    rounded_price,
    stricter,
    wanted_volume,
    worse_by,
)
from signals import Action, Kind, Trade

TRADE = Trade(1, Kind.POSITION, "EURUSD", Action.BUY, D("0.10"), D("0.10"), D("1.10010"), master="m")
ACCOUNT = Account(1, "Sim", "USD", 100, D(10000), D(10000), D(10000), MarginMode.HEDGING)
EURUSD = Symbol(
    name="EURUSD",
    bid=D("1.10000"),
    ask=D("1.10010"),
    time_msc=1,
    point=D("0.00001"),
    digits=5,
    tick_size=D("0.00001"),
    contract_size=D(100000),
    volume_min=D("0.01"),
    volume_max=D(100),
    volume_step=D("0.01"),
    trade_mode=4,
    opens_buy=True,
    opens_sell=True,
    margin_buy=D(1100),
    margin_sell=D(1100),
)
LIMITS = Limits(50, 20, 5, D("10.0"), D(10), 60)
AS_IT_IS: dict[str, Any] = {
    "trade": TRADE,
    "age_ms": 1000,
    "copying": Copying.ON,
    "sizing": Sizing(Mode.MULTIPLIER, D("0.01"), D(1)),
    "limits": LIMITS,
    "account": ACCOUNT,
    "highest_equity": D(10000),
    "symbol": EURUSD,
    "exposure": Exposure(),
}


def verdict(**changes: Any) -> Allowed | Refusal:
    return decide(**{**AS_IT_IS, **changes})


def reason(**changes: Any) -> Reason | None:
    answer = verdict(**changes)
    return answer.reason if isinstance(answer, Refusal) else None


def at(bid: str, ask: str, **more: Any) -> Symbol:
    return replace(EURUSD, bid=D(bid), ask=D(ask), **more)


SELL = replace(TRADE, action=Action.SELL, price=D("1.10000"))
OUNCES = replace(TRADE, contract_size=D(50_000))  # half of a lot here
FIXED = Sizing(Mode.FIX, D("0.01"), D(1))
ALIGNED = Sizing(Mode.MULTIPLIER, D("0.01"), D(1), contract_alignment=True)
SIZED = {"sizing": ALIGNED, "symbol": replace(EURUSD, volume_min=D("0.01"))}
SMALL = Reason.VOLUME_TOO_SMALL
UNSIZED = replace(EURUSD, contract_size=D(0))
PENDING = replace(TRADE, kind=Kind.ORDER, action=Action.BUY_LIMIT, price=D("1.05"))


def test_a_trade_against_which_nothing_speaks_is_allowed() -> None:
    assert verdict() == Allowed(EURUSD, D("0.10"), 50, exact=D("0.10"))


# What is changed, and the reason for which it is then refused; None = allowed. Where a rule has an edge, both sides.
EDGES: list[tuple[str, dict[str, Any], Reason | None]] = [
    ("age at its limit", {"age_ms": 60_000}, None),
    ("age above it", {"age_ms": 60_001}, Reason.TOO_OLD),
    ("age unknown", {"age_ms": None}, Reason.AGE_UNKNOWN),
    ("close_only", {"copying": Copying.CLOSE_ONLY}, Reason.NOT_COPYING),
    ("paused", {"copying": Copying.PAUSED}, Reason.NOT_COPYING),
    ("flatten", {"copying": Copying.FLATTEN}, Reason.NOT_COPYING),
    (
        "no trading",
        {"account": replace(ACCOUNT, trading_refused="trading is switched off")},
        Reason.TRADING_NOT_ALLOWED,
    ),
    ("drawdown at its limit", {"account": replace(ACCOUNT, equity=D(9000))}, None),
    ("drawdown above it", {"account": replace(ACCOUNT, equity=D("8999.99"))}, Reason.DRAWDOWN),
    ("highest equity unknown", {"highest_equity": D(0)}, Reason.DRAWDOWN),
    ("no such symbol", {"symbol": SymbolNames().unknown("EURUSD")}, Reason.SYMBOL_UNKNOWN),
    ("only short", {"symbol": replace(EURUSD, opens_buy=False)}, Reason.SYMBOL_NOT_TRADABLE),
    ("only short, sell", {"trade": SELL, "symbol": replace(EURUSD, opens_buy=False)}, None),
    ("only long, sell", {"trade": SELL, "symbol": replace(EURUSD, opens_sell=False)}, Reason.SYMBOL_NOT_TRADABLE),
    ("no quote yet", {"symbol": at("0", "0")}, Reason.NO_QUOTE),
    ("half a quote", {"symbol": at("1.1", "0")}, Reason.NO_QUOTE),
    ("crossed quote", {"symbol": at("1.1001", "1.1000")}, Reason.NO_QUOTE),
    ("the master's lot is another", {"trade": OUNCES}, Reason.CONTRACT_SIZE),
    ("another lot, the master did not say which", {"trade": replace(TRADE, contract_size=D(0))}, None),
    ("another lot and a fixed lot", {"trade": OUNCES, "sizing": FIXED}, None),
    ("another lot, aligned", {"trade": OUNCES, "sizing": ALIGNED}, None),
    ("another lot, aligned below the minimum", {"trade": replace(OUNCES, contract_size=D(9999))} | SIZED, SMALL),
    ("another lot, aligned to the minimum", {"trade": replace(OUNCES, contract_size=D(10_000))} | SIZED, None),
    ("a lot of unknown size here", {"trade": OUNCES, "sizing": ALIGNED, "symbol": UNSIZED}, Reason.CONTRACT_SIZE),
    ("lots of unknown size on both sides", {"sizing": ALIGNED, "symbol": UNSIZED}, None),
    ("volume at the minimum", {"symbol": replace(EURUSD, volume_min=D("0.10"))}, None),
    ("volume below it", {"symbol": replace(EURUSD, volume_min=D("0.11"))}, Reason.VOLUME_TOO_SMALL),
    ("spread at its limit", {"symbol": at("1.09990", "1.10010")}, None),
    ("spread above it", {"symbol": at("1.09989", "1.10010")}, Reason.SPREAD),
    ("spread of a pending order", {"symbol": at("1.09", "1.11"), "trade": PENDING}, None),
    ("slippage at its limit", {"symbol": at("1.10050", "1.10060")}, None),
    ("slippage above it", {"symbol": at("1.10051", "1.10061")}, Reason.SLIPPAGE),
    ("a better price", {"symbol": at("1.05", "1.0501")}, None),
    ("slippage of a sell at its limit", {"symbol": at("1.09950", "1.09960"), "trade": SELL}, None),
    ("slippage of a sell above it", {"symbol": at("1.09949", "1.09959"), "trade": SELL}, Reason.SLIPPAGE),
    ("a price for a pending order far away", {"trade": PENDING}, None),
    ("a stop loss a point from the price", {"trade": replace(TRADE, sl=D("1.09999"))}, None),
    ("a stop loss that is reached", {"trade": replace(TRADE, sl=D("1.10000"))}, Reason.STOP_PASSED),
    ("a take profit that is reached", {"trade": replace(SELL, tp=D("1.10010"))}, Reason.STOP_PASSED),
    ("a stop loss of a pending order", {"trade": replace(PENDING, sl=D("1.04999"))}, None),
    ("a stop loss at its own price", {"trade": replace(PENDING, sl=D("1.05"))}, Reason.STOP_PASSED),
    ("one trade below the limit", {"exposure": Exposure(4)}, None),
    ("as many trades as allowed", {"exposure": Exposure(5)}, Reason.EXPOSURE_TRADES),
    ("lots to the limit", {"exposure": Exposure(1, D("9.90"))}, None),
    ("lots above it", {"exposure": Exposure(1, D("9.91"))}, Reason.EXPOSURE_LOTS),
    ("margin to the last cent", {"account": replace(ACCOUNT, margin_free=D(110))}, None),
    ("margin a cent short", {"account": replace(ACCOUNT, margin_free=D("109.99"))}, Reason.MARGIN),
    ("margin taken by another open", {"exposure": Exposure(1, D(1), D("9890.01"))}, Reason.MARGIN),
    ("margin unknown", {"symbol": replace(EURUSD, margin_buy=None)}, Reason.MARGIN),
    ("margin of the other side unknown", {"symbol": replace(EURUSD, margin_sell=None)}, None),
    ("margin of a pending order", {"trade": PENDING, "symbol": replace(EURUSD, margin_buy=None)}, Reason.MARGIN),
]


@pytest.mark.parametrize(("changes", "wanted"), [row[1:] for row in EDGES], ids=[row[0] for row in EDGES])
def test_each_rule_at_its_edge(changes: dict[str, Any], wanted: Reason | None) -> None:
    assert reason(**changes) is wanted


def test_every_refusal_says_in_words_what_was_compared() -> None:
    for name, changes, wanted in EDGES:
        answer = verdict(**changes)
        if wanted is not None:
            assert isinstance(answer, Refusal)
            assert len(answer.detail) > 10, name


def test_the_deviation_is_what_is_left_of_the_slippage_allowed() -> None:
    def deviation(symbol: Symbol) -> int:
        answer = verdict(symbol=symbol)
        assert isinstance(answer, Allowed)
        return answer.deviation

    assert deviation(at("1.10000", "1.10010")) == 50
    assert deviation(at("1.10020", "1.10030")) == 30
    assert deviation(at("1.10050", "1.10060")) == 0
    assert deviation(at("1.09000", "1.09010")) == 50  # a better price does not buy more slippage


def test_a_volume_above_the_brokers_maximum_is_capped_and_says_so() -> None:
    answer = verdict(symbol=replace(EURUSD, volume_max=D("0.05")))
    assert isinstance(answer, Allowed)
    assert (answer.volume, answer.capped_from) == (D("0.05"), D("0.10"))


@pytest.mark.parametrize(
    ("wanted", "minimum", "maximum", "step", "fitted"),
    [
        ("0.29", "0.01", "100", "0.01", "0.29"),
        ("0.299", "0.01", "100", "0.01", "0.29"),
        ("0.3", "0.1", "100", "0.1", "0.3"),
        ("0.009", "0.01", "100", "0.01", "0"),
        ("0.15", "0.1", "100", "0.1", "0.1"),
        ("1.9", "1", "1000", "1", "1"),
        ("0.99", "1", "1000", "1", "0"),
        ("250", "0.01", "200", "0.01", "200"),
        ("250", "0.3", "100", "0.3", "99.9"),
        ("0.5", "1", "100", "0.1", "0"),
        ("7", "5", "100", "5", "5"),
        ("0.001", "0.001", "10", "0.001", "0.001"),
    ],
)
def test_volumes_are_floored_to_the_brokers_step(
    wanted: str, minimum: str, maximum: str, step: str, fitted: str
) -> None:
    symbol = replace(EURUSD, volume_min=D(minimum), volume_max=D(maximum), volume_step=D(step))
    assert fitted_volume(D(wanted), symbol) == D(fitted)


LOTS = st.decimals(D("0.01"), D(50), places=2)
STEPS = st.sampled_from([D("0.001"), D("0.01"), D("0.1"), D("0.5"), D(1)])


@given(LOTS, STEPS)
def test_flooring_never_adds_and_never_loses_a_whole_step(volume: D, step: D) -> None:
    floored = floor_to_step(volume, step)
    assert floored % step == 0
    assert volume - step < floored <= volume


@given(LOTS, st.lists(st.integers(1, 99), max_size=10), LOTS, STEPS)
def test_a_copy_is_within_a_step_of_its_share_through_any_partial_closes(
    initial: D, percents: list[int], master: D, step: D
) -> None:
    symbol = replace(EURUSD, volume_step=step, volume_min=step)
    initial = floor_to_step(initial, step)
    if not initial:
        return
    current, now = initial, master
    for percent in percents:
        now = now * percent / 100
        before, current = current, remaining_volume(initial, current, now, master, symbol)
        share = initial * now / master
        assert current <= before
        assert current % step == 0
        assert share <= current < share + step or current == step
    assert remaining_volume(initial, current, D(0), master, symbol) == 0


def test_a_reduction_that_the_broker_would_not_take_waits() -> None:
    symbol = replace(EURUSD, volume_min=D("0.1"), volume_step=D("0.01"))
    assert remaining_volume(D("0.50"), D("0.50"), D("0.90"), D(1), symbol) == D("0.50")  # 0.05 is below the minimum
    assert remaining_volume(D("0.50"), D("0.50"), D("0.70"), D(1), symbol) == D("0.35")
    assert remaining_volume(D("0.15"), D("0.15"), D("0.10"), D(1), symbol) == D("0.15")  # and so would the rest be


def test_sizing_by_fixed_lot_and_by_multiplier() -> None:
    assert wanted_volume(Sizing(Mode.FIX, D("0.02"), D(3)), D(7)) == D("0.02")
    assert wanted_volume(Sizing(Mode.MULTIPLIER, D("0.02"), D("0.3")), D("0.1")) == D("0.03")


@pytest.mark.parametrize(
    ("mode", "aligned", "there", "here", "lots"),
    [
        (Mode.MULTIPLIER, True, "100", "1", "30"),  # gold in hundreds of ounces there, in ounces here
        (Mode.MULTIPLIER, True, "1", "100", "0.003"),
        (Mode.MULTIPLIER, True, "1", "3", "0.1"),  # exactly a step, although 1/3 is no decimal number
        (Mode.MULTIPLIER, True, "100000", "100000", "0.3"),
        (Mode.MULTIPLIER, True, "0", "100", "0.3"),
        (Mode.MULTIPLIER, True, "100", "0", "0.3"),
        (Mode.MULTIPLIER, False, "100", "1", "0.3"),
        (Mode.FIX, True, "100", "1", "2"),
        (Mode.FIX, False, "100", "1", "0.02"),
    ],
)
def test_aligned_lots_are_worth_what_they_would_be_at_the_master(
    mode: Mode, aligned: bool, there: str, here: str, lots: str
) -> None:
    sizing = Sizing(mode, D("0.02"), D(3), aligned)
    assert wanted_volume(sizing, D("0.1"), D(there), D(here)) == D(lots)


@pytest.mark.parametrize(
    ("price", "tick", "rounded"),
    [
        ("1.100004", "0.00001", "1.10000"),
        ("131282", "5", "131280"),
        ("131283", "5", "131285"),
        ("5.3", "0.5", "5.5"),
        ("0", "5", "0"),
    ],
)
def test_prices_go_to_the_nearest_tick(price: str, tick: str, rounded: str) -> None:
    assert rounded_price(D(price), D(tick)) == D(rounded)


def test_worse_is_higher_for_a_buyer_and_lower_for_a_seller() -> None:
    assert worse_by(Action.BUY, D("1.1"), D("1.1001"), D("0.00001")) == 10
    assert worse_by(Action.SELL, D("1.1"), D("1.1001"), D("0.00001")) == -10


def test_the_server_can_tighten_limits_and_never_loosen_them() -> None:
    tightened = LIMITS.tightened({"max_spread_points": 5, "max_exposure_lots": D(100), "max_signal_age_s": 10})
    assert tightened == replace(LIMITS, max_spread_points=5, max_signal_age_s=10)


def test_the_stricter_of_two_states_holds() -> None:
    for one in Copying:
        assert stricter(one, Copying.FLATTEN) is Copying.FLATTEN
        assert stricter(one, Copying.ON) is one


@pytest.mark.parametrize(
    "module", ["safety", "signals", "plan", "copies", "mirror", "account", "clocks", "names", "stops", "expiry"]
)
def test_the_modules_that_decide_have_no_clock_socket_terminal_or_database(module: str) -> None:
    allowed = {
        *(
            "__future__",
            "collections",
            "dataclasses",
            "decimal",
            "enum",
            "typing",
            "json",
            "re",
            "hashlib",
            "functools",
        ),
        *("safety", "signals", "copies", "mirror", "account", "clocks", "names", "legs", "netting", "stops", "expiry"),
    }
    tree = ast.parse((Path(__file__).parent.parent / f"{module}.py").read_text("utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "exec", "eval", "__import__")
    assert imported <= allowed
