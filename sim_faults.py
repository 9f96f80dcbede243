"""The faults of the simulated terminal: which of the next calls go wrong, and how.

Only tests and people who try something inject them (docs/simulator.md lists them). This module keeps the account of
which fault meets which call; what then happens is done by `sim_terminal`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim_symbols import SetupError

_ANY = ("none", "delay", "hang")
READS = ("positions_get", "orders_get", "positions_total", "orders_total")
_SENDS = (
    "timeout_after_fill", "timeout_not_executed", "timeout_late_fill", "none_after_fill", "none_not_executed",
    "placed_late_fill", "retcode", "retcode_after_fill", "retcode_late_fill", "partial", "requote",
)  # fmt: skip
_DETAILS = {
    "none": {"code", "text", "drop"},
    "delay": {"seconds", "after"},
    "hang": {"after", "gil"},
    "other_login": {"login"},
    "late": {"seconds"},
    "none_after_fill": {"code", "text", "drop"},
    "none_not_executed": {"code", "text", "drop"},
    "placed_late_fill": {"seconds"},
    "timeout_late_fill": {"seconds"},
    "retcode": {"retcode"},
    "retcode_after_fill": {"retcode"},
    "retcode_late_fill": {"retcode", "seconds"},
    "partial": {"fraction"},
}
_EVERYWHERE = {"lasts", "pid", "where"}
COPY_CALLS = ("copy_rates_from", "copy_rates_from_pos", "copy_rates_range", "copy_ticks_from", "copy_ticks_range")
API_CALLS = frozenset((
    "initialize", "login", "version", "account_info", "terminal_info", "symbols_total", "symbols_get",
    "symbol_info", "symbol_info_tick", "symbol_select", "market_book_add", "market_book_get",
    "market_book_release", "orders_total", "orders_get", "positions_total", "positions_get",
    "order_calc_margin", "order_calc_profit", "order_check", "order_send", "history_orders_total",
    "history_orders_get", "history_deals_total", "history_deals_get", *COPY_CALLS,
))  # fmt: skip


@dataclass
class Rule:
    """One injected fault: which calls of which function end how, and how often."""

    function: str
    outcome: str
    left: int | None  # calls it still applies to; None: until cleared
    details: dict[str, Any]
    expires: float  # by the broker's clock
    released: threading.Event = field(default_factory=threading.Event)

    def applies(self, name: str, args: dict[str, Any], pid: int) -> bool:
        if self.function == "*":
            reads_only = self.outcome in ("disconnected", "stale_empty")
            if name not in READS if reads_only else name in ("initialize", "login"):
                return False
        elif self.function != name:
            return False
        if not self.meets(pid):
            return False
        where = self.details.get("where") or {}
        return all(args.get(key) == value for key, value in where.items())

    def meets(self, pid: int) -> bool:
        return self.details.get("pid") in (None, pid)

    def number(self, key: str, default: float) -> float:
        return float(self.details.get(key, default))


class Faults:
    """The injected faults, oldest first. The caller holds the terminal's lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.rules: list[Rule] = []

    def add(self, function: str, outcome: str | int, times: int | None, details: dict[str, Any]) -> None:
        """Check and keep a fault; SetupError says what is allowed."""
        if isinstance(outcome, int):
            outcome, details = "retcode", {"retcode": outcome, **details}
        allowed = self._outcomes_of(function)
        if outcome not in allowed:
            raise SetupError(f"inject: {function!r} cannot end as {outcome!r}; it can: {', '.join(allowed)}")
        known = _DETAILS.get(outcome, set()) | _EVERYWHERE
        if details.keys() - known:
            wrong = ", ".join(sorted(details.keys() - known))
            raise SetupError(f"inject: {outcome} knows no {wrong}; it knows {', '.join(sorted(known))}")
        if outcome.startswith("retcode") and not isinstance(details.get("retcode"), int):
            raise SetupError("inject: retcode=N says which code")
        for key in ("seconds", "lasts", "fraction"):
            value = details.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
                raise SetupError(f"inject: {key} must be a number from 0, not {value!r}")
        if not isinstance(details.get("where", {}), dict):
            raise SetupError("inject: where must be a dict of arguments, such as {'action': 1}")
        lasts = details.get("lasts")
        expires = math.inf if lasts is None else self._clock() + lasts
        self.rules.append(Rule(function, outcome, times or None, details, expires))

    @staticmethod
    def _outcomes_of(function: str) -> tuple[str, ...]:
        if function == "*":
            return (*_ANY, "disconnected", "stale_empty")
        if function == "order_send":
            return (*_ANY, *_SENDS)
        if function in READS:
            return (*_ANY, "disconnected", "stale_empty")
        if function == "terminal_info":
            return (*_ANY, "disconnected")
        if function == "account_info":
            return (*_ANY, "other_login")
        if function.startswith("history_"):
            return (*_ANY, "late")
        if function in API_CALLS:
            return _ANY
        raise SetupError(f"inject: no function {function!r}; there are {', '.join(sorted(API_CALLS))} and *")

    def take(self, name: str, args: dict[str, Any], pid: int) -> Rule | None:
        """The fault this call meets, used up by one."""
        self._forget_spent()
        for rule in self.rules:
            if rule.outcome != "late" and rule.applies(name, args, pid):
                self._use(rule)
                return rule
        return None

    def offline(self, pid: int) -> bool:
        """Whether the terminal is to look disconnected from its server."""
        self._forget_spent()
        return bool(self.rules) and any(rule.outcome == "disconnected" and rule.meets(pid) for rule in self.rules)

    def closing_delay(self) -> int:
        """Milliseconds by which the deal that is being made reaches the history late."""
        self._forget_spent()
        for rule in self.rules:
            if rule.outcome == "late":
                self._use(rule)
                return round(rule.number("seconds", 3) * 1000)
        return 0

    def _use(self, rule: Rule) -> None:
        if rule.left is not None:
            rule.left -= 1
        self._forget_spent()

    def _forget_spent(self) -> None:
        if self.rules:
            now = self._clock()
            self.rules = [rule for rule in self.rules if rule.left != 0 and now < rule.expires]

    def clear(self) -> None:
        for rule in self.rules:
            rule.released.set()
        self.rules = []
