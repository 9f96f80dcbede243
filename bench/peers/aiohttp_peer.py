"""aiohttp: POST and WebSocket in one application."""

import asyncio

from aiohttp import web
from common import PORT, listening, stored, user

followers: set[web.WebSocketResponse] = set()


async def broadcast(request: web.Request) -> web.Response:
    message = stored(request.headers.get("Authorization"), await request.read())
    for follower in tuple(followers):
        await follower.send_str(message)
    return web.json_response({}, status=201)


async def follow(request: web.Request) -> web.WebSocketResponse:
    user(request.headers.get("Authorization"))
    connection = web.WebSocketResponse(heartbeat=5, compress=False)
    await connection.prepare(request)
    followers.add(connection)
    async for _ in connection:
        pass
    followers.discard(connection)
    return connection


async def main() -> None:
    app = web.Application()
    app.add_routes([web.post("/signal/broadcast", broadcast), web.get("/ws", follow)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", PORT, backlog=1024)
    await site.start()
    listening(runner.addresses[0][1])
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
