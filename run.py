"""Sets the program up and runs its tasks: python run.py TASK [arguments]

The first run makes a private environment in the folder .venv beside this file and installs into it the exact
packages of requirements.txt (for the tasks of developers also requirements-dev.txt). Later runs see from a
stamp that nothing has changed and start at once, without network.

It needs nothing but Python itself, changes nothing outside its own folder, and never trades.

This file must be readable by Python 3.6, so that an old Python can say what is wrong instead of showing a
syntax error: no match, no walrus, nothing newer above the check of the version or below it.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

if sys.version_info < (3, 11):  # noqa: UP036 - saying so is what this line is for
    sys.exit(
        f"Python 3.11 or newer is needed; this is {sys.version_info[0]}.{sys.version_info[1]}"
        f" ({sys.executable}).\n"
        "Install it from https://www.python.org/downloads/ and start again with that one,\n"
        "on Windows for example: py -3.13 run.py demo"
    )

from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent
RUNTIME = ("requirements.txt",)
DEVELOPMENT = ("requirements.txt", "requirements-dev.txt")
BUILD = ("requirements.txt", "requirements-build.txt")

ARGS = "{arguments}"  # stands in a command where the arguments after the task's name go


class Task(NamedTuple):
    """One thing run.py can do: commands for the Python of .venv, each a list of arguments.

    All commands are run even when one fails, so that one run shows everything that is wrong.
    With in_root the working folder is the program's; without, the caller's, so that file names given as
    arguments mean what they meant when they were typed.
    """

    words: str
    needs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    in_root: bool = True


def program(script: str, words: str) -> Task:
    """A task that starts one of the programs, in the caller's folder."""
    return Task(words, RUNTIME, ((str(ROOT / script), ARGS),), in_root=False)


TASKS = {
    "demo": program("demo.py", "see trades being copied between two simulated accounts (demo --help: its options)"),
    "server": program("server.py", "start the server (server --help: its options and commands)"),
    "sender": program("sender.py", "start the sender, beside the provider's terminal"),
    "copier": program("copier.py", "start the copier, beside a follower's terminal"),
    "terminal": program("sim_terminal.py", "start a simulated terminal (terminal --help)"),
    "test": Task(
        "run the tests (arguments go to pytest, e.g. test -k safety)",
        DEVELOPMENT,
        (("-m", "pytest", ARGS),),
    ),
    "campaign": Task(
        "long trials: campaign faults, kills, trades, calls, fuzz (--help after each)",
        DEVELOPMENT,
        (("-m", "campaign", ARGS),),
    ),
    "mutate": Task(
        "take rules out of the program one at a time; the trials must notice: mutate faults",
        DEVELOPMENT,
        (("-m", "campaign.mutate", ARGS),),
    ),
    "build": Task(
        "build sender.exe, copier.exe and server.exe into dist/ (build --help; on Linux it needs Wine)",
        BUILD,
        (("packaging/build.py", ARGS),),
    ),
    "bench": Task(
        "measure: bench (all, a short version), bench --full, bench fanout, stalled, soak, latency, growth, attack",
        RUNTIME,
        (("-m", "bench", ARGS),),
    ),
    "windows-test": Task(
        "build the executables and try them under Wine (on Linux)",
        BUILD,
        (("packaging/windows_test.py", ARGS),),
    ),
    "lint": Task(
        "check style and types",
        DEVELOPMENT,
        (("-m", "ruff", "check", "."), ("-m", "ruff", "format", "--check", "."), ("-m", "mypy")),
    ),
}

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130  # what shells report for Ctrl-C
CLEAN_UP_SECONDS = 10  # how long an interrupted task may take to end what it has started


class Problem(Exception):
    """Set-up cannot go on; the text says what to do about it."""


def main(arguments: list[str]) -> int:
    """Run one task and give its exit code."""
    name = arguments[0] if arguments else "help"
    if name in ("help", "-h", "--help"):
        print(usage())
        return 0 if arguments else WRONG_USE
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"There is no task {name!r}.{hint}\n\n{usage()}", file=sys.stderr)
        return WRONG_USE
    task = TASKS[name]
    if len(arguments) > 1 and not any(ARGS in command for command in task.commands):
        print(f"The task {name!r} takes no arguments.", file=sys.stderr)
        return WRONG_USE
    try:
        signal.signal(signal.SIGTERM, end_by_sigterm)
        python = prepare(ROOT, task.needs)
        codes = [run(command, ROOT if task.in_root else None) for command in filled(task, python, arguments[1:])]
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return next((code for code in codes if code != 0), 0)


def usage() -> str:
    """The list of tasks."""
    lines = [f"  {name:12} {task.words}" for name, task in TASKS.items()]
    return "\n".join(["python run.py TASK [arguments]", "", *lines, f"  {'help':12} show this list"])


def filled(task: Task, python: Path, arguments: list[str]) -> list[list[str]]:
    """The commands of a task with its arguments in place."""
    commands = []
    for command in task.commands:
        words = [str(python)]
        for word in command:
            words.extend(arguments if word == ARGS else [word])
        commands.append(words)
    return commands


# ---- The environment ----


def prepare(root: Path, needs: tuple[str, ...]) -> Path:
    """Make .venv hold what the requirement files say, if it does not yet; the path of its Python."""
    venv = root / ".venv"
    try:
        if is_ready(venv, root, needs):
            return python_of(venv)
        check_this_python()
        with locked(root / ".venv.lock"):
            if not is_ready(venv, root, needs):  # another run may have made it while this one waited
                make_ready(venv, root, needs)
    except OSError as error:
        raise Problem(
            f"The folder {root} cannot be set up: {error}.\n"
            "The program needs a folder that you may write to, with some 200 MB free "
            "(Documents, for example, not Program Files).\n"
            "If a program of this folder is still running, end it first."
        ) from error
    return python_of(venv)


def check_this_python() -> None:
    """Stop with clear words when this Python cannot make the environment."""
    if sys.platform == "win32":
        if sys.maxsize < 2**32:
            raise Problem("This Python is a 32-bit one. MetaTrader 5 needs the 64-bit Python of python.org.")
        if sys.version_info >= (3, 15):
            raise Problem(
                f"The MetaTrader5 package is not published for Python {version()}. Install Python 3.13 from "
                "https://www.python.org/downloads/ and start again with: py -3.13 run.py demo"
            )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Problem(no_venv_words(f"its module {module} is missing"))


def no_venv_words(why: str) -> str:
    return (
        f"This Python ({sys.executable}) cannot make a virtual environment: {why}.\n"
        f"On Debian and Ubuntu: sudo apt install python3-venv (or python{version()}-venv).\n"
        "Elsewhere: install Python from https://www.python.org/downloads/"
    )


def make_ready(venv: Path, root: Path, needs: tuple[str, ...]) -> None:
    """Create or repair .venv, install the requirements, and stamp it. Needs the network."""
    unfinished = venv / "unfinished"
    if venv.exists() and (unfinished.exists() or not is_usable(venv)):
        remove(venv, unfinished)
    if not venv.exists():
        say(f"Making a Python {version()} environment in {venv} (only the first time) ...")
        venv.mkdir()
        unfinished.touch()
        create(venv)
    # As long as this file is there, the environment was not finished: the next run begins anew.
    unfinished.touch()
    for level in (RUNTIME, DEVELOPMENT, BUILD):
        if not is_stamped(venv, root, level):
            stamp_of(venv, level).unlink(missing_ok=True)
    say(f"Installing the packages of {needs[-1]} (needs the network, only this once) ...")
    succeeded, output = install(venv, root, needs)
    if not succeeded:
        unfinished.unlink()  # pip ended by itself: it puts nothing in place before it has everything
        raise Problem(explain_pip(output))
    for level in (RUNTIME, DEVELOPMENT, BUILD):
        if set(level) <= set(needs):
            stamp_of(venv, level).write_bytes(wanted_stamp(root, level))
    unfinished.unlink()
    say("Ready.")


def create(venv: Path) -> None:
    """Run python -m venv with the Python that runs this, or the one below it when that is a venv's own."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    code, output = captured([base, "-m", "venv", str(venv)])
    if code != 0:
        shutil.rmtree(venv, ignore_errors=True)
        raise Problem(no_venv_words("python -m venv failed") + "\n\nWhat it said:\n" + last_lines(output))


def install(venv: Path, root: Path, needs: tuple[str, ...]) -> tuple[bool, str]:
    """Let pip install the requirement files; whether it did, and all it said."""
    command = [str(python_of(venv)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    for name in needs:
        command += ["-r", str(root / name)]
    code, output = captured(command)
    return code == 0, output


NETWORK_WORDS = (
    "NewConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "SSLError",
    "getaddrinfo failed",
    "name resolution",
    "Name or service not known",
    "Network is unreachable",
    "Connection refused",
    "timed out",
)


def explain_pip(output: str) -> str:
    """Plain words for a failure of pip, with the end of what it said."""
    if any(words in output for words in NETWORK_WORDS):
        why = (
            "The packages could not be fetched: no connection to the package server.\n"
            "Is this computer online? (Behind a company proxy, set HTTPS_PROXY.) Start again then;\n"
            "once they are installed, no network is needed."
        )
    elif "No space left" in output or "not enough space" in output:
        why = "The packages could not be installed: the disk is full."
    elif "No matching distribution" in output:
        why = (
            "A package was not found. Either this computer has no network (the first run needs it once), "
            f"or the package is not published for this system and Python {version()}; 3.13 is a safe choice."
        )
    else:
        why = "The packages could not be installed."
    return f"{why}\n\nWhat pip said:\n{last_lines(output)}"


def is_ready(venv: Path, root: Path, needs: tuple[str, ...]) -> bool:
    """Whether the stamp says that .venv holds exactly these requirements. Reads a few small files."""
    return (
        is_stamped(venv, root, needs)
        and not (venv / "unfinished").exists()
        and python_of(venv).exists()
        and Path(settings_of(venv).get("home", "")).is_dir()  # on Windows a venv outlives the Python below it
    )


def is_stamped(venv: Path, root: Path, needs: tuple[str, ...]) -> bool:
    stamp = stamp_of(venv, needs)
    return stamp.is_file() and stamp.read_bytes() == wanted_stamp(root, needs)


def is_usable(venv: Path) -> bool:
    """Whether .venv is an environment of this Python version with a pip that starts."""
    if not python_of(venv).exists() or not settings_of(venv).get("version", "").startswith(f"{version()}."):
        return False
    code, _ = captured([str(python_of(venv)), "-c", "import pip"])
    return code == 0


def remove(venv: Path, unfinished: Path) -> None:
    """Delete a .venv that cannot be used, after making sure that it is one."""
    ours = unfinished.exists() or (venv / "pyvenv.cfg").exists() or not any(venv.iterdir())
    if not ours:
        raise Problem(f"{venv} is in the way and is not a Python environment. Move it away and start again.")
    say(f"Removing {venv}: it was left unfinished or belongs to another Python ...")
    if not unfinished.exists():
        unfinished.touch()  # a removal that is interrupted half-way must not look like an environment
    shutil.rmtree(venv)


def stamp_of(venv: Path, needs: tuple[str, ...]) -> Path:
    return venv / f"installed-{needs[-1]}"


def wanted_stamp(root: Path, needs: tuple[str, ...]) -> bytes:
    """What the stamp reads when .venv is right: a hash of the requirement files, and the Python version."""
    digest = hashlib.sha256()
    for name in needs:
        lines = (root / name).read_text(encoding="utf-8").splitlines()  # the same for LF and CRLF checkouts
        digest.update("\n".join([name, *lines, ""]).encode())
    return f"{digest.hexdigest()} {sys.platform} {version()}\n".encode()


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def settings_of(venv: Path) -> dict[str, str]:
    """The lines `name = value` of pyvenv.cfg; none when there is no such file."""
    try:
        text = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on this file; the system takes it back when the process ends, however it ends."""
    with open(path, "a+b") as file:
        told = False
        while not try_lock(file.fileno()):
            if not told:
                say("Another run.py is setting up .venv; waiting for it ...")
                told = True
            time.sleep(0.2)
        yield


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


# ---- Running a command ----


class Terminated(KeyboardInterrupt):
    """Somebody ended this process alone (SIGTERM): unlike with Ctrl-C, the task has not been told yet."""


def end_by_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def run(command: list[str], folder: Path | None) -> int:
    """Run a command on this console and give its exit code; it never outlives this process's Ctrl-C."""
    child = None
    try:
        child = subprocess.Popen(command, cwd=folder)
        return exit_code(wait_for(child))
    except KeyboardInterrupt as interruption:
        if child is not None:
            end(child, told=not isinstance(interruption, Terminated))
        raise
    except OSError as error:
        raise Problem(
            f"{command[0]} could not be started: {error}. Delete the folder .venv and start again."
        ) from error


def exit_code(code: int) -> int:
    """The child's code as a shell would give it: 128 + the signal's number when a signal ended it."""
    return code if code >= 0 else 128 - code


def captured(command: list[str]) -> tuple[int, str]:
    """Run a command, show nothing; its exit code and all it printed."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = child.communicate()
    except KeyboardInterrupt as interruption:
        end(child, told=not isinstance(interruption, Terminated))
        raise
    return exit_code(child.returncode), output.decode(errors="replace")


def end(child: "subprocess.Popen[bytes]", told: bool) -> None:
    """Wait until an interrupted child has cleaned up; ask it to end, and at last force it.

    A Ctrl-C on the console reaches the child too (told): asking at once again would disturb its cleaning up.
    """
    if not told:
        ask_to_end(child)
    if not ended_within(child, CLEAN_UP_SECONDS):
        ask_to_end(child)
        if not ended_within(child, CLEAN_UP_SECONDS):
            child.kill()
            child.wait()


def ask_to_end(child: "subprocess.Popen[bytes]") -> None:
    if os.name == "nt":
        child.terminate()  # Windows has no way to interrupt one process of a console
    else:
        child.send_signal(signal.SIGINT)


def ended_within(child: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Whether the child ended in time; an impatient second Ctrl-C shortens the wait."""
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        child.wait(timeout=seconds)
    return child.poll() is not None


def wait_for(child: "subprocess.Popen[bytes]") -> int:
    """The child's exit code, waited for so that Ctrl-C is noticed (an endless wait on Windows would not)."""
    while os.name == "nt":
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=0.5)
    return child.wait()


def say(words: str) -> None:
    print(words, flush=True)


def last_lines(output: str, count: int = 8) -> str:
    """The end of a tool's output, without pip's lines about what is there already."""
    lines = [line for line in output.strip().splitlines() if not line.startswith("Requirement already")]
    return "\n".join("  " + line for line in lines[-count:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
