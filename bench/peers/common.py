"""What every peer does with a signal, as the server does: check the token, read the JSON, store it, build a message."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
from typing import Any

import jwt

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 0
SECRET = bytes.fromhex(os.environ["BENCH_SECRET"])

_folder = tempfile.TemporaryDirectory()
_db = sqlite3.connect(f"{_folder.name}/peer.db", isolation_level=None, check_same_thread=False)
_db.execute("PRAGMA journal_mode = WAL")
_db.execute("PRAGMA synchronous = FULL")
_db.execute("CREATE TABLE signals (seq INTEGER PRIMARY KEY AUTOINCREMENT, trade TEXT NOT NULL)")


def listening(*ports: int) -> None:
    print("listening on", *ports, flush=True)


def user(authorization: str | None) -> str:
    """Raises `jwt.InvalidTokenError`."""
    token = (authorization or "").removeprefix("Bearer ")
    return str(jwt.decode(token, SECRET, algorithms=["HS256"])["sub"])


def stored(authorization: str | None, body: bytes) -> str:
    """The message for the followers."""
    user(authorization)
    trade: dict[str, Any] = json.loads(body)
    seq = _db.execute("INSERT INTO signals (trade) VALUES (?)", (json.dumps(trade),)).lastrowid or 0
    rest = {"kind": "position", "initial_volume": 0.1, "stoplimit": 0.0, "expiration": 0, "magic": 0, "comment": ""}
    symbol = {"contract_size": 0.0, "point": 0.0, "digits": 0, "master": "master_user", "source": "manual"}
    data = {
        "ticket": 8179000000000000 + seq,
        **trade,
        **rest,
        **symbol,
        "opened_at": 1790000000000,
        "master_volume": 0.1,
    }
    message = {"type": "signal", "seq": seq, "server_time": 1790000000000, "data": data, "prev": seq - 1}
    return json.dumps(message, separators=(",", ":"))
