"""Who is told what, in which order, and when a connection ends: the hub without sockets, its clock moved by hand."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from server_kit import ACCOUNT, FakeConnection, HandClock, trade

from database import Unavailable
from db import Store
from hub import MOST_OF_USER, Hub, View
from records import Post, Role, User
from safety import Copying, Mode
from signals import Kind, encode

D = Decimal
HOUR_MS = 3_600_000


class House:
    """A hub with its store, and short words for what happens to it."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.store = Store(folder / "server.db", self.clock)
        self.admin = self.store.add_user("admin", "hash", Role.ADMIN)
        self.master = self.store.add_user("master_user", "hash", Role.MASTER)
        self.other = self.store.add_user("other_master", "hash", Role.MASTER)
        self.hub = Hub(self.store, self.clock)
        self.sessions: dict[str, tuple[str, int]] = {}

    def client(self, name: str, *, follow: tuple[str, ...] | None = None, **trade_copy: Any) -> User:
        user = self.store.add_user(name, "hash", Role.CLIENT)
        self.store.change_config(user, {"trade_copy": trade_copy, "follow": follow})
        return user

    def join(
        self, user: User, expires_in_ms: int = HOUR_MS, ledger: str = "", arrived: int | None = None, over: bool = False
    ) -> FakeConnection:
        connection = FakeConnection(over=over)
        arrived = self.hub.arrival() if arrived is None else arrived
        self.hub.join(connection, user, self.store.now_ms() + expires_in_ms, ledger=ledger, arrived=arrived)
        return connection

    def open(self, master: User, ticket: int, **fields: Any) -> dict[str, Any]:
        return self.hub.publish(
            master, lambda audience: self.store.open_trade(master, trade(ticket, **fields), 0, Post(audience=audience))
        ).answer

    def close(self, master: User, ticket: int, **fields: Any) -> None:
        self.hub.publish(master, lambda _: self.store.close_trade(master, ticket, None, Post(), **fields))

    def report(self, master: User, *tickets: int) -> None:
        session, rev = self.sessions.get(master.username, (None, 0))
        trades = [(trade(ticket), 0) for ticket in tickets]
        outcome = self.hub.publish(
            master, lambda _: self.store.report_book(master, session, rev + 1, trades, ACCOUNT), report=True
        )
        self.sessions[master.username] = (outcome.answer["session"], rev + 1)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.store.close()


def brief(message: dict[str, Any]) -> Any:
    if message["type"] in ("signal", "modify", "close"):
        return message["type"], message["seq"], message["prev"], message["data"]["ticket"]
    return message["type"]


def test_the_book_is_first_and_the_settings_second(house: House) -> None:
    house.report(house.master, 1)
    house.open(house.other, 2)
    book, config = house.join(house.client("client_1", mode=Mode.FIX, fixed_lot=D("0.02"))).messages
    assert book["type"] == "book"
    assert (book["seq"], book["epoch"], book["server_time"]) == (2, house.store.epoch, house.store.now_ms())
    assert [(t["master"], t["ticket"], t["volume"], t["master_volume"]) for t in book["data"]["trades"]] == [
        ("master_user", 1, 0.02, 0.1),
        ("other_master", 2, 0.02, 0.1),
    ]
    assert [(m["master"], m["online"], m["reported_at"] is None) for m in book["data"]["masters"]] == [
        ("master_user", True, False),
        ("other_master", False, True),
    ]
    assert config == {
        "type": "config",
        "data": {"trade_copy": {"mode": "fix", "fixed_lot": 0.02}, "copying": "on", "follow": None},
    }


def test_a_copier_is_told_since_when_no_other_one_of_its_user_was_connected(house: House, tmp_path: Path) -> None:
    user, since = house.client("client_1"), []
    for ledger in ("one", "one", "two", "", "two", "one"):
        connection = house.join(user, ledger=ledger)
        house.clock.now += 1
        house.hub.received(connection, '{"type": "sync"}')
        house.hub.config_changed(user.id)
        house.hub.step()
        told = {message.get("copier_since") for message in connection.messages if message["type"] == "config"}
        since.append(told.pop())
        assert not told, "the same in every message"
    assert [one and one - since[0] for one in since] == [0, 0, 2000, None, 2000, 5000]
    assert "copier_since" not in house.join(house.admin, ledger="one").messages[1]
    other = Store(tmp_path / "server.db", house.clock, guest=True)
    assert other.copier_since(user, "one") == since[-1], "over a restart too"
    other.close()


def test_a_copier_that_was_not_let_in_has_taken_nobodys_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    user = house.client("client_1")
    (first,) = {message.get("copier_since") for message in house.join(user, ledger="one").messages[1:]}

    def fails(view: View) -> bytes:
        raise Unavailable("the disk is full")

    house.clock.now += 1
    with monkeypatch.context() as broken:
        broken.setattr(house.hub, "_book_frame", fails)
        with pytest.raises(Unavailable):
            house.join(user, ledger="two")
    house.clock.now += 1
    (second,) = {message.get("copier_since") for message in house.join(user, ledger="two").messages[1:]}
    assert second - first == 2000


def test_a_change_names_the_one_before_it(house: House) -> None:
    house.open(house.master, 1)
    connection = house.join(house.client("client_1"))
    connection.take()
    house.open(house.master, 2)
    house.close(house.master, 1, remaining=D("0.04"))
    house.close(house.master, 1)
    assert [brief(message) for message in connection.messages] == [
        ("signal", 2, 1, 2),
        ("close", 3, 2, 1),
        ("close", 4, 3, 1),
    ]
    assert [message["data"]["remaining"] for message in connection.messages[1:]] == [0.04, 0]


def test_followers_of_one_master_see_no_gap_where_another_master_traded(house: House) -> None:
    connection = house.join(house.client("client_1", follow=("master_user",)))
    connection.take()
    house.open(house.master, 1)
    house.open(house.other, 1)
    house.open(house.other, 2)
    house.open(house.master, 2)
    assert [brief(message) for message in connection.messages] == [("signal", 1, 0, 1), ("signal", 4, 1, 2)]


def test_who_joins_a_group_later_sees_no_gap_either(house: House) -> None:
    """`prev` is the group's, the newcomer's book is newer: what it names never lies above the book."""
    house.join(house.client("client_1", follow=("master_user",)))
    house.open(house.master, 1)
    house.open(house.other, 1)
    late = house.join(house.client("client_2", follow=("master_user",)))
    [book, _config] = late.take()
    house.open(house.master, 2)
    [message] = late.messages
    assert message["prev"] <= book["seq"]
    assert (message["prev"], message["seq"], book["seq"]) == (1, 3, 2)


def test_equal_views_get_the_very_same_frame(house: House) -> None:
    frames: list[bytes] = []

    class Keeping(FakeConnection):
        def send_frame(self, payload: bytes) -> None:
            frames.append(payload)

    for place, name in enumerate(("client_1", "client_2")):
        user = house.client(name, mode=Mode.FIX, fixed_lot=D("0.01"))
        house.hub.join(Keeping(), user, house.store.now_ms() + 1000, arrived=place)
    frames.clear()
    house.open(house.master, 1)
    assert frames[0] is frames[1]


def test_each_sizing_gets_its_own_volume(house: House) -> None:
    fixed = house.join(house.client("client_1", mode=Mode.FIX, fixed_lot=D("0.01")))
    double = house.join(house.client("client_2", mode=Mode.MULTIPLIER, multiplier=D(2)))
    plain = house.join(house.client("client_3"))
    answer = house.open(house.master, 1, volume=D("0.29"))
    assert answer["delivered"] == 3
    assert [c.messages[-1]["data"]["volume"] for c in (fixed, double, plain)] == [0.01, 0.58, 0.29]
    assert {c.messages[-1]["data"]["master_volume"] for c in (fixed, double, plain)} == {0.29}


def test_no_multiplier_makes_a_volume_that_a_message_cannot_say(house: House) -> None:
    user = house.client("client_1", mode=Mode.MULTIPLIER, multiplier=D("999.9999999999"))
    connection = house.join(user)
    house.open(house.master, 1, volume=D("999999.9999999999"))
    house.open(house.master, 2, volume=D("0.0000000001"))
    assert [m["data"]["volume"] for m in connection.messages[2:]] == [1_000_000, 1e-07]


def test_what_a_role_sees(house: House) -> None:
    admin, master = house.join(house.admin), house.join(house.master)
    nobody = house.join(house.client("client_1", follow=()))
    for connection in (admin, master, nobody):
        connection.take()
    house.open(house.other, 1)
    house.open(house.master, 1)
    assert [message["seq"] for message in admin.messages] == [1, 2]
    assert [message["seq"] for message in master.messages] == [2]
    assert nobody.messages == []


def test_delivered_counts_who_was_told(house: House) -> None:
    house.join(house.client("client_1", follow=("other_master",)))
    house.join(house.client("client_2"))
    assert house.open(house.master, 1)["delivered"] == 1
    assert house.open(house.other, 1)["delivered"] == 2


# --- heartbeats and masters ------------------------------------------------------------------------------------------


def test_quiet_is_broken_every_five_seconds_by_the_number_to_be_reached(house: House) -> None:
    connection = house.join(house.client("client_1", follow=("master_user",)))
    house.open(house.master, 1)
    house.open(house.other, 1)
    connection.take()
    for seconds, beats in ((4.9, 0), (0.2, 1), (0.2, 0), (5.0, 1)):
        house.clock.advance(seconds)
        house.hub.step()
        assert [message["type"] for message in connection.messages] == ["heartbeat"] * beats
        assert all(message["seq"] == 1 for message in connection.take())


def test_a_silent_master_is_told_once_and_its_return_too(house: House) -> None:
    connection = house.join(house.client("client_1"))
    house.report(house.master)
    assert [m["data"]["online"] for m in connection.take() if m["type"] == "master"] == [True]
    house.clock.advance(14.9)
    house.hub.step()
    assert "master" not in connection.types()
    last_report = house.store.now_ms() - 14_900
    house.clock.advance(0.2)
    house.hub.step()
    house.hub.step()
    [told] = [m["data"] for m in connection.take() if m["type"] == "master"]
    assert (told["master"], told["online"], told["since"]) == ("master_user", False, last_report)
    house.report(house.master)
    house.report(house.master)
    [told] = [m["data"] for m in connection.take() if m["type"] == "master"]
    assert (told["online"], told["reported_at"]) == (True, house.store.now_ms())


def test_followers_of_others_do_not_hear_of_a_master(house: House) -> None:
    connection = house.join(house.client("client_1", follow=("other_master",)))
    connection.take()
    house.report(house.master)
    assert connection.messages == []


def test_trades_of_a_first_report_come_before_the_word_that_the_book_is_complete(house: House) -> None:
    """The other way round a follower would take the trades that have not come yet for closed."""
    connection = house.join(house.client("client_1"))
    connection.take()
    house.report(house.master, 1, 2)
    assert connection.types() == ["signal", "signal", "master"]


def test_the_first_report_after_a_restart_is_told_even_to_those_who_believed_it_online(house: House) -> None:
    house.report(house.master)
    house.hub = Hub(house.store, house.clock)
    connection = house.join(house.client("client_1"))
    [book, _] = connection.take()
    assert book["data"]["masters"][0]["online"]
    house.clock.advance(1)
    house.report(house.master)
    [told] = connection.messages
    assert told["data"]["reported_at"] == house.store.now_ms()


def test_everybody_gets_the_book_anew_when_a_master_comes_or_goes(house: House) -> None:
    house.open(house.master, 1)
    connection = house.join(house.client("client_1"))
    connection.take()
    house.store.change_user("master_user", active=False)
    house.hub.user_changed(house.master.id)
    [book] = connection.take()
    assert [m["master"] for m in book["data"]["masters"]] == ["other_master"]
    assert book["data"]["trades"] == []
    house.store.change_user("master_user", active=True)
    house.hub.user_changed(house.master.id)
    [book] = connection.take()
    assert [t["ticket"] for t in book["data"]["trades"]] == [1]


def test_an_admin_that_posts_for_the_first_time_appears_among_the_masters(house: House) -> None:
    connection = house.join(house.client("client_1"))
    connection.take()
    house.open(house.admin, 1)
    house.hub.step()
    signal, book = connection.messages
    assert signal["data"]["master"] == "admin"
    assert "admin" in [m["master"] for m in book["data"]["masters"]]


# --- settings --------------------------------------------------------------------------------------------------------


def test_new_settings_come_at_once_and_the_book_when_it_looks_different(house: House) -> None:
    house.open(house.master, 1)
    house.open(house.other, 2)
    user = house.client("client_1")
    connection = house.join(user)
    connection.take()

    house.store.change_config(user, {"trade_copy": {"max_spread_points": 5}, "copying": Copying.PAUSED})
    house.hub.config_changed(user.id)
    [config] = connection.take()
    assert (config["type"], config["data"]["copying"]) == ("config", "paused")

    house.store.change_config(user, {"trade_copy": {}, "copying": Copying.ON, "follow": ("other_master",)})
    house.hub.config_changed(user.id)
    config, book = connection.take()
    assert (config["type"], book["type"]) == ("config", "book")
    assert [t["ticket"] for t in book["data"]["trades"]] == [2]

    house.store.change_config(user, {"trade_copy": {"mode": Mode.FIX, "fixed_lot": D("0.5")}})
    house.hub.config_changed(user.id)
    config, book = connection.take()
    assert [t["volume"] for t in book["data"]["trades"]] == [0.5]

    house.open(house.master, 3)
    house.open(house.other, 4)
    [signal] = connection.take()
    assert brief(signal)[0::3] == ("signal", 4)
    assert signal["prev"] <= book["seq"]


# --- coming and going ------------------------------------------------------------------------------------------------


def test_a_second_connection_of_a_client_takes_over(house: House) -> None:
    user = house.client("client_1")
    first, second = house.join(user), house.join(user)
    assert first.closed is not None
    assert first.closed[0] == 4409
    house.open(house.master, 1)
    assert second.types() == ["book", "config", "signal"]
    house.hub.left(first, 1006, "gone")  # the socket follows later, and takes nobody with it
    house.open(house.master, 2)
    assert second.types()[-1] == "signal"


def test_whoever_comes_late_takes_nobodys_place(house: House) -> None:
    user = house.client("client_1")
    early, late = house.hub.arrival(), house.hub.arrival()
    kept = house.join(user, ledger="one", arrived=late)
    since = kept.messages[1]["copier_since"]
    house.clock.now += 1
    waited = house.join(user, ledger="two", arrived=early)
    gone = house.join(user, ledger="two", over=True)
    assert (waited.messages, waited.closed and waited.closed[0]) == ([], 4409)
    assert gone.messages == []
    assert house.hub.connected_users() == {"client_1": 1}
    house.open(house.master, 1)
    assert (kept.types(), kept.closed) == (["book", "config", "signal"], None)
    assert house.join(user, ledger="one").messages[1]["copier_since"] == since


def test_of_too_many_looks_those_that_came_first_end_whoever_was_let_in_first(house: House) -> None:
    places = [house.hub.arrival() for _ in range(MOST_OF_USER + 2)]
    newer = [house.join(house.admin, arrived=place) for place in reversed(places[3:])]
    second = house.join(house.admin, arrived=places[1])
    newer.append(house.join(house.admin, arrived=places[2]))
    first = house.join(house.admin, arrived=places[0])
    assert [second.closed and second.closed[0], first.closed and first.closed[0]] == [4409, 4409]
    assert [connection.closed for connection in newer] == [None] * MOST_OF_USER


def test_masters_and_admins_may_look_from_several_places(house: House) -> None:
    for user in (house.master, house.admin):
        first, second = house.join(user), house.join(user)
        assert (first.closed, second.closed) == (None, None)


def test_who_has_left_is_told_nothing(house: House) -> None:
    connection = house.join(house.client("client_1"))
    house.hub.left(connection, 1006, "gone")
    connection.take()
    assert house.open(house.master, 1)["delivered"] == 0
    house.clock.advance(60)
    house.hub.step()
    assert connection.messages == []
    assert house.hub.connected_users() == {}


def test_a_token_ends_with_its_time(house: House) -> None:
    connection = house.join(house.client("client_1"), expires_in_ms=5000)
    house.clock.advance(4.9)
    house.hub.step()
    assert connection.closed is None
    house.clock.advance(0.2)
    house.hub.step()
    assert connection.closed is not None
    assert connection.closed[0] == 4401


@pytest.mark.parametrize(
    "change", [{"active": False}, {"password": "other"}, {"role": Role.MASTER}, {"expires_at": 1}], ids=str
)
def test_an_account_that_changes_loses_its_connection_at_once(house: House, change: dict[str, Any]) -> None:
    user = house.client("client_1")
    connection = house.join(user)
    house.store.change_user("client_1", **change)
    house.hub.user_changed(user.id)
    assert connection.closed is not None
    assert connection.closed[0] == 4403


def test_an_account_ends_with_its_time(house: House) -> None:
    user = house.client("client_1")
    house.store.change_user("client_1", expires_at=house.store.now_ms() + 1000)
    connection = house.join(user)
    house.clock.advance(1.1)
    house.hub.step()
    assert connection.closed is not None
    assert connection.closed[0] == 4403


def test_an_account_changed_by_another_process_is_noticed_at_the_next_look(house: House) -> None:
    connection = house.join(house.client("client_1"))
    guest = Store(house.store.path, house.clock, guest=True)
    guest.change_user("client_1", password="other")
    guest.close()
    house.hub.step()
    assert connection.closed is not None
    assert connection.closed[0] == 4403


def test_an_account_that_changed_between_token_and_joining_does_not_get_in(house: House) -> None:
    user = house.client("client_1")
    house.store.change_user("client_1", password="other")
    connection = house.join(user)
    assert connection.closed is not None
    assert connection.closed[0] == 4403
    assert connection.messages == []


def test_the_end_of_the_server_is_told(house: House) -> None:
    connections = [house.join(house.admin), house.join(house.client("client_1"))]
    house.hub.close_all()
    assert [c.closed and c.closed[0] for c in connections] == [1001, 1001]


# --- what connections say --------------------------------------------------------------------------------------------


def test_sync_is_answered_by_the_book_as_it_is_then(house: House) -> None:
    connection = house.join(house.client("client_1"))
    connection.take()
    house.hub.received(connection, '{"type":"sync"}')
    house.hub.received(connection, '{"type":"sync"}')
    house.open(house.master, 1)
    house.hub.step()
    signal, book, config = connection.messages  # asked twice before the answer, answered once
    assert config["type"] == "config", "it may be that which was missed"
    assert signal["seq"] == book["seq"] == 1
    assert [t["ticket"] for t in book["data"]["trades"]] == [1]


def test_unknown_messages_are_passed_over(house: House) -> None:
    connection = house.join(house.client("client_1"))
    for message in ({"type": "hello"}, {}, {"type": 5}, {"type": ["sync"]}):
        house.hub.received(connection, encode(message))
    house.hub.step()
    assert connection.types() == ["book", "config"]
    assert connection.closed is None


@pytest.mark.parametrize("message", ["", "sync", "[]", '"sync"', "{", '{"type":"sync","type":"sync"}', "[" * 5000])
def test_what_is_no_json_object_ends_the_connection(house: House, message: str) -> None:
    connection = house.join(house.client("client_1"))
    house.hub.received(connection, message)
    assert connection.closed is not None
    assert connection.closed[0] == 1007


def test_a_flood_of_messages_ends_the_connection(house: House) -> None:
    connection = house.join(house.client("client_1"))
    for _ in range(100):
        house.clock.advance(1)
        house.hub.received(connection, '{"type":"x"}')
    assert connection.closed is None
    for _ in range(21):
        house.hub.received(connection, '{"type":"x"}')
    assert connection.closed is not None
    assert connection.closed[0] == 1008


def test_a_cancelled_order_and_its_position_keep_their_kinds(house: House) -> None:
    connection = house.join(house.client("client_1"))
    house.open(house.master, 1)
    connection.take()
    house.close(house.master, 1)
    [message] = connection.messages
    assert message["data"]["kind"] == Kind.POSITION


def test_a_close_carries_price_and_profit_beside_the_trades_own_price(house: House) -> None:
    connection = house.join(house.client("client_1"))
    house.open(house.master, 1)
    house.close(house.master, 1, close_price=D("1.09"), profit=D("-12.5"))
    data = connection.messages[-1]["data"]
    assert (data["price"], data["close_price"], data["profit"], data["remaining"]) == (1.085, 1.09, -12.5, 0)
