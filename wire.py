"""The WebSockets' side of the sockets: one thread reads and writes them all, and never waits for any of them.

Whoever has something to say to one (`send_frame`, `close`, from any thread) only queues it. What is meant for many
(`send_to_all`) is written by the caller itself while the thread has nothing to do, because waking it costs milliseconds
on a busy computer. A reader that does not take what is meant for it gets a bounded backlog and is then dropped. The
parsing of frames is wsproto's. On Windows `select` takes at most 512 sockets, so there further threads are started as
connections come.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from records import Clock

log = logging.getLogger(__name__)

PING_S: Final = 5.0  # two of these without a byte from the other side end a connection
PING_TURNS: Final = 5  # groups of connections that are pinged at different times
CLOSING_S: Final = 2.0  # how long the other side has to answer a close
LOOK_S: Final = 1.0  # between two looks at all connections
ASLEEP_S: Final = 5.0  # later than this: the computer slept, and nobody can be blamed for silence
MOST_BACKLOG: Final = 1 << 20  # bytes that wait for one reader, beside its longest frame ...
MOST_FRAMES: Final = 4096  # ... or frames, before it is dropped
MOST_MESSAGE: Final = 64 << 10  # bytes of one message from the other side
MOST_HEARD: Final = 200  # frames from it between two looks: pings and pieces of messages cost work too
AT_ONCE: Final = 64 << 10
SOCKETS_PER_THREAD: Final = 400 if sys.platform == "win32" else 100_000

GOING_AWAY: Final = 1001
ONLY_TEXT: Final = 1003
LOST: Final = 1006  # never on the wire: for the log and the metrics
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
TOO_SLOW: Final = 1013


class Listener(Protocol):
    """Who hears of the connections; called from the thread of the sockets, must not wait for anything."""

    def received(self, connection: WebSocket, message: str) -> None: ...

    def left(self, connection: WebSocket, code: int, reason: str) -> None: ...


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """A whole unmasked frame, as servers send them."""
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + payload


def close_frame(code: int, reason: str) -> bytes:
    words = reason.encode()[:120].decode(errors="ignore").encode()
    return frame(Opcode.CLOSE, struct.pack("!H", code) + words)


@dataclass(frozen=True, slots=True)
class _Close:
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Adopt:
    early: bytes  # what came in together with the request


@dataclass(frozen=True, slots=True)
class _Frames:
    whole: bytes  # one frame or more, as they go out


@dataclass(frozen=True, slots=True)
class _Lost:
    reason: str


Job = bytes | _Frames | _Close | _Adopt | _Lost | None  # bytes: a message; None: something is waiting to go out


class WebSocket:
    """One connection after its handshake. Everything but `send_frame`, `close` and `peer` is its thread's business."""

    __slots__ = (
        "_thread",
        "backlog",
        "closing_at",
        "current",
        "deaf",
        "heard",
        "heard_at",
        "listener",
        "longest",
        "number",
        "outbox",
        "over",
        "parser",
        "peer",
        "pinged_at",
        "sock",
        "taken",
        "watching_writes",
    )

    def __init__(self, thread: SocketThread, sock: socket.socket, peer: str, listener: Listener, number: int) -> None:
        """`number` is how many the thread had been given before."""
        self._thread = thread
        self.sock = sock
        self.peer = peer
        self.listener = listener
        self.number = number
        self.parser = FrameProtocol(client=False, extensions=[])
        self.taken = ""  # of a message whose end has not come yet
        self.outbox: deque[bytes] = deque()  # whole frames
        self.current = memoryview(b"")  # what is left of the frames being written
        self.backlog = 0  # bytes in both
        self.longest = 0  # bytes of the longest frame so far: a book may be longer than all that may wait
        self.deaf = False  # what came could not be understood, and neither can what follows
        self.heard = 0  # frames since the last look
        self.heard_at = self.pinged_at = 0.0
        self.closing_at: float | None = None  # when patience for the closing ends
        self.over = False  # ended: the listener knows it, or is told next
        self.watching_writes = False

    @property
    def thread(self) -> SocketThread:
        return self._thread

    def send_frame(self, payload: bytes) -> None:
        """Queue one text message. Never blocks; what is meant for a closed connection is thrown away."""
        self._thread.queue(self, payload)

    def close(self, code: int, reason: str) -> None:
        """Queue the close: what has not gone out before it will not."""
        self._thread.queue(self, _Close(code, reason))


class SocketThread:
    """The one thread that touches its sockets."""

    def __init__(self, clock: Clock, name: str, failed: Callable[[], None]) -> None:
        """`failed` is called when the thread ends without having been asked to."""
        self._clock = clock
        self._failed = failed
        self._jobs: deque[tuple[WebSocket, Job]] = deque()
        self._sockets: set[WebSocket] = set()
        self._working = threading.Lock()  # held by whoever reads or writes the sockets or changes what is known of them
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._woken = False
        self._stopping = False
        self._looked_at = clock.monotonic()
        self._scratch = bytearray(AT_ONCE)
        self._last: tuple[bytes, bytes] = (b"", b"")  # message and its frame, shared by all who get the same message
        self._adopted = 0  # counted by those who adopt, under a lock of theirs
        self._ended = 0  # counted by the thread
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    # --- from any thread ---------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Connections given to this thread and not gone yet."""
        return self._adopted - self._ended

    def adopt(self, sock: socket.socket, peer: str, early: bytes, listener: Listener) -> WebSocket:
        """Take over a connected socket whose handshake is done."""
        connection = WebSocket(self, sock, peer, listener, self._adopted)
        self._adopted += 1
        self.queue(connection, _Adopt(early))
        return connection

    def queue(self, connection: WebSocket, job: Job) -> None:
        self._jobs.append((connection, job))
        if not self._woken:
            self._woken = True
            self._wake()

    def send_to_all(self, connections: Sequence[WebSocket], whole: bytes) -> None:
        """Send the frames to each of this thread's connections, behind whatever was said to it before.

        Never blocks. A connection that does not take them now is left to the thread.
        """
        if self._working.acquire(blocking=False):
            try:
                if not self._jobs:
                    self._write_now(connections, whole)
                    return
            finally:
                self._working.release()
        frames = _Frames(whole)
        for connection in connections:
            self.queue(connection, frames)

    def _write_now(self, connections: Sequence[WebSocket], whole: bytes) -> None:
        for connection in connections:
            if connection.backlog or connection.closing_at is not None or connection not in self._sockets:
                self.queue(connection, _Frames(whole))
                continue
            try:
                sent = connection.sock.send(whole)
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                sent = 0
            except OSError as error:
                self.queue(connection, _Lost(f"connection lost: {error}"))
                continue
            if sent < len(whole):
                connection.current = memoryview(whole)[sent:]
                connection.backlog = len(connection.current)
                self.queue(connection, None)

    def _wake(self) -> None:
        # A full pipe means that waking is under way; a closed one that the thread has ended.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"!")

    def stop(self, patience_s: float) -> None:
        """End all connections that are left, and the thread."""
        self._stopping = True
        self._wake()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            log.error("%s did not end in %.0f s", self._thread.name, patience_s)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            until = None
            while until is None or (self._sockets and self._clock.monotonic() < until):
                self.step(LOOK_S if until is None else 0.05)
                if self._stopping:
                    until = until or self._clock.monotonic() + CLOSING_S
                    self._say_goodbye()
        except Exception:
            log.exception("%s ended", self._thread.name)
            self._failed()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of every socket."""
        with self._working:
            self._let_go()

    def _let_go(self) -> None:
        for connection in list(self._sockets):
            self._gone(connection, LOST, "the server has ended")
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _say_goodbye(self) -> None:
        """To those whom nobody has told yet that the server is ending."""
        with self._working:
            for connection in list(self._sockets):
                if connection.closing_at is None:
                    self._over(connection, GOING_AWAY, "the server is ending")
                    self._flush(connection)

    def step(self, longest_s: float) -> None:
        """Wait for something to do, at most `longest_s`, and do it."""
        ready = self._selector.select(longest_s)
        with self._working:
            for key, events in ready:
                if key.data is None:
                    self._drain_wakes()
                else:
                    self._guarded(key.data, events)
            self._woken = False  # before the jobs are taken, so that a job queued meanwhile wakes again
            self._take_jobs()
            now = self._clock.monotonic()
            if now - self._looked_at >= LOOK_S:
                self._look_after(now)

    def _take_jobs(self) -> None:
        touched: dict[WebSocket, None] = {}
        while self._jobs:
            connection, job = self._jobs.popleft()
            self._take_job(connection, job)
            touched[connection] = None
        for connection in touched:
            self._flush(connection)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(OSError):
            while self._wake_in.recv(4096):
                pass

    def _guarded(self, connection: WebSocket, events: int) -> None:
        """One connection's fault, or a mistake of ours that it has found, must end that connection and no other."""
        try:
            if events & selectors.EVENT_READ:
                self._read(connection)
            if events & selectors.EVENT_WRITE:
                self._flush(connection)
        except Exception:
            log.exception("websocket: reading from %s failed; the connection is ended", connection.peer)
            self._gone(connection, INTERNAL, "internal error")

    def _take_job(self, connection: WebSocket, job: Job) -> None:
        if isinstance(job, _Frames):
            self._append(connection, job.whole)
        elif isinstance(job, _Adopt):
            self._register(connection, job.early)
        elif isinstance(job, _Close):
            self._begin_close(connection, job.code, job.reason)
        elif isinstance(job, _Lost):
            self._gone(connection, LOST, job.reason)
        elif job is not None:
            if job is not self._last[0]:
                self._last = (job, frame(Opcode.TEXT, job))
            self._append(connection, self._last[1])

    def _register(self, connection: WebSocket, early: bytes) -> None:
        try:
            connection.sock.setblocking(False)
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        except (OSError, ValueError) as error:
            self._sockets.add(connection)
            self._gone(connection, LOST, f"the socket cannot be used: {error}")
            return
        self._sockets.add(connection)
        connection.heard_at = self._clock.monotonic()
        # Those who came together are not pinged together: reading a thousand answers at once would hold up a signal.
        connection.pinged_at = connection.heard_at - PING_S * (connection.number % PING_TURNS) / PING_TURNS
        if early:
            self._understand(connection, early)
        if isinstance(connection.sock, ssl.SSLSocket):
            self._guarded(connection, selectors.EVENT_READ)  # TLS may hold decrypted bytes that select cannot see

    def _append(self, connection: WebSocket, whole_frame: bytes) -> None:
        if connection not in self._sockets or connection.closing_at is not None:
            return
        if self._is_full(connection):
            self._flush(connection)  # much may have been queued at once: it had no chance to go out yet
        if self._is_full(connection):
            self._over(connection, TOO_SLOW, f"too slow: {connection.backlog} bytes waiting")
            return
        connection.outbox.append(whole_frame)
        connection.backlog += len(whole_frame)
        connection.longest = max(connection.longest, len(whole_frame))

    @staticmethod
    def _is_full(connection: WebSocket) -> bool:
        return connection.backlog > MOST_BACKLOG + connection.longest or len(connection.outbox) > MOST_FRAMES

    def _flush(self, connection: WebSocket) -> None:
        """Write as much as the socket takes without waiting."""
        if connection not in self._sockets:
            return
        while connection.current or connection.outbox:
            if not connection.current:
                connection.current = memoryview(self._next_bytes(connection))
            try:
                sent = connection.sock.send(connection.current)
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._watch_writes(connection, True)
                return
            except OSError as error:
                self._gone(connection, LOST, f"connection lost: {error}")
                return
            connection.backlog -= sent
            connection.current = connection.current[sent:]
        self._watch_writes(connection, False)

    @staticmethod
    def _next_bytes(connection: WebSocket) -> bytes:
        if connection.backlog <= AT_ONCE:
            together = b"".join(connection.outbox)
            connection.outbox.clear()
            return together
        return connection.outbox.popleft()

    def _watch_writes(self, connection: WebSocket, wanted: bool) -> None:
        if connection.watching_writes != wanted:
            connection.watching_writes = wanted
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self._selector.modify(connection.sock, events, connection)

    def _read(self, connection: WebSocket) -> None:
        while connection in self._sockets:
            try:
                size = connection.sock.recv_into(self._scratch)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._gone(connection, LOST, f"connection lost: {error}")
                return
            if not size:
                self._gone(connection, LOST, "connection lost")
                return
            connection.heard_at = self._clock.monotonic()
            self._understand(connection, bytes(self._scratch[:size]))
            if not (isinstance(connection.sock, ssl.SSLSocket) and connection.sock.pending()):
                return

    def _understand(self, connection: WebSocket, data: bytes) -> None:
        if connection.deaf:
            return
        connection.parser.receive_bytes(data)
        try:
            for found in connection.parser.received_frames():
                connection.heard += 1
                if connection.heard > MOST_HEARD:
                    self._over(connection, POLICY, "too many frames")
                    break
                if found.opcode is Opcode.PING:
                    self._append(connection, frame(Opcode.PONG, bytes(found.payload)))  # type: ignore[arg-type]
                elif found.opcode is Opcode.CLOSE:
                    self._close_received(connection, found.payload)
                elif found.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION):
                    self._message_part(connection, found.payload, found.message_finished)
        except ParseFailed as error:
            connection.deaf = True
            self._over(connection, int(error.code), str(error))
        self._flush(connection)

    def _close_received(self, connection: WebSocket, payload: object) -> None:
        code, reason = payload if isinstance(payload, tuple) else (1005, "")
        if connection.closing_at is None:
            self._over(connection, 1000 if code == 1005 else int(code), f"closed by the other side {reason}".rstrip())
        self._flush(connection)
        self._gone(connection, int(code), reason)

    def _message_part(self, connection: WebSocket, payload: object, finished: bool) -> None:
        if connection.closing_at is not None:
            return
        if not isinstance(payload, str):
            self._over(connection, ONLY_TEXT, "only text messages are understood")
            return
        connection.taken += payload
        if len(connection.taken) > MOST_MESSAGE:
            self._over(connection, TOO_BIG, f"messages may have {MOST_MESSAGE} bytes")
        elif finished:
            message, connection.taken = connection.taken, ""
            connection.listener.received(connection, message)

    # --- ending ------------------------------------------------------------------------------------------------------

    def _over(self, connection: WebSocket, code: int, reason: str) -> None:
        """End a connection for a reason that was found here: the listener is told."""
        self._tell(connection, code, reason)
        self._begin_close(connection, code, reason)

    def _tell(self, connection: WebSocket, code: int, reason: str) -> None:
        if not connection.over:
            connection.over = True
            connection.listener.left(connection, code, reason)

    def _begin_close(self, connection: WebSocket, code: int, reason: str) -> None:
        if connection not in self._sockets or connection.closing_at is not None:
            return
        connection.over = True
        connection.closing_at = self._clock.monotonic() + CLOSING_S
        connection.taken = ""
        # `current` must go out to its end, or the close would land in the middle of a frame.
        connection.outbox.clear()
        connection.outbox.append(close_frame(code, reason))
        connection.backlog = len(connection.current) + len(connection.outbox[0])

    def _gone(self, connection: WebSocket, code: int, reason: str) -> None:
        if connection not in self._sockets:
            return
        self._sockets.discard(connection)
        self._ended += 1
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        with contextlib.suppress(OSError):
            connection.sock.close()
        self._tell(connection, code, reason)

    def _look_after(self, now: float) -> None:
        """Ping everybody, end those that have been silent, and those that do not let themselves be closed."""
        late = now - self._looked_at
        self._looked_at = now
        for connection in list(self._sockets):
            connection.heard = 0
            if late > ASLEEP_S:
                connection.heard_at += late
            if connection.closing_at is not None:
                if now >= connection.closing_at:
                    self._gone(connection, LOST, "no answer to the close")
            elif now - connection.heard_at > 2 * PING_S:
                slow = connection.backlog > 0
                self._over(connection, TOO_SLOW if slow else POLICY, f"silent for {2 * PING_S:.0f} s")
                self._flush(connection)
            elif now - connection.pinged_at >= PING_S:
                connection.pinged_at = now
                self._append(connection, frame(Opcode.PING, b""))
                self._flush(connection)


class SocketThreads:
    """As many socket threads as the connections need: one, but for Windows."""

    def __init__(self, clock: Clock, failed: Callable[[], None]) -> None:
        self._clock = clock
        self._failed = failed
        self._lock = threading.Lock()
        self._threads: list[SocketThread] = []

    def adopt(self, sock: socket.socket, peer: str, early: bytes, listener: Listener) -> WebSocket:
        with self._lock:
            for thread in self._threads:
                if thread.load < SOCKETS_PER_THREAD:
                    return thread.adopt(sock, peer, early, listener)
            thread = SocketThread(self._clock, f"websockets-{len(self._threads) + 1}", self._failed)
            thread.start()
            self._threads.append(thread)
            return thread.adopt(sock, peer, early, listener)

    def send_to_all(self, connections: Sequence[WebSocket], payloads: Sequence[bytes]) -> None:
        """Send the text messages, in their order, to each connection. Never blocks."""
        whole = b"".join(frame(Opcode.TEXT, payload) for payload in payloads)
        if len(self._threads) == 1:
            self._threads[0].send_to_all(connections, whole)
            return
        for thread in self._threads:
            thread.send_to_all([connection for connection in connections if connection.thread is thread], whole)

    def stop(self) -> None:
        for thread in self._threads:
            thread.stop(2 * CLOSING_S)
