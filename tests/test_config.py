"""The hand-edited settings: what people write is understood, and every mistake is told in words they understand."""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
import settings_file
from config import ApiSettings, Module, Mt5Settings, load_client, load_sender
from names import SymbolNames
from safety import Copying, Limits, Mode, Sizing
from settings_file import ConfigError, Mistake

ROOT = Path(config.__file__).resolve().parent

CLIENT = """{
  "api": {
    "url": "http://127.0.0.1:8000",
    "ws_url": "ws://127.0.0.1:8000",
    "username": "client_user",
    "password": "OpenSesame-77"
  },
  "mt5": {
    "login": 87654321,
    "password": "Rumpelstilz-88",
    "server": "Broker-Server"
  },
  "trade_copy": {
    "mode": "fix",
    "fixed_lot": 0.01,
    "multiplier": 1.0,
    "magic_number_copier": 123456,
    "max_slippage_points": 50,
    "max_spread_points": 20,
    "max_exposure_trades": 5,
    "max_exposure_lots": 10.0
  },
  "safety": {
    "max_drawdown_percent": 10
  }
}
"""
PASSWORDS = ("OpenSesame-77", "Rumpelstilz-88")


def client_from(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> config.ClientConfig:
    file = folder / "config_client.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_client(file, environ or {})


def mistakes_in(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[Mistake]:
    with pytest.raises(ConfigError) as raised:
        client_from(folder, text, environ)
    for password in PASSWORDS:
        assert password not in str(raised.value) + repr(raised.value)
    return raised.value.mistakes


def changed(before: str, after: str) -> str:
    """The good file with one piece of its text replaced."""
    assert CLIENT.count(before) == 1, f"{before!r} stands {CLIENT.count(before)} times in the file"
    return CLIENT.replace(before, after)


def line_of(piece: str, text: str = CLIENT) -> int:
    return text[: text.index(piece)].count("\n") + 1


# ---- The example files ----


def test_the_example_of_the_sender_loads_as_it_is() -> None:
    loaded = load_sender(ROOT / "config_sender.json", {})

    assert loaded == config.SenderConfig(
        api=ApiSettings(
            url="http://127.0.0.1:8000",
            username="master_user",
            password="secret_password",
            ws_url="ws://127.0.0.1:8000",
        ),
        mt5=Mt5Settings(login=12345678, password="mt5_password", server="Broker-Server"),
        poll_ms=50,
        folder=ROOT,
    )


def test_the_example_of_the_copier_loads_as_it_is() -> None:
    loaded = load_client(ROOT / "config_client.json", {})

    assert loaded == config.ClientConfig(
        api=ApiSettings(
            url="http://127.0.0.1:8000",
            username="client_user",
            password="client_password",
            ws_url="ws://127.0.0.1:8000",
        ),
        mt5=Mt5Settings(login=87654321, password="mt5_password", server="Broker-Server"),
        sizing=Sizing(Mode.FIX, Decimal("0.01"), Decimal("1.0")),
        limits=Limits(50, 20, 5, Decimal("10.0"), Decimal(10), 60),
        copying=Copying.ON,
        magic=123456,
        folder=ROOT,
    )


@pytest.mark.parametrize(
    ("name", "sections"),
    [("config_sender.json", ["api", "mt5"]), ("config_client.json", ["api", "mt5", "trade_copy"])],
)
def test_an_example_file_has_exactly_the_sections_of_the_original(name: str, sections: list[str]) -> None:
    table, mistakes = settings_file.read(ROOT / name)

    assert not mistakes
    assert list(table.entries) == sections


@pytest.mark.parametrize("name", ["config_sender.json", "config_client.json"])
def test_each_commented_out_line_of_an_example_can_be_used(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    used = re.sub(r'(?m)^(\s*)// ( *["}])', r"\1\2", text)
    assert used.count("//") < text.count("//")
    (tmp_path / name).write_text(used, encoding="utf-8")
    (tmp_path / "server.crt").touch()

    load = load_sender if name == "config_sender.json" else load_client
    loaded = load(tmp_path / name, {})

    assert loaded.api.ca_file == str(tmp_path / "server.crt")
    assert loaded.mt5.portable is True


# ---- What people write is understood ----


def test_comments_and_trailing_commas_are_understood(tmp_path: Path) -> None:
    text = changed('"mode": "fix",', '"mode": /* or "multiplier" */ "fix", // { " not a value')
    text = text.replace("10.0\n", "10.0, // lots\n").replace("10\n  }", "10,\n  },")

    assert client_from(tmp_path, "// first\n" + text + "// last") == client_from(tmp_path, CLIENT)


def test_two_strokes_inside_a_text_are_no_comment(tmp_path: Path) -> None:
    assert client_from(tmp_path, changed("Broker-Server", "a//b /* c */")).mt5.server == "a//b /* c */"


@pytest.mark.parametrize(
    "data",
    [
        CLIENT.encode("utf-8-sig"),
        CLIENT.encode("utf-16"),
        b"\xfe\xff" + CLIENT.encode("utf-16-be"),
        CLIENT.replace("\n", "\r\n").encode(),
        CLIENT.replace("\n", "\r").encode(),
        CLIENT.replace("  ", "\u00a0 ").encode(),
    ],
    ids=["bom", "utf-16", "utf-16 big-endian", "windows", "old mac", "copied from a web page"],
)
def test_the_file_may_come_from_any_editor(tmp_path: Path, data: bytes) -> None:
    assert client_from(tmp_path, data) == client_from(tmp_path, CLIENT)


def test_numbers_stay_what_was_written(tmp_path: Path) -> None:
    loaded = client_from(tmp_path, changed('"fixed_lot": 0.01', '"fixed_lot": 0.29').replace("50,", "0,"))

    assert loaded.sizing.fixed_lot / Decimal("0.01") == 29
    assert loaded.limits.max_slippage_points == 0
    assert type(loaded.limits.max_slippage_points) is int


@pytest.mark.parametrize(
    ("mode", "other", "expected"),
    [
        ("fix", '"multiplier": 1.0,', Sizing(Mode.FIX, Decimal("0.01"), Decimal(1))),
        ("multiplier", '"fixed_lot": 0.01,', Sizing(Mode.MULTIPLIER, Decimal(0), Decimal("1.0"), True)),
    ],
)
def test_the_number_that_the_mode_does_not_use_may_be_absent(
    tmp_path: Path, mode: str, other: str, expected: Sizing
) -> None:
    text = changed(other, "").replace('"fix"', f'"{mode}"')

    assert client_from(tmp_path, text).sizing == expected


@pytest.mark.parametrize("mode", ["fix", "multiplier"])
@pytest.mark.parametrize(("written", "aligned"), [("", None), ("true", True), ("false", False)])
def test_contracts_are_aligned_as_is_written_and_otherwise_with_multiplier_only(
    tmp_path: Path, mode: str, written: str, aligned: bool | None
) -> None:
    line = f'"mode": "{mode}", ' + (f'"contract_alignment": {written},' if written else "")
    loaded = client_from(tmp_path, changed('"mode": "fix",', line))

    assert loaded.sizing.contract_alignment is (mode == "multiplier" if aligned is None else aligned)


def test_a_fixed_lot_that_is_aligned_may_be_more_than_the_lots_allowed_here(tmp_path: Path) -> None:
    text = changed('"fixed_lot": 0.01', '"fixed_lot": 20, "contract_alignment": true')

    assert client_from(tmp_path, text).sizing == Sizing(Mode.FIX, Decimal(20), Decimal("1.0"), True)


def test_the_state_and_the_rules_can_be_set(tmp_path: Path) -> None:
    text = changed("10.0", '10.0, "copying": "flatten"').replace('": 10\n', '": 2.5, "max_signal_age_s": 7\n')
    loaded = client_from(tmp_path, text)

    assert loaded.copying is Copying.FLATTEN
    assert (loaded.limits.max_drawdown_percent, loaded.limits.max_signal_age_s) == (Decimal("2.5"), 7)


def test_the_names_of_symbols_can_be_set(tmp_path: Path) -> None:
    section = '"symbols": {"map": {"XAUUSD": "GOLD", "US30": "Dow 30"}, "prefix": "", "suffix": ".m"}, "safety"'
    loaded = client_from(tmp_path, changed('"safety"', section))

    assert loaded.names == SymbolNames({"XAUUSD": "GOLD", "US30": "Dow 30"}, "", ".m")
    assert client_from(tmp_path, CLIENT).names == SymbolNames({}, "", "")


def test_a_simulated_terminal_can_be_named(tmp_path: Path) -> None:
    loaded = client_from(tmp_path, changed('"Broker-Server"', '"Sim", "module": "mt5_sim", "path": "127.0.0.1:18801"'))

    assert (loaded.mt5.module, loaded.mt5.path) == (Module.MT5_SIM, "127.0.0.1:18801")


@pytest.mark.parametrize("written", [r"C:\\MT5\\terminal64.exe", "C:/MT5/terminal64.exe", r"\\\\nas\\mt5\\t.exe"])
def test_a_windows_path_is_written_with_two_backslashes_or_a_stroke(tmp_path: Path, written: str) -> None:
    loaded = client_from(tmp_path, changed('"Broker-Server"', f'"B", "path": "{written}"'))

    assert loaded.mt5.path == written.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("url", "ws_url"),
    [
        ("https://copier.example.com", "wss://copier.example.com"),
        ("https://copier.example.com:8443/", "wss://copier.example.com:8443"),
        ("http://[::1]:8000", "ws://[::1]:8000"),
        ("http://localhost", "ws://localhost"),
        ("http://127.99.0.1:1", "ws://127.99.0.1:1"),
    ],
)
def test_the_address_of_the_live_signals_follows_from_the_other(tmp_path: Path, url: str, ws_url: str) -> None:
    text = changed('"ws_url": "ws://127.0.0.1:8000",', "").replace("http://127.0.0.1:8000", url)

    api = client_from(tmp_path, text).api

    assert (api.url, api.ws_url) == (url.rstrip("/"), ws_url)


def test_an_address_of_the_live_signals_that_was_forgotten_in_the_example_is_a_mistake(tmp_path: Path) -> None:
    text = changed("http://127.0.0.1:8000", "https://copier.example.com")

    (mistake,) = mistakes_in(tmp_path, text)

    assert mistake.key == "api.ws_url"
    assert "wss://copier.example.com" in mistake.hint


def test_an_address_of_the_live_signals_may_name_its_path(tmp_path: Path) -> None:
    assert client_from(tmp_path, changed("ws://127.0.0.1:8000", "ws://127.0.0.1:8000/ws")).api.ws_url == (
        "ws://127.0.0.1:8000"
    )


def test_readable_traffic_through_a_network_must_be_wanted(tmp_path: Path) -> None:
    text = CLIENT.replace("127.0.0.1", "10.8.0.1")

    assert [mistake.key for mistake in mistakes_in(tmp_path, text)] == ["api.url", "api.ws_url"]
    wanted = text.replace('"username"', '"allow_plain_http": true, "username"')
    assert client_from(tmp_path, wanted).api.url == "http://10.8.0.1:8000"


# ---- Passwords ----

ENVIRON = {"AIBOT_API_PASSWORD": "from outside", "AIBOT_MT5_PASSWORD": "also outside"}


def test_passwords_of_the_environment_take_the_place_of_the_file(tmp_path: Path) -> None:
    loaded = client_from(tmp_path, CLIENT, ENVIRON)

    assert (loaded.api.password, loaded.mt5.password) == ("from outside", "also outside")


def test_with_passwords_in_the_environment_the_file_needs_none(tmp_path: Path) -> None:
    text = re.sub(r'(?m)^ *"password".*\n', "", CLIENT)

    assert client_from(tmp_path, text, ENVIRON).mt5.password == "also outside"
    assert [mistake.key for mistake in mistakes_in(tmp_path, text)] == ["api.password", "mt5.password"]


def test_an_empty_password_in_the_environment_is_a_mistake(tmp_path: Path) -> None:
    [mistake] = mistakes_in(tmp_path, CLIENT, {"AIBOT_API_PASSWORD": ""})

    assert "AIBOT_API_PASSWORD is empty" in str(mistake)


def test_no_password_shows_in_the_settings(tmp_path: Path) -> None:
    loaded = client_from(tmp_path, CLIENT)

    assert loaded.api.password == PASSWORDS[0]
    assert loaded.mt5.password == PASSWORDS[1]
    for password in PASSWORDS:
        assert password not in f"{loaded!r} {loaded}"


@pytest.mark.parametrize(
    "written",
    [
        "OpenSesame-77",  # no quotation marks
        '"OpenSesame-77',  # not closed
        "'OpenSesame-77",
        '"x"OpenSesame-77"',  # a quotation mark inside
        '"x" "OpenSesame-77"',
        '"x", "OpenSesame-77"',
        r'"\OpenSesame-77"',  # a backslash inside
        r'"\nOpenSesame-77"',
        '["OpenSesame-77"]',
        '{"OpenSesame-77": 1}',
        '"x": OpenSesame-77',
        '"x":"OpenSesame-77"',
        '"", "passwort": OpenSesame-77',
        '"", "passwort": "OpenSesame-77"',
        '"", "passwort" "OpenSesame-77"',
        '"" "OpenSesame-77"',
        r'"x", "ca_file": null, "\OpenSesame-77": 1',
        '"x", "OpenSesame-77',
        '"", "url": "http://me:OpenSesame-77@127.0.0.1:8000"',
        "",
    ],
)
def test_a_password_written_wrongly_is_not_repeated(tmp_path: Path, written: str) -> None:
    assert mistakes_in(tmp_path, changed('"OpenSesame-77"', written))


@pytest.mark.parametrize(
    "address",
    ["http://me:OpenSesame-77@127.0.0.1", "me:OpenSesame-77@127.0.0.1", "http://me:OpenSesame-77@127.0.0.1:99999/x"],
)
def test_a_password_in_the_address_is_not_repeated(tmp_path: Path, address: str) -> None:
    text = changed("http://127.0.0.1:8000", address)

    assert [mistake.key for mistake in mistakes_in(tmp_path, text)] == ["api.url"]


# ---- Mistakes in a value: one changed piece per row, the key it is told under, and what is said ----

BAD_VALUES = [
    # numbers
    ('"login": 87654321', '"login": "87654321"', "mt5.login", "without quotation marks"),
    ('"login": 87654321', '"login": 0', "mt5.login", "found 0"),
    ('"login": 87654321', '"login": 9223372036854775808', "mt5.login", "to 9223372036854775807"),
    ('"login": 87654321', '"login": true', "mt5.login", "found true"),
    ('"login": 87654321', '"login": null', "mt5.login", "found null"),
    ('"login": 87654321', '"login": [1]', "mt5.login", "found a list"),
    ('"fixed_lot": 0.01', '"fixed_lot": 0', "trade_copy.fixed_lot", "above 0"),
    ('"fixed_lot": 0.01', '"fixed_lot": -0.01', "trade_copy.fixed_lot", "found -0.01"),
    ('"fixed_lot": 0.01', '"fixed_lot": 10000.01', "trade_copy.fixed_lot", "at most 10000"),
    ('"fixed_lot": 0.01', '"fixed_lot": "0.01"', "trade_copy.fixed_lot", "Write it without quotation marks"),
    ('"fixed_lot": 0.01', '"fixed_lot": "0,05"', "trade_copy.fixed_lot", "Write 0.05, without quotation marks"),
    ('"fixed_lot": 0.01', '"fixed_lot": " 1.000,5"', "trade_copy.fixed_lot", "Write 1000.5, without quotation marks"),
    (": 50,", ': "1.000,0",', "trade_copy.max_slippage_points", "Write 1000.0, without quotation marks"),
    ('"fixed_lot": 0.01', '"fixed_lot": true', "trade_copy.fixed_lot", "found true"),
    ('"fixed_lot": 0.01', '"fixed_lot": 10.01', "trade_copy.fixed_lot", "more than max_exposure_lots"),
    ('"multiplier": 1.0', '"multiplier": 0', "trade_copy.multiplier", "above 0"),
    ('"multiplier": 1.0', '"multiplier": 1000.1', "trade_copy.multiplier", "at most 1000"),
    ('"magic_number_copier": 123456', '"magic_number_copier": 0', "trade_copy.magic_number_copier", "by hand"),
    (": 50,", ": 50.5,", "trade_copy.max_slippage_points", "without a decimal point"),
    (": 50,", ": -1,", "trade_copy.max_slippage_points", "from 0 to"),
    (": 20,", ": 1000001,", "trade_copy.max_spread_points", "to 1000000"),
    (": 5,", ": 0,", "trade_copy.max_exposure_trades", "from 1"),
    (": 10.0", ": 0", "trade_copy.max_exposure_lots", "above 0"),
    (": 10\n", ": 0\n", "safety.max_drawdown_percent", "above 0"),
    (": 10\n", ": 100.1\n", "safety.max_drawdown_percent", "at most 100"),
    (": 10\n", ': 10, "max_signal_age_s": 0\n', "safety.max_signal_age_s", "from 1 to 3600"),
    (": 10\n", ': 10, "max_signal_age_s": 3601\n', "safety.max_signal_age_s", "from 1 to 3600"),
    ('"mode"', '"contract_alignment": "on", "mode"', "trade_copy.contract_alignment", "true or false"),
    # words
    ('"fix"', '"fixed"', "trade_copy.mode", 'Did you mean "fix"?'),
    ('"fix"', '"Multiplier"', "trade_copy.mode", 'Did you mean "multiplier"?'),
    ('"fix"', '"xyz"', "trade_copy.mode", 'Allowed: "fix" or "multiplier"'),
    ('"fix"', "1", "trade_copy.mode", "found 1"),
    (": 10.0", ': 10.0, "copying": "off"', "trade_copy.copying", '"close_only"'),
    # texts
    ('"Broker-Server"', '""', "mt5.server", "empty text"),
    ('"Broker-Server"', '"  "', "mt5.server", "Allowed"),
    ('"Broker-Server"', "12", "mt5.server", "Write it in quotation marks"),
    ('"client_user"', '"ab"', "api.username", "3 to 64"),
    ('"client_user"', '"Jo\u00e3o da Silva"', "api.username", "without accents"),
    ('"OpenSesame-77"', '""', "api.password", "empty text"),
    ('"OpenSesame-77"', "12345678", "api.password", "Write it in quotation marks"),
    ('"safety"', '"symbols": {"suffix": 5}, "safety"', "symbols.suffix", "Write it in quotation marks"),
    ('"safety"', '"symbols": {"suffix": "m "}, "safety"', "symbols.suffix", "at most 31 letters"),
    ('"safety"', f'"symbols": {{"prefix": "{"x" * 32}"}}, "safety"', "symbols.prefix", "at most 31 letters"),
    ('"safety"', '"symbols": {"prefix": "\u00e9"}, "safety"', "symbols.prefix", "found"),
    ('"safety"', '"symbols": {"prefix": null}, "safety"', "symbols.prefix", "found null"),
    ('"safety"', '"symbols": {"map": "GOLD"}, "safety"', "symbols.map", "the master's name first"),
    ('"safety"', '"symbols": {"map": ["GOLD"]}, "safety"', "symbols.map", "found a list"),
    ('"safety"', '"symbols": {"map": {"XAUUSD": ""}}, "safety"', "symbols.map.XAUUSD", "found an empty text"),
    ('"safety"', '"symbols": {"map": {"XAUUSD": 5}}, "safety"', "symbols.map.XAUUSD", "Write it in quotation marks"),
    ('"safety"', '"symbols": {"map": {"XAUUSD": null}}, "safety"', "symbols.map.XAUUSD", "found null"),
    ('"safety"', '"symbols": {"map": {"XAUUSD": "GOLD "}}, "safety"', "symbols.map.XAUUSD", 'found "GOLD "'),
    ('"safety"', f'"symbols": {{"map": {{"X": "{"x" * 33}"}}}}, "safety"', "symbols.map.X", "1 to 32 letters"),
    ('"safety"', '"symbols": {"map": {"": "GOLD"}}, "safety"', "symbols.map.", "this is no name"),
    ('"safety"', '"symbols": {"map": {"X": "A", "X": "B"}}, "safety"', "symbols.map.X", "twice"),
    ('"safety"', '"symbols": {"sufix": ".m"}, "safety"', "symbols.sufix", 'Did you mean "suffix"?'),
    ('"safety"', '"symbols": {"XAUUSD": "GOLD"}, "safety"', "symbols.XAUUSD", 'belongs into "map"'),
    ('"mode"', '"suffix": ".m", "mode"', "trade_copy.suffix", 'into the section "symbols"'),
    ('"Broker-Server"', '"B", "portable": "true"', "mt5.portable", "without quotation marks"),
    ('"Broker-Server"', '"B", "portable": 1', "mt5.portable", "true or false"),
    ('"Broker-Server"', '"B", "timeout_ms": 10', "mt5.timeout_ms", "milliseconds"),
    ('"Broker-Server"', '"B", "module": "metatrader5"', "mt5.module", 'Did you mean "MetaTrader5"?'),
    ('"Broker-Server"', '"B", "module": "os"', "mt5.module", '"mt5_sim"'),
    ('"Broker-Server"', '"B", "module": "mt5_sim"', "mt5.path", "127.0.0.1:18801"),
    ('"Broker-Server"', '"B", "module": "mt5_sim", "path": "C:/x.exe"', "mt5.path", "127.0.0.1:18801"),
    ('"Broker-Server"', r'"B", "path": "C:\new\terminal64.exe"', "mt5.path", "C:/new/terminal64.exe"),
    ('"Broker-Server"', r'"B", "path": "C:\Program Files\MT5\t.exe"', "mt5.path", "C:/Program Files/MT5/t.exe"),
    # addresses
    ("http://127", "127", "api.url", "must begin with http:// or https://"),
    ("http://127", "ftp://127", "api.url", "http://"),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8000/token", "api.url", "Nothing may follow"),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8000/?a=b", "api.url", "Nothing may follow"),
    ("http://127.0.0.1:8000", "http://127.0.0.1:80000", "api.url", "127.0.0.1:80000"),
    ("http://127.0.0.1:8000", "http://127.0.0.1:", "api.url", "Allowed"),
    ("http://127.0.0.1:8000", "http://my server", "api.url", "Allowed"),
    ("http://127.0.0.1:8000", "http://", "api.url", "Allowed"),
    ("http://127.0.0.1:8000", "http://[::1", "api.url", "Allowed"),
    ("http://127.0.0.1:8000", "http://copier.example.com", "api.url", "readable"),
    ("http://127.0.0.1:8000", "http://127.0.0.1.example.com", "api.url", "readable"),
    ("ws://127.0.0.1:8000", "ws://192.168.0.7:8000", "api.ws_url", "Use wss://"),
    ("ws://127.0.0.1:8000", "http://127.0.0.1:8000/x", "api.ws_url", "ws://"),
    ('"username"', '"ca_file": "no such.crt", "username"', "api.ca_file", "there is no file"),
    ('"username"', '"allow_plain_http": "yes", "username"', "api.allow_plain_http", "true or false"),
    # keys
    ('"fixed_lot"', '"fixd_lot"', "trade_copy.fixd_lot", 'Did you mean "fixed_lot"?'),
    ('"max_spread_points"', '"maxSpreadPoints"', "trade_copy.maxSpreadPoints", 'Did you mean "max_spread_points"?'),
    ('"login"', '"Login"', "mt5.Login", 'Did you mean "login"?'),
    ('"safety"', '"saftey"', "saftey", 'Did you mean "safety"?'),
    ('"mode"', '"colour": 1, "mode"', "trade_copy.colour", "Known here: mode, fixed_lot"),
    ('"mode"', '"max_signal_age_s": 9, "mode"', "trade_copy.max_signal_age_s", 'into the section "safety"'),
    ('"mode"', '"poll_ms": 9, "mode"', "trade_copy.poll_ms", "outside of the sections"),
    ('"api"', '"poll_ms": 50, "api"', "poll_ms", "sender's file"),
    ('"mode": "fix",', "", "trade_copy.mode", "it is missing"),
    ('"fixed_lot": 0.01,', "", "trade_copy.fixed_lot", "it is missing"),
    ('"max_slippage_points": 50,', "", "trade_copy.max_slippage_points", "it is missing"),
    ('"max_spread_points": 20,', "", "trade_copy.max_spread_points", "it is missing"),
    ('"max_exposure_trades": 5,', "", "trade_copy.max_exposure_trades", "it is missing"),
    ('5,\n    "max_exposure_lots": 10.0', "5", "trade_copy.max_exposure_lots", "it is missing"),
    ('"magic_number_copier": 123456,', "", "trade_copy.magic_number_copier", "it is missing"),
    ('"username": "client_user",', "", "api.username", "it is missing"),
    ('"url": "http://127.0.0.1:8000",', "", "api.url", "it is missing"),
    ('"mode": "fix",', '"mode": "fix", "mode": "fix",', "trade_copy.mode", "twice, first in line 14"),
]


@pytest.mark.parametrize(("before", "after", "key", "said"), BAD_VALUES)
def test_a_mistake_is_told_with_its_key_its_line_and_what_is_allowed(
    tmp_path: Path, before: str, after: str, key: str, said: str
) -> None:
    [mistake] = mistakes_in(tmp_path, changed(before, after))

    assert mistake.key == key
    assert said in str(mistake)
    missing_from = {"api": 2, "mt5": 8, "trade_copy": 13}
    is_missing = "it is missing" in mistake.problem
    assert mistake.line == (missing_from[key.split(".")[0]] if is_missing else line_of(before))


# ---- Mistakes in the writing ----

BAD_WRITING = [
    ('"fix",', '"fix"', 14, "a comma is missing"),
    ('  },\n  "mt5"', '  }\n  "mt5"', 7, "a comma is missing"),
    ('"mode": "fix",', '"mode": "fix";', 14, "found ;"),
    ('"mode": "fix",', '"mode": "fix",,', 14, "a comma too many"),
    ('"mode": "fix",', '"mode" "fix",', 14, "a colon is missing"),
    ('"mode": "fix",', '"mode" = "fix",', 14, "found ="),
    ('"mode": "fix",', 'mode: "fix",', 14, "name without quotation marks"),
    ('"mode": "fix",', '"mode": fix,', 14, "found fix. A text is written in quotation marks"),
    ('"mode": "fix",', '"mode": fix, // or "multiplier", as you like', 14, "in quotation marks"),
    ('"mode": "fix",', '"mode": "fix,', 14, "closing quotation mark is missing"),
    ('"mode": "fix",', "\"mode\": 'fix',", 14, "straight"),
    ('"mode": "fix",', '"mode": \u201cfix\u201d,', 14, "straight"),
    ('"mode": "fix",', '\u201cmode\u201d: "fix",', 14, "straight"),
    ('"mode": "fix",', '"mode": ,', 14, "value is missing"),
    ('"mode": "fix",', '"mode":', 14, "value is missing"),
    ('"mode": "fix",', '"mode": "fix" or "multiplier",', 14, "something follows after the value"),
    ('"mode": "fix",', '"mode": "fix", "a note,', 14, "closing quotation mark is missing"),
    ('"mode": "fix",', r'"mode": "fix", "\a": 1,', 14, "a single backslash"),
    ('"mode": "fix",', '"mode": "fix", # a note', 14, "a # does not begin a comment"),
    ('"mode": "fix",', '"mode": "fix", / a note', 14, "should stand here"),
    ('"mode": "fix",', '"mode": "fix", /* a note', 14, "does not end"),
    (": 0.01", ": 0,01", 15, "Write 0.01"),
    (": 0.01", ": 10.000,0", 15, "found 10.000,0, with a decimal comma. Write 10000.0"),
    (": 0.01", ": 1.234.567,89", 15, "Write 1234567.89"),
    (": 0.01", ": -1.000,5", 15, "Write -1000.5"),
    (": 0.01", ": 0.05,5", 15, "found 0.05,5, with a decimal comma. Write a point"),
    (": 0.01", ": 0.050,5", 15, "Write a point"),
    (": 0.01", ": 1.2.3", 15, "A number is written as"),
    (": 0.01", ": .01", 15, "A number is written as"),
    (": 0.01", ": +0.01", 15, "A number is written as"),
    (": 0.01", ": 00.01", 15, "A number is written as"),
    (": 0.01", ": 0.", 15, "A number is written as"),
    (": 0.01", ": 0.01lots", 15, "A number is written as"),
    (": 0.01", ": 0.01 lots", 15, "something follows after the value"),
    (": 0.01", ": NaN", 15, "A number is written as"),
    (": 0.01", ": -Infinity", 15, "A number is written as"),
    (": 0.01", ": 0x10", 15, "A number is written as"),
    (": 0.01", ": 1e9999", 15, "A number is written as"),
    (": 0.01", f": {'1' * 5000}", 15, "A number is written as"),
    ('"Broker-Server"', '"B", "portable": True', 11, "Write true, in small letters"),
    ('"Broker-Server"', '"B", "path": None', 11, "Write null, in small letters"),
    ('"Broker-Server"', r'"B", "path": "C:\MT5\"', 11, "A backslash before the last quotation mark"),
    ('"Broker-Server"', r'"B", "path": "C:\users\x.exe"', 11, "C:/users/x.exe"),
    ('  },\n  "mt5"', '  "mt5"', 6, "a comma is missing"),
    ('    "max_drawdown_percent": 10\n  }\n}', "", 23, "this { is not closed"),
    ("10\n  }\n}\n", "10\n  }\n}\n}", 27, "after the last }"),
    ('{\n  "api"', '"api"', 1, "must begin with {"),
    (": 10\n", f": {'[' * 50}\n", 24, "within each other"),
    (": 10\n", ": [10\n", 24, "this [ is not closed"),
    (": 10\n", ": [:]\n", 24, "this [ is not closed"),
]


@pytest.mark.parametrize(("before", "after", "line", "said"), BAD_WRITING)
def test_a_mistake_in_the_writing_is_told_with_its_line_and_column(
    tmp_path: Path, before: str, after: str, line: int, said: str
) -> None:
    first = mistakes_in(tmp_path, changed(before, after))[0]

    assert said in str(first)
    assert first.line == line
    assert first.column is not None


RECOVERABLE = [
    row for row in BAD_WRITING if row[2] in (14, 15) and "does not end" not in row[3] and " / " not in row[1]
]


@pytest.mark.parametrize(("before", "after", "line", "said"), RECOVERABLE)
def test_after_a_slip_of_the_pen_the_rest_is_checked_and_nothing_is_invented(
    tmp_path: Path, before: str, after: str, line: int, said: str
) -> None:
    text = changed(before, after).replace('"login": 87654321', '"login": 0').replace(": 20,", ": -20,")

    keys = [mistake.key for mistake in mistakes_in(tmp_path, text) if mistake.line != line]

    assert keys == ["mt5.login", "trade_copy.max_spread_points"]


def test_a_forgotten_brace_is_looked_for_where_it_is_missing(tmp_path: Path) -> None:
    text = changed('88",\n    "server": "Broker-Server"\n  },', '88",\n    "server": "Broker-Server",')

    assert f'before line {line_of(chr(34) + "trade_copy", text)}, where "trade_copy" begins' in str(
        mistakes_in(tmp_path, text)[-1]
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"// only a note\n", "the file is empty"),
        (CLIENT.replace("Broker", "Corretora S\u00e3o Jo\u00e3o").encode("latin-1"), 'encoding "UTF-8"'),
        (CLIENT.encode("utf-16-le"), 'encoding "UTF-8"'),
        (b"\xff\xfe" + CLIENT.encode("utf-16-le")[:-1], 'encoding "UTF-8"'),
        (b"\x00" * 100, "not a text file"),
        (b"[]", "must begin with {"),
        (b" " * (settings_file.LARGEST_FILE + 1), "no settings file"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    [mistake] = mistakes_in(tmp_path, data)

    assert said in str(mistake)


def test_an_empty_section_misses_every_required_key(tmp_path: Path) -> None:
    keys = {mistake.key for mistake in mistakes_in(tmp_path, "{}")}
    assert keys == {"api", "mt5", "trade_copy"}

    text = '{"api": {}, "mt5": {}, "trade_copy": {}}'
    assert {mistake.key for mistake in mistakes_in(tmp_path, text)} == {
        "api.url",
        "api.username",
        "api.password",
        "mt5.login",
        "mt5.password",
        "mt5.server",
        "trade_copy.mode",
        "trade_copy.magic_number_copier",
        "trade_copy.max_slippage_points",
        "trade_copy.max_spread_points",
        "trade_copy.max_exposure_trades",
        "trade_copy.max_exposure_lots",
    }


def test_a_section_that_is_none_is_told_once(tmp_path: Path) -> None:
    text = re.sub(r'(?s)"trade_copy": \{.*?\}', '"trade_copy": 5', CLIENT)

    [mistake] = mistakes_in(tmp_path, text)

    assert str(mistake) == 'line 13, trade_copy: this is not a section. It must be a section, "trade_copy": { ... }'


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = CLIENT
    for before, after in [
        ('"login"', '"logn"'),
        ('"fix",', '"fixed"'),
        (": 0.01", ": 0,01"),
        (": 20,", ": -20,"),
        (": 10\n", ': 10, "x": 1\n'),
    ]:
        assert before in text
        text = text.replace(before, after)

    with pytest.raises(ConfigError) as raised:
        client_from(tmp_path, text)

    said = str(raised.value).splitlines()
    assert said[0] == f"Nothing was started: 6 mistakes in {tmp_path / 'config_client.json'}"
    assert said[1:] == [
        '  config_client.json, line 9, mt5.logn: this key is unknown here. Did you mean "login"?',
        '  config_client.json, line 14, trade_copy.mode: found "fixed". Allowed: "fix" or "multiplier". '
        'Did you mean "fix"?',
        "  config_client.json, line 14, column 20: a comma is missing after this value",
        "  config_client.json, line 15, column 18, trade_copy.fixed_lot: found 0,01, with a decimal comma. Write 0.01",
        "  config_client.json, line 19, trade_copy.max_spread_points: found -20. "
        "Allowed: a whole number from 0 to 1000000 (points)",
        "  config_client.json, line 24, safety.x: this key is unknown here. "
        "Known here: max_drawdown_percent, max_signal_age_s, allow_mixed_symbol",
    ]


# ---- The sender's file ----


def sender_from(folder: Path, poll: str) -> config.SenderConfig:
    text = CLIENT[: CLIENT.index('  "trade_copy"')] + poll + "}"
    (folder / "config_sender.json").write_text(text)
    return load_sender(folder / "config_sender.json", {})


@pytest.mark.parametrize("poll_ms", [10, 5000])
def test_the_pause_between_two_looks_can_be_set(tmp_path: Path, poll_ms: int) -> None:
    assert sender_from(tmp_path, f'"poll_ms": {poll_ms}').poll_ms == poll_ms


@pytest.mark.parametrize("poll", ["9", "5001", "50.0", '"50"', "true"])
def test_a_pause_that_is_none_is_refused(tmp_path: Path, poll: str) -> None:
    with pytest.raises(ConfigError, match=r"poll_ms: found .*from 10 to 5000 \(milliseconds\)"):
        sender_from(tmp_path, f'"poll_ms": {poll}')


def test_the_copiers_file_is_not_the_senders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CLIENT)

    with pytest.raises(ConfigError) as raised:
        load_sender(tmp_path / "config.json", {})

    assert {mistake.key for mistake in raised.value.mistakes} == {"trade_copy", "safety"}
    assert "This is the sender's" in str(raised.value)


# ---- The file itself ----


@pytest.mark.parametrize("load", [load_sender, load_client])
def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, load: object) -> None:
    assert callable(load)
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "config_client.json", {})

    assert str(tmp_path) in str(raised.value)
    assert "example" in str(raised.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_client(tmp_path, {})


def test_the_folder_of_the_file_is_where_the_databases_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "account 7").mkdir()
    shutil.copy(ROOT / "config_client.json", tmp_path / "account 7")
    monkeypatch.chdir(tmp_path)

    assert load_client(Path("account 7/config_client.json"), {}).folder == tmp_path / "account 7"


def test_settings_cannot_be_changed_after_reading(tmp_path: Path) -> None:
    loaded = client_from(tmp_path, CLIENT)

    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.magic = 0  # type: ignore[misc]


# ---- Whatever is in the file ----

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9).map(str)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def plain(value: object) -> object:
    """A value as the json module gives it."""
    if isinstance(value, settings_file.Table):
        return {key: plain(node.value) for key, node in value.entries.items()}
    return [plain(node.value) for node in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5), st.booleans(), st.sampled_from([None, 2]))
def test_ordinary_json_is_read_as_the_json_module_reads_it(
    content: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(content, ensure_ascii=ascii_only, indent=indent)
    mistakes: list[Mistake] = []

    table = settings_file.Reader(text, mistakes).document()

    assert mistakes == []
    assert plain(table) == json.loads(text, parse_float=Decimal)


@given(st.data())
def test_whatever_is_written_the_reader_ends_with_words_and_shows_no_password(data: st.DataObject) -> None:
    text = CLIENT
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(at + 8, len(text))))
        put = data.draw(st.text(alphabet='{}[]":,;=#/*\\ \n\t0.1-eNatrufls\u201c\u00e9', max_size=4))
        text = text[:at] + put + text[until:]
    mistakes: list[Mistake] = []
    try:
        table = settings_file.Reader(text, mistakes).document()
    except settings_file.Unreadable:
        assert mistakes
    else:
        top = config.Section("", table, config.CLIENT_KEYS, mistakes)
        config.api_settings(top.section("api"), {}, Path())
        config.mt5_settings(top.section("mt5"), {})
        top.finish()

    said = "\n".join(map(str, mistakes))
    assert "Sesame" not in said
    assert "stilz" not in said
