"""The supervising process with small working parts: when it starts one again, what it hands on, how it ends."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from screen import Screen
from supervisor import Command, Supervisor

# A working part that does what its next line says; `starts` counts how often one was begun.
WORKER = """
import json, sys, os
from pathlib import Path
starts = Path(sys.argv[1])
with open(starts, "a") as file: print(*sys.argv[2:], file=file)
start = len(starts.read_text().splitlines())
def tell(**message): print(json.dumps(message), flush=True)
settings = json.loads(sys.stdin.readline())["settings"]
"""


class Desk:
    """A supervisor with a working part of Python lines, and all that it shows."""

    def __init__(
        self, folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch, once: list[str] | None = None
    ) -> None:
        monkeypatch.setattr("supervisor.FIRST_PAUSE_S", 0.01)
        script = folder / "part.py"
        script.write_text(WORKER + lines)
        self.starts = folder / "starts.txt"
        self.stop = threading.Event()
        self.out = io.StringIO()
        self.screen = Screen(self.out, live=False)
        self.recorded: list[str] = []
        self.supervisor = Supervisor(
            [sys.executable, str(script), str(self.starts)],
            once or [],
            b'{"x": 1}',
            {"pause": Command("stand still"), "flatten": Command("close all", ask="Really?")},
            self.screen,
            self.recorded.append,
            self.stop,
            lambda: self.screen.say("looked at all"),
        )
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def begins(self) -> None:
        self._thread.start()

    def ends(self) -> int | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.screen.close(10)
        return self.code

    def said(self) -> str:
        return self.out.getvalue()

    def started(self) -> list[str]:
        return self.starts.read_text().splitlines() if self.starts.exists() else []


Make = Callable[..., Desk]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda lines, once=None: Desk(tmp_path, lines, monkeypatch, once)


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_an_end_that_was_announced_is_the_end(make: Make, code: int) -> None:
    desk = make(f"tell(end={code}); sys.exit({code})")
    desk.begins()
    assert desk.ends() == code
    assert len(desk.started()) == 1


@pytest.mark.parametrize("crash", ["os._exit(0)", "os._exit(1)", "1/0", "os.abort()"])
def test_an_end_that_was_not_announced_is_a_crash_and_the_work_goes_on(make: Make, crash: str) -> None:
    desk = make(f"if start < 4: {crash}\ntell(end=0)")
    desk.begins()
    assert desk.ends() == 0
    assert len(desk.started()) == 4
    assert desk.said().count("has crashed") == 3


def test_the_last_words_of_a_crash_are_kept_for_the_log_file(make: Make) -> None:
    desk = make("if start == 1: 1/0\ntell(end=0)")
    desk.begins()
    desk.ends()
    (recorded,) = desk.recorded
    assert "ZeroDivisionError" in recorded


def test_a_work_that_was_well_once_is_kept_going_also_when_it_cannot_start(make: Make) -> None:
    desk = make("if start == 1:\n  tell(running=True); os._exit(1)\nif start < 4: tell(end=start)\nelse: tell(end=0)")
    desk.begins()
    assert desk.ends() == 0
    assert len(desk.started()) == 4
    assert desk.said().count("could not start") == 2


def test_a_part_that_had_to_stop_is_not_started_again_however_well_it_was(make: Make) -> None:
    desk = make("tell(running=True); tell(end=1)")
    desk.begins()
    assert desk.ends() == 1
    assert len(desk.started()) == 1


def test_what_counts_for_one_start_is_not_repeated_by_the_next(make: Make) -> None:
    desk = make("if start < 3: os._exit(1)\ntell(end=0)", ["--reset-drawdown"])
    desk.begins()
    desk.ends()
    assert desk.started() == ["--reset-drawdown", "", ""]


def test_a_restarted_part_gets_the_settings_as_they_were_at_the_beginning(make: Make) -> None:
    desk = make('tell(log="settings " + settings, level=20)\nif start < 2: os._exit(1)\ntell(end=0)')
    desk.begins()
    desk.ends()
    assert desk.said().count('settings {"x": 1}') == 2


def test_a_request_to_end_closes_the_input_of_the_working_part(make: Make, wait_until: Callable[..., None]) -> None:
    desk = make('tell(log="ready", level=20)\nsys.stdin.read()\ntell(log="asked", level=20)\ntell(end=0)')
    desk.begins()
    wait_until(lambda: "ready" in desk.said())
    desk.stop.set()
    assert desk.ends() == 0
    assert "asked" in desk.said()


def test_a_part_that_does_not_end_is_ended_by_force(
    make: Make, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.END_S", 0.1)
    desk = make('tell(log="ready", level=20)\nimport time\nwhile True: time.sleep(1)')
    desk.begins()
    wait_until(lambda: "ready" in desk.said())
    desk.stop.set()
    assert desk.ends() == 0
    assert len(desk.started()) == 1


ECHO = 'for line in sys.stdin:\n  n, word = line.split()\n  tell(log="did " + word, level=20); tell(done=int(n))\n'


def test_what_is_typed_is_handed_on(make: Make, wait_until: Callable[..., None]) -> None:
    desk = make(ECHO)
    desk.begins()
    desk.supervisor.type("Pause")
    wait_until(lambda: "did pause" in desk.said())
    desk.supervisor.type("quit")
    desk.ends()


def test_what_was_typed_while_a_part_hung_is_carried_out_by_the_next(
    make: Make, wait_until: Callable[..., None]
) -> None:
    desk = make("if start == 1:\n  sys.stdin.readline(); sys.stdin.readline(); os._exit(1)\n" + ECHO)
    desk.begins()
    desk.supervisor.type("pause")
    desk.supervisor.type("pause")
    wait_until(lambda: desk.said().count("did pause") == 2)
    desk.supervisor.type("quit")
    desk.ends()


@pytest.mark.parametrize("answer", ["yes", "YES", "sim"])
def test_a_question_has_to_be_answered_with_yes(make: Make, wait_until: Callable[..., None], answer: str) -> None:
    desk = make(ECHO)
    desk.begins()
    desk.supervisor.type("flatten")
    wait_until(lambda: "Really?" in desk.said())
    assert "did flatten" not in desk.said()
    desk.supervisor.type(answer)
    wait_until(lambda: "did flatten" in desk.said())
    desk.stop.set()
    desk.ends()


@pytest.mark.parametrize("answer", ["", "y", "no", "flatten", "pause"])
def test_any_other_answer_does_nothing_at_all(make: Make, wait_until: Callable[..., None], answer: str) -> None:
    desk = make(ECHO)
    desk.begins()
    desk.supervisor.type("flatten")
    desk.supervisor.type(answer)
    wait_until(lambda: "flatten: not done" in desk.said())
    desk.supervisor.type("yes")
    desk.supervisor.type("pause")
    wait_until(lambda: "did pause" in desk.said())
    assert desk.said().count("did") == 1
    desk.stop.set()
    desk.ends()


def test_a_question_is_forgotten_after_a_minute(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.CONFIRM_S", 0.0)
    desk = make(ECHO)
    desk.begins()
    desk.supervisor.type("flatten")
    desk.supervisor.type("yes")
    desk.supervisor.type("quit")
    desk.ends()
    assert "did" not in desk.said()
    assert "'yes' is not known" in desk.said()


@pytest.mark.parametrize("line", ["help", "pau", "delete everything"])
def test_help_and_what_is_not_understood_are_answered_with_what_is_known(make: Make, line: str) -> None:
    desk = make(ECHO)
    desk.begins()
    desk.supervisor.type(line)
    desk.supervisor.type("quit")
    desk.ends()
    assert "Known are:" in desk.said()
    assert "stand still" in desk.said()


def test_a_program_that_is_not_there_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, "", monkeypatch)
    desk.supervisor._command = [str(tmp_path / "missing.exe")]
    desk.begins()
    assert desk.ends() == 3
    assert "cannot be started" in desk.said()
