"""The configurations of docs/deployment.md, as they stand there, in front of the real server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from server_kit import ORIGINAL_SIGNAL, Listening, Serving, serving

from webserver import IDLE_S
from wire import PING_S

PAGE: Final = (Path(__file__).resolve().parent.parent / "docs" / "deployment.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def nginx(folder: Path, port: int, server: str, certificate: tuple[Path, Path]) -> list[str]:
    site = replaced(
        block("nginx"),
        {
            "127.0.0.1:8000": server,
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/letsencrypt/live/trade.example/fullchain.pem": str(certificate[0]),
            "/etc/letsencrypt/live/trade.example/privkey.pem": str(certificate[1]),
            "trade.example": "localhost",
        },
    )
    places = "".join(f"{name}_temp_path {folder};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "" if os.getuid() else "user root;"  # another one may not write into the test's folder
    around = f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
    (folder / "nginx.conf").write_text(f"{around}http {{\n{places}access_log off;\n{site}}}\n")
    return ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, server: str, certificate: tuple[Path, Path]) -> list[str]:
    site = replaced(
        block("caddyfile"),
        {
            "127.0.0.1:8000": server,
            "{\n\tservers": f"{{\n\tadmin off\n\thttps_port {port}\n\thttp_port {free_port()}\n\tservers",
            "trade.example {": f"localhost {{\n\ttls {certificate[0]} {certificate[1]}",
        },
    )
    (folder / "Caddyfile").write_text(site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


class Proxied:
    """The server as one reaches it through the proxy."""

    def __init__(self, server: Serving, port: int, trusted: Path) -> None:
        self.server = server
        self.url = f"https://localhost:{port}"
        self._trusted = str(trusted)

    def call(self, method: str, path: str, body: Any = None, *, source: str = "127.0.0.1", **headers: str) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            session.get_adapter("https://").init_poolmanager(1, 1, source_address=(source, 0))
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            return session.request(
                method, self.url + path, json=body, headers=headers, timeout=20, verify=self._trusted
            )

    def listen(self, token: str, **options: Any) -> Listening:
        listening = Listening(self.url, token, sslopt={"ca_certs": self._trusted}, **options)
        self.server.listening.append(listening)
        return listening


@pytest.fixture(params=[nginx, caddy], ids=lambda made: made.__name__)
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, certificate: tuple[Path, Path], wait_until: Callable[..., None]
) -> Iterator[Proxied]:
    if sys.platform == "win32" or shutil.which(request.param.__name__) is None:
        pytest.skip(f"{request.param.__name__} is not installed")
    folder = tmp_path / "proxy"
    folder.mkdir()
    with serving(tmp_path, local=False, behind_proxy=True) as server:
        port = free_port()
        command = request.param(folder, port, server.url.removeprefix("http://"), certificate)
        with open(folder / "out.log", "wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            )
        try:

            def listens() -> bool:
                assert process.poll() is None, (folder / "out.log").read_text()
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    return True
                return False

            wait_until(listens)
            yield Proxied(server, port, certificate[0])
        finally:
            process.terminate()
            process.wait(20)


def test_a_proxy_passes_on_requests_websockets_and_who_is_calling(proxied: Proxied) -> None:
    server = proxied.server
    master, client = server.user("master_user", "master"), server.user("client_user")
    assert proxied.call("GET", "/health").json() == {"status": "ok"}
    listening = proxied.listen(client.token).joined()
    [seen] = server.hub._addresses
    assert seen == "127.0.0.1"
    answer = proxied.call("POST", "/signal/broadcast", ORIGINAL_SIGNAL, **master.headers)
    assert (answer.status_code, answer.json()["delivered"]) == (201, 1)
    assert listening.next("signal")["seq"] == 1
    wrong = {"username": "nobody", "password": "wrong horse"}
    claimed = [
        proxied.call("POST", "/token", wrong, source="127.0.0.7", X_Forwarded_For=f"192.0.2.{n}, 192.0.2.{n + 100}")
        for n in range(6)
    ]
    assert [answer.status_code for answer in claimed] == [401] * 5 + [429]
    assert proxied.call("POST", "/token", wrong, source="127.0.0.8").status_code == 401
    assert proxied.call("GET", "/metrics").status_code == 401
    assert proxied.call("GET", "/metrics", X_Forwarded_For="127.0.0.1").status_code == 401


def test_a_proxy_leaves_the_hosts_name_and_the_servers_own_refusals(proxied: Proxied) -> None:
    assert proxied.call("GET", "/health", Origin=proxied.url).status_code == 200
    assert proxied.call("GET", "/health", Origin="https://evil.example").json()["error"]["code"] == "foreign_origin"
    client = proxied.server.user("client_user")
    listening = proxied.listen(client.token, origin=proxied.url).joined()
    listening.socket.send('{"type": "sync"}')
    assert listening.next()["type"] == "book"
    master = proxied.server.user("master_user", "master")
    for path, size in (("/token", 5_000), ("/signal/broadcast", 70_000), ("/signal/book", 1_100_000)):
        method = "PUT" if path == "/signal/book" else "POST"
        answer = proxied.call(method, path, {"x": "x" * size}, **master.headers)
        assert (answer.status_code, "error" in answer.json()) == (413, True), path
    assert proxied.call("GET", "/health").headers["Strict-Transport-Security"]


def test_the_proxys_times_fit_the_servers() -> None:
    kept = [int(found) for found in re.findall(r"keepalive(?:_timeout)? (\d+)s", PAGE)]
    assert len(kept) == 2
    assert max(kept) < IDLE_S
    [silent] = re.findall(r"proxy_read_timeout (\d+)s", PAGE)
    assert int(silent) > 2 * PING_S


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / "aibot.service"
    python = {"/opt/aibot/.venv/bin/python": sys.executable}
    unit.write_text(replaced(block("ini"), python))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "aibot" in line]
    assert (ours, done.returncode) == ([], 0), done.stderr
