"""The local state: what was committed survives, what failed changed nothing, and nobody else's is used."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock

from copies import Copy, State, tag_of
from ledger import CopierLedger, Ledger, LedgerError, LedgerLookedAt, OneInstance, SenderLedger, WrongLedger
from legs import Leg
from signals import Action, Kind, Source, Trade

ROOT = Path(__file__).resolve().parent.parent
OWNER = "account 7 at Broker-Demo"


def copy(ticket: int = 1, state: State = State.OPENING, **more: Any) -> Copy:
    key = ("anna", Kind.POSITION, ticket)
    fields: dict[str, Any] = {
        "master": "anna",
        "kind": Kind.POSITION,
        "tag": tag_of(key),
        "symbol": "EURUSD",
        "magic": 5,
    }
    if state in (State.OPEN, State.CLOSING):
        fields |= {"client_kind": Kind.POSITION, "client_ticket": 900 + ticket}
    return Copy(ticket=ticket, state=state, action=Action.BUY, **{**fields, **more})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "client.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[CopierLedger]:
    with closing(CopierLedger(path, OWNER)) as one:
        yield one


def reopened(ledger: CopierLedger) -> CopierLedger:
    ledger.close()
    return CopierLedger(ledger.path, OWNER)


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


# --- the copies -------------------------------------------------------------------------------------------------------


FULL = copy(
    3, State.OPEN, source=Source.MANUAL, epoch="e1", volume=D("0.29"), master_volume=D("1000000"), current=D("0.10"),
    after_ticket=2**53, order=77, client_ticket=2**62, reduce_to=D("0.07"), reason="drawdown", detail="é \U0001f600",
)  # fmt: skip


@pytest.mark.parametrize("one", [copy(), FULL, replace(FULL, client_kind=Kind.ORDER, reduce_to=None)])
def test_a_copy_comes_back_as_it_was_recorded(ledger: CopierLedger, one: Copy) -> None:
    ledger.record(one)
    with closing(reopened(ledger)) as again:
        again.load([one.key])
        found = again.copies[one.key]
    assert found == one
    assert type(found.state) is State
    assert type(found.client_kind) is type(one.client_kind)


@pytest.mark.parametrize("text", ["0.29", "0.1", "1E-10", "1000000", "0.30000000000000004", "0", "12345678.12345678"])
def test_lots_are_kept_as_exact_decimal_text(ledger: CopierLedger, text: str) -> None:
    ledger.record(copy(volume=D(text), reduce_to=D(text)))
    with closing(sqlite3.connect(ledger.path)) as db:
        row = db.execute("SELECT volume, reduce_to, typeof(volume) FROM copies").fetchone()
    assert row == (format(D(text), "f"), format(D(text), "f"), "text")
    with closing(reopened(ledger)) as again:
        assert again.copies[copy().key].volume == D(text)


def test_after_a_restart_the_live_copies_are_there_and_the_ended_ones_on_demand(ledger: CopierLedger) -> None:
    for ticket, state in enumerate(State, start=1):
        ledger.record(copy(ticket, state))
    with closing(reopened(ledger)) as again:
        live = {State.OPENING, State.OPEN, State.CLOSING, State.UNKNOWN}
        assert {one.state for one in again.copies.values()} == live
        keys = [copy(ticket).key for ticket in range(1, 20)]
        again.load(keys)
        assert {one.state for one in again.copies.values()} == set(State)
        skipped = next(one.key for one in again.copies.values() if one.state is State.SKIPPED)
        again.forget([skipped])
        assert {one.state for one in again.copies.values()} == live | {State.SKIPPED}


def test_a_copy_is_found_by_its_tag_or_by_what_it_was_on_the_account(ledger: CopierLedger) -> None:
    ended = replace(copy(2, State.CLOSED), client_kind=Kind.POSITION, client_ticket=77)
    ledger.record(copy(1), ended)
    assert ledger.remembered(ended.tag, 1) == ended
    assert ledger.remembered("replaced", 77) == ended
    assert ledger.remembered("", 1) is None
    ledger.record(replace(ended, ticket=3, tag="skipped", state=State.SKIPPED, client_kind=None, client_ticket=0))
    assert ledger.remembered("unknown", 0) is None, "a copy that never was on the account is not what is there"


def test_an_intent_is_withdrawn_and_can_be_made_again(ledger: CopierLedger) -> None:
    ledger.record(copy())
    ledger.withdraw(copy())
    assert not ledger.copies
    ledger.record(copy())
    with closing(reopened(ledger)) as again:
        assert list(again.copies) == [copy().key]


@pytest.mark.parametrize("state", [state for state in State if state is not State.OPENING])
def test_only_an_intent_can_be_withdrawn(ledger: CopierLedger, state: State) -> None:
    ledger.record(copy(1, state))
    ledger.withdraw(copy(1))
    assert ledger.copies[copy(1).key].state is state
    with closing(reopened(ledger)) as again:
        again.load([copy(1).key])
        assert again.copies[copy(1).key].state is state


@pytest.mark.parametrize(
    "wrong",
    [
        copy(1, State.OPEN, client_kind=None, client_ticket=0),
        copy(1, tag=copy(2).tag),
        copy(1, tag="x" * 17),
        copy(0),
        copy(1, client_ticket=5),
    ],
    ids=["open but nowhere", "a tag that is taken", "a tag that is too long", "no ticket", "a ticket of no kind"],
)
def test_what_cannot_be_is_not_recorded_and_takes_nothing_with_it(ledger: CopierLedger, wrong: Copy) -> None:
    ledger.record(copy(2))
    with pytest.raises(LedgerError):
        ledger.record(copy(3), wrong, reports=[{"event": "opened"}])
    assert list(ledger.copies) == [copy(2).key]
    assert ledger.reports(10) == []
    with closing(reopened(ledger)) as again:
        again.load([copy(3).key, copy(1).key])
        assert list(again.copies) == [copy(2).key]


# --- reports ----------------------------------------------------------------------------------------------------------


def test_reports_come_in_order_each_with_its_own_id_until_they_are_confirmed(ledger: CopierLedger) -> None:
    for number in range(5):
        ledger.record(
            copy(number + 1), reports=[{"event": "opened", "volume": D("0.29"), "kind": Kind.ORDER, "n": number}]
        )
    first = ledger.reports(3)
    assert [body["n"] for _, body in first] == [0, 1, 2]
    assert first[0][1]["volume"] == 0.29
    assert ledger.reports(3) == first, "asking does not confirm"
    with closing(reopened(ledger)) as again:
        assert again.reports(3) == first, "the ids stay the same over a restart"
        again.confirmed(number for number, _ in first)
        again.confirmed(number for number, _ in first)
        assert [body["n"] for _, body in again.reports(10)] == [3, 4]
        again.confirmed(number for number, _ in again.reports(10))
        again.record(reports=[{"n": 5}])
        (last,) = again.reports(10)
    assert last[0] > first[-1][0], "a number is never given twice"
    assert len({body["id"] for _, body in first}) == 3


def test_a_report_that_cannot_be_written_takes_the_copy_back_with_it(ledger: CopierLedger) -> None:
    for unspeakable in (D("NaN"), b"bytes", object()):
        with pytest.raises((ValueError, TypeError)):
            ledger.record(copy(1), reports=[{"event": "opened", "price": unspeakable}])
    assert not ledger.copies
    ledger.record(copy(1))


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_a_new_ledger_knows_that_it_is_new(path: Path) -> None:
    clock = FakeClock()
    with closing(Ledger(path, OWNER, clock)) as first:
        assert first.is_new
        identity, born = first.get("ledger"), first.get("created_at")
    assert born == str(int(clock.time() * 1000))
    with closing(Ledger(path, OWNER, clock)) as second:
        assert not second.is_new
        assert second.get("ledger") == identity
        second.set(epoch="e1", seq="5")
        second.set(seq="6")
        assert (second.get("epoch"), second.get("seq"), second.get("none")) == ("e1", "6", None)


ANOTHER = "account 8 at Broker-Demo"


def refused_to_another(path: Path) -> bool:
    with pytest.raises(WrongLedger, match=r"belongs to account 7 at Broker-Demo.*is for account 8"):
        Ledger(path, ANOTHER)
    with closing(Ledger(path, OWNER)) as still:
        return not still.is_new and still.get("owner") == OWNER


def test_a_ledger_that_knows_nothing_yet_is_new_for_another_account(path: Path) -> None:
    """The first start had a mistyped login, and the terminal never let it in."""
    with closing(CopierLedger(path, OWNER)) as first:
        name = first.get("ledger")
    with closing(CopierLedger(path, ANOTHER)) as second:
        assert second.is_new
        assert second.get("owner") == ANOTHER
        assert second.get("ledger") != name
    with closing(CopierLedger(path, ANOTHER)) as third:
        assert not third.is_new


@pytest.mark.parametrize("key", ["highest_equity", "born_at", "epoch", "seq", "foreign", "typed_copying", "new"])
def test_the_ledger_of_another_account_is_not_used_once_a_value_is_in_it(path: Path, key: str) -> None:
    with closing(Ledger(path, OWNER)) as ledger:
        ledger.set(**{key: "0"})
    assert refused_to_another(path)


def test_the_ledger_of_another_account_is_not_used_once_a_row_is_in_any_table(path: Path) -> None:
    leg = Leg(0, True, D(1), D(1), D("1.1"), 0, 0)
    rows: dict[str, Callable[[CopierLedger], object]] = {
        "copies": lambda ledger: ledger.record(copy(1, State.SKIPPED)),
        "legs": lambda ledger: ledger.record(legs={("anna", Kind.POSITION, 1): (leg,)}),
        "reports": lambda ledger: ledger.record(reports=[{"event": "opened"}]),
        "acknowledged": lambda ledger: ledger._db.execute("INSERT INTO acknowledged VALUES ('position', 1, '{}')"),
    }
    Ledger(path, OWNER).close()
    with closing(sqlite3.connect(path)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names - {"meta", "sqlite_sequence"} == set(rows), "does a row of a new table tie the ledger to its account?"
    for name, write in rows.items():
        one = path.with_name(f"{name}.db")
        with closing(CopierLedger(one, OWNER)) as ledger:
            write(ledger)
        assert refused_to_another(one)


def test_a_sender_whose_empty_book_was_acknowledged_keeps_its_ledger_to_itself(path: Path) -> None:
    with closing(SenderLedger(path, OWNER)) as ledger:
        ledger.acknowledge(whole={})
    assert refused_to_another(path)


@pytest.mark.parametrize("version", [2, 99])
def test_the_ledger_of_another_version_is_refused_and_left_alone(path: Path, version: int) -> None:
    Ledger(path, OWNER).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(WrongLedger, match=f"schema {version}"):
        Ledger(path, OWNER)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*damaged*"))


HOLD = """
import sys
from pathlib import Path
from ledger import OneInstance
held = OneInstance(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_second_program_on_the_same_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / "client.lock"
    with run_python(HOLD, str(lock)) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(WrongLedger, match="already running"):
            OneInstance(lock)
        other.kill()  # however it ends
    OneInstance(lock).close()
    with run_python(HOLD, str(lock)) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.communicate("\n")


# --- what can happen to a file ----------------------------------------------------------------------------------------

RECORD = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_ledger import OWNER, copy
from ledger import CopierLedger
ledger = CopierLedger(Path(sys.argv[1]), OWNER)
for ticket in range(1, 1_000_000):
    ledger.record(copy(ticket), reports=[{"n": ticket}])
    print(ticket, flush=True)
"""


def test_what_was_recorded_survives_a_killed_process(path: Path) -> None:
    with run_python(RECORD, str(path)) as other:
        assert other.stdout is not None
        committed = 0
        for line in other.stdout:
            committed = int(line)
            if committed == 40:
                other.kill()
    with closing(CopierLedger(path, OWNER)) as ledger:
        assert committed >= 40
        assert set(range(1, committed + 1)) <= {ticket for _, _, ticket, _ in ledger.copies}
        assert len(ledger.copies) == len(ledger.reports(1_000_000)), "a copy and its report are committed together"
        assert len(ledger.copies) <= committed + 1


def test_commits_wait_for_the_disk(ledger: CopierLedger) -> None:
    assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: power loss loses nothing either
    assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 200] = b"\xfe" * 200
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_header, damage_pages])
def test_a_damaged_ledger_is_put_aside_loudly_and_a_new_one_begun(
    path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(CopierLedger(path, OWNER)) as ledger:
        ledger.record(*(copy(ticket) for ticket in range(1, 200)))
    damage(path)
    broken = path.read_bytes()
    with closing(CopierLedger(path, OWNER, FakeClock())) as new:
        assert new.is_new
        assert not new.copies
        new.record(copy(1))
    (aside,) = path.parent.glob("client.db.damaged-*")
    assert aside.read_bytes() == broken
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert aside.name in record.getMessage()


def test_a_ledger_that_cannot_be_opened_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "client.db").mkdir()
    with pytest.raises(LedgerError):
        Ledger(tmp_path / "client.db", OWNER)
    assert (tmp_path / "client.db").is_dir()


def test_a_full_disk_changes_nothing_and_is_over_when_there_is_room(ledger: CopierLedger) -> None:
    ledger.record(copy(1))
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="full"):
        ledger.record(copy(2), replace(copy(1), state=State.FAILED, detail="x" * 100_000))
    with pytest.raises(LedgerError, match="full"):
        ledger.set(epoch="e" * 100_000)
    assert list(ledger.copies.values()) == [copy(1)]
    assert ledger.get("epoch") is None
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    ledger.record(copy(2))
    with closing(reopened(ledger)) as again:
        assert list(again.copies.values()) == [copy(1), copy(2)]


def test_the_highest_ticket_is_known_although_it_could_not_be_stored(ledger: CopierLedger) -> None:
    ledger.record(replace(copy(1), order=700))
    assert ledger.highest_ticket() == 700
    ledger._db.execute("PRAGMA query_only = 1")
    with pytest.raises(LedgerError):
        ledger.keep(replace(copy(2), order=800))
    assert ledger.highest_ticket() == 800


def test_a_ledger_that_could_not_be_begun_is_let_go(path: Path) -> None:
    opened: list[sqlite3.Connection] = []

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(sqlite3.connect(*arguments, factory=Full, **options))
        return opened[-1]

    with pytest.raises(LedgerError, match="full"):
        CopierLedger(path, OWNER, connect=connect)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_a_ledger_that_another_process_holds_is_an_error_and_not_silence(ledger: CopierLedger) -> None:
    ledger._db.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError, match="locked"):
            ledger.record(copy(1))
        assert not ledger.copies
        other.execute("ROLLBACK")
    ledger.record(copy(1))


def test_a_closed_ledger_is_an_error_for_the_thread_that_still_uses_it(path: Path) -> None:
    ledger = CopierLedger(path, OWNER)
    ledger.close()
    for use in (lambda: ledger.reports(1), lambda: ledger.record(copy(1)), lambda: ledger.confirmed([1])):
        with pytest.raises(LedgerError):
            use()


def test_a_ledger_can_be_looked_at_while_its_copier_writes_and_takes_nothing(ledger: CopierLedger) -> None:
    with closing(LedgerLookedAt(ledger.path, OWNER)) as seen:
        ledger.record(copy(1))
        assert seen.remembered(copy(1).tag, 0) == copy(1)
        with pytest.raises(LedgerError, match="readonly"):
            seen.set(typed_copying="on")
        ledger.record(copy(2))
    with pytest.raises(WrongLedger):
        LedgerLookedAt(ledger.path, ANOTHER)


# --- the sender's -----------------------------------------------------------------------------------------------------


def trade(ticket: int, **more: Any) -> Trade:
    fields: dict[str, Any] = {
        "kind": Kind.POSITION, "symbol": "EURUSD", "action": Action.BUY, "volume": D("0.29"),
        "initial_volume": D("0.58"), "price": D("1.08512"), "magic": 2**64 - 1, "comment": 'a "quoted" ✓',
    }  # fmt: skip
    return Trade(ticket=ticket, **{**fields, **more})


def test_the_acknowledged_book_survives_a_restart_exactly(path: Path) -> None:
    order = trade(1, kind=Kind.ORDER, action=Action.SELL_STOP_LIMIT, expiration=5, stoplimit=D("1.1"))
    with closing(SenderLedger(path, OWNER)) as ledger:
        assert ledger.acknowledged() == {}
        ledger.acknowledge([trade(1), order])
        ledger.acknowledge([trade(2), replace(trade(1), volume=D("0.1"))], gone=[trade(9).key])
        ledger.acknowledge(gone=[trade(2).key])
    with closing(SenderLedger(path, OWNER)) as ledger:
        assert ledger.acknowledged() == {trade(1).key: replace(trade(1), volume=D("0.1")), order.key: order}
        ledger.acknowledge(whole={trade(3).key: trade(3)})
        assert list(ledger.acknowledged().values()) == [trade(3)]
        ledger.acknowledge(whole={})
        assert ledger.acknowledged() == {}


def test_a_book_that_cannot_be_stored_leaves_the_one_before(path: Path) -> None:
    with closing(SenderLedger(path, OWNER)) as ledger:
        ledger.acknowledge([trade(1)])
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError):
            ledger.acknowledge(whole={one.key: one for one in map(trade, range(2, 500))})
        assert list(ledger.acknowledged().values()) == [trade(1)]
