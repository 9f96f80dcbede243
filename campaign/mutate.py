"""Takes rules out of the product, one at a time, and has the campaign find out: python run.py mutate faults.

Each mutant of `mutants.py` is a copy of the product in a folder of its own. Its campaign begins at the seed that is
known to catch it, so this shows that the rules are still watched; `--seed 1` shows after how many schedules a campaign
that knows nothing catches them. What survives alone is tried together with its declared pair.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from campaign.faults import memory_folder
from campaign.mutants import MUTANTS, Change, Mutant

ROOT: Final = Path(__file__).resolve().parent.parent
VIOLATION: Final = re.compile(r"^VIOLATION  --replay (\d+).*\n  (.*)$", re.MULTILINE)
# A violation that only says that the mutant does not work at all is no proof that its rule is watched.
BROKEN: Final = re.compile(r"(NameError|AttributeError|SyntaxError|ImportError|IndentationError|TypeError)\b")


class Moved(Exception):
    """The code has moved on: a mutant's old text does not stand exactly once in its file."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What came of one mutant."""

    mutant: Mutant
    together: bool  # with its pair
    schedules: int  # until it was caught; 0 = it survived
    at: int  # the seed that caught it
    seconds: float
    words: str  # the first violation, or what went wrong


def changed(name: str, text: str, changes: Iterable[Change]) -> str:
    """The text of the file `name` with its changes. Raises `Moved`."""
    for file, old, new in changes:
        if file != name:
            continue
        if (count := text.count(old)) != 1:
            raise Moved(f"{name} has the text {old!r} {count} times instead of once: see campaign/mutants.py")
        text = text.replace(old, new)
    return text


def plant(folder: Path, changes: Sequence[Change]) -> None:
    """The product with these changes, in `folder`. Raises `Moved`."""
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sql")):
        shutil.copy(path, folder / path.name)
    shutil.copytree(ROOT / "campaign", folder / "campaign", ignore=shutil.ignore_patterns("__pycache__"))
    for name in {file for file, _, _ in changes}:
        path = folder / name
        path.write_text(changed(name, path.read_text("utf-8"), changes), "utf-8")


def named(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def try_out(mutant: Mutant, *, together: bool, schedules: int, seed: int | None = None) -> Fate:
    """The campaign against one mutant, alone or with its pair. Raises `Moved`."""
    changes = mutant.changes + (named(mutant.pair).changes if together else ())
    first = mutant.seed if seed is None else seed
    began = time.monotonic()
    with memory_folder() as folder:
        plant(folder, changes)
        command = [sys.executable, "-m", "campaign.faults", "--schedules", str(schedules), "--seed", str(first)]
        done = subprocess.run(
            [*command, "--stop-at-first", "--jobs", "1"],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    seconds = time.monotonic() - began
    found = VIOLATION.search(done.stdout)
    if found is not None and not BROKEN.search(found[2]):
        at = int(found[1])
        return Fate(mutant, together, at - first + 1, at, seconds, found[2])
    words = "survived" if done.returncode == 0 else found[2] if found else done.stderr.strip()[-300:]
    return Fate(mutant, together, 0, 0, seconds, words)


def without_change(seeds: Iterable[int]) -> str:
    """What is wrong in these schedules with the product as it is: nothing, or their violations prove nothing."""
    code = "import sys; from campaign.faults import trial; print([trial(int(s))[0].broken for s in sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, sorted(set(seeds)))],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip()[-300:]
    return "" if re.fullmatch(r"\[(\[\](, )?)*\]", done.stdout.strip()) else done.stdout.strip()


def fate_of(mutant: Mutant, schedules: int, seed: int | None = None) -> Fate:
    """Alone when it has no pair; with it when it has one: alone it may survive."""
    return try_out(mutant, together=bool(mutant.pair), schedules=schedules, seed=seed)


def fastest(count: int) -> list[Mutant]:
    """Those that a campaign from seed 1 catches soonest."""
    return sorted((m for m in MUTANTS if not m.pair and not m.unseen), key=lambda mutant: mutant.seed)[:count]


def row(fate: Fate) -> str:
    name = f"{fate.mutant.name} + {fate.mutant.pair}" if fate.together else fate.mutant.name
    caught = f"seed {fate.at}, {fate.schedules} tried" if fate.schedules else "NOT CAUGHT"
    return f"{name:<62} {caught:<22} {fate.seconds:6.1f} s  {fate.words}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py mutate", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("what", choices=["faults"], help="the campaign that must catch the mutants")
    parser.add_argument("--only", metavar="NAME", help="this mutant alone")
    parser.add_argument("--fastest", type=int, metavar="N", help="those N that are caught soonest")
    parser.add_argument("--schedules", type=int, default=400, help="at most so many each (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="begin at this one instead of at the one that is known to catch it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at once (default: %(default)s)")
    options = parser.parse_args(argv)
    chosen = fastest(options.fastest) if options.fastest else [mutant for mutant in MUTANTS if not mutant.unseen]
    if options.only:
        chosen = [mutant for mutant in MUTANTS if mutant.name == options.only]
        if not chosen:
            parser.error("there is no mutant of that name; there are: " + ", ".join(m.name for m in MUTANTS))
    if wrong := without_change([mutant.seed for mutant in chosen] if options.seed is None else []):
        print(f"the product as it is has violations already, nothing is proved by mutants:\n{wrong}", file=sys.stderr)
        return 1
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        tried = [pool.submit(fate_of, mutant, options.schedules, options.seed) for mutant in chosen]
        try:
            for waiting in as_completed(tried):
                fate = waiting.result()
                missed += not fate.schedules
                print(row(fate), flush=True)
        except Moved as problem:
            pool.shutdown(cancel_futures=True)
            print(problem, file=sys.stderr)
            return 1
    print(f"{len(chosen)} mutants, {missed} not caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
