"""Rules of the product, each of which can be taken out: the campaign has to notice that it is gone.

For auditors: `changes` is all that a mutant changes, `protects` says what the rule is for. A rule that another one
covers for may be missed alone; the two together must not be (`pair`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Change = tuple[str, str, str]  # file, text that stands in it exactly once, text in its place


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule taken out.

    `seed` is a schedule that catches it (together with its pair, if it has one, and then neither of the two alone): a
    campaign that begins with seed 1 needs at most so many.
    """

    name: str
    changes: tuple[Change, ...]
    protects: str
    seed: int = 1
    pair: str = ""  # name of the rule that covers for this one when it alone is gone
    unseen: str = ""  # why the campaign cannot notice it, or only once in thousands of schedules; it is not run then


MUTANTS: Final[tuple[Mutant, ...]] = (
    # --- orders of the copier
    Mutant(
        "intent not stored",
        (
            (
                "trader.py",
                "self._ledger.record(copy)  # the intent: from here on this order is never sent a second time",
                "self._ledger.copies[copy.key] = copy",
            ),
        ),
        "What is in the ledger before the order leaves is never sent a second time, whenever the copier dies.",
        seed=447,
    ),
    Mutant(
        "intent not storable, sent all the same",
        (
            (
                "trader.py",
                "self._ledger.record(copy)  # the intent: from here on this order is never sent a second time",
                "try:\n            self._ledger.record(copy)\n        except LedgerError:\n            pass",
            ),
        ),
        "Nothing is opened while the disk is full.",
        pair="opens while the reading is in doubt",
        seed=8431,
    ),
    Mutant(
        "unknown outcome withdrawn",
        (
            (
                "trader.py",
                "case Verdict.UNKNOWN:\n                self._ledger.keep(replace(copy, order=outcome.order))",
                "case Verdict.UNKNOWN:\n                self._ledger.withdraw(copy)",
            ),
        ),
        "An order that may have been executed is looked for, never sent again.",
        seed=26,
    ),
    Mutant(
        "time-out taken for a no",
        (("outcomes.py", "10012: ((UNKNOWN, UNKNOWN, UNKNOWN,", "10012: ((LATER,   LATER,   UNKNOWN,"),),
        "A time-out does not say that nothing was executed.",
        seed=26,
    ),
    Mutant(
        "exception taken for a no",
        (
            (
                "terminal.py",
                'return Outcome(Verdict.UNKNOWN, -1, f"order_send failed',
                'return Outcome(Verdict.LATER, -1, f"order_send failed',
            ),
        ),
        "An exception of order_send does not say that nothing was executed.",
        seed=83,
        pair="not adopted by its tag",
    ),
    Mutant(
        "orders alike at once",
        (("plan.py", "if likeness not in unresolved and not", "if not"),),
        "While one order has no known outcome, no second of the same symbol, side and volume is sent.",
        unseen="needs two alike without an outcome at once, at a broker that replaces comments: one in many thousands",
    ),
    Mutant(
        "found by likeness among older ones",
        (
            ("copies.py", "thing.identifier > copy.after_ticket\n        and ", ""),
            ("copies.py", " and at >= copy.quoted_msc - CLOCKS_APART_MS", ""),
        ),
        "A position that was there, or ordered, before the order was sent cannot be what became of it.",
        seed=2,
        pair="foreign magic ignored",
    ),
    Mutant(
        "a part of any order",
        (("copies.py", "lots == copy.volume and at >=", "at >="),),
        "What another order has left is not taken for a part of the one whose outcome is not known.",
        seed=9679,
    ),
    Mutant(
        "foreign magic ignored",
        (("copies.py", "if t.magic == magic or (t.magic, t.comment) in given_up", ""),),
        "What is not ours by its magic number is never taken for a copy.",
        pair="found by likeness among older ones",
        seed=2,
    ),
    Mutant(
        "closed by the client, opened again",
        (
            (
                "plan.py",
                "if key in known.copies:",
                "if key in known.copies and known.copies[key].state is not State.CLOSED_BY_CLIENT:",
            ),
        ),
        "What the follower has closed stays closed.",
        seed=378,
    ),
    Mutant(
        "older than the ledger, opened",
        (("plan.py", "if opened_at and opened_at <= known.born_at:", "if False:"),),
        "A ledger that begins anew does not open what a lost one may have opened.",
        pair="not adopted by its tag",
        seed=99,
    ),
    Mutant(
        "not adopted by its tag",
        (("copies.py", "adopted.append((held, thing))", "strangers.append(thing)"),),
        "After a lost ledger the copies that carry their trade's tag are followed again.",
        seed=78,
        pair="ended copy not taken up again",
    ),
    Mutant(
        "missing copy believed at once",
        (("copies.py", "patient = waited.get(copy.key, 0.0) < PATIENCE_S", "patient = False"),),
        "A copy that a reading does not show has ended only with proof.",
        pair="ended copy not taken up again",
        seed=17,
    ),
    Mutant(
        "ended copy not taken up again",
        (("copies.py", "if known is not None and known.key not in taken:", "if False:"),),
        "A copy that was taken for ended and is there after all is followed again.",
        pair="missing copy believed at once",
        seed=17,
    ),
    Mutant(
        "order and its position both copied",
        (("plan.py", "if forerunner is not None and forerunner.state in LIVE:", "if False:"),),
        "The copy of a pending order is settled before the position is opened that the master's order became.",
        seed=129,
    ),
    Mutant(
        "ended order, its position opened",
        (("plan.py", "return _decided_by_its_order(held, known) or _mixed", "return _mixed"),),
        "A pending copy that the follower ended, or that may still fill, is not replaced by a position.",
        unseen="the verdict counts filled orders; a pending copy that was removed and a position after it are not two",
    ),
    Mutant(
        "filled copy not inherited",
        (("plan.py", "in LIVE else [Inherit(copy, heir)]", "in LIVE else []"),),
        "A pending copy that filled goes on as the copy of the master's position.",
        seed=4385,
    ),
    Mutant(
        "pending orders of a doubted book followed",
        (("plan.py", "    if (turned or trade.kind is Kind.ORDER) and not mirror", "    if turned and not mirror"),),
        "What an old backup says of a pending order neither moves nor removes its copy.",
        unseen="the master's next report puts the price right again, and the schedules move no expiration",
    ),
    Mutant(
        "opens while the reading is in doubt",
        (("copier.py", "self._settings_heard and not in_doubt,", "self._settings_heard,"),),
        "Nothing is opened while the account contradicts the ledger without proof.",
        seed=8431,
        pair="intent not storable, sent all the same",
    ),
    Mutant(
        "unreadable history counts as looked",
        (("stocktaking.py", "self._missing_since.pop(copy, None)  #", "pass  #"),),
        "Patience counts readings that could have shown the copy, no others.",
        unseen="needs a history that fails for all of the patience while the copy is not shown",
    ),
    # --- following
    Mutant(
        "reduced without an intent",
        (("trader.py", "self._ledger.record(intent)  # like an open, a part must not be closed twice", "pass"),),
        "A part is not closed twice.",
        seed=982,
    ),
    Mutant(
        "unknown reduction sent again",
        (
            (
                "trader.py",
                "if outcome.verdict is not Verdict.UNKNOWN:  # the part was",
                "if outcome.verdict is not Verdict.DONE:  # the part was",
            ),
        ),
        "A reduction that may have been executed is not repeated before patience has run out.",
        seed=982,
    ),
    Mutant(
        "close not repeated",
        (
            (
                "plan.py",
                "if copy.state in (State.OPEN, State.CLOSING):\n            order",
                "if copy.state is State.OPEN:\n            order",
            ),
        ),
        "A close is repeated until the account shows it.",
        seed=5,
    ),
    Mutant(
        "not reduced",
        (("plan.py", "if target < position.volume:", "if False:"),),
        "A part that the master closes is closed in proportion.",
        seed=7,
    ),
    Mutant(
        "stops not followed",
        (("plan.py", "if not is_set and not waits:", "if False:"),),
        "Stop loss and take profit of a copy are its master's.",
        seed=7,
    ),
    # --- what the terminal shows
    Mutant(
        "no answer read as empty",
        (("terminal.py", 'raise self._failed("positions_get")', "positions = ()"),),
        "None from positions_get is a failed call, not an empty account.",
        seed=288,
    ),
    Mutant(
        "disconnected terminal believed",
        (("terminal.py", "if not terminal.connected:", "if False:"),),
        "What a terminal shows without its broker is not a reading.",
        seed=708,
    ),
    Mutant(
        "other account believed",
        (
            (
                "terminal.py",
                "if info.login != wanted.login or info.server.casefold() != wanted.server.casefold():",
                "if False:",
            ),
        ),
        "Another account's positions are not ours.",
        unseen="the fault gives another login, but still shows our positions",
    ),
    # --- the sender
    Mutant(
        "missing trade believed at once",
        (("sender.py", "if waited < PATIENCE_S:", "if False:"),),
        "A trade that a reading does not show is told as closed only with proof.",
        seed=19,
    ),
    Mutant(
        "closed in part taken for closed",
        (
            (
                "sender.py",
                "if _nothing_left(deals) else None\n        past =",
                "if any(deal.entry is not Entry.IN for deal in deals) else None\n        past =",
            ),
        ),
        "A part that was closed earlier is no proof of the end.",
        seed=462,
    ),
    Mutant(
        "server's book not merged",
        (("sender.py", "if trade.source is Source.TERMINAL and trade.key not in self._book:", "if False:"),),
        "A sender that lost its ledger asks for proof of what the server still holds.",
        seed=6261,
    ),
    Mutant(
        "whole book not due after a failure",
        (("sender.py", "self._whole_book_due = True\n        self._failures += 1", "self._failures += 1"),),
        "After a request without an answer the whole book settles what the server has.",
        pair="no whole book every five seconds",
    ),
    Mutant(
        "no whole book every five seconds",
        (("sender.py", "if age_now_known or now - self._last_book >= BOOK_EVERY_S:", "if False:"),),
        "The whole book is told again and again, whatever was lost before.",
        seed=43,
    ),
    Mutant(
        "age from when it was first seen",
        (
            (
                "sender.py",
                "known = [age for age in (by_broker, by_watch) if age is not None]",
                "known = [int((now - seen.at) * 1000)]",
            ),
        ),
        "A trade that was made while the sender did not run is as old as the broker's clock says.",
        seed=319,
    ),
    # --- the server
    Mutant(
        "repeated and late posts taken",
        (("db.py", "if post.rev <= sender.rev:", "if False:"),),
        "A post that arrives late or twice changes nothing.",
        seed=2009,
    ),
    Mutant(
        "superseded sender taken",
        (("db.py", "if sender.session != post.session:", "if False:"),),
        "Of two senders only the one that began last is believed.",
        unseen="both senders read the same account, so what they say differs only for moments",
    ),
    Mutant(
        "time on the way not counted",
        (
            (
                "db.py",
                "return age_ms if age_ms is None or as_of is None else age_ms + max(0, now - as_of)",
                "return age_ms",
            ),
        ),
        "A post that was long on its way does not make a trade young.",
        unseen="a post that is late enough is overtaken by the whole book, and changes nothing when it arrives",
    ),
    Mutant(
        "lots of what moves stops",
        (("mirror.py", "if key[0] in self.went_back and lots_told:", "if key[0] in self.went_back:"),),
        "After an old backup, a message that moves stops is not believed for the lots of then.",
        seed=1102640,
    ),
    Mutant(
        "what a copy had at first",
        (("trader.py", "volume=max(seen.volume, seen.opened)", "volume=seen.volume"),),
        "What was closed of a copy before the ledger saw it belongs to the proportion.",
        seed=1415301,
    ),
    Mutant(
        "what was skipped waits for the book",
        (("copies.py", "return copy.state is State.SKIPPED and not told(copy)", "return False"),),
        "What was skipped and is there all the same is a proportion of what the master has now.",
        seed=1407588,
    ),
    Mutant(
        "a doubt that ends with a restart",
        (("copier.py", 'unreported=(ledger.get("unreported") or "").split(),', "unreported=(),"),),
        "A new database is doubted after the master's first report to it, also by a copier that was started again.",
        seed=1514539,
    ),
    Mutant(
        "a master that nobody named",
        (("mirror.py", " or key[0] not in self.masters:", ":"),),
        "What comes of a master that the book does not name shows that a book was missed.",
        seed=1607441,
    ),
    Mutant(
        "what was given up explains nothing",
        (("run_copier.py", "for copy in (*opening, *given_up):", "for copy in opening:"),),
        "An order that was given up and has filled does not make a ledger an old one.",
        seed=1509807,
    ),
    Mutant(
        "told although not stored",
        (
            (
                "database.py",
                'self._db.execute("UPDATE state SET clock = max(clock, ?)", (now,))\n'
                '                self._db.execute("COMMIT")',
                'self._db.execute("UPDATE state SET clock = max(clock, ?)", (now,))\n'
                "                try:\n"
                '                    self._db.execute("COMMIT")\n'
                "                except sqlite3.OperationalError:\n"
                '                    self._db.execute("ROLLBACK")',
            ),
        ),
        "What followers and senders are told has been committed before.",
        seed=8,
    ),
    Mutant(
        "server's time by the wall clock",
        (
            (
                "database.py",
                "return self._started_ms + int((self._clock.monotonic() - self._started) * 1000)",
                "return int(self._clock.time() * 1000)",
            ),
        ),
        "A clock that is set makes no trade younger.",
        unseen="the copier's own measure of the server's clock covers for it, as long as it runs",
    ),
    Mutant(
        "numbers not followed by the heartbeat",
        (("mirror.py", 'if found["seq"] > self.seq:\n                    self.synced = False', "pass"),),
        "A last message that was lost is noticed by the next heartbeat.",
        seed=63,
    ),
    # --- the copier's picture of the server
    Mutant(
        "gap in the numbers not noticed",
        (("mirror.py", 'not self.synced or found["prev"] > self.seq or', "not self.synced or"),),
        "A message that was lost is noticed by the next one.",
        seed=23,
    ),
    Mutant(
        "missing book not asked for",
        (("copier.py", "if needs_sync:\n            self._ask_for_book(heard.at)", "pass"),),
        "What is missing is asked for.",
        seed=23,
    ),
    Mutant(
        "in step although disconnected",
        (("copier.py", "self._mirror.disconnected()", "pass"),),
        "Nothing is opened from a book that may be out of date.",
        unseen="a trade that is opened although the master has just closed it is closed again at once: no violation",
    ),
    Mutant(
        "restored server believed (number)",
        (("mirror.py", '(found["seq"] < self.seq or self', "(self"),),
        "A server whose numbers went back is an old copy: what it does not show has not ended.",
        pair="restored server believed (starts)",
        seed=561,
    ),
    Mutant(
        "restored server believed (starts)",
        (("mirror.py", "._unknown_to(starts))", "._unknown_to([]))"),),
        "An old copy that has numbered on meanwhile is recognised by the starts that it does not know.",
        pair="restored server believed (number)",
        seed=561,
    ),
    Mutant(
        "restored server believed",
        (
            (
                "mirror.py",
                "or master not in self.masters or master in self.went_back:",
                "or master not in self.masters:",
            ),
        ),
        "An old copy of the server's database closes nothing before the sender has reported to it.",
        seed=561,
    ),
    Mutant(
        "empty server believed",
        (("mirror.py", "return self.masters[master].reported_at is not None", "return True"),),
        "A new server database closes nothing before the sender has reported to it.",
        seed=78,
    ),
    Mutant(
        "delay of messages not counted",
        (("mirror.py", "server_now = clock.now_ms(now) or server_time", "server_now = server_time"),),
        "A message that was long on its way does not make a trade young.",
        seed=105,
    ),
    Mutant(
        "old trades opened",
        (("safety.py", "if age_ms > limits.max_signal_age_s * 1000:", "if False:"),),
        "A trade older than max_signal_age_s is not opened.",
        seed=33,
    ),
    Mutant(
        "opens right after a sleep",
        (("copier.py", "if gap > ASLEEP_S:", "if False:"),),
        "After a sleep a fresh book comes before any open.",
        seed=1133,
    ),
    Mutant(
        "two copiers side by side",
        (
            ("link.py", "if code == TAKEN_OVER:", "if False:"),
            ("plan.py", "if opened_at and opened_at <= known.alone_since:", "if False:"),
        ),
        "Of two copiers on one account only the one that came last goes on, and opens nothing from before that.",
        seed=596,
        pair="not adopted by its tag",
    ),
    Mutant(
        "what another copier may have opened",
        (("plan.py", "if opened_at and opened_at <= known.alone_since:", "if False:"),),
        "A copier that takes the place of another one opens nothing from before that.",
        seed=4633,
    ),
    Mutant(
        "reports forgotten before they arrive",
        (
            (
                "link.py",
                "try:\n            self._send([body for _, body in batch])",
                "self._ledger.confirmed(number for number, _ in batch)\n"
                "        try:\n            self._send([body for _, body in batch])",
            ),
        ),
        "A report stays in the ledger until the server has confirmed it.",
        seed=140,
    ),
    Mutant(
        "entered again through its pending order",
        (("plan.py", "    if forerunner.reason == Reason.OLDER_THAN_LEDGER:", "    if False:"),),
        "After a ledger was lost, the fill of a pending order that had been copied is not entered again.",
        seed=502879,
    ),
    Mutant(
        "a fill in a message that is missing",
        (("plan.py", "trade_key in mirror.may_have_filled", "False"),),
        "The end of a pending order behind a gap closes no copy that has filled: its master may have filled as well.",
        seed=504463,
    ),
    Mutant(
        "ages after a sleep of the sender",
        (("sender.py", "if abs(ahead - self._wall_ahead) > CLOCKS_AGREE_S:", "if False:"),),
        "What was opened while the sender's computer slept is not young because a clock stood still.",
        seed=505879,
    ),
    Mutant(
        "an intent that explains every order",
        (("run_copier.py", "== (copy.kind, copy.volume)", "== (self.kind, self.lots)"),),
        "An old copy of the ledger is noticed although it has an intent: only an order like it can have come of it.",
        seed=506639,
    ),
)
