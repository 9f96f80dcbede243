"""Passwords, tokens and the brake on guessing."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from server_kit import ORIGINAL_SIGNAL, PASSWORD, SECRET, HandClock, Serving, password_hash, serving

import auth
from auth import FAILURES_PER_ADDRESS, FREE_FAILURES, Passwords, Throttle, Tokens, read_secret
from db import Store, Unusable
from records import Role, User


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


# --- tokens ----------------------------------------------------------------------------------------------------------


def encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: dict[str, Any], key: bytes = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header or None)


def flipped(token: str, part: int) -> str:
    parts = token.split(".")
    middle = len(parts[part]) // 2
    other = "A" if parts[part][middle] != "A" else "B"
    parts[part] = parts[part][:middle] + other + parts[part][middle + 1 :]
    return ".".join(parts)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_only_a_token_of_ours_that_is_still_good_opens_anything(server: Serving) -> None:
    master = server.user("master_user", "master")
    now = time.time()
    good = {"sub": str(master.user.id), "tv": 1, "iat": now, "exp": now + 60}
    assert server.call("GET", "/signals", Authorization=f"Bearer {signed(good)}").status_code == 200
    unsigned = f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(good)}."
    bad = {
        "nothing": "",
        "garbage": "x.y.z",
        "three dots": "...",
        "10 kB": "x" * 10_000,
        "alg none": unsigned,
        "alg None": unsigned.replace(encoded({"alg": "none", "typ": "JWT"}), encoded({"alg": "None"})),
        "HS512": signed(good, algorithm="HS512"),
        "another key": signed(good, bytes(32)),
        "expired": signed({**good, "exp": now - 1}),
        "no exp": signed({k: v for k, v in good.items() if k != "exp"}),
        "no iat": signed({k: v for k, v in good.items() if k != "iat"}),
        "no sub": signed({k: v for k, v in good.items() if k != "sub"}),
        "no version": signed({k: v for k, v in good.items() if k != "tv"}),
        "an older version": signed({**good, "tv": 0}),
        "a later version": signed({**good, "tv": 2}),
        "an unknown user": signed({**good, "sub": "99"}),
        "sub is no number": signed({**good, "sub": "master_user"}),
        "exp is no number": signed({**good, "exp": "never"}),
        "exp is infinite": f"{signed(good).split('.')[0]}.{encoded({**good, 'exp': 1e999})}.x",
        "flipped header": flipped(signed(good), 0),
        "flipped claims": flipped(signed(good), 1),
        "flipped signature": flipped(signed(good), 2),
        "a key given along": signed(good, b"k" * 32, jwk={"kty": "oct", "k": encoded(b"k" * 32)}),
    }
    for name, token in bad.items():
        answer = server.call("GET", "/signals", Authorization=f"Bearer {token}")
        assert answer.status_code == 401, name
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for header in ("", "Bearer", signed(good), f"Token {signed(good)}", f"Bearer {signed(good)},x"):
        assert server.call("GET", "/signals", Authorization=header).status_code == 401, header


def test_the_role_is_that_of_the_database_not_of_the_token(server: Serving) -> None:
    admin = server.user("admin", "admin")
    user = server.user("master_user", "master")
    claims = {"sub": str(user.user.id), "tv": 1, "iat": 0, "exp": time.time() + 60, "role": "admin"}
    assert server.call("GET", "/users/", Authorization=f"Bearer {signed(claims)}").status_code == 403
    admin.call("PATCH", "/users/master_user", {"role": "client"})
    assert user.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL).status_code == 401
    credentials = {"username": "master_user", "password": PASSWORD}
    token = server.call("POST", "/token", credentials).json()["access_token"]
    answer = server.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL, Authorization=f"Bearer {token}")
    assert answer.status_code == 403


def test_tokens_live_by_the_servers_clock(tmp_path: Path) -> None:
    clock = HandClock()
    store = Store(tmp_path / "server.db", clock)
    user = store.add_user("client_user", "hash", Role.CLIENT)
    tokens = Tokens(SECRET, store, 60)
    token = tokens.issue(user)
    clock.advance(59.9)
    found = tokens.read(token)
    assert found is not None
    assert (found.user_id, found.version) == (user.id, 1)
    clock.wall -= 3600  # setting the computer's clock back does not revive it
    clock.now += 0.2
    assert tokens.read(token) is None
    store.close()


def test_a_short_secret_signs_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "server.db", HandClock())
    with pytest.raises(Unusable, match="secret has 16 bytes"):
        Tokens(bytes(16), store, 60)
    store.close()


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "server.secret"
    secret = read_secret(path)
    assert len(secret) == 32
    assert read_secret(path) == secret
    assert [file.name for file in tmp_path.iterdir()] == ["server.secret"]
    assert read_secret(tmp_path / "other.secret") != secret
    with pytest.raises(Unusable, match="cannot be read or made"):
        read_secret(tmp_path / "nowhere" / "x.secret")


# --- passwords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["x" * 7, "x" * 129, "", 12345678, None, ["x" * 8], "x" * 8 + "\ud800"])
def test_passwords_have_8_to_128_characters(server: Serving, password: Any) -> None:
    admin = server.user("admin", "admin")
    for path, more in (("/users/public", {}), ("/users/", {"role": "client"})):
        answer = admin.call("POST", path, {"username": "new_user", "password": password, **more})
        assert (answer.status_code, answer.json()["error"].get("field")) == (422, "password")
    assert admin.call("PATCH", "/users/admin", {"password": password}).status_code == 422


@pytest.mark.parametrize("password", ["x" * 8, "x" * 128, "пароль-é-密码", '  spaces "quotes\\"'])
def test_a_password_is_taken_as_it_is(server: Serving, password: str) -> None:
    credentials = {"username": "new_user", "password": password}
    assert server.call("POST", "/users/public", credentials).status_code == 201
    assert server.call("POST", "/token", credentials).status_code == 200
    for other in (password[:-1], password[1:], password.strip().swapcase()):
        if other != password:
            assert server.call("POST", "/token", {**credentials, "password": other}).status_code == 401


@pytest.mark.parametrize("name", ["ab", "x" * 65, "a b", "a/b", "é" * 4, "", 5, None, "admin\n", "../etc"])
def test_user_names_have_3_to_64_plain_characters(server: Serving, name: Any) -> None:
    answer = server.call("POST", "/users/public", {"username": name, "password": PASSWORD})
    assert (answer.status_code, answer.json()["error"].get("field")) == (422, "username")


def test_only_hashes_are_stored(server: Serving) -> None:
    server.call("POST", "/users/public", {"username": "new_user", "password": "canary password"})
    [user] = server.store.users()
    assert user.password.startswith("scrypt:32768:8:1$")
    server.store.close()
    assert b"canary password" not in server.store.path.read_bytes()


def test_an_unknown_user_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    real = auth.check_password_hash

    def counting(hashed: str, plain: str) -> bool:
        checked.append(hashed.split("$")[0])
        return real(hashed, plain)

    monkeypatch.setattr(auth, "check_password_hash", counting)
    user = User(1, "client_user", password_hash(), Role.CLIENT, True, 1, 0, None)
    passwords = Passwords()
    assert passwords.fits(user, PASSWORD)
    assert not passwords.fits(user, "wrong horse")
    assert not passwords.fits(None, PASSWORD)
    assert not passwords.fits(replace(user, password=auth.nobodys_hash()), PASSWORD)
    assert checked == ["scrypt:32768:8:1"] * 4


def test_at_most_two_hashes_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def slow(_hashed: str, _plain: str) -> bool:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return False

    passwords = Passwords()
    monkeypatch.setattr(auth, "check_password_hash", slow)
    threads = [threading.Thread(target=passwords.fits, args=(None, "x"), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 2


def test_a_signal_does_not_wait_for_log_ins(
    server: Serving, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    master = server.user("master_user", "master")
    go_on, entered = threading.Event(), threading.Event()

    def hanging(_hashed: str, _plain: str) -> bool:
        entered.set()
        return not go_on.wait(20)

    monkeypatch.setattr(auth, "check_password_hash", hanging)
    statuses: list[int] = []

    def log_in() -> None:
        import requests

        credentials = {"username": "master_user", "password": "wrong horse"}
        statuses.append(requests.post(server.url + "/token", json=credentials, timeout=30).status_code)

    threads = [threading.Thread(target=log_in, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL).status_code == 201
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert statuses == [401] * 4


# --- the brake -------------------------------------------------------------------------------------------------------


def test_guessing_is_slowed_down_more_and_more_and_never_for_good() -> None:
    clock = HandClock()
    throttle = Throttle(clock)
    pauses = []
    for _ in range(FREE_FAILURES + 8):
        pauses.append(throttle.wait_s("client_user", "10.0.0.1"))
        clock.advance(pauses[-1])
        assert throttle.wait_s("Client_USER", "10.0.0.1") == 0
        throttle.failed("client_user", "10.0.0.1")
    assert pauses == [0] * FREE_FAILURES + [1, 2, 4, 8, 16, 32, 60, 60]


def test_guessing_from_one_address_keeps_nobody_out_at_another() -> None:
    throttle = Throttle(HandClock())
    for _ in range(FREE_FAILURES):
        throttle.failed("client_user", "10.0.0.1")
    assert throttle.wait_s("client_user", "10.0.0.1") > 0
    assert throttle.wait_s("client_user", "10.0.0.2") == 0
    assert throttle.wait_s("other_user", "10.0.0.1") == 0


def test_a_right_password_lets_go_of_the_brake() -> None:
    throttle = Throttle(HandClock())
    for _ in range(FREE_FAILURES):
        throttle.failed("client_user", "10.0.0.1")
    throttle.succeeded("client_user", "10.0.0.1")
    assert throttle.wait_s("client_user", "10.0.0.1") == 0


def test_an_address_that_tries_many_names_is_slowed_down() -> None:
    clock = HandClock()
    throttle = Throttle(clock)
    for number in range(FAILURES_PER_ADDRESS):
        assert throttle.wait_s(f"user{number}", "10.0.0.1") == 0
        throttle.failed(f"user{number}", "10.0.0.1")
    assert throttle.wait_s("another", "10.0.0.1") == 60
    assert throttle.wait_s("another", "10.0.0.2") == 0
    clock.advance(61)
    assert throttle.wait_s("another", "10.0.0.1") == 0


def test_right_passwords_do_not_count_against_an_address() -> None:
    throttle = Throttle(HandClock())
    for number in range(3 * FAILURES_PER_ADDRESS):
        assert throttle.wait_s(f"user{number}", "10.0.0.1") == 0
        throttle.failed(f"user{number}", "10.0.0.1")
        throttle.succeeded(f"user{number}", "10.0.0.1")


def test_the_brake_forgets_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MOST_REMEMBERED", 50)
    throttle = Throttle(HandClock())
    for number in range(500):
        throttle.failed(f"user{number}", "10.0.0.1")
    assert len(throttle._accounts) <= 51
    assert throttle.wait_s("another", "10.0.0.1") > 0


def test_too_many_wrong_passwords_are_429_before_any_hashing(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    server.user("client_user")
    monkeypatch.setattr(auth, "check_password_hash", lambda _hashed, _plain: False)
    wrong = {"username": "client_user", "password": "wrong horse"}
    assert [server.call("POST", "/token", wrong).status_code for _ in range(FREE_FAILURES)] == [401] * FREE_FAILURES
    monkeypatch.setattr(auth, "check_password_hash", lambda _hashed, _plain: pytest.fail("a hash was computed"))
    answer = server.call("POST", "/token", {**wrong, "password": PASSWORD})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_attempts")
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.call("GET", "/health").status_code == 200
