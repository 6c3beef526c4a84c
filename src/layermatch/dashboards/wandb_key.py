"""Whether W&B will find a key, found out without a word to its server."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from layermatch.dashboards.wandb_run import server_address

__all__ = ["has_key"]


def has_key() -> bool:
    """Return whether there is an API key or an identity token where :func:`wandb.login` says that it looks for one.

    NOTE: ``wandb.login`` itself would do, but it asks the server who the user is, and waits for it.

    Raises:
        UserError: W&B does not take its environment.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = server_address()
    import wandb

    settings = wandb.setup().settings
    return bool(settings.api_key or settings.identity_token_file or _password(urlsplit(address).netloc))


def _password(machine: str) -> str | None:
    """Return the password of a machine in the user's .netrc; None where W&B would find none, or could not read it."""
    try:
        entry = netrc.netrc(_netrc_file()).authenticators(machine)
    except (OSError, RuntimeError, netrc.NetrcParseError):  # a home folder that is unknown is a RuntimeError
        return None
    return entry[2] if entry else None


def _netrc_file() -> Path:
    if given := os.environ.get("NETRC"):
        return Path(given).expanduser()
    usual, windows = Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()
    return windows if windows.exists() and not usual.exists() else usual
