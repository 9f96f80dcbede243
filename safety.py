"""Sizing and the safety rules: may this trade be copied, how large, and if not, why not.

Pure: everything comes as an argument, the clock included. Missing knowledge is a refusal; rounding never adds risk;
nothing here is asked before a close, so nothing here can stop one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any, Final

from account import Account, Symbol
from signals import NOTHING, Action, Kind, Trade
from stops import closing_price, entry_price, passed

ONE: Final = Decimal(1)


class Mode(StrEnum):
    """How the volume of a copy is found."""

    FIX = "fix"  # always `fixed_lot`
    MULTIPLIER = "multiplier"  # the master's volume times `multiplier`


class Copying(StrEnum):
    """What the follower lets the copier do, from the most to the least. Closes are carried out in every state."""

    ON = "on"
    CLOSE_ONLY = "close_only"  # nothing is opened; stops and pending orders still follow the master
    PAUSED = "paused"  # nothing is opened or modified
    FLATTEN = "flatten"  # every copy is closed, nothing is opened


_STRICTNESS: Final = tuple(Copying)


def stricter(one: Copying, other: Copying) -> Copying:
    return max(one, other, key=_STRICTNESS.index)


@dataclass(frozen=True, slots=True)
class Sizing:
    """The follower's own rule for volumes."""

    mode: Mode
    fixed_lot: Decimal  # lots, for `fix`
    multiplier: Decimal  # for `multiplier`
    contract_alignment: bool = False  # lots times the master's contract size / the client's


@dataclass(frozen=True, slots=True)
class Limits:
    """What must not be exceeded. A value that equals its limit is allowed."""

    max_slippage_points: int  # from the signal's price to the price that would be paid now, against the follower
    max_spread_points: int  # ask - bid of the client's symbol
    max_exposure_trades: int  # copies that are open or pending at once
    max_exposure_lots: Decimal  # their lots together
    max_drawdown_percent: Decimal  # equity below its highest value
    max_signal_age_s: int  # seconds since the master opened

    def tightened(self, others: Mapping[str, Decimal | int]) -> Limits:
        """With the smaller of each pair: the server may tighten a follower's limits, never loosen them."""
        if not others:
            return self
        smaller: dict[str, Any] = {name: min(getattr(self, name), value) for name, value in others.items()}
        return replace(self, **smaller)


class Reason(StrEnum):
    """Why a trade was not copied, or a copy ended. The whole list: nothing else is used."""

    # looked at again until the trade is too old
    NOT_COPYING = "not_copying"
    TRADING_NOT_ALLOWED = "trading_not_allowed"
    DRAWDOWN = "max_drawdown_percent"
    SYMBOL_UNKNOWN = "symbol_unknown"
    SYMBOL_NOT_TRADABLE = "symbol_not_tradable"
    NO_QUOTE = "no_quote"
    CONTRACT_SIZE = "contract_size_differs"
    VOLUME_TOO_SMALL = "volume_below_minimum"
    SPREAD = "max_spread_points"
    SLIPPAGE = "max_slippage_points"
    STOP_PASSED = "stop_passed"
    EXPIRED = "expired"
    EXPOSURE_TRADES = "max_exposure_trades"
    EXPOSURE_LOTS = "max_exposure_lots"
    MARGIN = "margin_insufficient"
    MIXED_SYMBOL = "mixed_symbol"
    AGE_UNKNOWN = "age_unknown"
    BROKER_BUSY = "broker_refused_for_now"
    WAITING = "waiting_for_another_order"
    PROGRAM_DEFECT = "program_defect"
    # for good (`outcome_unknown` before an open: until the order it waits for is settled, or the trade is too old)
    TOO_OLD = "max_signal_age_s"
    OLDER_THAN_LEDGER = "older_than_ledger"
    ANOTHER_COPIER = "another_copier"
    BROKER_REFUSED = "broker_refused"
    OUTCOME_UNKNOWN = "outcome_unknown"
    CLOSED_BY_CLIENT = "closed_by_client"
    MASTER_CLOSED = "master_closed"
    FILLED = "filled"
    FLATTENED = "flattened"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A trade is not opened now. `numbers` are what the rule compared, for the log, the ledger and the report."""

    reason: Reason
    detail: str
    numbers: Mapping[str, Decimal | int | str]

    @property
    def final(self) -> bool:
        return self.reason in (Reason.TOO_OLD, Reason.OLDER_THAN_LEDGER, Reason.ANOTHER_COPIER, Reason.CLOSED_BY_CLIENT)


@dataclass(frozen=True, slots=True)
class Allowed:
    """A trade may be opened with this volume."""

    symbol: Symbol
    volume: Decimal  # lots, within the broker's minimum, maximum and step
    deviation: int  # points that the fill may still be worse, so that the whole slippage stays within the limit
    capped_from: Decimal | None = None  # what the follower's rule asked for when the broker's maximum is below it
    exact: Decimal = Decimal(0)  # what the follower's rule asked for, without the rest of another leg
    rest: Decimal = Decimal(0)  # lots that rounding has left over, for the next leg


@dataclass(frozen=True, slots=True)
class Part:
    """How a later leg of a master's position is sized: as a part of the first one, with what rounding left over."""

    of_lots: Decimal  # the master's lots of the first leg, for which `fixed_lot` stands
    rest: Decimal  # lots that rounding left over from the leg before


@dataclass(frozen=True, slots=True)
class Exposure:
    """What our copies take of the account already, those just decided and those of unknown outcome included."""

    trades: int = 0
    lots: Decimal = Decimal(0)
    margin: Decimal = Decimal(0)  # account currency, only of opens that the account does not show yet


# --- volumes and prices ----------------------------------------------------------------------------------------------


def wanted_volume(
    sizing: Sizing, master_volume: Decimal, master_contract: Decimal = NOTHING, contract: Decimal = NOTHING
) -> Decimal:
    """Lots that the follower's rule makes of the master's, before the broker's steps and limits.

    With `contract_alignment` they are worth as much at the client's broker as they would be at the master's: a lot is
    `contract` here and `master_contract` there. 0 = not known: then lots are taken for lots. Divided last, so that a
    whole number of lots comes out whole.
    """
    lots = sizing.fixed_lot if sizing.mode is Mode.FIX else master_volume * sizing.multiplier
    if sizing.contract_alignment and master_contract > 0 and contract > 0:
        return lots * master_contract / contract
    return lots


def floor_to_step(volume: Decimal, step: Decimal) -> Decimal:
    return (volume / step).to_integral_value(ROUND_FLOOR) * step


def fitted_volume(wanted: Decimal, symbol: Symbol) -> Decimal:
    """The largest volume the broker takes that is not above `wanted`; 0 when that is below its minimum."""
    volume = min(floor_to_step(wanted, symbol.volume_step), floor_to_step(symbol.volume_max, symbol.volume_step))
    return volume if volume >= symbol.volume_min else Decimal(0)


def remaining_volume(
    initial: Decimal, current: Decimal, master_now: Decimal, master_initial: Decimal, symbol: Symbol
) -> Decimal:
    """Lots that a copy of `initial` lots should still have, at most `current`.

    The reduction is made in whole steps and its remainder carried: the copy is never below its exact share and less
    than one step above it, and gone when the master is gone. A share below the broker's minimum stays at the minimum,
    and a reduction smaller than the minimum waits, because the broker takes neither.
    """
    if master_now <= 0:
        return Decimal(0)
    share = initial * master_now / master_initial
    target = max((share / symbol.volume_step).to_integral_value(ROUND_CEILING) * symbol.volume_step, symbol.volume_min)
    if target >= current or current - target < symbol.volume_min:
        return current
    return target


def remaining_part(current: Decimal, excess: Decimal, symbol: Symbol) -> Decimal:
    """Lots that are left when `excess` lots (whole steps) are too many: never between nothing and the broker's minimum,
    and a reduction that is smaller than the minimum waits."""
    target = current - min(current, excess)
    if 0 < target < symbol.volume_min:
        target = symbol.volume_min
    return current if current - target < symbol.volume_min else target


def rounded_price(price: Decimal, tick_size: Decimal) -> Decimal:
    """The price of the broker's grid that is nearest; 0 stays 0 ("none")."""
    return (price / tick_size).to_integral_value(ROUND_HALF_EVEN) * tick_size


def worse_by(action: Action, signal_price: Decimal, price_now: Decimal, point: Decimal) -> Decimal:
    """Points by which `price_now` is worse for the follower than the signal's price; negative when it is better."""
    difference = price_now - signal_price if action.buys else signal_price - price_now
    return difference / point


def drawdown_percent(equity: Decimal, highest: Decimal) -> Decimal:
    return (highest - equity) / highest * 100 if highest > 0 else Decimal(100)


# --- the rules -------------------------------------------------------------------------------------------------------


def decide(
    trade: Trade,
    age_ms: int | None,
    copying: Copying,
    sizing: Sizing,
    limits: Limits,
    account: Account,
    highest_equity: Decimal,
    symbol: Symbol | Refusal,
    exposure: Exposure,
    part: Part | None = None,
    opposite: Decimal = Decimal(0),
) -> Allowed | Refusal:
    """May `trade` be opened on this account now? The rules stand in the order in which they are asked.

    `age_ms` is the trade's age (None = unknown), `highest_equity` the highest since the account was first seen,
    `symbol` the client's symbol with its quote, or the reason why there is none, `opposite` the lots of it that are on
    the other side of a netting account: those are closed first, and need no margin any more.
    """
    if age_ms is None:
        return Refusal(Reason.AGE_UNKNOWN, "nobody could say how old the trade is", {})
    if age_ms > limits.max_signal_age_s * 1000:
        return Refusal(
            Reason.TOO_OLD,
            f"the trade is {age_ms / 1000:.1f} s old, allowed {limits.max_signal_age_s} s",
            {"age_ms": age_ms, "max_signal_age_s": limits.max_signal_age_s},
        )
    if copying is not Copying.ON:
        return Refusal(Reason.NOT_COPYING, f"copying is {copying}", {"copying": str(copying)})
    if account.trading_refused:
        return Refusal(Reason.TRADING_NOT_ALLOWED, account.trading_refused, {})
    drawdown = drawdown_percent(account.equity, highest_equity)
    if drawdown > limits.max_drawdown_percent:
        return Refusal(
            Reason.DRAWDOWN,
            f"equity {account.equity} is {drawdown:.2f} % below its highest, {highest_equity}; "
            f"allowed {limits.max_drawdown_percent} %",
            {
                "equity": account.equity,
                "highest_equity": highest_equity,
                "max_drawdown_percent": limits.max_drawdown_percent,
            },
        )
    if isinstance(symbol, Refusal):
        return symbol
    if not (symbol.opens_buy if trade.action.buys else symbol.opens_sell):
        return Refusal(
            Reason.SYMBOL_NOT_TRADABLE,
            f"{symbol.name} may not be opened in this direction (trade mode {symbol.trade_mode})",
            {"symbol": symbol.name, "trade_mode": symbol.trade_mode},
        )
    if symbol.bid <= 0 or symbol.ask <= 0 or symbol.ask < symbol.bid:
        return Refusal(Reason.NO_QUOTE, f"{symbol.name} has no valid quote", {"bid": symbol.bid, "ask": symbol.ask})
    differs = trade.contract_size not in (0, symbol.contract_size)
    unaligned = symbol.contract_size <= 0 if sizing.contract_alignment else sizing.mode is Mode.MULTIPLIER
    if differs and unaligned:
        why = "contract_alignment is off" if symbol.contract_size > 0 else "nothing can be aligned with that"
        return Refusal(
            Reason.CONTRACT_SIZE,
            f"a lot of {symbol.name} is {symbol.contract_size} here and {trade.contract_size} at the master: "
            f"the same lots would be another risk, and {why}",
            {"contract_size": symbol.contract_size, "master_contract_size": trade.contract_size},
        )
    wanted = wanted_volume(sizing, trade.volume, trade.contract_size, symbol.contract_size)
    if part is not None and sizing.mode is Mode.FIX:
        wanted = wanted * trade.volume / part.of_lots
    exact = wanted
    wanted += part.rest if part is not None else 0
    volume = fitted_volume(wanted, symbol)
    if volume <= 0:
        return Refusal(
            Reason.VOLUME_TOO_SMALL,
            f"{wanted} lots of {symbol.name} are below the broker's minimum of {symbol.volume_min}",
            {"volume": wanted, "volume_min": symbol.volume_min, "volume_step": symbol.volume_step},
        )
    deviation = limits.max_slippage_points
    if trade.kind is Kind.POSITION:  # a pending order names its own price, to be paid later
        spread = (symbol.ask - symbol.bid) / symbol.point
        if spread > limits.max_spread_points:
            return Refusal(
                Reason.SPREAD,
                f"spread of {symbol.name} is {spread:.1f} points, allowed {limits.max_spread_points}",
                {"spread_points": spread, "max_spread_points": limits.max_spread_points},
            )
        if trade.price <= 0:
            return Refusal(Reason.SLIPPAGE, "the signal names no price to compare with", {"signal_price": trade.price})
        price_now = symbol.ask if trade.action.buys else symbol.bid
        slippage = worse_by(trade.action, trade.price, price_now, symbol.point)
        if slippage > limits.max_slippage_points:
            return Refusal(
                Reason.SLIPPAGE,
                f"{trade.action} {symbol.name} at {price_now} is {slippage:.1f} points worse than the signal's "
                f"{trade.price}, allowed {limits.max_slippage_points}",
                {
                    "slippage_points": slippage,
                    "max_slippage_points": limits.max_slippage_points,
                    "signal_price": trade.price,
                    "price": price_now,
                },
            )
        deviation = int(limits.max_slippage_points - max(slippage, Decimal(0)))
    price = entry_price(trade) if trade.kind is Kind.ORDER else closing_price(trade.action.buys, symbol)
    if level := passed(trade, price):
        return Refusal(
            Reason.STOP_PASSED,
            f"{level} is reached already: {symbol.name} would be closed at {price}",
            {"price": price, "sl": trade.sl, "tp": trade.tp},
        )
    if exposure.trades + 1 > limits.max_exposure_trades:
        return Refusal(
            Reason.EXPOSURE_TRADES,
            f"{exposure.trades} copies are open, allowed {limits.max_exposure_trades}",
            {"trades": exposure.trades, "max_exposure_trades": limits.max_exposure_trades},
        )
    if exposure.lots + volume > limits.max_exposure_lots:
        return Refusal(
            Reason.EXPOSURE_LOTS,
            f"{exposure.lots} lots are open and {volume} would come on top, allowed {limits.max_exposure_lots}",
            {"lots": exposure.lots, "volume": volume, "max_exposure_lots": limits.max_exposure_lots},
        )
    margin_per_lot = symbol.margin_buy if trade.action.buys else symbol.margin_sell
    if margin_per_lot is None:
        return Refusal(Reason.MARGIN, f"the terminal could not say the margin of {symbol.name}", {})
    margin = margin_per_lot * max(volume - 2 * opposite, Decimal(0))
    free = account.margin_free - exposure.margin
    if margin > free:
        return Refusal(
            Reason.MARGIN,
            f"{volume} lots of {symbol.name} need a margin of {margin:.2f}, free are {free:.2f}",
            {"margin": margin, "margin_free": free},
        )
    whole = floor_to_step(wanted, symbol.volume_step)
    return Allowed(symbol, volume, deviation, wanted if volume < whole else None, exact, wanted - whole)
