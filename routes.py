"""Every address of the server: the one table of methods, paths and roles, and the application made from it."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Flask, Response, g, request
from flask_sock import Sock
from simple_websocket.errors import SimpleWebsocketError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from wsproto.utilities import RemoteProtocolError

from api import ADMIN, PUBLISHERS, Adopter, Api, Settings
from asked import (
    SUBPROTOCOL,
    Refused,
    answer_of,
    bearer_token,
    error_answer,
    json_body,
    login_body,
    refuse_foreign_pages,
)
from auth import Busy, Passwords, TooFast
from bodies import BOOK_LIMIT
from database import Unavailable
from db import Store
from hub import Hub
from records import Clock, Role
from signals import BadField, BadJson
from webserver import SECURITY_HEADERS

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 64 << 10
LOGIN_LIMIT: Final = 4 << 10
WEBSOCKET: Final = "/ws"

ANYONE: Final = None
EVERY_ROLE: Final = frozenset(Role)
CLIENT: Final = frozenset({Role.CLIENT})


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    roles: frozenset[Role] | None  # None: no token is asked for
    handler: Callable[..., Any]
    limit: int = BODY_LIMIT  # bytes of the body
    body: Callable[[], dict[str, Any]] | None = json_body  # None: takes none


ROUTES: Final = (
    Route("POST", "/token", ANYONE, Api.log_in, LOGIN_LIMIT, login_body),
    Route("POST", "/users/public", ANYONE, Api.register, LOGIN_LIMIT),
    Route("POST", "/users/", ADMIN, Api.add_user, LOGIN_LIMIT),
    Route("GET", "/users/", ADMIN, Api.users, body=None),
    Route("PATCH", "/users/<username>", ADMIN, Api.change_user, LOGIN_LIMIT),
    Route("POST", "/users/config", EVERY_ROLE, Api.set_config),
    Route("GET", "/users/config", EVERY_ROLE, Api.config, body=None),
    Route("POST", "/signal/broadcast", PUBLISHERS, Api.broadcast),
    Route("POST", "/signal/modify", PUBLISHERS, Api.modify),
    Route("POST", "/signal/close", PUBLISHERS, Api.close),
    Route("PUT", "/signal/book", PUBLISHERS, Api.report_book, BOOK_LIMIT),
    Route("GET", "/signal/book", PUBLISHERS, Api.book, body=None),
    Route("GET", "/signals", EVERY_ROLE, Api.signals, body=None),
    Route("POST", "/executions", CLIENT, Api.add_executions, BOOK_LIMIT),
    Route("GET", "/executions", EVERY_ROLE, Api.executions, body=None),
    Route("GET", "/overview", EVERY_ROLE, Api.overview, body=None),
    Route("GET", "/health", ANYONE, Api.health, body=None),
    Route("GET", "/metrics", ANYONE, Api.metrics, body=None),
    Route("GET", "/openapi.json", ANYONE, Api.description, body=None),
    Route("GET", WEBSOCKET, EVERY_ROLE, Api.no_handshake, body=None),
)
QUIET_PATHS: Final = frozenset({"/health", "/metrics"})


def may_send_much(api: Api, path: str, authorization: str) -> bool:
    """Whether a long body is worth reading: the route takes one, and the token is signed. The rest comes later."""
    return any(route.path == path and route.limit > BODY_LIMIT for route in ROUTES) and api.is_signed(authorization)


def create_app(
    store: Store,
    hub: Hub,
    settings: Settings,
    clock: Clock,
    sockets: Adopter | None = None,
    passwords: Passwords | None = None,
) -> Flask:
    """The WSGI application. Without `sockets` it has no WebSocket; connections can still join the hub directly.
    `passwords`: hashes them otherwise than for people, in trials that log in thousands of times."""
    app = Flask(__name__, static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    api = Api(store, hub, settings, passwords or Passwords())
    app.extensions["api"] = api
    for route in ROUTES:
        app.add_url_rule(
            route.path,
            f"{route.method} {route.path}",
            _view(api, route),
            methods=[route.method],
            provide_automatic_options=False,
        )
        if route.path == WEBSOCKET and sockets is not None:
            # A handshake matches only rules made for WebSockets, everything else only the others.
            app.register_blueprint(_handshakes(api, route, sockets))
    app.config["SOCK_SERVER_OPTIONS"] = {"subprotocols": [SUBPROTOCOL], "thread_class": NoThread}
    refuse_unlisted(app)
    _log_requests(app, api, clock)
    app.before_request(functools.partial(refuse_foreign_pages, settings.local))
    _answer_errors(app)
    if settings.behind_proxy:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=0, x_host=0)  # type: ignore[method-assign]
    return app


def refuse_unlisted(app: Flask) -> None:
    """A route that is not in the table has no roles: the program does not start with one."""
    listed = {(route.method, route.path) for route in ROUTES}
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD"}):
            if (method, rule.rule) not in listed:
                raise RuntimeError(f"{method} {rule.rule} is not in the table of routes")


def _view(api: Api, route: Route) -> Callable[..., Response]:
    def view(**parts: str) -> Response:
        request.max_content_length = route.limit
        arguments: list[Any] = [None]
        if route.roles is not None:
            g.caller, _ = api.caller(bearer_token(), route.roles)
            arguments = [g.caller]
        if route.body is not None:
            arguments.append(route.body())
        reply = route.handler(api, *arguments, **parts)
        return reply if isinstance(reply, Response) else answer_of(reply)

    return view


class NoThread:
    """In place of the thread that simple-websocket starts for each socket: here one thread reads them all."""

    name = ""

    def __init__(self, target: object) -> None: ...

    def start(self) -> None: ...


def _handshakes(api: Api, route: Route, sockets: Adopter) -> Blueprint:
    """The WebSocket's address for flask-sock, whose view begins with the upgrade: who may not is told before it."""
    handshakes = Blueprint("websocket", __name__)

    @handshakes.before_request
    def admit() -> None:
        api.admit(route.roles or EVERY_ROLE)

    def websocket(upgraded: Any) -> None:
        upgraded.connected = False  # or flask-sock would say goodbye when this returns
        g.upgraded = True
        api.follow(sockets)

    def failed(error: Exception) -> Response:
        return error_answer(400, "bad_handshake", f"no WebSocket handshake of version 13: {error}")

    for kind in (RemoteProtocolError, SimpleWebsocketError, UnicodeError, OSError):
        handshakes.register_error_handler(kind, failed)
    Sock().route(route.path, handshakes, provide_automatic_options=False)(websocket)
    return handshakes


def _log_requests(app: Flask, api: Api, clock: Clock) -> None:
    @app.before_request
    def started() -> None:
        g.started = clock.monotonic()

    @app.after_request
    def ended(response: Response) -> Response:
        given = {name.lower() for name, _ in response.headers}
        response.headers.extend([x for x in SECURITY_HEADERS.items() if x[0].lower() not in given])
        if "upgraded" in g:
            response.status_code = 101  # flask-sock's own answer, 200, is not sent
        api.answered[response.status_code] += 1
        if not log.isEnabledFor(logging.INFO):
            return response
        quiet = g.get("quiet") or (request.path in QUIET_PATHS and response.status_code == 200)
        caller = g.get("caller")
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%.16s %.200s %d %s %s %.1f ms",
            request.method,
            request.path,
            response.status_code,
            caller.username if caller else "-",
            request.remote_addr,
            (clock.monotonic() - g.get("started", clock.monotonic())) * 1000,
        )
        return response


def _answer_errors(app: Flask) -> None:
    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        answer = error_answer(error.status, error.code, error.message)
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        if error.retry_after is not None:
            answer.headers["Retry-After"] = str(max(1, -int(-error.retry_after // 1)))
        return answer

    @app.errorhandler(BadJson)
    def bad_json(error: BadJson) -> Response:
        return error_answer(400, "bad_json", str(error))

    @app.errorhandler(BadField)
    def bad_field(error: BadField) -> Response:
        return error_answer(422, "bad_field", str(error), field=error.field)

    @app.errorhandler(Unavailable)
    def unavailable(error: Unavailable) -> Response:
        log.error("%s", error)
        answer = error_answer(503, "unavailable", "the database does not take it now, try again")
        answer.headers["Retry-After"] = "1"
        return answer

    @app.errorhandler(TooFast)
    def too_fast(error: TooFast) -> Response:
        return refused(Refused(429, "too_many_attempts", "too many attempts: wait", retry_after=error.wait_s))

    @app.errorhandler(Busy)
    def busy(_error: Busy) -> Response:
        return refused(Refused(429, "busy", "too many log-ins at once, try again", retry_after=2))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = (error.name or "error").lower().replace(" ", "_")
        answer = error_answer(status, code, error.name or "error")
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            answer.headers["Allow"] = ", ".join(sorted(allowed))
        return answer

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        number = secrets.token_hex(4)
        log.error("%.16s %.200s failed, error %s", request.method, request.path, number, exc_info=error)
        return error_answer(500, "internal", f"the server failed; the operator finds error {number} in its log")
