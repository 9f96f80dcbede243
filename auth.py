"""Passwords, tokens, the secret that signs them, and the brake on guessing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ipaddress
import os
import random
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import jwt
from werkzeug.security import check_password_hash, generate_password_hash

import windows
from database import Unusable
from db import Store
from records import Attempt, Attempted, Limit, User
from signals import Check

Result = TypeVar("Result")

ALGORITHM: Final = "HS256"
SECRET_BYTES: Final = 32
COMMON_PASSWORDS: Final = Path(__file__).resolve().parent / "common_passwords.txt"
HASH_METHOD: Final = "scrypt:32768:8:3"  # some 260 ms and 32 MiB each
HASHES_AT_ONCE: Final = 3
OF_STRANGERS_AT_ONCE: Final = 2  # of these; the others are for users who come from where they came from before
HASH_PATIENCE_S: Final = 10.0
MOST_THAT_WAIT: Final = 100_000  # threads that could ever wait for their turn
LOWER_PRIORITY: Final = 10  # how much nicer than the rest the threads that hash are
SHORTEST_LIFE: Final = 0.8  # of the longest that a token lives
TOKENS_REMEMBERED: Final = 10_000

WRONG_PASSWORDS: Final = (
    Limit(5, 60, of_account=True, of_address=True),
    Limit(30, 3600, of_account=True, of_address=True),
    Limit(10, 60, of_account=True, spares_known=True),  # from many addresses together
    Limit(100, 3600, of_account=True, spares_known=True),
    Limit(30, 60, of_address=True),  # whatever the account
    Limit(300, 3600, of_address=True),
)
REGISTRATIONS: Final = (Limit(10, 3600, of_address=True), Limit(100, 3600))


def password(value: Any) -> str:
    """A check for `signals.read_fields`: 8 to 128 characters, and not one of those that everybody tries first."""
    if type(value) is not str or not 8 <= len(value) <= 128 or re.search("[\ud800-\udfff]", value):
        raise ValueError("must be 8 to 128 characters")
    if value.lower() in common_passwords():
        raise ValueError("must not be one of the most common passwords")
    return value


@functools.cache
def common_passwords() -> frozenset[str]:
    lines = COMMON_PASSWORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("# ") for word in line.split())


def nobodys_hash() -> str:
    """That of no password; checked in place of an unknown user's, so that the answer takes the same time."""
    return f"{HASH_METHOD}${secrets.token_urlsafe(12)}${secrets.token_hex(64)}"


class Busy(Exception):
    """Too many passwords are being checked at once."""


class Passwords:
    """Makes and checks password hashes, few at a time and when nobody else wants the processor: a flood of log-ins must
    leave it to the signals. And it must leave a turn to users who are known: strangers wait among themselves."""

    def __init__(self, method: str = HASH_METHOD, threads: Executor | None = None) -> None:
        """`threads`: who does the work, in place of threads of its own."""
        self._method = method
        self._threads = threads or ThreadPoolExecutor(HASHES_AT_ONCE, "passwords", let_others_go_first)
        self._for_strangers = threading.Semaphore(OF_STRANGERS_AT_ONCE)

    def close(self) -> None:
        """Leave undone what waits: whoever asked for it is told `Busy`."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._for_strangers.release(MOST_THAT_WAIT)

    def _in_turn(self, work: Callable[[], Result], *, known: bool) -> Result:
        deadline = time.monotonic() + HASH_PATIENCE_S
        if not known and not self._for_strangers.acquire(timeout=HASH_PATIENCE_S):
            raise Busy
        try:
            turn = self._threads.submit(work)
        except RuntimeError as error:  # closed
            raise Busy from error
        if not known:
            turn.add_done_callback(lambda _: self._for_strangers.release())
        try:
            return turn.result(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, CancelledError) as error:
            turn.cancel()
            raise Busy from error

    def hashed(self, plain: str, *, known: bool = False) -> str:
        """`known`: for a user who is not a stranger. Raises `Busy`."""
        return self._in_turn(lambda: generate_password_hash(plain, self._method), known=known)

    def is_outdated(self, user: User) -> bool:
        """Whether the hash was not made with the work that is asked for today."""
        return not user.password.startswith(self._method + "$")

    def fits(self, user: User | None, plain: str, *, known: bool = False) -> bool:
        """Whether this is the user's password; for None it never is, after the same time. `known`: he comes from an
        address from which he has logged in before. Raises `Busy`."""
        stored = user.password if user else nobodys_hash()
        return self._in_turn(lambda: check_password_hash(stored, plain), known=known) and user is not None


def let_others_go_first() -> None:
    """Lower the priority of the thread that calls this, where the system has one for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not allowed where somebody has locked this process in: then as it was
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + LOWER_PRIORITY)
    elif sys.platform == "win32":
        windows.lower_priority()


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
        # A token comes with every request. What its signature covers cannot change; a bad one raises, and is not kept.
        self._signed = functools.lru_cache(TOKENS_REMEMBERED)(self._verified)

    def drawn_life(self) -> float:
        """Seconds, drawn anew for each: users that logged in together do not all have to come back together."""
        return self.seconds * random.uniform(SHORTEST_LIFE, 1)  # noqa: S311 - no secret

    def issue(self, user: User, seconds: float | None = None) -> str:
        now = self._store.now_ms() / 1000
        claims = {"sub": str(user.id), "tv": user.token_version, "iat": now, "exp": now + (seconds or self.seconds)}
        return jwt.encode(claims, self._secret, ALGORITHM)

    def read(self, token: str) -> Token | None:
        """None when it is not one of ours, or its time is over."""
        try:
            found = self._signed(token)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            return None
        return found if found.expires_at > self._store.now_ms() else None

    def _verified(self, token: str) -> Token:
        claims = jwt.decode(
            token,
            self._secret,
            algorithms=[ALGORITHM],
            # The times are compared by `read`: PyJWT would ask the computer's clock.
            options={"require": ["sub", "tv", "iat", "exp"], "verify_exp": False, "verify_iat": False},
        )
        return Token(int(claims["sub"]), int(claims["tv"]), int(float(claims["exp"]) * 1000))


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


# --- the brake -------------------------------------------------------------------------------------------------------


class TooFast(Exception):
    """Tried too often; `wait_s` until the next attempt is looked at."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"wait {wait_s:.0f} s")
        self.wait_s = wait_s


def network_of(address: str) -> str:
    """Whom an address stands for: of IPv6 the first half, because the other half is chosen by whoever has it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Brake:
    """Slows guessing and registering down, before the slow work is done.

    Nobody is locked out for good, and guessing does not keep the rightful user out at an address from which he has
    logged in before. What is counted is in the database: a restart gives no new attempts.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def log_in(self, username: str, address: str) -> Attempt:
        """Count an attempt as failed, so that attempts side by side all count. Raises `TooFast`."""
        return self._attempt(Attempted.LOG_IN, _account(username), address, WRONG_PASSWORDS)

    def register(self, username: str, address: str) -> Attempt:
        """Count a registration. Raises `TooFast`."""
        return self._attempt(Attempted.REGISTER, _account(username), address, REGISTRATIONS)

    def _attempt(self, what: Attempted, account: str, address: str, limits: Sequence[Limit]) -> Attempt:
        found = self._store.attempt(what, account, network_of(address), limits)
        if not isinstance(found, Attempt):
            raise TooFast(found / 1000)
        return found

    def succeeded(self, attempt: Attempt, username: str, address: str) -> None:
        """The attempt, counted as failed at first, was none; the address is known from now on."""
        self._store.attempt_succeeded(attempt.number, _account(username), network_of(address))

    def forgive(self, username: str) -> None:
        """The attempts of this account count no more: it has another password now."""
        self._store.forget_attempts_of(_account(username))

    def undone(self, attempt: Attempt) -> None:
        """The attempt was not looked at."""
        self._store.forget_attempt(attempt.number)


def _account(username: str) -> str:
    """How the database names an account that somebody tries: people type their passwords where the name belongs."""
    return hashlib.sha256(username.lower().encode()).hexdigest()[:32]


PASSWORD: Final[Check] = password
