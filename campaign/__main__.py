"""The long trials: python run.py campaign NAME [options]; --help after each tells its options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

CAMPAIGNS: Final = ("faults", "kills", "trades", "calls", "fuzz")


def main(arguments: Sequence[str]) -> int:
    """Run one campaign; its exit code."""
    name, *rest = arguments or ("--help",)
    if name in CAMPAIGNS:
        return int(import_module(f"campaign.{name}").main(rest))
    print("python run.py campaign NAME [options]\n")
    for known in CAMPAIGNS:
        first = (import_module(f"campaign.{known}").__doc__ or "").partition("\n")[0]
        print(f"  {known:8} {first}")
    return 0 if name in ("help", "-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
