"""Requests generated from openapi.json: none is a 5xx, nothing invalid is taken, answers are as described.

The application runs in this process, on a database of its own; HTTP itself is tried by tests/test_server_http.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import hypothesis
import jsonschema_rs
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from api import OPENAPI, Registration, Settings
from auth import Passwords, Tokens
from db import Store
from hub import Hub
from records import Role
from routes import create_app

SECRET: Final = bytes(range(32))
CHEAP_METHOD: Final = "pbkdf2:sha256:1"
PASSWORD: Final = "correct horse"  # noqa: S105
BETWEEN_S: Final = 4000.0  # requests are so far apart that the brake on guessing lets each be looked at
CHECKS: Final = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
)


class Clock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = time


@dataclass
class Tally:
    """What was tried, and what came of it."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: {"good": Counter(), "bad": Counter()})
    failures: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.statuses["bad"].total()


class Application:
    """The WSGI application with some trades, and a token for each role."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store(folder / "server.db", self.clock)
        settings, passwords = Settings(SECRET, Registration.APPROVAL, 1e12), Passwords(CHEAP_METHOD)
        hub = Hub(self.store, self.clock)
        self.wsgi = create_app(self.store, hub, settings, self.clock, passwords=passwords)
        users = {role: self.store.add_user(f"the_{role}", "no hash", role) for role in Role}
        self.store.add_user("another_admin", "no hash", Role.ADMIN)
        tokens = Tokens(SECRET, self.store, 1e12)
        self.headers = {role: {"Authorization": f"Bearer {tokens.issue(user)}"} for role, user in users.items()}


def described(application: Application) -> Any:
    """openapi.json without its words on tokens, which tests/test_server_matrix.py tries: here each request has one."""
    description = json.loads(OPENAPI.read_bytes())
    del description["security"], description["components"]["securitySchemes"]
    for operations in description["paths"].values():
        for operation in operations.values():
            if isinstance(operation, dict):
                operation.pop("security", None)
    schema = schemathesis.openapi.from_dict(description)
    schema.app = application.wsgi
    return schema


def try_operation(application: Application, operation: Any, bad: bool, cases: int, seed: int, tally: Tally) -> None:
    """Send `cases` requests of one kind to one operation, as a role that may make it."""
    roles = operation.definition.raw.get("x-roles") or list(Role)
    kind = "bad" if bad else "good"
    strategy = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE if bad else GenerationMode.POSITIVE)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def send(case: Any) -> None:
        application.clock.now += BETWEEN_S
        role = Role(roles[tally.statuses[kind].total() % len(roles)])
        response = case.call(headers=application.headers[role])
        tally.statuses[kind][response.status_code] += 1
        if bad and response.status_code < 400 and not is_good_after_all(operation, case, response.request.url):
            tally.failures.append(
                f"{operation.label} as {role}: taken, {response.status_code}: {case.as_curl_command()}"
            )
        try:
            case.validate_response(response, checks=list(CHECKS))
        except FailureGroup as failures:
            tally.failures += [f"{operation.label} as {role}: {failure}" for failure in failures.exceptions]

    send()


def is_good_after_all(operation: Any, case: Any, url: str) -> bool:
    """Whether nothing bad is left of a case in what was sent, as of an empty list for a parameter."""
    given = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    described = {parameter.name: parameter.definition["schema"] for parameter in operation.query}
    if not set(given) <= set(described):
        return False
    for name, text in given.items():
        wanted = is_valid_for(operation, described[name])
        if not (wanted(text) or (text.isascii() and text.isdigit() and wanted(int(text)))):
            return False
    body = operation.definition.raw.get("requestBody")
    if body is None:
        return True
    return is_valid_for(operation, body["content"]["application/json"]["schema"])(case.body)


def is_valid_for(operation: Any, schema: Any) -> Callable[[Any], bool]:
    components = operation.schema.raw_schema["components"]
    return jsonschema_rs.validator_for({"allOf": [schema], "components": components}).is_valid


def run(cases: int, seed: int, path: str = "") -> Tally:
    """About `cases` bad requests, and half as many good ones, over all operations, or those of one path."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, silence():
        application = Application(Path(folder))
        with closing(application.store):
            operations = [result.ok() for result in described(application).get_all_operations()]
            operations = [operation for operation in operations if path in ("", operation.path)]
            takers = [operation for operation in operations if takes_something(operation)]
            for operation in operations:
                try_operation(application, operation, False, cases // 2 // len(operations) + 1, seed, tally)
            for operation in takers:
                try_operation(application, operation, True, cases // len(takers) + 1, seed, tally)
    return tally


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without the log lines of refusals."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def takes_something(operation: Any) -> bool:
    raw = operation.definition.raw
    return "requestBody" in raw or "parameters" in raw


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py campaign calls", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="bad requests, about (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    tally = run(options.cases, options.seed)
    for kind, statuses in tally.statuses.items():
        print(f"{kind:5} requests: {statuses.total():6}   ", dict(sorted(statuses.items())))
    for failure in tally.failures[:20]:
        print(f"\n{failure}")
    print(f"{len(tally.failures)} violations (seed {options.seed})")
    return 1 if tally.failures else 0
