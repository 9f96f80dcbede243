"""The local state of a copier or a sender: all its SQL, and the lock that keeps a second program off it.

What is committed here survives kill -9 and power loss (WAL, synchronous=FULL). One connection under one lock: SQLite
before 3.51.3 can damage a WAL file that two connections check-point at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from copies import Copy, State
from legs import Leg, Legs
from mirror import CopyKey, TradeKey
from onelock import Locked, lock
from signals import Action, Book, Key, Kind, Source, Trade, decode, encode, trade_for_sender, trade_from_sender

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 3
SCHEMA: Final = Path(__file__).with_name("schema_ledger.sql")

# A row of a ledger that was written after it was begun: from then on it is its owner's.
ANYTHING_KNOWN: Final = """
    SELECT 1 FROM meta WHERE key NOT IN ('owner', 'created_at', 'ledger')
    UNION ALL SELECT 1 FROM copies
    UNION ALL SELECT 1 FROM legs
    UNION ALL SELECT 1 FROM reports
    UNION ALL SELECT 1 FROM acknowledged
    LIMIT 1
"""

# A working part of which somebody has killed the supervising process takes a moment to end.
LAST_ONE_ENDS_S: Final = 5.0

Connect = Callable[..., sqlite3.Connection]  # `sqlite3.connect`, or what behaves like it


class LedgerError(Exception):
    """The ledger could not be read or written (disk full, locked, removed). Nothing of the change is in it."""


class WrongLedger(Exception):
    """The ledger must not be used: another program has it, or it belongs to another account. str() says what to do."""


class OneInstance:
    """A lock on `path` that dies with its process. Raises `WrongLedger` when another process holds it."""

    def __init__(self, path: Path, patience_s: float = LAST_ONE_ENDS_S) -> None:
        """`patience_s` is waited for one that is ending."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._file = lock(path)
                return
            except Locked as error:
                if time.monotonic() >= deadline:
                    raise WrongLedger(
                        f"{path} is in use: the same program is already running in this folder. Two of them on one "
                        "account would fight over it; close the other one first."
                    ) from error
            time.sleep(0.1)

    def close(self) -> None:
        self._file.close()


class Ledger:
    """The file and its values; common to copier and sender. Every method that reads or writes raises `LedgerError`."""

    def __init__(self, path: Path, owner: str, clock: Any = time, connect: Connect = sqlite3.connect) -> None:
        """Open or create. `owner` names the account; a ledger that knows something of another owner, or is of
        another version of this program, raises `WrongLedger`, a file that cannot be opened `LedgerError`.

        A damaged file is put aside under another name, loudly, and a new one begun.
        """
        self.path = path
        self._clock = clock
        self._connect_to = connect
        self._lock = threading.RLock()
        self.is_new = False
        self._db = self._open()
        try:
            self._claim(owner)
        except BaseException:
            self.close()
            raise

    def _claim(self, owner: str) -> None:
        known = self.get("owner")
        if known == owner:
            return
        if self._rows(ANYTHING_KNOWN):
            raise WrongLedger(
                f"{self.path} belongs to {known}, the configuration is for {owner}. "
                "Use a folder of its own for each account (configuration and ledger together)."
            )
        self._begin(owner)  # also one whose first start, with a mistyped login perhaps, never reached the account

    def _begin(self, owner: str) -> None:
        self.is_new = True
        self.set(owner=owner, created_at=str(self._now_ms()), ledger=uuid.uuid4().hex)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _now_ms(self) -> int:
        return int(self._clock.time() * 1000)

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as damage:
            if isinstance(damage, sqlite3.OperationalError):  # cannot open, locked, disk full: not damage
                raise LedgerError(f"{self.path} cannot be opened: {damage}") from damage
            aside = self.path.with_name(f"{self.path.name}.damaged-{self._now_ms()}")
            log.error("%s is damaged (%s): put aside as %s, a new one is begun", self.path, damage, aside.name)
            os.replace(self.path, aside)
            for leftover in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{leftover}", f"{aside}{leftover}")
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = self._connect_to(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(
                    f"BEGIN IMMEDIATE; {SCHEMA.read_text('utf-8')} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            elif version != SCHEMA_VERSION:
                raise WrongLedger(
                    f"{self.path} was written by another version of this program (schema {version}, "
                    f"this one knows {SCHEMA_VERSION})"
                )
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is committed together or not at all. Raises `LedgerError`."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise LedgerError(f"{self.path} could not be written: {error}") from error

    def _rows(self, statement: str, *parameters: Any) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(statement, parameters).fetchall()
            except sqlite3.Error as error:
                raise LedgerError(f"{self.path} could not be read: {error}") from error

    def get(self, key: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0]["value"]) if rows else None

    def set(self, **values: str) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", values.items())


_COLUMNS: Final = [field.name for field in fields(Copy)]
_LEG_COLUMNS: Final = [field.name for field in fields(Leg)]


class CopierLedger(Ledger):
    """The copies and the reports about them. `copies` holds the live ones and those that were asked for."""

    def __init__(self, path: Path, owner: str, clock: Any = time, connect: Connect = sqlite3.connect) -> None:
        super().__init__(path, owner, clock, connect)
        live = (State.OPENING, State.OPEN, State.CLOSING, State.UNKNOWN)
        rows = self._rows("SELECT * FROM copies WHERE state IN (?, ?, ?, ?)", *live)
        self.copies: dict[CopyKey, Copy] = {copy.key: copy for copy in map(_copy, rows)}
        self._absent: set[CopyKey] = set()  # asked for, and not in the file
        self._kept: dict[CopyKey, Copy] = {}  # not in the file yet, because it could not be written
        self._kept_reports: list[Mapping[str, Any]] = []
        self.legs: dict[TradeKey, Legs] = {}  # of the trades that are not simply what they were at first
        for row in self._rows("SELECT * FROM legs ORDER BY master, kind, ticket, number"):
            trade = (row["master"], Kind(row["kind"]), row["ticket"])
            self.legs[trade] = (*self.legs.get(trade, ()), _leg(row))

    def load(self, keys: Iterable[CopyKey]) -> None:
        """Have the copies of these trades in `copies`, where there are any."""
        for key in keys:
            if key in self.copies or key in self._absent:
                continue
            rows = self._rows("SELECT * FROM copies WHERE master = ? AND kind = ? AND ticket = ? AND leg = ?", *key)
            if rows:
                self.copies[key] = _copy(rows[0])
            else:
                self._absent.add(key)

    def forget(self, needed: Iterable[CopyKey]) -> None:
        """Keep of the ended copies only those that are `needed` in memory. The file keeps all."""
        keep = set(needed)
        ended = (State.CLOSED, State.CLOSED_BY_CLIENT, State.SKIPPED, State.FAILED)
        for key in [key for key, copy in self.copies.items() if copy.state in ended and key not in keep]:
            del self.copies[key]
        self._absent &= keep

    def remembered(self, tag: str, client_ticket: int) -> Copy | None:
        """The copy with this tag, or else the last one that was this position or order on the account (0 = none)."""
        rows = self._rows("SELECT * FROM copies WHERE tag = ?", tag)
        if not rows and client_ticket:
            rows = self._rows(
                "SELECT * FROM copies WHERE client_ticket = ? ORDER BY updated_at DESC LIMIT 1", client_ticket
            )
        return _copy(rows[0]) if rows else None

    def highest_ticket(self) -> int:
        """The highest ticket on the account that this ledger knows of, also of what could not be stored so far."""
        rows = self._rows('SELECT max(max(after_ticket, "order", client_ticket)) AS highest FROM copies')
        tickets = [
            ticket for copy in self._kept.values() for ticket in (copy.after_ticket, copy.order, copy.client_ticket)
        ]
        return max(int(rows[0]["highest"] or 0), max(tickets, default=0))

    def record(
        self,
        *copies: Copy,
        reports: Iterable[Mapping[str, Any]] = (),
        legs: Mapping[TradeKey, Legs] | None = None,
    ) -> None:
        """The state of copies from now on, together with the reports about them, in one transaction; and all the legs
        of some trades. What was kept in memory so far is stored with them."""
        now = self._now_ms()
        newer = {copy.key for copy in copies}
        kept = [copy for key, copy in self._kept.items() if key not in newer]
        with self._transaction() as db:
            for copy in (*kept, *copies):
                values = [_stored(getattr(copy, name)) for name in _COLUMNS]
                db.execute(
                    f"""
                    INSERT INTO copies ({", ".join(f'"{name}"' for name in _COLUMNS)}, created_at, updated_at)
                    VALUES ({", ".join("?" for _ in _COLUMNS)}, ?, ?)
                    ON CONFLICT (master, kind, ticket, leg) DO UPDATE SET
                    {", ".join(f'"{name}" = excluded."{name}"' for name in _COLUMNS)}, updated_at = excluded.updated_at
                    """,  # noqa: S608  the column names are those of the dataclass
                    (*values, now, now),
                )
            for trade, new in (legs or {}).items():
                db.execute("DELETE FROM legs WHERE master = ? AND kind = ? AND ticket = ?", trade)
                for leg in new:
                    values = [_stored(getattr(leg, name)) for name in _LEG_COLUMNS]
                    db.execute("INSERT INTO legs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*trade, *values))
            for report in (*self._kept_reports, *reports):
                db.execute("INSERT INTO reports (body) VALUES (?)", (encode({"id": uuid.uuid4().hex, **report}),))
        self._kept.clear()
        self._kept_reports.clear()
        for copy in copies:
            self.copies[copy.key] = copy
            self._absent.discard(copy.key)
        for trade, new in (legs or {}).items():
            self.legs[trade] = new
            if not new:
                del self.legs[trade]

    def keep(self, copy: Copy, report: Mapping[str, Any] | None = None) -> None:
        """As `record`; and when that fails (`LedgerError`) the copy is so in memory, and is stored with the next."""
        try:
            self.record(copy, reports=[report] if report else [])
        except LedgerError:
            self._kept[copy.key] = self.copies[copy.key] = copy
            if report:
                self._kept_reports.append(report)
            raise

    def store_kept(self) -> None:
        """Store what was kept in memory. Raises `LedgerError`."""
        if self._kept or self._kept_reports:
            self.record()

    def withdraw(self, copy: Copy) -> None:
        """Take an intent back: the broker's answer proves that its order was not executed."""
        with self._transaction() as db:
            gone = db.execute(
                "DELETE FROM copies WHERE master = ? AND kind = ? AND ticket = ? AND leg = ? AND state = 'opening'",
                copy.key,
            ).rowcount
        if gone:
            self.copies.pop(copy.key, None)

    def reports(self, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """The oldest reports that the server has not confirmed: (number, body)."""
        rows = self._rows("SELECT number, body FROM reports ORDER BY number LIMIT ?", limit)
        return [(row["number"], json.loads(row["body"])) for row in rows]

    def confirmed(self, numbers: Iterable[int]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM reports WHERE number = ?", [(number,) for number in numbers])


class LedgerLookedAt(CopierLedger):
    """A copier's ledger that `--check` reads, also while the copier has it: such a connection never check-points."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(path, owner, connect=_read_only)

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as problem:  # also damage: the copier's next start puts it aside
            raise LedgerError(f"{self.path} cannot be read: {problem}") from problem

    def _begin(self, owner: str) -> None:
        pass


def _read_only(path: Path, **options: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, **options)
    return connection


def _stored(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value) if isinstance(value, str) else value  # a plain str, also of an enumeration


def _leg(row: sqlite3.Row) -> Leg:
    return Leg(
        number=row["number"],
        buys=bool(row["buys"]),
        initial=Decimal(row["initial"]),
        left=Decimal(row["left"]),
        price=Decimal(row["price"]),
        order=row["order"],
        opened_at=row["opened_at"],
    )


def _copy(row: sqlite3.Row) -> Copy:
    client_kind, reduce_to, net_before = row["client_kind"], row["reduce_to"], row["net_before"]
    return Copy(
        master=row["master"],
        kind=Kind(row["kind"]),
        ticket=row["ticket"],
        leg=row["leg"],
        state=State(row["state"]),
        tag=row["tag"],
        symbol=row["symbol"],
        action=Action(row["action"]),
        magic=row["magic"],
        source=Source(row["source"]),
        epoch=row["epoch"],
        volume=Decimal(row["volume"]),
        master_volume=Decimal(row["master_volume"]),
        current=Decimal(row["current"]),
        after_ticket=row["after_ticket"],
        quoted_msc=row["quoted_msc"],
        order=row["order"],
        client_kind=Kind(client_kind) if client_kind else None,
        client_ticket=row["client_ticket"],
        reduce_to=Decimal(reduce_to) if reduce_to is not None else None,
        exact=Decimal(row["exact"]),
        rest=Decimal(row["rest"]),
        net_before=Decimal(net_before) if net_before is not None else None,
        reason=row["reason"],
        detail=row["detail"],
    )


class SenderLedger(Ledger):
    """The book that the server acknowledged last."""

    def acknowledged(self) -> dict[Key, Trade]:
        rows = self._rows("SELECT body FROM acknowledged")
        trades = [trade_from_sender(decode(row["body"]))[0] for row in rows]
        return {trade.key: trade for trade in trades}

    def acknowledge(
        self, changed: Iterable[Trade] = (), gone: Iterable[Key] = (), *, whole: Book | None = None
    ) -> None:
        """What the server has now: these trades, without those; with `whole`, exactly that book."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('acknowledged_since', ?)", (str(self._now_ms()),))
            if whole is not None:
                db.execute("DELETE FROM acknowledged")
                changed = [*whole.values()]
            for key in gone:
                db.execute("DELETE FROM acknowledged WHERE kind = ? AND ticket = ?", (str(key[0]), key[1]))
            for trade in changed:
                db.execute(
                    "INSERT OR REPLACE INTO acknowledged (kind, ticket, body) VALUES (?, ?, ?)",
                    (str(trade.kind), trade.ticket, encode(trade_for_sender(trade, None))),
                )
