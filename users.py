"""The users in the server's database: who they are, what they have set up, how often somebody tried to be one."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from database import Database
from records import NO_CONFIG, Attempt, Attempted, Limit, Role, User, UserConfig
from safety import Copying
from signals import decode, encode

log = logging.getLogger(__name__)

ATTEMPTS_KEPT_MS: Final = 3_600_000  # no limit of `auth.py` looks further back
ADDRESSES_KEPT_MS: Final = 90 * 86_400_000


class NameTaken(Exception):
    """There is a user of that name already, in whatever upper or lower case."""


class LastAdmin(Exception):
    """The change would leave nobody who can administer the server."""


class Users(Database):
    """A database, and its users."""

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
            if _administers(user, now) and not any(_administers(one, now) for one in self.users()):
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

    def forget_attempts_of(self, account: str) -> None:
        with self._writing():
            self._db.execute("DELETE FROM attempts WHERE account = ? AND what = ?", (account, Attempted.LOG_IN))

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

    def change_config(self, user: User, named: Mapping[str, Any]) -> UserConfig:
        """Change the settings that are named, fields of `UserConfig`, and no other; all of them as they are now."""
        with self._writing() as now:
            config = replace(self.config_of(user.id), **named)
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
        return config


def _administers(user: User, now: int) -> bool:
    return user.role is Role.ADMIN and user.active and (user.expires_at is None or user.expires_at > now)


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
