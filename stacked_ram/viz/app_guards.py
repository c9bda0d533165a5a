"""What the servers of this package (the app, `serve`) refuse before they read a request.

Needs Starlette, which Gradio and FastAPI bring.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MOST_TOGETHER = 400_000_000  # bytes of all uploads, until they are deleted


def guards(host: str, uploads: Path, most: int = MOST_TOGETHER) -> list[Middleware]:
    """The app's guards. uploads: folder of the uploads, which hold `most` bytes together."""
    return [*own_names(host), Middleware(UploadLimit, folder=uploads, most=most)]


def own_names(host: str) -> list[Middleware]:
    """On loopback a server answers to no other name, so that a page from elsewhere cannot reach it
    by a name of its own that leads here. host: that it listens on."""
    if not is_loopback(host):
        return []
    names = ["localhost", "127.0.0.1", host]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class UploadLimit:
    """Refuses an upload while the folder, and the uploads on their way, have no room for it."""

    def __init__(self, app: ASGIApp, folder: Path, most: int) -> None:
        self.app, self.folder, self.most = app, folder, most
        self.coming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").rstrip("/")
        if scope["type"] != "http" or scope["method"] != "POST" or not path.endswith("/upload"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("content-length", "")
        size = int(given) if given.isascii() and given.isdigit() else self.most
        kept = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        if kept + self.coming + size > self.most:
            refusal = PlainTextResponse("too many uploads; wait a few minutes", 429)
            await refusal(scope, receive, send)
            return
        self.coming += size
        try:
            await self.app(scope, receive, send)
        finally:
            self.coming -= size
