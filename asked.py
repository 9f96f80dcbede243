"""What a request says, taken out of it and checked, and answers made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Response, request

from config import is_loopback
from signals import BadField, Check, decode, encode, read_fields, whole

SUBPROTOCOL: Final = "bearer"  # offered by browsers together with their token
PAGE: Final = 1000  # the longest list that one answer gives

Reply = tuple[int, dict[str, Any]]  # status and content


class Refused(Exception):
    """The answer is an error."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


def bearer_token() -> str | None:
    return token_in(request.headers.get("Authorization", ""))


def token_in(authorization: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def websocket_token() -> str | None:
    """The token of a WebSocket handshake.

    A browser cannot set Authorization; it offers the subprotocols "bearer" and the token itself.
    """
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if "Authorization" not in request.headers and len(offered) == 2 and offered[0] == SUBPROTOCOL:
        return offered[1]
    return bearer_token()


def from_loopback() -> bool:
    """Whether the caller is a program on this computer, and not somebody behind a proxy on it."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    return is_loopback(request.remote_addr or "")


def refuse_foreign_pages(local: bool) -> None:
    """A browser says whose page it is that asks. Pages of other sites may not, nor, on a server for this computer only,
    one whose site's name was made to lead here (DNS rebinding): its GET names no page, but the host as it knows it."""
    if local and not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        raise Refused(
            403,
            "foreign_host",
            "this server is for this computer only, by the name localhost or its address; behind a proxy it is started "
            "with --behind-proxy",
        )
    origin = request.headers.get("Origin")
    if origin is None:  # no browser, or a page that may not read the answer and has no token
        return
    site = origin.partition("://")[2].lower()
    if site != request.host.lower():
        raise Refused(403, "foreign_origin", "pages of other sites may not use this server")


def query(checks: Mapping[str, Check]) -> dict[str, Any]:
    """The checked parameters of the URL. Raises `BadField`."""
    given = request.args.to_dict(flat=False)
    if any(len(values) > 1 for values in given.values()):
        raise BadField(next(name for name, values in given.items() if len(values) > 1), "is given twice")
    return read_fields({name: values[0] for name, values in given.items()}, {}, checks)


def digits(check: Check) -> Check:
    """For the URL, where every value is text."""

    def checked(value: Any) -> Any:
        return check(int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None)

    return checked


def page() -> tuple[int, int]:
    found = query({"after": digits(whole(0, 2**62)), "limit": digits(whole(1, PAGE))})
    return found.get("after", 0), found.get("limit", 100)


def json_body() -> dict[str, Any]:
    return decode(request.get_data(cache=False))


def login_body() -> dict[str, Any]:
    """JSON, or a form as OAuth 2 clients send it, whose other fields are passed over."""
    if request.mimetype != "application/x-www-form-urlencoded":
        return json_body()
    form = request.form.to_dict(flat=False)
    for name in ("grant_type", "scope", "client_id", "client_secret"):
        form.pop(name, None)
    return {name: values[0] if len(values) == 1 else values for name, values in form.items()}


def answer_of(reply: Reply) -> Response:
    status, content = reply
    return Response(encode(content), status, mimetype="application/json")


def error_answer(status: int, code: str, message: str, **more: Any) -> Response:
    return answer_of((status, {"error": {"code": code, "message": message, **more}}))
