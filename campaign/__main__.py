"""The long trials: python run.py campaign faults|kills|trades [options]; --help after each tells its options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from campaign import faults, kills, trades

CAMPAIGNS: Final[dict[str, Callable[[list[str]], int]]] = {
    "faults": faults.main,
    "kills": kills.main,
    "trades": trades.main,
}


def main(arguments: Sequence[str]) -> int:
    """Run one campaign; its exit code."""
    name, *rest = arguments or ("--help",)
    if name not in CAMPAIGNS:
        print("python run.py campaign NAME [options]\n")
        for known, campaign in CAMPAIGNS.items():
            first = (sys.modules[campaign.__module__].__doc__ or "").partition("\n")[0]
            print(f"  {known:8} {first}")
        return 0 if name in ("help", "-h", "--help") else 2
    return CAMPAIGNS[name](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
