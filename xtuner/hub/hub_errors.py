"""What can go wrong with a Hub, in words and with a way out."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from xtuner.errors import EnvironmentFault, UsageError, XTunerError
from xtuner.hub.findings import shown, shown_names, shown_path
from xtuner.hub.hub_client import HubClient
from xtuner.hub.retry import is_broken_connection, status_of

AGAIN = "run the same command again: it goes on where it stopped"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(client: HubClient, repo_id: str, revision: str) -> Iterator[None]:
    """What huggingface_hub and the system raise in this block, as errors of this program.

    Raises:
        UsageError: there is no such repository or revision.
        EnvironmentFault: access, network, server or disk is in the way.
    """
    try:
        yield
    except XTunerError:
        raise
    except Exception as error:
        known = _explain(error, client, repo_id, revision)
        if known is None:
            raise
        raise known from None


def _explain(error: Exception, client: HubClient, repo_id: str, revision: str) -> XTunerError | None:
    from huggingface_hub.errors import (
        DisabledRepoError,
        FileMetadataError,
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # hf_hub_download wraps what it met in "cannot find the file in the local cache", which nobody asked about.
    cause = next((link for link in _causes(error) if status_of(link) or is_broken_connection(link)), error)
    if isinstance(cause, GatedRepoError):
        return _gated(client, repo_id)
    if isinstance(cause, RevisionNotFoundError):
        return _no_revision(client, repo_id, revision)
    if isinstance(cause, RepositoryNotFoundError):
        return _not_found(client, repo_id)
    if isinstance(cause, DisabledRepoError):
        return UsageError(f"{repo_id} is disabled by the Hub", hint="take another copy of the model")
    if isinstance(cause, RemoteEntryNotFoundError):
        message = f"{client.endpoint.url} lists a file of {repo_id} and then does not have it"
        return EnvironmentFault(message, hint=f"{AGAIN}; or try another endpoint")
    if isinstance(cause, FileMetadataError):
        return no_hub(client)
    return _explain_status(cause, client) or _explain_system(cause, client)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _gated(client: HubClient, repo_id: str) -> XTunerError:
    page = f"{client.endpoint.url}/{repo_id}"
    if client.token:
        message = f"{repo_id} is gated, and your token has no access to it"
        hint = f"agree to its terms at {page} with the account of the token (and let a fine-grained token read gated "
        return EnvironmentFault(message, hint=hint + "repositories), then run the same command again")
    message = f"{repo_id} is gated: its owner wants to know who downloads it, and no token was sent"
    return EnvironmentFault(message, hint=f"agree to its terms at {page}, then {_pass_token(client)}")


def _pass_token(client: HubClient) -> str:
    if not client.endpoint.keeps_secrets:
        return f"use an https endpoint: no token is sent to {client.endpoint.url}, where others could read it"
    return "pass a token of https://huggingface.co/settings/tokens: set HF_TOKEN, or --token-file FILE"


def _not_found(client: HubClient, repo_id: str) -> XTunerError:
    if client.token:
        message = f"there is no {repo_id} at {client.endpoint.url}, or it is private and your token cannot see it"
        return UsageError(message, hint="check the name, and whose token it is")
    message = f"there is no {repo_id} at {client.endpoint.url}, or it is private and no token was sent"
    return UsageError(message, hint=f"check the name; for a private one, {_pass_token(client)}")


def _no_revision(client: HubClient, repo_id: str, revision: str) -> XTunerError:
    try:
        refs = client.api().list_repo_refs(repo_id)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # only for a better hint: whatever happens here, the revision is the news
        names = []
    hint = f"it has {shown_names(names)}" if names else "leave --revision out for the newest"
    return UsageError(f"{repo_id} has no revision {shown(revision)!r}", hint=hint)


def no_hub(client: HubClient) -> XTunerError:
    """For answers that are not those of a Hub."""
    message = f"{client.endpoint.url} does not answer as a Hub does"
    return EnvironmentFault(message, hint="check the endpoint, and whether a proxy or a login page stands before it")


def _explain_status(error: BaseException, client: HubClient) -> XTunerError | None:
    status = status_of(error)
    url = client.endpoint.url
    if status is None:
        return None
    if status in (401, 403):
        whose = "the token" if client.token else "a request without a token"
        message = f"{url} refuses {whose} (HTTP {status}{_said(error, client)})"
        hint = "make a new token at https://huggingface.co/settings/tokens" if client.token else _pass_token(client)
        return EnvironmentFault(message, hint=hint)
    if status == 429:
        return EnvironmentFault(f"{url} has had too many requests from here (HTTP 429)", hint=f"wait, then {AGAIN}")
    if status >= 500:
        return EnvironmentFault(f"{url} is out of order (HTTP {status}{_said(error, client)})", hint=f"later, {AGAIN}")
    return EnvironmentFault(f"{url} answers HTTP {status}{_said(error, client)}", hint="check the endpoint")


def _said(error: BaseException, client: HubClient) -> str:
    text = getattr(error, "server_message", None)
    return f": {shown(client.redact(text), 200)}" if isinstance(text, str) and text else ""


def _explain_system(error: BaseException, client: HubClient) -> XTunerError | None:
    host = urlsplit(client.endpoint.url).netloc
    if is_broken_connection(error):
        reason = shown(client.redact(str(error)), 200) or type(error).__name__
        hint = "check the network and the proxy (HTTPS_PROXY)"
        if client.endpoint.is_default:
            hint += "; where huggingface.co cannot be reached, try --mirror hf-mirror"
        return EnvironmentFault(f"no connection to {host}: {reason}", hint=f"{hint}; then {AGAIN}")
    if isinstance(error, OSError) and error.errno in _FULL:
        hint = f"free some space, then {AGAIN}"
        return EnvironmentFault(f"the disk is full: {error.strerror}{_where(error)}", hint=hint)
    if isinstance(error, OSError) and error.errno is not None:
        hint = "check the directory and your rights in it"
        return EnvironmentFault(f"cannot write: {error.strerror}{_where(error)}", hint=hint)
    return None


def _where(error: OSError) -> str:
    return f": {shown_path(error.filename)}" if error.filename else ""
