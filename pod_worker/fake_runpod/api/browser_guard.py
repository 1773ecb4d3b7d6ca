"""Refuses requests that a web page makes a browser send (CSRF, DNS rebinding).

Pods run commands as the user of this server, so a web page must not reach the API. Browsers mark such requests:
with a foreign `Host` after DNS rebinding, and with `Origin` or `Sec-Fetch-Site` (Fetch Metadata, W3C) otherwise.
Clients that are no browsers send none of these.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.types import Scope

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAME_SITE = ("same-origin", "none")


def browser_refusal(scope: Scope, bind_address: str) -> str | None:
    """Why the request is refused; None for an accepted one."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = _host_name(headers.get(b"host", ""))
    if not _is_own_name(host, bind_address):
        return f"the Host header {host!r} is not an address of this server"
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
        return "requests of other web sites are refused (Origin)"
    if headers.get(b"sec-fetch-site", "none") not in _SAME_SITE:
        return "requests of other web sites are refused (Sec-Fetch-Site)"
    return None


def is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """Without port and brackets; empty for a malformed header."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own_name(host: str, bind_address: str) -> bool:
    """Beyond loopback any IP literal is accepted: DNS rebinding needs a name."""
    if host in LOOPBACK_NAMES or host == bind_address:
        return True
    return not is_loopback(bind_address) and _is_ip_address(host)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
