"""Measurements: python run.py bench [NAME] [options]; --help after each tells its options.

They are no tests: a machine that is busy makes them slow, not wrong. Without a name a short version of all is run and
its results are written into docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

MEASUREMENTS: Final = ("all", "fanout", "stalled", "soak", "latency", "growth", "attack", "carriers")


def main(arguments: Sequence[str]) -> int:
    """Run one measurement; its exit code."""
    name, rest = (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("all", arguments)
    if name in MEASUREMENTS and list(arguments) not in (["-h"], ["--help"]):
        return int(import_module(f"bench.{name}").main(rest))
    print("python run.py bench [NAME] [options]; without a name: all\n")
    for known in MEASUREMENTS:
        first = (import_module(f"bench.{known}").__doc__ or "").partition("\n")[0]
        print(f"  {known:8} {first}")
    return 0 if name in ("help", "all") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
