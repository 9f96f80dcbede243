"""No password, token or signing secret may be found in any log, answer or database that the tests leave behind."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

TOKEN: Final = re.compile(rb"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}")


def secrets_in(data: bytes, *secrets: str | bytes) -> list[bytes]:
    """Which of these secrets, and which tokens, are in the bytes, also as hexadecimal or base64."""
    wanted = [secret.encode() if isinstance(secret, str) else secret for secret in secrets]
    forms = [
        form for secret in wanted for form in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="))
    ]
    return [form for form in forms if form in data] + TOKEN.findall(data)


def assert_no_secrets(folder: Path, *secrets: str, but: Collection[str] = ()) -> None:
    """Look through every file of a folder; what signs the tokens, in its own file, counts as a secret too."""
    signing = [path.read_bytes() for path in folder.glob("*.secret")]
    looked_through = 0
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in but and path.suffix != ".secret":
            found = secrets_in(path.read_bytes(), *secrets, *signing)
            assert not found, f"{path.name}: {found[0]!r}"
            looked_through += 1
    assert looked_through


KEEPERS: Final = re.compile(r"config\w*\.json|.*\.secret|.*\.pem|.*\.pyc?")  # files that hold secrets, or the tests'


def left_lying(folder: Path, *secrets: str) -> dict[str, bytes]:
    """Files anywhere below the folder that hold one of these secrets, or a token, and should not."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not KEEPERS.fullmatch(path.name):
            secret = secrets_in(path.read_bytes(), *secrets)
            if secret:
                found[str(path.relative_to(folder))] = secret[0]
    return found
