"""Injected faults: the simulator goes wrong exactly as it is told, and only then."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import mt5_sim
from sim_account import AccountSettings
from sim_api import Terminal
from sim_broker import Broker

GOOD = {"action": 1, "symbol": "EURUSD", "volume": 0.1, "type": 0, "type_filling": 1}
EVER = (1, 2**31 - 1)


class Clock:
    """Stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = Broker(AccountSettings(login=7), clock=self.clock, seed=1)
        self.terminal = Terminal(self.broker)
        self.mt5 = self.client()
        self.mt5.sim_freeze()

    def client(self) -> mt5_sim.Client:
        client = mt5_sim.Client(self.terminal)
        assert client.initialize()
        return client

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.terminal.tick()


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---- reading


def test_none_is_given_as_often_as_it_was_asked_for(desk: Desk):
    desk.mt5.inject("positions_get", "none", times=2)
    assert desk.mt5.positions_get() is None
    assert desk.mt5.last_error() == (-1, "Terminal: Call failed")
    assert desk.mt5.orders_get() == ()
    assert desk.mt5.positions_get() is None
    assert desk.mt5.positions_get() == ()


@pytest.mark.parametrize("times", [0, None])
def test_times_0_or_none_lasts_until_it_is_cleared(desk: Desk, times: int | None):
    desk.mt5.inject("account_info", "none", times=times, code=-10000)
    for _ in range(50):
        assert desk.mt5.account_info() is None
        assert desk.mt5.last_error() == (-10000, "IPC call failed")
    assert desk.mt5.sim_faults() == [["account_info", "none", None, {"code": -10000}]]
    desk.mt5.sim_clear_faults()
    assert desk.mt5.account_info().login == 7


def test_a_fault_may_end_by_the_clock(desk: Desk):
    desk.mt5.inject("positions_get", "none", times=None, lasts=5)
    desk.pass_time(4.9)
    assert desk.mt5.positions_get() is None
    desk.pass_time(0.2)
    assert desk.mt5.positions_get() == ()
    assert desk.mt5.sim_faults() == []


def test_a_terminal_in_the_same_process_can_be_gone_and_back(desk: Desk):
    desk.mt5.order_send(GOOD)
    desk.terminal.running = False
    assert desk.mt5.positions_get() is None
    assert desk.mt5.last_error() == (-10001, "IPC send failed")
    assert desk.mt5.initialize() is False
    desk.terminal.running = True
    assert desk.mt5.positions_get() is None
    assert desk.mt5.initialize()
    assert len(desk.mt5.positions_get()) == 1


def test_a_lost_connection_stays_lost_until_initialize(desk: Desk):
    desk.mt5.inject("positions_get", "none", code=-10002)
    assert desk.mt5.positions_get() is None
    assert desk.mt5.last_error() == (-10002, "IPC recv failed")
    assert desk.mt5.positions_get() is None
    assert desk.mt5.last_error() == (-10004, "No IPC connection")
    assert desk.mt5.initialize()
    assert desk.mt5.positions_get() == ()


def test_drop_false_keeps_the_connection(desk: Desk):
    desk.mt5.inject("positions_get", "none", code=-10002, drop=False)
    assert desk.mt5.positions_get() is None
    assert desk.mt5.positions_get() == ()


def test_stale_empty_shows_nothing_though_connected(desk: Desk):
    desk.mt5.order_send(GOOD)
    desk.mt5.inject("positions_get", "stale_empty")
    desk.mt5.inject("positions_total", "stale_empty")
    assert desk.mt5.positions_get() == ()
    assert desk.mt5.positions_total() == 0
    assert desk.mt5.terminal_info().connected is True
    assert len(desk.mt5.positions_get()) == desk.mt5.positions_total() == 1


def test_disconnected_shows_nothing_and_says_so_until_it_is_over(desk: Desk):
    desk.mt5.order_send(GOOD)
    desk.mt5.inject("terminal_info", "disconnected", times=None, lasts=5)
    for _ in range(2):
        assert desk.mt5.terminal_info().connected is False
        assert desk.mt5.positions_get() == () == desk.mt5.orders_get()
        assert desk.mt5.order_send(GOOD).retcode == 10031
    desk.pass_time(5)
    assert desk.mt5.terminal_info().connected is True
    assert len(desk.mt5.positions_get()) == 1


def test_a_disconnection_may_be_counted_in_calls(desk: Desk):
    desk.mt5.order_send(GOOD)
    desk.mt5.inject("positions_get", "disconnected", times=2)
    assert desk.mt5.positions_get() == ()
    assert desk.mt5.terminal_info().connected is False
    assert desk.mt5.positions_get() == ()
    assert desk.mt5.terminal_info().connected is True
    assert len(desk.mt5.positions_get()) == 1


def test_another_login_shows_in_the_account(desk: Desk):
    desk.mt5.inject("account_info", "other_login", login=99)
    assert desk.mt5.account_info().login == 99
    assert desk.mt5.account_info().login == 7


def test_a_star_is_every_call_but_initialize(desk: Desk):
    desk.mt5.inject("*", "none", times=None, code=-10002)
    assert desk.mt5.terminal_info() is None
    assert desk.mt5.initialize()
    assert desk.mt5.symbol_info("EURUSD") is None
    desk.mt5.sim_clear_faults()


def test_initialize_can_fail(desk: Desk):
    desk.mt5.inject("initialize", "none", code=-10005)
    assert desk.mt5.initialize() is False
    assert desk.mt5.last_error() == (-10005, "IPC timeout")
    assert desk.mt5.positions_get() is None
    assert desk.mt5.initialize()


def test_delay_takes_its_time_before_the_call_is_carried_out(desk: Desk):
    before = desk.clock.now
    desk.mt5.inject("order_send", "delay", seconds=2)
    sent = desk.mt5.order_send(GOOD)
    assert desk.clock.now == before + 2
    assert desk.mt5.positions_get(ticket=sent.order)[0].time == int(before) + 2 + 3 * 3600


def test_delay_after_is_carried_out_at_once_and_answered_late(desk: Desk):
    before = desk.clock.now
    desk.mt5.inject("order_send", "delay", seconds=2, after=True)
    sent = desk.mt5.order_send(GOOD)
    assert desk.clock.now == before + 2
    assert desk.mt5.positions_get(ticket=sent.order)[0].time == int(before) + 3 * 3600


def test_a_hanging_call_hangs_until_it_is_released_and_disturbs_no_other_client(
    desk: Desk, wait_until: Callable[..., None]
):
    other, answers = desk.client(), []
    desk.mt5.inject("positions_get", "hang")
    thread = threading.Thread(target=lambda: answers.append(desk.mt5.positions_get()), daemon=True)
    thread.start()
    wait_until(lambda: other.sim_faults() == [], "the call to begin")
    assert other.order_send(GOOD).retcode == 10009
    assert answers == []
    other.sim_clear_faults()
    thread.join(30)
    assert len(answers[0]) == 1


# ---- trading


@pytest.mark.parametrize(
    ("outcome", "retcode", "executed"),
    [("timeout_after_fill", 10012, 1), ("timeout_not_executed", 10012, 0), ("requote", 10004, 0)],
)
def test_an_answer_that_says_nothing_about_the_execution(desk: Desk, outcome: str, retcode: int, executed: int):
    desk.mt5.inject("order_send", outcome)
    sent = desk.mt5.order_send(GOOD)
    assert (sent.retcode, sent.order, sent.deal) == (retcode, 0, 0)
    assert len(desk.mt5.positions_get()) == executed
    assert desk.mt5.order_send(GOOD).retcode == 10009


def test_a_requote_names_the_new_prices(desk: Desk):
    tick = desk.mt5.symbol_info_tick("EURUSD")
    desk.mt5.inject("order_send", "requote")
    sent = desk.mt5.order_send(GOOD)
    assert (sent.bid, sent.ask) == (tick.bid, tick.ask)


@pytest.mark.parametrize(("outcome", "executed"), [("none_after_fill", 1), ("none_not_executed", 0)])
@pytest.mark.parametrize("code", [None, -10005])
def test_no_answer_at_all(desk: Desk, outcome: str, executed: int, code: int | None):
    desk.mt5.inject("order_send", outcome, **({} if code is None else {"code": code}))
    assert desk.mt5.order_send(GOOD) is None
    assert desk.mt5.last_error()[0] == (code or -10002)
    assert desk.mt5.initialize()
    assert len(desk.mt5.positions_get()) == executed


@pytest.mark.parametrize("how", [{"outcome": "retcode", "retcode": 10018}, {"outcome": 10018}])
def test_any_retcode_refuses_without_executing(desk: Desk, how: dict[str, Any]):
    desk.mt5.inject("order_send", **how)
    sent = desk.mt5.order_send(GOOD)
    assert (sent.retcode, sent.comment, desk.mt5.positions_get()) == (10018, "Market closed", ())


@pytest.mark.parametrize(("outcome", "at_once"), [("retcode_after_fill", 1), ("retcode_late_fill", 0)])
def test_any_retcode_can_hide_an_execution(desk: Desk, outcome: str, at_once: int):
    desk.mt5.inject("order_send", outcome, retcode=10028)
    sent = desk.mt5.order_send(GOOD)
    assert (sent.retcode, sent.order, len(desk.mt5.positions_get())) == (10028, 0, at_once)
    desk.pass_time(4)
    assert len(desk.mt5.positions_get()) == 1


def test_where_chooses_among_the_requests(desk: Desk):
    desk.mt5.inject("order_send", 10006, times=None, where={"action": 6})
    desk.mt5.inject("order_send", 10004, where={"symbol": "USDJPY"})
    position = desk.mt5.order_send(GOOD).order
    assert desk.mt5.order_send(action=6, position=position, sl=1.0).retcode == 10006
    assert desk.mt5.order_send({**GOOD, "symbol": "USDJPY"}).retcode == 10004
    assert desk.mt5.order_send({**GOOD, "symbol": "USDJPY"}).retcode == 10009


def test_a_placed_order_waits_in_sight_and_fills_late(desk: Desk):
    desk.mt5.inject("order_send", "placed_late_fill", seconds=3)
    sent = desk.mt5.order_send({**GOOD, "magic": 5, "comment": "tag"})
    assert (sent.retcode, sent.deal) == (10008, 0)
    (waiting,) = desk.mt5.orders_get()
    assert (waiting.ticket, waiting.type, waiting.magic, waiting.comment) == (sent.order, 0, 5, "tag")
    desk.pass_time(2.9)
    assert desk.mt5.positions_get() == ()
    desk.pass_time(0.2)
    (position,) = desk.mt5.positions_get()
    assert (position.ticket, position.magic, desk.mt5.orders_get()) == (sent.order, 5, ())


def test_after_a_timeout_the_fill_may_come_late_and_out_of_nowhere(desk: Desk):
    desk.mt5.inject("order_send", "timeout_late_fill", seconds=10)
    sent = desk.mt5.order_send({**GOOD, "magic": 5})
    assert (sent.retcode, sent.order) == (10012, 0)
    assert desk.mt5.orders_get() == () == desk.mt5.positions_get()
    desk.pass_time(10)
    assert desk.mt5.positions_get()[0].magic == 5


def test_a_late_close_of_something_already_closed_is_cancelled(desk: Desk):
    position = desk.mt5.order_send(GOOD).order
    close = {**GOOD, "type": 1, "position": position}
    desk.mt5.inject("order_send", "timeout_late_fill", seconds=3)
    assert desk.mt5.order_send(close).retcode == 10012
    assert desk.mt5.order_send(close).retcode == 10009
    desk.pass_time(3)
    assert desk.mt5.positions_get() == () == desk.mt5.orders_get()
    assert len(desk.mt5.history_deals_get(position=position)) == 2


def test_a_visible_late_close_bars_a_second_one(desk: Desk):
    position = desk.mt5.order_send(GOOD).order
    close = {**GOOD, "type": 1, "position": position}
    desk.mt5.inject("order_send", "placed_late_fill", seconds=3)
    assert desk.mt5.order_send(close).retcode == 10008
    assert desk.mt5.order_send(close).retcode == 10039
    desk.pass_time(3)
    assert desk.mt5.positions_get() == ()


def test_a_late_fill_is_still_refused_at_once_when_it_is_wrong(desk: Desk):
    desk.mt5.inject("order_send", "placed_late_fill", seconds=3)
    assert desk.mt5.order_send({**GOOD, "volume": 0.001}).retcode == 10014
    assert desk.mt5.orders_get() == ()


@pytest.mark.parametrize(
    ("volume", "fraction", "filled"), [(0.1, 0.4, 0.04), (0.29, 0.5, 0.14), (0.02, 0.1, 0.01), (0.01, 0.5, 0.01)]
)
def test_a_partial_fill_is_of_whole_steps(desk: Desk, volume: float, fraction: float, filled: float):
    desk.mt5.inject("order_send", "partial", fraction=fraction)
    sent = desk.mt5.order_send({**GOOD, "volume": volume})
    assert (sent.retcode, sent.volume) == (10009 if filled == volume else 10010, filled)
    assert desk.mt5.positions_get()[0].volume == filled


def test_a_close_may_fill_in_part(desk: Desk):
    position = desk.mt5.order_send(GOOD).order
    desk.mt5.inject("order_send", "partial", fraction=0.3)
    assert desk.mt5.order_send({**GOOD, "type": 1, "position": position}).retcode == 10010
    assert desk.mt5.positions_get()[0].volume == 0.07


def test_the_algo_trading_button_and_the_api_option(desk: Desk):
    desk.mt5.sim_trading(allowed=False)
    assert desk.mt5.terminal_info().trade_allowed is False
    assert desk.mt5.order_send(GOOD).retcode == 10027
    desk.mt5.sim_trading(api_disabled=True)
    assert desk.mt5.terminal_info().tradeapi_disabled is True
    assert desk.mt5.order_send(GOOD) is None
    assert desk.mt5.last_error() == (-8, "Auto-Trading using Python API disabled in Terminal")
    desk.mt5.sim_trading()
    assert desk.mt5.order_send(GOOD).retcode == 10009


def test_the_investor_password_reads_and_does_not_trade(desk: Desk):
    investor = mt5_sim.Client(desk.terminal)
    assert investor.initialize(login=7, password="investor")
    position = desk.mt5.order_send(GOOD).order
    assert investor.account_info().trade_allowed is False
    assert investor.positions_get()[0].ticket == position
    assert investor.order_send({**GOOD, "type": 1, "position": position}).retcode == 10017
    assert investor.order_check(GOOD).retcode == 10017
    assert len(desk.mt5.positions_get()) == 1


# ---- history


def test_the_deal_of_a_close_may_reach_the_history_late(desk: Desk):
    position = desk.mt5.order_send(GOOD).order
    desk.mt5.inject("history_deals_get", "late", seconds=3)
    assert desk.mt5.order_send({**GOOD, "type": 1, "position": position}).retcode == 10009
    assert desk.mt5.positions_get() == ()
    assert [deal.entry for deal in desk.mt5.history_deals_get(position=position)] == [0]
    assert len(desk.mt5.history_deals_get(*EVER)) == 2
    assert desk.mt5.history_deals_total(*EVER) == 2
    assert len(desk.mt5.history_orders_get(position=position)) == 1
    desk.pass_time(3)
    assert [deal.entry for deal in desk.mt5.history_deals_get(position=position)] == [0, 1]
    assert len(desk.mt5.history_orders_get(position=position)) == 2


def test_a_late_history_may_end_by_the_clock(desk: Desk):
    position = desk.mt5.order_send(GOOD).order
    desk.mt5.inject("history_deals_get", "late", times=None, seconds=3, lasts=1)
    desk.pass_time(1)
    desk.mt5.sim_close_by_hand(position)
    assert len(desk.mt5.history_deals_get(position=position)) == 2


# ---- who is hit, and mistakes


def test_faults_are_the_terminals_and_hit_whoever_calls_next(desk: Desk):
    other = desk.client()
    desk.mt5.inject("positions_get", "none")
    assert other.positions_get() is None
    assert desk.mt5.positions_get() == ()


def test_a_fault_may_be_for_one_process(desk: Desk):
    desk.mt5.inject("positions_get", "none", pid=os.getpid() + 1)
    assert desk.mt5.positions_get() == ()
    desk.mt5.inject("positions_get", "none", pid=os.getpid())
    assert desk.mt5.positions_get() is None


@pytest.mark.parametrize(
    ("arguments", "details", "words"),
    [
        (("positions_gett", "none"), {}, "no function"),
        (("positions_get", "partial"), {}, "cannot end as"),
        (("order_send", "nothing"), {}, "cannot end as"),
        (("order_send", "retcode"), {}, "says which code"),
        (("order_send", "partial"), {"part": 0.5}, "knows no part"),
        (("order_send", "delay"), {"seconds": "2"}, "must be a number"),
        (("order_send", "requote"), {"where": 5}, "dict"),
        (("order_send", "requote", -1), {}, "times"),
    ],
)
def test_a_mistake_in_inject_raises(desk: Desk, arguments: Any, details: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        desk.mt5.inject(*arguments, **details)
    assert desk.mt5.sim_faults() == []


def test_mistakes_in_the_other_controls_raise(desk: Desk):
    for control in (
        lambda: desk.mt5.sim_set_quote("NOPE", 1.0, 1.1),
        lambda: desk.mt5.sim_set_quote("EURUSD", 1.1, 1.0),
        lambda: desk.mt5.sim_set_quote("EURUSD", 1.000001, 1.1),
        lambda: desk.mt5.sim_symbol("EURUSD", sprad=1),
        lambda: desk.mt5.sim_close_by_hand(5),
    ):
        with pytest.raises(ValueError):
            control()


def test_controls_without_a_terminal_say_so():
    with pytest.raises(ConnectionError):
        mt5_sim.Client().sim_freeze()
