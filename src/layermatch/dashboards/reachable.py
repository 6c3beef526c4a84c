"""Whether a W&B server answers, found out in a few seconds."""

from __future__ import annotations

import ssl
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

__all__ = ["CHECK_SECONDS", "why_unreachable"]

#: A server that takes longer than this to say who it is would hold up the run as well.
CHECK_SECONDS = 3.0

#: What any W&B server answers, without a key.
QUERY = b'{"query": "query ServerInfo { serverInfo { cliVersionInfo } }"}'


def why_unreachable(base_url: str, *, seconds: float = CHECK_SECONDS) -> str | None:
    """Return why a W&B server cannot be used.

    Only what is certain counts: no connection, no answer in time, or a status of 500 and above. Anything else, such as
    a certificate that Python does not know, is left for W&B itself to judge.

    Args:
        base_url: The address of the server, ``http://...`` or ``https://...``.
        seconds: The time within which it must have answered, in seconds, name look-up included.

    Returns:
        The reason in a few words; None where the server answers.

    Example:
        >>> why_unreachable("http://127.0.0.1:9")
        'Connection refused'
    """
    if not base_url.startswith(("http://", "https://")):
        return f"{base_url!r} is no address"
    answer: list[str | None] = []
    # In a thread of its own, as nothing else bounds how long a name is looked up or how slowly an answer drips in.
    thread = Thread(target=lambda: answer.append(_ask(base_url, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else f"no answer within {seconds:g} s"


def _ask(base_url: str, seconds: float) -> str | None:
    url = f"{base_url.rstrip('/')}/graphql"
    request = Request(url, data=QUERY, headers={"Content-Type": "application/json"})  # noqa: S310 -- http(s), see above
    try:
        with urlopen(request, timeout=seconds) as response:  # noqa: S310
            response.read(1)
    except HTTPError as error:
        return f"HTTP status {error.code}" if error.code >= 500 else None
    except URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else _words(error.reason, seconds)
    except OSError as error:
        return _words(error, seconds)
    return None


def _words(reason: object, seconds: float) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {seconds:g} s"
    return getattr(reason, "strerror", None) or str(reason)
