-- The server's database. db.py and users.py hold every statement about what is in it; database.py makes it, and sets the
-- schema's version (PRAGMA user_version).
--
-- Times are UTC milliseconds of the server's own clock, which never goes back. Lots and prices are the text of exact
-- decimal numbers, because binary fractions lose steps.

-- The one row: what this database is and how far it has come.
CREATE TABLE state (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    epoch       TEXT NOT NULL,                  -- made with the database: a lost or new one is recognised by it
    clock       INTEGER NOT NULL,               -- highest time ever stored: the server's clock never starts below it
    next_ticket INTEGER NOT NULL                -- for trades that come without a ticket
) STRICT;

-- The last starts of the server, and how far it had come: a follower that has heard more than was there at the next start
-- knows by it that a backup was restored, whatever has been numbered since.
CREATE TABLE starts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run    TEXT NOT NULL,                       -- made at each start
    seq    INTEGER NOT NULL                     -- of the last change then
) STRICT;

-- A person or program that may log in. Nobody is ever deleted: trades, history and reports keep pointing here.
CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    username      TEXT NOT NULL UNIQUE COLLATE NOCASE CHECK (length(username) BETWEEN 3 AND 64),
    password      TEXT NOT NULL,                -- salted scrypt hash, never the password
    role          TEXT NOT NULL CHECK (role IN ('admin', 'master', 'client')),
    active        INTEGER NOT NULL CHECK (active IN (0, 1)),
    token_version INTEGER NOT NULL DEFAULT 1,   -- a token of an older version is void
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER                       -- NULL = never
) STRICT;

-- Log-ins that failed or are being looked at, and registrations, of the last hour: what the brake on guessing counts.
CREATE TABLE attempts (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    what    TEXT NOT NULL CHECK (what IN ('log_in', 'register')),
    account TEXT NOT NULL,                      -- hash of the name that was given: it may be a mistyped password
    address TEXT NOT NULL
) STRICT;
CREATE INDEX attempts_in_time ON attempts (what, at);
CREATE INDEX attempts_for_an_account ON attempts (what, account, at);
CREATE INDEX attempts_from_an_address ON attempts (what, address, at);

-- Where users have logged in from: guessing from elsewhere does not keep them out there.
CREATE TABLE known_addresses (
    account TEXT NOT NULL,                      -- as above
    address TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (account, address)
) STRICT, WITHOUT ROWID;

-- What a user has set up on the server. No row = the defaults.
CREATE TABLE configs (
    user_id    INTEGER PRIMARY KEY REFERENCES users (id),
    trade_copy TEXT NOT NULL CHECK (json_valid(trade_copy)),   -- object: sizing and limits
    copying    TEXT NOT NULL CHECK (copying IN ('on', 'close_only', 'paused', 'flatten')),
    follow     TEXT CHECK (follow IS NULL OR json_valid(follow)), -- array of user names; NULL = every master
    changed_at INTEGER NOT NULL
) STRICT;

-- The copier of a client that was connected last. What was opened before it took another one's place may be under way there.
CREATE TABLE copiers (
    client_id INTEGER PRIMARY KEY REFERENCES users (id),
    ledger    TEXT NOT NULL,                    -- the name that its ledger gave itself
    since     INTEGER NOT NULL                  -- when it first connected, or took the place of another
) STRICT;

-- The sender of a master: which session may post, and what it last said about the account.
CREATE TABLE senders (
    master_id    INTEGER PRIMARY KEY REFERENCES users (id),
    session      TEXT NOT NULL,
    rev          INTEGER NOT NULL,              -- of the last post; posts with this or a lower one change nothing
    reported_at  INTEGER NOT NULL,              -- when the whole book last came
    online_since INTEGER NOT NULL,              -- when it came after a silence
    account      TEXT NOT NULL CHECK (json_valid(account))
) STRICT;

-- The books: one row is an open position or a pending order of a master, as it is now.
CREATE TABLE trades (
    master_id      INTEGER NOT NULL REFERENCES users (id),
    kind           TEXT NOT NULL CHECK (kind IN ('position', 'order')),
    ticket         INTEGER NOT NULL CHECK (ticket BETWEEN 1 AND 9007199254740991),
    source         TEXT NOT NULL CHECK (source IN ('terminal', 'manual')),
    symbol         TEXT NOT NULL,
    action         TEXT NOT NULL CHECK (
        (kind = 'position' AND action IN ('BUY', 'SELL'))
        OR (kind = 'order' AND action IN ('BUY_LIMIT', 'SELL_LIMIT', 'BUY_STOP', 'SELL_STOP', 'BUY_STOP_LIMIT', 'SELL_STOP_LIMIT'))
    ),
    volume         TEXT NOT NULL CHECK (CAST(volume AS REAL) > 0),
    initial_volume TEXT NOT NULL CHECK (CAST(initial_volume AS REAL) > 0),
    price          TEXT NOT NULL,
    stoplimit      TEXT NOT NULL,
    sl             TEXT NOT NULL,
    tp             TEXT NOT NULL,
    expiration     INTEGER NOT NULL,
    magic          TEXT NOT NULL,               -- up to 2**64 - 1, more than an INTEGER holds
    comment        TEXT NOT NULL,
    contract_size  TEXT NOT NULL,
    point          TEXT NOT NULL,
    digits         INTEGER NOT NULL,
    opened_at      INTEGER NOT NULL,            -- 0 = age unknown
    increase       TEXT CHECK (increase IS NULL OR json_valid(increase)), -- when the position last grew or turned round; NULL = never
    PRIMARY KEY (master_id, kind, ticket)
) STRICT, WITHOUT ROWID;

-- The log: one row is one change of a book, numbered without gaps over the whole system, never changed or deleted.
CREATE TABLE signals (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    master_id   INTEGER NOT NULL REFERENCES users (id),
    type        TEXT NOT NULL CHECK (type IN ('signal', 'modify', 'close')),
    kind        TEXT NOT NULL CHECK (kind IN ('position', 'order')),
    ticket      INTEGER NOT NULL,
    trade       TEXT NOT NULL CHECK (json_valid(trade)),  -- whole state afterwards; of a closed trade the last one
    remaining   TEXT,                           -- closes: lots left, '0' = gone
    close_price TEXT,                           -- closes: what the post said, if it did
    profit      TEXT,
    detected_at INTEGER,                        -- UTC ms of the sender's clock, only to show latencies
    CHECK ((type = 'close') = (remaining IS NOT NULL))
) STRICT;
CREATE INDEX signals_of_a_trade ON signals (master_id, ticket, kind);
CREATE INDEX signals_of_a_master ON signals (master_id, seq);

-- Answers given to posts with an Idempotency-Key, kept for ever.
CREATE TABLE answers (
    user_id     INTEGER NOT NULL REFERENCES users (id),
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,                  -- hash of what was posted
    status      INTEGER NOT NULL,
    answer      TEXT NOT NULL CHECK (json_valid(answer)),
    at          INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT, WITHOUT ROWID;

-- What copiers reported that they did or refused.
CREATE TABLE executions (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    client_id INTEGER NOT NULL REFERENCES users (id),
    id        TEXT NOT NULL,                    -- made by the copier; a repeated one is ignored
    event     TEXT NOT NULL,
    master    TEXT NOT NULL COLLATE NOCASE,     -- as the copier knew it
    report    TEXT NOT NULL CHECK (json_valid(report)), -- everything the copier said
    stored_at INTEGER NOT NULL,
    UNIQUE (client_id, id)
) STRICT;
CREATE INDEX executions_of_a_client ON executions (client_id, number);
CREATE INDEX executions_of_a_master ON executions (master, number);

-- How many of these have been stored: in all, of a client, about a master. Raised in the transaction that stores them, never
-- lowered, so that nobody has to count them while the others wait.
CREATE TABLE report_counts (
    whose   TEXT NOT NULL CHECK (whose IN ('all', 'client', 'master')),
    name    TEXT NOT NULL COLLATE NOCASE,       -- of the client or the master as above; '' with 'all'
    event   TEXT NOT NULL,
    reports INTEGER NOT NULL,
    PRIMARY KEY (whose, name, event)
) STRICT, WITHOUT ROWID;

-- Which account numbers a client's reports have named, the last few of them: two clients that trade on one account would
-- double each trade there.
CREATE TABLE accounts (
    login     INTEGER NOT NULL,
    client_id INTEGER NOT NULL REFERENCES users (id),
    seen_at   INTEGER NOT NULL,
    PRIMARY KEY (login, client_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_of_a_client ON accounts (client_id, seen_at);
