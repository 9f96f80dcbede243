"""Our application carried by another HTTP server: carrier.py NAME DATABASE PORT [CERTIFICATE KEY]."""

from __future__ import annotations

import ssl
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from api import Settings
from auth import read_secret
from db import Store
from hub import Hub
from routes import create_app

THREADS = 50


def run(name: str, app: Any, port: int, tls: tuple[str, str] | None) -> None:
    if name == "werkzeug as it is":
        from werkzeug.serving import make_server

        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        server: Any = make_server("127.0.0.1", port, app, threaded=True, ssl_context=context)
        print(f"listening on {port}", flush=True)
        server.serve_forever()
    elif name == "cheroot":
        from cheroot.ssl.builtin import BuiltinSSLAdapter
        from cheroot.wsgi import Server

        server = Server(("127.0.0.1", port), app, numthreads=THREADS)
        if tls:
            server.ssl_adapter = BuiltinSSLAdapter(*tls)
        server.prepare()
        print(f"listening on {port}", flush=True)
        server.serve()
    elif name == "gunicorn":
        from gunicorn.app.base import BaseApplication

        class Application(BaseApplication):  # type: ignore[misc]
            def load_config(self) -> None:
                options = {"bind": f"127.0.0.1:{port}", "worker_class": "gthread", "threads": THREADS, "workers": 1}
                options |= {"certfile": tls[0], "keyfile": tls[1]} if tls else {}
                options["when_ready"] = lambda _server: print(f"listening on {port}", flush=True)
                for option, value in options.items():
                    self.cfg.set(option, value)

            def load(self) -> Any:
                return app

        Application().run()
    elif name == "waitress":
        from waitress.server import create_server

        server = create_server(app, host="127.0.0.1", port=port, threads=THREADS, connection_limit=5000)
        print(f"listening on {port}", flush=True)
        server.run()
    else:
        raise SystemExit(f"there is no carrier {name}")


def main() -> None:
    name, database, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    store = Store(database, time)
    app = create_app(store, Hub(store, time), Settings(read_secret(database.with_suffix(".secret"))), time)
    run(name, app, port, (sys.argv[4], sys.argv[5]) if len(sys.argv) > 5 else None)


main()
