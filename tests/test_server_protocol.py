"""Every example of docs/protocol.md is carried out in its order, and answered as it is written there."""

import json
import re
from pathlib import Path
from typing import Any

from server_kit import PASSWORD, Caller, Listening, serving
from wsproto.frame_protocol import CloseReason

import hub
import wire
from signals import FIRST_SERVER_TICKET, ChangeType

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
# What differs from run to run.
VARYING = {
    "access_token",
    "expires_in",
    "server_time",
    "starts",
    "opened_at",
    "reported_at",
    "since",
    "epoch",
    "session",
    "created_at",
    "stored_at",
}


def examples() -> list[tuple[str, str, str]]:
    """The fenced blocks of the page: (what, who or status, text)."""
    found = re.findall(r"^```(\w+) (\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(found) > 40
    return found


def alike(shown: Any, real: Any, place: str) -> None:
    """Fails unless `real` is what the page shows, but for what differs from run to run."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), place
        assert set(shown) == set(real), place
        for name, value in shown.items():
            if name in VARYING or (name == "ticket" and value >= FIRST_SERVER_TICKET):
                assert type(value) is type(real[name]), f"{place}.{name}"
            else:
                alike(value, real[name], f"{place}.{name}")
    elif isinstance(shown, list):
        assert isinstance(real, list), place
        assert len(shown) == len(real), place
        for index, value in enumerate(shown):
            alike(value, real[index], f"{place}[{index}]")
    else:
        assert shown == real, place


def test_every_example_of_the_page_is_true(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        callers: dict[str, Caller] = {
            "admin": server.user("admin", "admin"),
            "master": server.user("master_user", "master"),
            "client": server.user("client_user", "client"),
        }
        assert PASSWORD == "correct horse"
        listening: dict[str, Listening] = {}
        sessions: dict[str, str] = {}
        answer: Any = None
        for number, (what, who, text) in enumerate(examples()):
            place = f"example {number}: {text[:60]!r}"
            if what == "request":
                head, _, body = text.strip().partition("\n\n")
                line, *headers = head.split("\n")
                method, path = line.split(" ")
                for shown, real in sessions.items():
                    body = body.replace(shown, real)
                given = dict(header.split(": ") for header in headers)
                token = {"Authorization": f"Bearer {callers[who].token}"} if who in callers else {}
                answer = server.call(method, path, body.encode() if body else None, **token, **given)
            elif what == "answer":
                shown = json.loads(text)
                assert answer.status_code == int(who), (place, answer.text)
                real = answer.json()
                if shown.get("session"):
                    sessions[shown["session"]] = real["session"]
                if shown.get("ticket", 0) >= FIRST_SERVER_TICKET:
                    sessions[str(shown["ticket"])] = str(real["ticket"])
                alike(shown, real, place)
            elif what == "frame":
                if who not in listening:
                    listening[who] = callers[who].listen()
                alike(json.loads(text), listening[who].next(), place)
            else:
                assert what == "send"
                listening[who].socket.send(text)
                assert listening[who].next()["type"] == "book"


def test_the_table_of_messages_is_complete() -> None:
    code = (PAGE.parent.parent / "hub.py").read_text(encoding="utf-8")
    sent = set(re.findall(r'"type": "(\w+)"', code)) | set(ChangeType)
    table = PAGE.read_text(encoding="utf-8").partition("### Every message")[2].partition("### Ends")[0]
    rows = re.findall(r"^\| server \| (.*?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == sent
    assert set(re.findall(r'kind == "(\w+)"', code)) == {"sync"}


def test_the_table_of_close_codes_is_complete() -> None:
    sent = {value for module in (hub, wire) for value in vars(module).values() if type(value) is int}
    sent = {value for value in sent if 1000 < value < 1016 or 4400 <= value < 4500} - {wire.LOST, wire.INTERNAL}
    sent |= {CloseReason.PROTOCOL_ERROR, CloseReason.INVALID_FRAME_PAYLOAD_DATA, CloseReason.MESSAGE_TOO_BIG}
    table = PAGE.read_text(encoding="utf-8").partition("### Ends")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    assert sorted(int(code) for row in rows for code in row.split(", ")) == sorted(sent)
