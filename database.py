"""The server's database file: opened, made, checked, backed up; its time and its transactions. What is in it: `db.py`.

An operation that writes is one transaction: when it returns, what it did is on the disk (`synchronous=FULL`); when it
raises, nothing was done.

One connection under one lock, because SQLite before 3.51.3 can damage a WAL file that two busy connections share.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from onelock import Locked, lock
from records import Clock
from signals import FIRST_SERVER_TICKET

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 7
# What makes of a file of a version one of the next. A file older than these is refused.
UPGRADES: Final = {
    6: """
        CREATE INDEX accounts_of_a_client ON accounts (client_id, seen_at);
        DELETE FROM accounts WHERE (login, client_id) IN (
            SELECT login, client_id FROM (
                SELECT login, client_id, row_number() OVER (PARTITION BY client_id ORDER BY seen_at DESC) AS place
                FROM accounts)
            WHERE place > 10);
        CREATE TABLE report_counts (
            whose   TEXT NOT NULL CHECK (whose IN ('all', 'client', 'master')),
            name    TEXT NOT NULL COLLATE NOCASE,
            event   TEXT NOT NULL,
            reports INTEGER NOT NULL,
            PRIMARY KEY (whose, name, event)
        ) STRICT, WITHOUT ROWID;
        INSERT INTO report_counts SELECT 'all', '', event, count(*) FROM executions GROUP BY event;
        INSERT INTO report_counts SELECT 'client', username, event, reports FROM users JOIN
            (SELECT client_id, event, count(*) AS reports FROM executions GROUP BY client_id, event) ON id = client_id;
        INSERT INTO report_counts SELECT 'master', master, event, count(*) FROM executions GROUP BY master, event;
        DROP INDEX executions_by_event;
        DROP INDEX executions_of_a_client_by_event;
        DROP INDEX executions_of_a_master_by_event;
    """,
}
APPLICATION_ID: Final = 0x41494254  # "AIBT": tells the server's database from any other SQLite file
# A file of up to this many bytes is checked whole at the start, in a tenth of a second. Of a larger one only what every
# change is made from: to read logs of 1,000,000 changes takes a second from memory and many from a disk, while the
# followers wait. `PRAGMA integrity_check` in the sqlite3 program, on a copy, checks the rest.
CHECKED_WHOLE: Final = 64 << 20
CHECKED_TABLES: Final = ("state", "starts", "users", "configs", "senders", "trades")
STARTS_KEPT: Final = 20  # a follower that was away for more of them waits for the masters' next report
SCHEMA_FILE: Final = Path(__file__).resolve().parent / "schema.sql"

# Conditions that pass or that an operator can mend while the server runs: full disk, busy file, failed read or write.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class Unavailable(Exception):
    """The database cannot do it now (disk full, file locked, I/O error); nothing was changed."""


class Unusable(Exception):
    """The database file cannot be used at all; the text tells the operator why."""


class Turn:
    """The database for one thread at a time. Raises `Unavailable` when it is closed, and in place of errors that pass.

    A class and no generator, because one is taken for every question.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.closed = False

    def __enter__(self) -> None:
        self.lock.acquire()
        if self.closed:
            self.lock.release()
            raise Unavailable("the database is closed")

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.lock.release()
        # The low byte is the primary code; the rest only details it.
        if isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
            raise Unavailable(f"the database does not take it now: {error}") from error


class Database:
    """One open database. Every method may be called from any thread; `Unavailable` may come out of every one."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock,
        *,
        guest: bool = False,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
    ) -> None:
        """Open the file, or make it. Raises `Unusable`.

        A `guest` works on a file that a running server may have open, and makes none. `connect` opens the database.
        Raises `Unavailable` when the start cannot be written down (disk full).
        """
        self._clock = clock
        self._turn = Turn()
        self.path = Path(path)
        try:
            if guest and not self.path.is_file():
                raise self._nothing_there()
            self.path.touch(mode=0o600)  # before SQLite makes it with more rights; the WAL inherits them
            self._db = connect(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
        except (OSError, sqlite3.Error) as error:
            raise Unusable(f"the database {self.path} cannot be opened: {error}") from error
        try:
            self._db.row_factory = sqlite3.Row
            self._prepare(guest)
            if guest:  # leave the tidying of the WAL to the server: see the top of this file
                self._db.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise Unusable(f"the database {self.path} cannot be used: {error}") from error
        except Unusable:
            self._db.close()
            raise
        row = self._db.execute("SELECT epoch, clock FROM state").fetchone()
        self.epoch: str = row["epoch"]
        wall = int(clock.time() * 1000)
        if wall < row["clock"]:
            log.warning(
                "the computer's clock is %.1f s behind the newest time in the database; the server's does not go back",
                (row["clock"] - wall) / 1000,
            )
        self._started_ms = max(wall, int(row["clock"]))
        self._started = clock.monotonic()
        try:
            self.starts: tuple[tuple[str, int], ...] = () if guest else self._record_start()
        except Unavailable:
            self._db.close()
            raise
        self._data_version = self._data_version_now()

    def _record_start(self) -> tuple[tuple[str, int], ...]:
        """(run, last seq then) of the last starts, this one at the end."""
        with self._writing():
            self._db.execute("INSERT INTO starts (run, seq) VALUES (?, ?)", (secrets.token_hex(8), self.last_seq()))
            self._db.execute("DELETE FROM starts WHERE number <= (SELECT max(number) FROM starts) - ?", (STARTS_KEPT,))
            rows = self._all("SELECT run, seq FROM starts ORDER BY number")
        return tuple((row["run"], row["seq"]) for row in rows)

    def _nothing_there(self) -> Unusable:
        words = "name the server's with --database; the server makes it when it starts"
        return Unusable(f"there is no database at {self.path.absolute()}: {words}")

    def _prepare(self, guest: bool) -> None:
        db = self._db
        version = db.execute("PRAGMA user_version").fetchone()[0]
        kind = db.execute("PRAGMA application_id").fetchone()[0]
        empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty and guest:
            raise self._nothing_there()
        if not empty and kind != APPLICATION_ID:
            raise Unusable(f"{self.path} is not a database of this server")
        if not empty and version != SCHEMA_VERSION and (guest or version not in UPGRADES):
            advice = "use the program version that made it, or another file"
            if version in UPGRADES:
                advice = "start the server once, which upgrades it"
            raise Unusable(
                f"the database {self.path} has schema version {version}, this program needs {SCHEMA_VERSION}: {advice}"
            )
        size = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
        for what in ("1",) if size <= CHECKED_WHOLE else CHECKED_TABLES:
            found = db.execute(f"PRAGMA quick_check({what})").fetchone()[0]
            if found != "ok":
                raise Unusable(f"the database {self.path} is damaged ({found}): restore a backup")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if empty:
            self._create()
        else:
            self._upgrade(version)

    def _create(self) -> None:
        now = int(self._clock.time() * 1000)
        schema = SCHEMA_FILE.read_text(encoding="utf-8")
        self._db.executescript(
            f"BEGIN IMMEDIATE; {schema}\n"
            f"INSERT INTO state VALUES (1, '{secrets.token_hex(8)}', {now}, {FIRST_SERVER_TICKET});"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        log.info("database: %s created", self.path)

    def _upgrade(self, version: int) -> None:
        for older in range(version, SCHEMA_VERSION):
            log.info("database: %s is upgraded to schema version %d", self.path, older + 1)
            self._db.executescript(f"BEGIN IMMEDIATE; {UPGRADES[older]} PRAGMA user_version = {older + 1}; COMMIT;")

    def back_up(self, path: str | os.PathLike[str]) -> None:
        """Write the database as it is now into a file that is not there yet. Raises `Unusable`."""
        copy = Path(path)
        try:
            copy.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise Unusable(f"{copy} cannot be made: {error.strerror}") from error
        try:
            with self._turn:
                self._db.execute("VACUUM INTO ?", (str(copy),))
            with contextlib.closing(sqlite3.connect(copy)) as written:
                found = written.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise Unusable(f"the copy {copy} is damaged ({found})")
            with open(copy, "rb+") as file:
                os.fsync(file.fileno())
        except BaseException:
            copy.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Later calls raise `Unavailable`."""
        with self._turn.lock:
            self._turn.closed = True
            self._db.close()

    # --- time and transactions ---------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """UTC ms that never go back: not when the computer's clock is set, and not over a restart.

        The wall clock is asked once, at the start; so a clock that jumps can never make an old trade look young.
        """
        return self._started_ms + int((self._clock.monotonic() - self._started) * 1000)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[int]:
        """One transaction; gives the time to store in it."""
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                before = self._db.total_changes
                now = self.now_ms()
                yield now
                if self._db.total_changes != before:
                    self._db.execute("UPDATE state SET clock = max(clock, ?)", (now,))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._turn:
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        rows = self._all(sql, *values)
        return rows[0] if rows else None

    def _data_version_now(self) -> int:
        return int(self._all("PRAGMA data_version")[0][0])

    def changed_elsewhere(self) -> bool:
        """Whether another process (adduser, passwd) has written to the database since the last call."""
        found = self._data_version_now()
        changed, self._data_version = found != self._data_version, found
        return changed

    def check(self) -> None:
        """Raises `Unavailable` when the database does not answer."""
        self._all("SELECT epoch FROM state")

    def last_seq(self) -> int:
        return int(self._all("SELECT coalesce(max(seq), 0) FROM signals")[0][0])


def hold(path: Path) -> IO[bytes]:
    """Lock a file for as long as the answer is open (the system gives it back when the process ends, however it ends).

    Raises `Unusable` when another process holds it: two servers on one database would number changes twice.
    """
    try:
        return lock(path)
    except Locked as error:
        raise Unusable(f"another server is using this database ({error})") from error
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error}") from error
