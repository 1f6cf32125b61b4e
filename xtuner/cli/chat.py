"""`xtuner chat`: talk with a model directory, on a terminal or from a script."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from xtuner.cli import console
from xtuner.errors import UsageError

if TYPE_CHECKING:
    from xtuner.cli.chat_target import ChatTarget
    from xtuner.v1.chat.model import ChatModel, Reply

_INTERRUPTED = 130  # as shells count a SIGINT


def command(
    path: Path = typer.Argument(..., metavar="DIR", help="A model, a LoRA adapter, a run or a work dir."),
    message: list[str] = typer.Option(
        [], "-m", "--message", metavar="TEXT", help="Ask this and leave; given again, ask that next."
    ),
    system: str | None = typer.Option(None, metavar="TEXT", help="What the model is told before everything else."),
    max_new_tokens: int | None = typer.Option(
        None, min=1, metavar="TOKENS", help="Longest reply.  [default: the model's own, else 1024]"
    ),
    temperature: float | None = typer.Option(
        None, min=0.0, metavar="T", help="0 always takes the most likely token.  [default: the model's own]"
    ),
    top_p: float | None = typer.Option(
        None, min=0.0, max=1.0, metavar="P", help="Draw from the likeliest tokens of this share.  [default: its own]"
    ),
    seed: int | None = typer.Option(
        None, metavar="N", help="Draw the same tokens each time.  [default: never the same]"
    ),
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = typer.Option(
        "auto", metavar="[auto|float32|bfloat16|float16]", help="Compute in this; auto: as the weights are stored."
    ),
    device: str = typer.Option("auto", metavar="NAME", help="cpu, cuda, cuda:1 ...; auto: a GPU if there is one."),
    json: bool = typer.Option(False, "--json", help="Print each reply as a JSON object."),
) -> None:
    """Talk with a model: on a terminal line by line, elsewhere with -m or a question on stdin.

    A run directory or a work dir means the newest model exported there. Defaults for sampling are those of the
    model's generation_config.json.

    \b
    Example:
      xtuner chat work_dirs
      xtuner chat Qwen3-0.6B -m "What is 7 times 8?" --temperature 0
      xtuner chat Qwen3-0.6B < question.txt > reply.txt
    """
    questions = _questions(message, as_json=json)
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # everything is on this disk
    from xtuner.cli.chat_target import find_target

    target = find_target(path)
    if target.is_export:
        console.say(f"talking with {target.path}")
    model = _load(target, dtype, device, seed)
    from xtuner.v1.chat.conversation import Conversation
    from xtuner.v1.chat.model import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p)
    conversation = Conversation(system or None)
    if questions is None:
        from xtuner.cli.chat_loop import ChatLoop

        ChatLoop(model, conversation, sampling).run()
        return
    from xtuner.cli.chat_reply import answer

    for question in questions:
        reply = answer(model, conversation, question, sampling, streams=not json and sys.stdout.isatty())
        _print(reply, as_json=json)
        if reply.stop == "interrupted":
            raise typer.Exit(_INTERRUPTED)


def _questions(messages: list[str], *, as_json: bool) -> list[str] | None:
    """What to ask; None is a person at a terminal, who is asked for it.

    Raises:
        UsageError: there is nothing to ask, or stdin is not UTF-8 text.
    """
    if not messages and sys.stdin.isatty():
        if as_json or not sys.stdout.isatty():
            what = "--json" if as_json else "a reply that is not shown on a terminal"
            raise UsageError(f"{what} needs a question", hint='pass it with -m "...", or on stdin')
        return None
    questions = messages or [_read_stdin()]
    if not all(question.strip() for question in questions):
        where = "-m is empty" if messages else "there is no question on stdin"
        raise UsageError(where, hint='ask something: -m "What is 7 times 8?"')
    return questions


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 text: {error.reason} at byte {error.start}", hint="convert it") from None


def _load(
    target: "ChatTarget", dtype: Literal["auto", "float32", "bfloat16", "float16"], device: str, seed: int | None
) -> "ChatModel":
    if sys.stderr.isatty():  # seconds before anything else can be shown
        console.say(f"loading {target.path}")
    from xtuner.v1.chat.load import load_chat_model
    from xtuner.v1.chat.model import set_seed

    model = load_chat_model(
        target.model_dir,
        adapter_dir=target.adapter_dir,
        tokenizer_dir=target.tokenizer_dir,
        dtype=dtype,
        device=device,
    )
    set_seed(seed)
    return model


def _print(reply: "Reply", *, as_json: bool) -> None:
    if as_json:
        console.data_json(
            {
                "reply": reply.text,
                "reasoning": reply.reasoning,
                "num_prompt_tokens": reply.num_prompt_tokens,
                "num_tokens": reply.num_tokens,
                "seconds": round(reply.seconds, 3),
                "stop": reply.stop,
            }
        )
    elif not sys.stdout.isatty():
        console.data(reply.text)
    if reply.stop == "length" and not as_json:
        console.warn(f"the reply was cut after {reply.num_tokens:,} tokens; --max-new-tokens allows more")
