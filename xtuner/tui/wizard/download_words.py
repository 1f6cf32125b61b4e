"""What is said of a download: the plan, how far it is, how it ended. On the screen and in the numbered lines."""

from rich.text import Text

from xtuner.byte_size import shown_size
from xtuner.errors import XTunerError
from xtuner.hub.cache_download import CacheDownload
from xtuner.hub.findings import shown
from xtuner.hub.hub_client import Endpoint
from xtuner.hub.transfer import TransferProgress
from xtuner.language import _
from xtuner.run.text import visible
from xtuner.tui.wizard.columns import left
from xtuner.tui.wizard.model_download import DownloadState

_NAME_CELLS = 12
_MAX_BAR_CELLS = 40


def endpoint_words(endpoint: Endpoint) -> str:
    """Its address, and what named it."""
    return endpoint.url if endpoint.is_default else f"{endpoint.url} ({endpoint.named_by})"


def plan_lines(planned: CacheDownload) -> list[str]:
    """What would be fetched, from where and to where."""
    plan, client = planned.plan, planned.client
    token = _("with your token") if client.token else _("without a token")
    files = _("{number} files, {size}").format(number=planned.num_files, size=shown_size(planned.total_bytes))
    if kept := planned.total_bytes - planned.missing_bytes:
        files += _("; {size} of them are here already").format(size=shown_size(kept))
    rows = [
        (_("model"), plan.repo_id),
        (_("revision"), f"{plan.revision} ({plan.commit[:12]})"),
        (_("Hub"), f"{endpoint_words(client.endpoint)}, {token}"),
        (_("to fetch"), files),
        (_("free disk"), shown_size(planned.free_bytes)),
        (_("into"), str(planned.model_dir)),
    ]
    return [f"{left(name, _NAME_CELLS)} {value}" for name, value in rows]


def progress_words(progress: TransferProgress) -> str:
    """How far it is, on one line."""
    said = _("downloaded {done} of {total} ({share} %), {num_done} of {num_files} files, {speed}").format(
        done=shown_size(progress.done_bytes),
        total=shown_size(progress.total_bytes),
        share=_percent(progress.done_bytes, progress.total_bytes),
        num_done=progress.num_done,
        num_files=progress.num_files,
        speed=progress.speed,
    )
    return f"{said}, {shown(progress.current.path)}" if progress.current else said


def offer_words(state: DownloadState | None, repo_id: str) -> str:
    """What the step Model says of a download of `repo_id`, or of the one that goes on."""
    if state is None:
        return _("Ctrl+R downloads {repo_id} from the Hub; it shows how much first").format(repo_id=repo_id)
    said = _("Ctrl+R shows the download of {repo_id}").format(repo_id=state.repo_id)
    return f"{said}: {progress_words(state.progress)}" if state.progress else said


def screen_text(state: DownloadState, width: int) -> Text:
    """Everything that there is to say now, and the keys."""
    text = Text()
    if state.stage == "cached":
        text.append(_("{repo_id} is in the Hub cache already:").format(repo_id=state.repo_id) + "\n")
        text.append(f"{visible(str(state.model_dir))}\n")
    elif state.stage == "asking" and state.endpoint is not None:
        said = _("asking {endpoint} for {repo_id} …")
        text.append(said.format(endpoint=visible(endpoint_words(state.endpoint)), repo_id=state.repo_id) + "\n")
    elif state.stage == "planned" and state.planned is not None:
        text.append("".join(f"{visible(line)}\n" for line in plan_lines(state.planned)))
    elif state.progress is not None:
        _add_progress(text, state.progress, width)
    if state.error is not None:
        _add_error(text, state.error, is_stop=state.stage == "stopped")
    elif state.notice:
        text.append(f"\n{visible(state.notice)}\n", "yellow")
    text.append(f"\n{_keys(state)}", "bold")
    return text


def _add_progress(text: Text, progress: TransferProgress, width: int) -> None:
    cells = max(10, min(_MAX_BAR_CELLS, width - 36))
    _add_bar(text, progress.done_bytes, progress.total_bytes, cells)
    said = _("{num_done} of {num_files} files, {speed}")
    text.append(said.format(num_done=progress.num_done, num_files=progress.num_files, speed=progress.speed))
    text.append(_(", {time} left").format(time=progress.time_left) if progress.time_left else "")
    text.append("\n")
    if progress.current is not None:
        text.append(f"\n{visible(shown(progress.current.path, width))}\n")
        _add_bar(text, progress.current_bytes, progress.current.size, cells)


def _add_bar(text: Text, done_bytes: int, total_bytes: int, cells: int) -> None:
    percent = _percent(done_bytes, total_bytes)
    num_full = cells * percent // 100
    text.append("█" * num_full, "green")
    text.append("░" * (cells - num_full), "dim")
    said = _("{done} of {total}").format(done=shown_size(done_bytes), total=shown_size(total_bytes))
    text.append(f" {percent:>3} %  {said}\n")


def _percent(done_bytes: int, total_bytes: int) -> int:
    return min(100, 100 * done_bytes // total_bytes) if total_bytes else 100


def _add_error(text: Text, error: XTunerError, *, is_stop: bool) -> None:
    """The words of `xtuner download`; what a stopped one goes on with is a key here, and no command."""
    text.append("\n" if text else "")
    if is_stop:
        text.append(f"{visible(error.message)}\n", "bold")
        return
    text.append(f"✗ {visible(error.message)}\n", "bold red")
    for line in error.hint.splitlines():
        text.append(_("  hint: {hint}").format(hint=visible(line)) + "\n", "italic")


def _keys(state: DownloadState) -> str:
    words = {
        "cached": _("Enter: use it     d: ask the Hub for the newest     Esc: back"),
        "asking": _("Esc: back"),
        "planned": _("Enter: download     Esc: back"),
        "fetching": _("Esc: stop, and keep what came     b: go on in the background"),
        "stopped": _("Enter: go on     Esc: back"),
        "failed": _("Enter: try again     Esc: back"),
        "done": "",
    }
    return words[state.stage]
