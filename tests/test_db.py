"""The server's memory: what is stored, numbered, refused and never lost."""

import contextlib
import dataclasses
import re
import sqlite3
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from server_kit import ACCOUNT, HandClock, trade

from database import APPLICATION_ID, CHECKED_WHOLE, SCHEMA_VERSION, UPGRADES, Unavailable, Unusable, hold
from db import Store
from records import Outcome, Post, Role, User, UserConfig
from safety import Copying, Mode
from signals import FIRST_SERVER_TICKET, LAST_TICKET, Action, ChangeType, Increase, Kind, Source, Trade
from users import LastAdmin, NameTaken

D = Decimal


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path, clock: HandClock) -> Iterator[Store]:
    opened = Store(tmp_path / "server.db", clock)
    yield opened
    opened.close()


@pytest.fixture
def master(store: Store) -> User:
    return store.add_user("master_user", "hash", Role.MASTER)


@pytest.fixture
def reopened(store: Store, tmp_path: Path, clock: HandClock) -> Iterator[Callable[[], Store]]:
    """The database as a server finds it that starts after this one has ended."""
    opened: list[Store] = []

    def reopen() -> Store:
        (opened[-1] if opened else store).close()
        opened.append(Store(tmp_path / "server.db", clock))
        return opened[-1]

    yield reopen
    for one in opened:
        one.close()


def seqs(outcome: Outcome) -> list[int]:
    return [entry.seq for entry in outcome.entries]


def tickets(store: Store) -> list[int]:
    return [trade.ticket for trade in store.book()]


def put(store: Store, master: User, session: str | None, rev: int, *trades: Any) -> Outcome:
    return store.report_book(master, session, rev, [(t, 0) for t in trades], ACCOUNT)


# --- the file --------------------------------------------------------------------------------------------------------


def test_what_was_stored_is_there_after_a_restart(store: Store, master: User, reopened: Callable[[], Store]) -> None:
    held = trade(7, volume=D("0.29"), comment="äé", magic=2**64 - 1, sl=D("1.08"), digits=5, point=D("0.00001"))
    opened = store.open_trade(master, held, 1500, Post())
    again = reopened()
    [found] = again.book()
    assert (found.volume, found.magic, found.comment, found.sl) == (D("0.29"), 2**64 - 1, "äé", D("1.08"))
    [entry] = again.entries_after(0, 10)
    assert entry.change == opened.entries[0].change
    assert again.epoch == store.epoch


def test_another_schema_version_is_refused(tmp_path: Path, clock: HandClock) -> None:
    Store(tmp_path / "a.db", clock).close()
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Unusable, match="schema version 99"):
        Store(tmp_path / "a.db", clock)


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """A file of schema version 6, in use for a while."""
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(Path(__file__).with_name("schema_6.sql").read_text(encoding="utf-8"))
        db.execute("INSERT INTO state VALUES (1, 'e', 1790000000000, ?)", (FIRST_SERVER_TICKET,))
        db.executemany(
            "INSERT INTO users (username, password, role, active, created_at) VALUES (?, 'hash', ?, 1, 1)",
            [("admin", "admin"), ("anna_user", "client"), ("ben_user", "client"), ("maria", "master")],
        )
        accounts = [(login, 2, 1790000000000 + login) for login in range(100)] + [(99, 3, 1790000000000)]
        db.executemany("INSERT INTO accounts VALUES (?, ?, ?)", accounts)
        db.executemany(
            """INSERT INTO executions (client_id, id, event, master, report, stored_at)
               VALUES (?1, ?2, ?3, ?4, json_object('id', ?2, 'event', ?3, 'master', ?4), 1)""",
            [
                (2, "a", "opened", "maria"),
                (2, "b", "opened", "MARIA"),
                (2, "c", "closed", "maria"),
                (3, "a", "opened", "Maria"),
                (3, "b", "refused", "another"),
                (4, "a", "opened", "another"),
            ],
        )
        db.executescript(
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 6; PRAGMA journal_mode = WAL"
        )
        db.commit()
    return path


def schema_of(store: Store) -> dict[str, str]:
    """What was made, without comments and spaces."""
    made = store._db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {row["name"]: re.sub(r"--.*|\s+", "", row["sql"]) for row in made}


def test_an_older_database_becomes_what_a_new_one_is_and_keeps_what_it_had(
    old_database: Path, store: Store, clock: HandClock
) -> None:
    for _ in range(2):
        with contextlib.closing(Store(old_database, clock)) as upgraded:
            assert schema_of(upgraded) == schema_of(store)
            assert upgraded._db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
            assert upgraded._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert [user.username for user in upgraded.users()] == ["admin", "anna_user", "ben_user", "maria"]
            kept = upgraded._db.execute("SELECT login, client_id FROM accounts ORDER BY client_id, login")
            assert [tuple(row) for row in kept] == [*((login, 2) for login in range(90, 100)), (99, 3)]


def assert_counts_are_right(store: Store) -> None:
    """Compared with the reports themselves, counted one by one."""
    reports = store.executions_after(0, 1000)
    assert Counter(store.executions_by_event()) == Counter(report["event"] for report in reports)
    for client in ("anna_user", "ben_user", "maria"):
        own = [report["event"] for report in reports if report["client"] == client]
        assert Counter(store.executions_by_event(client=client.upper())) == Counter(own)
    for master in ("maria", "another", "nobody"):
        about = [report["event"] for report in reports if report["master"].lower() == master]
        assert Counter(store.executions_by_event(master=master)) == Counter(about)


def test_the_reports_of_an_older_database_are_counted_once_and_new_ones_added(
    old_database: Path, clock: HandClock
) -> None:
    for number in range(2):
        with contextlib.closing(Store(old_database, clock)) as upgraded:
            before = upgraded.executions_by_event()
            assert_counts_are_right(upgraded)
            anna = upgraded.user_named("anna_user")
            assert anna is not None
            said = {"id": f"new{number}", "event": "opened", "master": "mARIA"}
            assert upgraded.add_executions(anna, [said, said, {**said, "id": "a"}, {**said, "id": f"m{number}"}]) == (
                2,
                2,
            )
            assert_counts_are_right(upgraded)
            assert upgraded.executions_by_event() == {**before, "opened": before["opened"] + 2}


def test_an_older_database_is_upgraded_by_the_server_only(old_database: Path, clock: HandClock) -> None:
    with pytest.raises(Unusable, match="start the server once"):
        Store(old_database, clock, guest=True)
    Store(old_database, clock).close()
    Store(old_database, clock, guest=True).close()


def test_a_database_that_cannot_be_upgraded_whole_stays_as_it_was(
    old_database: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UPGRADES, 6, UPGRADES[6] + "INSERT INTO state VALUES (2, 'e', 1, 1);")
    with pytest.raises(Unusable, match="cannot be used: CHECK constraint failed"):
        Store(old_database, clock)
    with contextlib.closing(sqlite3.connect(old_database)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (6,)
        assert db.execute("SELECT count(*) FROM accounts").fetchone() == (101,)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path, clock: HandClock) -> None:
    with sqlite3.connect(tmp_path / "client.db") as db:
        db.execute("CREATE TABLE copies (tag TEXT)")
    db.close()
    with pytest.raises(Unusable, match="not a database of this server"):
        Store(tmp_path / "client.db", clock)
    with sqlite3.connect(tmp_path / "client.db") as db:
        assert [row[0] for row in db.execute("SELECT name FROM sqlite_schema")] == ["copies"]
    db.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, clock: HandClock) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, far from it" * 100)
    with pytest.raises(Unusable, match="cannot be used"):
        Store(tmp_path / "a.db", clock)


@pytest.mark.parametrize("checked_whole", [CHECKED_WHOLE, 0])
def test_a_damaged_database_is_refused(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch, checked_whole: int
) -> None:
    monkeypatch.setattr("database.CHECKED_WHOLE", checked_whole)
    store = Store(tmp_path / "a.db", clock)
    for number in range(200):
        store.add_user(f"user{number}", "hash" * 50, Role.CLIENT)
    store.close()
    content = bytearray((tmp_path / "a.db").read_bytes())
    content[-8192:-4096] = b"\xff" * 4096
    (tmp_path / "a.db").write_bytes(content)
    with pytest.raises(Unusable):
        Store(tmp_path / "a.db", clock)


def test_the_log_of_a_large_database_is_not_read_at_the_start(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "a.db", clock)
    master = store.add_user("master_user", "hash", Role.MASTER)
    for ticket in range(1, 100):
        store.open_trade(master, trade(ticket, comment="of the log"), 0, Post())
        store.close_trade(master, ticket, None, Post())
    store.close()
    content = (tmp_path / "a.db").read_bytes()
    page = content.index(b"of the log") // 4096 * 4096
    (tmp_path / "a.db").write_bytes(content[:page] + b"\xff" * 4096 + content[page + 4096 :])
    with pytest.raises(Unusable):
        Store(tmp_path / "a.db", clock)
    monkeypatch.setattr("database.CHECKED_WHOLE", 0)
    Store(tmp_path / "a.db", clock).close()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, clock: HandClock) -> None:
    with pytest.raises(Unusable, match="cannot be opened"):
        Store(tmp_path / "nowhere" / "a.db", clock)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX rights")
def test_the_database_is_its_owners_alone(store: Store, master: User) -> None:
    for name in ("", "-wal", "-shm"):
        file = store.path.with_name(store.path.name + name)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_every_commit_reaches_the_disk(store: Store) -> None:
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_two_servers_cannot_hold_one_database(tmp_path: Path) -> None:
    with hold(tmp_path / "server.lock"), pytest.raises(Unusable, match="another server"):
        hold(tmp_path / "server.lock")
    hold(tmp_path / "server.lock").close()


def test_a_closed_store_is_unavailable_not_broken(store: Store, master: User) -> None:
    store.close()
    with pytest.raises(Unavailable):
        store.last_seq()
    with pytest.raises(Unavailable):
        store.open_trade(master, trade(1), 0, Post())


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_clock_set_back_does_not_move_the_servers_time(store: Store, clock: HandClock) -> None:
    before = store.now_ms()
    clock.wall -= 3600
    clock.now += 1
    assert store.now_ms() == before + 1000


def test_a_clock_set_forward_does_not_make_trades_older(store: Store, clock: HandClock) -> None:
    before = store.now_ms()
    clock.wall += 3600
    assert store.now_ms() == before


def test_a_clock_set_back_over_a_restart_does_not_make_an_old_trade_young(
    store: Store, master: User, clock: HandClock, reopened: Callable[[], Store]
) -> None:
    clock.advance(50)
    store.open_trade(master, trade(1), 0, Post())
    stored = store.now_ms()
    clock.wall -= 3600
    again = reopened()
    assert again.now_ms() >= stored
    [held] = again.book()
    assert again.now_ms() - held.opened_at >= 0


# --- users -----------------------------------------------------------------------------------------------------------


def test_names_differ_in_more_than_case(store: Store, master: User) -> None:
    with pytest.raises(NameTaken):
        store.add_user("MASTER_User", "hash", Role.CLIENT)
    found = store.user_named("Master_USER")
    assert found == master


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ({"password": "other"}, True),
        ({"role": Role.CLIENT}, True),
        ({"active": False}, True),
        ({"active": True}, False),
        ({"role": Role.MASTER}, False),
        ({"expires_at": 5}, False),
        ({}, False),
    ],
)
def test_what_ends_every_token_of_a_user(store: Store, master: User, change: dict[str, Any], ends: bool) -> None:
    store.add_user("admin", "hash", Role.ADMIN)
    changed = store.change_user("master_user", **change)
    assert changed is not None
    assert changed.token_version == master.token_version + ends
    assert store.user(master.id) == changed


@pytest.mark.parametrize("change", [{"active": False}, {"role": Role.CLIENT}, {"expires_at": 1}])
def test_the_last_admin_stays(store: Store, change: dict[str, Any]) -> None:
    admin = store.add_user("admin", "hash", Role.ADMIN)
    with pytest.raises(LastAdmin):
        store.change_user("admin", **change)
    assert store.user(admin.id) == admin
    store.add_user("second", "hash", Role.ADMIN)
    assert store.change_user("admin", **change) is not None


def test_an_expiry_can_be_taken_away_again(store: Store, master: User) -> None:
    store.add_user("admin", "hash", Role.ADMIN)
    changed = store.change_user("master_user", expires_at=5)
    assert changed is not None
    assert changed.expires_at == 5
    changed = store.change_user("master_user", never_expires=True)
    assert changed is not None
    assert changed.expires_at is None


def test_settings_keep_their_exact_numbers(store: Store, master: User) -> None:
    assert store.config_of(master.id).copying is Copying.ON
    config = UserConfig({"mode": Mode.FIX, "fixed_lot": D("0.29")}, Copying.CLOSE_ONLY, ("a_master",))
    assert store.change_config(master, dataclasses.asdict(config)) == config
    found = store.config_of(master.id)
    assert found == config
    assert found.sizing is not None
    assert found.sizing.fixed_lot == D("0.29")


# --- posts about one trade -------------------------------------------------------------------------------------------


def test_numbers_rise_by_one_over_the_whole_system(store: Store, master: User) -> None:
    other = store.add_user("other_master", "hash", Role.MASTER)
    assert seqs(store.open_trade(master, trade(1), 0, Post())) == [1]
    assert seqs(store.open_trade(other, trade(1), 0, Post())) == [2]
    assert seqs(store.close_trade(master, 1, None, Post())) == [3]
    assert store.last_seq() == 3


def test_the_master_is_who_posted(store: Store, master: User) -> None:
    store.open_trade(master, trade(1, master="somebody_else"), 0, Post())
    assert [t.master for t in store.book()] == ["master_user"]


def test_a_trade_without_ticket_gets_one_that_no_broker_has(store: Store, master: User) -> None:
    first = store.open_trade(master, trade(0), 0, Post())
    second = store.open_trade(master, trade(0), 0, Post())
    assert FIRST_SERVER_TICKET <= first.answer["ticket"] < second.answer["ticket"] <= LAST_TICKET
    assert {t.source for t in store.book()} == {Source.MANUAL}


def test_tickets_of_the_server_are_not_given_twice_after_the_database_was_lost(tmp_path: Path) -> None:
    clock = HandClock()
    tickets = []
    for name in ("lost.db", "new.db"):
        with contextlib.closing(Store(tmp_path / name, clock)) as store:
            master = store.add_user("master_user", "hash", Role.MASTER)
            tickets += [store.open_trade(master, trade(0), 0, Post()).answer["ticket"] for _ in range(3)]
        clock.wall += 1
    assert len(set(tickets)) == 6


def test_tickets_of_the_server_are_not_given_twice_after_a_restart(
    store: Store, master: User, reopened: Callable[[], Store]
) -> None:
    ticket = store.open_trade(master, trade(0), 0, Post()).answer["ticket"]
    store.close_trade(master, ticket, None, Post())
    assert reopened().open_trade(master, trade(0), 0, Post()).answer["ticket"] == ticket + 1


def test_a_ticket_of_the_servers_range_cannot_be_chosen(store: Store, master: User) -> None:
    outcome = store.open_trade(master, trade(FIRST_SERVER_TICKET + 5), 0, Post())
    assert outcome.status == 422
    assert store.book() == []


def test_the_same_ticket_again_changes_nothing(store: Store, master: User) -> None:
    first = store.open_trade(master, trade(1), 0, Post())
    again = store.open_trade(master, trade(1, volume=D("5")), 0, Post())
    assert (again.status, again.entries) == (200, ())
    assert again.answer == {"seq": first.answer["seq"], "ticket": 1, "delivered": 0, "duplicate": True}
    assert store.last_seq() == 1


def test_a_closed_ticket_stays_closed_for_scripts_and_comes_back_for_the_terminal(store: Store, master: User) -> None:
    store.open_trade(master, trade(1), 0, Post())
    store.close_trade(master, 1, None, Post())
    assert store.open_trade(master, trade(1), 0, Post()).answer["duplicate"]
    session = put(store, master, None, 1).answer["session"]
    assert store.open_trade(master, trade(1), 0, Post(session, 2)).status == 201
    assert tickets(store) == [1]


def test_a_position_and_an_order_share_a_ticket(store: Store, master: User) -> None:
    store.open_trade(master, trade(1, volume=D("0.04")), 0, Post())
    pending = trade(1, kind=Kind.ORDER, action=Action.BUY_LIMIT, volume=D("0.06"))
    assert store.open_trade(master, pending, 0, Post()).status == 201
    store.close_trade(master, 1, None, Post())  # without a kind: the position
    assert [t.kind for t in store.book()] == [Kind.ORDER]
    store.close_trade(master, 1, None, Post())
    assert store.book() == []


def test_a_close_can_name_the_order(store: Store, master: User) -> None:
    store.open_trade(master, trade(1), 0, Post())
    store.open_trade(master, trade(1, kind=Kind.ORDER, action=Action.BUY_LIMIT), 0, Post())
    store.close_trade(master, 1, Kind.ORDER, Post())
    assert [t.kind for t in store.book()] == [Kind.POSITION]


def test_modify_states_the_whole_trade(store: Store, master: User) -> None:
    store.open_trade(master, trade(1, sl=D("1.08")), 0, Post())
    outcome = store.modify_trade(master, 1, None, {"tp": D("1.1")}, Post())
    [entry] = outcome.entries
    assert (entry.change.trade.sl, entry.change.trade.tp) == (D("1.08"), D("1.1"))
    again = store.modify_trade(master, 1, None, {"tp": D("1.1")}, Post())
    assert again.answer["duplicate"]
    assert again.entries == ()


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, None),
        ({"remaining": D(0)}, None),
        ({"remaining": D("0.04")}, D("0.04")),
        ({"volume": D("0.03")}, D("0.07")),
    ],
)
def test_what_a_close_leaves(store: Store, master: User, asked: dict[str, Any], left: Decimal | None) -> None:
    store.open_trade(master, trade(1), 0, Post())
    [entry] = store.close_trade(master, 1, None, Post(), **asked).entries
    assert entry.change.remaining == (left or 0)
    assert [t.volume for t in store.book()] == ([left] if left else [])
    assert entry.change.gone == (left is None)


def test_closing_more_than_there_is_leaves_nothing(store: Store, master: User) -> None:
    store.open_trade(master, trade(1), 0, Post())
    [entry] = store.close_trade(master, 1, None, Post(key="k"), volume=D(7)).entries
    assert entry.change.gone


def test_twenty_nine_hundredths_close_to_the_last_one(store: Store, master: User) -> None:
    store.open_trade(master, trade(1, volume=D("0.29")), 0, Post())
    for step in range(28):
        store.close_trade(master, 1, None, Post(key=str(step)), volume=D("0.01"))
    assert [t.volume for t in store.book()] == [D("0.01")]


def test_remaining_above_the_volume_is_refused_and_equal_is_a_repetition(store: Store, master: User) -> None:
    store.open_trade(master, trade(1), 0, Post())
    assert store.close_trade(master, 1, None, Post(), remaining=D("0.11")).status == 422
    same = store.close_trade(master, 1, None, Post(), remaining=D("0.1"))
    assert same.answer["duplicate"]
    assert same.entries == ()


def test_unknown_and_closed_tickets_differ(store: Store, master: User) -> None:
    assert store.close_trade(master, 9, None, Post()).status == 404
    assert store.modify_trade(master, 9, None, {"sl": D(1)}, Post()).status == 404
    store.open_trade(master, trade(9), 0, Post())
    store.close_trade(master, 9, None, Post())
    assert store.close_trade(master, 9, None, Post()).answer["duplicate"]
    assert store.modify_trade(master, 9, None, {"sl": D(1)}, Post()).answer["duplicate"]


def test_another_masters_ticket_is_unknown(store: Store, master: User) -> None:
    other = store.add_user("other_master", "hash", Role.MASTER)
    store.open_trade(master, trade(1), 0, Post())
    assert store.close_trade(other, 1, None, Post()).status == 404
    assert tickets(store) == [1]


# --- Idempotency-Key -------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_first_answer(store: Store, master: User) -> None:
    post = Post(key="k1", fingerprint="a", audience=3)
    first = store.open_trade(master, trade(0), 0, post)
    again = store.open_trade(master, trade(0), 0, Post(key="k1", fingerprint="a"))
    assert (again.status, again.answer, again.entries) == (first.status, first.answer, ())
    assert len(store.book()) == 1


def test_the_same_key_for_something_else_is_refused(store: Store, master: User) -> None:
    store.open_trade(master, trade(0), 0, Post(key="k1", fingerprint="a"))
    assert store.open_trade(master, trade(0), 0, Post(key="k1", fingerprint="b")).status == 422
    assert len(store.book()) == 1


def test_keys_of_different_users_do_not_meet(store: Store, master: User) -> None:
    other = store.add_user("other_master", "hash", Role.MASTER)
    store.open_trade(master, trade(0), 0, Post(key="k1", fingerprint="a"))
    assert store.open_trade(other, trade(0), 0, Post(key="k1", fingerprint="b")).status == 201


def test_a_key_is_remembered_after_a_restart(store: Store, master: User, reopened: Callable[[], Store]) -> None:
    store.open_trade(master, trade(1), 0, Post())
    store.close_trade(master, 1, None, Post(key="k", fingerprint="f"), volume=D("0.03"))
    again = reopened()
    repeated = again.close_trade(master, 1, None, Post(key="k", fingerprint="f"), volume=D("0.03"))
    assert repeated.entries == ()
    assert [t.volume for t in again.book()] == [D("0.07")]


def test_a_refused_post_leaves_its_key_free(store: Store, master: User) -> None:
    assert store.close_trade(master, 1, None, Post(key="k", fingerprint="f")).status == 404
    store.open_trade(master, trade(1), 0, Post())
    assert store.close_trade(master, 1, None, Post(key="k", fingerprint="g")).status == 200


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_late_post_changes_nothing(store: Store, master: User) -> None:
    session = put(store, master, None, 5, trade(1)).answer["session"]
    for rev in (4, 5):
        late = store.close_trade(master, 1, None, Post(session, rev))
        assert (late.status, late.answer["duplicate"], late.entries) == (200, True, ())
        late = put(store, master, session, rev)
        assert (late.answer["duplicate"], late.answer["changes"]) == (True, 0)
    assert tickets(store) == [1]
    assert store.close_trade(master, 1, None, Post(session, 6)).entries


def test_a_close_of_an_unknown_trade_makes_its_late_open_harmless(store: Store, master: User) -> None:
    session = put(store, master, None, 1).answer["session"]
    assert store.close_trade(master, 1, None, Post(session, 3)).status == 404
    late = store.open_trade(master, trade(1), 0, Post(session, 2))
    assert late.answer["duplicate"]
    assert store.book() == []


def test_a_new_session_supersedes_the_old_one(store: Store, master: User) -> None:
    old = put(store, master, None, 1, trade(1)).answer["session"]
    new = put(store, master, None, 1, trade(1)).answer["session"]
    assert old != new
    for outcome in (
        put(store, master, old, 99),
        store.open_trade(master, trade(2), 0, Post(old, 99)),
        store.close_trade(master, 1, None, Post(old, 99)),
        store.modify_trade(master, 1, None, {"sl": D(1)}, Post(old, 99)),
    ):
        assert (outcome.status, outcome.answer["error"]["code"]) == (409, "superseded")
    assert tickets(store) == [1]
    assert put(store, master, new, 2).status == 200


def test_a_session_that_this_database_does_not_know_is_to_be_begun_anew(store: Store, master: User) -> None:
    lost = "99999999999999-0123456789abcdef"  # of a database that was lost, or of a later state than a restored backup
    for _ in range(2):
        for outcome in (store.open_trade(master, trade(1), 0, Post(lost, 1)), put(store, master, lost, 1)):
            assert (outcome.status, outcome.answer["error"]["code"]) == (409, "no_session")
        assert put(store, master, None, 1).status == 200


def test_a_session_is_superseded_also_by_one_that_began_in_the_same_millisecond(store: Store, master: User) -> None:
    sessions = [put(store, master, None, 1).answer["session"] for _ in range(5)]
    assert sessions == sorted(sessions)
    assert len(set(sessions)) == 5


def test_sessions_of_different_masters_do_not_meet(store: Store, master: User) -> None:
    other = store.add_user("other_master", "hash", Role.MASTER)
    session = put(store, master, None, 1).answer["session"]
    assert put(store, other, session, 2).status == 409


# --- whole books -----------------------------------------------------------------------------------------------------


def test_a_book_is_compared_and_its_changes_numbered(store: Store, master: User) -> None:
    session = put(store, master, None, 1, trade(1), trade(2), trade(3)).answer["session"]
    outcome = put(store, master, session, 2, trade(2, volume=D("0.05")), trade(3, sl=D("1.08")), trade(4))
    assert [(entry.seq, entry.change.type, entry.change.trade.ticket) for entry in outcome.entries] == [
        (4, ChangeType.CLOSE, 1),
        (5, ChangeType.CLOSE, 2),
        (6, ChangeType.MODIFY, 3),
        (7, ChangeType.SIGNAL, 4),
    ]
    assert outcome.answer == {"session": session, "seq": 7, "changes": 4}
    assert [(t.ticket, t.volume) for t in store.book()] == [(2, D("0.05")), (3, D("0.10")), (4, D("0.10"))]


def test_the_same_book_again_is_only_a_sign_of_life(store: Store, master: User, clock: HandClock) -> None:
    session = put(store, master, None, 1, trade(1)).answer["session"]
    clock.advance(5)
    again = put(store, master, session, 2, trade(1))
    assert again.answer == {"session": session, "seq": 1, "changes": 0}
    assert [m.reported_at for m in store.masters()] == [store.now_ms()]


def test_a_book_leaves_trades_of_other_sources_alone(store: Store, master: User) -> None:
    manual = store.open_trade(master, trade(0), 0, Post()).answer["ticket"]
    session = put(store, master, None, 1, trade(1)).answer["session"]
    put(store, master, session, 2)
    assert tickets(store) == [manual]


def test_a_book_leaves_other_masters_alone(store: Store, master: User) -> None:
    other = store.add_user("other_master", "hash", Role.MASTER)
    put(store, other, None, 1, trade(1))
    put(store, master, None, 1)
    assert tickets(store) == [1]


def test_a_ticket_entered_by_hand_becomes_the_terminals_when_it_shows_it(store: Store, master: User) -> None:
    store.open_trade(master, trade(5), 0, Post())
    session = put(store, master, None, 1, trade(5)).answer["session"]
    assert store.last_seq() == 1
    assert [t.source for t in store.book()] == [Source.TERMINAL]
    put(store, master, session, 2)
    assert store.book() == []


def test_a_book_is_stored_whole_or_not_at_all(store: Store, master: User) -> None:
    session = put(store, master, None, 1, trade(1)).answer["session"]
    with pytest.raises(sqlite3.IntegrityError):
        put(store, master, session, 2, trade(2), trade(3, volume=D(0)))
    assert (tickets(store), store.last_seq()) == ([1], 1)
    sender = store.sender_of(master.id)
    assert sender is not None
    assert sender.rev == 1


def test_what_is_no_change_for_followers_is_still_kept(store: Store, master: User) -> None:
    session = put(store, master, None, 1, trade(1)).answer["session"]
    assert put(store, master, session, 2, trade(1, comment="new", contract_size=D(100))).answer["changes"] == 0
    assert [(t.comment, t.contract_size) for t in store.book()] == [("new", D(100))]


# --- ages ------------------------------------------------------------------------------------------------------------


def test_the_age_that_was_measured_is_taken_from_the_servers_clock(store: Store, master: User) -> None:
    store.open_trade(master, trade(1), 2500, Post())
    store.open_trade(master, trade(2), None, Post())
    assert [t.opened_at for t in store.book()] == [store.now_ms() - 2500, 0]


@pytest.mark.parametrize(
    ("known_age", "said_age", "age"),
    [(1000, 5000, 5000), (5000, 1000, 5000), (None, 1000, 1000), (1000, None, 1000), (None, None, None)],
)
def test_a_trade_never_becomes_younger(
    store: Store, master: User, known_age: int | None, said_age: int | None, age: int | None
) -> None:
    session = store.report_book(master, None, 1, [(trade(1), known_age)], ACCOUNT).answer["session"]
    store.report_book(master, session, 2, [(trade(1), said_age)], ACCOUNT)
    [held] = store.book()
    assert held.opened_at == (0 if age is None else store.now_ms() - age)


def test_an_age_that_becomes_known_is_told(store: Store, master: User) -> None:
    session = store.report_book(master, None, 1, [(trade(1), None)], ACCOUNT).answer["session"]
    [entry] = store.report_book(master, session, 2, [(trade(1), 700)], ACCOUNT).entries
    assert entry.change.type is ChangeType.MODIFY
    assert entry.change.trade.opened_at == store.now_ms() - 700


def test_a_sender_that_lost_its_memory_does_not_shrink_the_first_volume(store: Store, master: User) -> None:
    session = put(store, master, None, 1, trade(1, initial_volume=D("0.10"))).answer["session"]
    put(store, master, session, 2, trade(1, volume=D("0.04"), initial_volume=D("0.04")))
    [held] = store.book()
    assert (held.volume, held.initial_volume) == (D("0.04"), D("0.10"))


# --- how a trade grew ------------------------------------------------------------------------------------------------

GREW = Increase(D("0.20"), D("1.0900"), order=55, age_ms=400)


def grow(store: Store, master: User, was: Trade, now: Trade, as_of: int | None = None) -> Increase | None:
    """What is known of the growth of a trade that was reported first so, then so."""
    session = put(store, master, None, 1, was).answer["session"]
    store.report_book(master, session, 2, [(now, 0)], ACCOUNT, as_of=as_of)
    [held] = store.book()
    return held.increase


def test_how_a_trade_grew_is_kept_with_the_servers_time(store: Store, master: User, reopened: Any) -> None:
    known = grow(store, master, trade(), trade(volume=D("0.30"), increase=GREW))
    assert known == Increase(D("0.20"), D("1.0900"), 55, at=store.now_ms() - 400)
    [held] = reopened().book()
    assert held.increase == known


def test_what_the_report_was_long_on_its_way_makes_an_increase_older(store: Store, master: User) -> None:
    known = grow(store, master, trade(), trade(volume=D("0.30"), increase=GREW), as_of=store.now_ms() - 3000)
    assert known is not None
    assert known.at == store.now_ms() - 3400


def test_an_increase_of_unknown_age_stays_of_unknown_age(store: Store, master: User) -> None:
    known = grow(store, master, trade(), trade(volume=D("0.30"), increase=replace(GREW, age_ms=None)))
    assert known is not None
    assert known.at == 0


@pytest.mark.parametrize(
    ("now", "lots"),
    [
        (trade(volume=D("0.30")), "0.20"),
        (trade(volume=D("0.05"), action=Action.SELL), "0.05"),
        (trade(action=Action.SELL), "0.10"),
    ],
)
def test_a_growth_or_turn_that_nobody_described_is_of_unknown_age(
    store: Store, master: User, now: Trade, lots: str
) -> None:
    assert grow(store, master, trade(), now) == Increase(D(lots), now.price)


@pytest.mark.parametrize("volume", ["0.30", "0.25"])
def test_an_increase_is_known_until_the_next_one_and_not_made_younger(
    store: Store, master: User, clock: HandClock, volume: str
) -> None:
    known = grow(store, master, trade(), trade(volume=D("0.30"), increase=GREW))
    session = store.sender_of(master.id).session  # type: ignore[union-attr]
    clock.now += 7
    store.report_book(master, session, 3, [(trade(volume=D(volume), increase=GREW), 0)], ACCOUNT)
    [held] = store.book()
    assert (held.volume, held.increase) == (D(volume), known)
    store.report_book(master, session, 4, [(trade(volume=D("0.40"), increase=GREW), 0)], ACCOUNT)
    [held] = store.book()
    assert held.increase == Increase(D("0.20"), D("1.0900"), 55, at=store.now_ms() - 400)


def test_a_trade_first_reported_after_it_grew_is_known_to_have_grown(store: Store, master: User) -> None:
    store.open_trade(master, trade(1, increase=GREW), 0, Post())
    put(store, master, None, 1, *store.book(), trade(2, increase=GREW))
    assert [held.increase and held.increase.at for held in store.book()] == [store.now_ms() - 400] * 2


def test_followers_are_told_how_a_trade_grew(store: Store, master: User) -> None:
    session = put(store, master, None, 1, trade()).answer["session"]
    [entry] = put(store, master, session, 2, trade(volume=D("0.30"), increase=GREW)).entries
    assert entry.change.type is ChangeType.MODIFY
    assert entry.change.trade.increase == Increase(D("0.20"), D("1.0900"), 55, at=store.now_ms() - 400)
    assert store.entries_after(1, 5)[0].change == entry.change


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_online_is_a_report_within_fifteen_seconds(store: Store, master: User, clock: HandClock) -> None:
    def now() -> tuple[bool, int | None]:
        [found] = store.masters()
        return found.online, found.since

    assert now() == (False, None)
    session = put(store, master, None, 1).answer["session"]
    first = store.now_ms()
    clock.advance(14.9)
    assert now() == (True, first)
    put(store, master, session, 2)
    assert now() == (True, first)
    last = store.now_ms()
    clock.advance(15)
    assert now() == (False, last)
    put(store, master, session, 3)
    assert now() == (True, store.now_ms())


def test_only_active_masters_are_seen(store: Store, master: User) -> None:
    store.add_user("admin", "hash", Role.ADMIN)
    store.open_trade(master, trade(1), 0, Post())
    store.change_user("master_user", active=False)
    assert (store.book(), store.entries_after(0, 10), store.masters()) == ([], [], [])
    assert len(store.entries_after(0, 10, inactive_too=True)) == 1
    store.change_user("master_user", active=True)
    assert tickets(store) == [1]


def test_an_admin_is_a_master_once_it_has_posted(store: Store) -> None:
    admin = store.add_user("admin", "hash", Role.ADMIN)
    assert store.masters() == []
    ticket = store.open_trade(admin, trade(0), 0, Post()).answer["ticket"]
    store.close_trade(admin, ticket, None, Post())
    assert [m.name for m in store.masters()] == ["admin"]


def test_history_comes_in_order_and_in_pages(store: Store, master: User) -> None:
    for ticket in range(1, 8):
        store.open_trade(master, trade(ticket), 0, Post())
    assert [entry.seq for entry in store.entries_after(2, 3)] == [3, 4, 5]
    assert [entry.seq for entry in store.entries_after(0, 9, frozenset())] == []
    assert len(store.entries_after(0, 9, frozenset({"master_user"}))) == 7


def test_the_history_of_several_masters_is_in_one_order(store: Store, master: User) -> None:
    store.add_user("admin", "hash", Role.ADMIN)
    other = store.add_user("master_2", "hash", Role.MASTER)
    for ticket in range(1, 8):
        store.open_trade(other if ticket in (2, 3, 6) else master, trade(ticket), 0, Post())
    assert [entry.seq for entry in store.entries_after(1, 4)] == [2, 3, 4, 5]
    assert [entry.seq for entry in store.entries_after(0, 9, frozenset({"master_2"}))] == [2, 3, 6]
    store.change_user("master_2", active=False)
    assert [entry.seq for entry in store.entries_after(0, 9)] == [1, 4, 5, 7]


def test_the_history_of_a_quiet_master_does_not_cost_what_the_others_have_told(store: Store, master: User) -> None:
    store.open_trade(master, trade(1), 0, Post())
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    store.entries_after(0, 10, frozenset({"master_user"}))
    store._db.set_trace_callback(None)
    plan = " ".join(row["detail"] for row in store._db.execute(f"EXPLAIN QUERY PLAN {asked[-1]}"))
    assert "SEARCH signals USING INDEX signals_of_a_master (master_id=? AND seq>?)" in plan, plan
    assert "TEMP B-TREE" not in plan, plan


def test_reports_are_stored_once(store: Store) -> None:
    one, two = store.add_user("client_1", "hash", Role.CLIENT), store.add_user("client_2", "hash", Role.CLIENT)
    said = {"id": "a", "event": "opened", "master": "master_user", "volume": D("0.29")}
    assert store.add_executions(one, [said, {**said, "id": "b"}]) == (2, 0)
    assert store.add_executions(one, [said, {**said, "id": "c"}]) == (1, 1)
    assert store.add_executions(two, [said]) == (1, 0)
    assert [found["id"] for found in store.executions_after(0, 10, client="client_1")] == ["a", "b", "c"]
    second = store.executions_after(0, 10)[1]["number"]
    later = store.executions_after(second, 10, master="MASTER_USER")
    assert [(found["client"], found["id"]) for found in later] == [("client_1", "c"), ("client_2", "a")]
    assert store.executions_after(0, 1)[0]["volume"] == D("0.29")
    assert store.executions_by_event(client="client_1") == {"opened": 3}


# --- trouble ---------------------------------------------------------------------------------------------------------


def test_two_clients_on_one_account_are_noticed_once(
    store: Store, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    clients = [store.add_user(name, "hash", Role.CLIENT) for name in ("ben_user", "anna_user", "carl_user")]

    def reports(number: int, client: User, login: int) -> None:
        report = {"id": f"r{number}", "event": "opened", "master": "m_user", "login": login}
        store.add_executions(client, [report, {**report, "id": f"again{number}"}])

    for number, (client, login) in enumerate(zip(clients, (1, 2, 2), strict=True)):
        reports(number, client, login)
    assert store.shared_accounts() == [(2, ["anna_user", "carl_user"])]
    reports(3, clients[0], 2)
    reports(4, clients[0], 2)
    assert store.shared_accounts() == [(2, ["anna_user", "ben_user", "carl_user"])]
    warned = [record.getMessage() for record in caplog.records if "another client" in record.getMessage()]
    assert [line.split(" and ")[0] for line in warned] == [
        "account 2 is used by carl_user",
        "account 2 is used by ben_user",
    ]
    clock.advance(31 * 86_400)
    assert store.shared_accounts() == []


def test_account_numbers_cost_the_same_however_many_there_are(store: Store, clock: HandClock) -> None:
    one, two = store.add_user("client_1", "hash", Role.CLIENT), store.add_user("client_2", "hash", Role.CLIENT)

    def reports(*names: Any) -> list[dict[str, Any]]:
        return [{"id": f"r{name}", "event": "opened", "master": "m_user", "login": name} for name in names]

    store.add_executions(two, reports(*range(500)))
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    assert store.add_executions(one, reports(*range(500))) == (500, 0)
    few = [statement for statement in asked if "accounts" in statement]
    asked.clear()
    same_id = [{**report, "id": "r1"} for report in reports(*range(1000, 1500))]
    assert store.add_executions(one, same_id) == (0, 500)
    none = [statement for statement in asked if "accounts" in statement]
    store._db.set_trace_callback(None)
    assert (len(few), none) == (3 * 10 + 1, []), "asked, written down and compared, for the last ten only"
    plans = [row["detail"] for statement in few for row in store._db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert not [detail for detail in plans if "SCAN" in detail], plans

    kept = "SELECT login FROM accounts WHERE client_id = ? ORDER BY login"
    assert [row["login"] for row in store._db.execute(kept, (one.id,))] == list(range(490, 500))
    assert [login for login, _ in store.shared_accounts()] == list(range(490, 500))
    clock.advance(1)
    store.add_executions(one, reports(7777))
    assert [row["login"] for row in store._db.execute(kept, (one.id,))][-1] == 7777
    assert len(list(store._db.execute(kept, (one.id,)))) == 10


def test_a_full_disk_changes_nothing_and_passes(store: Store, master: User) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")

    def open_many() -> None:
        for ticket in range(1, 500):
            store.open_trade(master, trade(ticket), 0, Post())

    with pytest.raises(Unavailable, match="full"):
        open_many()
    stored = len(store.book())
    assert (len(store.book()), store.last_seq()) == (stored, stored)
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.open_trade(master, trade(stored + 1), 0, Post()).answer["seq"] == stored + 1


def test_a_file_locked_by_another_program_is_unavailable(store: Store, master: User) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._db.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(Unavailable, match="locked"):
        store.open_trade(master, trade(1), 0, Post())
    assert store.book() == []  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert store.open_trade(master, trade(1), 0, Post()).status == 201


def test_a_change_by_another_process_is_noticed(store: Store, master: User, clock: HandClock) -> None:
    assert not store.changed_elsewhere()
    store.open_trade(master, trade(1), 0, Post())
    assert not store.changed_elsewhere()
    guest = Store(store.path, clock, guest=True)
    guest.add_user("admin", "hash", Role.ADMIN)
    guest.close()
    assert store.changed_elsewhere()
    assert not store.changed_elsewhere()


def test_threads_never_share_a_number(store: Store, master: User) -> None:
    found: list[int] = []

    def post(first: int) -> None:
        for ticket in range(first, first + 25):
            found.extend(seqs(store.open_trade(master, trade(ticket), 0, Post())))

    threads = [threading.Thread(target=post, args=(n * 100 + 1,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(1, 101))


def test_every_start_is_written_down_with_how_far_it_had_come(tmp_path: Path) -> None:
    runs = []
    for _ in range(25):
        with contextlib.closing(Store(tmp_path / "server.db", HandClock())) as store:
            runs.append(store.starts[-1])
            assert store.starts == tuple(runs[-20:])
    with contextlib.closing(Store(tmp_path / "server.db", HandClock(), guest=True)):
        pass
    with contextlib.closing(Store(tmp_path / "server.db", HandClock())) as store:
        assert store.starts[-2] == runs[-1], "adduser is no start"


def test_reports_that_could_not_be_stored_are_not_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client = store.add_user("anna_user", "hash", Role.CLIENT)
    said = {"id": "a", "event": "opened", "master": "maria", "login": 1}
    store.add_executions(client, [said])

    def fails(*_: Any) -> bool:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(store, "_is_newly_shared", fails)
        with pytest.raises(Unavailable):
            store.add_executions(client, [{**said, "id": "b"}])
    assert store.executions_by_event() == {"opened": 1}
    store.add_executions(client, [{**said, "id": "b"}])
    assert_counts_are_right(store)


@pytest.mark.parametrize("whose", [{}, {"client": "client_1"}, {"master": "master_user"}])
def test_how_many_reports_there_are_is_not_counted_anew(store: Store, whose: dict[str, str]) -> None:
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    store.executions_by_event(**whose)
    store._db.set_trace_callback(None)
    plans = [[row["detail"] for row in store._db.execute(f"EXPLAIN QUERY PLAN {statement}")] for statement in asked]
    assert plans == [["SEARCH report_counts USING PRIMARY KEY (whose=? AND name=?)"]]


@pytest.mark.parametrize("whose", [{"client": "client_1"}, {"master": "master_user"}])
def test_what_one_user_asks_for_does_not_cost_what_the_others_have(store: Store, whose: dict[str, str]) -> None:
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    store.executions_after(0, 100, **whose)
    store._db.set_trace_callback(None)
    [statement] = asked
    plan = " ".join(row["detail"] for row in store._db.execute(f"EXPLAIN QUERY PLAN {statement}"))
    assert "USING INDEX executions_of_a" in plan, plan
