"""The clocks of this computer, and that of another one as it shows in what comes from there."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Final

WINDOW_S: Final = 300.0  # for so long (twice at most) the showing with the least delay counts


class AwakeClock:
    """The clocks of this computer, and both go on while it sleeps.

    The module `time` has none such on Linux: its monotonic clock stands still then (man 2 clock_gettime). That of
    Windows does not (GetTickCount64 until Python 3.12, QueryPerformanceCounter since; Microsoft's pages on both).
    """

    @staticmethod
    def time() -> float:
        return time.time()

    @staticmethod
    def monotonic() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@dataclass(frozen=True, slots=True)
class RemoteClock:
    """Another computer's clock, carried on by the own monotonic clock between its showings.

    What has been delayed shows too early a time. So of all showings the one with the least delay counts, out of the
    last minutes only: the clock follows when the other one is set back, and when the two drift.
    """

    window_s: float = WINDOW_S
    window_began: float = 0.0
    ahead: tuple[int, ...] = ()  # ms from monotonic to remote time: the best of this window, and of the one before

    def shown(self, ms: int, now: float) -> RemoteClock:
        """`ms` by the other clock came in at `now`, monotonic seconds."""
        ahead = ms - int(now * 1000)
        if not self.ahead or now - self.window_began > self.window_s:
            return replace(self, ahead=(ahead, *self.ahead[:1]), window_began=now)
        return replace(self, ahead=(max(ahead, self.ahead[0]), *self.ahead[1:]))

    def now_ms(self, now: float) -> int | None:
        """The other clock's time, in ms; None while it has shown nothing."""
        return max(self.ahead) + int(now * 1000) if self.ahead else None
