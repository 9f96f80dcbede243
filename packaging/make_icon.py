"""Draws icon.ico: two arrows, one above the other, as the trades go from one account to the next.

python packaging/make_icon.py        (only after a change; the file is in the repository)
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

SIZES = (16, 32, 48, 256)
BACKGROUND, FRONT, BEHIND = (18, 43, 74), (255, 255, 255), (72, 187, 120)
FINE = 4  # points drawn for each point shown, in both directions: smooth edges


def colour(x: float, y: float) -> tuple[int, int, int, int]:
    """Of the point (x, y) of a square from 0 to 1; the last number is how opaque it is."""
    corner = 0.18
    dx, dy = max(corner - x, x - 1 + corner, 0.0), max(corner - y, y - 1 + corner, 0.0)
    if dx * dx + dy * dy > corner * corner:
        return (0, 0, 0, 0)
    if in_arrow(x - 0.14, y - 0.30):
        return (*FRONT, 255)
    if in_arrow(x - 0.14, y - 0.70):
        return (*BEHIND, 255)
    return (*BACKGROUND, 255)


def in_arrow(x: float, y: float) -> bool:
    """An arrow to the right, 0.72 long, whose middle is at y = 0."""
    if 0 <= x <= 0.46:
        return abs(y) <= 0.065
    return 0.46 < x <= 0.72 and abs(y) <= 0.17 * (0.72 - x) / 0.26


def picture(size: int) -> bytes:
    """A PNG of so many points."""
    rows = []
    for row in range(size):
        line = bytearray(b"\0")
        for column in range(size):
            points = [
                colour((column + (a + 0.5) / FINE) / size, (row + (b + 0.5) / FINE) / size)
                for a in range(FINE)
                for b in range(FINE)
            ]
            opaque = sum(point[3] for point in points)
            for channel in range(3):
                line.append(round(sum(p[channel] * p[3] for p in points) / opaque) if opaque else 0)
            line.append(round(opaque / len(points)))
        rows.append(bytes(line))
    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b""))
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def main() -> None:
    pictures = [picture(size) for size in SIZES]
    offset = 6 + 16 * len(SIZES)
    directory = struct.pack("<HHH", 0, 1, len(SIZES))
    for size, data in zip(SIZES, pictures, strict=True):
        directory += struct.pack("<BBBBHHII", size % 256, size % 256, 0, 0, 1, 32, len(data), offset)
        offset += len(data)
    Path(__file__).with_name("icon.ico").write_bytes(directory + b"".join(pictures))


if __name__ == "__main__":
    main()
