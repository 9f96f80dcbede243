"""What the server keeps, as objects: users and their settings, masters and their senders, changes, answers to posts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol

from safety import Copying, Mode, Sizing
from signals import Change, Source


class Clock(Protocol):
    """Where times come from; the module `time` is one."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...


class Role(StrEnum):
    """What a user may do: see `routes.py`."""

    ADMIN = "admin"
    MASTER = "master"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class User:
    id: int
    username: str
    password: str = field(repr=False)  # hash
    role: Role
    active: bool
    token_version: int
    created_at: int  # UTC ms
    expires_at: int | None  # UTC ms, None = never

    @property
    def publishes(self) -> bool:
        return self.active and self.role in (Role.MASTER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class UserConfig:
    """What a user has set up on the server."""

    trade_copy: Mapping[str, Any]  # sizing and limits, each optional
    copying: Copying
    follow: tuple[str, ...] | None  # masters, None = all

    @property
    def sizing(self) -> Sizing | None:
        """The rule for volumes; None when the user has set none, so that the master's volume is shown."""
        if "mode" not in self.trade_copy:
            return None
        return Sizing(
            Mode(self.trade_copy["mode"]),
            Decimal(self.trade_copy.get("fixed_lot", 0)),
            Decimal(self.trade_copy.get("multiplier", 1)),
        )

    def as_message(self) -> dict[str, Any]:
        return {
            "trade_copy": dict(self.trade_copy),
            "copying": self.copying,
            "follow": None if self.follow is None else list(self.follow),
        }


NO_CONFIG: Final = UserConfig({}, Copying.ON, None)


@dataclass(frozen=True, slots=True)
class Master:
    """What the server knows about a master's sender now."""

    name: str
    reported_at: int | None  # UTC ms of the last whole book, None = never to this database
    online: bool
    since: int | None  # UTC ms: of the first book after a silence, or of the last book before it
    account: Mapping[str, Any] | None

    def as_message(self) -> dict[str, Any]:
        return {"master": self.name, "reported_at": self.reported_at, "online": self.online, "since": self.since}


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender's session that may post for a master."""

    session: str
    rev: int
    reported_at: int
    online_since: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One numbered change, as it is in the log."""

    seq: int
    at: int  # UTC ms
    change: Change
    close_price: Decimal | None = None
    profit: Decimal | None = None
    detected_at: int | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """What comes with a post about trades, beside the trade itself."""

    session: str | None = None  # of a sender; None = a script, a web-hook, the dashboard
    rev: int = 0
    key: str | None = None  # Idempotency-Key
    fingerprint: str = ""  # hash of what was posted, to compare under the same key
    detected_at: int | None = None
    as_of: int | None = None  # UTC ms of this server's clock as the sender knows it: when ages were measured
    audience: int = 0  # connections that will be told, for the answer

    @property
    def source(self) -> Source:
        return Source.MANUAL if self.session is None else Source.TERMINAL


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a post, and the changes to tell the followers, in order."""

    status: int
    answer: dict[str, Any]
    entries: tuple[Entry, ...] = ()


def refusal(status: int, code: str, message: str) -> Outcome:
    return Outcome(status, {"error": {"code": code, "message": message}})


def wrong_field(field: str, problem: str) -> Outcome:
    """A field that only what is stored shows to be wrong; answered like those that are wrong by themselves."""
    return Outcome(422, {"error": {"code": "bad_field", "message": f"{field}: {problem}", "field": field}})


class Attempted(StrEnum):
    """What is counted, so that nobody does too much of it."""

    LOG_IN = "log_in"
    REGISTER = "register"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that was counted."""

    number: int
    known: bool  # from an address from which the account's user has logged in before


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many attempts within so many seconds: for one account, from one address, both, or over all."""

    most: int
    seconds: int
    of_account: bool = False
    of_address: bool = False
    spares_known: bool = False  # does not hold for addresses from which the account's user has logged in before
