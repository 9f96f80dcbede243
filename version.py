"""The version of this program: the one place where it stands. CHANGELOG.md says what each one brought."""

import re
from typing import Final

VERSION: Final = "0.1.0"


def is_older(version: str, than: str) -> bool:
    """Whether one version came before another; False when either is not written as 1.2.3."""
    if not all(re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}", one) for one in (version, than)):
        return False
    return [int(part) for part in version.split(".")] < [int(part) for part in than.split(".")]
