"""Who gets in where: every route with every role and every state that a token can be in, written down a second time."""

import base64
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import flask
import jwt
import pytest
from server_kit import ACCOUNT, ORIGINAL_SIGNAL, PASSWORD, SECRET, Caller, Serving, serving

import routes
from api import Settings
from records import Role
from routes import ROUTES, create_app, refuse_unlisted

EVERYONE: Final = {"admin", "master", "client"}
PUBLISHERS: Final = {"admin", "master"}

# Method and path: who may, and a body that is good for everybody who may (None: takes none).
MATRIX: Final[dict[tuple[str, str], tuple[set[str] | None, Any]]] = {
    ("POST", "/token"): (None, {"username": "the_client", "password": PASSWORD}),
    ("POST", "/users/public"): (None, {"username": "the_client", "password": PASSWORD}),
    ("POST", "/users/"): ({"admin"}, {"username": "the_client", "password": PASSWORD, "role": "client"}),
    ("GET", "/users/"): ({"admin"}, None),
    ("PATCH", "/users/<username>"): ({"admin"}, {}),
    ("POST", "/users/config"): (EVERYONE, {}),
    ("GET", "/users/config"): (EVERYONE, None),
    ("POST", "/signal/broadcast"): (PUBLISHERS, ORIGINAL_SIGNAL),
    ("POST", "/signal/modify"): (PUBLISHERS, {"ticket": 1, "sl": 1.0}),
    ("POST", "/signal/close"): (PUBLISHERS, {"ticket": 1}),
    ("PUT", "/signal/book"): (PUBLISHERS, {"session": None, "rev": 1, "trades": [], "account": ACCOUNT}),
    ("GET", "/signal/book"): (PUBLISHERS, None),
    ("GET", "/signals"): (EVERYONE, None),
    ("POST", "/executions"): ({"client"}, {"executions": []}),
    ("GET", "/executions"): (EVERYONE, None),
    ("GET", "/overview"): (EVERYONE, None),
    ("GET", "/health"): (None, None),
    ("GET", "/metrics"): (None, None),
    ("GET", "/openapi.json"): (None, None),
    ("GET", "/ws"): (EVERYONE, None),
}
# What a caller who may gets that is no 2xx: there is no ticket 1, the name is taken, /ws wants a handshake.
OTHERWISE: Final = {
    ("POST", "/users/public"): 409,
    ("POST", "/users/"): 409,
    ("POST", "/signal/modify"): 404,
    ("POST", "/signal/close"): 404,
    ("GET", "/ws"): 426,
}
HANDSHAKE: Final = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": base64.b64encode(bytes(16)).decode(),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


def test_the_matrix_has_every_route_and_no_other(server: Serving) -> None:
    assert {(route.method, route.path): route.roles for route in ROUTES} == {
        address: roles for address, (roles, _) in MATRIX.items()
    }
    app = create_app(server.store, server.hub, Settings(bytes(32)), time)
    served = {(m, rule.rule) for rule in app.url_map.iter_rules() for m in (rule.methods or set()) - {"HEAD"}}
    assert served == set(MATRIX)


def test_a_route_outside_the_table_stops_the_start(server: Serving) -> None:
    app = create_app(server.store, server.hub, Settings(bytes(32)), time)
    app.add_url_rule("/backdoor", "backdoor", lambda: "hello")
    with pytest.raises(RuntimeError, match="GET /backdoor"):
        refuse_unlisted(app)


def test_the_table_is_looked_at_at_every_start(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "Flask", lambda name, **_: flask.Flask(name, static_folder="anything"))
    with pytest.raises(RuntimeError, match="GET /anything"):
        create_app(server.store, server.hub, Settings(bytes(32)), time)


# --- states of a token -----------------------------------------------------------------------------------------------

State = Callable[[Serving, Caller], dict[str, str]]  # what makes of a caller the headers of a request


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def signed(caller: Caller, key: bytes = SECRET, algorithm: str = "HS256", **changed: Any) -> dict[str, str]:
    now = time.time()
    claims = {"sub": str(caller.user.id), "tv": caller.user.token_version, "iat": now, "exp": now + 60, **changed}
    return bearer(jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm))


def unsigned(_server: Serving, caller: Caller) -> dict[str, str]:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return bearer(f"{head}.{caller.token.split('.')[1]}.")


def password_changed(server: Serving, caller: Caller) -> dict[str, str]:
    server.store.change_user(caller.name, password="another hash")
    return caller.headers


def role_changed_and_back(server: Serving, caller: Caller) -> dict[str, str]:
    server.store.change_user(caller.name, role=Role.MASTER if caller.user.role is Role.CLIENT else Role.CLIENT)
    server.store.change_user(caller.name, role=caller.user.role)
    return caller.headers


def deactivated(server: Serving, caller: Caller) -> dict[str, str]:
    server.store.change_user(caller.name, active=False)
    return caller.headers


def deactivated_and_back(server: Serving, caller: Caller) -> dict[str, str]:
    deactivated(server, caller)
    server.store.change_user(caller.name, active=True)
    return caller.headers


def account_expired(server: Serving, caller: Caller) -> dict[str, str]:
    server.store.change_user(caller.name, expires_at=server.store.now_ms() - 1)
    return caller.headers


STATES: Final[dict[str, State]] = {
    "none": lambda _server, _caller: {},
    "empty": lambda _server, _caller: {"Authorization": "Bearer "},
    "garbage": lambda _server, _caller: bearer("x.y.z"),
    "cut": lambda _server, caller: bearer(caller.token[:-1]),
    "unsigned": unsigned,
    "another algorithm": lambda _server, caller: signed(caller, algorithm="HS512"),
    "another key": lambda _server, caller: signed(caller, bytes(32)),
    "expired": lambda _server, caller: signed(caller, exp=time.time() - 1),
    "without an end": lambda _server, caller: signed(caller, exp=None),
    "of an earlier version": lambda _server, caller: signed(caller, tv=caller.user.token_version - 1),
    "of nobody": lambda _server, caller: signed(caller, sub="99999"),
    "of another kind": lambda _server, caller: {"Authorization": f"Basic {caller.token}"},
    "in a cookie": lambda _server, caller: {"Cookie": f"token={caller.token}; access_token={caller.token}"},
    "password changed": password_changed,
    "role changed and back": role_changed_and_back,
    "deactivated": deactivated,
    "deactivated and back": deactivated_and_back,
    "account expired": account_expired,
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("state", STATES)
def test_no_route_takes_a_token_that_is_not_good(server: Serving, state: str) -> None:
    server.user("another_admin", "admin")  # the last one could not be deactivated
    for role in Role:
        caller = server.user(f"a_{role}", role)
        headers = STATES[state](server, caller)
        for (method, path), (roles, body) in MATRIX.items():
            if roles is None:
                continue
            address = path.replace("<username>", "another_admin")
            answer = server.call(method, address, body, **headers)
            assert answer.status_code == 401, (method, path, role)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            in_the_address = server.call(method, f"{address}?token={caller.token}&access_token={caller.token}", body)
            assert in_the_address.status_code == 401, (method, path, role)
        assert server.call("GET", "/ws", None, **HANDSHAKE, **headers).status_code == 401
        offered = {"Sec_WebSocket_Protocol": headers.get("Authorization", "Bearer none").replace(" ", ", ").lower()}
        assert server.call("GET", "/ws", None, **HANDSHAKE, **offered).status_code == 401
    assert server.store.last_seq() == 0
    assert not server.hub.connected


def test_a_good_token_opens_what_its_role_may_and_nothing_else(server: Serving) -> None:
    for role in Role:
        server.user(f"the_{role}", role)
    for role in Role:
        caller = server.user(f"a_{role}", role)
        for (method, path), (roles, body) in MATRIX.items():
            answer = caller.call(method, path.replace("<username>", "the_client"), body)
            allowed = roles is None or role in roles
            expected = OTHERWISE.get((method, path), 201 if path == "/signal/broadcast" else 200) if allowed else 403
            assert answer.status_code == expected, (method, path, role, answer.text)
            if expected == 403:
                assert answer.json()["error"]["code"] == "forbidden"
            if roles is None:
                continue
            broken = caller.call(method, path.replace("<username>", "the_client"), None if body is None else b"{")
            assert broken.status_code == (expected if body is None else 400 if allowed else 403), (method, path, role)


def test_what_needs_no_token_does_not_mind_a_bad_one(server: Serving) -> None:
    server.user("the_client")
    for (method, path), (roles, body) in MATRIX.items():
        if roles is None:
            status = server.call(method, path, body, Authorization="Bearer x.y.z").status_code
            assert status == OTHERWISE.get((method, path), 200), (method, path)


def test_an_unknown_field_is_refused_everywhere(server: Serving) -> None:
    server.user("the_client")
    callers = {str(role): server.user(f"a_{role}", role) for role in Role}
    for (method, path), (roles, body) in MATRIX.items():
        if body is None:
            continue
        caller = callers[sorted(roles or EVERYONE)[0]]
        for more in ({"is_active": True}, {"id": 1}, {"role ": "admin"}, {"__class__": "x"}):
            answer = caller.call(method, path.replace("<username>", "the_client"), {**body, **more})
            assert answer.status_code == 422, (method, path, more)
            assert answer.json()["error"]["field"] == next(iter(more))
    for (method, path), (_, body) in MATRIX.items():
        if body is None and path not in ("/health", "/metrics", "/openapi.json", "/ws"):
            answer = callers["admin"].call(method, f"{path}?is_active=1")
            assert answer.status_code in (200, 422), (method, path)
    assert [(user.username, user.role) for user in server.store.users()] == [
        ("the_client", "client"),
        *((f"a_{role}", role) for role in Role),
    ]


# --- pages of other sites --------------------------------------------------------------------------------------------


def test_pages_of_other_sites_reach_no_route(server: Serving) -> None:
    callers = {str(role): server.user(f"the_{role}", role) for role in Role}
    own = server.url
    for (method, path), (roles, body) in MATRIX.items():
        caller = callers[sorted(roles or EVERYONE)[0]]
        address = path.replace("<username>", "the_client")
        for origin in ("https://evil.example", "null", own + "0", own.replace("//", "//evil@"), ""):
            answer = caller.call(method, address, body, Origin=origin)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin"), (path, origin)
        assert caller.call(method, address, body, Origin=own).status_code != 403
    assert server.store.last_seq() == 1


def test_a_name_that_was_made_to_lead_here_does_not_help_a_page(server: Serving) -> None:
    body = {"username": "new_client", "password": PASSWORD}
    rebound = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
    assert server.call("POST", "/users/public", body, **rebound).status_code == 403
    assert server.store.users() == []
    for route in ("/metrics", "/health", "/overview"):
        answer = server.call("GET", route, Host="evil.example:8000")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_host"), route
    for name in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert server.call("GET", "/health", Host=name).status_code == 200


def test_a_server_for_others_has_a_name_of_its_own(tmp_path: Path) -> None:
    named = {"Host": "trade.example", "Origin": "https://trade.example"}
    with serving(tmp_path, local=False) as server:
        assert server.call("GET", "/health", **named).status_code == 200
        assert server.call("GET", "/health", Host="trade.example", Origin="https://evil.example").status_code == 403


# --- behind a proxy --------------------------------------------------------------------------------------------------


def metrics_seen(server: Serving, **headers: str) -> int:
    return server.call("GET", "/metrics", **headers).status_code


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_saw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(tmp_path, local=False, behind_proxy=True) as server:
        forwarded = {"X_Forwarded_For": "127.0.0.1, 192.0.2.9"}  # the first is what the client itself has said
        server.call("GET", "/nothing", **forwarded)
        assert any(record.getMessage().startswith("GET /nothing 404 - 192.0.2.9 ") for record in caplog.records)
        for _ in range(6):
            status = server.call("POST", "/token", {"username": "nobody", "password": "x"}, **forwarded).status_code
        assert status == 429
        other = {"X_Forwarded_For": "192.0.2.9, 192.0.2.10"}
        assert server.call("POST", "/token", {"username": "nobody", "password": "x"}, **other).status_code == 401
        assert metrics_seen(server, **forwarded) == 401
        assert metrics_seen(server, X_Forwarded_For="127.0.0.1") == 401


def test_without_a_proxy_nobody_chooses_his_address(server: Serving) -> None:
    for number in range(6):
        claimed = {"X_Forwarded_For": f"192.0.2.{number}", "Forwarded": f"for=192.0.2.{number}"}
        status = server.call("POST", "/token", {"username": "nobody", "password": "x"}, **claimed).status_code
    assert status == 429
    assert metrics_seen(server) == 200
    assert metrics_seen(server, X_Forwarded_For="127.0.0.1") == 401  # a proxy that was not told of
