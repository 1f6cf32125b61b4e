"""Rows as questions: each chat up to its last reply, for the model to write that reply anew."""

from collections.abc import Iterator
from dataclasses import dataclass

from xtuner.data.chat import Chat
from xtuner.data.formats import read_row
from xtuner.data.jsonl import parse_line
from xtuner.data.lines import Chunk, LineReader
from xtuner.data.prepare import DataRequest, settle_format
from xtuner.data.sources import DataFile, find_files
from xtuner.data.template import TokenizerFiles


@dataclass(frozen=True)
class Prompt:
    """One chat without its last reply.

    Attributes:
        where: file and line.
        text: as the chat template shows it, with the beginning of the assistant's turn.
        ids: its tokens.
        reference: what the row replies.
    """

    where: str
    text: str
    ids: list[int]
    reference: str


def read_prompts(request: DataRequest, num_prompts: int) -> list[Prompt]:
    """The prompts of the first `num_prompts` chats with a reply whose prompt is within the length limit of rows.

    Fewer where the files of `request` hold fewer; plain text has none.

    Raises:
        ModelError: no readable tokenizer or chat template.
        DataError: a file that cannot be read, a row in error.
    """
    tokenizer = TokenizerFiles.load(request.tokenizer_dir, request.chat_template)
    prompts: list[Prompt] = []
    for file in find_files(request.specs) if num_prompts else []:
        for chat in _chats(file):
            prompt = _prompt(chat, tokenizer)
            if prompt and len(prompt.ids) < request.rows.max_tokens:
                prompts.append(prompt)
            if len(prompts) == num_prompts:
                return prompts
    return prompts


def _chats(file: DataFile) -> Iterator[Chat]:
    first: Chunk | None = None
    for chunk in LineReader(file).chunks():
        first = first or chunk
        format = settle_format(file, first)
        for index, (number, line) in enumerate(zip(chunk.numbers, chunk.lines, strict=True)):
            where = f"{file.path}:{number}"
            is_last = chunk.ends_file and index == len(chunk.lines) - 1
            row = read_row(parse_line(line, where, is_last=is_last), format, where)
            if isinstance(row, Chat):
                yield row


def _prompt(chat: Chat, tokenizer: TokenizerFiles) -> Prompt | None:
    if not chat.assistant_turns:
        return None
    last = chat.assistant_turns[-1]
    rendering = tokenizer.require_template().render(chat.messages[:last], chat.tools, add_generation_prompt=True)
    ids = tokenizer.tokenizer.encode(rendering.text, add_special_tokens=False).ids
    return Prompt(chat.where, rendering.text, ids, chat.messages[last]["content"])
