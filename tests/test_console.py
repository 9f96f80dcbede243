"""The copier as a person at its console sees it and types to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chain import ROOT, Chain

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminal of this kind", allow_module_level=True)

from person import Person
from test_chain import running_copier

Wait = Callable[..., None]


class Seat:
    """The chain, with the copier on a console and a person before it."""

    def __init__(self, folder: Path) -> None:
        self.chain = Chain(folder)
        running_copier(self.chain)
        self.chain.kill("copier")
        self.person = Person([sys.executable, str(ROOT / "copier.py")], folder)

    def sits_down_again(self) -> None:
        self.person.kill()
        self.person = Person([sys.executable, str(ROOT / "copier.py")], self.chain.folder)
        self.sees("connected | master_user online")

    def sees(self, words: str) -> None:
        try:
            self.chain.wait(lambda: self.person.reads(words), f"the console to show {words!r}")
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self.person.sees()])) from None

    def stop(self) -> None:
        self.person.kill()
        self.chain.stop()


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    one = Seat(tmp_path)
    try:
        yield one
    finally:
        one.stop()


def test_the_console_shows_how_it_goes_and_does_what_is_typed(seat: Seat) -> None:
    chain, person = seat.chain, seat.person
    seat.sees("connected | master_user online | copying on | copies 0/50 | lots 0/100 | drawdown 0.0/10 %")
    assert person.sees()[-1] == ">"
    stays, goes = chain.master_opens(0.2), chain.master_opens(0.4)
    seat.sees("| copies 2/50 | lots 0.3/100 |")
    assert person.screen.title.startswith("2 copies, copying on: copier 2001")

    person.types("pau")
    seat.sees("> pau")
    person.types("se\r")
    seat.sees("copying is paused (console paused, settings on)")
    refused = chain.master_opens(0.6)
    seat.sees("refused BUY EURUSD")
    chain.master_closes(goes)
    chain.wait(lambda: [c[2] for c in chain.copies()] == [0.1], "a close in spite of the pause")

    seat.sits_down_again()  # a pause that was typed outlives the program
    person = seat.person
    seat.sees("copying paused was typed at the console and holds until something else is")
    chain.master_closes(refused)
    chain.master_opens(0.8)
    seat.sees("copying is paused")
    person.types("resume\r")
    seat.sees("copying is on (console on, settings on)")
    chain.wait(lambda: [c[2] for c in chain.copies()] == [0.1, 0.4], "the trade of the pause, which is young enough")

    person.types("flatten\r")
    seat.sees("This closes every copy at market and opens nothing more. Type yes, and Enter.")
    assert len(chain.copies()) == 2
    person.types("yes\r")
    chain.wait(lambda: chain.copies() == [], "every copy to be closed")
    seat.sees("copying flatten")
    seat.sits_down_again()
    chain.master_opens(0.2)
    seat.sees("copying is flatten")
    seat.person.types("status\r")
    seat.sees("status: connected")
    seat.person.types("resume\r")
    chain.wait(lambda: [c[2] for c in chain.copies()] == [0.1], "what is new to be copied")
    chain.master_closes(stays)

    seat.person.types("\x03")
    seat.sees("ended")
    assert seat.person.ends() == 0


def test_a_copier_that_had_to_stop_says_why_on_the_console(seat: Seat) -> None:
    seat.sees("connected | master_user online")
    chain = seat.chain
    elsewhere = chain.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config_client.json").write_text((chain.folder / "config_client.json").read_text())
    home, chain.folder = chain.folder, elsewhere
    chain.start("copier")
    chain.folder = home
    seat.sees("two copiers on one account would fight")
    assert seat.person.ends() == 1


# ---- letters

ECHO = """
import sys
from keyboard import Keyboard
def typed(line): print("line", repr(line), flush=True)
def typing(text): print("so far", repr(text), flush=True)
keyboard = Keyboard(live=True, typed=typed, typing=typing, interrupt=lambda: None)
print("ready", flush=True)
keyboard._thread.join()
"""


def test_letters_are_taken_back_and_other_keys_are_ignored(tmp_path: Path, wait_until: Wait) -> None:
    person = Person([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){ECHO}"], tmp_path)
    try:
        wait_until(lambda: "ready" in person.sees())
        person.types("pux\x7f\x7fause")
        wait_until(lambda: person.reads("so far 'pause'"))
        person.types("\x1b[A")
        person.types("\r")
        wait_until(lambda: "line 'pause'" in person.sees())
        person.types("não\x15\x15ok\n")
        wait_until(lambda: "line 'ok'" in person.sees())
        assert person.reads("so far 'não'")
    finally:
        person.kill()
