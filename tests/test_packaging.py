"""The executables as far as can be told without Wine: what goes into them, what is said where they cannot be made.

That they work is tried by `python run.py windows-test`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import build
import windows_test

ROOT = Path(build.__file__).resolve().parent.parent
SPEC = (ROOT / "packaging" / "executables.spec").read_text(encoding="utf-8")


def without_wine(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "packaging" / script)],
        env={**os.environ, "WINPY_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there they are built")
def test_without_wine_the_build_says_what_to_do(tmp_path: Path) -> None:
    done = without_wine("build.py", tmp_path)
    assert done.returncode == 1
    assert "Not built: executables for Windows are built on Windows, or under Wine" in done.stderr
    assert "bash packaging/wine_python.sh" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no Wine")
def test_without_wine_the_trial_is_skipped_in_so_many_words(tmp_path: Path) -> None:
    done = without_wine("windows_test.py", tmp_path)
    assert done.returncode == windows_test.SKIPPED == 77
    assert done.stdout.startswith("skipped: ")
    assert len(done.stdout.splitlines()) == 1
    assert "bash packaging/wine_python.sh" in done.stdout


def test_every_file_that_the_modules_read_beside_themselves_is_packed() -> None:
    beside = re.compile(r"""__file__\)(?:\.resolve\(\))?(?:\.parent / |\.with_name\()"([\w.]+)\"""")
    read = {name for module in build.own_modules() for name in beside.findall((ROOT / f"{module}.py").read_text())}
    data = {name for name in read if not name.endswith(".py")}
    assert {"schema.sql", "schema_ledger.sql", "common_passwords.txt", "openapi.json"} <= data
    for name in data:
        assert f'"{name}"' in SPEC, f"{name} is not in the executables"
        assert name in build.DATA, f"{name} is not beside the compiled modules"


def test_compiled_modules_bring_all_their_imports_along() -> None:
    modules = build.own_modules()
    assert {"sender", "copier", "run_copier", "server", "mt5_sim", "watchdog", "safety"} <= {*modules}
    assert {"demo", "run", "sim_terminal"}.isdisjoint(modules)
    imports = build.imports_of(modules)
    assert {"flask", "requests", "websocket", "jwt", "sqlite3", "faulthandler", "decimal"} <= {*imports}


def test_what_is_pinned_twice_is_pinned_alike() -> None:
    pins: dict[str, str] = {}
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-build.txt"):
        for package, version in re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), re.MULTILINE):
            assert pins.setdefault(package.lower(), version) == version, f"{package} in {name}"


def test_a_release_is_built_with_a_python_that_the_project_takes() -> None:
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    found = re.search(r'python-version: "([\d.]+)"', workflow)
    assert found is not None
    assert f"Python :: {found[1]}" in (ROOT / "pyproject.toml").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"


def test_the_table_of_the_trial_takes_the_place_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = tmp_path / "windows.md"
    paper.write_text(f"before\n{windows_test.BEGIN}\n\nold\n\n{windows_test.END}\nafter\n")
    monkeypatch.setattr(windows_test, "PAPER", paper)
    for seen in ("a | b", "c"):
        windows_test.write_paper([windows_test.Row("size", True, seen)])
    text = paper.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.count("| size | good |") == 1
    assert "| size | good | c |" in text
    assert windows_test.BEGIN in (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")
