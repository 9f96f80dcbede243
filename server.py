"""The API server: takes the masters' trades, keeps their books, and tells the followers.

python server.py                            serve
python server.py adduser NAME --role master make a user
python server.py passwd NAME                give a user another password
python server.py users                      list the users
python server.py backup FILE                write a copy of the database, also while the server runs

It never trades, and it never sends what it has not stored. The routes are in `routes.py`, what they do in `api.py`,
the memory in `db.py`, the connected followers in `hub.py`, the sockets in `webserver.py` and `wire.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import getpass
import logging
import os
import re
import secrets
import signal
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from api import Registration, Settings
from auth import PASSWORD, Brake, Passwords, network_of, read_secret
from config import is_loopback
from console import LogFile, owners_alone, print_any_letters
from database import Unavailable, Unusable, hold
from db import Store
from hub import Hub
from records import Role
from routes import create_app, may_send_much
from signals import USERNAME
from users import NameTaken
from version import VERSION
from webserver import MOST_CONNECTIONS, MOST_FROM_ADDRESS, CannotListen, WebServer
from windows import keeping_window_open
from wire import SocketThreads

__all__ = ["Settings", "create_app", "main"]

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

ADMIN_PASSWORD = "AIBOT_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
USER_PASSWORD = "AIBOT_USER_PASSWORD"  # noqa: S105
WRONG_USE = 2
MOST_WEBSOCKETS: Final = 10_000
FILES_OF_OURS: Final = 64
MOST_TOKEN_MINUTES: Final = 24 * 60
LOG_LINE: Final = "%(asctime)s %(levelname)-7s %(message)s"
SECRETS: Final = re.compile(
    # A token, with what stands right before it. Tried once for each word, and never again within it: strangers choose
    # what is looked through here, and everybody waits meanwhile.
    r"(?<![\w-])(?:(?!eyJ)[\w-])*+eyJ[\w-]{8,}+\.[\w-]*+\.[\w-]*"
    r"|(?P<name>(?i:bearer\s+|\"?(?:password|access_token|authorization)\"?\s*[:=]\s*\"?(?:bearer\s+)?))"
    r"(?:[^\"&\s][^\"&]*)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    print_any_letters()
    options = parser().parse_args(argv)
    os.umask(0o077)  # whatever is made here is its owner's alone
    set_up_logging(options.quiet or options.command is not None, options.verbose)
    try:
        if options.log is not None:
            log_to_file(options.log)
        return {
            "adduser": add_user,
            "passwd": change_password,
            "users": list_users,
            "backup": back_up,
            None: serve,
        }[options.command](options)
    except (Unusable, Unavailable) as error:
        print(f"server: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--database", metavar="FILE", default=argparse.SUPPRESS, help="database file (default: aibot.db here)"
    )
    main_parser = argparse.ArgumentParser(
        prog="server.py", description="AIBOT Trade Copier: the API server", parents=[common]
    )
    main_parser.set_defaults(database="aibot.db")
    main_parser.add_argument("--version", action="version", version=VERSION)
    main_parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    main_parser.add_argument("--port", type=port, default=8000, help="port, 0 = any free one (default: %(default)s)")
    main_parser.add_argument(
        "--registration",
        type=Registration,
        choices=list(Registration),
        help="who may make an account with POST /users/public: anyone, anyone but waiting for an admin, nobody "
        "(default: open while listening on loopback only, approval otherwise)",
    )
    main_parser.add_argument(
        "--token-minutes", type=minutes, default=60.0, help="life of a token (default: %(default)s)"
    )
    main_parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM), to speak https and wss")
    main_parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    main_parser.add_argument(
        "--behind-proxy",
        action="store_true",
        help="a proxy on this computer passes requests on and says in X-Forwarded-For from whom they come",
    )
    main_parser.add_argument(
        "--per-address",
        type=one_or_more,
        metavar="N",
        default=MOST_FROM_ADDRESS,
        help="connections, and WebSockets, that one address may hold (default: %(default)s)",
    )
    main_parser.add_argument("--log", metavar="FILE", help="write the log there too; begun anew at 10 MB, 5 are kept")
    main_parser.add_argument("--quiet", action="store_true", help="show warnings and errors only")
    main_parser.add_argument("--verbose", action="store_true", help="show everything, heartbeats too")
    commands = main_parser.add_subparsers(dest="command", metavar="COMMAND")
    adding = commands.add_parser("adduser", parents=[common], help="make a user", description="Make a user.")
    adding.add_argument("name")
    adding.add_argument("--role", type=Role, choices=list(Role), required=True)
    changing = commands.add_parser("passwd", parents=[common], help="give a user another password")
    changing.add_argument("name")
    commands.add_parser("users", parents=[common], help="list the users")
    backing_up = commands.add_parser("backup", parents=[common], help="write a copy of the database")
    backing_up.add_argument("file", help="a file that is not there yet")
    return main_parser


def port(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return number


def minutes(value: str) -> float:
    number = float(value)
    if not 0 < number <= MOST_TOKEN_MINUTES:
        raise argparse.ArgumentTypeError(f"must be above 0, at most {MOST_TOKEN_MINUTES} (a day)")
    return number


def one_or_more(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


class AwakeClock:
    """The clocks of this computer, and both go on while it sleeps.

    The module `time` has none such on Linux: its monotonic clock stands still then (man 2 clock_gettime). That of
    Windows does not (GetTickCount64 until Python 3.12, QueryPerformanceCounter since; Microsoft's pages on both).
    """

    @staticmethod
    def time() -> float:
        return time.time()

    @staticmethod
    def monotonic() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class OneLine(logging.Formatter):
    """What happened on one line, in UTC.

    Control characters, which could forge another line, are escaped, and what looks like a token or a password is not
    shown, whoever put it there.
    """

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in redacted(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        lines = redacted(super().formatException(ei)).splitlines()
        return "\n".join("  | " + line for line in lines)  # none of which can be taken for a line of the log


def redacted(text: str) -> str:
    return SECRETS.sub(lambda found: (found["name"] or "") + "[hidden]", text)


def set_up_logging(quiet: bool, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(OneLine(LOG_LINE))
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_to_file(path: str) -> None:
    """Raises `Unusable`."""
    try:
        owners_alone(Path(path))
        handler = LogFile(Path(path))
    except OSError as error:
        raise Unusable(f"the log {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(OneLine(LOG_LINE))
    logging.getLogger().addHandler(handler)


# --- serving ---------------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """Everything in place, then requests until Ctrl-C or a thread that failed; taken down in reverse."""
    database = Path(options.database)
    tls = tls_context(options.tls_cert, options.tls_key)
    local = is_loopback(options.host) and not options.behind_proxy
    if options.behind_proxy and not is_loopback(options.host):
        raise Unusable("--behind-proxy needs a --host on this computer: others could say what they like in its place")
    registration = options.registration or (Registration.OPEN if local else Registration.APPROVAL)
    failed = threading.Event()
    with contextlib.ExitStack() as taken_down:
        taken_down.enter_context(hold(database.with_name(database.name + ".lock")))
        for file in (database, database.with_name(database.name + "-wal"), database.with_suffix(".secret")):
            try:
                owners_alone(file)
            except OSError as error:
                raise Unusable(f"{file} can be read by others, and that cannot be changed: {error.strerror}") from error
        secret = read_secret(database.with_suffix(".secret"))
        store = Store(database, AwakeClock())
        taken_down.callback(store.close)

        def thread_failed() -> None:
            failed.set()
            server.shutdown()

        sockets = SocketThreads(time, thread_failed)
        hub = Hub(store, time, sockets.send_to_all)
        settings = Settings(
            secret,
            registration,
            options.token_minutes * 60,
            local=local,
            behind_proxy=options.behind_proxy,
            websockets_per_address=options.per_address,
            most_websockets=most_websockets(),
        )
        app = create_app(store, hub, settings, time, sockets)
        taken_down.callback(app.extensions["api"].end)
        most_from_address = None if options.behind_proxy else options.per_address
        try:
            server = WebServer(
                options.host,
                options.port,
                app,
                tls,
                most_from_address=most_from_address,
                address_group=network_of,
                may_send_much=functools.partial(may_send_much, app.extensions["api"]),
            )
        except CannotListen as error:
            raise Unusable(f"cannot listen on {options.host} port {options.port}: {error}") from error
        taken_down.callback(server.server_close)
        make_first_admin(store)

        def run_hub() -> None:
            try:
                hub.run()
            except Exception:
                log.exception("the hub's thread ended")
                thread_failed()

        hub_thread = threading.Thread(target=run_hub, name="hub", daemon=True)
        hub_thread.start()
        taken_down.callback(hub_thread.join, 5.0)
        taken_down.callback(hub.stop)
        taken_down.callback(sockets.stop)
        taken_down.callback(hub.close_all)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):  # one that comes before serve_forever, which ends on it by itself
            print(f"listening on {server.url} (registration {registration}, database {database})", flush=True)
            server.serve_forever(poll_interval=0.2)
        log.info("ending")
    return 1 if failed.is_set() else 0


def tls_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None:
        raise Unusable("--tls-key needs --tls-cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Unusable(f"the TLS certificate cannot be used: {error}") from error
    return context


def most_websockets() -> int:
    """How many sockets the system lets this process have, after raising that as far as it may be raised."""
    if sys.platform == "win32":
        return MOST_WEBSOCKETS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        soft = hard
    else:
        soft = max(soft, MOST_WEBSOCKETS + MOST_CONNECTIONS + FILES_OF_OURS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MOST_WEBSOCKETS, soft - MOST_CONNECTIONS - FILES_OF_OURS))


def make_first_admin(store: Store) -> None:
    """A database without any admin gets one; a password that was made here is shown this one time."""
    if store.has_admin():
        return
    given = os.environ.get(ADMIN_PASSWORD)
    chosen = valid_password(given, ADMIN_PASSWORD) if given else secrets.token_urlsafe(12)
    store.add_user("admin", Passwords().hashed(chosen), Role.ADMIN)
    if not given:
        print(f"the administrator is: admin, password: {chosen} (shown only now)", flush=True)


# --- the other commands ----------------------------------------------------------------------------------------------


def add_user(options: argparse.Namespace) -> int:
    name = valid(USERNAME, options.name, "the user name")
    with contextlib.closing(Store(options.database, AwakeClock(), guest=True)) as store:
        try:
            store.add_user(name, Passwords().hashed(asked_password(name)), options.role)
        except NameTaken as error:
            raise Unusable(f"there is a user {name} already") from error
    print(f"{options.role} {name} added to {options.database}")
    return 0


def change_password(options: argparse.Namespace) -> int:
    with contextlib.closing(Store(options.database, AwakeClock(), guest=True)) as store:
        if store.user_named(options.name) is None:
            raise Unusable(f"there is no user {options.name} in {options.database}")
        store.change_user(options.name, password=Passwords().hashed(asked_password(options.name)))
        Brake(store).forgive(options.name)
    print(f"password of {options.name} changed; its log-ins are void")
    return 0


def list_users(options: argparse.Namespace) -> int:
    with contextlib.closing(Store(options.database, AwakeClock(), guest=True)) as store:
        for user in store.users():
            print(f"{user.id:5}  {user.username:24} {user.role:8} {'active' if user.active else 'not active'}")
    return 0


def back_up(options: argparse.Namespace) -> int:
    with contextlib.closing(Store(options.database, AwakeClock(), guest=True)) as store:
        store.back_up(options.file)
    print(f"{options.database} copied to {options.file}")
    return 0


def asked_password(name: str) -> str:
    """From the environment, from a pipe, or asked for twice."""
    given = os.environ.get(USER_PASSWORD)
    if given:
        return valid_password(given, USER_PASSWORD)
    if not sys.stdin.isatty():
        return valid_password(sys.stdin.readline().rstrip("\r\n"), "the password")
    first = valid_password(getpass.getpass(f"password of {name}: "), "the password")
    if getpass.getpass("the same again: ") != first:
        raise Unusable("the two passwords differ")
    return first


def valid_password(value: str, what: str) -> str:
    return str(valid(PASSWORD, value, what))


def valid(check: Any, value: str, what: str) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise Unusable(f"{what} {error}") from error


if __name__ == "__main__":
    sys.exit(keeping_window_open(main))
