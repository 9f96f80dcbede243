"""Passwords, tokens, the secret that signs them, and the brake on guessing."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from werkzeug.security import check_password_hash, generate_password_hash

from db import Store, Unusable
from records import Clock, User
from signals import Check

ALGORITHM: Final = "HS256"
SECRET_BYTES: Final = 32
HASH_METHOD: Final = "scrypt:32768:8:1"  # some 90 ms and 32 MiB each
HASHES_AT_ONCE: Final = 2
HASH_PATIENCE_S: Final = 10.0

FREE_FAILURES: Final = 5  # wrong passwords for one account from one address before the brake is felt
LONGEST_PAUSE_S: Final = 60.0
FAILURES_PER_ADDRESS: Final = 30  # within WINDOW_S, whatever the account
WINDOW_S: Final = 60.0
MOST_REMEMBERED: Final = 10_000


def password(value: Any) -> str:
    """A check for `signals.read_fields`: 8 to 128 characters."""
    if type(value) is not str or not 8 <= len(value) <= 128 or re.search("[\ud800-\udfff]", value):
        raise ValueError("must be 8 to 128 characters")
    return value


@functools.cache
def nobodys_hash() -> str:
    """Checked in place of an unknown user's, so that the answer takes the same time."""
    return generate_password_hash(secrets.token_urlsafe(24), HASH_METHOD)


class Busy(Exception):
    """Too many passwords are being checked at once."""


class Passwords:
    """Makes and checks password hashes, few at a time: a flood of log-ins must leave the processor to the others."""

    def __init__(self) -> None:
        self._turns = threading.BoundedSemaphore(HASHES_AT_ONCE)
        nobodys_hash()  # now, not at the first log-in of an unknown user, which would show by its time

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=HASH_PATIENCE_S):
            raise Busy
        try:
            yield
        finally:
            self._turns.release()

    def hashed(self, plain: str) -> str:
        """Raises `Busy`."""
        with self._turn():
            return generate_password_hash(plain, HASH_METHOD)

    def fits(self, user: User | None, plain: str) -> bool:
        """Whether this is the user's password; for None it never is, after the same time. Raises `Busy`."""
        with self._turn():
            return check_password_hash(user.password if user else nobodys_hash(), plain) and user is not None


@dataclass(frozen=True, slots=True)
class Token:
    """What a good token says."""

    user_id: int
    version: int
    expires_at: int  # UTC ms


class Tokens:
    """Signs and reads tokens, by the server's clock."""

    def __init__(self, secret: bytes, store: Store, seconds: float) -> None:
        if len(secret) < SECRET_BYTES:
            raise Unusable(f"the secret has {len(secret)} bytes instead of {SECRET_BYTES}")
        self._secret = secret
        self._store = store
        self.seconds = seconds

    def issue(self, user: User) -> str:
        now = self._store.now_ms() / 1000
        claims = {"sub": str(user.id), "tv": user.token_version, "iat": now, "exp": now + self.seconds}
        return jwt.encode(claims, self._secret, ALGORITHM)

    def read(self, token: str) -> Token | None:
        """None when it is not one of ours, or its time is over."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                # The times are compared below: PyJWT would ask the computer's clock.
                options={"require": ["sub", "tv", "iat", "exp"], "verify_exp": False, "verify_iat": False},
            )
            found = Token(int(claims["sub"]), int(claims["tv"]), int(float(claims["exp"]) * 1000))
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            return None
        return found if found.expires_at > self._store.now_ms() else None


def read_secret(path: Path) -> bytes:
    """The secret in the file; made at the first start, for its owner only. Raises `Unusable`."""
    try:
        if not path.exists():
            _write_secret(path)
        secret = path.read_bytes()
    except OSError as error:
        raise Unusable(f"the secret {path} cannot be read or made: {error}") from error
    if len(secret) != SECRET_BYTES:
        raise Unusable(
            f"the secret {path} has {len(secret)} bytes instead of {SECRET_BYTES}: "
            "restore it, or delete it (everybody has to log in again)"
        )
    return secret


def _write_secret(path: Path) -> None:
    # Complete or not there at all: written under another name, then renamed.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with open(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0  # monotonic


class Throttle:
    """Slows guessing down: for one account from one address, and for one address over all accounts.

    Nobody is locked out for good, and guessing from one address does not keep the rightful user out at another.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, str], _Failures] = {}
        self._addresses: dict[str, _Failures] = {}

    def wait_s(self, username: str, address: str) -> float:
        """Seconds until the next attempt is looked at; 0 = now."""
        now = self._clock.monotonic()
        with self._lock:
            account = self._accounts.get((username.lower(), address), _Failures())
            pause = (
                min(LONGEST_PAUSE_S, 2.0 ** (account.count - FREE_FAILURES)) if account.count >= FREE_FAILURES else 0
            )
            wait = account.last + pause - now
            of_address = self._addresses.get(address, _Failures())
            if of_address.count >= FAILURES_PER_ADDRESS:
                wait = max(wait, of_address.last + WINDOW_S - now)
            return max(0.0, wait)

    def failed(self, username: str, address: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._forget_old(now)
            account = self._accounts.setdefault((username.lower(), address), _Failures())
            account.count, account.last = min(account.count + 1, FREE_FAILURES + 10), now
            of_address = self._addresses.setdefault(address, _Failures(0, now))
            if now - of_address.last >= WINDOW_S:
                of_address.count, of_address.last = 0, now
            of_address.count += 1

    def succeeded(self, username: str, address: str) -> None:
        """The attempt, counted as failed at first, was none."""
        with self._lock:
            self._accounts.pop((username.lower(), address), None)
            of_address = self._addresses.get(address)
            if of_address is not None and of_address.count > 0:
                of_address.count -= 1

    def _forget_old(self, now: float) -> None:
        if len(self._accounts) + len(self._addresses) < MOST_REMEMBERED:
            return
        self._accounts = {k: v for k, v in self._accounts.items() if now - v.last < LONGEST_PAUSE_S}
        self._addresses = {k: v for k, v in self._addresses.items() if now - v.last < WINDOW_S}
        if len(self._accounts) + len(self._addresses) >= MOST_REMEMBERED:
            self._accounts.clear()  # a flood of made-up names: the brake on addresses remains


PASSWORD: Final[Check] = password
