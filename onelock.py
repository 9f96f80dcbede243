"""A lock that keeps a second program off a database or an account, and dies with its process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO


class Locked(Exception):
    """Another process holds the lock."""


def lock(path: Path) -> IO[bytes]:
    """Hold the file, which is made if need be, until the answer is closed or the process ends, however it ends.

    Raises `Locked`, and `OSError` when the file cannot be written.
    """
    file = open(path, "a+b")  # noqa: SIM115  stays open for as long as the lock is held
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Locked(f"{path} is locked") from error
    return file
