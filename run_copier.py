"""Runs a copier: puts its parts together, keeps its loop going, and takes it down again."""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

from api_client import Api
from check import check_copier
from config import ClientConfig, load_client
from console import Spoken, load_module
from copier import Copier
from copies import CLOCKS_APART_MS, LIVE, Copy, State, is_tag
from ledger import CopierLedger, LedgerError, OneInstance, WrongLedger
from link import Inbox, Listener, Reporter
from program import Program
from signals import Kind, decode, encode
from supervisor import Command
from terminal import ConnectionLost, Terminal, Unreadable, connect_until
from trader import named
from watchdog import Watchdog
from worker import Worker

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0  # also without any message
LOOK_SOON_S: Final = 0.05  # while a trade waits for the first quote of its symbol
RESET_DRAWDOWN: Final = "--reset-drawdown"
GIVEN_UP_MS: Final = 60_000  # an order that is later than the quote of one that was given up is not that one
THREADS_END_S: Final = 0.7  # how long each of the two threads towards the server may take to end


def run(config: ClientConfig, worker: Worker) -> int:
    """Copy until it is asked to end or must end by itself. The exit code.

    Raises `WrongLedger`, `LedgerError`, `NoModule`.
    """
    folder, mt5, stop = config.folder, config.mt5, worker.stop
    watchdog = Watchdog(mt5.call_timeout_s, mt5.timeout_ms)
    with (
        closing(OneInstance(folder / "client.lock")),
        closing(CopierLedger(folder / "client.db", f"account {mt5.login} at {mt5.server}")) as ledger,
        closing(watchdog),
        closing(Terminal(watchdog.watched(load_module(mt5.module)), mt5)) as terminal,
    ):
        check_magic(ledger, config.magic)
        if RESET_DRAWDOWN in worker.asked:
            log.warning("the highest equity is forgotten: it was %s", ledger.get("highest_equity"))
            ledger.set(highest_equity="0")
        if ledger.is_new:
            log.info("a new ledger was begun: trades that are open already are not copied")
        worker.running()
        watchdog.start()
        if not connect_until(terminal, stop):
            return 0
        check_newest(ledger, terminal, config)
        log.info("account %d at %s, copying %s", mt5.login, mt5.server, config.copying)
        if typed := ledger.get("typed_copying"):
            log.warning("copying %s was typed at the console and holds until something else is", typed)
        inbox: Inbox = queue.SimpleQueue()
        api = Api(config.api, role="client")
        listener = Listener(api, config.api, inbox, stop, ledger.get("ledger") or "")
        reporter = Reporter(api, ledger, stop)
        copier = Copier(terminal, ledger, config, inbox, listener)
        listener.start()
        reporter.start()
        try:
            copy_until(stop, copier, terminal, reporter, worker)
        finally:
            stop.set()
            listener.close()
            reporter.wake.set()
            for thread in (listener, reporter):
                thread.join(THREADS_END_S)
                if thread.is_alive():
                    log.info("thread %s did not end in time", thread.name)
        if copier.ended:
            log.error("stopped: %s", copier.ended)
        return 1 if copier.ended else 0


def check_magic(ledger: CopierLedger, magic: int) -> None:
    """Raises `WrongLedger` while copies with another magic number are open or may still fill."""
    others = {c.magic for c in ledger.copies.values() if c.state in LIVE} - {magic}
    if others:
        raise WrongLedger(
            f"copies with the magic number {', '.join(map(str, others))} are still open, and the file says {magic}: "
            "change magic_number_copier back until they are closed"
        )


class Sent(NamedTuple):
    """An order of the account, or the position that it became."""

    identifier: int
    magic: int
    comment: str
    symbol: str
    buys: bool
    kind: Kind | None  # of the order; None of a position whose order the history does not have
    lots: Decimal  # that the order asked for; of such a position what it has
    time_msc: int

    def may_be(self, copy: Copy) -> bool:
        """Whether it may be what became of the order that was sent for a copy, although its comment is not the tag."""
        if (self.symbol, self.buys) != (copy.symbol, copy.action.buys) or is_tag(self.comment):
            return False
        since_quote = self.time_msc - copy.quoted_msc
        if copy.state is State.UNKNOWN and not -CLOCKS_APART_MS <= since_quote <= GIVEN_UP_MS:
            return False
        return self.lots <= copy.volume if self.kind is None else (self.kind, self.lots) == (copy.kind, copy.volume)


def check_newest(ledger: CopierLedger, terminal: Terminal, config: ClientConfig) -> None:
    """Let a ledger that was put back from an old copy begin anew: it does not know the orders that were sent since.

    What was opened before its next book is then adopted where the account shows it, and otherwise not opened.
    """
    if not int(ledger.get("born_at") or 0):
        return  # it begins with its first book in any case
    try:
        past = terminal.past_orders(config.limits.max_signal_age_s)
        sent = [
            Sent(
                o.ticket if is_tag(o.comment) else o.position_id or o.ticket,
                o.magic,
                o.comment,
                o.symbol,
                o.buys,
                o.action.kind if o.action else None,
                o.volume,
                o.time_msc,
            )
            for o in past
        ]
        reading = terminal.read()
        sent += [
            Sent(o.ticket, o.magic, o.comment, o.symbol, o.action.buys, o.action.kind, o.initial_volume, o.time_msc)
            for o in reading.orders
        ]
        sent += [
            Sent(p.identifier, p.magic, p.comment, p.symbol, p.action.buys, None, p.volume, p.time_msc)
            for p in reading.positions
        ]
    except Unreadable as problem:
        why = f"nothing shows whether it is the newest: {problem}"
    else:
        highest = ledger.highest_ticket()
        later = {
            one.identifier: one for one in reversed(sent) if one.magic == config.magic and one.identifier > highest
        }
        unknown = [one for one in later.values() if ledger.remembered(one.comment, one.identifier) is None]
        opening = [copy for copy in ledger.copies.values() if copy.state is State.OPENING]
        given_up = [copy for copy in ledger.copies.values() if copy.state is State.UNKNOWN]
        for copy in (*opening, *given_up):
            # Where the broker replaces comments, this may be what became of the order that was sent last.
            if (its := next((one for one in unknown if one.may_be(copy)), None)) is not None:
                unknown.remove(its)
        if not unknown:
            return
        newest = max(unknown).identifier
        why = f"the account has had an order of ours, #{newest}, that it does not know: is it an old copy?"
        for copy in opening:
            # What became of it is on the account, and may be a part by now: it is adopted with the lots of both sides.
            ledger.withdraw(copy)
        # And so is, where this ledger has no copies, what it has taken for the follower's.
        live = {copy.symbol for copy in ledger.copies.values() if copy.state in LIVE}
        foreign = decode(ledger.get("foreign") or "{}")
        ledger.set(foreign=encode({symbol: lots for symbol, lots in foreign.items() if symbol in live}))
    log.error("this ledger begins anew, trades that are open already are not copied: %s", why)
    ledger.set(born_at="0")


def copy_until(stop: threading.Event, copier: Copier, terminal: Terminal, reporter: Reporter, worker: Worker) -> None:
    """The loop of the thread that trades, until `stop` is set or the copier must end."""
    spoken = Spoken(log)
    while not stop.is_set() and not copier.ended:
        again = False
        try:
            worker.carry_out(copier.command)
            again = copier.step()
            worker.show(copier.status)
            spoken.clear("ledger", "the ledger can be written again")
        except ConnectionLost:
            worker.connecting()
            connect_until(terminal, stop)
        except LedgerError as error:
            spoken.say("ledger", f"nothing is opened while the ledger cannot be written: {error}", logging.ERROR)
            stop.wait(1.0)
        except Exception as defect:
            log.exception("a defect of this program: nothing is opened any more, open copies are still followed")
            copier.stop_opening(repr(defect))
            stop.wait(5.0)
        reporter.wake.set()
        copier.wait(0.0 if again else LOOK_SOON_S if terminal.expects_quote else LOOK_EVERY_S)


def unsettled(config: ClientConfig) -> list[str]:
    """The orders whose outcome is not known, one line each. Nothing while another copier has the ledger."""
    folder, mt5 = config.folder, config.mt5
    if not (folder / "client.db").exists():
        return []
    try:
        with (
            closing(OneInstance(folder / "client.lock", patience_s=0.0)),
            closing(CopierLedger(folder / "client.db", f"account {mt5.login} at {mt5.server}")) as ledger,
        ):
            copies = [*ledger.copies.values()]
    except (WrongLedger, LedgerError):
        return []
    unknown = [f"opened: {named(copy)}" for copy in copies if copy.state is State.OPENING]
    unknown += [f"reduced to {copy.reduce_to} lots: {named(copy)}" for copy in copies if copy.reduce_to is not None]
    return [f"not known yet whether it was {one}. The next start looks for it" for one in unknown]


COPIER: Final[Program[ClientConfig]] = Program(
    name="copier",
    script=str(Path(__file__).with_name("copier.py")),
    about="Copies the trades of your signal provider to your MetaTrader 5 account.",
    config="config_client.json",
    log="client.log",
    load=lambda path, content: load_client(path, data=content),
    run=run,
    unsettled=unsettled,
    check=check_copier,
    fill_in=(
        "api.url, api.ws_url            the address of your signal provider's server",
        "api.username, api.password     your user there: your provider has them",
        "mt5.login, password, server    the account that trades, as in MetaTrader 5's log-in window",
        "trade_copy                     how large the copies are, and your limits: it is your money",
    ),
    commands={
        "status": Command("how it goes"),
        "pause": Command("open and modify nothing; what the master closes is still closed"),
        "resume": Command("end a pause or a flatten that was typed here"),
        "flatten": Command(
            "close every copy now, open nothing until resume",
            "This closes every copy at market and opens nothing more.",
        ),
    },
    once={RESET_DRAWDOWN: "forget the highest equity (after a withdrawal, or when you accept the loss), then go on"},
)
