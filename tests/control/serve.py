"""A control plane as a process of its own: `python -m tests.control.serve MONGODB_URL [PORT]`; says its port."""

from __future__ import annotations

import json
import sys

from pod_worker.control.app import build_app
from pod_worker.control.server import serve
from pod_worker.store.mongo import connect
from tests.control.conftest import TOKEN


def main(url: str, port: str = "0") -> None:
    app = build_app(connect(url), None, token=TOKEN, open_on_loopback=True)
    serve(app, port=int(port), on_ready=lambda _host, found: print(json.dumps({"port": found}), flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
