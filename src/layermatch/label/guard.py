"""Who may talk to the server: the page that it gave its token to, on this machine, and nobody else."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["TOKEN_HEADER", "Guard", "reading_secret"]

#: Where the page gives the token when it changes something; no other site can make a browser send it.
TOKEN_HEADER = "x-layermatch-token"  # noqa: S105 -- the name of it

#: Bytes of a request at most: the numbers of a million pictures.
MOST_BYTES = 16_000_000

#: Everything comes from this server, nothing is inline, and no page may show this one.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def reading_secret(token: str) -> str:
    """Return what the cookie holds: it lets read, and does not tell the token, which lets change.

    Browsers send a cookie to every server of this machine, whatever its port.

    Args:
        token: The token.

    Example:
        >>> len(reading_secret("token")), "token" in reading_secret("token")
        (64, False)
    """
    return hmac.new(token.encode(), b"reading", "sha256").hexdigest()


class Guard:
    """Lets a request through that is to this machine, from this page, and has the token.

    A name that leads here (DNS rebinding) is refused by ``Host``, another site by ``Origin``. Reading takes the token
    from the address, or the :func:`reading_secret` from the cookie that this left; changing takes the token from a
    header.

    Args:
        app: What answers the requests that are let through.
        token: The token.
        port: The port of the server.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self.app, self.token, self.secret = app, token, reading_secret(token)
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.cookie = f"layermatch-label-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":  # no websocket is spoken here
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                made = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    made[name] = value
                made.setdefault("cache-control", "no-store")
                if refusal is None and scope["path"] == "/":
                    made.append("set-cookie", f"{self.cookie}={self.secret}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        answer = self.app if refusal is None else PlainTextResponse(f"{refusal[1]}\n", status_code=refusal[0])
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return the status and the reason of a refusal; None where there is none."""
        origin = headers.get("origin")
        if headers.get("host") not in self.hosts:
            return 421, "this server answers to 127.0.0.1 alone"
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            return 403, "another site has no business here"
        if scope["method"] in {"GET", "HEAD"}:
            if self._may_read(scope, headers):
                return None
            return 403, "open the address that the server printed: it has the token"
        return self._refusal_of_change(headers) if scope["method"] == "POST" else (405, "GET and POST are legal")

    def _refusal_of_change(self, headers: Headers) -> tuple[int, str] | None:
        length = headers.get("content-length", "")
        if not _are_equal(headers.get(TOKEN_HEADER, ""), self.token):
            return 403, "only the page may change anything"
        if not length.isascii() or not length.isdigit() or int(length[:12]) > MOST_BYTES:
            return 413, f"give at most {MOST_BYTES} bytes, and say how many"
        return None

    def _may_read(self, scope: Scope, headers: Headers) -> bool:
        # Cookies of other servers on this machine come too, of any form: Python's SimpleCookie stops at what it cannot
        # parse.
        cookie = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return _are_equal(cookie, self.secret) or any(_are_equal(token, self.token) for token in tokens)


def _are_equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())
