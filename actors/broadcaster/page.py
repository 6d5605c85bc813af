"""Plain HTTP on the broadcaster's port: one page for people, one answer for probes, nothing else."""

import email.utils
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from typing import Any, Final

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Response

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:44rem;padding:0 1rem;"
    "color:#1a1d21;background:#fff}h1{font-size:1.4rem}code{background:#f0f2f5;padding:.1em .3em;"
    "border-radius:3px}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem "
    ".6rem;border-bottom:1px solid #d9dde3;font-variant-numeric:tabular-nums}.live{color:#136c2e}"
    ".stale{color:#a3210f}@media(prefers-color-scheme:dark){body{color:#e4e7eb;background:#14171a}"
    "code{background:#22272c}td,th{border-color:#2f363d}.live{color:#5bd67f}.stale{color:#ff8f7a}}"
)
_ICON: Final = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" '
    b'fill="#136c2e"/><path d="M2 9h3l2-5 3 8 2-3h2" fill="none" stroke="#fff" stroke-width="1.5"/></svg>'
)
_SAFE: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'"),
)
_REFRESH_S: Final = 2


class Pages:
    """Answers to plain requests."""

    def __init__(self, health: Callable[[], dict[str, Any]], url: Callable[[], str]) -> None:
        """Make the pages.

        Args:
            health: ``ok``, ``clients`` and by partition ``stale``, ``tick_age_s``, ``books``, ``cursors``.
            url: Where WebSocket clients connect.
        """
        self._health = health
        self._url = url

    def answer(self, method: str, path: str) -> Response:
        """Return the answer to a plain request; the path is compared, never looked up."""
        if method not in ("GET", "HEAD"):
            response = _response(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET and HEAD only\n")
            response.headers["Allow"] = "GET, HEAD"
        elif path == "/":
            response = _response(HTTPStatus.OK, "text/html", self._page())
        elif path == "/healthz":
            health = self._health()
            status = HTTPStatus.OK if health["ok"] else HTTPStatus.SERVICE_UNAVAILABLE
            response = _response(status, "application/json", orjson.dumps(health) + b"\n")
        elif path == "/favicon.ico":
            response = _response(HTTPStatus.OK, "image/svg+xml", _ICON)
        else:
            text = f"nothing here: this is a WebSocket server, connect to {self._url()}\n"
            response = _response(HTTPStatus.NOT_FOUND, "text/plain", text.encode())
        if method == "HEAD":
            response.body = b""
        return response

    def _page(self) -> bytes:
        health = self._health()
        rows = "".join(_row(name, of) for name, of in health["partitions"].items())
        url = escape(self._url())
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tapeline</title>'
            f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" '
            f'content="{_REFRESH_S}"><style>{_STYLE}</style><h1>Tapeline broadcaster</h1>'
            f"<p>Live crypto market data over WebSocket, in Barter Data Server's format. Connect to "
            f"<code>{url}</code>, for example <code>websockets {url}</code>. Filters go in the query: "
            f"<code>{url}/?kind=trade,order_book_l1&amp;symbol=BTC-USDT</code>. For probes: "
            f'<a href="/healthz">/healthz</a>. Subscriptions and resume: the native protocol, '
            f"<code>{url}/v1</code>.</p><p>{health['clients']} clients connected.</p><table>"
            f"<tr><th>partition<th>state<th>last tick<th>live books<th>events seen</tr>{rows}</table></html>"
        ).encode()


def _row(name: str, of: dict[str, Any]) -> str:
    state = "stale" if of["stale"] else "live"
    age = "never" if of["tick_age_s"] is None else f"{of['tick_age_s']:.1f} s ago"
    return (
        f'<tr><td>{escape(name)}<td class="{state}">{state}<td>{age}<td>{len(of["books"])}'
        f"<td>{of['events']:,}</tr>"
    )


def _response(status: HTTPStatus, media: str, body: bytes) -> Response:
    headers = Headers(
        [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Type", media if media.startswith("image") else f"{media}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *_SAFE,
        ]
    )
    return Response(status.value, status.phrase, headers, body)
