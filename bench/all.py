"""Every measurement in turn; the results go into docs/benchmarks.md, between its two marks.

What cannot be measured on this computer stands there with the reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import fanout, growth, latency, soak, stalled
from bench.rig import PEERS, ROOT, Goal, NotHere, load, machine

PAGE: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- What follows is written by `python run.py bench`. -->"
END: Final = "<!-- What python run.py bench writes ends here. -->"
FOR_GOALS: Final = ((1000, (fanout.OURS, fanout.WEBSOCKETS, fanout.C)), (2000, (fanout.OURS, fanout.WEBSOCKETS)))


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    name: str
    sizes: Sequence[int]  # followers, of every server
    signals: int
    repetitions: int  # of what the goals are about, with 100 signals each
    rounds: int  # with a follower that does not read
    copiers: Sequence[int]
    trades: int
    soak_minutes: float


SHORT: Final = Extent("short", (1, 100, 1000), 30, 2, 1, (1, 10), 8, 0.5)
FULL: Final = Extent("full", fanout.SIZES, 30, 3, 3, (1, 10, 50), 10, 1.0)


@dataclass
class Page:
    goals: list[Goal] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    failed: bool = False

    def section(self, title: str, measure: Callable[[], Sequence[str]]) -> None:
        say(f"\n== {title}")
        began = time.monotonic()
        try:
            lines = measure()
        except NotHere as why:
            say(f"NOT MEASURED: {why}")
            lines = [f"**Not measured**: {why}."]
        except (AssertionError, OSError, RuntimeError) as error:  # what the other measurements found is kept
            self.failed = True
            lines = [f"**Failed**: {str(error).strip().splitlines()[0] if str(error).strip() else repr(error)}"]
            say(f"FAILED: {error}")
        self.sections.append("\n".join([f"### {title}", "", *lines, ""]))
        say(f"({time.monotonic() - began:.0f} s)")

    def text(self, extent: Extent, load_before: float) -> str:
        goals = ["| goal | wanted | found | |", "|---|---|---|---|", *(goal.row() for goal in self.goals)]
        day = time.strftime("%Y-%m-%d", time.gmtime())
        about = f"{day}, the {extent.name} run, on {machine()}. Load of the last minute before it: {load_before:.1f}."
        return "\n".join(["## Results", "", about, "", "### Goals", "", *goals, "", *self.sections])


def say(words: str) -> None:
    print(words, flush=True)


def measured(extent: Extent, soak_minutes: float) -> Page:
    page = Page()

    def fan_out() -> Sequence[str]:
        names = [fanout.OURS, *PEERS]
        results = fanout.run([50], [fanout.OURS], 2, 100, 0, say)
        for followers, needed in FOR_GOALS:
            fanout.run([followers], needed, extent.repetitions, 100, 2, say, results)
        fanout.run(extent.sizes, names, 1, extent.signals, 1, say, results)
        page.goals += results.goals()
        return fanout.table(results, names)

    def one_stalled() -> Sequence[str]:
        found = stalled.run(extent.rounds, say)
        page.goals += found.goals()
        return found.lines()

    def soaked() -> Sequence[str]:
        found = soak.run(soak_minutes)
        page.goals += found.goals()
        return found.lines()

    def grown() -> Sequence[str]:
        found = growth.run(list(growth.KINDS), say)
        page.goals += growth.goals(found)
        return [line for one in found for line in ("", *one.lines())][1:]

    page.section("Fan-out, beside other servers (milliseconds)", fan_out)
    page.section("A follower that does not read", one_stalled)
    page.section("For minutes", soaked)
    page.section("What it costs when there is more", grown)
    page.section(
        "The whole chain (milliseconds)",
        lambda: latency.lines({copiers: latency.run(copiers, extent.trades) for copiers in extent.copiers}),
    )
    return page


def write(page: Path, results: str) -> None:
    """Put the results between the marks; what people have written around them stays."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page.name} has lost its marks, between which the results stand: {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{results}\n{END}{after}", encoding="utf-8", newline="\n")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="some 12 minutes instead of 5")
    parser.add_argument("--soak-minutes", type=float, help="another duration of the soak")
    parser.add_argument("--print-only", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args(arguments)
    extent = FULL if options.full else SHORT
    load_before = load()
    say(f"{machine()}; load {load_before:.1f}")
    page = measured(extent, options.soak_minutes or extent.soak_minutes)
    results = page.text(extent, load_before)
    say(results)
    if not options.print_only:
        write(PAGE, results)
        say(f"written into {PAGE.relative_to(ROOT).as_posix()}")
    return 1 if page.failed else 0
