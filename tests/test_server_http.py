"""The HTTP contract, over real sockets: what each call answers, and what it refuses."""

import json
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from server_kit import ACCOUNT, ORIGINAL_SIGNAL, PASSWORD, Caller, Serving, report, serving

import api
import db
import webserver
from api import Registration
from records import UserConfig
from routes import ROUTES
from signals import FIRST_SERVER_TICKET


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def admin(server: Serving) -> Caller:
    return server.user("admin", "admin")


@pytest.fixture
def master(server: Serving) -> Caller:
    return server.user("master_user", "master")


@pytest.fixture
def client(server: Serving) -> Caller:
    return server.user("client_user", "client")


def error(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/json"
    content = answer.json()["error"]
    assert content["message"]
    return answer.status_code, content["code"]


# --- log-in and registration -----------------------------------------------------------------------------------------


def test_log_in_with_json(server: Serving, master: Caller) -> None:
    answer = server.call("POST", "/token", {"username": "master_user", "password": PASSWORD})
    assert answer.status_code == 200
    content = answer.json()
    assert content.pop("access_token").count(".") == 2
    assert 0.8 * 3600 <= content.pop("expires_in") <= 3600
    assert content == {"token_type": "bearer", "role": "master"}


@pytest.mark.parametrize("more", [{}, {"grant_type": "password", "scope": "", "client_id": "x", "client_secret": "y"}])
def test_log_in_with_a_form(server: Serving, master: Caller, more: dict[str, str]) -> None:
    form = {"username": "master_user", "password": PASSWORD, **more}
    answer = requests.post(server.url + "/token", data=form, timeout=20)
    assert answer.status_code == 200
    token = answer.json()["access_token"]
    assert server.call("GET", "/signals", Authorization=f"Bearer {token}").status_code == 200


def test_a_wrong_name_and_a_wrong_password_answer_the_same(server: Serving, master: Caller) -> None:
    wrong_name = server.call("POST", "/token", {"username": "nobody", "password": PASSWORD})
    wrong_password = server.call("POST", "/token", {"username": "master_user", "password": "wrong horse"})
    assert error(wrong_name) == (401, "wrong_credentials")
    assert wrong_name.content == wrong_password.content


def test_anyone_may_register_as_client_and_nothing_else(server: Serving) -> None:
    answer = server.call("POST", "/users/public", {"username": "new_client", "password": PASSWORD})
    assert answer.status_code == 201
    assert set(answer.json()) == {"id", "username", "role"}
    assert answer.json()["role"] == "client"
    again = server.call("POST", "/users/public", {"username": "NEW_client", "password": PASSWORD})
    assert error(again) == (409, "name_taken")
    for more in ({"role": "admin"}, {"active": True}, {"id": 1}):
        body = {"username": "another", "password": PASSWORD, **more}
        assert error(server.call("POST", "/users/public", body)) == (422, "bad_field")
    assert server.store.user_named("another") is None


def test_with_approval_an_admin_lets_the_new_user_in(tmp_path: Path) -> None:
    with serving(tmp_path, registration=Registration.APPROVAL) as server:
        admin = server.user("admin", "admin")
        credentials = {"username": "new_client", "password": PASSWORD}
        answer = server.call("POST", "/users/public", credentials)
        assert (answer.status_code, answer.json()["active"]) == (201, False)
        assert error(server.call("POST", "/token", credentials)) == (403, "inactive")
        assert admin.call("PATCH", "/users/new_client", {"active": True}).json()["active"]
        assert server.call("POST", "/token", credentials).status_code == 200


def test_closed_registration_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, registration=Registration.CLOSED) as server:
        answer = server.call("POST", "/users/public", {"username": "new_client", "password": PASSWORD})
        assert error(answer) == (403, "registration_closed")
        assert server.store.users() == []


# --- users -----------------------------------------------------------------------------------------------------------


def test_an_admin_makes_lists_and_changes_users(server: Serving, admin: Caller) -> None:
    made = admin.post("/users/", {"username": "m1.x-y_z", "password": PASSWORD, "role": "master"}, 201)
    assert made == {"id": made["id"], "username": "m1.x-y_z", "role": "master"}
    assert [(u["username"], u["role"], u["active"]) for u in admin.get("/users/")["users"]] == [
        ("admin", "admin", True),
        ("m1.x-y_z", "master", True),
    ]
    changed = admin.call("PATCH", "/users/m1.x-y_z", {"role": "client", "expires_at": 4_000_000_000_000}).json()
    assert (changed["role"], changed["expires_at"]) == ("client", 4_000_000_000_000)
    assert admin.call("PATCH", "/users/m1.x-y_z", {"expires_at": None}).json()["expires_at"] is None
    assert error(admin.call("PATCH", "/users/nobody", {"active": False})) == (404, "unknown_user")
    assert error(admin.call("PATCH", "/users/admin", {"active": False})) == (409, "last_admin")
    assert "password" not in json.dumps(admin.get("/users/"))


def test_a_new_password_ends_the_old_token(server: Serving, admin: Caller, client: Caller) -> None:
    admin.call("PATCH", "/users/client_user", {"password": "another horse"})
    assert error(client.call("GET", "/signals")) == (401, "unauthorized")
    answer = server.call("POST", "/token", {"username": "client_user", "password": "another horse"})
    assert answer.status_code == 200


def test_an_expired_account_is_told_so_at_log_in(server: Serving, admin: Caller, client: Caller) -> None:
    admin.call("PATCH", "/users/client_user", {"expires_at": 1})
    assert client.call("GET", "/signals").status_code == 401
    answer = server.call("POST", "/token", {"username": "client_user", "password": PASSWORD})
    assert error(answer) == (403, "expired")


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_stored_and_what_is_not_named_stays(admin: Caller, master: Caller, client: Caller) -> None:
    assert client.get("/users/config") == {"trade_copy": {}, "copying": "on", "follow": None}
    trade_copy = {
        "mode": "multiplier",
        "multiplier": 0.29,
        "fixed_lot": 0.01,
        "max_slippage_points": 50,
        "max_spread_points": 20,
        "max_exposure_trades": 5,
        "max_exposure_lots": 10.0,
        "max_drawdown_percent": 10,
        "max_signal_age_s": 60,
    }
    stored = client.post("/users/config", {"trade_copy": trade_copy, "follow": ["Master_User"]})
    assert stored == {"trade_copy": trade_copy, "copying": "on", "follow": ["master_user"]}
    stored = client.post("/users/config", {"copying": "close_only"})
    assert stored == {"trade_copy": trade_copy, "copying": "close_only", "follow": ["master_user"]}
    assert admin.get("/users/config?username=client_user") == stored
    assert client.post("/users/config", {"trade_copy": {}, "follow": None})["trade_copy"] == {}
    assert admin.post("/users/config?username=client_user", {"copying": "flatten"})["copying"] == "flatten"
    assert client.get("/users/config")["copying"] == "flatten"


def test_what_another_post_sets_meanwhile_stays(
    server: Serving, admin: Caller, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = server.store.config_of

    flatten = ("/users/config?username=client_user", {"copying": "flatten"}, 200)
    other = threading.Thread(target=admin.post, args=flatten, daemon=True)

    def read_while_another_posts(user_id: int) -> UserConfig:
        found = read(user_id)
        if other.ident is None:
            other.start()
            other.join(1)  # as far as it comes: it has to wait until this post is done
        return found

    monkeypatch.setattr(server.store, "config_of", read_while_another_posts)
    client.post("/users/config", {"trade_copy": {"max_spread_points": 20}})
    other.join(20)
    assert client.get("/users/config") == {
        "trade_copy": {"max_spread_points": 20},
        "copying": "flatten",
        "follow": None,
    }


def test_settings_of_others_are_theirs(server: Serving, admin: Caller, client: Caller) -> None:
    server.user("other_client")
    assert error(client.call("GET", "/users/config?username=other_client")) == (403, "forbidden")
    assert error(client.call("POST", "/users/config?username=other_client", {"copying": "flatten"}))[0] == 403
    assert error(admin.call("GET", "/users/config?username=nobody")) == (404, "unknown_user")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"trade_copy": {"magic_number_copier": 123456}}, "trade_copy.magic_number_copier"),
        ({"trade_copy": {"contract_alignment": True}}, "trade_copy.contract_alignment"),
        ({"trade_copy": {"mode": "double"}}, "trade_copy.mode"),
        ({"trade_copy": {"mode": "fix"}}, "trade_copy.fixed_lot"),
        ({"trade_copy": {"mode": "multiplier", "fixed_lot": 1}}, "trade_copy.multiplier"),
        ({"trade_copy": {"fixed_lot": 0.01}}, "trade_copy.mode"),
        ({"trade_copy": {"mode": "fix", "fixed_lot": 0}}, "trade_copy.fixed_lot"),
        ({"trade_copy": {"max_spread_points": 2.5}}, "trade_copy.max_spread_points"),
        ({"trade_copy": {"max_drawdown_percent": 101}}, "trade_copy.max_drawdown_percent"),
        ({"trade_copy": {"max_signal_age_s": 0}}, "trade_copy.max_signal_age_s"),
        ({"trade_copy": {"max_exposure_trades": True}}, "trade_copy.max_exposure_trades"),
        ({"trade_copy": {"max_spred_points": 5}}, "trade_copy.max_spred_points"),
        ({"trade_copy": None}, "trade_copy"),
        ({"copying": "maybe"}, "copying"),
        ({"follow": "master_user"}, "follow"),
        ({"follow": ["nobody_here"]}, "follow"),
        ({"follow": ["client_user"]}, "follow"),
        ({"username": "x"}, "username"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_by_name(client: Caller, body: dict[str, Any], field: str) -> None:
    answer = client.call("POST", "/users/config", body)
    assert error(answer) == (422, "bad_field")
    assert answer.json()["error"]["field"] == field
    assert client.get("/users/config") == {"trade_copy": {}, "copying": "on", "follow": None}


@pytest.mark.parametrize("setting", [{"magic_number_copier": 123456}, {"contract_alignment": True}])
def test_what_the_server_could_not_carry_out_is_sent_back_to_the_copiers_file(
    client: Caller, setting: dict[str, Any]
) -> None:
    answer = client.call("POST", "/users/config", {"trade_copy": setting})
    assert "belongs into the copier's own file" in answer.json()["error"]["message"]


# --- trades ----------------------------------------------------------------------------------------------------------


def test_the_original_request_without_a_ticket(master: Caller) -> None:
    answer = master.post("/signal/broadcast", ORIGINAL_SIGNAL, 201)
    assert answer.pop("ticket") >= FIRST_SERVER_TICKET
    assert answer == {"seq": 1, "delivered": 0}


def test_the_original_request_byte_for_byte(server: Serving, master: Caller) -> None:
    body = (
        b'{\n  "symbol": "EURUSD",\n  "action": "BUY",\n  "volume": 0.10,\n  "price": 1.0850,\n'
        b'  "sl": 1.0800,\n  "tp": 1.0900\n}'
    )
    assert server.call("POST", "/signal/broadcast", body, Authorization=f"Bearer {master.token}").status_code == 201


def test_the_life_of_a_trade(master: Caller, client: Caller) -> None:
    assert master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 123456}, 201)["seq"] == 1
    assert master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 123456}, 200)["duplicate"]
    assert master.post("/signal/modify", {"ticket": 123456, "sl": 1.07}, 200)["seq"] == 2
    assert master.post("/signal/modify", {"ticket": 123456, "sl": 1.07}, 200)["duplicate"]
    partly = master.post("/signal/close", {"ticket": 123456, "remaining": 0.04, "price": 1.09, "profit": 3.5}, 200)
    assert partly == {"seq": 3, "ticket": 123456, "remaining": 0.04, "delivered": 0}
    assert master.post("/signal/close", {"ticket": 123456}, 200)["seq"] == 4
    assert master.post("/signal/close", {"ticket": 123456}, 200)["duplicate"]
    assert error(master.call("POST", "/signal/close", {"ticket": 99})) == (404, "unknown_ticket")
    assert error(master.call("POST", "/signal/modify", {"ticket": 99, "sl": 1})) == (404, "unknown_ticket")
    history = client.get("/signals")
    assert [(m["type"], m["seq"], m["data"]["volume"]) for m in history["signals"]] == [
        ("signal", 1, 0.1),
        ("modify", 2, 0.1),
        ("close", 3, 0.04),
        ("close", 4, 0.04),
    ]
    assert history["signals"][2]["data"]["profit"] == 3.5
    assert [m["seq"] for m in client.get("/signals?after=2&limit=1")["signals"]] == [3]


def test_closing_by_volume_needs_a_key_and_is_done_once(master: Caller) -> None:
    master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 1})
    body = {"ticket": 1, "volume": 0.03}
    assert master.call("POST", "/signal/close", body).json()["error"]["field"] == "volume"
    first = master.call("POST", "/signal/close", body, Idempotency_Key="k1")
    again = master.call("POST", "/signal/close", body, Idempotency_Key="k1")
    assert (first.status_code, first.json()["remaining"]) == (200, 0.07)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    other = master.call("POST", "/signal/close", {"ticket": 1, "volume": 0.04}, Idempotency_Key="k1")
    assert error(other) == (422, "bad_field")
    assert other.json()["error"]["field"] == "Idempotency-Key"
    elsewhere = master.call("POST", "/signal/modify", body, Idempotency_Key="k1")
    assert elsewhere.status_code == 422


def test_the_same_key_gives_the_first_answer_status_and_all(master: Caller, client: Caller) -> None:
    client.listen().joined()
    first = master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL, Idempotency_Key="web-hook/1")
    again = master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL, Idempotency_Key="web-hook/1")
    assert (first.status_code, first.json()["delivered"]) == (201, 1)
    assert (again.status_code, again.content) == (201, first.content)
    assert len(master.get("/signal/book")["trades"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_key_that_cannot_be_kept_is_refused(master: Caller, key: str) -> None:
    answer = master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL, Idempotency_Key=key.encode().decode("latin-1"))
    assert answer.json()["error"]["field"] == "Idempotency-Key"


def test_a_sender_reports_its_book_and_posts_with_its_session(master: Caller) -> None:
    begun = master.put_book(None, 1, report(1), report(2))
    session = begun.pop("session")
    assert begun.pop("server_time") > 0
    assert begun == {"seq": 2, "changes": 2}
    sent = {**report(3), "session": session, "rev": 2, "detected_at": 1_790_000_000_123}
    assert master.post("/signal/broadcast", sent, 201)["seq"] == 3
    assert master.post("/signal/broadcast", {**sent, "ticket": 4}, 200)["duplicate"]  # the rev is not newer
    assert master.post("/signal/modify", {"ticket": 3, "sl": 1.01, "session": session, "rev": 3})["seq"] == 4
    assert master.post("/signal/close", {"ticket": 1, "session": session, "rev": 4})["seq"] == 5
    answer = master.put_book(session, 5, report(2), report(3, sl=1.01))
    assert (answer["session"], answer["seq"], answer["changes"]) == (session, 5, 0)
    assert master.put_book(session, 5, report(2))["duplicate"]
    book = master.get("/signal/book")
    assert (book["session"], book["rev"], book["seq"]) == (session, 5, 5)
    assert [(t["ticket"], t["sl"], t["source"]) for t in book["trades"]] == [
        (2, 1.08, "terminal"),
        (3, 1.01, "terminal"),
    ]
    assert master.get("/signals")["signals"][2]["detected_at"] == 1_790_000_000_123


def test_the_beginning_of_a_session_that_comes_late_undoes_nothing(master: Caller) -> None:
    began_after = master.get("/signal/book")["session"]
    late = {"session": None, "rev": 1, "trades": [], "account": ACCOUNT, "replaces": began_after}
    newer = master.call("PUT", "/signal/book", {**late, "trades": [report(1)]}).json()["session"]
    assert error(master.call("PUT", "/signal/book", late)) == (409, "stale")
    book = master.get("/signal/book")
    assert (book["session"], [t["ticket"] for t in book["trades"]]) == (newer, [1])
    assert master.call("PUT", "/signal/book", {**late, "replaces": newer}).status_code == 200
    wrong = master.call("PUT", "/signal/book", {**late, "session": newer, "rev": 9})
    assert wrong.json()["error"]["field"] == "replaces"


def test_a_superseded_sender_gets_409_everywhere(master: Caller) -> None:
    old = master.put_book(None, 1, report(1))["session"]
    master.put_book(None, 1, report(1))
    with_session = {"session": old, "rev": 9}
    for path, body in (
        ("/signal/broadcast", report(2)),
        ("/signal/modify", {"ticket": 1, "sl": 1}),
        ("/signal/close", {"ticket": 1}),
    ):
        assert error(master.call("POST", path, {**body, **with_session})) == (409, "superseded")
    master.put_book(old, 9, status=409)
    assert [t["ticket"] for t in master.get("/signal/book")["trades"]] == [1]


def test_what_the_server_knows_of_a_book_is_the_masters_and_the_admins(
    server: Serving, admin: Caller, master: Caller
) -> None:
    nothing = {"session": None, "rev": None, "seq": 0, "reported_at": None, "trades": []}
    empty = master.get("/signal/book")
    assert empty.pop("server_time") > 0
    assert empty == nothing
    master.put_book(None, 1, report(1))
    assert [t["ticket"] for t in admin.get("/signal/book?master=master_user")["trades"]] == [1]
    other = server.user("other_master", "master")
    assert error(other.call("GET", "/signal/book?master=master_user")) == (403, "forbidden")
    assert other.get("/signal/book")["trades"] == []
    assert error(admin.call("GET", "/signal/book?master=nobody")) == (404, "unknown_user")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"volume": 0}, "volume"),
        ({"volume": -1}, "volume"),
        ({"volume": "0.1"}, "volume"),
        ({"volume": True}, "volume"),
        ({"volume": None}, "volume"),
        ({"volume": 0.123456789012}, "volume"),
        ({"symbol": "EURUSD "}, "symbol"),
        ({"symbol": "EUR\tUSD"}, "symbol"),
        ({"symbol": ""}, "symbol"),
        ({"symbol": 5}, "symbol"),
        ({"action": "buy"}, "action"),
        ({"action": "HOLD"}, "action"),
        ({"price": -1}, "price"),
        ({"price": 10**30}, "price"),
        ({"ticket": 0}, "ticket"),
        ({"ticket": 1.0}, "ticket"),
        ({"ticket": 2**53}, "ticket"),
        ({"kind": "order"}, "kind"),
        ({"digits": 11}, "digits"),
        ({"comment": "a\nb"}, "comment"),
        ({"age_ms": -1}, "age_ms"),
        ({"master": "somebody"}, "master"),
        ({"opened_at": 5}, "opened_at"),
        ({"source": "terminal"}, "source"),
        ({"session": "abc"}, "rev"),
        ({"rev": 1}, "session"),
        ({"session": None, "rev": 1}, "session"),
        ({"session": "a b", "rev": 1}, "session"),
        ({"detected_at": "now"}, "detected_at"),
    ],
    ids=str,
)
def test_a_wrong_trade_is_refused_by_the_name_of_its_field(master: Caller, change: dict[str, Any], field: str) -> None:
    answer = master.call("POST", "/signal/broadcast", {**ORIGINAL_SIGNAL, **change})
    assert error(answer) == (422, "bad_field")
    assert answer.json()["error"]["field"] == field
    assert field in answer.json()["error"]["message"]
    assert master.get("/signal/book")["trades"] == []


def test_wrong_modifications_and_closes_are_refused_by_name(master: Caller) -> None:
    master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 1})
    for path, body, field in (
        ("/signal/modify", {"sl": 1}, "ticket"),
        ("/signal/modify", {"ticket": 1, "volume": 1}, "volume"),
        ("/signal/modify", {"ticket": 1, "sl": -1}, "sl"),
        ("/signal/close", {}, "ticket"),
        ("/signal/close", {"ticket": 1, "remaining": -0.1}, "remaining"),
        ("/signal/close", {"ticket": 1, "remaining": 0.1, "volume": 0.1}, "volume"),
        ("/signal/close", {"ticket": 1, "kind": "trade"}, "kind"),
    ):
        answer = master.call("POST", path, body, Idempotency_Key="k")
        assert error(answer) == (422, "bad_field")
        assert answer.json()["error"]["field"] == field
    answer = master.call("POST", "/signal/close", {"ticket": 1, "remaining": 0.11})
    assert (error(answer), answer.json()["error"]["field"]) == ((422, "bad_field"), "remaining")
    answer = master.call("POST", "/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": FIRST_SERVER_TICKET})
    assert (error(answer), answer.json()["error"]["field"]) == ((422, "bad_field"), "ticket")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"trades": [report(1), report(1, volume=2)]}, "trades"),
        ({"trades": [report(1), report(FIRST_SERVER_TICKET)]}, "trades[1].ticket"),
        ({"trades": [ORIGINAL_SIGNAL]}, "trades[0].ticket"),
        ({"trades": [report(1, volume=0)]}, "trades[0].volume"),
        ({"trades": [1]}, "trades"),
        ({"trades": None}, "trades"),
        ({"account": {**ACCOUNT, "balance": "much"}}, "account.balance"),
        ({"account": {**ACCOUNT, "password": "x"}}, "account.password"),
        ({"account": {"login": 1}}, "account.balance"),
        ({"account": None}, "account"),
        ({"account": {**ACCOUNT, "margin_mode": 3}}, "account.margin_mode"),
        ({"rev": -1}, "rev"),
        ({"session": 5}, "session"),
        ({"more": 5}, "more"),
    ],
    ids=str,
)
def test_a_wrong_book_is_refused_whole(master: Caller, change: dict[str, Any], field: str) -> None:
    session = master.put_book(None, 1, report(7))["session"]
    body = {"session": session, "rev": 2, "trades": [], "account": ACCOUNT, **change}
    answer = master.call("PUT", "/signal/book", body)
    assert error(answer) == (422, "bad_field")
    assert answer.json()["error"]["field"] == field
    assert [t["ticket"] for t in master.get("/signal/book")["trades"]] == [7]


def test_measured_amounts_of_an_account_may_have_any_number_of_digits(admin: Caller, master: Caller) -> None:
    account = {**ACCOUNT, "equity": 9999.870000000001, "balance": -3.5, "margin_mode": 2}
    body = {"session": None, "rev": 1, "trades": [], "account": account}
    assert master.call("PUT", "/signal/book", body).status_code == 200
    [shown] = admin.get("/overview")["masters"]
    assert (shown["account"]["equity"], shown["account"]["margin_mode"]) == (9999.87, "hedging")


# --- reading ---------------------------------------------------------------------------------------------------------


def test_everybody_reads_what_concerns_him(server: Serving, admin: Caller, master: Caller, client: Caller) -> None:
    other = server.user("other_master", "master")
    master.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 1})
    other.post("/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": 1})
    client.post("/users/config", {"follow": ["other_master"], "trade_copy": {"mode": "fix", "fixed_lot": 0.01}})

    def seen(caller: Caller) -> list[tuple[int, float]]:
        return [(m["seq"], m["data"]["volume"]) for m in caller.get("/signals")["signals"]]

    assert (seen(admin), seen(master), seen(other)) == ([(1, 0.1), (2, 0.1)], [(1, 0.1)], [(2, 0.1)])
    assert seen(client) == [(2, 0.01)]
    admin.call("PATCH", "/users/other_master", {"active": False})
    assert (len(seen(admin)), seen(client)) == (2, [])


def execution(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"id-{number}",
        "event": "opened",
        "master": "master_user",
        "kind": "position",
        "ticket": 1,
        "at": 1_790_000_000_000,
        **fields,
    }


def test_copiers_report_in_batches_and_may_repeat_themselves(
    server: Serving, admin: Caller, master: Caller, client: Caller
) -> None:
    full = execution(
        1,
        event="refused",
        symbol="EURUSD",
        action="BUY",
        volume=0.01,
        price=1.0851200000000001,
        client_ticket=555,
        reason="max_spread_points",
        detail="spread of EURUSD is 31.0 points\nallowed 20",
        numbers={"spread_points": 31.0, "max_spread_points": 20, "note": "wide"},
        detected_at=1,
        server_time=2,
        received_at=3,
        sent_at=4,
        filled_at=5,
        login=1001,
    )
    assert client.post("/executions", {"executions": [full, execution(2)]}) == {"stored": 2, "duplicates": 0}
    again = {"executions": [full, execution(3, master="other_master"), execution(3)]}
    assert client.post("/executions", again) == {"stored": 1, "duplicates": 2}
    other = server.user("other_client")
    other.post("/executions", {"executions": [execution(1)]})

    def seen(caller: Caller, path: str = "/executions") -> list[tuple[str, str]]:
        return [(e["client"], e["id"]) for e in caller.get(path)["executions"]]

    mine = [("client_user", "id-1"), ("client_user", "id-2"), ("client_user", "id-3")]
    assert seen(client) == mine
    assert seen(admin) == [*mine, ("other_client", "id-1")]
    assert seen(master) == [*mine[:2], ("other_client", "id-1")]
    [first] = client.get("/executions?limit=1")["executions"]
    assert first.pop("stored_at") > 0
    assert {**full, "price": 1.08512, "client": "client_user", "number": first["number"]} == first
    assert seen(client, f"/executions?after={first['number']}") == mine[1:]
    assert client.get("/overview")["executions"] == {"opened": 2, "refused": 1}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (execution(1, event="exploded"), "executions[1].event"),
        (execution(1, id=""), "executions[1].id"),
        (execution(1, id="x" * 65), "executions[1].id"),
        (execution(1, numbers={"a": {"b": 1}}), "executions[1].numbers"),
        (execution(1, numbers={"a": True}), "executions[1].numbers"),
        (execution(1, numbers={"a": 10**18}), "executions[1].numbers"),
        (execution(1, numbers={"a": -(10**18)}), "executions[1].numbers"),
        (execution(1, detail="x" * 501), "executions[1].detail"),
        (execution(1, client="other"), "executions[1].client"),
        ({"id": "x"}, "executions[1].event"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_one_wrong_report_refuses_the_batch(client: Caller, bad: dict[str, Any], field: str) -> None:
    answer = client.call("POST", "/executions", {"executions": [execution(0), bad]})
    assert error(answer) == (422, "bad_field")
    assert answer.json()["error"]["field"] == field
    assert client.get("/executions")["executions"] == []


@pytest.mark.parametrize("number", ["1e1000000", "-1e1000000", "1e999999", "9.99999999999999999999999999999e999999"])
@pytest.mark.parametrize("field", ["numbers", "price", "volume", "ticket", "at"])
def test_a_number_beyond_every_range_is_refused_by_name(client: Caller, field: str, number: str) -> None:
    body = json.dumps({"executions": [execution(0, **{field: {"a": "?"} if field == "numbers" else "?"})]})
    answer = client.call("POST", "/executions", body.replace('"?"', number).encode())
    assert error(answer) == (422, "bad_field")
    assert answer.json()["error"]["field"] == f"executions[0].{field}"


def test_an_answer_has_a_limit_and_who_reads_on_misses_nothing(client: Caller) -> None:
    numbers = {f"{n:064}": "\U0001f600" * 200 for n in range(32)}  # which is more than 80 KB in JSON
    for n in range(25):
        client.post("/executions", {"executions": [execution(n, numbers=numbers), execution(100 + n)]})
    pages: list[list[dict[str, Any]]] = []
    while not pages or pages[-1]:
        after = pages[-1][-1]["number"] if pages else 0
        answer = client.call("GET", f"/executions?limit=1000&after={after}")
        assert len(answer.content) < (1 << 20) + 20_000
        pages.append(answer.json()["executions"])
    assert len(pages) > 2
    assert [e["id"] for page in pages for e in page] == [f"id-{n + more}" for n in range(25) for more in (0, 100)]


def test_a_report_longer_than_an_answer_may_be_is_read_all_the_same(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "MOST_AT_ONCE", 10)
    client.post("/executions", {"executions": [execution(0), execution(1)]})
    [first] = client.get("/executions")["executions"]
    [second] = client.get(f"/executions?after={first['number']}")["executions"]
    assert (first["id"], second["id"]) == ("id-0", "id-1")


def test_a_batch_has_a_limit(client: Caller) -> None:
    batch = [execution(number) for number in range(501)]
    assert error(client.call("POST", "/executions", {"executions": batch})) == (422, "bad_field")
    assert client.post("/executions", {"executions": batch[:500]})["stored"] == 500


def test_a_client_that_reports_without_end_is_refused_and_the_others_are_not(
    server: Serving, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "REPORTS_AT_ONCE", 600.0)
    monkeypatch.setattr(api, "REPORTS_PER_S", 0.001)

    def reports(caller: Caller, numbers: Iterable[int]) -> requests.Response:
        return caller.call("POST", "/executions", {"executions": [execution(number) for number in numbers]})

    assert reports(client, range(500)).status_code == 200
    assert reports(client, range(500)).json() == {"stored": 0, "duplicates": 500}, "what is known costs nothing"
    assert reports(client, range(500, 700)).status_code == 200
    refused = reports(client, range(700, 701))
    assert error(refused) == (429, "too_many_reports")
    assert int(refused.headers["Retry-After"]) > 0
    assert reports(server.user("other_client"), range(5)).status_code == 200


def test_overview_shows_everyone_his_part(server: Serving, admin: Caller, master: Caller, client: Caller) -> None:
    server.user("other_master", "master")
    master.put_book(None, 1, report(1))
    client.listen().joined()
    everything = admin.get("/overview")
    assert [(m["master"], m["online"], m["positions"], "account" in m) for m in everything["masters"]] == [
        ("master_user", True, 1, True),
        ("other_master", False, 0, True),
    ]
    assert everything["masters"][0]["account"] == ACCOUNT
    assert everything["connected"] == {"client_user": 1}
    assert everything["users"] == {"admin": 1, "master": 2, "client": 1}
    own = master.get("/overview")
    assert [m["master"] for m in own["masters"]] == ["master_user"]
    assert own["connected"] == {"master_user": 0, "client_user": 1}
    assert own["masters"][0]["account"]["balance"] == 10000
    clients = client.get("/overview")
    assert [m["master"] for m in clients["masters"]] == ["master_user", "other_master"]
    assert "balance" not in json.dumps(clients)
    assert clients["connected"] == {"client_user": 1}
    assert clients["users"] is None


def test_health_needs_no_token(server: Serving) -> None:
    answer = server.call("GET", "/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_metrics_are_for_this_computer_and_for_admins(server: Serving, admin: Caller, client: Caller) -> None:
    client.listen().joined()
    answer = server.call("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'aibot_connections{role="client"} 1' in lines
    assert "aibot_last_seq 0" in lines
    behind_a_proxy = {"X-Forwarded-For": "203.0.113.7"}
    assert error(server.call("GET", "/metrics", **behind_a_proxy)) == (401, "unauthorized")
    assert error(client.call("GET", "/metrics", **behind_a_proxy)) == (403, "forbidden")
    assert admin.call("GET", "/metrics", **behind_a_proxy).status_code == 200


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=1.0", "limit=0", "limit=1001", "after=1&after=2", "x=1"]
)
def test_wrong_parameters_are_refused(client: Caller, query: str) -> None:
    assert error(client.call("GET", f"/signals?{query}")) == (422, "bad_field")


# --- trouble ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_503_and_passes(server: Serving, master: Caller) -> None:
    database = server.store._db
    database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0]}")
    for ticket in range(1, 500):
        answer = master.call("POST", "/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": ticket})
        if answer.status_code != 201:
            break
    assert error(answer) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert server.call("GET", "/health").status_code == 200
    database.execute("PRAGMA max_page_count = 1000000")
    assert master.call("POST", "/signal/broadcast", {**ORIGINAL_SIGNAL, "ticket": ticket}).status_code == 201


def test_a_database_that_does_not_answer_is_not_healthy(server: Serving) -> None:
    server.store.close()
    assert error(server.call("GET", "/health")) == (503, "unavailable")


def test_a_mistake_of_ours_is_500_without_a_traceback_and_can_be_found_in_the_log(
    server: Serving, master: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.store, "open_trade", lambda *_: 1 / 0)
    answer = master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL)
    assert error(answer) == (500, "internal")
    assert "ZeroDivision" not in answer.text
    number = re.search(r"error ([0-9a-f]{8})", answer.json()["error"]["message"])
    assert number is not None
    assert f"POST /signal/broadcast failed, error {number[1]}" in caplog.text
    monkeypatch.undo()
    assert master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL).status_code == 201


def test_a_mistake_outside_of_the_application_is_500_too(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver, "run_wsgi_app", lambda *_, **__: 1 / 0)
    answer = server.call("GET", "/health?token=canary")
    assert error(answer) == (500, "internal")
    assert "ZeroDivision" not in answer.text
    monkeypatch.undo()
    assert server.call("GET", "/health").status_code == 200


def test_unknown_addresses_and_methods(server: Serving, master: Caller) -> None:
    assert error(server.call("GET", "/nothing")) == (404, "not_found")
    assert error(server.call("GET", "/token")) == (405, "method_not_allowed")
    assert error(server.call("OPTIONS", "/token")) == (405, "method_not_allowed")
    assert error(server.call("BREW", "/signals")) == (405, "method_not_allowed")
    assert error(master.call("POST", "/users/master_user", {})) == (405, "method_not_allowed")
    assert server.call("GET", "/token").headers["Allow"] == "POST"


def test_a_slash_at_the_end_makes_no_difference(server: Serving, admin: Caller) -> None:
    assert len(admin.get("/users")["users"]) == len(admin.get("/users/")["users"]) == 1
    assert server.call("GET", "/health/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [("POST", "/token", 4096), ("POST", "/signal/broadcast", 65536), ("PUT", "/signal/book", 1 << 20)],
)
def test_bodies_have_a_limit(master: Caller, method: str, path: str, limit: int) -> None:
    assert master.call(method, path, b" " * limit).status_code == 400
    assert error(master.call(method, path, b" " * (limit + 1))) == (413, "request_entity_too_large")
    assert error(master.call(method, path, b" " * (limit + (4 << 20))))[0] == 413


def test_who_may_not_is_told_before_his_body_is_looked_at(server: Serving, client: Caller) -> None:
    for path in ("/signal/broadcast", "/signal/modify", "/signal/close", "/users/"):
        assert error(server.call("POST", path, b"{broken")) == (401, "unauthorized")
        assert error(client.call("POST", path, b"{broken")) == (403, "forbidden")


BAD_BODIES = {
    "nothing": b"",
    "space": b"  ",
    "broken": b'{"symbol":',
    "more behind it": b"{} {}",
    "a list": b"[]",
    "a text": b'"text"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
    "NaN": b'{"volume": NaN}',
    "Infinity": b'{"volume": Infinity}',
    "-Infinity": b'{"volume": -Infinity}',
    "an exponent without end": b'{"volume": 1e99999999999999999999}',
    "a huge exponent": b'{"volume": 1e999}',
    "a tiny number": b'{"volume": 1e-999}',
    "a number of 5,000 digits": b'{"volume": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"volume": 1, "volume": 2}',
    "not UTF-8": b'{"symbol": "\xff\xfe"}',
    "UTF-16": '{"symbol": "EURUSD"}'.encode("utf-16"),
    "UTF-8 with a mark": b'\xef\xbb\xbf{"symbol": "EURUSD"}',
    "half a surrogate": b'{"symbol": "\\ud800"}',
    "a zero byte": b'{"symbol": "EUR\\u0000USD"}',
    "deep": b'{"a":' * 50 + b"1" + b"}" * 50,
    "very deep": b"[" * 2000,
    "deeper than Python goes": b'{"a":' * 700 + b"1" + b"}" * 700,
    "an empty object": b"{}",
    "unknown fields": b'{"__proto__": {}, "constructor": 1}',
    "values of no type": b'{"symbol": {}, "action": [], "volume": null, "ticket": "1", "username": 1, "password": 1}',
    "booleans for numbers": b'{"ticket": true, "rev": true, "volume": true}',
    "a comment": b'{"volume": 1 /* one */}',
}
BODY_ROUTES = [(route.method, route.path) for route in ROUTES if route.body is not None]
HARMLESS = {("/users/config", "an empty object"), ("/users/<username>", "an empty object")}


@pytest.mark.parametrize(("method", "path"), BODY_ROUTES, ids=lambda value: str(value))
def test_no_bad_body_is_accepted_or_breaks_anything(server: Serving, method: str, path: str) -> None:
    callers = [server.user("admin", "admin"), server.user("master_user", "master"), server.user("client_user")]
    route = next(route for route in ROUTES if (route.method, route.path) == (method, path))
    caller = next(c for c in callers if route.roles is None or c.user.role in route.roles)
    users = len(server.store.users())
    for name, body in BAD_BODIES.items():
        answer = caller.call(method, path.replace("<username>", "client_user"), body)
        expected = (200,) if (path, name) in HARMLESS else (400, 422, 413)
        assert answer.status_code in expected, (name, answer.text)
        if answer.status_code != 200:
            assert error(answer)[0] == answer.status_code
    assert (server.store.last_seq(), len(server.store.users())) == (0, users)


# --- HTTP itself -----------------------------------------------------------------------------------------------------


def connected(server: Serving) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def raw(server: Serving, request: bytes) -> bytes:
    with connected(server) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_connection_is_kept_for_the_next_request(server: Serving) -> None:
    answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def one_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer, when nothing else comes behind it."""
    answer = b""
    while True:
        piece = connection.recv(65536)
        assert piece, answer
        answer += piece
        head, end, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
        if end and length and len(body) >= int(length[1]):
            return head, body


def test_a_request_right_after_an_answer_is_not_lost(server: Serving) -> None:
    with connected(server) as connection:
        for _ in range(20):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, body = one_answer(connection)
            assert body == b'{"status":"ok"}'
            assert b"connection: close" not in head.lower()


def test_an_answer_without_its_body_keeps_the_connection_too(server: Serving) -> None:
    answer = raw(
        server, b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b'{"status":"ok"}') == 1


@pytest.mark.parametrize("size", [1, 65536])
def test_a_body_that_nobody_reads_keeps_the_connection(server: Serving, size: int) -> None:
    with connected(server) as connection:
        for _ in range(2):  # GET takes no body, and who may not is told before his is looked at
            for line in (b"GET /health", b"POST /signal/close"):
                connection.sendall(b"%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (line, size))
                connection.sendall(b"x" * size)
                head, _ = one_answer(connection)
                assert head.split()[1] == (b"200" if line.startswith(b"GET") else b"401")


def test_a_long_body_is_read_from_those_only_who_may_send_it(server: Serving, master: Caller, client: Caller) -> None:
    """Nothing of it is sent here: who is answered all the same was not waited for."""
    long = b"Host: localhost\r\nContent-Length: 65537\r\n"
    nobody, somebody = b"\r\n", b"Authorization: Bearer " + master.token.encode() + b"\r\n\r\n"
    forged = somebody.replace(b"\r\n\r\n", b"x\r\n\r\n")
    for line, headers, code in (
        (b"GET /health HTTP/1.1\r\n", nobody, b"200"),
        (b"PUT /signal/book HTTP/1.1\r\n", nobody, b"401"),
        (b"PUT /signal/book HTTP/1.1\r\n", forged, b"401"),
        (b"POST /signal/broadcast HTTP/1.1\r\n", somebody, b"413"),
        (b"POST /token HTTP/1.1\r\n", somebody, b"413"),
        (b"PUT /nothing HTTP/1.1\r\n", somebody, b"404"),
    ):
        with connected(server) as connection:
            connection.sendall(line + long + headers)
            head, _ = one_answer(connection)
            assert (head.split()[1], b"Connection: close" in head) == (code, True), line
    with connected(server) as connection:
        connection.sendall(b"PUT /signal/book HTTP/1.1\r\n" + long + somebody)
        connection.sendall(b"x" * 65537)
        assert one_answer(connection)[0].split()[1] == b"400", "this one was read"


def test_a_body_beyond_every_limit_ends_the_connection(server: Serving) -> None:
    size = (2 << 20) + 1
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        head, _ = one_answer(connection)
        assert b"Connection: close" in head
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # which is body
        assert connection.recv(4096) == b""


def test_who_asks_before_sending_a_body_is_told_to_go_on(server: Serving, master: Caller) -> None:
    body = json.dumps(ORIGINAL_SIGNAL).encode()
    with connected(server) as connection:
        connection.sendall(
            b"POST /signal/broadcast HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (master.token.encode(), len(body))
        )
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert one_answer(connection)[0].startswith(b"HTTP/1.1 201 ")


def test_a_request_that_does_not_come_to_its_end_is_given_up(
    server: Serving, master: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "REQUEST_S", 0.2)
    with connected(server) as connection:
        connection.sendall(b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(4096) == b""
    assert master.call("GET", "/signals").status_code == 200


def test_an_absolute_address_means_the_same(server: Serving) -> None:
    answer = raw(server, b"GET http://127.0.0.1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b'{"status":"ok"}')


def test_an_unread_body_does_not_become_the_next_request(server: Serving) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    request = b"POST /signal/close HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(hidden), hidden)
    answer = raw(server, request + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.count(b"HTTP/1.1 401") == 1
    assert answer.count(b"HTTP/1.1 404") == 1
    assert b"HTTP/1.1 200" not in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET /health HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /health\r\nx HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (b"POST /token HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /token HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
        (b"POST /token HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", b"400"),
        (b"POST /token HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"411"),
        (b"GET \xff\xfe/%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET http://[elsewhere/health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET http://localhost/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_no_good_request_gets_json_too(server: Serving, request_bytes: bytes, status: bytes) -> None:
    head, _, body = raw(server, request_bytes).partition(b"\r\n\r\n")
    assert head.split()[1] == status, head
    assert b"application/json" in head
    assert set(json.loads(body)) == {"error"}
    assert server.call("GET", "/health").status_code == 200


@pytest.mark.parametrize("beginning", [b"GET /", b"GET /health HTTP/1.1\r\nX: ", b"GET /health HTTP/1.1\r\n"])
def test_a_head_has_a_limit_and_its_end_is_not_waited_for(server: Serving, beginning: bytes) -> None:
    lines = beginning + b"A: bcd\r\n" * 10 if beginning.endswith(b"\n") else beginning
    with connected(server) as connection:
        connection.sendall(lines.ljust((16 << 10) + 1, b"x"))
        head, body = one_answer(connection)
        assert (head.split()[1], b"Connection: close" in head) == (b"431", True)
        assert json.loads(body)["error"]["message"] == "the head of the request is too long"
        connection.sendall(b" HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096) == b""


def test_each_head_may_be_as_long_as_the_limit(server: Serving) -> None:
    longest = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ".ljust((16 << 10) - 4, b"x") + b"\r\n\r\n"
    assert raw(server, longest * 3).count(b"HTTP/1.1 200 OK") == 3


def test_who_sends_far_too_much_still_gets_to_read_why(server: Serving) -> None:
    size = 12 << 20
    request = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    assert raw(server, request + bytes(size)).split()[1] == b"413"


def test_answers_are_not_kept_or_guessed_at(server: Serving) -> None:
    for method, path in (("GET", "/health"), ("GET", "/nothing"), ("POST", "/token"), ("GET", "/ws"), ("BREW", "/x")):
        headers = server.call(method, path).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert headers["Referrer-Policy"] == "no-referrer"
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(headers["Content-Security-Policy"].split("; "))
        assert not {"Server", "X-Powered-By", "Access-Control-Allow-Origin", "Set-Cookie"} & set(headers)
    head = raw(server, b"NONSENSE\r\n\r\n").partition(b"\r\n\r\n")[0]
    assert b"\r\nContent-Security-Policy: default-src 'none'" in head
