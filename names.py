"""What the client's broker calls the symbols of the masters. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from safety import Reason, Refusal


@dataclass(frozen=True, slots=True)
class SymbolNames:
    """The follower's own table of names; without any, both brokers write a symbol alike."""

    mapped: Mapping[str, str] = field(default_factory=dict)  # the master's name → the whole name at the client's broker
    prefix: str = ""  # put before and
    suffix: str = ""  # behind every name that is not in the table

    def of(self, symbol: str) -> str:
        """The client's name of a master's symbol."""
        return self.mapped.get(symbol) or f"{self.prefix}{symbol}{self.suffix}"

    def unknown(self, symbol: str) -> Refusal:
        """The refusal when the client's broker has nothing of that name: what was looked for, and why."""
        name = self.of(symbol)
        alike = [key for key in self.mapped if key != symbol and key.casefold() == symbol.casefold()]
        if symbol in self.mapped:
            why = f"looked for because of symbols.map; the master's {symbol}"
        elif alike:
            why = f"symbols.map has {alike[0]}, the master writes {symbol}"
        elif name != symbol:
            why = f"looked for because of symbols.prefix and symbols.suffix; the master's {symbol}"
        else:
            why = "if it has another name there, add it to symbols.map"
        return Refusal(
            Reason.SYMBOL_UNKNOWN,
            f"the broker has no symbol {name} ({why})",
            {"symbol": name, "master_symbol": symbol},
        )
