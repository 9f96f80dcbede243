"""Trading sessions: the hours of the week in which a symbol is traded, by the clock of the trade server."""

from __future__ import annotations

import re
from functools import lru_cache

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MSC = 86_400_000
CLOSED = "closed"
_SESSION = re.compile(r"(\w{3})(?:-(\w{3}))? (\d\d):(\d\d)-(\d\d):(\d\d)")


@lru_cache(maxsize=256)
def sessions_in(text: str) -> tuple[tuple[int, int], ...]:
    """Minutes of the week (from Monday 00:00) at which each session begins and ends; ValueError says what is wrong.

    "Mon-Fri 09:00-17:55, Sun 22:00-24:00"; "closed" has none.
    """
    if text == CLOSED:
        return ()
    sessions: list[tuple[int, int]] = []
    for part in text.split(","):
        found = _SESSION.fullmatch(part.strip())
        first, last = (found[1], found[2] or found[1]) if found else ("", "")
        if not found or first not in DAYS or last not in DAYS:
            raise ValueError(
                f'{part.strip()!r} is no session; one is written "Mon-Fri 09:00-17:55" or "Sun 22:00-24:00"'
            )
        begins, ends = int(found[3]) * 60 + int(found[4]), int(found[5]) * 60 + int(found[6])
        if DAYS.index(first) > DAYS.index(last) or not 0 <= begins < ends <= 1440:
            raise ValueError(f"{part.strip()!r} ends before it begins")
        days = range(DAYS.index(first), DAYS.index(last) + 1)
        sessions += [(day * 1440 + begins, day * 1440 + ends) for day in days]
    return tuple(sessions)


def weekday(now_msc: int) -> int:
    """Monday is 0."""
    return (now_msc // DAY_MSC + 3) % 7  # the epoch was a Thursday


def is_open(text: str, now_msc: int) -> bool:
    """Whether a symbol with these sessions trades now. Empty: always."""
    if not text:
        return True
    minute = weekday(now_msc) * 1440 + now_msc % DAY_MSC // 60_000
    return any(begins <= minute < ends for begins, ends in sessions_in(text))
