"""The copier's picture of the masters' books: no gap stays unnoticed, and what is not known is never taken as gone."""

from __future__ import annotations

from copy import deepcopy
from decimal import Decimal as D
from typing import Any

import pytest

from account import PATIENCE_S
from mirror import Mirror
from signals import Action, BadField, Kind, Source, Trade, decode, encode, trade_for_client

NOW = 70.0
LATER = NOW + PATIENCE_S
SERVER_NOW = 1_790_000_000_000
HER = ("anna", Kind.POSITION, 1)


def trade(ticket: int = 1, master: str = "anna", **more: Any) -> Trade:
    fields: dict[str, Any] = {
        "kind": Kind.POSITION, "symbol": "EURUSD", "action": Action.BUY, "volume": D("0.29"),
        "initial_volume": D("0.29"), "price": D("1.085"), "opened_at": SERVER_NOW - 2_000,
    }  # fmt: skip
    return Trade(ticket=ticket, master=master, **{**fields, **more})


def book(seq: int, *trades: Trade, epoch: str = "e1", masters: dict[str, int | None] | None = None) -> dict[str, Any]:
    known = {"anna": 100} if masters is None else masters
    return on_the_wire(
        {
            "type": "book",
            "seq": seq,
            "server_time": SERVER_NOW,
            "epoch": epoch,
            "version": "0.1.0",
            "data": {
                "masters": [{"master": m, "reported_at": at, "online": True, "since": at} for m, at in known.items()],
                "trades": [trade_for_client(one, one.volume) for one in trades],
            },
        }
    )


def change(kind: str, seq: int, prev: int, one: Trade, **more: Any) -> dict[str, Any]:
    top = {"detected_at": more.pop("detected_at")} if "detected_at" in more else {}
    data = {**trade_for_client(one, one.volume), **more}
    return on_the_wire({"type": kind, "seq": seq, "prev": prev, "server_time": SERVER_NOW, "data": data, **top})


def heartbeat(seq: int) -> dict[str, Any]:
    return on_the_wire({"type": "heartbeat", "seq": seq, "server_time": SERVER_NOW})


def about(master: str, reported_at: int | None, online: bool = True) -> dict[str, Any]:
    data = {"master": master, "online": online, "since": 1, "reported_at": reported_at}
    return on_the_wire({"type": "master", "server_time": SERVER_NOW, "data": data})


def on_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    return decode(encode(message))


@pytest.fixture
def mirror() -> Mirror:
    one = Mirror()
    assert not one.apply(book(10, trade()), NOW)
    return one


def tickets(mirror: Mirror) -> list[int]:
    return sorted(ticket for _, _, ticket in mirror.trades)


# --- numbering -----------------------------------------------------------------------------------------------------


def test_before_the_first_book_nothing_is_known_and_every_message_asks_for_it() -> None:
    mirror = Mirror()
    assert not mirror.known
    assert not mirror.synced
    for message in (change("signal", 1, 0, trade()), heartbeat(0), about("anna", 5)):
        assert mirror.apply(message, NOW)
    assert not mirror.trades
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


def test_changes_follow_the_book(mirror: Mirror) -> None:
    assert not mirror.apply(change("signal", 11, 10, trade(2)), NOW)
    assert not mirror.apply(change("modify", 12, 11, trade(2, sl=D("1.08"))), NOW)
    assert not mirror.apply(change("close", 13, 12, trade(1, volume=D("0.10")), remaining=D("0.10")), NOW)
    assert mirror.trades["anna", Kind.POSITION, 2].trade.sl == D("1.08")
    assert mirror.trades[HER].trade.volume == D("0.10")
    assert not mirror.apply(change("close", 14, 13, trade(1), remaining=D(0), profit=D(-3)), NOW)
    assert tickets(mirror) == [2]
    assert mirror.synced


def test_numbers_of_changes_that_this_client_does_not_see_are_no_gap(mirror: Mirror) -> None:
    assert not mirror.apply(change("signal", 40, 10, trade(2)), NOW)
    assert not mirror.apply(change("signal", 41, 9, trade(3)), NOW)  # joined a group that had been told less
    assert tickets(mirror) == [1, 2, 3]


def test_a_gap_asks_for_the_book_and_only_whole_closes_are_believed_until_it_comes(mirror: Mirror) -> None:
    assert mirror.apply(change("signal", 12, 11, trade(2)), NOW)
    assert not mirror.synced
    assert mirror.apply(change("close", 13, 12, trade(1), remaining=D("0.05")), NOW)
    assert mirror.trades[HER].trade.volume == D("0.29")
    assert mirror.apply(change("close", 14, 13, trade(1), remaining=D(0)), NOW)
    assert tickets(mirror) == []
    assert not mirror.apply(book(14, trade(2)), NOW)
    assert tickets(mirror) == [2]
    assert mirror.synced


def test_a_lost_last_frame_is_noticed_by_the_heartbeat(mirror: Mirror) -> None:
    assert not mirror.apply(heartbeat(10), NOW)
    assert not mirror.apply(heartbeat(9), NOW)  # told by the book of more than the heartbeat's group has seen
    assert mirror.synced
    assert mirror.apply(heartbeat(11), NOW)
    assert not mirror.synced


def test_a_repeated_or_late_message_changes_nothing(mirror: Mirror) -> None:
    signal = change("signal", 11, 10, trade(2))
    mirror.apply(signal, NOW)
    mirror.apply(change("modify", 12, 11, trade(2, sl=D("1.08"))), NOW)
    mirror.apply(change("close", 13, 12, trade(1), remaining=D(0)), NOW)
    before = deepcopy(mirror.trades)
    for late in (signal, change("modify", 12, 11, trade(2, sl=D("1.01"))), change("signal", 10, 9, trade(1))):
        assert not mirror.apply(late, NOW + 1)
    assert mirror.trades == before
    assert mirror.seq == 13


def test_messages_in_the_wrong_order_ask_for_the_book(mirror: Mirror) -> None:
    assert mirror.apply(change("close", 12, 11, trade(2), remaining=D(0)), NOW)
    assert mirror.apply(change("signal", 11, 10, trade(2)), NOW)  # comes too late: the position is closed already
    assert tickets(mirror) == [1]


def test_a_closed_connection_leaves_the_books_but_nothing_may_be_opened_from_them(mirror: Mirror) -> None:
    mirror.disconnected()
    assert tickets(mirror) == [1]
    assert mirror.known
    assert not mirror.synced


def test_a_book_replaces_everything(mirror: Mirror) -> None:
    mirror.apply(change("signal", 11, 10, trade(2)), NOW)
    mirror.apply(book(30, trade(3, "berta"), masters={"berta": None}), NOW)
    assert list(mirror.trades) == [("berta", Kind.POSITION, 3)]
    assert list(mirror.masters) == ["berta"]
    assert mirror.seq == 30


def test_an_order_and_a_position_under_one_ticket_are_closed_apart(mirror: Mirror) -> None:
    order = trade(1, kind=Kind.ORDER, action=Action.BUY_LIMIT)
    mirror.apply(change("signal", 11, 10, order), NOW)
    mirror.apply(change("close", 12, 11, order, remaining=D(0)), NOW)
    assert list(mirror.trades) == [HER]


def test_messages_of_an_unknown_type_are_passed_over(mirror: Mirror) -> None:
    for message in ({"type": "advice", "seq": 99}, {"type": None}, {"type": ["book"]}, {}):
        assert not mirror.apply(message, NOW)
    assert mirror.synced


def test_fields_of_a_newer_server_are_passed_over(mirror: Mirror) -> None:
    message = change("signal", 11, 10, trade(2), mood="calm")
    assert not mirror.apply({**message, "colour": 5}, NOW)
    assert tickets(mirror) == [1, 2]


# --- ages ----------------------------------------------------------------------------------------------------------


def test_an_age_is_the_servers_at_receipt_and_monotonic_from_then_on(mirror: Mirror) -> None:
    held = mirror.trades[HER]
    assert held.age_ms(NOW) == 2_000
    assert held.age_ms(NOW + 58.5) == 60_500


def test_no_wall_clock_is_asked(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> float:
        raise AssertionError("the wall clock was asked")

    monkeypatch.setattr("time.time", never)
    mirror.apply(book(11, trade(2)), NOW)
    mirror.apply(change("signal", 12, 11, trade(3)), NOW)
    assert mirror.trades["anna", Kind.POSITION, 3].age_ms(NOW + 1) == 3_000


def test_an_unknown_age_stays_unknown(mirror: Mirror) -> None:
    mirror.apply(change("signal", 11, 10, trade(2, opened_at=0)), NOW)
    assert mirror.trades["anna", Kind.POSITION, 2].age_ms(NOW + 1000) is None


def test_a_trade_of_the_servers_future_is_not_younger_than_new(mirror: Mirror) -> None:
    mirror.apply(change("signal", 11, 10, trade(2, opened_at=SERVER_NOW + 60_000)), NOW)
    assert mirror.trades["anna", Kind.POSITION, 2].age_ms(NOW) == 0


def test_a_repeated_book_does_not_make_a_trade_younger(mirror: Mirror) -> None:
    later = {**book(10, trade()), "server_time": SERVER_NOW + 30_000}
    mirror.apply(later, NOW + 30)
    assert mirror.trades[HER].age_ms(NOW + 31) == 33_000


def test_the_time_of_detection_survives_a_book(mirror: Mirror) -> None:
    mirror.apply(change("signal", 11, 10, trade(2), detected_at=SERVER_NOW - 7), NOW)
    mirror.apply(book(11, trade(1), trade(2)), NOW + 5)
    assert mirror.trades["anna", Kind.POSITION, 2].detected_at == SERVER_NOW - 7
    assert mirror.trades[HER].detected_at == 0


# --- whose absence is known ----------------------------------------------------------------------------------------


def test_a_master_that_has_reported_to_this_database_is_believed(mirror: Mirror) -> None:
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "of an older database")


def test_a_master_that_never_reported_to_this_database_has_no_empty_book(mirror: Mirror) -> None:
    mirror.apply(book(3, epoch="e2", masters={"anna": None}), NOW)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e2")
    assert not mirror.apply(about("anna", 500), NOW)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")
    assert not mirror.apply(about("anna", 600), LATER)
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


def test_a_sender_that_remembers_nothing_either_is_not_believed_while_its_terminal_may_not_show_everything() -> None:
    """Server and sender have lost their memory, and the master's terminal is 14 s late with what it shows."""
    mirror = Mirror("e1", 10, "a")
    mirror.apply(book(0, epoch="e2", masters={"anna": None}), NOW)
    for report, at in enumerate((3, 8, 13, 17)):  # every 5 s, of an account that looks empty; the last was on its way
        assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")
        mirror.apply(about("anna", 500 + min(report, 2)), NOW + at)
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")
    mirror.apply(about("anna", 503), NOW + 20)
    assert mirror.speaks_for(HER, Source.TERMINAL, "e1")


def test_who_has_not_reported_to_another_database_is_doubted_when_he_does_also_after_a_restart() -> None:
    before = Mirror("e1", 10, "a", ["anna", "berta"])
    before.apply(book(0, epoch="e2", masters={"anna": None, "berta": 500}), NOW)
    assert before.unreported == {"anna"}
    after = Mirror("e2", 0, "", ["anna", "berta"], before.unreported)
    after.apply(book(0, epoch="e2", masters={"anna": 600, "berta": 600}), NOW)
    assert after.went_back.keys() == {"anna"}, "the others do not pay for one who is away"
    assert not after.unreported
    after.apply(about("anna", 700), NOW + PATIENCE_S + 1)
    assert not after.went_back


def test_what_comes_of_a_master_that_the_book_does_not_name_shows_that_a_book_was_missed(mirror: Mirror) -> None:
    assert mirror.apply(change("signal", 11, 10, trade(2, master="berta")), NOW)
    assert not mirror.synced
    mirror.apply(book(11, trade(2, master="berta"), masters={"anna": 100, "berta": 100}), NOW)
    assert mirror.synced
    assert not mirror.apply(change("close", 12, 11, trade(2, master="berta"), remaining=D(0)), NOW)
    assert not mirror.trades


def test_a_master_that_the_book_does_not_name_is_not_believed(mirror: Mirror) -> None:
    mirror.apply(book(12, masters={"berta": 100}), NOW)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


def test_a_trade_entered_by_hand_is_known_to_its_own_database_only(mirror: Mirror) -> None:
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.MANUAL, "e1")
    mirror.apply(book(90, epoch="e2"), NOW)
    mirror.apply(about("anna", 120), LATER)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.MANUAL, "e1")
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.MANUAL, "e2")


def test_a_master_who_never_has_a_sender_is_believed_about_trades_entered_by_hand(mirror: Mirror) -> None:
    mirror = Mirror()
    mirror.apply(book(11, masters={"anna": None}), NOW)
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.MANUAL, "e1")
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


@pytest.mark.parametrize("source", list(Source))
def test_a_database_that_went_back_in_time_is_believed_again_when_the_master_has_reported(
    mirror: Mirror, source: Source
) -> None:
    mirror.apply(book(7, masters={"anna": 100, "berta": 90}), NOW)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), source, "e1")
    mirror.apply(book(9, masters={"anna": 100, "berta": 90}), NOW)  # asked again: still nothing new of her
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), source, "e1")
    mirror.apply(about("anna", 110), NOW + 5)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), source, "e1")
    mirror.apply(about("anna", 120), LATER)
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), source, "e1")
    assert not mirror.speaks_for(("berta", Kind.POSITION, 99), source, "e1")
    mirror.apply(book(9, masters={"anna": 120, "berta": 130}), LATER)
    assert mirror.speaks_for(("berta", Kind.POSITION, 99), source, "e1")


def test_a_master_who_is_deactivated_in_a_backup_is_not_believed_when_it_names_him_again(mirror: Mirror) -> None:
    mirror.apply(book(7, masters={}), NOW)
    mirror.apply(book(7, masters={}), NOW + 10)
    mirror.apply(book(7, masters={"anna": 90}), LATER + 1)  # activated again, and has not reported since
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")
    mirror.apply(about("anna", 120), LATER + 5)
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")
    mirror.apply(about("anna", 130), LATER + PATIENCE_S + 5)
    assert mirror.speaks_for(HER, Source.TERMINAL, "e1")


def test_a_master_who_is_deactivated_is_in_no_doubt_and_nothing_that_was_closed_is_remembered(mirror: Mirror) -> None:
    """The order had filled: of what it became, the book of a deactivated master says nothing."""
    order = trade(7, kind=Kind.ORDER, action=Action.SELL_LIMIT)
    mirror.apply(change("signal", 11, 10, order), NOW)
    mirror.apply(change("signal", 12, 11, trade(7, action=Action.SELL)), NOW)
    mirror.apply(change("close", 13, 12, order, remaining=0), NOW)
    mirror.apply(book(13, masters={}), NOW)
    assert not mirror.went_back
    assert not mirror.speaks_for(("anna", Kind.ORDER, 7), Source.TERMINAL, "e1")
    mirror.apply(book(13, trade(), trade(7, action=Action.SELL)), NOW + 1)
    assert not mirror.went_back
    assert mirror.believed(HER)


def test_he_is_not_believed_by_a_copier_that_was_started_meanwhile_either() -> None:
    mirror = Mirror("e1", 10, "a", ["anna"])  # of whom there are copies
    mirror.apply(book(7, masters={}), NOW)
    mirror.apply(book(7, masters={"anna": 90}), LATER + 1)
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")


def test_the_lots_of_a_doubted_book_are_those_of_then_until_the_trade_is_told(mirror: Mirror) -> None:
    assert mirror.believed(HER)
    mirror.apply(book(7, trade(), trade(2)), NOW)
    assert not mirror.believed(HER)
    mirror.apply(change("close", 8, 7, trade(volume=D("0.10")), remaining=0.1), NOW + 1)
    assert mirror.believed(HER)
    assert not mirror.believed(("anna", Kind.POSITION, 2))
    mirror.apply(book(8, trade(volume=D("0.10")), trade(2)), NOW + 5)  # of the same database
    assert mirror.believed(HER)
    mirror.apply(book(6, trade()), NOW + 6)  # another backup
    assert not mirror.believed(HER)
    mirror.apply(about("anna", 130), NOW + 6 + PATIENCE_S)
    assert mirror.believed(HER)


def test_going_back_is_noticed_over_a_restart_of_the_copier() -> None:
    mirror = Mirror(last_epoch="e1", last_seq=10)
    mirror.apply(book(9), NOW)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")
    other = Mirror(last_epoch="e1", last_seq=10)
    other.apply(book(10), NOW)
    assert other.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


def test_another_database_is_believed_when_the_master_has_reported_to_it_since(mirror: Mirror) -> None:
    """It may be a new one, or the backup of one from before: what it says of reports may be long past."""
    mirror.apply(book(90, epoch="e2"), NOW)
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")
    mirror.apply(book(90, epoch="e2", masters={"anna": 120}), LATER)
    assert mirror.speaks_for(HER, Source.TERMINAL, "e1")


def test_a_master_who_goes_offline_is_still_believed(mirror: Mirror) -> None:
    mirror.apply(about("anna", 100, online=False), NOW)
    assert not mirror.masters["anna"].online
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


def test_news_of_a_master_without_the_time_of_its_report_keep_what_is_known(mirror: Mirror) -> None:
    message = about("anna", 100)
    del message["data"]["reported_at"]
    mirror.apply(message, NOW)
    assert mirror.masters["anna"].reported_at == 100


def test_a_report_whose_changes_were_missed_does_not_make_the_book_complete(mirror: Mirror) -> None:
    mirror.apply(book(1, epoch="e2", masters={"anna": None}), NOW)
    assert mirror.apply(change("signal", 3, 2, trade(1)), NOW)  # number 2 was lost
    assert mirror.apply(about("anna", 500), NOW)
    assert not mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1"), "her book is not here yet"
    mirror.apply(book(4, trade(1), epoch="e2", masters={"anna": 500}), NOW)
    mirror.apply(about("anna", 600), LATER)
    assert mirror.speaks_for(("anna", Kind.POSITION, 99), Source.TERMINAL, "e1")


def test_a_master_that_no_book_has_named_is_not_believed_before_the_book_comes(mirror: Mirror) -> None:
    assert mirror.apply(about("berta", 500), NOW)
    assert not mirror.speaks_for(("berta", Kind.POSITION, 99), Source.TERMINAL, "e1")
    assert not mirror.synced


# --- garbage -------------------------------------------------------------------------------------------------------

GARBAGE: list[Any] = [None, True, -1, 10**30, 1.5, D("1e999"), "", "x" * 70, "\ud800", [], [1], [[]], {}, {"a": 1}]


def state(mirror: Mirror) -> Any:
    return deepcopy(vars(mirror))


def spoiled(message: Any) -> Any:
    """Every copy of a message in which one value, wherever it is, is garbage or missing."""
    entries = message.items() if isinstance(message, dict) else enumerate(message)
    for place, value in list(entries):
        for other in GARBAGE:
            worse = deepcopy(message)
            worse[place] = other
            yield worse
        if isinstance(message, dict):
            worse = deepcopy(message)
            del worse[place]
            yield worse
        if isinstance(value, (dict, list)):
            for inner in spoiled(value):
                worse = deepcopy(message)
                worse[place] = inner
                yield worse


@pytest.mark.parametrize(
    "message",
    [
        book(20, trade(1), trade(2), masters={"anna": 1, "berta": None}),
        change("signal", 11, 10, trade(2), detected_at=5),
        change("modify", 11, 10, trade(1, sl=D("1.05"))),
        change("close", 11, 10, trade(1, volume=D("0.1")), remaining=D("0.1")),
        change("close", 11, 10, trade(1), remaining=D(0)),
        heartbeat(11),
        about("anna", 200),
    ],
    ids=lambda message: str(message["type"]),
)
def test_garbage_is_refused_and_leaves_everything_as_it_was(message: dict[str, Any]) -> None:
    tried = 0
    for worse in spoiled(message):
        mirror = Mirror()
        mirror.apply(book(10, trade()), NOW)
        before = state(mirror)
        tried += 1
        try:
            mirror.apply(worse, NOW)
        except BadField:
            assert state(mirror) == before, worse
    assert tried > 30


def test_a_spoiled_trade_in_the_middle_of_a_book_leaves_the_old_book(mirror: Mirror) -> None:
    message = book(20, trade(5), trade(6), trade(7), masters={"berta": 5})
    message["data"]["trades"][1]["symbol"] = ""
    before = state(mirror)
    with pytest.raises(BadField, match="symbol"):
        mirror.apply(message, NOW)
    assert state(mirror) == before


def test_a_trade_that_cannot_be_read_is_not_closed_by_it(mirror: Mirror) -> None:
    for spoil in ({"kind": "posture"}, {"kind": ["position"]}, {"ticket": [1]}, {"ticket": True}, {"master": 5}):
        message = change("close", 11, 10, trade(1), remaining=D(0))
        message["data"] |= spoil
        with pytest.raises(BadField):
            mirror.apply(message, NOW)
    assert tickets(mirror) == [1]
    assert mirror.trades[HER].trade == trade(1)


def test_a_trade_that_came_back_is_not_taken_for_closed_because_it_once_was(mirror: Mirror) -> None:
    mirror.apply(change("close", 11, 10, trade(1), remaining=D(0)), NOW)
    mirror.apply(change("signal", 12, 11, trade(1)), NOW)
    mirror.apply(book(3), NOW)  # a backup from before the trade
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")


# --- messages that were long on their way ----------------------------------------------------------------------------


def test_a_message_that_was_long_on_its_way_does_not_make_its_trade_look_young(mirror: Mirror) -> None:
    mirror.apply(heartbeat(10), NOW + 0.0)
    late = change("signal", 11, 10, trade(2))
    assert not mirror.apply(late, NOW + 9)  # sent at NOW, as the server's time in it says
    assert mirror.trades["anna", Kind.POSITION, 2].age_ms(NOW + 10) == 2_000 + 10_000


def test_a_book_that_was_long_on_its_way_does_not_either_also_of_another_database(mirror: Mirror) -> None:
    mirror.apply(book(1, trade(2), epoch="e2"), NOW + 9)
    assert mirror.trades["anna", Kind.POSITION, 2].age_ms(NOW + 9) == 2_000 + 9_000


def test_the_servers_clock_is_followed_when_it_is_set_back(mirror: Mirror) -> None:
    for second in range(0, 200, 5):
        behind = heartbeat(10) | {"server_time": SERVER_NOW + 1000 * second - 3_600_000}
        mirror.apply(behind, NOW + second)
    found = change("signal", 11, 10, trade(2, opened_at=SERVER_NOW - 3_600_000 + 195_000))
    mirror.apply(found | {"server_time": SERVER_NOW - 3_600_000 + 196_000}, NOW + 196)
    assert mirror.trades["anna", Kind.POSITION, 2].age_ms(NOW + 196) == 1_000


# --- a database that was restored and has gone on ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("starts", "believed"),
    [
        pytest.param([["a", 0], ["b", 10]], True, id="started again where it was"),
        pytest.param([["a", 0], ["b", 12]], True, id="started again later"),
        pytest.param([["a", 0], ["b", 9]], False, id="less than was heard"),
        pytest.param([["x", 0], ["b", 12]], False, id="never heard of that run"),
        pytest.param([["a", 0]], True, id="the same run"),
    ],
)
def test_a_restored_database_is_recognised_whatever_it_has_numbered_since(
    starts: list[list[Any]], believed: bool
) -> None:
    mirror = Mirror()
    mirror.apply(book(10, trade()) | {"starts": [["a", 0]]}, NOW)
    mirror.apply(book(15) | {"starts": starts}, NOW + 1)  # without the trade, and with a higher number
    assert mirror.speaks_for(HER, Source.TERMINAL, "e1") is believed
    mirror.apply(
        book(15, masters={"anna": 101}) | {"starts": starts}, NOW + 1 + PATIENCE_S
    )  # her sender has reported to it
    assert mirror.speaks_for(HER, Source.TERMINAL, "e1")


def test_a_restored_database_is_recognised_after_a_restart_of_the_copier_too() -> None:
    mirror = Mirror("e1", 10, "a")
    mirror.apply(book(15) | {"starts": [["a", 0], ["b", 9]]}, NOW)
    assert not mirror.speaks_for(HER, Source.TERMINAL, "e1")
