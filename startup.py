"""Start with Windows: an entry in the user's own list of programs that are started when he logs on.

The list is a key of the registry (Microsoft, "Run and RunOnce registry keys"); the Task Manager shows it under "Startup
apps". No administrator is needed, and nothing starts before somebody has logged on, which a terminal needs as well.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

RUN: Final = r"Software\Microsoft\Windows\CurrentVersion\Run"


class NotHere(Exception):
    """This system has no such list; str() says what to do."""


def entry_of(program: str, config: Path) -> str:
    """The name of the entry: one for each settings file."""
    return f"AIBOT {program} ({config})"


def install(program: str, command: list[str], config: Path) -> str:
    """Enter the program with this settings file; says what was done. Raises `NotHere`, `OSError`."""
    line = subprocess.list2cmdline([*command, "--config", str(config)])
    if sys.platform != "win32":
        raise NotHere(f"this works on Windows only. Elsewhere let the system's own service start: {line}")
    import winreg

    with winreg.CreateKey(winreg.HKEY_CURRENT_USER, RUN) as key:
        winreg.SetValueEx(key, entry_of(program, config), 0, winreg.REG_SZ, line)
    return f"{program} will be started whenever you log on to Windows: {line}"


def remove(program: str, config: Path) -> str:
    """Take it out again; says what was done. Raises `NotHere`, `OSError`."""
    if sys.platform != "win32":
        raise NotHere("this works on Windows only")
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, RUN, access=winreg.KEY_SET_VALUE) as key:
            winreg.DeleteValue(key, entry_of(program, config))
    except FileNotFoundError:
        return f"{program} with {config} is not started by Windows: nothing to take out"
    return f"{program} will not be started by Windows any more"
