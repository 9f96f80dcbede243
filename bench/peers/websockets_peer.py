"""The asyncio server of `websockets`, and beside it the smallest HTTP server that can take a POST."""

import asyncio
from http import HTTPStatus

import jwt
from common import PORT, listening, stored, user
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.http11 import Request, Response

followers: set[ServerConnection] = set()


async def take_posts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields["Content-Length"]))
        broadcast(followers, stored(fields["Authorization"], body))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()


def admit(connection: ServerConnection, request: Request) -> Response | None:
    try:
        user(request.headers.get("Authorization"))
    except jwt.InvalidTokenError:
        return connection.respond(HTTPStatus.UNAUTHORIZED, "")
    return None


async def follow(connection: ServerConnection) -> None:
    followers.add(connection)
    try:
        await connection.wait_closed()
    finally:
        followers.discard(connection)


async def main() -> None:
    posts = await asyncio.start_server(take_posts, "127.0.0.1", PORT)
    async with serve(follow, "127.0.0.1", 0, process_request=admit, compression=None, ping_interval=5) as sockets:
        listening(posts.sockets[0].getsockname()[1], next(iter(sockets.sockets)).getsockname()[1])
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
