"""Symbols whose lot is another amount at the client's broker than at the master's."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any

import pytest
from follower import Follower, position

from safety import Limits, Mode, Sizing

MARKET = {"XAUUSD": {"trade_contract_size": 1, "volume_max": 1000}}  # ounces; the master's lot is a hundred of them
GOLD: dict[str, Any] = {"symbol": "XAUUSD", "price": D("2650.16"), "contract_size": D(100)}
LIMITS = Limits(50, 20, 5, D(100), D(10), 60)


def gold(make: Any, sizing: Sizing) -> Follower:
    follower: Follower = make(market=MARKET, sizing=sizing, limits=LIMITS)
    follower.mt5.sim_set_quote("XAUUSD", 2650.00, 2650.16)
    return follower


@pytest.mark.parametrize(
    ("sizing", "lots"),
    [
        (Sizing(Mode.MULTIPLIER, D(0), D("0.5"), True), 5.0),
        (Sizing(Mode.FIX, D("0.02"), D(1), True), 2.0),
        (Sizing(Mode.FIX, D("0.02"), D(1), False), 0.02),
    ],
)
def test_a_copy_has_the_lots_that_its_setting_makes_of_both_contract_sizes(
    make: Any, sizing: Sizing, lots: float
) -> None:
    follower = gold(make, sizing)
    trade = follower.master_opens(position(1, volume="0.10", **GOLD))
    follower.look()
    assert follower.volumes == [lots]
    follower.master_closes(trade, "0.05")
    follower.passes(2)
    assert follower.volumes == [pytest.approx(lots / 2)]  # shares do not depend on what a lot is


def test_without_alignment_a_multiple_of_the_masters_lots_is_refused(make: Any) -> None:
    follower = gold(make, Sizing(Mode.MULTIPLIER, D(0), D(1), False))
    follower.master_opens(position(1, **GOLD))
    follower.passes(2)
    assert follower.opened() == 0
    (report,) = follower.reports()
    assert report["reason"] == "contract_size_differs"
    assert report["numbers"] == {"contract_size": 1, "master_contract_size": 100}


def test_aligned_lots_are_held_to_the_limits_like_any_others(make: Any) -> None:
    follower = gold(make, Sizing(Mode.MULTIPLIER, D(0), D(1), True))
    follower.master_opens(position(1, volume="1.01", **GOLD))
    follower.passes(2)
    assert follower.opened() == 0
    assert follower.reports()[0]["reason"] == "max_exposure_lots"
