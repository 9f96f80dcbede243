"""The sockets of the WebSockets, stepped by hand: what is written when, and what becomes of those who do not read."""

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from server_kit import HandClock
from wsproto.frame_protocol import Opcode

import wire
from wire import SocketThread, SocketThreads, WebSocket, close_frame, frame

CLOSE, TEXT, PING = 8, 1, 9
KB = 1024


class Heard:
    """Remembers what the thread of the sockets says."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.over: list[tuple[int, str]] = []

    def received(self, _connection: WebSocket, message: str) -> None:
        self.messages.append(message)

    def left(self, _connection: WebSocket, code: int, reason: str) -> None:
        self.over.append((code, reason))


class Ends:
    """A thread of sockets that is stepped by hand, and connections to it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.thread = SocketThread(self.clock, "by hand", lambda: pytest.fail("ended"))
        self.others: list[socket.socket] = []

    def connect(self) -> tuple[WebSocket, socket.socket, Heard]:
        ours, other = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KB)
        other.settimeout(10)
        self.others.append(other)
        heard = Heard()
        connection = self.thread.adopt(ours, "other", b"", heard)
        self.thread.step(0)
        return connection, other, heard

    def step(self, seconds: float = 0) -> None:
        self.clock.advance(seconds)
        self.thread.step(0)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.thread.close()
    for other in made.others:
        other.close()


def read_all(other: socket.socket, step: Callable[[], None]) -> bytes:
    """Everything until the other end is shut, the server stepping meanwhile."""
    received = bytearray()
    other.settimeout(0.01)
    while True:
        step()
        try:
            piece = other.recv(256 * KB)
        except TimeoutError:
            return bytes(received)
        except ConnectionResetError:
            return bytes(received)
        if not piece:
            return bytes(received)
        received += piece


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames that a client reads; fails on anything that is not a whole one."""
    found = []
    while data:
        opcode, size, start = data[0] & 15, data[1], 2
        if size == 126:
            size, start = struct.unpack("!H", data[2:4])[0], 4
        elif size == 127:
            size, start = struct.unpack("!Q", data[2:10])[0], 10
        assert data[0] & 0xF0 == 0x80
        assert len(data) >= start + size, "half a frame"
        found.append((opcode, data[start : start + size]))
        data = data[start + size :]
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_frames_of_every_size_come_out_whole(ends: Ends, size: int) -> None:
    connection, other, _heard = ends.connect()
    connection.send_frame(b"x" * size)
    connection.send_frame(b"after")
    assert frames(read_all(other, ends.step)) == [(TEXT, b"x" * size), (TEXT, b"after")]


def test_what_is_queued_before_one_look_goes_out_together(ends: Ends) -> None:
    connection, other, heard = ends.connect()
    for number in range(5000):  # more frames than may wait for a slow reader
        connection.send_frame(b"%d" % number)
    assert [data for _, data in frames(read_all(other, ends.step))] == [b"%d" % n for n in range(5000)]
    assert heard.over == []


def test_a_reader_that_does_not_read_is_dropped_when_its_backlog_is_full(ends: Ends) -> None:
    stalled, _, heard = ends.connect()
    good, other, _ = ends.connect()
    most = 0
    for number in range(200):
        for connection in (stalled, good):
            connection.send_frame(bytes(20 * KB))
        ends.step()
        assert len(frames(read_all(other, ends.step))) == 1, number  # the other one gets each at once
        most = max(most, stalled.backlog)
    assert [code for code, _ in heard.over] == [1013]
    assert most <= wire.MOST_BACKLOG + 41 * KB  # the longest frame, and the one that was too much
    assert stalled.backlog < 128 * KB  # what waited was let go


def test_a_dropped_reader_that_reads_again_finds_whole_frames_and_the_reason(ends: Ends) -> None:
    stalled, other, heard = ends.connect()
    for _ in range(200):
        stalled.send_frame(bytes(20 * KB))
        ends.step()
    assert heard.over
    received = frames(read_all(other, ends.step))
    assert {data for opcode, data in received if opcode == TEXT} == {bytes(20 * KB)}
    assert received[-1][0] == CLOSE
    assert received[-1][1][:2] == struct.pack("!H", 1013)


def test_a_book_larger_than_the_backlog_is_not_held_against_its_reader(ends: Ends) -> None:
    connection, other, heard = ends.connect()
    connection.send_frame(b"b" * (3 * wire.MOST_BACKLOG))
    connection.send_frame(b"settings")
    connection.send_frame(b"signal")
    received = frames(read_all(other, ends.step))
    assert [len(data) for _, data in received] == [3 * wire.MOST_BACKLOG, 8, 6]
    assert heard.over == []


def test_what_follows_a_bad_frame_is_thrown_away(ends: Ends) -> None:
    connection, other, heard = ends.connect()
    other.sendall(b"\xff" * 16)
    ends.step()
    assert [code for code, _ in heard.over] == [1002]
    for _ in range(50):
        other.sendall(bytes(20 * KB))
        ends.step()
    assert len(connection.parser._frame_decoder.buffer.buffer) < 64 * KB  # 1 MiB otherwise


def test_closing_lets_a_frame_that_has_begun_end_first(ends: Ends) -> None:
    connection, other, heard = ends.connect()
    connection.send_frame(b"x" * 500_000)
    ends.step()
    assert connection.current  # half of it is out
    connection.send_frame(b"never sent")
    connection.close(4409, "another one")
    received = frames(read_all(other, ends.step))
    assert received == [(TEXT, b"x" * 500_000), (CLOSE, struct.pack("!H", 4409) + b"another one")]
    assert heard.over == []  # who closes does not need to be told


def test_after_the_close_nothing_goes_out(ends: Ends) -> None:
    connection, other, _ = ends.connect()
    connection.close(4403, "changed")
    connection.send_frame(b"never sent")
    ends.step()
    connection.send_frame(b"never sent either")
    assert [opcode for opcode, _ in frames(read_all(other, ends.step))] == [CLOSE]


def test_who_does_not_answer_a_close_is_cut_off(ends: Ends) -> None:
    connection, other, _ = ends.connect()
    connection.close(4403, "changed")
    ends.step()
    assert ends.thread.load == 1
    ends.step(wire.CLOSING_S + wire.LOOK_S)
    assert ends.thread.load == 0
    assert [opcode for opcode, _ in frames(read_all(other, lambda: None))] == [CLOSE]


def test_two_silent_periods_end_a_connection_and_any_byte_keeps_it(ends: Ends) -> None:
    _, other, heard = ends.connect()
    for _ in range(30):
        ends.step(1)
        other.sendall(b"\x8a\x80\0\0\0\0")  # a pong
    assert heard.over == []
    for _ in range(11):
        ends.step(1)
    assert heard.over == []
    ends.step(1)
    assert [code for code, _ in heard.over] == [1008]
    received = frames(read_all(other, ends.step))
    assert 7 <= sum(opcode == PING for opcode, _ in received) <= 9


def test_a_silent_reader_with_a_backlog_is_called_slow(ends: Ends) -> None:
    connection, _, heard = ends.connect()
    connection.send_frame(bytes(900 * KB))
    for _ in range(12):
        ends.step(1)
    assert [code for code, _ in heard.over] == [1013]


def test_a_computer_that_slept_blames_nobody_for_the_silence(ends: Ends) -> None:
    _, other, heard = ends.connect()
    ends.step(3600)
    ends.step(1)
    assert heard.over == []
    other.sendall(b"\x8a\x80\0\0\0\0")
    ends.step(1)
    assert heard.over == []


def test_a_mistake_of_ours_ends_one_connection(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bad, heard = ends.connect()
    good, other, heard_good = ends.connect()
    monkeypatch.setattr(heard, "received", lambda *_: 1 / 0)
    bad.sendall(b"\x81\x82\0\0\0\0{}")
    ends.step()
    assert [code for code, _ in heard.over] == [1011]
    good.send_frame(b"on we go")
    assert frames(read_all(other, ends.step)) == [(TEXT, b"on we go")]
    assert heard_good.over == []


def test_equal_messages_share_one_frame_in_memory(ends: Ends) -> None:
    payload = bytes(100 * KB)
    stalled = [ends.connect()[0] for _ in range(3)]
    for connection in stalled:
        connection.send_frame(bytes(500 * KB))
    ends.step()
    for connection in stalled:
        connection.send_frame(payload)
    ends.step()
    assert len({id(connection.outbox[-1]) for connection in stalled}) == 1


# --- to many at once -------------------------------------------------------------------------------------------------


def text(payload: bytes) -> bytes:
    return frame(Opcode.TEXT, payload)


def test_what_is_for_many_goes_out_without_waking_the_thread(ends: Ends) -> None:
    (one, other_one, _), (two, other_two, _) = ends.connect(), ends.connect()
    ends.thread.send_to_all([one, two], text(b"a") + text(b"b"))
    for other in (other_one, other_two):
        assert frames(other.recv(100)) == [(TEXT, b"a"), (TEXT, b"b")]


def test_what_is_for_many_overtakes_nothing_that_was_said_to_one_before(ends: Ends) -> None:
    connection, other, _ = ends.connect()
    connection.send_frame(b"1")
    ends.thread.send_to_all([connection], text(b"2"))
    connection.send_frame(b"3")
    ends.step()
    assert frames(other.recv(100)) == [(TEXT, b"1"), (TEXT, b"2"), (TEXT, b"3")]


def test_while_the_thread_works_what_is_for_many_waits_for_it(ends: Ends) -> None:
    connection, other, _ = ends.connect()
    with ends.thread._working:
        ends.thread.send_to_all([connection], text(b"1"))
    other.settimeout(0.05)
    with pytest.raises(TimeoutError):
        other.recv(100)
    ends.step()
    assert frames(other.recv(100)) == [(TEXT, b"1")]


def test_a_reader_that_takes_only_a_part_gets_the_rest_in_order(ends: Ends) -> None:
    connection, other, heard = ends.connect()
    quick, quick_other, _ = ends.connect()
    messages = [bytes((65 + n,)) * (40 * KB) for n in range(20)]
    received = bytearray()
    for message in messages:
        ends.thread.send_to_all([connection, quick], text(message))
        while len(received) % len(text(message)) or not received.endswith(message):
            received += quick_other.recv(256 * KB)
            ends.step()
    assert connection.backlog > 0
    assert frames(bytes(received)) == [(TEXT, message) for message in messages]
    assert frames(read_all(other, ends.step)) == [(TEXT, message) for message in messages]
    assert heard.over == []


def test_a_broken_connection_among_many_costs_the_others_nothing(ends: Ends) -> None:
    broken, other_end, heard = ends.connect()
    fine, other, _ = ends.connect()
    other_end.close()
    ends.thread.send_to_all([broken, fine], text(b"1"))
    assert frames(other.recv(100)) == [(TEXT, b"1")]
    assert heard.over == []  # said by the thread, never in the middle of what somebody else is doing
    ends.thread.send_to_all([broken, fine], text(b"2"))
    ends.step()
    assert frames(other.recv(100)) == [(TEXT, b"2")]
    assert [code for code, _ in heard.over] == [1006]
    ends.thread.send_to_all([broken, fine], text(b"3"))
    ends.step()
    assert frames(other.recv(100)) == [(TEXT, b"3")]


def test_after_the_close_nothing_for_many_goes_out_either(ends: Ends) -> None:
    connection, other, _ = ends.connect()
    connection.close(4403, "no more")
    ends.step()
    ends.thread.send_to_all([connection], text(b"late"))
    ends.step()
    assert [opcode for opcode, _ in frames(other.recv(1000))] == [CLOSE]


def test_connections_of_several_threads_all_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a thread takes only some hundred sockets."""
    monkeypatch.setattr(wire, "SOCKETS_PER_THREAD", 2)
    threads, others, connections = SocketThreads(time, lambda: pytest.fail("ended")), [], []
    for _ in range(5):
        ours, other = socket.socketpair()
        other.settimeout(10)
        others.append(other)
        connections.append(threads.adopt(ours, "other", b"", Heard()))
    threads.send_to_all(connections, [b"1", b"2"])
    for other in others:
        received = b""
        while len(received) < len(text(b"1") + text(b"2")):
            received += other.recv(100)
        assert frames(received) == [(TEXT, b"1"), (TEXT, b"2")]
        other.close()
    threads.stop()


def test_a_long_reason_fits_a_close_frame() -> None:
    assert len(close_frame(4403, "é" * 500)) <= 2 + 125
    assert frames(frame(TEXT, b"x") + close_frame(1000, ""))[1] == (CLOSE, b"\x03\xe8")  # type: ignore[arg-type]


def test_connections_that_came_together_are_pinged_in_turns(ends: Ends) -> None:
    others = [ends.connect()[1] for _ in range(wire.PING_TURNS)]
    pinged: list[list[int]] = []
    for _ in range(wire.PING_TURNS):
        ends.step(wire.PING_S / wire.PING_TURNS)
        pinged.append([])
        for number, other in enumerate(others):
            other.setblocking(False)
            try:
                assert other.recv(KB) == frame(Opcode.PING, b"")
            except BlockingIOError:
                continue
            pinged[-1].append(number)
    assert pinged == [[4], [3], [2], [1], [0]]
