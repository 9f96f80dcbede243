"""Symbols that the client's broker calls by another name."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any

import pytest
from follower import position

from names import SymbolNames
from safety import Reason

NAMES = SymbolNames({"XAUUSD": "GOLD", "eurusd": "EURO"}, "F.", ".m")


@pytest.mark.parametrize(
    ("names", "master", "client"),
    [
        (SymbolNames(), "EURUSD", "EURUSD"),
        (SymbolNames(suffix=".m"), "EURUSD", "EURUSD.m"),
        (SymbolNames(prefix="F."), "EURUSD", "F.EURUSD"),
        (NAMES, "GBPUSD", "F.GBPUSD.m"),
        (NAMES, "XAUUSD", "GOLD"),  # the whole name: nothing is put before or behind it
        (NAMES, "EURUSD", "F.EURUSD.m"),
    ],
)
def test_the_clients_name_is_the_tables_or_else_with_prefix_and_suffix(
    names: SymbolNames, master: str, client: str
) -> None:
    assert names.of(master) == client


@pytest.mark.parametrize(
    ("names", "master", "said"),
    [
        (NAMES, "XAUUSD", ["no symbol GOLD", "symbols.map", "master's XAUUSD"]),
        (NAMES, "GBPUSD", ["no symbol F.GBPUSD.m", "symbols.prefix and symbols.suffix", "master's GBPUSD"]),
        (NAMES, "EURUSD", ["no symbol F.EURUSD.m", "symbols.map has eurusd", "the master writes EURUSD"]),
        (SymbolNames(), "GER40", ["no symbol GER40", "add it to symbols.map"]),
    ],
)
def test_a_symbol_that_is_not_found_is_refused_with_what_was_looked_for(
    names: SymbolNames, master: str, said: list[str]
) -> None:
    refusal = names.unknown(master)
    assert refusal.reason is Reason.SYMBOL_UNKNOWN
    assert all(piece in refusal.detail for piece in said), refusal.detail
    assert refusal.numbers == {"symbol": names.of(master), "master_symbol": master}


MARKET: dict[str, Any] = {"GOLD": {"like": "XAUUSD"}, "EURUSD.m": {"like": "EURUSD"}, "XAUUSD": None}


def test_copies_are_made_in_the_clients_own_symbols(make: Any) -> None:
    follower = make(market=MARKET, names=SymbolNames({"XAUUSD": "GOLD"}, "", ".m"))
    follower.mt5.sim_set_quote("EURUSD.m", 1.10000, 1.10010)
    follower.mt5.sim_set_quote("GOLD", 2650.00, 2650.16)
    euro = follower.master_opens(position(1))
    gold = follower.master_opens(position(2, symbol="XAUUSD", price=D("2650.16"), sl=D("2600")))
    follower.look()
    assert {p.symbol: p.sl for p in follower.positions} == {"EURUSD.m": 0.0, "GOLD": 2600.0}
    assert [report["symbol"] for report in follower.reports()] == ["EURUSD.m", "GOLD"]
    follower.master_modifies(gold, sl=D("2610"))
    follower.look()
    assert {p.symbol: p.sl for p in follower.positions} == {"EURUSD.m": 0.0, "GOLD": 2610.0}
    follower.master_closes(euro)
    follower.look()
    assert [p.symbol for p in follower.positions] == ["GOLD"]


def test_an_open_copy_stays_with_its_symbol_when_the_table_is_changed(make: Any) -> None:
    follower = make(market=MARKET, names=SymbolNames({"XAUUSD": "GOLD"}))
    follower.mt5.sim_set_quote("GOLD", 2650.00, 2650.16)
    gold = follower.master_opens(position(1, symbol="XAUUSD", price=D("2650.16")))
    follower.look()
    follower.restart(names=SymbolNames())
    follower.sends_book()
    follower.master_modifies(gold, sl=D("2610"))
    follower.look()
    assert [(p.symbol, p.sl) for p in follower.positions] == [("GOLD", 2610.0)]
    follower.master_closes(gold)
    follower.look()
    assert follower.positions == []


def test_a_symbol_without_its_suffix_is_not_taken_in_place_of_the_one_with_it(make: Any) -> None:
    follower = make(names=SymbolNames(suffix=".x"))
    follower.master_opens(position(1))
    follower.passes(2)
    assert follower.opened() == 0
    (report,) = follower.reports()
    assert (report["reason"], report["symbol"]) == ("symbol_unknown", "EURUSD.x")
    assert "EURUSD.x" in report["detail"]


def test_a_terminal_that_does_not_answer_about_a_symbol_is_no_broker_without_it(make: Any) -> None:
    follower = make()
    follower.mt5.inject("symbol_info", "none", times=None)
    follower.master_opens(position(1))
    follower.passes(2)
    assert follower.reports()[0]["reason"] == "no_quote"
    follower.mt5.sim_clear_faults()
    follower.passes(2)
    assert follower.volumes == [0.1]
