"""Builds sender.exe, copier.exe and server.exe: python run.py build [--obfuscate | --pyarmor]

On Windows, or on Linux with the Windows Python of packaging/wine_python.sh. What is to be given to others is in dist/
at the end: the three executables, the same three in one folder (zip), the example settings, README.txt, SHA-256 sums.

Exit codes: 0 built, 1 not built (the reason is the last thing shown), 2 wrong options.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from version import VERSION  # noqa: E402
from wine import NoWine, Wine, windows_path  # noqa: E402

PROGRAMS: Final = ("sender", "copier", "server")
REQUIREMENTS: Final = ("requirements.txt", "requirements-build.txt")
BUILD, DIST = ROOT / "build", ROOT / "dist"
DATA: Final = (
    "schema.sql",
    "schema_ledger.sql",
    "common_passwords.txt",
    "openapi.json",
    "config_sender.json",
    "config_client.json",
)
# What takes the place of the last lines of the three scripts where these are compiled and cannot be run themselves.
STARTS: Final = {
    "sender": "from program import main\nfrom sender import SENDER\nsys.exit(main(SENDER))\n",
    "copier": "from program import main\nfrom run_copier import COPIER\nsys.exit(main(COPIER))\n",
    "server": "from server import main\nfrom windows import keeping_window_open\nsys.exit(keeping_window_open(main))\n",
}
NOT_COMPILED: Final = frozenset(("watchdog",))  # it names functions by their code objects, which compiled ones lack


class NotBuilt(Exception):
    """str() says why."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="run.py build", description="Builds sender.exe, copier.exe and server.exe.")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--obfuscate", action="store_true", help="compile the modules with Cython first (needs a C compiler)"
    )
    how.add_argument(
        "--pyarmor", action="store_true", help="obfuscate the modules with PyArmor first (needs a licence)"
    )
    options = parser.parse_args(arguments)
    try:
        if sys.platform != "win32":
            return under_wine(sys.argv[1:] if arguments is None else arguments)
        build(obfuscate=options.obfuscate, pyarmor=options.pyarmor)
    except (NotBuilt, NoWine) as error:
        print(f"Not built: {error}", file=sys.stderr)
        return 1
    return 0


def under_wine(arguments: list[str]) -> int:
    """The same, by the Windows Python."""
    try:
        wine = Wine()
    except NoWine as error:
        raise NoWine(
            f"executables for Windows are built on Windows, or under Wine, and {error}.\n"
            "The programs themselves need no building here: python run.py sender, copier, server."
        ) from error
    wine.start()
    try:
        wine.install([ROOT / name for name in REQUIREMENTS])
        if code := wine.run_python([windows_path(Path(__file__)), *arguments], ROOT):
            raise NotBuilt(f"the Windows Python ended with exit code {code}")
        return 0
    finally:
        wine.stop()


def build(*, obfuscate: bool, pyarmor: bool) -> None:
    """Raises `NotBuilt`."""
    for folder in (BUILD, DIST):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise NotBuilt(f"{folder} cannot be emptied: is one of its programs running, or a window open there?")
        folder.mkdir()
    sources, imports = ROOT, []
    if obfuscate or pyarmor:
        sources, imports = BUILD / "sources", imports_of(own_modules())
        sources.mkdir()
        for name in DATA:
            shutil.copy(ROOT / name, sources)
        obfuscated = compiled if obfuscate else armoured
        imports += obfuscated(own_modules(), sources)
    made = BUILD / "made"
    places = ["--distpath", str(made), "--workpath", str(BUILD / "work"), str(ROOT / "packaging" / "executables.spec")]
    run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN", *places],
        "PyInstaller",
        {"AIBOT_SOURCES": str(sources), "AIBOT_IMPORTS": ",".join(imports)},
    )
    for name in PROGRAMS:
        shutil.move(made / f"{name}.exe", DIST)
    for name in ("config_sender.json", "config_client.json", "packaging/README.txt", "LICENSE"):
        write_for_notepad(ROOT / name)
    pack(made / "aibot-trade-copier", DIST / f"aibot-trade-copier-{VERSION}-folder.zip")
    shutil.move(DIST / "LICENSE", DIST / "LICENSE.txt")
    for name in PROGRAMS:
        starts(DIST / f"{name}.exe")
    write_sums()
    for file in sorted(DIST.iterdir()):
        print(f"  {file.stat().st_size / 1e6:6.1f} MB  {file.name}")
    print(f"Built: {DIST}")


def run(command: list[str], what: str, more: dict[str, str] | None = None) -> None:
    """Raises `NotBuilt` when it fails."""
    print(f"{what} ...", flush=True)
    code = subprocess.run(command, cwd=BUILD, env={**os.environ, **(more or {})}, check=False).returncode
    if code:
        raise NotBuilt(f"{what} ended with {code}, see above")


# --- what dist/ holds ------------------------------------------------------------------------------------------------


def write_for_notepad(source: Path) -> None:
    """With the line ends of Windows; README.txt also with the mark by which old editors know its encoding."""
    lines = source.read_text(encoding="utf-8").splitlines()
    encoding = "utf-8-sig" if source.name == "README.txt" else "utf-8"
    (DIST / source.name).write_bytes("".join(f"{line}\r\n" for line in lines).encode(encoding))


def pack(folder: Path, target: Path) -> None:
    """The programs in one folder, with the same papers beside them."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            file.write(path, Path(folder.name) / path.relative_to(folder))
        for path in sorted(DIST.iterdir()):
            if path.suffix in (".json", ".txt"):
                file.write(path, Path(folder.name) / path.name)


def starts(executable: Path) -> None:
    """Raises `NotBuilt` when it does not even say its version."""
    with subprocess.Popen([str(executable), "--version"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101
        told = process.stdout.readline().strip()  # not to the end: Wine's desktop, started by this, keeps the pipe open
        code = process.wait()
    if code or told != VERSION:
        raise NotBuilt(f"{executable.name} --version ended with {code} and said {told!r}")


def write_sums() -> None:
    """As sha256sum writes and checks them; on Windows: certutil -hashfile FILE SHA256."""
    files = sorted(path for path in DIST.iterdir() if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} *{path.name}\n" for path in files]
    (DIST / "SHA256SUMS.txt").write_bytes("".join(lines).encode())


# --- obfuscation -----------------------------------------------------------------------------------------------------


def own_modules() -> list[str]:
    """Every module of ours that the three programs can import."""
    found: set[str] = set()
    new = {*PROGRAMS, "mt5_sim"}
    while new:
        found |= new
        new = {name for module in new for name in imported(module) if (ROOT / f"{name}.py").exists()} - found
    return sorted(found)


def imported(module: str) -> set[str]:
    """What a module of ours imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def imports_of(modules: Iterable[str]) -> list[str]:
    """All that PyInstaller would have seen in their sources, and they themselves."""
    modules = [*modules]
    names = {name for module in modules for name in imported(module)} - {"__future__"}
    return sorted(name for name in names | {*modules} if name in modules or is_installed(name))


def is_installed(name: str) -> bool:
    """Some are for other systems, or for type checkers only."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its package is not there
        return False


def compiled(modules: Iterable[str], target: Path) -> list[str]:
    """Compile them to .pyd files in `target` and put start scripts beside these; what has to be imported besides."""
    wanted = [name for name in modules if name not in NOT_COMPILED]
    for name in modules:
        shutil.copy(ROOT / f"{name}.py", target)
    files = [str(target / f"{name}.py") for name in wanted]
    # Annotations are for readers and mypy: Cython takes them for more, and refuses a StrEnum where `str` stands.
    options = ["-3", "-X", "annotation_typing=False", "--inplace", "-j", str(os.cpu_count() or 1)]
    run([sys.executable, "-m", "Cython.Build.Cythonize", *options, *files], "Cython")
    for name in wanted:
        (target / f"{name}.py").unlink()
    for name, lines in STARTS.items():
        (target / f"{name}.py").write_text(f"import sys\n{lines}", encoding="utf-8")
    return []


def armoured(modules: Iterable[str], target: Path) -> list[str]:
    """Obfuscate them with PyArmor into `target`; what has to be imported besides."""
    if not is_installed("pyarmor"):
        raise NotBuilt("PyArmor is not installed: pip install pyarmor==9.2.8 into .venv, and register your licence")
    files = [str(ROOT / f"{name}.py") for name in modules]
    run([sys.executable, "-m", "pyarmor.cli", "gen", "--output", str(target), *files], "PyArmor")
    return [path.name for path in target.glob("pyarmor_runtime_*")]


if __name__ == "__main__":
    sys.exit(main())
