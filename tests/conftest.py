"""What all tests share."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from chain import PASSWORDS
from follower import Follower, Make
from secrets_kit import left_lying
from server_kit import PASSWORD as SERVER_PASSWORD

from bench.attack import certificate_in
from bench.rig import NotHere

# The machine that runs the tests may be slow or busy: time is never what makes a test fail. On CI the examples
# are the same in every run, so a change is judged by what it changed.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# What a shell runs in the background ignores Ctrl-C, and every program that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passwords that a person keeps in the environment have no effect on tests."""
    for name in list(os.environ):
        if name.startswith("AIBOT_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_left_lying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test: whatever they have written, but for the files that are there to hold secrets."""
    yield
    found = left_lying(tmp_path_factory.getbasetemp(), SERVER_PASSWORD, *PASSWORDS.values())
    assert not found, f"secrets are in {found}"


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """wait_until(condition, what="...", seconds=30): returns as soon as condition() is true, else fails."""

    def wait(condition: Callable[[], object], what: str = "the condition", seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {seconds:g} s in vain for {what}")
            time.sleep(0.01)

    return wait


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """make(**settings): a follower with these settings in its file, who has heard the first, empty book."""
    made: list[Follower] = []

    def one(**settings: Any) -> Follower:
        follower = Follower(tmp_path, **settings)
        made.append(follower)
        follower.sends_book()
        follower.look()
        return follower

    yield one
    for follower in made:
        follower.ledger.close()


@pytest.fixture
def follower(make: Make) -> Follower:
    return make()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    try:
        return certificate_in(tmp_path_factory.mktemp("tls"))
    except NotHere as why:
        pytest.skip(str(why))
