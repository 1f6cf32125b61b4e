"""`xtuner download`: a model from the Hub or a mirror, verified, and judged at the end."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from xtuner.cli import console
from xtuner.cli.download_text import plan_lines, verdict_lines
from xtuner.cli.progress import downloading_bar
from xtuner.errors import ModelError, StoppedAndSaved

if TYPE_CHECKING:
    from xtuner.hub.download_plan import DownloadPlan
    from xtuner.hub.download_target import CacheTarget, LocalTarget
    from xtuner.hub.hub_client import HubClient
    from xtuner.hub.transfer import Transfer

# A directory that is one of these is not the place to put a model into; any other may be.
_WRONG_PLACES = {"NOT_A_DIRECTORY", "DANGLING_LINK", "HUB_CACHE_ROOT", "HUB_CACHE_REPO", "HUB_CACHE_SNAPSHOTS"}


def command(
    repo: str = typer.Argument(
        ..., metavar="REPO", help="The model on the Hub, such as Qwen/Qwen3-8B, or the address of its page."
    ),
    local_dir: Path = typer.Option(None, metavar="DIR", help="Put the files there.  [default: the Hub cache]"),
    revision: str = typer.Option(None, metavar="REV", help="Branch, tag or commit.  [default: main]"),
    endpoint: str = typer.Option(
        None, metavar="URL", help="The Hub to ask.  [default: $HF_ENDPOINT, else huggingface.co]"
    ),
    mirror: str = typer.Option(None, metavar="NAME", help="A known mirror instead of --endpoint: hf-mirror."),
    include: list[str] = typer.Option(
        None, metavar="GLOB", help="Fetch these files instead of what training needs; may be repeated."
    ),
    exclude: list[str] = typer.Option(None, metavar="GLOB", help="Leave these files out; may be repeated."),
    token_file: Path = typer.Option(
        None, metavar="FILE", help="A file that holds your token.  [default: $HF_TOKEN, else `hf auth login`]"
    ),
    force: bool = typer.Option(False, "--force", help="Download again what is there, and write over other files."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print what would be fetched and left out, and stop."),
    json: bool = typer.Option(False, "--json", help="Print the plan (with --dry-run) or the outcome as JSON."),
) -> None:
    """Download a model, and check that it can be trained.

    Fetches what training needs: safetensors, JSON, tokenizer and template files; no pickles, no GGUF, no code.
    What was cut goes on where it stopped. The last line on stdout is the directory to train from.

    \b
    Example:
      xtuner download Qwen/Qwen3-8B --local-dir models/Qwen3-8B
      xtuner sft --load-from "$(xtuner download Qwen/Qwen3-0.6B)" --dataset chats.jsonl
    """
    from xtuner.hub.cache_download import offering_what_is_cached
    from xtuner.hub.download_plan import Selection
    from xtuner.hub.hub_client import choose_endpoint, connect
    from xtuner.hub.hub_errors import explained
    from xtuner.hub.hub_repo import make_plan, parse_repo

    repo_id, revision = parse_repo(repo, revision)
    if local_dir is not None:
        local_dir = Path(os.path.expanduser(local_dir))  # which shells do not do in --local-dir=~/models
        _check_place(local_dir)
    hub = choose_endpoint(endpoint, mirror)
    try:
        with offering_what_is_cached(repo_id):
            client = connect(hub, token_file)
            _say_endpoint(client)
            plan = make_plan(client, repo_id, revision, Selection(include or (), exclude or ()), console.say)
        with explained(client, repo_id, revision):
            download(client, plan, local_dir, force=force, dry_run=dry_run, as_json=json)
    except KeyboardInterrupt:
        raise StoppedAndSaved("stopped") from None


def download(
    client: "HubClient",
    plan: "DownloadPlan",
    local_dir: Path | None,
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Carry out `plan`, or tell of it.

    Raises:
        XTunerError: the download failed or was stopped, or what came cannot be trained.
    """
    from xtuner.hub.cache_layout import hub_cache
    from xtuner.hub.download_target import CacheTarget, LocalTarget, check_in_the_way
    from xtuner.hub.free_disk import check_disk
    from xtuner.hub.transfer import Transfer

    cached = CacheTarget(hub_cache(), plan)
    target = cached if local_dir is None else LocalTarget(local_dir, cached)
    if isinstance(target, LocalTarget) and not force:
        check_in_the_way(target, plan)
    transfer = Transfer(client, plan, target, force=force)
    if dry_run:
        _tell_plan(plan, target, transfer, as_json=as_json)
        check_disk(target.model_dir, transfer.missing_bytes())
        return
    if isinstance(target, LocalTarget) and transfer.num_files and not force:
        choice = _offer_cached(cached, plan, target)
        if choice == "use":
            target, transfer = cached, Transfer(client, plan, cached)
        elif choice == "download":
            transfer = Transfer(client, plan, target, force=True)
    _carry_out(plan, target, transfer)
    _finish(plan, target, as_json=as_json)


def _check_place(local_dir: Path) -> None:
    """The same words for a wrong path as `xtuner check-model` and `xtuner sft` have."""
    from xtuner.hub.model_dir import inspect_model

    if not os.path.lexists(local_dir) or os.path.lexists(local_dir / "config.json"):
        return
    for finding in inspect_model(local_dir).findings:
        if finding.code in _WRONG_PLACES:
            raise ModelError(finding.message, hint=finding.hint)


def _say_endpoint(client: "HubClient") -> None:
    endpoint = client.endpoint
    if not endpoint.is_default:
        sent = "; your token is sent there" if client.token else ""
        console.say(f"asking {endpoint.url} ({endpoint.named_by}){sent}")
    if not endpoint.keeps_secrets:
        console.warn(f"{endpoint.url} is not https, so no token is sent there")


def _tell_plan(
    plan: "DownloadPlan", target: "CacheTarget | LocalTarget", transfer: "Transfer", *, as_json: bool
) -> None:
    there = {file.path for file in plan.files if target.is_there(file)}
    if as_json:
        values = plan.to_json() | {"path": str(target.model_dir), "missing_bytes": transfer.missing_bytes()}
        console.data_json(values)
    else:
        console.data("\n".join(plan_lines(plan, target.model_dir, there, transfer.missing_bytes())))


def _offer_cached(cached: "CacheTarget", plan: "DownloadPlan", target: "LocalTarget") -> str:
    """What to do when the Hub cache has the model already: "use" it there, "copy" it, or "download" it again."""
    if not all(cached.is_there(file) for file in plan.files):
        return "copy"  # whatever large file the cache has
    path = shlex.quote(str(cached.model_dir))
    console.say(f"{plan.repo_id} is in the Hub cache already; to use it there, without a second copy:")
    console.say(f"  xtuner sft --load-from {path}")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        console.say(f"copying it to {target.model_dir} (--force downloads it again)")
        return "copy"
    console.say(f"[u] use it there   [c] copy it to {target.model_dir}   [d] download it again   [q] quit")
    while True:
        key = typer.getchar().lower()
        if key in ("q", "\x03", "\x04", "\x1b"):
            raise KeyboardInterrupt
        if key in ("u", "c", "d"):
            return {"u": "use", "c": "copy", "d": "download"}[key]


def _carry_out(plan: "DownloadPlan", target: "CacheTarget | LocalTarget", transfer: "Transfer") -> None:
    from xtuner.byte_size import shown_size
    from xtuner.hub.free_disk import check_disk

    if not transfer.num_files:
        console.say(f"{plan.repo_id} is there already: all {len(plan.files)} files")
    else:
        missing_bytes = transfer.missing_bytes()
        check_disk(target.model_dir, missing_bytes)
        kept = transfer.total_bytes - missing_bytes
        resumed = f", {shown_size(kept)} of them are here already" if kept else ""
        total = f"{transfer.num_files} files, {shown_size(transfer.total_bytes)}{resumed}"
        console.say(f"fetching {plan.repo_id} at {plan.commit[:12]} to {target.model_dir}: {total}")
    with downloading_bar() as (on_progress, on_notice):
        transfer.run(on_progress, on_notice)


def _finish(plan: "DownloadPlan", target: "CacheTarget | LocalTarget", *, as_json: bool) -> None:
    """Print where the model is, then say what it is worth; that is the exit code."""
    from xtuner.hub.model_dir import inspect_model

    report = inspect_model(target.model_dir)
    console.say("\n".join(verdict_lines(report)))
    if as_json:
        console.data_json(plan.to_json() | {"path": str(target.model_dir), "report": report.to_json()})
    else:
        console.data(str(target.model_dir))
    if not report.ok:
        raise typer.Exit(ModelError.exit_code)
