"""Every code that an order can be answered with, for every operation: classified, documented, and carried out.

Each cell of `outcomes.py` is injected at the simulated terminal and met by the real copier: once without the order
having been executed, once although it was (the copier must not trust the words then either), and late where the code
leaves that open. In no cell are there two entries for one trade.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from follower import Follower, Make, Watched, order, position

import sim_types
from account import PATIENCE_S
from mt5_sim import Client
from outcomes import LAST_ERRORS, RETCODES, Op, Verdict, verdict_of, words_for
from safety import Limits
from signals import Kind, Trade
from trader import MARKET_CLOSED

HERE = Path(__file__).resolve().parent.parent
PACKAGE = HERE / "tests" / "data" / "mt5_constants.json"  # what the real package exports
PAGE = HERE / "docs" / "protocol.md"

NOT_EXPORTED = {"TRADE_RETCODE_HEDGE_PROHIBITED": 10046}  # documented, but not among the package's constants
UNLISTED = (0, 2, 10000, 10005, 10037, 10047, 99999, -9, -10006)
CODES = (*RETCODES, *LAST_ERRORS, *UNLISTED)
INVALID_FILL = 10030

# --- the table -------------------------------------------------------------------------------------------------------


def codes_in(constants: dict[str, int], prefix: str) -> set[int]:
    return {value for name, value in constants.items() if name.startswith(prefix)}


def test_every_code_of_the_package_has_a_row_and_every_row_a_code() -> None:
    constants = json.loads(PACKAGE.read_text(encoding="utf-8"))
    assert set(RETCODES) == codes_in(constants, "TRADE_RETCODE_") | set(NOT_EXPORTED.values())
    assert set(LAST_ERRORS) == codes_in(constants, "RES_")


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("code", UNLISTED)
def test_a_code_that_is_not_listed_is_unknown(op: Op, code: int) -> None:
    assert verdict_of(op, code) is Verdict.UNKNOWN
    assert words_for(code) == "unlisted code"


@pytest.mark.parametrize("op", [Op.REDUCE, Op.MODIFY, Op.CLOSE, Op.REMOVE])
def test_what_takes_risk_away_or_moves_stops_is_never_refused_for_good(op: Op) -> None:
    assert Verdict.REFUSED not in {verdict_of(op, code) for code in CODES}


@pytest.mark.parametrize("code", CODES)
def test_an_open_is_done_by_the_two_codes_that_say_so_and_by_no_other(code: int) -> None:
    assert (verdict_of(Op.OPEN, code) is Verdict.DONE) == (code in (10009, 10010))


def test_the_table_in_the_documentation_is_the_one_in_the_code() -> None:
    names = {value: name for name, value in sim_types.CONSTANTS.items() if name.startswith(("TRADE_RETCODE_", "RES_"))}
    names |= {value: name for name, value in NOT_EXPORTED.items()}
    rows = [
        " | ".join((f"| {code}", names[code].removeprefix("TRADE_RETCODE_"), *(verdict_of(op, code) for op in Op)))
        + " |"
        for code in (*sorted(RETCODES), *sorted(LAST_ERRORS, reverse=True))
    ]
    head = ["| " + " | ".join(("code", "name", *Op)) + " |", "|---" * (len(Op) + 2) + "|"]
    section = re.search(r"^### Order codes\n(.*?)(?=^#|\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert section is not None
    shown = [line for line in section[1].splitlines() if line.startswith("|")]
    assert shown[shown.index(head[0]) :] == head + rows


# --- the cells, carried out ------------------------------------------------------------------------------------------


def tries(op: Op, code: int) -> int:
    """Requests that one attempt is made of: only after 10030 is the same sent with the other filling modes."""
    return 3 if code == INVALID_FILL and op in (Op.OPEN, Op.PLACE, Op.REDUCE, Op.CLOSE) else 1


def inject(follower: Follower, op: Op, code: int, how: str = "not_executed", attempts: int | None = 1) -> None:
    """The next attempts are answered with `code`, and are executed or not; None: all from now on."""
    times = None if attempts is None else attempts * tries(op, code)
    if code in LAST_ERRORS or code < 0:
        outcome = {"not_executed": "none_not_executed", "executed": "none_after_fill"}[how]
        follower.mt5.inject("order_send", outcome, times, code=code)
    elif how == "late":
        follower.mt5.inject("order_send", "retcode_late_fill", times, retcode=code, seconds=8)
    else:
        outcome = {"not_executed": "retcode", "executed": "retcode_after_fill"}[how]
        follower.mt5.inject("order_send", outcome, times, retcode=code)


def until(follower: Follower, condition: Callable[[], bool], limit: float = 60) -> float:
    """Time goes by until it is so; how long it took. Fails after `limit` seconds."""
    began = follower.clock.now
    while not condition():
        assert follower.clock.now - began < limit, "not within the time"
        follower.ticks(1)
    return follower.clock.now - began


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: a thousand ledgers wait more than a minute for a disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def follower(make: Make) -> Follower:
    """Signals are too old after 20 s, so that a market that is closed is tried twice (it rests 15 s).

    The copier has a connection of its own, whose loss it must notice; the test looks at the account through another.
    """
    follower = make(limits=Limits(50, 20, 5, D(10), D(10), 20))
    follower.watch()
    follower.mt5 = Client(follower.sim)
    follower.connect_mt5()
    return follower


def witness(follower: Follower) -> Watched:
    """Of what the copier sends from now on."""
    watched: Watched = follower.terminal._mt5
    watched.sent.clear()
    return watched


def kind_of(op: Op) -> Kind:
    return Kind.ORDER if op in (Op.PLACE, Op.REMOVE) else Kind.POSITION


def trade_for(op: Op) -> Trade:
    return order(1) if kind_of(op) is Kind.ORDER else position(1)


def copied(follower: Follower, op: Op) -> tuple[Trade, Any, Watched]:
    """A trade that is copied already, its copy on the account, and a witness of what is sent from now on."""
    trade = follower.master_opens(trade_for(op))
    follower.look()
    (copy,) = follower.positions + follower.orders
    assert follower.state(1, kind_of(op)) == "open"
    return trade, copy, witness(follower)


def attempts_of(op: Op, code: int, watched: Watched) -> int:
    """How often it was tried: the first one may have been made of several requests."""
    return len(watched.sent) - (tries(op, code) - 1)


def entries(follower: Follower) -> int:
    """How often something came to be on the account for the only trade there is."""
    return follower.opened() + len(follower.orders)


OPENS = pytest.mark.parametrize("op", [Op.OPEN, Op.PLACE])
EACH = pytest.mark.parametrize("code", CODES)
# 10030 is the one refusal after which the same is sent again at once: with a broker that executes and says so, all
# programs that follow the documentation double the trade.
EACH_EXECUTED = pytest.mark.parametrize("code", [code for code in CODES if code != INVALID_FILL])


def those(op: Op, verdict: Verdict) -> list[int]:
    return [code for code in RETCODES if verdict_of(op, code) is verdict]


@OPENS
@EACH
def test_an_open_that_was_not_executed(follower: Follower, op: Op, code: int) -> None:
    kind, watched = kind_of(op), witness(follower)
    inject(follower, op, code)
    follower.master_opens(trade_for(op))
    follower.look()
    copy = follower.copy(1, kind)
    match verdict_of(op, code):
        case Verdict.DONE | Verdict.UNKNOWN:  # said to be done, it is believed only when the account shows it
            assert copy is not None
            assert copy.state == "opening"
            follower.ticks(12)
            assert follower.state(1, kind) == "opening"
            follower.ticks(30)
            copy = follower.copy(1, kind)
            assert copy is not None
            assert (copy.state, copy.reason) == ("unknown", "outcome_unknown")
            assert follower.events() == ["unknown"]
            assert len(watched.sent) == 1
            assert entries(follower) == 0
        case Verdict.REFUSED:
            follower.ticks(30)
            copy = follower.copy(1, kind)
            assert copy is not None
            assert (copy.state, copy.reason) == ("failed", "broker_refused")
            assert copy.detail.startswith(f"{code} ")
            (report,) = follower.reports()
            assert (report["event"], report["reason"]) == ("failed", "broker_refused")
            assert report["detail"].startswith(f"{code} ")
            assert report["numbers"] == {"code": code}
            assert attempts_of(op, code, watched) == 1
            assert entries(follower) == 0
        case Verdict.LATER:
            assert copy is None
            until(follower, lambda: follower.state(1, kind) == "open", limit=16 if code == MARKET_CLOSED else 2)
            assert follower.events() == ["refused", "opened"]
            assert follower.reports()[0]["numbers"] == {"code": code}
            assert attempts_of(op, code, watched) == 2
            follower.ticks(30)
            assert entries(follower) == 1
            assert len(watched.sent) == 2


@OPENS
@pytest.mark.parametrize("code", [code for code in CODES if verdict_of(Op.OPEN, code) is Verdict.LATER])
def test_an_open_that_stays_refused_for_now_is_skipped_when_it_is_too_old(
    follower: Follower, op: Op, code: int
) -> None:
    watched = witness(follower)
    inject(follower, op, code, attempts=None)
    follower.master_opens(trade_for(op))
    follower.ticks(19)
    assert len(watched.sent) >= 2
    follower.ticks(15)  # what rests is not told before the rest is over
    copy = follower.copy(1, kind_of(op))
    assert copy is not None
    assert (copy.state, copy.reason) == ("skipped", "broker_refused_for_now")
    refused, skipped = follower.reports()
    assert (refused["event"], refused["numbers"]) == ("refused", {"code": code})
    assert refused["detail"].startswith(f"{code} ")
    assert (skipped["event"], skipped["reason"]) == ("skipped", "broker_refused_for_now")
    sent = len(watched.sent)
    follower.mt5.sim_clear_faults()
    follower.ticks(30)
    assert (len(watched.sent), entries(follower)) == (sent, 0)


@OPENS
@EACH_EXECUTED
def test_an_open_that_was_executed_whatever_was_said(follower: Follower, op: Op, code: int) -> None:
    kind, watched = kind_of(op), witness(follower)
    inject(follower, op, code, "executed")
    trade = follower.master_opens(trade_for(op))
    follower.look()
    follower.ticks(30)
    assert follower.state(1, kind) == "open"
    assert follower.events()[-1] in ("opened", "adopted")
    assert len(watched.sent) == 1
    assert entries(follower) == 1
    follower.master_closes(trade)
    follower.look()
    follower.ticks(1)
    assert follower.positions + follower.orders == []
    assert follower.state(1, kind) == "closed"


@pytest.mark.parametrize("code", those(Op.OPEN, Verdict.UNKNOWN))
@pytest.mark.parametrize("closed_meanwhile", [False, True])
def test_an_open_that_is_executed_late(follower: Follower, code: int, closed_meanwhile: bool) -> None:
    watched = witness(follower)
    inject(follower, Op.OPEN, code, "late")
    trade = follower.master_opens(position(1))
    follower.ticks(3)
    assert follower.state(1) == "opening"
    if closed_meanwhile:
        follower.master_closes(trade)
    follower.ticks(20)
    assert follower.opened() == 1
    assert [request["type"] for request in watched.sent] == ([0, 1] if closed_meanwhile else [0])
    assert follower.state(1) == ("closed" if closed_meanwhile else "open")
    assert len(follower.positions) == (0 if closed_meanwhile else 1)


@pytest.mark.parametrize("op", [Op.CLOSE, Op.REMOVE])
@EACH
def test_an_end_is_repeated_until_it_is_there(follower: Follower, op: Op, code: int) -> None:
    trade, copy, watched = copied(follower, op)
    inject(follower, op, code, attempts=2)
    follower.master_closes(trade)
    until(follower, lambda: follower.state(1, kind_of(op)) == "closed", limit=32 if code == MARKET_CLOSED else 8)
    follower.ticks(20)
    assert follower.positions + follower.orders == []
    assert follower.events()[-1] == ("closed" if op is Op.CLOSE else "cancelled")
    assert len(watched.sent) == 2 * tries(op, code) + 1
    for request in watched.sent:
        assert request.get("position" if op is Op.CLOSE else "order") == copy.ticket, "it may have opened something"
    assert follower.opened() == (1 if op is Op.CLOSE else 0)


@pytest.mark.parametrize("op", [Op.CLOSE, Op.REMOVE])
@EACH_EXECUTED
def test_an_end_that_was_executed_whatever_was_said(follower: Follower, op: Op, code: int) -> None:
    trade, _, watched = copied(follower, op)
    inject(follower, op, code, "executed")
    follower.master_closes(trade)
    until(follower, lambda: follower.state(1, kind_of(op)) == "closed", limit=5)
    follower.ticks(20)
    assert follower.positions + follower.orders == []
    assert len(watched.sent) == 1
    assert follower.opened() == (1 if op is Op.CLOSE else 0)


def ends_well(follower: Follower, trade: Trade) -> None:
    follower.master_closes(trade)
    follower.look()
    follower.ticks(1)
    assert follower.positions + follower.orders == []
    assert follower.state(trade.ticket, trade.kind) == "closed"
    assert follower.opened() == (1 if trade.kind is Kind.POSITION else 0)


@EACH
def test_a_reduction_that_was_not_executed(follower: Follower, code: int) -> None:
    trade, _, watched = copied(follower, Op.REDUCE)
    inject(follower, Op.REDUCE, code)
    trade = follower.master_closes(trade, remaining="0.04") or trade
    follower.look()
    assert follower.volumes == [0.1]
    took = until(follower, lambda: follower.volumes == [0.04], limit=20)
    if verdict_of(Op.REDUCE, code) is Verdict.LATER:
        assert took <= (15 if code == MARKET_CLOSED else 2)
    else:
        assert took >= PATIENCE_S, "it was made anew while the first one could still be on its way"
    assert attempts_of(Op.REDUCE, code, watched) == 2
    follower.ticks(30)
    assert follower.volumes == [0.04]
    ends_well(follower, trade)


@EACH_EXECUTED
def test_a_reduction_that_was_executed_whatever_was_said(follower: Follower, code: int) -> None:
    trade, _, watched = copied(follower, Op.REDUCE)
    inject(follower, Op.REDUCE, code, "executed")
    follower.master_closes(trade, remaining="0.04")
    follower.look()
    follower.ticks(40)
    assert follower.volumes == [0.04]
    assert len(watched.sent) == 1
    ends_well(follower, trade)


@pytest.mark.parametrize("code", those(Op.REDUCE, Verdict.UNKNOWN))
def test_a_reduction_that_is_executed_late_is_not_made_twice(follower: Follower, code: int) -> None:
    trade, _, watched = copied(follower, Op.REDUCE)
    inject(follower, Op.REDUCE, code, "late")
    follower.master_closes(trade, remaining="0.04")
    follower.ticks(40)
    assert follower.volumes == [0.04]
    assert len(watched.sent) == 1
    ends_well(follower, trade)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("how", ["not_executed", "executed"])
@EACH
def test_a_modification_arrives_in_the_end_and_does_no_harm(
    follower: Follower, kind: Kind, how: str, code: int
) -> None:
    trade, copy, watched = copied(follower, Op.PLACE if kind is Kind.ORDER else Op.OPEN)
    inject(follower, Op.MODIFY, code, how, attempts=2 if how == "not_executed" else 1)
    trade = follower.master_modifies(trade, sl=D("1.05"), tp=D("1.2"))

    def there() -> bool:
        (thing,) = follower.positions + follower.orders
        assert thing.ticket == copy.ticket
        return (thing.sl, thing.tp) == (1.05, 1.2)

    follower.look()
    until(follower, there, limit=32 if code == MARKET_CLOSED else 8)
    follower.ticks(20)
    assert there()
    assert len(watched.sent) == (3 if how == "not_executed" else 1)
    assert {request["action"] for request in watched.sent} == {6 if kind is Kind.POSITION else 7}
    assert follower.state(1, kind) == "open"
    ends_well(follower, trade)


# --- the same on a netting account ------------------------------------------------------------------------------------


def net_lots(follower: Follower) -> float:
    return float(sum(p.volume if p.is_buy else -p.volume for p in follower.broker.positions()))


@pytest.mark.parametrize("how", ["not_executed", "executed"])
@pytest.mark.parametrize("op", [Op.OPEN, Op.REDUCE, Op.CLOSE])
@EACH
def test_on_a_netting_account_no_order_is_made_twice_and_none_is_lost(make: Make, code: int, op: Op, how: str) -> None:
    """Beside another copy: there the sum alone says nothing, and a second close would open the other side."""
    if code == INVALID_FILL and how == "executed":
        return
    follower = make(limits=Limits(50, 20, 5, D(10), D(10), 20), account={"margin_mode": "netting"})
    other = follower.master_opens(position(2, "SELL", "0.30"))
    follower.look()
    if op is Op.OPEN:
        inject(follower, op, code, how)
    trade = follower.master_opens(position(1))
    follower.ticks(1)
    if op is not Op.OPEN:
        inject(follower, op, code, how)
        remaining = "0.04" if op is Op.REDUCE else "0"
        trade = follower.master_closes(trade, remaining)
    follower.ticks(40)
    refused = op is Op.OPEN and how == "not_executed" and verdict_of(op, code) is not Verdict.LATER
    wanted = {Op.OPEN: 0.0 if refused else 0.1, Op.REDUCE: 0.04, Op.CLOSE: 0.0}[op]
    assert net_lots(follower) == pytest.approx(wanted - 0.3)
    assert follower.copier._stock.foreign == {}
    if op is not Op.CLOSE:
        follower.master_closes(trade)
        follower.ticks(3)
        assert net_lots(follower) == pytest.approx(-0.3)
    follower.master_closes(other)
    follower.ticks(3)
    assert follower.positions == []
