"""A copier that is older than its server says so, and goes on."""

import logging

import pytest
from follower import Follower

from version import VERSION, is_older


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("0.1.0", "0.1.1", True),
        ("0.9.0", "0.10.0", True),
        ("0.1.0", "1", True),
        ("0.1.0", "0.1.0", False),
        ("0.2.0", "0.1.9", False),
        ("0.1.0", "", False),
        ("0.1.0", "9.9.9-beta", False),
        ("0.1.0", "9.\n", False),
    ],
)
def test_versions_are_compared_number_by_number(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) is older


@pytest.mark.parametrize(("servers", "times"), [("999.0.0", 1), (VERSION, 0), ("0.0.1", 0), ("x", 0), (None, 0)])
def test_an_older_copier_says_so_once(
    follower: Follower, caplog: pytest.LogCaptureFixture, servers: object, times: int
) -> None:
    caplog.set_level(logging.INFO)
    data = {"masters": [], "trades": []}
    head = {"type": "book", "seq": 0, "epoch": "epoch-1", "server_time": follower.server_ms()}
    for _ in range(3):
        follower.tell({**head, "data": data, "version": servers})
        follower.look()
    said = [
        record.getMessage() for record in caplog.records if "ask your provider for the new one" in record.getMessage()
    ]
    assert len(said) == times
