"""Plays the scripts in `protocol/`: what is said, and what has to come of it, a file for each thing to be proved."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from script_kit import BadScript, Unexpected, play, read_script
from script_stages import CopierStage, ServerStage

FOLDER = Path(__file__).resolve().parent / "protocol"
SCRIPTS = sorted(FOLDER.glob("*.txt"))
STAGES = {"server": ServerStage, "copier": CopierStage}


def played(path: Path, folder: Path) -> None:
    script = read_script(path)
    kind = path.name.partition("_")[0]
    if kind not in STAGES:
        raise BadScript(f"{path.name}: the name of a script begins with {'_ or '.join(STAGES)}_")
    with closing(STAGES[kind](folder)) as stage:
        play(script, stage)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_comes_true(path: Path, tmp_path: Path) -> None:
    played(path, tmp_path)


def test_there_are_many_scripts_and_no_two_prove_the_same() -> None:
    titles = [read_script(path).title for path in SCRIPTS]
    assert len(titles) >= 60
    assert len(set(titles)) == len(titles)


WRONG = [
    ("server_wrong_status.txt", "master> GET /signals\nmaster< 404 unknown_ticket", "answered 200 and not 404"),
    ("server_wrong_value.txt", 'master> GET /signals\nmaster< 200 {"signals": [], "last": 1}', ".last is 0 and not 1"),
    ("server_one_more_field.txt", 'master> GET /signals\nmaster< 200 {"last": 0}', "has signals as well"),
    ("server_missing_field.txt", 'master> GET /signals\nmaster< 200 {"n": 0, ...}', ".n is missing"),
    ("server_too_short.txt", "client~ joins\nclient~< signal {...}", "client~ got nothing"),
    ("server_true_is_not_1.txt", 'anyone> GET /health\nanyone< 200 {"status": true}', 'is "ok" and not true'),
    ("server_refused.txt", "client> POST /signal/broadcast <BUY>\ntime +1", "answered 403"),
    ("copier_no_sync.txt", "copier< sync", "asked 0 times"),
    ("copier_no_order.txt", "copier< opens BUY 0.1 EURUSD", "sent no order"),
    ("copier_no_copy.txt", "ledger< 5 open", "has 5 nothing"),
]


@pytest.mark.parametrize(("name", "lines", "said"), WRONG, ids=[name for name, _, _ in WRONG])
def test_what_does_not_come_true_fails_with_its_line(name: str, lines: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"# Something that is not so\n\n{lines}\n", encoding="utf-8")
    with pytest.raises(Unexpected) as caught:
        played(path, tmp_path)
    assert str(caught.value).startswith(f"{name}:{2 + len(lines.splitlines())}: ")
    assert said in str(caught.value)


LEFT_OVER = [
    ("server_left_over.txt", "client~ joins\nmaster> POST /signal/broadcast <BUY 5>", "client~ also got"),
    ("server_closed.txt", "client~ joins\nclient~two joins", "client~ was closed"),
    ("copier_left_over.txt", "server> heartbeat {}", "asked 1 times"),
]


@pytest.mark.parametrize(("name", "lines", "said"), LEFT_OVER, ids=[name for name, _, _ in LEFT_OVER])
def test_what_no_line_speaks_of_fails_at_the_end(name: str, lines: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"# Something that is not so\n{lines}\n", encoding="utf-8")
    with pytest.raises(Unexpected, match="at its end") as caught:
        played(path, tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("server_bad.txt", "?"),
        ("server_bad.txt", "stranger> GET /signals"),
        ("server_bad.txt", "master> FETCH /signals"),
        ("server_bad.txt", 'master> POST /signal/close {"ticket": }'),
        ("server_bad.txt", 'master> POST /signal/close {"ticket": $ticket}'),
        ("server_bad.txt", "master> POST /signal/close <HOLD 5>"),
        ("server_bad.txt", "master< 200"),
        ("server_bad.txt", "client~< book"),
        ("server_bad.txt", "server! explode"),
        ("server_bad.txt", "time 10"),
        ("copier_bad.txt", "master> GET /signals"),
        ("copier_bad.txt", "ledger< open"),
    ],
)
def test_a_line_that_is_none_fails_with_its_number(name: str, lines: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"# Something that is not so\n{lines}\n", encoding="utf-8")
    with pytest.raises(BadScript, match=f"^{name}:2: "):
        played(path, tmp_path)


def test_a_script_says_what_it_proves(tmp_path: Path) -> None:
    path = tmp_path / "server_silent.txt"
    path.write_text("master> GET /signals\n", encoding="utf-8")
    with pytest.raises(BadScript, match=r"^server_silent\.txt:1: the first line"):
        played(path, tmp_path)
