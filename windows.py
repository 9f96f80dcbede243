"""What only Windows has: a console that belongs to the program alone, the closing of its window, Notepad, the priority
of a thread, jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# Five seconds after the window was closed Windows ends the process. (Microsoft, HandlerRoutine)
CLOSED_S: Final = 4.5


def is_frozen() -> bool:
    """Whether this is sender.exe or copier.exe, and not Python with a script."""
    return bool(getattr(sys, "frozen", False))


def own_console() -> bool:
    """Whether the window closes together with this program, as it does after a double-click."""
    if sys.platform != "win32":
        return False
    import ctypes

    found = (ctypes.c_uint32 * 16)()
    count = ctypes.windll.kernel32.GetConsoleProcessList(found, len(found))
    # A one-file executable consists of two processes: the first one unpacks, starts the second and waits for it.
    ours = {os.getpid(), os.getppid() if is_frozen() else 0}
    return 0 < count <= len(found) and set(found[:count]) <= ours


def wait_for_enter(why: str) -> bool:
    """Whether Enter came; False when the keyboard is gone."""
    try:
        input(f"\nPress Enter to {why}. ")
    except (OSError, EOFError):
        return False
    return True


def keeping_window_open(main: Callable[[], int]) -> int:
    """The exit code of `main`. A window that closes with the program stays until Enter after anything but success."""
    try:
        code = main()
    except Exception:  # a defect, whose words must not vanish with the window
        if not own_console():
            raise
        traceback.print_exc()
        code = 1
    if code and own_console():
        wait_for_enter("close this window")
    return code


def takes_escape_sequences() -> bool:
    """Whether the console moves its cursor by them; on Windows it has to be asked to (10 and newer)."""
    if sys.platform != "win32":
        return os.environ.get("TERM", "dumb") != "dumb" and os.tcgetpgrp(0) == os.getpgrp()
    import ctypes

    kernel32 = ctypes.windll.kernel32
    output, mode = kernel32.GetStdHandle(-11), ctypes.c_uint32()
    processed, wrap, escapes = 1, 2, 4
    return bool(
        kernel32.GetConsoleMode(output, ctypes.byref(mode))
        and kernel32.SetConsoleMode(output, mode.value | processed | wrap | escapes)
    )


def lower_priority() -> None:
    """Of the thread that calls this: others that want the processor get it first."""
    if sys.platform == "win32":
        import ctypes

        this_thread, below_normal = ctypes.c_void_p(-2), -1
        ctypes.windll.kernel32.SetThreadPriority(this_thread, below_normal)


_kept: list[Any] = []  # what Windows calls must not be collected


def on_end(stop: threading.Event, ended: threading.Event) -> None:
    """Set `stop` when somebody wants this program to end: by Ctrl-C, a signal, the closing of the window.

    Where the process would be over at once, `ended` is waited for as long as the system allows.
    """
    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    for name in ("SIGTTIN", "SIGTTOU"):  # in the background of a shell it goes on without a keyboard
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform != "win32":
        return
    import ctypes

    @ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)
    def asked(event: int) -> int:
        stop.set()
        if event >= 2:  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT: the process ends with this answer
            ended.wait(CLOSED_S)
        return 1

    _kept.append(asked)
    ctypes.windll.kernel32.SetConsoleCtrlHandler(asked, 1)


class Job:
    """A process and all that it starts: they end together, with this process at the latest.

    Of a one-file executable the process that was started only unpacks and waits; the one that works is its child, and
    would live on when the first is killed. Elsewhere there are no jobs and no such pairs.
    """

    _handle: int | None = None

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """To be made right after the process, before it has started others."""
        self._process = process
        if sys.platform != "win32":
            return
        import ctypes

        kernel32 = _kernel32()
        handle = kernel32.CreateJobObjectW(None, None)
        limits = (ctypes.c_uint8 * LIMITS_BYTES)()
        ctypes.c_uint32.from_buffer(limits, LIMIT_FLAGS_AT).value = KILL_ON_JOB_CLOSE
        if (
            handle
            and kernel32.SetInformationJobObject(handle, EXTENDED_LIMITS, limits, LIMITS_BYTES)
            and kernel32.AssignProcessToJobObject(handle, int(process._handle))
        ):
            self._handle = handle
        elif handle:
            kernel32.CloseHandle(handle)

    def kill(self) -> None:
        self.close()
        self._process.kill()

    def close(self) -> None:
        """What is left of it ends."""
        if sys.platform == "win32" and self._handle is not None:
            _kernel32().CloseHandle(self._handle)
            self._handle = None


# JOBOBJECT_EXTENDED_LIMIT_INFORMATION on 64-bit Windows, of which only LimitFlags is set. (Microsoft, winnt.h)
EXTENDED_LIMITS: Final = 9
LIMITS_BYTES: Final = 144
LIMIT_FLAGS_AT: Final = 16
KILL_ON_JOB_CLOSE: Final = 0x2000


def _kernel32() -> Any:
    """With the types of the calls about jobs, whose handles are as wide as pointers."""
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.CreateJobObjectW.restype = ctypes.c_void_p
    kernel32.CreateJobObjectW.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p]
    kernel32.SetInformationJobObject.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
    kernel32.AssignProcessToJobObject.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
    return kernel32


def open_in_editor(path: Path) -> None:
    """Open a file in Notepad; nothing where there is none."""
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            subprocess.Popen(["notepad.exe", str(path)])  # noqa: S607
