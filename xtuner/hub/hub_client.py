"""Which Hub is asked, and with which token.

`huggingface_hub` is imported when it is used: `xtuner --help` and `xtuner check-model` do not pay for it.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.hub.findings import shown, shown_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_ENDPOINT = "https://huggingface.co"
MIRRORS = {"hf-mirror": "https://hf-mirror.com"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_TOKEN = re.compile(r"[\x21-\x7e]{4,1000}")


@dataclass(frozen=True)
class Endpoint:
    """The address of a Hub, and what named it: an option, a variable, or nothing for the default."""

    url: str
    named_by: str = ""

    @property
    def is_default(self) -> bool:
        """Whether it is huggingface.co."""
        return self.url == DEFAULT_ENDPOINT

    @property
    def keeps_secrets(self) -> bool:
        """Whether a token sent there can be read by nobody on the way."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or parts.hostname in _LOOPBACK


@dataclass(frozen=True)
class HubClient:
    """A Hub and the token for it; the token is shown nowhere, not even by `repr`."""

    endpoint: Endpoint
    token: str | None = field(default=None, repr=False)

    @property
    def token_argument(self) -> str | bool:
        """For `token=` of huggingface_hub, where None would mean to look for one."""
        return self.token or False

    def api(self) -> "HfApi":
        """The API of this Hub."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint.url, token=self.token_argument, library_name="xtuner")

    def redact(self, text: str) -> str:
        """`text` without the token, which a server may have sent back."""
        return text.replace(self.token, "***") if self.token else text


def choose_endpoint(endpoint: str | None = None, mirror: str | None = None) -> Endpoint:
    """The Hub to ask: what an option names, else `HF_ENDPOINT`, else huggingface.co.

    Raises:
        UsageError: the address is none, the mirror is unknown, or both are given.
    """
    if endpoint is not None and mirror is not None:
        raise UsageError("--endpoint and --mirror name the same thing", hint="leave one of them out")
    if mirror is not None:
        if mirror not in MIRRORS:
            known = ", ".join(f"{name} ({url})" for name, url in MIRRORS.items())
            raise UsageError(f"no mirror {shown(mirror)!r} is known", hint=f"known: {known}; others: --endpoint URL")
        return Endpoint(MIRRORS[mirror], f"--mirror {mirror}")
    if endpoint is not None:
        return Endpoint(_checked_url(endpoint, "--endpoint"), "--endpoint")
    from_environment = os.environ.get("HF_ENDPOINT", "")
    if from_environment:
        return Endpoint(_checked_url(from_environment, "HF_ENDPOINT"), "HF_ENDPOINT")
    return Endpoint(DEFAULT_ENDPOINT)


def _checked_url(text: str, named_by: str) -> str:
    try:
        parts = urlsplit(text)
        has_secret = parts.username is not None or parts.password is not None
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, an unclosed [
        has_secret = is_address = False
    if has_secret:  # not repeated here: what stands before the @ is a secret
        raise UsageError(f"the address of {named_by} holds a name or a password", hint="put the token into HF_TOKEN")
    if not is_address or parts.query or parts.fragment:
        hint = f"did you mean https://{shown(text)}?" if re.fullmatch(r"[\w.-]+(:\d+)?", text) else "such as https://…"
        raise UsageError(f"{named_by} {shown(text)!r} is not the address of a Hub", hint=hint)
    return text.rstrip("/")


def connect(endpoint: Endpoint, token_file: Path | None = None) -> HubClient:
    """A client for `endpoint`, with the token of `token_file`, of `HF_TOKEN` or of `hf auth login`.

    To an address that is neither https nor this machine no token is sent: anyone on the way could read it.

    Raises:
        UsageError: the token file cannot be read or holds no token.
        EnvironmentFault: the environment forbids the network.
    """
    # No telemetry; it would also ask huggingface.co for things while a mirror is asked for the model.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        names = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
        message = f"{' and '.join(names) or 'HF_HUB_OFFLINE'} forbids the network, so nothing can be downloaded"
        raise EnvironmentFault(message, hint=f"unset {' '.join(names) or 'HF_HUB_OFFLINE'}")
    token = _read_token(token_file) if token_file is not None else get_token()
    return HubClient(endpoint, token if endpoint.keeps_secrets else None)


def _read_token(path: Path) -> str:
    """The one line of `path`. What it holds is never part of a message."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        message = f"--token-file {shown_path(path)} cannot be read: {reason}"
        raise UsageError(message, hint="name a file with the token on its only line") from None
    if not _TOKEN.fullmatch(text):
        message = f"--token-file {shown_path(path)} does not hold one token on its only line"
        raise UsageError(message, hint="make a token at https://huggingface.co/settings/tokens")
    return text
