-- The local state of a copier or a sender: one file beside the configuration. It is written before an order is sent and
-- never guessed at afterwards. Lots are decimal text, so that 0.29 stays 0.29; times are UTC ms of this machine, for people
-- to read, never for decisions.

-- One value a row: whose ledger this is (`owner`), since when, the highest equity, what the server said last.
-- While nothing but `owner`, `created_at` and `ledger` (its name) stands in the whole file, another account may take it.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Copier: one row is one master's trade (or one leg of it) and what became of it here: the map ticket_master ->
-- ticket_client.
-- A row is never deleted while its order may have been executed.
CREATE TABLE copies (
    master        TEXT    NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind IN ('position', 'order')),
    ticket        INTEGER NOT NULL CHECK (ticket > 0),
    leg           INTEGER NOT NULL CHECK (leg >= 0),
    state         TEXT    NOT NULL CHECK (state IN ('opening', 'open', 'closing', 'closed', 'closed_by_client',
                                                    'skipped', 'failed', 'unknown')),
    tag           TEXT    NOT NULL UNIQUE CHECK (length(tag) BETWEEN 3 AND 16), -- the comment of our order
    symbol        TEXT    NOT NULL,
    action        TEXT    NOT NULL,
    magic         INTEGER NOT NULL,
    source        TEXT    NOT NULL CHECK (source IN ('terminal', 'manual')),
    epoch         TEXT    NOT NULL,              -- of the server database that told of the trade
    volume        TEXT    NOT NULL,              -- lots asked for while opening, lots filled once open
    master_volume TEXT    NOT NULL,              -- the master's lots then
    current       TEXT    NOT NULL,              -- lots the account showed last
    after_ticket  INTEGER NOT NULL,              -- highest ticket on the account before the order was sent
    quoted_msc    INTEGER NOT NULL,              -- time of the quote at which it was sent, by the broker's clock
    "order"       INTEGER NOT NULL,              -- ticket of our order, 0 = not known
    client_kind   TEXT    CHECK (client_kind IN ('position', 'order')),
    client_ticket INTEGER NOT NULL,              -- identifier of the position, or ticket of the pending order; 0 = none
    reduce_to     TEXT,                          -- lots after a partial close that was sent and not yet seen
    exact         TEXT    NOT NULL,              -- lots that the rule asked for, before the rest and rounding
    rest          TEXT    NOT NULL,              -- lots that rounding left over, for the next leg
    net_before    TEXT,                          -- netting: the symbol's lots before an order (short: below 0)
    reason        TEXT    NOT NULL,
    detail        TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (master, kind, ticket, leg),
    CHECK (state NOT IN ('open', 'closing') OR client_ticket > 0),
    CHECK ((client_ticket > 0) = (client_kind IS NOT NULL))
) STRICT;

CREATE INDEX copies_by_state ON copies (state);
CREATE INDEX copies_by_client_ticket ON copies (client_ticket);

-- Copier: the legs of those masters' positions that have grown, shrunk or turned round: what is open of each. legs.py.
CREATE TABLE legs (
    master    TEXT    NOT NULL,
    kind      TEXT    NOT NULL CHECK (kind IN ('position', 'order')),
    ticket    INTEGER NOT NULL CHECK (ticket > 0),
    number    INTEGER NOT NULL CHECK (number >= 0),
    buys      INTEGER NOT NULL CHECK (buys IN (0, 1)),
    initial   TEXT    NOT NULL,              -- the master's lots when it was entered
    "left"    TEXT    NOT NULL,              -- of those now
    price     TEXT    NOT NULL,
    "order"   INTEGER NOT NULL,              -- pending order it came from, 0 = none
    opened_at INTEGER NOT NULL,              -- UTC ms by the server's clock, 0 = age unknown
    PRIMARY KEY (master, kind, ticket, number)
) STRICT;

-- Copier: reports that the server has not confirmed yet, in order. One row is one JSON object of POST /executions.
CREATE TABLE reports (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    body   TEXT NOT NULL
) STRICT;

-- Sender: the book as the server acknowledged it last. One row is one trade, as signals.py writes it.
CREATE TABLE acknowledged (
    kind   TEXT    NOT NULL CHECK (kind IN ('position', 'order')),
    ticket INTEGER NOT NULL CHECK (ticket > 0),
    body   TEXT    NOT NULL,
    PRIMARY KEY (kind, ticket)
) STRICT;
