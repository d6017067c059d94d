"""The token that a Ray cluster may ask for (its default since Ray 2.60)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def find_token() -> str | None:
    """Returns the token of `$RAY_AUTH_TOKEN`, of the file `$RAY_AUTH_TOKEN_PATH`, or of ~/.ray/auth_token."""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def present_token() -> None:
    """Lets Ray in this process and its children present the token, as ``RAY_AUTH_MODE=token`` does from the start."""
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def refusal(address: str) -> str:
    """Returns the sentence for a cluster that does not let us in."""
    if find_token() is None:
        return (
            f"{address} asks for a token and there is none here: copy ~/.ray/auth_token from the cluster's head node, "
            "or set RAY_AUTH_TOKEN."
        )
    return f"{address} refuses our token: compare RAY_AUTH_TOKEN or ~/.ray/auth_token with the cluster's head node."
