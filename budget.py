"""How much somebody may ask for: so much at once, and so much in the long run. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """What is left of `most`, which grows back by `per_s`."""

    most: float
    per_s: float
    left: float
    at: float  # seconds, by a clock that only goes forward

    @classmethod
    def full(cls, most: float, per_s: float, now: float) -> Budget:
        return cls(most, per_s, most, now)

    def left_at(self, now: float) -> float:
        """Below 0: more has been spent than there was."""
        return min(self.most, self.left + (now - self.at) * self.per_s)

    def spend(self, amount: float, now: float) -> float:
        """What is left after it."""
        self.left, self.at = self.left_at(now) - amount, now
        return self.left
