"""The version of this program: the one place where it stands. CHANGELOG.md says what each one brought."""

from typing import Final

VERSION: Final = "0.1.0"
