"""The server's memory: the masters' books, the log of every change, the copiers' reports; with `users.py`, the users.

All SQL of the server is here, in `users.py` and in `database.py`, one named operation for each thing the program means.
Nothing is ever sent from here: what was stored is handed back, and told to the followers by others.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from records import Entry, Master, Outcome, Post, Sender, User, refusal, wrong_field
from rows import COLUMNS, as_stored, entry_of, text, trade_of
from signals import (
    FIRST_SERVER_TICKET,
    NOTHING,
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
from users import Users

log = logging.getLogger(__name__)

OFFLINE_AFTER_MS: Final = 15_000  # a master whose sender has not reported its book for this long is offline
ANY_SESSION: Final = ""  # begin a session whatever was before
ACCOUNTS_SHOWN_MS: Final = 30 * 86_400_000
ACCOUNTS_OF_A_CLIENT: Final = 10  # that are kept, the last ones: a copier has one account
MOST_AT_ONCE: Final = 1 << 20  # bytes of reports that are read together


class Store(Users):
    """Everything that the server keeps."""

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
        return [trade_of(row, row["username"]) for row in rows]

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
        with self._turn:
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
        return [entry_of(row) for row in rows]

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
        return [trade_of(row, master.username) for row in rows]

    def _find(self, master: User, ticket: int, kind: Kind | None) -> Trade | None:
        """The trade in the book; of a position and an order under one ticket the position, unless `kind` says."""
        row = self._one(
            """SELECT * FROM trades WHERE master_id = ?1 AND ticket = ?2 AND (?3 IS NULL OR kind = ?3)
               ORDER BY kind = 'order' LIMIT 1""",
            master.id,
            ticket,
            kind,
        )
        return None if row is None else trade_of(row, master.username)

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
                json.dumps({name: as_stored(trade, name) for name in COLUMNS}),
                text(change.remaining),
                text(close_price),
                text(profit),
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
            f"INSERT OR REPLACE INTO trades (master_id, {', '.join(COLUMNS)}) "  # noqa: S608 - names of our own
            f"VALUES (?{', ?' * len(COLUMNS)})",
            (master.id, *(as_stored(trade, name) for name in COLUMNS)),
        )

    # --- reports of the copiers --------------------------------------------------------------------------------------

    def add_executions(self, client: User, reports: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Store what is new; how many were, and how many had been stored before."""
        new = []
        with self._writing() as now:
            for report in reports:
                cursor = self._db.execute(
                    """INSERT INTO executions (client_id, id, event, master, report, stored_at)
                       VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (client_id, id) DO NOTHING""",
                    (client.id, report["id"], report["event"], report["master"], encode(report), now),
                )
                if cursor.rowcount:
                    new.append(report)
            self._count(client, new)
            logins = list(dict.fromkeys(report["login"] for report in new if "login" in report))[-ACCOUNTS_OF_A_CLIENT:]
            shared = [login for login in logins if self._is_newly_shared(client, login, now)]
            if logins:
                self._forget_older_accounts(client)
        for login in shared:
            log.warning("account %d is used by %s and by another client: see /overview", login, client.username)
        known = len(reports) - len(new)
        log.info("database: %d reports of %s stored, %d known", len(new), client.username, known)
        return len(new), known

    def _count(self, client: User, new: Sequence[Mapping[str, Any]]) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        for report in new:
            for whose, name in (("all", ""), ("client", client.username), ("master", report["master"])):
                counts[whose, name, report["event"]] += 1
        self._db.executemany(
            """INSERT INTO report_counts (whose, name, event, reports) VALUES (?, ?, ?, ?)
               ON CONFLICT (whose, name, event) DO UPDATE SET reports = reports + excluded.reports""",
            [(*key, reports) for key, reports in counts.items()],
        )

    def _is_newly_shared(self, client: User, login: int, now: int) -> bool:
        """Write down that the client uses the account; whether that is news, and another client does too."""
        known = self._one("SELECT 1 FROM accounts WHERE login = ? AND client_id = ?", login, client.id)
        self._db.execute(
            """INSERT INTO accounts (login, client_id, seen_at) VALUES (?, ?, ?)
               ON CONFLICT (login, client_id) DO UPDATE SET seen_at = excluded.seen_at""",
            (login, client.id, now),
        )
        if known:
            return False
        other = self._one(
            """SELECT 1 FROM accounts JOIN users ON id = client_id
               WHERE login = ? AND client_id <> ? AND active = 1 AND seen_at > ? LIMIT 1""",
            login,
            client.id,
            now - ACCOUNTS_SHOWN_MS,
        )
        return other is not None

    def _forget_older_accounts(self, client: User) -> None:
        """All but the last few: whatever a client reports, what is kept of it stays small."""
        self._db.execute(
            """DELETE FROM accounts WHERE client_id = ?1 AND login NOT IN
               (SELECT login FROM accounts WHERE client_id = ?1 ORDER BY seen_at DESC LIMIT ?2)""",
            (client.id, ACCOUNTS_OF_A_CLIENT),
        )

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
        """The reports from the one after `number` on, of one client, about one master, or all. Fewer than `limit` where
        they are long; none when there are no more."""
        whose, values = _whose(client, master)
        sql = f"""SELECT number, username, report, stored_at FROM executions JOIN users ON users.id = client_id
                  WHERE number > ?{whose} ORDER BY number LIMIT ?"""  # noqa: S608  constants
        rows: list[sqlite3.Row] = []
        left = MOST_AT_ONCE
        with self._turn, contextlib.closing(self._db.execute(sql, (number, *values, limit))) as found:
            for row in found:
                left -= len(row["report"])
                if rows and left < 0:
                    break
                rows.append(row)
        return [
            {"number": row["number"], "client": row["username"], **decode(row["report"]), "stored_at": row["stored_at"]}
            for row in rows
        ]

    def executions_by_event(self, *, client: str | None = None, master: str | None = None) -> dict[str, int]:
        """How many reports were ever stored: of one client, or about one master, or all."""
        whose, name = ("all", "") if master is None else ("master", master)
        if client is not None:
            whose, name = "client", client
        rows = self._all("SELECT event, reports FROM report_counts WHERE whose = ? AND name = ?", whose, name)
        return {row["event"]: row["reports"] for row in rows}

    def users_by_role(self) -> dict[str, int]:
        rows = self._all("SELECT role, count(*) AS n FROM users WHERE active = 1 GROUP BY role")
        return {row["role"]: row["n"] for row in rows}


def _whose(client: str | None, master: str | None) -> tuple[str, list[str]]:
    """Conditions on reports, and their values. Only those that there are: SQLite takes no index for `? IS NULL OR`, and
    what a follower asks for must not cost the more the more the others have."""
    named = {"client_id = (SELECT id FROM users WHERE username = ?)": client, "master = ?": master}
    given = {condition: value for condition, value in named.items() if value is not None}
    return "".join(f" AND {condition}" for condition in given), [*given.values()]


def _names(follow: frozenset[str] | None) -> str | None:
    return None if follow is None else json.dumps(sorted(follow))


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
    opened_at = min((time for time in (known.opened_at, said) if time), default=0)
    first = trade.initial_volume
    if known.action is trade.action:  # a sender that lost its memory must not make the first volume smaller
        first = max(known.initial_volume, first)
    increase = _increase(trade, known, as_of, now)
    return replace(trade, opened_at=opened_at, initial_volume=first, increase=increase)


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
