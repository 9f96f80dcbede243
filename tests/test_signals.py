"""The vocabulary: what is refused on the wire, what survives it exactly, and the changes between two books."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signals import (
    LAST_TICKET,
    Action,
    BadField,
    BadJson,
    Change,
    ChangeType,
    Increase,
    Key,
    Kind,
    Source,
    Trade,
    book_of,
    decode,
    diff,
    differs,
    encode,
    modifiable,
    number,
    trade_for_client,
    trade_for_sender,
    trade_from_sender,
    trade_from_server,
    whole,
)

GOOD = '{"symbol":"EURUSD","action":"BUY","volume":0.01,"price":1.085,"sl":1.08,"tp":1.09}'


def with_(field: str, value: str) -> bytes:
    """The good body with one value written otherwise."""
    body = {"symbol": '"EURUSD"', "action": '"BUY"', "volume": "0.01", "price": "1.085", field: value}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in body.items()) + "}").encode()


NOT_JSON = {
    "empty": b"",
    "NaN": with_("volume", "NaN"),
    "Infinity": with_("price", "Infinity"),
    "-Infinity": with_("price", "-Infinity"),
    "an exponent beyond every number": with_("volume", "1e99999999999999999999"),
    "a number of 5000 digits": with_("ticket", "9" * 5000),
    "a key twice": b'{"symbol":"EURUSD","symbol":"GBPUSD","action":"BUY","volume":0.01,"price":1.085}',
    "a key twice further inside": with_("comment", '{"a":1,"a":2}'),
    "a list": b'[{"symbol":"EURUSD"}]',
    "null": b"null",
    "a number": b"17",
    "a text": b'"EURUSD"',
    "true": b"true",
    "lists nested deeply": b"[" * 60_000,
    "objects nested deeply": b'{"a":' * 60_000,
    "cut off": GOOD[:-1].encode(),
    "something behind it": GOOD.encode() + b"x",
    "single quotes": GOOD.replace('"', "'").encode(),
    "a comma too many": GOOD.replace("}", ",}").encode(),
    "a comment": GOOD.encode() + b"// no",
    "a raw line feed in a text": b'{"symbol":"EUR\nUSD"}',
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16 without a mark": GOOD.encode("utf-16-le"),
    "UTF-8 with a mark": GOOD.encode("utf-8-sig"),
    "Latin-1": '{"comment":"\xe9"}'.encode("latin-1"),
    "a plus sign": with_("volume", "+1"),
    "hexadecimal": with_("ticket", "0x10"),
}

BAD_FIELD = {
    "1e999": ("volume", with_("volume", "1e999")),
    "1e-999": ("volume", with_("volume", "1e-999")),
    "10**30": ("volume", with_("volume", "1" + "0" * 30)),
    "true as a number": ("volume", with_("volume", "true")),
    "true as a ticket": ("ticket", with_("ticket", "true")),
    "1.0 as a ticket": ("ticket", with_("ticket", "1.0")),
    "1e3 as a ticket": ("ticket", with_("ticket", "1e3")),
    "text as a number": ("volume", with_("volume", '"0.01"')),
    "null as a number": ("price", with_("price", "null")),
    "a list as a number": ("price", with_("price", "[1]")),
    "an object as a text": ("symbol", with_("symbol", '{"a":1}')),
    "a number as a text": ("comment", with_("comment", "5")),
    "half a character": ("symbol", with_("symbol", '"\\ud800"')),
    "half a character in the comment": ("comment", with_("comment", '"a\\udfffb"')),
    "half a character as a key": ("\\ud800", with_("\\ud800", "1")),
    "a zero character": ("comment", with_("comment", '"a\\u0000b"')),
    "a line feed after the symbol": ("symbol", with_("symbol", '"EURUSD\\n"')),
    "an empty symbol": ("symbol", with_("symbol", '""')),
    "a symbol of 33 characters": ("symbol", with_("symbol", f'"{"E" * 33}"')),
    "a comment of 65 characters": ("comment", with_("comment", f'"{"c" * 65}"')),
    "small letters": ("action", with_("action", '"buy"')),
    "an action in a list": ("action", with_("action", '["BUY"]')),
    "an unhashable action": ("action", with_("action", "{}")),
    "no lots": ("volume", with_("volume", "0")),
    "negative lots": ("volume", with_("volume", "-0.01")),
    "minus zero lots": ("volume", with_("volume", "-0.0")),
    "too many lots": ("volume", with_("volume", "1000000.01")),
    "an eleventh decimal": ("volume", with_("volume", "0.01000000001")),
    "a negative price": ("sl", with_("sl", "-1")),
    "ticket 0": ("ticket", with_("ticket", "0")),
    "a ticket that JavaScript cannot count": ("ticket", with_("ticket", str(LAST_TICKET + 1))),
    "a negative magic": ("magic", with_("magic", "-1")),
    "a magic of 65 bits": ("magic", with_("magic", str(2**64))),
    "eleven digits": ("digits", with_("digits", "11")),
    "a negative age": ("age_ms", with_("age_ms", "-1")),
    "the master's name": ("master", with_("master", '"somebody_else"')),
    "the time of opening": ("opened_at", with_("opened_at", "1")),
    "the source": ("source", with_("source", '"manual"')),
    "an increase that is no object": ("increase", with_("increase", "0.1")),
    "an increase without lots": ("increase", with_("increase", '{"price":1.1,"age_ms":0}')),
    "an increase of no lots": ("increase", with_("increase", '{"volume":0,"price":1.1,"age_ms":0}')),
    "an increase that does not say its age": ("increase", with_("increase", '{"volume":0.1,"price":1.1}')),
    "an increase that says its time": ("increase", with_("increase", '{"volume":0.1,"price":1,"age_ms":0,"at":1}')),
    "another kind than the action": ("kind", with_("kind", '"order"')),
    "no symbol": ("symbol", b'{"action":"BUY","volume":0.01,"price":1.085}'),
    "no volume": ("volume", b'{"symbol":"EURUSD","action":"BUY","price":1.085}'),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode(body)


@pytest.mark.parametrize(("field", "body"), BAD_FIELD.values(), ids=BAD_FIELD.keys())
def test_a_wrong_field_is_refused_by_its_name(field: str, body: bytes) -> None:
    with pytest.raises(BadField) as refused:
        trade_from_sender(decode(body))
    assert refused.value.field == field
    assert str(refused.value).isascii()


def test_an_unknown_field_is_named_together_with_the_allowed_ones() -> None:
    with pytest.raises(BadField, match=r"stoploss: unknown field; allowed: action, age_ms.* volume"):
        trade_from_sender(decode(with_("stoploss", "1")))


def test_the_first_example_of_the_protocol_is_understood() -> None:
    trade, age = trade_from_sender(decode(GOOD))
    assert trade == Trade(
        ticket=0, kind=Kind.POSITION, symbol="EURUSD", action=Action.BUY, volume=D("0.01"),
        initial_volume=D("0.01"), price=D("1.085"), sl=D("1.08"), tp=D("1.09"),
    )  # fmt: skip
    assert age == 0  # a script that says nothing speaks of now


def test_an_unknown_age_is_not_zero() -> None:
    assert trade_from_sender(decode(with_("age_ms", "null")))[1] is None
    assert trade_from_sender(decode(with_("age_ms", "0")))[1] == 0


@pytest.mark.parametrize(
    ("field", "edges"),
    {
        "volume": ("0.0000000001", "1000000"),
        "initial_volume": ("0.0000000001", "1000000"),
        "price": ("0", "1000000000000"),
        "stoplimit": ("0", "1000000000000"),
        "sl": ("0", "1000000000000"),
        "tp": ("0", "1000000000000"),
        "contract_size": ("0", "1000000000"),
        "point": ("0", "1000000"),
        "ticket": ("1", str(2**53 - 1)),
        "expiration": ("0", str(10**14)),
        "magic": ("0", str(2**64 - 1)),
        "digits": ("0", "10"),
        "age_ms": ("0", str(10**13)),
    }.items(),
)
def test_every_number_is_taken_at_its_edges_and_not_beyond(field: str, edges: tuple[str, str]) -> None:
    low, high = edges
    for edge in edges:
        trade, age = trade_from_sender(decode(with_(field, edge)))
        found = age if field == "age_ms" else getattr(trade, field)
        assert found == D(edge)
    below = "-1" if low == "0" else "0"
    for beyond in (below, str(int(high) + 1)):
        with pytest.raises(BadField) as refused:
            trade_from_sender(decode(with_(field, beyond)))
        assert refused.value.field == field


@pytest.mark.parametrize(
    "symbol", ["E", "EURUSD.m", "#AAPL", "US30_cash", "XAU/USD", "BRK.B@x", "WIN$N", "S&P-500+", "E" * 32]
)
def test_symbols_as_brokers_write_them_are_taken(symbol: str) -> None:
    assert trade_from_sender(decode(with_("symbol", f'"{symbol}"')))[0].symbol == symbol


def test_a_number_is_exact_and_a_whole_number_is_whole() -> None:
    assert number(0, 10)(D("0.1")) + number(0, 10)(D("0.2")) == D("0.3")
    for wrong in (D("NaN"), D("Infinity"), 0.1, True, "1", None):
        with pytest.raises(ValueError):
            number(0, 10)(wrong)
    for wrong in (1.0, True, D(1), "1", None):
        with pytest.raises(ValueError):
            whole(0, 10)(wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), D("NaN"), D("Infinity"), D("1e400")])
def test_what_is_not_a_number_is_never_written(value: Any) -> None:
    with pytest.raises(ValueError):
        encode({"price": value})


def test_what_has_no_place_in_a_message_is_never_written() -> None:
    with pytest.raises(TypeError, match="bytes"):
        encode({"comment": b"raw"})


# --- round trips ------------------------------------------------------------------------------------------------------


def decimals(most: int, places: int) -> st.SearchStrategy[D]:
    """Numbers as brokers have them: up to 15 digits, of which some are decimals."""
    return st.builds(lambda n, p: D(n).scaleb(-p), st.integers(0, most), st.integers(0, places))


LOTS = st.builds(lambda n: D(n).scaleb(-2), st.integers(1, 10**8))
PRICES = decimals(10**12 - 1, 8)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=64)
TRADES = st.builds(
    lambda action, **more: Trade(action=action, kind=action.kind, **more),
    st.sampled_from(Action),
    ticket=st.integers(1, LAST_TICKET),
    symbol=st.from_regex(r"[A-Za-z0-9._#+&!/$@-]{1,32}", fullmatch=True),
    volume=LOTS,
    initial_volume=LOTS,
    price=PRICES,
    stoplimit=PRICES,
    sl=PRICES,
    tp=PRICES,
    expiration=st.integers(0, 10**14),
    magic=st.integers(0, 2**64 - 1),
    comment=TEXT,
    contract_size=decimals(10**9, 5),
    point=st.sampled_from([D("0"), D("1"), D("0.5"), D("0.00001"), D("0.00000001")]),
    digits=st.integers(0, 10),
)


AGES = st.none() | st.integers(0, 10**13)
TIMES = st.integers(0, 10**14)
INCREASES = st.none() | st.builds(Increase, LOTS, PRICES, st.integers(0, LAST_TICKET), age_ms=AGES)


@given(TRADES, INCREASES, AGES, TIMES, TIMES, st.sampled_from(Source))
def test_a_trade_comes_out_as_it_went_in(
    trade: Trade, increase: Increase | None, age: int | None, opened_at: int, at: int, source: Source
) -> None:
    trade = replace(trade, increase=increase)
    read, age_read = trade_from_sender(decode(encode(trade_for_sender(trade, age)).encode()))
    assert (read, age_read) == (trade, age)
    grown = None if increase is None else replace(increase, at=at, age_ms=None)
    known = replace(read, master="master_user", opened_at=opened_at, source=source, increase=grown)
    assert trade_from_server(decode(encode(trade_for_client(known, D("0.05"))))) == known


def test_29_hundredths_of_a_lot_stay_29_hundredths() -> None:
    trade = trade_from_sender(decode(with_("volume", "0.29")))[0]
    for _ in range(3):
        trade, _age = trade_from_sender(decode(encode(trade_for_sender(replace(trade, ticket=1), None))))
        known = replace(trade, master="master_user")
        trade = replace(trade_from_server(decode(encode(trade_for_client(known, D("0.145"))))), master="")
    assert str(trade.volume) == "0.29"
    assert trade.volume / D("0.01") == 29


@pytest.mark.parametrize("volume", [D("0.01") * D("0.3333333333"), D(1_000_000) * D(1000), D(0)])
def test_what_the_server_makes_of_the_volume_cannot_keep_a_client_from_reading_the_trade(volume: D) -> None:
    trade = replace(trade_from_sender(decode(GOOD))[0], ticket=5, master="master_user")
    assert trade_from_server(decode(encode(trade_for_client(trade, volume)))) == trade


def test_a_client_reads_the_masters_volume_and_passes_over_fields_of_a_newer_server() -> None:
    trade = replace(trade_from_sender(decode(GOOD))[0], ticket=5, master="master_user")
    data = {**trade_for_client(trade, D("0.5")), "mood": "calm"}
    assert trade_from_server(decode(encode(data))).volume == D("0.01")


@pytest.mark.parametrize("missing", ["master", "ticket", "master_volume", "opened_at", "source", "sl", "kind"])
def test_a_client_takes_no_trade_with_a_field_missing(missing: str) -> None:
    data = trade_for_client(replace(trade_from_sender(decode(GOOD))[0], ticket=5, master="master_user"), D(1))
    del data[missing]
    with pytest.raises(BadField, match=missing):
        trade_from_server(data)


# --- changes between two books ----------------------------------------------------------------------------------------


def trade(ticket: int, action: str = "BUY", volume: str = "1.00", **more: Any) -> Trade:
    side = Action(action)
    fields_: dict[str, Any] = {
        "symbol": "EURUSD", "volume": D(volume), "initial_volume": D("1.00"), "price": D("1.1"), **more,
    }  # fmt: skip
    return Trade(ticket=ticket, kind=side.kind, action=side, **fields_)


def told(old: list[Trade], new: list[Trade]) -> list[tuple[str, int, str | None]]:
    changes = diff(book_of(old), book_of(new))
    return [(c.type.value, c.trade.ticket, None if c.remaining is None else str(c.remaining)) for c in changes]


def test_equal_books_have_no_changes() -> None:
    book = [trade(1), trade(2, "SELL_LIMIT")]
    assert told(book, list(reversed(book))) == []
    assert told([], []) == []


def test_what_nobody_acts_on_is_no_change() -> None:
    assert told([trade(1)], [trade(1, comment="other", magic=5, opened_at=9, contract_size=D(100))]) == []


def test_a_new_trade_is_a_signal_and_a_vanished_one_a_close() -> None:
    assert told([], [trade(1)]) == [("signal", 1, None)]
    assert told([trade(1)], []) == [("close", 1, "0")]
    assert diff(book_of([trade(1, sl=D(1))]), {})[0].trade.sl == 1  # its last known state


@pytest.mark.parametrize(
    "field", [{"sl": D("1.05")}, {"tp": D("1.2")}, {"price": D("1.11")}, {"stoplimit": D("1.3")}, {"expiration": 5}]
)
def test_every_field_that_can_be_modified_is_seen(field: dict[str, Any]) -> None:
    assert told([trade(1, "BUY_STOP_LIMIT")], [trade(1, "BUY_STOP_LIMIT", **field)]) == [("modify", 1, None)]
    assert modifiable(trade(1), trade(1, **field))


def test_less_volume_is_a_partial_close_that_says_what_is_left() -> None:
    assert told([trade(1)], [trade(1, volume="0.29")]) == [("close", 1, "0.29")]


def test_a_partial_close_and_another_stop_at_once_are_two_changes() -> None:
    now = trade(1, volume="0.40", sl=D("1.05"))
    assert told([trade(1)], [now]) == [("close", 1, "0.40"), ("modify", 1, None)]


@pytest.mark.parametrize("now", [trade(1, volume="2.00"), trade(1, "SELL"), trade(1, "SELL", "0.50")])
def test_more_volume_or_the_other_side_is_a_modification_that_only_the_whole_book_can_say(now: Trade) -> None:
    (change,) = diff(book_of([trade(1)]), book_of([now]))
    assert change == Change(ChangeType.MODIFY, now)
    assert not modifiable(trade(1), now)


def test_changes_come_in_the_order_that_takes_risk_away_first() -> None:
    old = [trade(1), trade(2), trade(3), trade(4, "BUY_LIMIT")]
    new = [trade(5), trade(3, sl=D(1)), trade(2, volume="0.50"), trade(6, "SELL_STOP")]
    assert told(old, new) == [
        ("close", 1, "0"),
        ("close", 2, "0.50"),
        ("modify", 3, None),
        ("signal", 5, None),
        ("signal", 6, None),
        ("close", 4, "0"),
    ]


def test_of_a_filled_pending_order_the_position_is_told_before_the_orders_end() -> None:
    assert told([trade(7, "BUY_LIMIT")], [trade(7)]) == [("signal", 7, None), ("close", 7, "0")]
    changes = diff(book_of([trade(7, "BUY_LIMIT")]), book_of([trade(7)]))
    assert [change.trade.kind for change in changes] == [Kind.POSITION, Kind.ORDER]


def test_an_order_and_its_position_under_one_ticket_are_two_trades() -> None:
    half = [trade(7, "BUY_LIMIT", "0.60"), trade(7, volume="0.40")]
    assert sorted(told([trade(7, "BUY_LIMIT")], half)) == [("close", 7, "0.60"), ("signal", 7, None)]


COMPARED = ("sl", "tp", "price", "stoplimit", "expiration", "volume", "symbol", "action")


@given(st.lists(TRADES, max_size=8), st.lists(TRADES, max_size=4), st.randoms())
def test_the_changes_turn_the_old_book_into_the_new_one(
    known: list[Trade], fresh: list[Trade], chance: random.Random
) -> None:
    old = book_of(known)
    new: dict[Key, Trade] = book_of(fresh)
    for one in old.values():
        other = chance.choice(known)
        names = chance.sample([name for name in COMPARED if name != "action" or other.kind is one.kind], 3)
        changed = replace(one, **{name: getattr(other, name) for name in names})
        fate = chance.choice([None, one, changed])
        if fate is not None:
            new[one.key] = fate
    book = dict(old)
    for change in diff(old, new):
        key = change.trade.key
        match change.type:
            case ChangeType.SIGNAL:
                assert key not in book
                book[key] = change.trade
            case ChangeType.MODIFY:
                assert key in book
                book[key] = change.trade
            case ChangeType.CLOSE:
                if change.gone:
                    del book[key]
                else:
                    assert change.remaining is not None
                    assert change.remaining < book[key].volume
                    book[key] = replace(book[key], volume=change.remaining)
    assert book.keys() == new.keys()
    assert not any(differs(book[key], new[key]) for key in new)
