"""run.py: sets itself up once, starts at once afterwards, and says in plain words what is missing.

The packages installed here are tiny ones made by the tests, in a folder: no network is used.
"""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import run

SOURCE = Path(run.__file__).resolve().parent

DEMO = """
import importlib.metadata, os, sys, time
if "sleep" in sys.argv:
    try:
        print("started", os.getpid(), flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("cleaned up", flush=True)
        sys.exit(130)
print(os.getcwd(), importlib.metadata.version("tiny"), *sys.argv[1:])
sys.exit(7 if "seven" in sys.argv else 0)
"""


def write_wheel(folder: Path, version: str) -> None:
    """A package called tiny, as small as the format allows."""
    info = f"tiny-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def copy_program(folder: Path) -> Path:
    """A folder with run.py, a small demo.py and requirements that exist only in its folder `packages`."""
    folder.mkdir(parents=True)
    shutil.copy(SOURCE / "run.py", folder)
    (folder / "demo.py").write_text(DEMO)
    (folder / "requirements.txt").write_text("tiny==1.0\n")
    (folder / "requirements-dev.txt").write_text("-r requirements.txt\n")
    write_wheel(folder / "packages", "1.0")
    write_wheel(folder / "packages", "2.0")
    return folder


def environment(packages: Path | None) -> dict[str, str]:
    """Environment variables with which pip takes packages from this folder only, or (None) finds none at all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "COV_"))}
    links = {"PIP_FIND_LINKS": packages.as_uri()} if packages else {}
    return {**kept, **links, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


def start(folder: Path, *arguments: str, packages: Path | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(folder / "run.py"), *arguments],
        cwd=folder.parent,
        env=environment(packages),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, *arguments: str, packages: Path | None = None) -> tuple[int, str]:
    child = start(folder, *arguments, packages=packages)
    output, _ = child.communicate(timeout=100)
    return child.returncode, output


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program folder after its first run; copied, not used."""
    folder = copy_program(tmp_path_factory.mktemp("installed") / "program")
    code, output = finish(folder, "demo", packages=folder / "packages")
    assert code == 0, output
    return folder


@pytest.fixture
def program(installed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(installed, tmp_path / "a program", symlinks=True)


def test_the_first_run_installs_and_a_second_one_needs_no_network(program: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (program / ".venv").rglob("installed-*")}

    code, output = finish(program, "demo", "--limit", "3")

    assert (code, output.split()) == (0, [*str(program.parent).split(), "1.0", "--limit", "3"])
    assert {path: path.stat().st_mtime_ns for path in (program / ".venv").rglob("installed-*")} == before


def test_the_exit_code_of_the_task_is_passed_on(program: Path) -> None:
    assert finish(program, "demo", "seven")[0] == 7


def test_changed_requirements_are_installed(program: Path) -> None:
    (program / "requirements.txt").write_text("tiny==2.0\n")

    code, output = finish(program, "demo", packages=program / "packages")

    assert code == 0
    assert output.splitlines()[-1].endswith(" 2.0")


def test_going_back_to_older_requirements_does_not_trust_an_older_stamp(program: Path) -> None:
    stamps = program / ".venv" / "installed-requirements-dev.txt"
    stamps.write_bytes(run.wanted_stamp(program, run.DEVELOPMENT))  # as after the task test
    (program / "requirements.txt").write_text("tiny==2.0\n")
    finish(program, "demo", packages=program / "packages")
    (program / "requirements.txt").write_text("tiny==1.0\n")

    assert not run.is_ready(program / ".venv", program, run.DEVELOPMENT)


def test_line_ends_of_the_checkout_do_not_change_the_stamp(program: Path) -> None:
    (program / "requirements.txt").write_bytes(b"tiny==1.0\r\n")

    assert finish(program, "demo")[0] == 0


def test_an_environment_left_half_made_is_made_again(program: Path) -> None:
    venv = program / ".venv"
    (venv / "unfinished").touch()
    (venv / "canary").touch()

    code, output = finish(program, "demo", packages=program / "packages")

    assert code == 0, output
    assert not (venv / "canary").exists()
    assert not (venv / "unfinished").exists()


def test_an_environment_of_another_python_is_made_again(program: Path) -> None:
    venv = program / ".venv"
    (venv / "canary").touch()
    settings = (venv / "pyvenv.cfg").read_text()
    (venv / "pyvenv.cfg").write_text(re.sub(r"(?m)^version = .*", "version = 3.9.1", settings))
    (venv / "installed-requirements.txt").write_text("as written by Python 3.9")

    code, output = finish(program, "demo", packages=program / "packages")

    assert code == 0, output
    assert not (venv / "canary").exists()


def test_an_environment_without_the_python_below_it_is_not_ready(program: Path) -> None:
    settings = program / ".venv" / "pyvenv.cfg"
    settings.write_text(re.sub(r"(?m)^home = .*", "home = /no/such/folder", settings.read_text()))

    assert not run.is_ready(program / ".venv", program, run.RUNTIME)


def test_a_folder_that_is_no_environment_is_not_deleted(tmp_path: Path) -> None:
    program = copy_program(tmp_path / "program")
    treasure = program / ".venv" / "treasure.txt"
    treasure.parent.mkdir()
    treasure.write_text("gold")

    code, output = finish(program, "demo", packages=program / "packages")

    assert code == run.FAILED
    assert "Move it away" in output
    assert treasure.read_text() == "gold"


def test_without_network_the_first_run_says_so_and_a_later_one_repairs(program: Path) -> None:
    (program / "requirements.txt").write_text("tiny==2.0\n")

    code, output = finish(program, "demo")

    assert code == run.FAILED
    assert "no network" in output
    assert "Traceback" not in output
    assert finish(program, "demo", packages=program / "packages")[0] == 0


def test_what_is_installed_still_runs_after_more_could_not_be_fetched(program: Path) -> None:
    (program / "requirements-dev.txt").write_text("-r requirements.txt\nabsent==1.0\n")

    assert finish(program, "test")[0] == run.FAILED
    assert finish(program, "demo")[0] == 0


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (
            "NewConnectionError('<x>: Failed to establish a new connection: [Errno 11001] getaddrinfo failed')",
            "online?",
        ),
        ("ERROR: No matching distribution found for pytest==9.2.0", "no network"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("something else", "could not be installed"),
    ],
)
def test_the_words_of_pip_are_explained(said: str, explained: str) -> None:
    words = run.explain_pip(said)

    assert explained in words
    assert said in words


def test_two_first_runs_at_once_wait_for_each_other(tmp_path: Path) -> None:
    program = copy_program(tmp_path / "program")

    children = [start(program, "demo", packages=program / "packages") for _ in range(2)]
    outputs = [child.communicate(timeout=100)[0] for child in children]

    assert [child.returncode for child in children] == [0, 0], outputs
    assert sum("Installing" in output for output in outputs) == 1


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    program = copy_program(tmp_path / "program")
    (program / ".venv.lock").mkdir()  # stands for a folder without rights: root could write there

    code, output = finish(program, "demo", packages=program / "packages")

    assert code == run.FAILED
    assert str(program) in output
    assert "write to" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_which_package_brings_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else object())

    with pytest.raises(run.Problem, match="apt install python3-venv"):
        run.check_this_python()


@pytest.mark.parametrize("old", [(3, 6, 15), (3, 8, 18), (3, 10, 13)])
def test_an_old_python_is_told_which_one_is_needed(old: tuple[int, int, int]) -> None:
    pretend = f"import runpy, sys; sys.version_info = {(*old, 'final', 0)}; runpy.run_path({str(SOURCE / 'run.py')!r})"

    child = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, check=False)

    assert child.returncode == 1
    assert f"Python 3.11 or newer is needed; this is {old[0]}.{old[1]}" in child.stderr
    assert "python.org" in child.stderr


def test_an_old_python_can_read_the_file() -> None:
    ast.parse((SOURCE / "run.py").read_text(encoding="utf-8"), feature_version=(3, 6))


posix_only = pytest.mark.skipif(os.name == "nt", reason="sends a signal to a group of processes")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@posix_only
def test_ctrl_c_lets_the_task_clean_up_and_ends_quietly(program: Path, wait_until: Callable[..., None]) -> None:
    child = start(program, "demo", "sleep")
    assert child.stdout is not None
    task = int(child.stdout.readline().split()[1])

    os.killpg(child.pid, signal.SIGINT)  # what a console does on Ctrl-C: every process of it is told
    output, _ = child.communicate(timeout=100)

    assert child.returncode == run.INTERRUPTED
    assert output == "cleaned up\n"
    wait_until(lambda: not is_running(task), "the end of the task")


@posix_only
def test_ending_only_run_py_ends_the_task_too(program: Path, wait_until: Callable[..., None]) -> None:
    child = start(program, "demo", "sleep")
    assert child.stdout is not None
    task = int(child.stdout.readline().split()[1])

    child.terminate()
    output, _ = child.communicate(timeout=100)

    assert child.returncode == run.INTERRUPTED
    assert output == "cleaned up\n"
    wait_until(lambda: not is_running(task), "the end of the task")


@posix_only
def test_a_task_that_will_not_end_is_forced_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CLEAN_UP_SECONDS", 0.05)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()

        run.end(child, told=True)

        assert child.returncode == -signal.SIGKILL


def test_a_task_ended_by_a_signal_has_the_code_of_a_shell() -> None:
    assert [run.exit_code(code) for code in (0, 3, -11)] == [0, 3, 139]


def test_all_commands_of_a_task_are_run_and_the_first_failure_counts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = tuple(("-c", f"print({code}); raise SystemExit({code})") for code in (0, 5, 6))
    monkeypatch.setitem(run.TASKS, "several", run.Task("", run.RUNTIME, commands))
    monkeypatch.setattr(run, "prepare", lambda root, needs: Path(sys.executable))
    monkeypatch.setattr("signal.signal", lambda number, action: None)

    assert run.main(["several"]) == 5
    assert capfd.readouterr().out.split() == ["0", "5", "6"]


def test_a_mistyped_task_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["tset"]) == run.WRONG_USE
    assert "Did you mean 'test'?" in capsys.readouterr().err


def test_help_lists_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in run.TASKS)


def test_a_task_without_arguments_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["lint", "--fix"]) == run.WRONG_USE
    assert "no arguments" in capsys.readouterr().err


# ---- The requirement files ----

PINNED = re.compile(r"^([A-Za-z0-9._-]+)==[^\s=*]+( ; .+)?$")


def pinned_names(name: str) -> set[str]:
    lines = (SOURCE / name).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", "-r "))]
    found = [PINNED.match(line) for line in pins]
    assert None not in found, f"not pinned exactly: {pins[found.index(None)]}"
    return {re.sub(r"[-_.]+", "-", match[1]).lower() for match in found if match}


def test_every_requirement_is_pinned_exactly() -> None:
    assert pinned_names("requirements.txt")
    assert pinned_names("requirements-dev.txt")
    assert "-r requirements.txt" in (SOURCE / "requirements-dev.txt").read_text().splitlines()


def test_what_the_project_depends_on_is_pinned() -> None:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[ ;<>=]", dependency)[0].lower() for dependency in project["dependencies"]}

    assert names <= pinned_names("requirements.txt")
