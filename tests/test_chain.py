"""The chain as its users run it: five processes, one of them killed and started again."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chain import PARTS, PASSWORDS, Chain
from secrets_kit import assert_no_secrets


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    one = Chain(tmp_path)
    try:
        yield one
    finally:
        one.stop()
    assert_no_secrets(tmp_path, *PASSWORDS.values(), but={"config_sender.json", "config_client.json"})


def running_copier(chain: Chain) -> None:
    """Until both sides are connected a trade would be older than the copier's ledger."""
    chain.wait(lambda: chain.admin("GET", "/overview")["masters"], "the master's first book")
    chain.wait(lambda: "settings" in (chain.folder / "copier.out").read_text(), "the copier to be connected")
    # An age is measured generously, and on a busy machine generously is much.
    begun = time.monotonic()
    chain.wait(lambda: time.monotonic() - begun > 1.0, "the ledger to be older than any trade")


@pytest.mark.parametrize("victim", PARTS)
def test_any_part_may_be_killed_and_the_accounts_agree_again(chain: Chain, victim: str) -> None:
    running_copier(chain)
    stays = chain.master_opens(0.2)
    goes = chain.master_opens(0.1, "XAUUSD", buy=False)
    chain.agrees("two trades")

    chain.kill(victim)
    if victim != "master":
        chain.master_closes(goes)
        chain.master_closes(stays, 0.1)
        chain.master_opens(0.4)
    chain.restart(victim)
    if victim == "master":
        chain.master_closes(goes)
        chain.master_closes(stays, 0.1)
        chain.master_opens(0.4)
    chain.agrees(f"after {victim} was killed")
    chain.master_opens(0.6, buy=False)
    chain.agrees("and copying goes on")
    assert chain.ever_opened() == 4


def test_all_parts_may_be_killed_at_once(chain: Chain) -> None:
    running_copier(chain)
    goes = chain.master_opens(0.2)
    chain.master_opens(0.4)
    chain.agrees("two trades")
    chain.master_closes(goes)
    for part in PARTS:
        chain.kill(part)
    for part in PARTS:
        chain.restart(part)
    chain.agrees("after everything was killed")
    assert chain.ever_opened() == 2


def test_a_lost_server_database_doubles_nothing_and_closes_nothing_wrongly(chain: Chain) -> None:
    running_copier(chain)
    goes = chain.master_opens(0.2)
    chain.master_opens(0.4)
    chain.agrees("two trades")
    chain.kill("server")
    for file in chain.folder.glob("server.db*"):
        file.unlink()
    chain.master_closes(goes)
    chain.restart("server")
    chain.make_users()
    chain.agrees("after the server began with an empty database")
    chain.master_opens(0.6, buy=False)
    chain.agrees("and copying goes on")
    assert chain.ever_opened() == 3


def test_a_lost_ledger_doubles_nothing(chain: Chain) -> None:
    running_copier(chain)
    goes = chain.master_opens(0.2)
    chain.master_opens(0.4)
    chain.agrees("two trades")
    for part in ("copier", "sender"):
        chain.kill(part)
    for file in (*chain.folder.glob("client.db*"), *chain.folder.glob("sender.db*")):
        file.unlink()
    for part in ("sender", "copier"):
        chain.restart(part)
    chain.wait(lambda: (chain.folder / "copier.out").read_text().count("adopted") == 2, "both copies to be adopted")
    chain.master_closes(goes)
    chain.agrees("after both ledgers were lost")
    assert chain.ever_opened() == 2


def test_a_mistyped_login_of_the_first_start_is_mended_in_the_file(chain: Chain) -> None:
    for part, file, ledger, at_work in (
        ("sender", "config_sender.json", "sender.db", "answered: seq"),
        ("copier", "config_client.json", "client.db", "settings: copying"),
    ):
        chain.kill(part)
        for of_before in chain.folder.glob(f"{ledger}*"):
            of_before.unlink()
        config, out = chain.folder / file, chain.folder / f"{part}.out"
        right = config.read_text()
        settings = json.loads(right)
        settings["mt5"]["login"] += 1
        for text, sign in ((json.dumps(settings), "no connection to the terminal"), (right, at_work)):
            config.write_text(text)
            out.write_text("")
            chain.start(part)
            chain.wait(lambda out=out, sign=sign: sign in out.read_text(), f"{part}: {sign}")
            if text != right:
                chain.kill(part)
    running_copier(chain)
    chain.master_opens(0.2)
    chain.agrees("one trade")


@pytest.mark.parametrize("part", ["copier", "sender"])
def test_a_program_with_a_user_of_another_role_does_nothing(chain: Chain, part: str) -> None:
    config, other = ("config_client.json", "master") if part == "copier" else ("config_sender.json", "client")
    chain.kill(part)
    settings = json.loads((chain.folder / config).read_text())
    settings["api"] |= {"username": f"{other}_user", "password": PASSWORDS[f"{other}_user"]}
    (chain.folder / config).write_text(json.dumps(settings))
    out = chain.folder / f"{part}.out"
    out.write_text("")
    chain.start(part)
    chain.wait(lambda: "this program needs one with the role" in out.read_text(), "the refusal")
    assert "logged in" not in out.read_text()


def test_a_position_closed_by_hand_stays_closed_over_restarts(chain: Chain) -> None:
    running_copier(chain)
    chain.master_opens(0.2)
    chain.agrees("one trade")
    (copy,) = chain.client.positions_get()
    chain.client.sim_close_by_hand(copy.ticket)
    chain.wait(
        lambda: any(e["event"] == "closed_by_client" for e in chain.admin("GET", "/executions")["executions"]),
        "the report that it was closed by the client",
    )
    chain.kill("copier")
    chain.restart("copier")
    chain.master_opens(0.4)
    chain.wait(lambda: [c[2] for c in chain.copies()] == [0.2], "the next trade alone")
    assert chain.ever_opened() == 2


def test_a_second_copier_in_the_same_folder_is_refused(chain: Chain) -> None:
    running_copier(chain)
    first = chain.running["copier"]
    chain.start("copier")
    second = chain.running["copier"]
    chain.running["copier"] = first
    assert second.wait(30) == 3
    assert "already running" in (chain.folder / "copier.out").read_text()


def test_a_second_copier_of_the_same_user_elsewhere_ends_the_first(chain: Chain, tmp_path: Path) -> None:
    running_copier(chain)
    first = chain.running.pop("copier")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config_client.json").write_text((tmp_path / "config_client.json").read_text())
    home, chain.folder = chain.folder, elsewhere
    chain.start("copier")
    chain.folder = home
    assert first.wait(30) == 1
    assert "two copiers on one account" in (home / "copier.out").read_text()
    with closing(sqlite3.connect(chain.folder / "server.db")) as server:
        names = [ledger_name(folder / "client.db") for folder in (home, elsewhere)]
        chain.wait(lambda: server.execute("SELECT ledger FROM copiers").fetchall() == [(names[1],)], "the other ledger")
    assert names[0] != names[1]


def ledger_name(file: Path) -> str:
    """The name that a copier's ledger gave itself."""
    with closing(sqlite3.connect(file)) as ledger:
        return str(ledger.execute("SELECT value FROM meta WHERE key = 'ledger'").fetchone()[0])


def test_a_trade_posted_without_a_ticket_is_copied_and_closed(chain: Chain) -> None:
    running_copier(chain)
    ask = chain.client.symbol_info_tick("EURUSD").ask
    body = {"symbol": "EURUSD", "action": "BUY", "volume": 0.10, "price": ask, "sl": 0.0, "tp": 0.0}
    answer = chain.api("master_user", "POST", "/signal/broadcast", body)
    chain.wait(lambda: [c[2] for c in chain.copies()] == [0.05], "the copy")
    chain.api("master_user", "POST", "/signal/close", {"ticket": answer["ticket"]})
    chain.wait(lambda: chain.copies() == [], "the close")


def test_every_program_ends_cleanly_when_asked(chain: Chain) -> None:
    running_copier(chain)
    for part in ("copier", "sender", "server"):
        process = chain.running.pop(part)
        ended = threading.Event()
        process.terminate()
        threading.Thread(target=lambda p=process, e=ended: (p.wait(), e.set()), daemon=True).start()
        assert ended.wait(20), f"{part} does not end\n{chain.output()}"


def test_the_highest_equity_can_be_forgotten_by_command(chain: Chain) -> None:
    running_copier(chain)
    chain.client.sim_deposit(-2_000.0)
    chain.master_opens(0.2)
    chain.wait(lambda: "max_drawdown_percent" in (chain.folder / "copier.out").read_text(), "the refusal")
    chain.kill("copier")
    chain.start("copier", "--reset-drawdown")
    chain.master_opens(0.4)
    chain.wait(lambda: 0.2 in [c[2] for c in chain.copies()], "copying to go on")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-keyout", str(key), "-out", str(chain), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


def test_the_whole_chain_works_over_tls_with_a_certificate_of_its_own(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    chain = Chain(tmp_path, certificate=certificate)
    try:
        running_copier(chain)
        chain.master_opens(0.2)
        chain.agrees("over TLS")
        for part in ("sender", "copier"):
            chain.kill(part)
            config = tmp_path / f"config_{'client' if part == 'copier' else part}.json"
            config.write_text(config.read_text().replace(str(certificate[0]), ""))
            settings = json.loads(config.read_text())
            del settings["api"]["ca_file"]
            config.write_text(json.dumps(settings))
            chain.start(part)
            output = chain.folder / f"{part}.out"
            chain.wait(lambda output=output: "certificate" in output.read_text(), f"{part} to refuse the certificate")
    finally:
        chain.stop()
