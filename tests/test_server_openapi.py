"""openapi.json is served and true; generated requests and bent bytes break nothing; bandit's findings are explained."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from server_kit import Serving, serving

import api
import asked
import bodies
import signals
from campaign import calls, fuzz
from records import Role
from routes import ROUTES

ROOT: Final = Path(__file__).resolve().parent.parent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def description() -> Any:
    return json.loads((ROOT / "openapi.json").read_bytes())


def schema(description: Any, name: str) -> Any:
    return description["components"]["schemas"][name]


def resolved(description: Any, found: Any) -> Any:
    while "$ref" in found:
        found = schema(description, found["$ref"].rpartition("/")[2])
    return found


def test_the_description_is_served(server: Serving, description: Any) -> None:
    answer = server.call("GET", "/openapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json() == description


def test_it_has_every_route_with_its_roles_and_no_other(description: Any) -> None:
    described = {
        (method.upper(), path.replace("{", "<").replace("}", ">")): None
        if "security" in operation
        else sorted(operation["x-roles"])
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
    }
    assert described == {
        (route.method, route.path): None if route.roles is None else sorted(route.roles) for route in ROUTES
    }
    for route in ROUTES:
        operation = description["paths"][route.path.replace("<", "{").replace(">", "}")][route.method.lower()]
        assert ("requestBody" in operation) == (route.body is not None), route
        expected = {"503"} | ({"401", "403"} if route.roles is not None else set())
        expected |= {"400", "413", "422"} if route.body is not None else set()
        assert expected - {"503"} <= set(operation["responses"]), route


POST: Final = ("session", "rev", "detected_at", "as_of")
Fields = Mapping[str, signals.Check]
MODIFICATION: Final[Fields] = {name: signals.TRADE_OPTIONAL.get(name, signals.PRICE) for name in signals.MODIFIABLE}
TABLES: Final[dict[str, tuple[Fields, Fields, tuple[str, ...]]]] = {
    "ReportedTrade": ({**signals.TRADE_REQUIRED, "ticket": signals.TICKET}, signals.TRADE_OPTIONAL, ()),
    "NewTrade": (signals.TRADE_REQUIRED, signals.TRADE_OPTIONAL, POST),
    "Modification": ({"ticket": signals.TICKET}, {"kind": signals.one_of(signals.Kind), **MODIFICATION}, POST),
    "Account": (bodies.ACCOUNT, {}, ()),
    "TradeCopy": ({}, bodies.TRADE_COPY, ()),
    "Execution": (bodies.EXECUTION_REQUIRED, bodies.EXECUTION_OPTIONAL, ()),
}


@pytest.mark.parametrize("name", TABLES)
def test_its_bodies_have_the_fields_of_the_tables(description: Any, name: str) -> None:
    required, optional, more = TABLES[name]
    found = schema(description, name)
    assert found["additionalProperties"] is False
    assert set(found["properties"]) == {*required, *optional, *more}
    assert set(found.get("required", ())) == set(required)


def edges(described: Any) -> Iterator[tuple[Any, bool]]:
    """Values at the limits of a described number, text or choice, and whether they are within."""
    low, high = described.get("minimum", described.get("exclusiveMinimum")), described.get("maximum")
    if "enum" in described:
        yield from ((value, True) for value in described["enum"])
        yield "something else", False
    elif high is not None:
        step = 1 if "integer" in described["type"] else Decimal("1e-10")
        yield low, "minimum" in described
        yield low + step, True
        yield high, True
        yield low - step, False
        yield high + step, False
        yield "1", False
        yield True, False
        yield (Decimal("1.5"), False) if step == 1 else (low + step / 10, False)
    elif "maxLength" in described and "minLength" not in described:
        yield "x" * described["maxLength"], True
        yield "x" * (described["maxLength"] + 1), False
        yield 1, False
    if "null" in described.get("type", ()):
        yield None, True


@pytest.mark.parametrize("name", TABLES)
def test_its_limits_are_those_of_the_tables(description: Any, name: str) -> None:
    required, optional, _ = TABLES[name]
    tried = 0
    measured = {"balance", "equity", "profit"} | ({"volume", "price"} if name == "Execution" else set())
    for field, check in {**optional, **required}.items():
        for value, within in edges(resolved(description, schema(description, name)["properties"][field])):
            if field in measured and isinstance(value, Decimal) and value != round(value, 10):
                continue  # digits beyond the tenth are dropped there
            try:
                check(value)
                taken = True
            except ValueError:
                taken = False
            assert taken == within, (field, value)
            tried += 1
    assert tried > 8


def test_generated_requests_are_answered_as_described_and_nothing_bad_is_taken() -> None:
    tally = calls.run(cases=250, seed=1)
    assert not tally.failures, "\n\n".join(tally.failures)
    assert tally.bad >= 250
    assert not {status for statuses in tally.statuses.values() for status in statuses if status >= 500}
    assert tally.statuses["good"][200] > 20
    assert not {200, 201} & set(tally.statuses["bad"])


def test_a_route_that_takes_what_the_description_forbids_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asked.read_fields

    def lenient(body: Any, required: Any, optional: Any = None) -> Any:
        return real(body, required, optional, others_allowed=True)

    for module in (api, asked):
        monkeypatch.setattr(module, "read_fields", lenient)
    assert calls.run(cases=50, seed=1, path="/executions").failures


def test_every_role_that_may_is_tried(description: Any) -> None:
    roles = {
        role
        for path in description["paths"].values()
        for op in path.values()
        if "x-roles" in op
        for role in op["x-roles"]
    }
    assert roles == set(Role)


def test_bent_bytes_are_understood_or_refused() -> None:
    for name, outcomes in fuzz.run(7, times=400).items():
        assert outcomes.total() == 400, name
        assert len(outcomes) > 1, name


# --- scanners --------------------------------------------------------------------------------------------------------

# What bandit finds in the program, and why it may stay. The small findings are judged line by line with ruff's rules S.
SMALL: Final = {
    "B101": "asserts about what the line before has just made",
    "B105": "names of variables, the word bearer, a token that is not there yet, passwords of trials",
    "B107": "no token yet",
    "B311": "random pauses, quotes of the simulator, lives of tokens: no secrets",
    "B404": "our own programs and the system's are started",
    "B603": "without a shell, from lists of arguments of our own",
    "B607": "the system's programs are where the system has them",
}
EXPLAINED: Final = {
    ("B608", "db.py"): "column names and conditions of our own; values are parameters",
    ("B608", "database.py"): "names of tables and random text of our own",
    ("B608", "users.py"): "conditions of our own; values are parameters",
    ("B608", "ledger.py"): "column names of our own; values are parameters",
    ("B608", "growth.py"): "a number of our own",
    ("B108", "faults.py"): "temporary folders with names of their own, in memory",
}


def test_bandit_finds_nothing_that_is_not_explained() -> None:
    folders = [ROOT, ROOT / "bench", ROOT / "campaign", ROOT / "packaging"]
    files = [str(path) for folder in folders for path in folder.glob("*.py")]
    command = [sys.executable, "-m", "bandit", "-q", "-f", "json", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert not report["errors"]
    found = {
        (result["test_id"], Path(result["filename"]).name)
        for result in report["results"]
        if result["issue_severity"] != "LOW" or result["test_id"] not in SMALL
    }
    assert found == set(EXPLAINED)
