"""The clock of another computer, as it shows in what comes from there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

WINDOW_S: Final = 300.0  # for so long (twice at most) the showing with the least delay counts


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
        if ahead <= self.ahead[0]:
            return self
        return replace(self, ahead=(ahead, *self.ahead[1:]))

    def now_ms(self, now: float) -> int | None:
        """The other clock's time, in ms; None while it has shown nothing."""
        return max(self.ahead) + int(now * 1000) if self.ahead else None
