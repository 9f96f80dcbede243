"""What each answer to an order means: one table, a row for every code of the package, a column for every operation.

Pure. The table is the only place that says whether an order may be sent again; `terminal.py` looks answers up in it,
`trader.py` does what the verdict demands. docs/protocol.md shows the same table, and tests/test_order_codes.py carries
out every cell against the simulated terminal.

How a cell is decided: only wording that says that the request ended without being executed makes it REFUSED or LATER.
Whatever leaves a doubt is UNKNOWN. What takes risk away or only moves stops is never REFUSED: the copier compares the
account with the book and repeats it until it is so. For closes, removals and modifications LATER and UNKNOWN come to
the same, because they are harmless to repeat. A reduction is not: the second half of a half is a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final


class Op(StrEnum):
    """What a request to the broker was for, in the order of the table's columns."""

    OPEN = "open"  # a position at market
    PLACE = "place"  # a pending order
    REDUCE = "reduce"  # close a part of a position
    MODIFY = "modify"  # stops of a position; price, stops and expiration of a pending order
    CLOSE = "close"  # all of a position
    REMOVE = "remove"  # a pending order


class Verdict(StrEnum):
    """What is known after an order was sent."""

    DONE = "done"
    REFUSED = "refused for good"  # not executed, and the same request will not be executed later either
    LATER = "refused for now"  # not executed; may be sent again
    UNKNOWN = "unknown"  # may have been executed: look at the account; an open is never sent again


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to an order. `order`, `volume` and `price` are 0 where the broker did not say."""

    verdict: Verdict
    code: int  # a TRADE_RETCODE_*, or a negative last_error code when there was no answer
    text: str
    order: int = 0
    volume: Decimal = Decimal(0)
    price: Decimal = Decimal(0)


Cells = tuple[Verdict, Verdict, Verdict, Verdict, Verdict, Verdict]
DONE, REFUSED, LATER, UNKNOWN = Verdict.DONE, Verdict.REFUSED, Verdict.LATER, Verdict.UNKNOWN

# fmt: off
# Quoted words are those of the MT5 docs, enum_trade_return_codes; the names are TRADE_RETCODE_* of the package.
RETCODES: Final[dict[int, tuple[Cells, str]]] = {
    #        open     place    reduce   modify   close    remove
    # It was carried out. 10008 "Order placed" says that of a pending order; of a market order it says only that it was
    # accepted: whether and when it is executed shows in the account. 10010: the account shows how much.
    10008: ((UNKNOWN, DONE,    UNKNOWN, DONE,    UNKNOWN, DONE), "order placed"),
    10009: ((DONE,    DONE,    DONE,    DONE,    DONE,    DONE), "done"),
    10010: ((DONE,    DONE,    DONE,    DONE,    DONE,    DONE), "done in part"),

    # There is nothing (left) to do. 10025 "No changes in request": the stops are so already. 10036 "has already been
    # closed": what a close or a reduction wanted; stops of it are not sent again, since no reading shows it any more.
    10025: ((REFUSED, REFUSED, LATER,   DONE,    LATER,   LATER), "no changes"),
    10036: ((REFUSED, REFUSED, DONE,    LATER,   DONE,    LATER), "position already closed"),

    # It may have been executed, or still be. 10011 "Request processing error", 10012 "Request canceled by timeout" and
    # 10031 "No connection with the trade server" do not say what had happened by then. 10028 "Request is locked for
    # processing": somebody is at it.
    10011: ((UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), "processing error"),
    10012: ((UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), "timed out"),
    10028: ((UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), "locked for processing"),
    10031: ((UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), "no connection to the trade server"),
    # 10023 "Order state changed": a pending order could not be changed, because it is filling or gone. To a new order
    # it can only mean the state of that order, which may be "filled".
    10023: ((UNKNOWN, UNKNOWN, UNKNOWN, LATER,   UNKNOWN, LATER), "order changed"),
    # 10039 "A close order already exists for a specified position": ours was not executed, but the other one may be a
    # reduction of ours that is late. Another one before that shows would close too much.
    10039: ((LATER,   LATER,   UNKNOWN, LATER,   LATER,   LATER), "a close order exists already"),

    # The price or the moment was wrong. Sent again with a new price, an open while the trade is young.
    10004: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "requote"),
    10015: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "invalid price"),
    10016: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "invalid stops"),
    10018: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "market closed"),
    10020: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "price changed"),
    10021: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "no quotes"),
    10024: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "too many requests"),
    10029: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "frozen"),

    # Somebody said no. 10006 "Request rejected": by the dealer, at this price. 10007 "Request canceled by trader": a
    # person at this terminal did not want it.
    10006: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "rejected"),
    10007: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "cancelled by the trader"),

    # Automatic trading is switched off, and may be switched on again at any moment.
    10026: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "the server does not allow automatic trading"),
    10027: ((LATER,   LATER,   LATER,   LATER,   LATER,   LATER), "automatic trading is off: press Algo Trading"),

    # The request is wrong, or this account must not do it: an open is no better a second later. What takes risk away is
    # repeated with what the next reading shows (10038: the volume that is left). 10030 comes out only after every
    # filling mode was tried.
    10013: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "invalid request"),
    10014: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "invalid volume"),
    10017: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "trade disabled"),
    10019: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "not enough money"),
    10022: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "invalid expiration"),
    10030: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "filling mode not supported"),
    10032: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "only for real accounts"),
    10033: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "limit of pending orders reached"),
    10034: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "limit of volume for the symbol reached"),
    10035: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "invalid order"),
    10038: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "close volume above the position's"),
    10040: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "limit of positions reached"),
    10041: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "activation rejected, order cancelled"),
    10042: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "only long positions"),
    10043: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "only short positions"),
    10044: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "only closing"),
    10045: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "first in, first out only"),
    10046: ((REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER), "opposite positions are prohibited"),
}

# last_error after order_send answered `None`: RES_* of the package. Measured: as a rule only -2, -8 and -1000x.
LAST_ERRORS: Final[dict[int, Cells]] = {
    #        open     place    reduce   modify   close    remove
    -2:     (REFUSED, REFUSED, LATER,   LATER,   LATER,   LATER),  # an argument was refused: it never left the package
    -8:     (LATER,   LATER,   LATER,   LATER,   LATER,   LATER),  # trading from Python is switched off in the terminal
    -10003: (LATER,   LATER,   LATER,   LATER,   LATER,   LATER),  # no terminal
    -10004: (LATER,   LATER,   LATER,   LATER,   LATER,   LATER),  # no connection to the terminal: nothing was sent

    1:      (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # success, yet no answer
    -1:     (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # the call failed, nobody knows where
    -3:     (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # no memory, perhaps for the answer
    -4:     (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # not found; never seen after an order
    -5:     (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # versions do not fit; never seen after an order
    -6:     (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # log-in failed; never seen after an order
    -7:     (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # not supported; never seen after an order
    -10000: (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # failed between package and terminal
    -10001: (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # the terminal died while the order was handed over
    -10002: (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # the terminal died before it answered
    -10005: (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),  # no answer in time
}
# fmt: on

_COLUMNS: Final = {op: column for column, op in enumerate(Op)}


def verdict_of(op: Op, code: int) -> Verdict:
    """What a retcode, or a last_error code after no answer, means for `op`. A code that is not listed is UNKNOWN."""
    if code in RETCODES:
        return RETCODES[code][0][_COLUMNS[op]]
    return LAST_ERRORS[code][_COLUMNS[op]] if code in LAST_ERRORS else Verdict.UNKNOWN


def words_for(retcode: int) -> str:
    return RETCODES[retcode][1] if retcode in RETCODES else "unlisted code"
