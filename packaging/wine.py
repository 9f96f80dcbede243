"""A Windows Python under Wine on Linux, in which the executables are built and tried.

It is made by packaging/wine_python.sh in the folder WINPY_HOME (/opt/winpy-wine when that variable is not set).
Wine shares the loopback with Linux: a program in Wine reaches a server and a simulated terminal outside of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

LOADERS: Final = ("/usr/lib/wine/wine64", "wine64", "wine")
SERVERS: Final = ("/usr/lib/wine/wineserver", "wineserver")
NUMPY: Final = "numpy==2.2.1"  # newer ones call a function of the C library that Wine 8 does not have
# Names of files and folders on Linux, of which a Windows program could make nothing.
OF_LINUX: Final = (
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "PIP_FIND_LINKS",
)
OVERRIDES: Final = "mscoree,mshtml,winemenubuilder.exe=;vcruntime140,vcruntime140_1,msvcp140=n,b"
LAST_WORDS_S: Final = 2.0
HOW: Final = "bash packaging/wine_python.sh makes it (Debian or Ubuntu, as root, 2 GB, some minutes)"


class NoWine(Exception):
    """There is no Windows Python under Wine here; str() says what to do."""


class Wine:
    """Starts Windows programs. Raises `NoWine` when it cannot."""

    def __init__(self) -> None:
        self.home = Path(os.environ.get("WINPY_HOME", "/opt/winpy-wine"))
        self.python = self.home / "winpy" / "python.exe"
        self._loader = _first(LOADERS)
        if not self._loader:
            raise NoWine(f"Wine is not installed. {HOW}")
        if not self.python.exists():
            raise NoWine(f"there is no Windows Python in {self.home}. {HOW}")

    def start(self) -> None:
        """Wine's own processes, on no pipe of ours: the first program would otherwise keep that open for ever."""
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([_first(SERVERS) or "wineserver", "-p"], env=self.environment(), check=False, **nothing)  # type: ignore[call-overload]
        subprocess.run([self._loader, "wineboot"], env=self.environment(), check=False, timeout=120, **nothing)  # type: ignore[call-overload]

    def stop(self) -> None:
        """End every process of this Wine."""
        server = _first(SERVERS) or "wineserver"
        subprocess.run([server, "-k"], env=self.environment(), check=False, capture_output=True)

    def command(self, program: Path, *arguments: str) -> list[str]:
        """What starts it. Its output must be a pipe: in a plain file Wine 8 shows it nothing that can be written to."""
        return [self._loader, str(program), *arguments]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in OF_LINUX}
        wine = {
            "WINEPREFIX": str(self.home / "pfx"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": OVERRIDES,
        }
        return {**kept, **wine, **(more or {})}

    def run_python(self, arguments: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> int:
        """Run the Windows Python, show what it says; its exit code."""
        environment = self.environment({"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **(more or {})})
        process = subprocess.Popen(
            self.command(self.python, *arguments),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None  # noqa: S101
        # Not read to its end by this thread: a process of Wine's own that was started meanwhile keeps the pipe open.
        reader = threading.Thread(target=_show, args=(process.stdout,), daemon=True)
        reader.start()
        code = process.wait()
        reader.join(LAST_WORDS_S)
        return code

    def install(self, requirements: Sequence[Path]) -> None:
        """The packages of these files, once for each state of them. Raises `NoWine`."""
        text = "\n".join(file.read_text(encoding="utf-8") for file in requirements)
        wanted = re.sub(r"^numpy==\S+", NUMPY, text, flags=re.MULTILINE)
        stamp = self.home / "installed-aibot.txt"
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        print("Installing the pinned packages into the Windows Python (needs the network, only this once) ...")
        pip = ["-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
        certificates = os.environ.get("PIP_CERT")
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(wanted)
            file.flush()
            more = {"PIP_CERT": windows_path(Path(certificates))} if certificates else {}
            if self.run_python([*pip, "-r", windows_path(Path(file.name))], self.home, more):
                raise NoWine("the packages could not be installed into the Windows Python: see above")
        stamp.write_text(wanted, encoding="utf-8")


def windows_path(path: Path) -> str:
    """How a program in Wine writes it: the root of Linux is its drive Z."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


def _show(pipe: IO[bytes]) -> None:
    for line in pipe:
        print(line.decode("utf-8", "replace").rstrip("\r\n"), flush=True)


def _first(names: Sequence[str]) -> str:
    """The first of these programs that is there; empty when none is."""
    return next((found for found in map(shutil.which, names) if found), "")
