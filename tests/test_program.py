"""How the programs begin and end: the first start, settings that are wrong, exit codes, start with Windows."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chain import ROOT

import program
import startup
import windows
from run_copier import COPIER
from sender import SENDER
from settings_file import ConfigError
from version import VERSION

PROGRAMS = [("sender", "config_sender.json"), ("copier", "config_client.json")]

# What a person has to write himself into each example: what stands there → the key.
EXAMPLES = {
    "sender": {
        "secret_password": "api.password",
        "12345678": "mt5.login",
        "mt5_password": "mt5.password",
        "Broker-Server": "mt5.server",
    },
    "copier": {
        "client_password": "api.password",
        "87654321": "mt5.login",
        "mt5_password": "mt5.password",
        "Broker-Server": "mt5.server",
    },
}


def filled_in(name: str, file: Path, *forgotten: str) -> None:
    """The example with a person's own values, but for what he has forgotten."""
    text = (ROOT / file.name).read_text(encoding="utf-8")
    for word, key in EXAMPLES[name].items():
        if key not in forgotten:
            text = text.replace(word, "5001" if key == "mt5.login" else "Demo-1")
    file.write_text(text, encoding="utf-8")


def read_in(name: str, file: Path) -> tuple[bytes, Any]:
    return program.settings_in({"copier": COPIER, "sender": SENDER}[name], file)  # type: ignore[arg-type]


def run(name: str, folder: Path, *arguments: str, home: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that has nobody at its window. `home` is where its files are."""
    ended = subprocess.run(
        [sys.executable, str(home / f"{name}.py"), *arguments],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL, timeout=60,
        env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_the_first_start_writes_the_example_and_says_what_to_fill_in(tmp_path: Path, name: str, file: str) -> None:
    code, out, err = run(name, tmp_path)
    assert code == 2
    assert (tmp_path / file).read_bytes() == (ROOT / file).read_bytes()
    assert f"an example of the settings was written,\n  {tmp_path / file}" in out
    assert "mt5.login, password, server" in out
    assert "start this program again" in out
    assert "Nothing was started" in err
    assert [*tmp_path.iterdir()] == [tmp_path / file]


@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_an_example_that_was_not_filled_in_starts_nothing(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    code, _, err = run(name, tmp_path)
    assert code == 2
    assert "Nothing was started: 4 mistakes" in err
    for word, key in EXAMPLES[name].items():
        assert f"{file}, line {line_of(word, file)}, {key}: it is still the example's. Write your own" in err
        assert "password" not in word or word not in err


def line_of(word: str, file: str) -> int:
    (found,) = (n for n, line in enumerate((ROOT / file).read_text("utf-8").splitlines(), 1) if word in line)
    return found


@pytest.mark.parametrize("key", ["api.password", "mt5.login", "mt5.password", "mt5.server"])
@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_a_value_that_was_forgotten_in_the_example_is_named_with_its_line(
    tmp_path: Path, name: str, file: str, key: str
) -> None:
    filled_in(name, tmp_path / file, key)
    with pytest.raises(ConfigError) as refused:
        read_in(name, tmp_path / file)
    (word,) = (word for word, one in EXAMPLES[name].items() if one == key)
    assert [(one.key, one.line) for one in refused.value.mistakes] == [(key, line_of(word, file))]
    filled_in(name, tmp_path / file)
    read_in(name, tmp_path / file)


@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_the_examples_passwords_may_stay_where_they_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    config = tmp_path / file
    filled_in(name, config, "api.password", "mt5.password")
    monkeypatch.setenv("AIBOT_API_PASSWORD", "own")
    monkeypatch.setenv("AIBOT_MT5_PASSWORD", "own")
    _, settings = read_in(name, config)
    assert settings.api.password == settings.mt5.password == "own"
    monkeypatch.delenv("AIBOT_API_PASSWORD")
    monkeypatch.delenv("AIBOT_MT5_PASSWORD")
    simulated = '"Demo-1", "module": "mt5_sim", "path": "127.0.0.1:18801"'
    config.write_text(config.read_text("utf-8").replace('"Demo-1"', simulated), "utf-8")
    read_in(name, config)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps others out of a user's folders by itself")
@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_settings_that_others_could_read_are_their_owners_alone_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, file: str
) -> None:
    config = tmp_path / file
    filled_in(name, config)
    config.chmod(0o644)
    read_in(name, config)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text

    def not_ours(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    config.chmod(0o640)
    monkeypatch.setattr(Path, "chmod", not_ours)
    with pytest.raises(
        ConfigError, match=r"others on this computer can read the passwords in it.*Operation not permitted"
    ):
        read_in(name, config)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The program's folder, as it was unzipped."""
    (folder := tmp_path / "home").mkdir()
    for file in (*ROOT.glob("*.py"), *ROOT.glob("config_*.json")):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_a_settings_file_that_is_gone_from_the_programs_folder_is_missing(home: Path, name: str, file: str) -> None:
    (home / file).unlink()
    code, out, err = run(name, home, home=home)
    assert (code, out) == (2, "")
    assert f"the settings file is missing, and so is its example, {home / file}" in err
    assert "take the example from the zip file or repository that this program came from" in err
    assert "cannot be written" not in err
    assert not (home / file).exists()


@pytest.mark.parametrize("key", ["api.password", "mt5.login", "mt5.password", "mt5.server", ""])
@pytest.mark.parametrize(("name", "file"), PROGRAMS)
def test_settings_that_were_filled_in_beside_the_program_are_not_copied_elsewhere(
    tmp_path: Path, home: Path, name: str, file: str, key: str
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    filled_in(name, home / file, *(one for one in EXAMPLES[name].values() if key and one != key))
    code, out, err = run(name, elsewhere, home=home)
    assert (code, out) == (2, "")
    assert f"{home / file} is no example any more: it is filled in" in err
    assert "Start the program in that folder" in err
    assert not [*elsewhere.iterdir()]


def test_a_file_that_was_named_and_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    code, _, err = run("copier", tmp_path, "--config", "my settings.json")
    assert code == 2
    assert "the file was not found" in err
    assert [*tmp_path.iterdir()] == []


def test_every_mistake_of_a_file_is_told_in_one_go(tmp_path: Path) -> None:
    file = tmp_path / "config_client.json"
    file.write_text(json.dumps({"api": {"url": "x"}, "mt5": {}, "trade_copy": {"mode": "fixed"}}))
    code, _, err = run("copier", tmp_path)
    assert code == 2
    for key in (
        "api.url",
        "api.username",
        "mt5.login",
        "mt5.server",
        "trade_copy.mode",
        "trade_copy.max_exposure_lots",
    ):
        assert key in err


@pytest.mark.skipif(sys.platform == "win32", reason="chmod does not close a folder there")
def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    code, _, err = run("copier", closed)
    assert code == 3
    assert "Move the program to a folder of yours" in err


@pytest.mark.parametrize("name", ["sender", "copier"])
def test_the_version_can_be_asked_for(tmp_path: Path, name: str) -> None:
    assert run(name, tmp_path, "--version") == (0, f"{VERSION}\n", "")


def test_the_version_of_the_project_is_that_of_the_programs() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_working_part_is_not_started_by_hand(tmp_path: Path) -> None:
    code, _, err = run("copier", tmp_path, "--worker")
    assert code == 1
    assert "not started by hand" in err


# ---- with a person at the window

Person = Callable[..., list[str]]


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Person:
    """person(act, act, ...): what happens each time before Enter is pressed; the questions that were asked."""

    def sits(*acts: Callable[[], object]) -> list[str]:
        asked: list[str] = []
        left = [*acts]

        def enter(question: str) -> str:
            asked.append(question.strip())
            if not left:
                raise EOFError
            left.pop(0)()
            return ""

        monkeypatch.setattr("builtins.input", enter)
        return asked

    return sits


def test_at_the_first_start_a_person_fills_the_example_in_and_presses_enter(
    tmp_path: Path, person: Person, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config_client.json"
    opened: list[Path] = []
    monkeypatch.setattr(program, "open_in_editor", opened.append)
    asked = person(lambda: None, lambda: filled_in("copier", file))
    content, settings = program.settings_of(COPIER, file, person=True, given=False)
    assert settings.mt5.server == "Demo-1"
    assert content == file.read_bytes()
    assert opened == [file]
    assert asked == [
        "Press Enter to start, when that is done.",
        "Press Enter to try again, when the file is right and saved.",
    ]
    assert "it is still the example's" in capsys.readouterr().out


def test_a_person_puts_mistakes_right_and_goes_on(
    tmp_path: Path, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config_sender.json"
    filled_in("sender", file)
    good = file.read_text(encoding="utf-8")
    file.write_text("{")
    bad = good.replace('"login": 5001', '"login": "x"').replace('"username"', '"usrname"')
    asked = person(lambda: file.write_text(bad, encoding="utf-8"), lambda: file.write_text(good, encoding="utf-8"))
    program.settings_of(SENDER, file, person=True, given=True)
    assert len(asked) == 2
    said = capsys.readouterr().out
    assert "not closed" in said
    assert "mt5.login" in said
    assert "api.usrname" in said


def fails() -> int:
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize("main", [lambda: 1, fails], ids=["an error", "a defect"])
def test_a_window_that_was_double_clicked_stays_open_after_an_error(
    person: Person, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, main: Callable[[], int]
) -> None:
    monkeypatch.setattr(windows, "own_console", lambda: True)
    asked = person(lambda: None)
    assert windows.keeping_window_open(main) == 1
    assert asked == ["Press Enter to close this window."]
    assert ("ZeroDivisionError: a defect" in capsys.readouterr().err) == (main is fails)


def test_a_defect_of_a_double_clicked_copier_can_be_read(
    tmp_path: Path, person: Person, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "own_console", lambda: True)
    monkeypatch.setattr(program, "start", lambda *_, **__: fails())
    asked = person(lambda: None)
    assert program.main(COPIER, ["--config", str(tmp_path / "c.json")]) == 1
    assert asked == ["Press Enter to close this window."]
    assert "ZeroDivisionError: a defect" in capsys.readouterr().err


def test_a_window_of_somebody_else_is_not_held_up(person: Person) -> None:
    asked = person()
    assert windows.keeping_window_open(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        windows.keeping_window_open(fails)
    assert asked == []


def test_a_keyboard_that_is_gone_ends_the_asking(tmp_path: Path, person: Person) -> None:
    person()
    with pytest.raises(ConfigError):
        program.settings_of(COPIER, tmp_path / "config_client.json", person=True, given=True)


# ---- start with Windows


@pytest.mark.skipif(sys.platform == "win32", reason="it would be entered")
@pytest.mark.parametrize("option", ["--install-startup", "--remove-startup"])
def test_elsewhere_than_on_windows_there_is_no_such_list(tmp_path: Path, option: str) -> None:
    file = tmp_path / "config_client.json"
    filled_in("copier", file)
    code, _, err = run("copier", tmp_path, option)
    assert code == 3
    assert "works on Windows only" in err


def test_a_wrong_file_is_not_entered_into_the_list(tmp_path: Path) -> None:
    code, _, err = run("copier", tmp_path, "--install-startup")
    assert code == 2
    assert "not found" in err


def test_each_settings_file_has_an_entry_of_its_own(tmp_path: Path) -> None:
    assert startup.entry_of("copier", tmp_path / "a.json") != startup.entry_of("copier", tmp_path / "b.json")
    assert startup.entry_of("copier", tmp_path / "a.json") != startup.entry_of("sender", tmp_path / "a.json")
