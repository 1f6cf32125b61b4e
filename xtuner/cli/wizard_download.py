"""The download of a model in numbered lines of text: what it comes to, a question, and now and then a line."""

from collections.abc import Callable
from pathlib import Path

from xtuner.byte_size import shown_size
from xtuner.cli import console
from xtuner.cli.progress import say_now_and_then
from xtuner.errors import StoppedAndSaved, XTunerError
from xtuner.hub.cache_download import CacheDownload, cached_model, plan_into_cache
from xtuner.hub.hub_client import choose_endpoint
from xtuner.hub.hub_repo import parse_repo
from xtuner.hub.library_notices import silence_library
from xtuner.language import _
from xtuner.tui.wizard.download_words import endpoint_words, plan_lines, progress_words


def download_plainly(answer: str, ask: Callable[[str], str]) -> Path | None:
    """The directory of the model that `answer` names; None when it is not wanted, or cannot be had.

    Args:
        answer: the name of a model on the Hub, or the address of its page.
        ask: returns what is typed at a prompt.
    """
    try:
        return _download(answer, ask)
    except StoppedAndSaved as stopped:
        console.say(stopped.message)
    except XTunerError as error:
        console.show_error(error)
    return None


def _download(answer: str, ask: Callable[[str], str]) -> Path | None:
    repo_id, revision = parse_repo(answer)
    endpoint = choose_endpoint()
    if (cached := cached_model(repo_id, revision)) is not None:
        console.say(_("{repo_id} is in the Hub cache already:").format(repo_id=repo_id) + f" {cached}")
        if ask(_("Enter uses it, n asks the Hub for the newest: ")) != "n":
            return cached
    silence_library()
    said = _("asking {endpoint} for {repo_id} …")
    console.say(said.format(endpoint=endpoint_words(endpoint), repo_id=repo_id))
    try:
        planned = plan_into_cache(endpoint, repo_id, revision, console.say)
    except KeyboardInterrupt:
        raise StoppedAndSaved(_("stopped")) from None
    console.say("\n".join(plan_lines(planned)))
    if planned.num_files and ask(_("download it ({size})? y or n: ").format(size=_missing(planned))) != "y":
        return None
    planned.run(planned.transfer(), say_now_and_then(progress_words), console.say)
    return planned.model_dir


def _missing(planned: CacheDownload) -> str:
    return shown_size(planned.missing_bytes)
