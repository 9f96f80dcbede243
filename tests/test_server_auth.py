"""Passwords, tokens and the brake on guessing."""

import base64
import contextlib
import http.client
import json
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from server_kit import ORIGINAL_SIGNAL, PASSWORD, SECRET, HandClock, Serving, password_hash, serving
from werkzeug.security import generate_password_hash

import auth
from auth import Brake, Busy, Passwords, Tokens, TooFast, network_of, read_secret
from database import Unusable
from db import Store
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
        "for somebody else": signed({**good, "aud": "another server"}),
        "not yet good": signed({**good, "nbf": now + 3600}),
        "RS256 with our secret as its key": ".".join((encoded({"alg": "RS256", "typ": "JWT"}), encoded(good), "x")),
        "a key from an address": signed(good, b"k" * 32, jku="https://evil.example/keys", kid="../../dev/null"),
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


@pytest.mark.parametrize("password", ["password", "12345678", "Password1", "QWERTYUIOP"])
def test_passwords_that_everybody_tries_first_are_refused(server: Serving, password: str) -> None:
    answer = server.call("POST", "/users/public", {"username": "new_user", "password": password})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "password")
    assert "most common" in answer.json()["error"]["message"]
    assert len(auth.common_passwords()) == 3000
    assert min(map(len, auth.common_passwords())) == 8


def test_the_user_name_is_no_password(server: Serving) -> None:
    admin = server.user("admin_user", "admin")
    for method, path, body in (
        ("POST", "/users/public", {"username": "new_user", "password": "NEW_user"}),
        ("POST", "/users/", {"username": "new_user", "password": "new_user", "role": "client"}),
        ("PATCH", "/users/admin_user", {"password": "admin_user"}),
    ):
        answer = admin.call(method, path, body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "password")


def test_a_hash_of_less_work_is_renewed_at_log_in_and_ends_nothing(server: Serving) -> None:
    server.user("admin", "admin")
    client = server.user("client_user")
    old = generate_password_hash(PASSWORD, "scrypt:1024:8:1")
    server.store.change_user("client_user", password=old)
    credentials = {"username": "client_user", "password": PASSWORD}
    token = server.call("POST", "/token", credentials).json()["access_token"]
    found = server.store.user(client.user.id)
    assert found is not None
    assert found.password.startswith("scrypt:32768:8:3$")
    assert server.call("GET", "/signals", Authorization=f"Bearer {token}").status_code == 200
    assert server.call("POST", "/token", credentials).status_code == 200
    server.store.renew_hash(replace(found, password="another"), "late")  # the password was changed meanwhile
    assert server.store.user(client.user.id) == found


def test_tokens_given_together_do_not_end_together(server: Serving) -> None:
    lives = [server.tokens.drawn_life() for _ in range(100)]
    assert 0.8 * 3600 <= min(lives) < max(lives) <= 3600
    server.user("client_user")
    answer = server.call("POST", "/token", {"username": "client_user", "password": PASSWORD}).json()
    token = server.tokens.read(answer["access_token"])
    assert token is not None
    assert abs(token.expires_at - server.store.now_ms() - answer["expires_in"] * 1000) < 30_000


def test_only_hashes_are_stored(server: Serving) -> None:
    server.call("POST", "/users/public", {"username": "new_user", "password": "canary password"})
    [user] = server.store.users()
    assert user.password.startswith("scrypt:32768:8:3$")
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
    assert checked == ["scrypt:32768:8:3"] * 3
    like_a_real_one = re.compile(r"scrypt:32768:8:3\$[\w-]{16}\$[0-9a-f]{128}")
    assert like_a_real_one.fullmatch(password_hash())
    assert like_a_real_one.fullmatch(auth.nobodys_hash())


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


def test_strangers_that_log_in_all_the_time_leave_a_turn_to_users_who_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, entered = threading.Event(), threading.Semaphore(0)

    def slow(_hashed: str, plain: str) -> bool:
        if plain == "known":
            return True
        entered.release()
        return go_on.wait(20)

    monkeypatch.setattr(auth, "check_password_hash", slow)
    passwords = Passwords()
    threads = [threading.Thread(target=passwords.fits, args=(None, "x"), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert entered.acquire(timeout=10)
    user = User(1, "client_user", "hash", Role.CLIENT, True, 1, 0, None)
    assert passwords.fits(user, "known", known=True)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert passwords.fits(user, "known"), "strangers have their turns again"


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's and Windows'")
def test_whoever_hashes_lets_everything_else_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen: list[int] = []
    monkeypatch.setattr(
        auth,
        "check_password_hash",
        lambda _hashed, _plain: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
    )
    Passwords().fits(None, "x")
    assert seen.pop() == min(19, ours + auth.LOWER_PRIORITY)

    def not_allowed(*_arguments: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", not_allowed)
    Passwords().fits(None, "x")
    assert seen == [ours]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours


def test_log_ins_that_wait_for_their_turn_do_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, entered = threading.Event(), threading.Semaphore(0)

    def hanging(_hashed: str, _plain: str) -> bool:
        entered.release()
        return go_on.wait(20)

    monkeypatch.setattr(auth, "check_password_hash", hanging)
    passwords = Passwords()
    busy = threading.Semaphore(0)

    def log_in() -> None:
        try:
            passwords.fits(None, "x")
        except Busy:
            busy.release()

    threads = [threading.Thread(target=log_in, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert entered.acquire(timeout=10)
    passwords.close()
    for _ in range(4):
        assert busy.acquire(timeout=5)
    go_on.set()
    for thread in threads:
        thread.join(10)
    with pytest.raises(Busy):
        passwords.hashed("x")


def test_a_log_in_that_waits_too_long_for_its_turn_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(auth, "check_password_hash", lambda _hashed, _plain: go_on.wait(20))
    monkeypatch.setattr(auth, "HASH_PATIENCE_S", 0.05)
    passwords = Passwords()
    for _ in range(4):
        with pytest.raises(Busy):
            passwords.fits(None, "x")
    go_on.set()
    passwords.close()


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

    def log_in(address: str) -> None:
        body = json.dumps({"username": f"user_at_{address}", "password": "wrong horse"})
        host = server.url.partition("://")[2]
        with contextlib.closing(
            http.client.HTTPConnection(host, timeout=30, source_address=(address, 0))
        ) as connection:
            connection.request("POST", "/token", body)
            statuses.append(connection.getresponse().status)

    threads = [threading.Thread(target=log_in, args=(f"127.0.2.{n + 1}",), daemon=True) for n in range(50)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert master.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL).status_code == 201
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert statuses == [401] * 50


# --- the brake -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path, clock: HandClock) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path / "brake.db", clock)) as opened:
        yield opened


@pytest.fixture
def brake(store: Store) -> Brake:
    return Brake(store)


def evaluated(brake: Brake, clock: HandClock, guesses: Iterable[tuple[str, str]], pause_s: float = 0.0) -> int:
    """How many of these attempts, all with a wrong password, got as far as having it checked."""
    looked_at = 0
    for username, address in guesses:
        with contextlib.suppress(TooFast):
            brake.log_in(username, address)
            looked_at += 1
        clock.advance(pause_s)
    return looked_at


def wait_s(brake: Brake, username: str, address: str) -> float:
    try:
        brake.undone(brake.log_in(username, address))
    except TooFast as too_fast:
        return too_fast.wait_s
    return 0


def test_of_a_thousand_guesses_at_most_ten_a_minute_are_evaluated(brake: Brake, clock: HandClock) -> None:
    guesses = [("client_user", "10.0.0.1")] * 1000
    assert evaluated(brake, clock, guesses, 0.05) == 5  # 50 seconds
    clock.advance(60)
    assert evaluated(brake, clock, [("Client_USER", f"10.0.{n}.1") for n in range(200)], 0.05) == 10


def test_guessing_goes_on_more_slowly_and_is_never_stopped_for_good(brake: Brake, clock: HandClock) -> None:
    an_hour = [("client_user", "10.0.0.1")] * 3600
    assert evaluated(brake, clock, an_hour, 1.0) == 30
    clock.advance(1)
    waits = []
    for _ in range(31):
        waits.append(wait_s(brake, "client_user", "10.0.0.1"))
        clock.advance(waits[-1])
        brake.log_in("client_user", "10.0.0.1")
    assert max(waits) <= 3600
    assert waits[0] < 60


def test_guessing_from_one_address_keeps_nobody_out_at_another(brake: Brake, clock: HandClock) -> None:
    assert evaluated(brake, clock, [("client_user", "10.0.0.1")] * 1000) == 5
    assert wait_s(brake, "client_user", "10.0.0.1") == 60
    assert wait_s(brake, "client_user", "10.0.0.2") == 0
    assert wait_s(brake, "other_user", "10.0.0.1") == 0


def test_guessing_from_everywhere_keeps_nobody_out_where_he_has_logged_in_before(
    brake: Brake, clock: HandClock
) -> None:
    brake.succeeded(brake.log_in("client_user", "192.0.2.7"), "client_user", "192.0.2.7")
    everywhere = [("client_user", f"10.{n}.{m}.1") for n in range(10) for m in range(100)]
    assert evaluated(brake, clock, everywhere) == 10
    assert wait_s(brake, "client_user", "10.99.0.1") == 60
    assert wait_s(brake, "client_user", "192.0.2.7") == 0
    assert evaluated(brake, clock, [("client_user", "192.0.2.7")] * 100) == 5  # to guess there is not free either
    clock.advance(91 * 86_400)
    brake.succeeded(brake.log_in("other_user", "10.0.0.1"), "other_user", "10.0.0.1")
    assert evaluated(brake, clock, everywhere) == 10
    assert wait_s(brake, "client_user", "192.0.2.7") == 60  # that was long ago


def test_an_address_that_tries_many_names_is_slowed_down(brake: Brake, clock: HandClock) -> None:
    assert evaluated(brake, clock, [(f"user{n}", "10.0.0.1") for n in range(500)]) == 30
    assert wait_s(brake, "another", "10.0.0.1") == 60
    assert wait_s(brake, "another", "10.0.0.2") == 0
    clock.advance(61)
    assert wait_s(brake, "another", "10.0.0.1") == 0


def test_right_passwords_do_not_count(brake: Brake) -> None:
    for number in range(100):
        name = f"user{number % 3}"
        brake.succeeded(brake.log_in(name, "10.0.0.1"), name, "10.0.0.1")
    assert wait_s(brake, "user0", "10.0.0.1") == 0


def test_an_address_of_ipv6_counts_with_its_network() -> None:
    assert network_of("2001:db8:1:2::a") == network_of("2001:db8:1:2:ffff::1%eth0") != network_of("2001:db8:1:3::a")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("no address") == "no address"


def test_a_restart_gives_no_new_attempts(store: Store, brake: Brake, clock: HandClock) -> None:
    assert evaluated(brake, clock, [("client_user", "10.0.0.1")] * 10) == 5
    store.close()
    clock.wall -= 3600
    with contextlib.closing(Store(store.path, clock)) as reopened:
        assert wait_s(Brake(reopened), "client_user", "10.0.0.1") == 60


def test_the_brake_forgets_what_no_limit_asks_for_and_never_knew_the_names(
    store: Store, brake: Brake, clock: HandClock
) -> None:
    evaluated(brake, clock, [(f"canary{n}", f"10.0.{n}.1") for n in range(200)])
    clock.advance(3601)
    evaluated(brake, clock, [("canary", "10.0.0.1")])
    store.close()
    with contextlib.closing(sqlite3.connect(store.path)) as database:
        assert database.execute("SELECT count(*) FROM attempts").fetchone() == (1,)
        assert "canary" not in "\n".join(database.iterdump())


def test_attempts_side_by_side_all_count(brake: Brake) -> None:
    counted: list[int] = []

    def guess() -> None:
        with contextlib.suppress(TooFast):
            counted.append(brake.log_in("client_user", "10.0.0.1"))

    threads = [threading.Thread(target=guess, daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(counted)) == len(counted) == 5


def test_registering_is_limited_too(brake: Brake, clock: HandClock) -> None:
    def registered(addresses: Iterable[str]) -> int:
        done = 0
        for number, address in enumerate(addresses):
            with contextlib.suppress(TooFast):
                brake.register(f"user{number}", address)
                done += 1
        return done

    assert registered(["10.0.0.1"] * 100) == 10
    assert registered(f"10.0.{n}.1" for n in range(200)) == 90
    assert wait_s(brake, "user1", "10.0.0.1") == 0  # to log in
    clock.advance(3601)
    assert registered(["10.0.0.1"] * 100) == 10


def test_too_many_wrong_passwords_are_429_before_any_hashing(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    server.user("client_user")
    monkeypatch.setattr(auth, "check_password_hash", lambda _hashed, _plain: False)
    for name in ("client_user", "nobody_at_all"):
        wrong = {"username": name, "password": "wrong horse"}
        assert [server.call("POST", "/token", wrong).status_code for _ in range(5)] == [401] * 5
    monkeypatch.setattr(auth, "check_password_hash", lambda _hashed, _plain: pytest.fail("a hash was computed"))
    for name in ("client_user", "nobody_at_all"):  # which cannot be told from a user by this either
        answer = server.call("POST", "/token", {"username": name, "password": PASSWORD})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_attempts")
        assert int(answer.headers["Retry-After"]) >= 1
    assert server.call("GET", "/health").status_code == 200


def test_another_password_given_by_an_admin_ends_the_wait_after_wrong_ones(server: Serving) -> None:
    admin = server.user("admin_user", "admin")
    server.user("client_user")
    wrong = {"username": "client_user", "password": "wrong horse"}
    while server.call("POST", "/token", wrong).status_code != 429:
        pass
    admin.call("PATCH", "/users/client_user", {"active": True})
    assert server.call("POST", "/token", wrong).status_code == 429
    admin.call("PATCH", "/users/client_user", {"password": "another horse"})
    assert server.call("POST", "/token", {"username": "client_user", "password": "another horse"}).status_code == 200


def log_in_from(server: Serving, address: str, password: str, username: str = "client_user") -> int:
    body = json.dumps({"username": username, "password": password})
    host = server.url.partition("://")[2]
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30, source_address=(address, 0))) as connection:
        connection.request("POST", "/token", body)
        return connection.getresponse().status


def test_whoever_comes_from_where_he_has_logged_in_before_does_not_wait_behind_strangers(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.user("client_user")
    go_on, entered = threading.Event(), threading.Semaphore(0)

    def checked(_hashed: str, plain: str) -> bool:
        if plain == PASSWORD:
            return True
        entered.release()
        return not go_on.wait(20)

    monkeypatch.setattr(auth, "check_password_hash", checked)
    assert log_in_from(server, "127.0.0.9", PASSWORD) == 200
    threads = [
        threading.Thread(target=log_in_from, args=(server, f"127.0.1.{n}", "wrong horse", f"user{n}"), daemon=True)
        for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert entered.acquire(timeout=10)
    assert log_in_from(server, "127.0.0.9", PASSWORD) == 200
    go_on.set()
    for thread in threads:
        thread.join(20)


def test_guessing_side_by_side_keeps_the_rightful_user_out_at_no_other_address(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.user("client_user")
    looked_at: list[str] = []

    def checked(_hashed: str, plain: str) -> bool:
        looked_at.append(plain)
        return plain == PASSWORD

    monkeypatch.setattr(auth, "check_password_hash", checked)

    def log_in(password: str, address: str) -> int:
        return log_in_from(server, address, password)

    assert log_in(PASSWORD, "127.0.0.9") == 200
    looked_at.clear()
    statuses: list[int] = []

    def guess(address: str) -> None:
        statuses.extend(log_in("wrong horse", address) for _ in range(10))

    threads = [threading.Thread(target=guess, args=("127.0.0.2",), daemon=True) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (statuses.count(401), statuses.count(429)) == (len(looked_at), 100 - len(looked_at)) == (5, 95)
    assert log_in(PASSWORD, "127.0.0.2") == 429  # also the right one, or it would tell that it is right
    assert log_in(PASSWORD, "127.0.0.3") == 200
    for number in range(20):
        guess(f"127.0.1.{number}")
    assert len(looked_at) == 5 + 1 + 5  # ten a minute for the account, wherever the guesses come from
    assert log_in(PASSWORD, "127.0.0.4") == 429
    assert log_in(PASSWORD, "127.0.0.9") == 200  # where he has logged in before


def test_too_many_registrations_are_429_before_any_hashing(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "generate_password_hash", lambda _plain, _method: "a hash")
    body = {"username": "new_user_0", "password": PASSWORD}
    statuses = [server.call("POST", "/users/public", {**body, "username": f"new_{n}"}).status_code for n in range(12)]
    assert statuses == [201] * 10 + [429] * 2
    assert len(server.store.users()) == 10


def test_an_attempt_that_was_not_looked_at_does_not_count(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    server.user("client_user")

    def busy(_self: Passwords, _user: User | None, _plain: str, **_more: bool) -> bool:
        raise Busy

    credentials = {"username": "client_user", "password": PASSWORD}
    with monkeypatch.context() as patched:
        patched.setattr(Passwords, "fits", busy)
        for _ in range(20):
            answer = server.call("POST", "/token", credentials)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
    assert server.call("POST", "/token", credentials).status_code == 200


def test_the_name_of_a_log_in_is_logged_only_when_it_is_one(
    server: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.user("client_user")
    monkeypatch.setattr(auth, "check_password_hash", lambda _hashed, _plain: False)
    for name in ("client_user", "my secret password"):
        server.call("POST", "/token", {"username": name, "password": "wrong horse"})
    refused = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert refused == [
        "log-in of client_user from 127.0.0.1 refused",
        "log-in of an unknown user from 127.0.0.1 refused",
    ]
