"""What a person sees of the console: the log, the line that stays, the line that is being typed."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pyte
import pytest

import screen
from screen import Screen


class Shown(io.StringIO):
    """A terminal of 60 columns in memory. As long as `stuck` is set nothing can be written, as while text is marked."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.seen = pyte.Screen(60, 12)
        self._stream = pyte.Stream(self.seen)

    def write(self, text: str) -> int:
        if not self.free.is_set():
            self.stuck.set()
            self.free.wait()
        self._stream.feed(text.replace("\n", "\r\n"))
        return super().write(text)

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.seen.display if line.strip()]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setattr("screen.Screen._columns", lambda *_: 60)
    return Shown()


Wait = Callable[..., None]


def test_the_status_stays_below_the_log_that_scrolls(shown: Shown, wait_until: Wait) -> None:
    console = Screen(shown, live=True)
    console.show("connected | copies 3", "3 copies")
    for n in range(30):
        console.say(f"line {n}")
        wait_until(lambda n=n: f"line {n}" in shown.lines())
    wait_until(lambda: shown.lines()[-2:] == ["connected | copies 3", ">"])
    assert shown.lines()[:-2] == [f"line {n}" for n in range(20, 30)]
    assert shown.seen.title == "3 copies"
    console.close(10)
    assert shown.lines()[-1] == "line 29", "it is gone when the program has ended"


def test_another_status_takes_the_place_of_the_last(shown: Shown, wait_until: Wait) -> None:
    console = Screen(shown, live=True)
    console.say("begun")
    for words in ("a long line of words", "short"):
        console.show(words, "title")
        wait_until(lambda words=words: shown.lines() == ["begun", words, ">"])
    console.close(10)


def test_a_status_longer_than_the_window_is_cut_and_breaks_nothing(shown: Shown, wait_until: Wait) -> None:
    console = Screen(shown, live=True)
    console.show("x" * 200, "title")
    console.say("one")
    console.say("two")
    wait_until(lambda: shown.lines() == ["one", "two", "x" * 59, ">"])
    console.close(10)


def test_a_status_is_cut_between_its_parts_and_never_in_a_number(shown: Shown, wait_until: Wait) -> None:
    console = Screen(shown, live=True)
    console.show("connected | master_user online | drawdown 9.9/10 % | equity 10003.50 USD | more", "title")
    wait_until(lambda: shown.lines() == ["connected | master_user online | drawdown 9.9/10 %", ">"])
    console.close(10)


def test_what_is_being_typed_stays_below_everything(shown: Shown, wait_until: Wait) -> None:
    console = Screen(shown, live=True)
    console.show("status", "title")
    console.typing("pau")
    console.say("one")
    wait_until(lambda: shown.lines() == ["one", "status", "> pau"])
    console.typing("y" * 200)
    wait_until(lambda: shown.lines() == ["one", "status", "> " + "y" * 57])
    console.close(10)


def test_nobody_waits_for_a_console_in_which_text_is_marked(shown: Shown, wait_until: Wait) -> None:
    shown.free.clear()
    console = Screen(shown, live=True)
    console.show("status", "title")
    console.say("one")
    assert shown.stuck.wait(30)
    for n in range(screen.MOST_WAITING + 5):
        console.say(f"line {n}")
    shown.free.set()
    console.close(30)
    said = shown.getvalue()
    assert "... 5 lines are not shown here; they are in the log file" in said
    assert f"line {screen.MOST_WAITING + 4}\n" in said
    assert "line 4\n" not in said


def test_nothing_that_came_from_outside_moves_the_cursor(shown: Shown) -> None:
    for live in (True, False):
        console = Screen(shown, live=live)
        console.say("a\x1b[2Jb\x07c\x9bd")
        console.show("s\x1b[2J", "t\x07u")
        console.close(10)
    assert "\x1b[2J" not in shown.getvalue()
    assert "t\x07u" not in shown.getvalue()
    assert "a [2Jb c d" in shown.getvalue()


def test_where_the_output_is_no_terminal_there_is_the_log_and_nothing_else(shown: Shown) -> None:
    console = Screen(shown, live=False)
    console.show("status", "title")
    console.typing("pau")
    console.say("one\ntwo")
    console.close(10)
    assert shown.getvalue() == "one\ntwo\n"


def test_a_console_that_is_gone_disturbs_nobody() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("gone")

    console = Screen(Gone(), live=True)
    console.say("one")
    console.show("status", "title")
    console.close(10)
    assert not console._thread.is_alive()
