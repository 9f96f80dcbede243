"""A TCP proxy that breaks connections as networks do: python -m campaign.proxy --listen PORT --to HOST:PORT

It is told what to do by lines on its standard input, and ends when that ends:

    latency 0.3       every piece of data that much later, in seconds
    uneven 3          each connection has a delay of its own, up to so many seconds: requests overtake each other, also
                      those of a sender that has died meanwhile
    black_hole 4      nothing passes; after so many seconds the connection is closed, 0 = never. What was sent meanwhile
                      arrives when the fault is over, as retransmission makes it
    reset             every connection ends with RST, new ones too
    slow_close 2      a connection that one side ended stays open so long to the other
    limit_data 300    the connection is closed after so many bytes of reply: in the middle of it
    slicer 7          data in pieces of so many bytes
    down              nobody listens, and what is open is reset
    clear             everything passes

Faults meet open connections too. One thread carries one connection, both ways.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import select
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final, TextIO

TURN_S: Final = 0.02  # how soon a connection without traffic notices a fault
CHUNK: Final = 65_536
PAUSE_BETWEEN_SLICES_S: Final = 0.001
PATIENCE_S: Final = 10.0  # with a side that does not take its data, or does not answer the call

FAULTS: Final = ("clear", "latency", "uneven", "black_hole", "reset", "slow_close", "limit_data", "slicer", "down")


@dataclass(frozen=True, eq=False)
class Fault:
    """Compared by identity: the same fault again begins anew."""

    name: str = "clear"
    value: float = 0.0


class Cut(Exception):
    """The connection ends here; `hard` with RST."""

    def __init__(self, hard: bool = False) -> None:
        self.hard = hard


def fault_from(line: str) -> Fault:
    """Raises `ValueError`."""
    name, *values = line.split()
    if name not in FAULTS or len(values) > 1:
        raise ValueError(f"{line.strip()!r} is none of {', '.join(FAULTS)}")
    return Fault(name, float(values[0]) if values else 0.0)


class Proxy:
    """Listens until `stop` is set."""

    def __init__(self, port: int, to: tuple[str, int]) -> None:
        self.stop = threading.Event()
        self.fault = Fault()
        self._to = to
        self._door: socket.socket | None = self._listen(port)
        self.port: int = self._door.getsockname()[1]

    @staticmethod
    def _listen(port: int) -> socket.socket:
        door = socket.socket()
        if sys.platform != "win32":  # there it would let two programs listen on one port
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("127.0.0.1", port))
            door.listen(64)
        except OSError:
            door.close()
            raise
        return door

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._turn()
        finally:
            if self._door is not None:
                self._door.close()

    def _turn(self) -> None:
        if self.fault.name == "down":
            if self._door is not None:
                self._door.close()
                self._door = None
            self.stop.wait(TURN_S)
        elif self._door is None:
            try:
                self._door = self._listen(self.port)
            except OSError:  # not given back by the system yet
                self.stop.wait(TURN_S)
        elif select.select([self._door], [], [], TURN_S)[0]:
            with contextlib.suppress(OSError):  # the caller has gone again
                near, _ = self._door.accept()
                threading.Thread(target=self._carry, args=(near,), name="connection", daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        hard = True
        with near:
            try:
                with socket.create_connection(self._to, PATIENCE_S) as far:
                    for side in (near, far):
                        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        side.settimeout(PATIENCE_S)
                    try:
                        self._carry_between(near, far)
                    except Cut as cut:
                        hard = cut.hard
                    _end(far, hard)
            except OSError:
                hard = True
            _end(near, hard)

    def _carry_between(self, near: socket.socket, far: socket.socket) -> None:
        """Raises `Cut`, or `OSError` when a side has gone."""
        known, since, replied = self.fault, time.monotonic(), 0
        share = random.random()
        while not self.stop.is_set():
            fault = self.fault
            if fault is not known:
                known, since, replied = fault, time.monotonic(), 0
            if fault.name in ("reset", "down"):
                raise Cut(hard=True)
            if fault.name == "black_hole":
                if fault.value and time.monotonic() - since > fault.value:
                    raise Cut
                self.stop.wait(TURN_S)
                continue
            readable = select.select([near, far], [], [], TURN_S)[0]
            for source in readable if self.fault is fault else ():
                data = source.recv(CHUNK)
                if not data:
                    if fault.name == "slow_close":
                        self._wait(fault)
                    raise Cut
                if fault.name == "latency":
                    self._wait(fault)
                if fault.name == "uneven":
                    self._wait(fault, share)
                if fault.name == "limit_data" and source is far:
                    data = data[: max(0, int(fault.value) - replied)]
                    replied += len(data)
                self._pass(data, far if source is near else near, int(fault.value) if fault.name == "slicer" else CHUNK)
                if fault.name == "limit_data" and replied >= fault.value:
                    raise Cut

    def _wait(self, fault: Fault, share: float = 1.0) -> None:
        """As long as the fault says, or until it is over."""
        until = time.monotonic() + fault.value * share
        while self.fault is fault and time.monotonic() < until and not self.stop.wait(TURN_S / 4):
            pass

    def _pass(self, data: bytes, sink: socket.socket, piece: int) -> None:
        for begin in range(0, len(data), piece):
            sink.sendall(data[begin : begin + piece])
            if piece < CHUNK:
                self.stop.wait(PAUSE_BETWEEN_SLICES_S)


def _end(side: socket.socket, hard: bool) -> None:
    """Close with RST or with FIN. After this nothing that is still on its way is delivered with RST."""
    with contextlib.suppress(OSError):
        if hard:
            # Two shorts on Windows, two ints elsewhere: linger switched on, for 0 seconds.
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            side.shutdown(socket.SHUT_RDWR)


def obey(proxy: Proxy, lines: TextIO) -> None:
    """Take commands until there are no more; then the proxy ends, so that none is left behind."""
    for line in lines:
        try:
            proxy.fault = fault_from(line)
        except ValueError as error:
            print(error, flush=True)
        else:
            print(f"now: {line.strip()}", flush=True)
    proxy.stop.set()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign.proxy", description="A TCP proxy that breaks connections.")
    parser.add_argument("--listen", type=int, required=True, metavar="PORT", help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="where connections are passed on to")
    options = parser.parse_args(argv)
    host, _, port = options.to.rpartition(":")
    proxy = Proxy(options.listen, (host, int(port)))
    print(f"proxy listens on 127.0.0.1:{proxy.port}", flush=True)
    threading.Thread(target=obey, args=(proxy, sys.stdin), name="commands", daemon=True).start()
    proxy.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
