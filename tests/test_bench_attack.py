"""The attacks of bench/attack.py are carried out as they are described; how long things take is not looked at here."""

from __future__ import annotations

import sys

import pytest

from bench.attack import HEAD, OF_ADDRESS, Attack, attacked, guessed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="bench/ runs on Linux")


def test_too_many_connections_of_an_address_are_held_or_refused_and_a_good_client_is_served() -> None:
    seen = attacked(Attack("heads that drip", OF_ADDRESS + 20, 1, HEAD, drips=True), 0.5)
    assert seen.held >= OF_ADDRESS
    assert seen.refused >= 20
    assert seen.kept
    assert len(seen.new) == len(seen.kept)
    assert not seen.refused_new


def test_guesses_are_counted() -> None:
    found = guessed(1, guesses=20)
    assert (found.statuses, found.rightful) == ({401: 5, 429: 15}, 200)
