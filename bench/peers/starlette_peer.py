"""Starlette on uvicorn, whose WebSockets are those of `websockets`."""

import asyncio
import contextlib
import socket

import uvicorn
from common import PORT, listening, stored, user
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

followers: set[WebSocket] = set()


async def broadcast(request: Request) -> JSONResponse:
    message = stored(request.headers.get("authorization"), await request.body())
    for follower in tuple(followers):
        await follower.send_text(message)
    return JSONResponse({}, status_code=201)


async def follow(connection: WebSocket) -> None:
    user(connection.headers.get("authorization"))
    await connection.accept()
    followers.add(connection)
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await connection.receive_text()
    followers.discard(connection)


app = Starlette(routes=[Route("/signal/broadcast", broadcast, methods=["POST"]), WebSocketRoute("/ws", follow)])


async def main() -> None:
    door = socket.create_server(("127.0.0.1", PORT), backlog=1024)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws_ping_interval=5, ws_per_message_deflate=False, lifespan="off"
    )
    listening(door.getsockname()[1])
    await uvicorn.Server(config).serve(sockets=[door])


asyncio.run(main())
