"""The server's memory: users, their settings, the masters' books, the log of every change, the copiers' reports.

All SQL of the server is here, one named operation for each thing the program means. An operation that writes is one
transaction: when it returns, what it did is on the disk (`synchronous=FULL`); when it raises, nothing was done. It
never sends anything: what was stored is handed back, and told to the followers by others.

One connection under one lock, because SQLite before 3.51.3 can damage a WAL file that two busy connections share.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final

from onelock import Locked, lock
from records import (
    NO_CONFIG,
    Attempt,
    Attempted,
    Clock,
    Entry,
    Limit,
    Master,
    Outcome,
    Post,
    Role,
    Sender,
    User,
    UserConfig,
    refusal,
    wrong_field,
)
from safety import Copying
from signals import (
    FIRST_SERVER_TICKET,
    NOTHING,
    Action,
    Change,
    ChangeType,
    Increase,
    Key,
    Kind,
    Source,
    Trade,
    decode,
    diff,
    differs,
    encode,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 6
APPLICATION_ID: Final = 0x41494254  # "AIBT": tells the server's database from any other SQLite file
OFFLINE_AFTER_MS: Final = 15_000  # a master whose sender has not reported its book for this long is offline
# A file of up to this many bytes is checked whole at the start, in a tenth of a second. Of a larger one only what every
# change is made from: to read logs of 1,000,000 changes takes a second from memory and many from a disk, while the
# followers wait. `PRAGMA integrity_check` in the sqlite3 program, on a copy, checks the rest.
CHECKED_WHOLE: Final = 64 << 20
CHECKED_TABLES: Final = ("state", "starts", "users", "configs", "senders", "trades")
ANY_SESSION: Final = ""  # begin a session whatever was before
ATTEMPTS_KEPT_MS: Final = 3_600_000  # no limit of `auth.py` looks further back
ADDRESSES_KEPT_MS: Final = 90 * 86_400_000
ACCOUNTS_SHOWN_MS: Final = 30 * 86_400_000
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


class NameTaken(Exception):
    """There is a user of that name already, in whatever upper or lower case."""


class LastAdmin(Exception):
    """The change would leave nobody who can administer the server."""


class Store:
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

        A `guest` works on a file that a running server may have open. `connect` opens the database. Raises
        `Unavailable` when the start cannot be written down (disk full).
        """
        self._clock = clock
        self._lock = threading.RLock()
        self._closed = False
        self.path = Path(path)
        try:
            self.path.touch(mode=0o600)  # before SQLite makes it with more rights; the WAL inherits them
            self._db = connect(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
        except (OSError, sqlite3.Error) as error:
            raise Unusable(f"the database {self.path} cannot be opened: {error}") from error
        try:
            self._db.row_factory = sqlite3.Row
            self._prepare()
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

    def _prepare(self) -> None:
        db = self._db
        version = db.execute("PRAGMA user_version").fetchone()[0]
        kind = db.execute("PRAGMA application_id").fetchone()[0]
        empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not empty and kind != APPLICATION_ID:
            raise Unusable(f"{self.path} is not a database of this server")
        if not empty and version != SCHEMA_VERSION:
            raise Unusable(
                f"the database {self.path} has schema version {version}, this program needs {SCHEMA_VERSION}: "
                "use the program version that made it, or another file"
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

    def _create(self) -> None:
        now = int(self._clock.time() * 1000)
        schema = SCHEMA_FILE.read_text(encoding="utf-8")
        self._db.executescript(
            f"BEGIN IMMEDIATE; {schema}\n"
            f"INSERT INTO state VALUES (1, '{secrets.token_hex(8)}', {now}, {FIRST_SERVER_TICKET});"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        log.info("database: %s created", self.path)

    def back_up(self, path: str | os.PathLike[str]) -> None:
        """Write the database as it is now into a file that is not there yet. Raises `Unusable`."""
        copy = Path(path)
        try:
            copy.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise Unusable(f"{copy} cannot be made: {error.strerror}") from error
        try:
            with self._lock, self._passing_errors():
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
        with self._lock:
            self._closed = True
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
        with self._lock, self._passing_errors():
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

    @contextlib.contextmanager
    def _passing_errors(self) -> Iterator[None]:
        if self._closed:
            raise Unavailable("the database is closed")
        try:
            yield
        except sqlite3.OperationalError as error:
            # The low byte is the primary code; the rest only details it.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
                raise Unavailable(f"the database does not take it now: {error}") from error
            raise

    def _all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, self._passing_errors():
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

    # --- users -------------------------------------------------------------------------------------------------------

    def user_named(self, username: str) -> User | None:
        return _user(self._one("SELECT * FROM users WHERE username = ?", username))

    def user(self, user_id: int) -> User | None:
        return _user(self._one("SELECT * FROM users WHERE id = ?", user_id))

    def has_admin(self) -> bool:
        return self._one("SELECT 1 FROM users WHERE role = 'admin' LIMIT 1") is not None

    def users(self, after: int = 0, limit: int = 1_000_000) -> list[User]:
        """Users in the order of their making, from the one after the id `after`."""
        rows = self._all("SELECT * FROM users WHERE id > ? ORDER BY id LIMIT ?", after, limit)
        return [_user_of(row) for row in rows]

    def add_user(self, username: str, password: str, role: Role, active: bool = True) -> User:
        """`password` is a hash. Raises `NameTaken`."""
        with self._writing() as now:
            if self.user_named(username):
                raise NameTaken(username)
            self._db.execute(
                "INSERT INTO users (username, password, role, active, created_at) VALUES (?, ?, ?, ?, ?)",
                (username, password, role, active, now),
            )
            user = self.user_named(username)
        log.info("database: user %s added as %s%s", username, role, "" if active else ", not active yet")
        assert user is not None  # noqa: S101 - inserted in this very transaction
        return user

    def change_user(
        self,
        username: str,
        *,
        active: bool | None = None,
        role: Role | None = None,
        password: str | None = None,
        expires_at: int | None = None,
        never_expires: bool = False,
    ) -> User | None:
        """Change what is given; None when there is no such user. Raises `LastAdmin`.

        A new password (a hash), another role or a deactivation ends every token of the user.
        """
        with self._writing() as now:
            user = self.user_named(username)
            if user is None:
                return None
            changed = replace(
                user,
                active=user.active if active is None else active,
                role=role or user.role,
                password=password or user.password,
                expires_at=None if never_expires else expires_at if expires_at is not None else user.expires_at,
            )
            if password or changed.role is not user.role or (user.active and not changed.active):
                changed = replace(changed, token_version=user.token_version + 1)
            self._db.execute(
                """UPDATE users SET active = ?, role = ?, password = ?, expires_at = ?, token_version = ?
                   WHERE id = ?""",
                (changed.active, changed.role, changed.password, changed.expires_at, changed.token_version, user.id),
            )
            admins = self._all(
                """SELECT 1 FROM users WHERE role = 'admin' AND active = 1
                   AND (expires_at IS NULL OR expires_at > ?)""",
                now,
            )
            if not admins:
                raise LastAdmin
        said = [
            f"active: {changed.active}" if active is not None else "",
            f"role: {changed.role}" if role else "",
            "password" if password else "",
            f"expires_at: {changed.expires_at}" if expires_at is not None or never_expires else "",
        ]
        log.info("database: user %s changed: %s", user.username, ", ".join(filter(None, said)))
        return changed

    def renew_hash(self, user: User, password: str) -> None:
        """Store another hash of the same password: nothing ends by it."""
        with self._writing():
            self._db.execute(
                "UPDATE users SET password = ? WHERE id = ? AND password = ?", (password, user.id, user.password)
            )

    # --- the brake on guessing ---------------------------------------------------------------------------------------

    def attempt(self, what: Attempted, account: str, address: str, limits: Sequence[Limit]) -> Attempt | int:
        """Count an attempt, if the limits allow one now; else the ms to wait."""
        with self._writing() as now:
            known = self._one("SELECT 1 FROM known_addresses WHERE account = ? AND address = ?", account, address)
            wait = 0
            for limit in limits:
                if limit.spares_known and known:
                    continue
                conditions: dict[str, Any] = {"what = ?": what, "at > ?": now - limit.seconds * 1000}
                if limit.of_account:
                    conditions["account = ?"] = account
                if limit.of_address:
                    conditions["address = ?"] = address
                oldest = self._one(
                    f"SELECT at FROM attempts WHERE {' AND '.join(conditions)} "  # noqa: S608 - words of our own
                    "ORDER BY at DESC LIMIT 1 OFFSET ?",
                    *conditions.values(),
                    limit.most - 1,
                )
                if oldest is not None:
                    wait = max(wait, oldest["at"] + limit.seconds * 1000 - now)
            if wait:
                return wait
            self._db.execute("DELETE FROM attempts WHERE at <= ?", (now - ATTEMPTS_KEPT_MS,))
            cursor = self._db.execute(
                "INSERT INTO attempts (at, what, account, address) VALUES (?, ?, ?, ?)", (now, what, account, address)
            )
            number = cursor.lastrowid
        assert number is not None  # noqa: S101 - an INSERT has just been made
        return Attempt(number, known is not None)

    def forget_attempt(self, number: int) -> None:
        with self._writing():
            self._db.execute("DELETE FROM attempts WHERE number = ?", (number,))

    def attempt_succeeded(self, number: int, account: str, address: str) -> None:
        with self._writing() as now:
            self._db.execute("DELETE FROM attempts WHERE number = ?", (number,))
            self._db.execute("DELETE FROM known_addresses WHERE seen_at <= ?", (now - ADDRESSES_KEPT_MS,))
            self._db.execute(
                """INSERT INTO known_addresses (account, address, seen_at) VALUES (?, ?, ?)
                   ON CONFLICT (account, address) DO UPDATE SET seen_at = excluded.seen_at""",
                (account, address, now),
            )

    # --- settings of users -------------------------------------------------------------------------------------------

    def config_of(self, user_id: int) -> UserConfig:
        row = self._one("SELECT * FROM configs WHERE user_id = ?", user_id)
        if row is None:
            return NO_CONFIG
        follow = None if row["follow"] is None else tuple(json.loads(row["follow"]))
        return UserConfig(decode(row["trade_copy"]), Copying(row["copying"]), follow)

    def copier_since(self, client: User, ledger: str) -> int:
        """A copier with this ledger has connected. UTC ms since when no other one of the client was. Raises
        `Unavailable`."""
        row = self._one("SELECT * FROM copiers WHERE client_id = ?", client.id)
        if row is not None and row["ledger"] == ledger:
            return int(row["since"])
        with self._writing() as now:
            self._db.execute("INSERT OR REPLACE INTO copiers VALUES (?, ?, ?)", (client.id, ledger, now))
        return now

    def set_config(self, user: User, config: UserConfig) -> None:
        with self._writing() as now:
            self._db.execute(
                """INSERT INTO configs (user_id, trade_copy, copying, follow, changed_at) VALUES (?, ?, ?, ?, ?)
                   ON CONFLICT (user_id) DO UPDATE SET trade_copy = excluded.trade_copy, copying = excluded.copying,
                   follow = excluded.follow, changed_at = excluded.changed_at""",
                (
                    user.id,
                    encode(config.trade_copy),
                    config.copying,
                    None if config.follow is None else json.dumps(config.follow),
                    now,
                ),
            )
        log.info("database: settings of %s stored, copying %s", user.username, config.copying)

    # --- reading books and log ---------------------------------------------------------------------------------------

    def masters(self) -> list[Master]:
        """Every active user whose trades others can follow: masters, and admins that have ever posted."""
        rows = self._all(
            """SELECT username, session, reported_at, online_since, account
               FROM users LEFT JOIN senders ON master_id = id
               WHERE active = 1 AND (role = 'master' OR role = 'admin' AND
                   (session IS NOT NULL OR EXISTS (SELECT 1 FROM signals WHERE signals.master_id = users.id)))
               ORDER BY id"""
        )
        now = self.now_ms()
        found = []
        for row in rows:
            reported = row["reported_at"]
            online = reported is not None and now - reported < OFFLINE_AFTER_MS
            since = row["online_since"] if online else reported
            account = None if row["account"] is None else decode(row["account"])
            found.append(Master(row["username"], reported, online, since, account))
        return found

    def book(self, follow: frozenset[str] | None = None) -> list[Trade]:
        """The open trades of the active masters among `follow` (None = all)."""
        rows = self._all(
            """SELECT trades.*, username FROM trades JOIN users ON id = master_id
               WHERE active = 1 AND role IN ('master', 'admin')
               AND (?1 IS NULL OR username IN (SELECT value FROM json_each(?1)))
               ORDER BY master_id, ticket, kind""",
            _names(follow),
        )
        return [_trade(row, row["username"]) for row in rows]

    def sender_of(self, master_id: int) -> Sender | None:
        row = self._one("SELECT * FROM senders WHERE master_id = ?", master_id)
        return None if row is None else Sender(row["session"], row["rev"], row["reported_at"], row["online_since"])

    def entries_after(
        self, seq: int, limit: int, follow: frozenset[str] | None = None, *, inactive_too: bool = False
    ) -> list[Entry]:
        """The log from the number after `seq` on, of the active masters among `follow` (None = all).

        Each master's part is read along its index and only as far as it is needed: what the others have told costs
        nothing.
        """
        with self._lock, self._passing_errors():
            masters = self._db.execute(
                """SELECT id FROM users WHERE (?2 OR active = 1 AND role IN ('master', 'admin'))
                   AND (?1 IS NULL OR username IN (SELECT value FROM json_each(?1)))""",
                (_names(follow), inactive_too),
            ).fetchall()
            parts = [
                self._db.execute(
                    """SELECT signals.*, username FROM signals JOIN users ON id = master_id
                       WHERE master_id = ? AND seq > ? ORDER BY seq""",
                    (row["id"], seq),
                )
                for row in masters
            ]
            rows = list(itertools.islice(heapq.merge(*parts, key=lambda row: row["seq"]), limit))
            for part in parts:
                part.close()
        return [_entry(row) for row in rows]

    # --- changing books ----------------------------------------------------------------------------------------------

    def open_trade(self, master: User, trade: Trade, age_ms: int | None, post: Post) -> Outcome:
        """Put a new trade into the master's book. `trade.ticket` 0 = the server gives one."""
        with self._writing() as now:
            decided = self._admit(master, post, {"ticket": trade.ticket or None, "delivered": 0})
            if decided is None:
                age_now = _older(age_ms, post.as_of, now)
                decided = self._keep(master, post, now, self._open(master, trade, age_now, post, now))
        _log_entries(decided.entries)
        return decided

    def _open(self, master: User, trade: Trade, age_ms: int | None, post: Post, now: int) -> Outcome:
        kind, ticket = trade.key
        if ticket:
            in_book = self._find(master, ticket, kind) is not None
            if in_book or (post.session is None and self._ever_known(master, ticket, kind)):
                return self._duplicate(master, ticket, kind, delivered=0)
            if ticket >= FIRST_SERVER_TICKET:
                return wrong_field("ticket", f"those from {FIRST_SERVER_TICKET} on are given by the server")
        else:
            ticket = self._new_ticket(now)
        opened_at = 0 if age_ms is None else max(1, now - age_ms)
        trade = replace(trade, ticket=ticket, master=master.username, source=post.source)
        trade = replace(trade, opened_at=opened_at, increase=_increase(trade, None, post.as_of, now))
        entry = self._record(master, Change(ChangeType.SIGNAL, trade), now, detected_at=post.detected_at)
        return Outcome(201, {"seq": entry.seq, "ticket": ticket, "delivered": post.audience}, (entry,))

    def _new_ticket(self, now: int) -> int:
        """Of this moment, so that a database that was lost or restored does not give a ticket a second time."""
        ticket: int = max(self._all("SELECT next_ticket FROM state")[0][0], FIRST_SERVER_TICKET + now * 100)
        self._db.execute("UPDATE state SET next_ticket = ?", (ticket + 1,))
        return ticket

    def modify_trade(
        self, master: User, ticket: int, kind: Kind | None, fields: Mapping[str, Any], post: Post
    ) -> Outcome:
        """Give a trade other stops, another price or expiration."""
        with self._writing() as now:
            decided = self._admit(master, post, {"ticket": ticket, "delivered": 0})
            if decided is None:
                decided = self._keep(master, post, now, self._modify(master, ticket, kind, fields, post, now))
        _log_entries(decided.entries)
        return decided

    def _modify(
        self, master: User, ticket: int, kind: Kind | None, fields: Mapping[str, Any], post: Post, now: int
    ) -> Outcome:
        known = self._find(master, ticket, kind)
        if known is None:
            return self._not_in_book(master, ticket, kind)
        trade = replace(known, **fields)
        if not differs(known, trade):
            return self._duplicate(master, ticket, known.kind, delivered=0)
        entry = self._record(master, Change(ChangeType.MODIFY, trade), now, detected_at=post.detected_at)
        return Outcome(200, {"seq": entry.seq, "ticket": ticket, "delivered": post.audience}, (entry,))

    def close_trade(
        self,
        master: User,
        ticket: int,
        kind: Kind | None,
        post: Post,
        *,
        remaining: Decimal | None = None,
        volume: Decimal | None = None,
        close_price: Decimal | None = None,
        profit: Decimal | None = None,
    ) -> Outcome:
        """Close a trade, or leave `remaining` lots of it, or take `volume` lots away (never below none)."""
        with self._writing() as now:
            decided = self._admit(master, post, {"ticket": ticket, "delivered": 0})
            if decided is None:
                found = self._close(master, ticket, kind, post, now, remaining, volume, close_price, profit)
                decided = self._keep(master, post, now, found)
        _log_entries(decided.entries)
        return decided

    def _close(
        self,
        master: User,
        ticket: int,
        kind: Kind | None,
        post: Post,
        now: int,
        remaining: Decimal | None,
        volume: Decimal | None,
        close_price: Decimal | None,
        profit: Decimal | None,
    ) -> Outcome:
        known = self._find(master, ticket, kind)
        if known is None:
            return self._not_in_book(master, ticket, kind)
        if volume is not None:
            remaining = max(NOTHING, known.volume - volume)
        elif remaining is None:
            remaining = NOTHING
        if remaining > known.volume:
            return wrong_field("remaining", f"the trade has only {known.volume} lots")
        if remaining == known.volume:
            return self._duplicate(master, ticket, known.kind, delivered=0, remaining=remaining)
        trade = replace(known, volume=remaining) if remaining else known
        entry = self._record(
            master, Change(ChangeType.CLOSE, trade, remaining), now, close_price, profit, post.detected_at
        )
        answer = {"seq": entry.seq, "ticket": ticket, "remaining": remaining, "delivered": post.audience}
        return Outcome(200, answer, (entry,))

    def report_book(
        self,
        master: User,
        session: str | None,
        rev: int,
        trades: Sequence[tuple[Trade, int | None]],
        account: Mapping[str, Any],
        detected_at: int | None = None,
        as_of: int | None = None,
        replaces: str | None = ANY_SESSION,
    ) -> Outcome:
        """Replace what the master's terminal holds by `trades` (each with its age in ms, None = unknown).

        `as_of` is when the ages were measured, by this server's clock as the sender knows it (UTC ms).

        `session` None begins a session and supersedes the one before, which must be `replaces` (None = there was none):
        so a request that comes late cannot undo a newer one. Trades of other sources stay as they are.
        """
        with self._writing() as now:
            post = Post(session, rev, detected_at=detected_at)
            if session is not None:
                refused = self._admit(master, post, {"session": session, "changes": 0})
                if refused is not None:
                    return refused
            elif replaces != ANY_SESSION and replaces != self._session_of(master):
                return refusal(409, "stale", "another session has begun meanwhile: read the book again")
            begun = session or self._new_session(master, now)
            self._report_received(master, begun, rev, account, now)
            held = {trade.key: trade for trade in self._book_of(master)}
            new: dict[Key, Trade] = {}
            for reported, age_ms in trades:
                trade = replace(reported, master=master.username, source=Source.TERMINAL)
                new[trade.key] = _with_known_age(trade, held.get(trade.key), age_ms, as_of, now)
            # A trade entered by hand that the terminal shows under the same ticket becomes the terminal's.
            old = {key: trade for key, trade in held.items() if trade.source is Source.TERMINAL or key in new}
            changes = diff(old, new)
            told = {change.trade.key for change in changes}
            for key, trade in new.items():
                if key in told or key not in old or old[key] == trade:
                    continue
                if old[key].opened_at == 0 != trade.opened_at:  # the age is known at last: worth telling
                    changes.append(Change(ChangeType.MODIFY, trade))
                else:
                    self._put(master, trade)
            entries = tuple(self._record(master, change, now, detected_at=detected_at) for change in changes)
            seq = self.last_seq()
        if session is None:
            log.info("database: sender of %s began a session with %d trades", master.username, len(new))
        _log_entries(entries)
        return Outcome(200, {"session": begun, "seq": seq, "changes": len(entries)}, entries)

    def _session_of(self, master: User) -> str | None:
        sender = self.sender_of(master.id)
        return None if sender is None else sender.session

    def _new_session(self, master: User, now: int) -> str:
        """Sessions of a master sort in the order in which they began, so that a newer one than ours is recognised."""
        sender = self.sender_of(master.id)
        began = max(now, int(sender.session[:14]) + 1) if sender is not None else now
        return f"{began:014d}-{secrets.token_hex(8)}"

    def _report_received(self, master: User, session: str, rev: int, account: Mapping[str, Any], now: int) -> None:
        known = self.sender_of(master.id)
        still_online = known is not None and now - known.reported_at < OFFLINE_AFTER_MS
        since = known.online_since if known is not None and still_online else now
        self._db.execute(
            """INSERT INTO senders (master_id, session, rev, reported_at, online_since, account)
               VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT (master_id) DO UPDATE SET session = excluded.session, rev = excluded.rev,
               reported_at = excluded.reported_at, online_since = excluded.online_since, account = excluded.account""",
            (master.id, session, rev, now, since, encode(account)),
        )

    # --- pieces of the above, inside its transaction -----------------------------------------------------------------

    def _admit(self, master: User, post: Post, nothing_done: dict[str, Any]) -> Outcome | None:
        """The answer to a post that must not change anything: superseded, late, repeated. None = go on."""
        if post.session is not None:
            sender = self.sender_of(master.id)
            if sender is None or sender.session < post.session:
                # Begun with a database that was lost, or with a later state of this one.
                return refusal(409, "no_session", "this database does not know the session: begin a new one")
            if sender.session != post.session:
                return refusal(409, "superseded", "another sender has begun a session for this master")
            if post.rev <= sender.rev:
                return Outcome(200, {"seq": self.last_seq(), **nothing_done, "duplicate": True})
            # Kept also when the post is then refused: an older one that arrives late must find the newer number.
            self._db.execute("UPDATE senders SET rev = ? WHERE master_id = ?", (post.rev, master.id))
            return None
        if post.key is None:
            return None
        known = self._one("SELECT * FROM answers WHERE user_id = ? AND key = ?", master.id, post.key)
        if known is None:
            return None
        if known["fingerprint"] != post.fingerprint:
            return wrong_field("Idempotency-Key", "this key has been used for something else")
        return Outcome(known["status"], decode(known["answer"]))

    def _keep(self, master: User, post: Post, now: int, outcome: Outcome) -> Outcome:
        """Remember the answer under the post's Idempotency-Key. A refused post leaves no trace: the key stays free."""
        if post.session is None and post.key is not None and outcome.status < 400:
            self._db.execute(
                "INSERT INTO answers (user_id, key, fingerprint, status, answer, at) VALUES (?, ?, ?, ?, ?, ?)",
                (master.id, post.key, post.fingerprint, outcome.status, encode(outcome.answer), now),
            )
        return outcome

    def _book_of(self, master: User) -> list[Trade]:
        rows = self._all("SELECT * FROM trades WHERE master_id = ?", master.id)
        return [_trade(row, master.username) for row in rows]

    def _find(self, master: User, ticket: int, kind: Kind | None) -> Trade | None:
        """The trade in the book; of a position and an order under one ticket the position, unless `kind` says."""
        row = self._one(
            """SELECT * FROM trades WHERE master_id = ?1 AND ticket = ?2 AND (?3 IS NULL OR kind = ?3)
               ORDER BY kind = 'order' LIMIT 1""",
            master.id,
            ticket,
            kind,
        )
        return None if row is None else _trade(row, master.username)

    def _last_entry(self, master: User, ticket: int, kind: Kind | None) -> int | None:
        row = self._one(
            """SELECT seq FROM signals WHERE master_id = ?1 AND ticket = ?2 AND (?3 IS NULL OR kind = ?3)
               ORDER BY seq DESC LIMIT 1""",
            master.id,
            ticket,
            kind,
        )
        return None if row is None else int(row["seq"])

    def _ever_known(self, master: User, ticket: int, kind: Kind | None) -> bool:
        return self._last_entry(master, ticket, kind) is not None

    def _not_in_book(self, master: User, ticket: int, kind: Kind | None) -> Outcome:
        if self._ever_known(master, ticket, kind):
            return self._duplicate(master, ticket, kind, delivered=0)
        return refusal(404, "unknown_ticket", f"no trade with ticket {ticket} is known")

    def _duplicate(self, master: User, ticket: int, kind: Kind | None, **more: Any) -> Outcome:
        seq = self._last_entry(master, ticket, kind)
        return Outcome(200, {"seq": seq, "ticket": ticket, **more, "duplicate": True})

    def _record(
        self,
        master: User,
        change: Change,
        now: int,
        close_price: Decimal | None = None,
        profit: Decimal | None = None,
        detected_at: int | None = None,
    ) -> Entry:
        """Number a change, write it into the log, and bring the book to it."""
        trade = change.trade
        cursor = self._db.execute(
            """INSERT INTO signals
               (at, master_id, type, kind, ticket, trade, remaining, close_price, profit, detected_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                now,
                master.id,
                change.type,
                trade.kind,
                trade.ticket,
                json.dumps({name: _stored(trade, name) for name in _COLUMNS}),
                _text(change.remaining),
                _text(close_price),
                _text(profit),
                detected_at,
            ),
        )
        if change.gone:
            self._db.execute(
                "DELETE FROM trades WHERE master_id = ? AND kind = ? AND ticket = ?",
                (master.id, trade.kind, trade.ticket),
            )
        else:
            self._put(master, trade)
        seq = cursor.lastrowid
        assert seq is not None  # noqa: S101 - an INSERT has just been made
        return Entry(seq, now, change, close_price, profit, detected_at)

    def _put(self, master: User, trade: Trade) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO trades (master_id, {', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own
            f"VALUES (?{', ?' * len(_COLUMNS)})",
            (master.id, *(_stored(trade, name) for name in _COLUMNS)),
        )

    # --- reports of the copiers --------------------------------------------------------------------------------------

    def add_executions(self, client: User, reports: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Store what is new; how many were, and how many had been stored before."""
        stored = 0
        with self._writing() as now:
            for report in reports:
                cursor = self._db.execute(
                    """INSERT INTO executions (client_id, id, event, master, report, stored_at)
                       VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (client_id, id) DO NOTHING""",
                    (client.id, report["id"], report["event"], report["master"], encode(report), now),
                )
                stored += cursor.rowcount
            logins = {report["login"] for report in reports if "login" in report}
            shared = [login for login in logins if self._is_newly_shared(client, login, now)]
        for login in shared:
            log.warning("account %d is used by %s and by another client: see /overview", login, client.username)
        log.info("database: %d reports of %s stored, %d known", stored, client.username, len(reports) - stored)
        return stored, len(reports) - stored

    def _is_newly_shared(self, client: User, login: int, now: int) -> bool:
        """Write down that the client uses the account; whether that is news, and another client does too."""
        known = self._one("SELECT 1 FROM accounts WHERE login = ? AND client_id = ?", login, client.id)
        self._db.execute(
            """INSERT INTO accounts (login, client_id, seen_at) VALUES (?, ?, ?)
               ON CONFLICT (login, client_id) DO UPDATE SET seen_at = excluded.seen_at""",
            (login, client.id, now),
        )
        return known is None and any(found == login for found, _ in self.shared_accounts())

    def shared_accounts(self) -> list[tuple[int, list[str]]]:
        """Account numbers that several active clients have reported from of late, and these clients. Two brokers may
        have given one number to two people, so this is for a person to look at."""
        rows = self._all(
            """SELECT login, json_group_array(username) AS names
               FROM (SELECT login, username FROM accounts JOIN users ON id = client_id
                     WHERE active = 1 AND seen_at > ? ORDER BY username)
               GROUP BY login HAVING count(*) > 1 ORDER BY login""",
            self.now_ms() - ACCOUNTS_SHOWN_MS,
        )
        return [(row["login"], json.loads(row["names"])) for row in rows]

    def executions_after(
        self, number: int, limit: int, *, client: str | None = None, master: str | None = None
    ) -> list[dict[str, Any]]:
        """The reports from the one after `number` on, of one client, about one master, or all."""
        whose, values = _whose(client, master)
        rows = self._all(
            f"""SELECT number, username, report, stored_at FROM executions JOIN users ON users.id = client_id
                WHERE number > ?{whose} ORDER BY number LIMIT ?""",  # noqa: S608  constants
            number,
            *values,
            limit,
        )
        return [
            {"number": row["number"], "client": row["username"], **decode(row["report"]), "stored_at": row["stored_at"]}
            for row in rows
        ]

    def executions_by_event(self, *, client: str | None = None, master: str | None = None) -> dict[str, int]:
        whose, values = _whose(client, master)
        rows = self._all(
            f"SELECT event, count(*) AS n FROM executions WHERE true{whose} GROUP BY event",  # noqa: S608  constants
            *values,
        )
        return {row["event"]: row["n"] for row in rows}

    def users_by_role(self) -> dict[str, int]:
        rows = self._all("SELECT role, count(*) AS n FROM users WHERE active = 1 GROUP BY role")
        return {row["role"]: row["n"] for row in rows}


def _whose(client: str | None, master: str | None) -> tuple[str, list[str]]:
    """Conditions on reports, and their values. Only those that there are: SQLite takes no index for `? IS NULL OR`, and
    what a follower asks for must not cost the more the more the others have."""
    named = {"client_id = (SELECT id FROM users WHERE username = ?)": client, "master = ?": master}
    given = {condition: value for condition, value in named.items() if value is not None}
    return "".join(f" AND {condition}" for condition in given), [*given.values()]


# --- rows and objects ------------------------------------------------------------------------------------------------

_DECIMALS: Final = ("volume", "initial_volume", "price", "stoplimit", "sl", "tp", "contract_size", "point")
_COLUMNS: Final = (
    "kind",
    "ticket",
    "source",
    "symbol",
    "action",
    *_DECIMALS,
    "expiration",
    "magic",
    "comment",
    "digits",
    "opened_at",
    "increase",
)


def _stored(trade: Trade, name: str) -> Any:
    """A field of a trade as a row holds it."""
    value = getattr(trade, name)
    if name == "increase":
        return (
            None
            if value is None
            else json.dumps({**asdict(value), "volume": str(value.volume), "price": str(value.price)})
        )
    return str(value) if name in _DECIMALS or name == "magic" else value


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _number(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def _names(follow: frozenset[str] | None) -> str | None:
    return None if follow is None else json.dumps(sorted(follow))


def _trade(row: sqlite3.Row | Mapping[str, Any], master: str) -> Trade:
    return Trade(
        ticket=row["ticket"],
        kind=Kind(row["kind"]),
        symbol=row["symbol"],
        action=Action(row["action"]),
        **{name: Decimal(row[name]) for name in _DECIMALS},
        expiration=row["expiration"],
        magic=int(row["magic"]),
        comment=row["comment"],
        digits=row["digits"],
        opened_at=row["opened_at"],
        master=master,
        source=Source(row["source"]),
        increase=_increase_of(row["increase"]),
    )


def _increase_of(stored: str | None) -> Increase | None:
    if stored is None:
        return None
    found = json.loads(stored)
    return Increase(**{**found, "volume": Decimal(found["volume"]), "price": Decimal(found["price"])})


def _entry(row: sqlite3.Row) -> Entry:
    trade = _trade(json.loads(row["trade"]), row["username"])
    change = Change(ChangeType(row["type"]), trade, _number(row["remaining"]))
    return Entry(row["seq"], row["at"], change, _number(row["close_price"]), _number(row["profit"]), row["detected_at"])


def _user(row: sqlite3.Row | None) -> User | None:
    return None if row is None else _user_of(row)


def _user_of(row: sqlite3.Row) -> User:
    return User(
        row["id"],
        row["username"],
        row["password"],
        Role(row["role"]),
        bool(row["active"]),
        row["token_version"],
        row["created_at"],
        row["expires_at"],
    )


def _older(age_ms: int | None, as_of: int | None, now: int) -> int | None:
    """An age as it is now: what was measured at `as_of` has been on its way since."""
    return age_ms if age_ms is None or as_of is None else age_ms + max(0, now - as_of)


def _with_known_age(trade: Trade, known: Trade | None, age_ms: int | None, as_of: int | None, now: int) -> Trade:
    """The trade with the time at which it was opened: what was known and what is said now, never the younger one. And
    with the time at which it last grew or turned round."""
    age_now = _older(age_ms, as_of, now)
    said = 0 if age_now is None else max(1, now - age_now)
    if known is None:
        return replace(trade, opened_at=said, increase=_increase(trade, None, as_of, now))
    times = [time for time in (known.opened_at, said) if time]
    trade = replace(trade, opened_at=min(times, default=0), increase=_increase(trade, known, as_of, now))
    if known.action is trade.action:  # a sender that lost its memory must not make the first volume smaller
        trade = replace(trade, initial_volume=max(known.initial_volume, trade.initial_volume))
    return trade


def _increase(trade: Trade, known: Trade | None, as_of: int | None, now: int) -> Increase | None:
    """How a trade last grew or turned round: as the sender says when it has, and as it was known before otherwise."""
    said = trade.increase
    if known is not None:
        turned = known.action is not trade.action
        if not turned and trade.volume <= known.volume:
            return known.increase
        said = said or Increase(trade.volume if turned else trade.volume - known.volume, trade.price)
    if said is None:
        return None
    age_now = _older(said.age_ms, as_of, now)
    return replace(said, at=0 if age_now is None else max(1, now - age_now), age_ms=None)


def _log_entries(entries: Sequence[Entry]) -> None:
    for entry in entries:
        trade = entry.change.trade
        left = "" if entry.change.remaining is None else f", {entry.change.remaining} left"
        log.info(
            "database: seq %d stored: %s %s %s %s %s ticket %d of %s%s",
            entry.seq,
            entry.change.type,
            trade.action,
            trade.volume,
            trade.symbol,
            trade.kind,
            trade.ticket,
            trade.master,
            left,
        )


# --- one server per database -----------------------------------------------------------------------------------------


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
