"""The input of the data benchmarks: chats of realistic lengths, and a tokenizer to go with them.

    python benchmarks/chats.py DIRECTORY --num-rows 50000

writes `DIRECTORY/chats.jsonl` and `DIRECTORY/tokenizer/`. All text is from Python's own library (documentation,
docstrings, sources, licence), so nothing is downloaded and every machine has it. One Python release, number of rows
and seed give one file; another release has other sources, so figures compare only between runs on the same files.

Prose hardly ever repeats a sentence: it is a walk through the library's text that keeps jumping between the places
where a word stands. The words keep the frequencies and the neighbours of real text, so a tokenizer's cache of words
works as it would on real data, and a cache of whole sentences, useless on real data, is useless here.
"""

import argparse
import hashlib
import json
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from random import Random
from typing import NamedTuple

from xtuner.demo.tokenizer import EOS_TOKEN, PAD_TOKEN, train_bpe

# --- The tokenizer ---

MODEL_MAX_LENGTH = 4096

# TRL finds the trained tokens by the generation marks; a tool that does not need them renders the same text.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {{- message.content ~ '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def make_tokenizer(directory: Path, vocab_size: int = 32_768) -> None:
    """Write a byte-level BPE in the style of Qwen, trained on the standard library, and a ChatML template.

    Args:
        directory: made if need be; gets tokenizer.json, tokenizer_config.json and chat_template.jinja.
        vocab_size: ids of the tokenizer, the three special tokens and all 256 bytes among them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # The roles stand in every rendered chat, so they should be tokens of their own, as they are for a real model.
    texts = [*_library_sources(), *topics.values(), _library_licence(), "system\nuser\nassistant\n" * 1_000]
    train_bpe(texts, vocab_size).save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS_TOKEN,
        "pad_token": PAD_TOKEN,
        "model_max_length": MODEL_MAX_LENGTH,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


# --- The text it is all made of ---

# Folders that only some installations have, and tables of bytes that are no text.
_LEFT_OUT = frozenset(("test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "encodings"))

# A word of prose with the punctuation around it: no operators, paths or rulers, which docstrings are full of.
_PROSE_WORD = re.compile(r"""[("'`*]?[A-Za-z][A-Za-z'-]*[)"'`*]?[.,;:!?]?""")

# What a jump may leave behind, so that no two passages are the same; some are not ASCII.
_NAMES = ("Amélie", "Zoë", "Łukasz", "Jürgen", "Aoife", "Nguyễn", "Søren", "İpek", "Ravi", "Keiko", "Omar", "Grace")


class Corpus(NamedTuple):
    """The library's text as the walk needs it: `words` in order, the `places` of each word, and `code` lines."""

    words: list[str]
    places: dict[str, list[int]]
    code: list[str]


def read_corpus() -> Corpus:
    """The prose and the code of the standard library."""
    sources = _library_sources()
    docstrings = [text for source in sources for text in re.findall(r'"""(.*?)"""', source, re.DOTALL)]
    prose = "\n".join([*topics.values(), *docstrings, _library_licence()])
    words = [word for word in prose.split() if _PROSE_WORD.fullmatch(word)]
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        places.setdefault(word, []).append(place)
    code = [line for source in sources for line in source.splitlines() if 8 < len(line) < 100 and '"""' not in line]
    return Corpus(words, places, code)


def _library_sources() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*.py") if not _LEFT_OUT.intersection(path.relative_to(root).parts))
    return [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(files)]


def _library_licence() -> str:
    path = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# --- The chats ---

# Log-normal lengths with mean 400 and median 310: sigma = sqrt(2 ln(mean / median)).
MEDIAN_TOKENS, SIGMA_TOKENS = 310, 0.714
# The longest row still fits a pack of 4,096 tokens when the estimate from characters is a little off.
MIN_TOKENS, MAX_TOKENS = 24, 3_700
# Measured with the tokenizer above on the text below (4.43), less what the ends on whole words take.
CHARS_PER_TOKEN = 4.42
# <|im_start|>, role, line break, <|im_end|>, line break.
TOKENS_PER_MESSAGE = 5

NUM_TURNS_WEIGHTS = {1: 45, 2: 27, 3: 17, 4: 11}
MIN_TOKENS_PER_TURN = 50
SYSTEM_SHARE = 0.30
# Of a row's content without the system message; with the rest of a row it makes 70 % of all tokens trained.
ASSISTANT_ALPHA, ASSISTANT_BETA = 9.0, 3.05

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a patient teacher of Python. Answer briefly, and show code where it helps.",
    "Answer in plain words. If you are not sure, say so and tell what would have to be looked up.",
    "You are the help desk of a software company. Be polite and exact. Ask for the version and the full error message "
    "before you suggest a fix, and never promise a date.",
    "You write documentation. Use short paragraphs and lists, name every option with its default, and close with an "
    "example that can be run as it stands.",
)
OPENERS = ("How do I", "Why does", "What is", "Explain", "Can you tell me", "Please rewrite:", "I have", "Is there")


def make_chats(path: Path, num_rows: int, seed: int = 0) -> None:
    """Write `num_rows` chats to the JSONL file `path`, one `{"messages": [...]}` a line.

    A row has 1 to 4 turns of user and assistant, about 30 % begin with a system message, about 70 % of the tokens
    are the assistant's; tokens a row: mean about 400, median 310, 95th percentile 1,000.
    """
    corpus, rng = read_corpus(), Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_rows):
            file.write(json.dumps({"messages": _chat(corpus, rng)}, ensure_ascii=False) + "\n")


def _chat(corpus: Corpus, rng: Random) -> list[dict[str, str]]:
    num_tokens = _row_length(rng)
    most_turns = max(1, num_tokens // MIN_TOKENS_PER_TURN)
    num_turns = min(most_turns, *rng.choices(list(NUM_TURNS_WEIGHTS), list(NUM_TURNS_WEIGHTS.values())))
    num_chars = (num_tokens - TOKENS_PER_MESSAGE * 2 * num_turns) * CHARS_PER_TOKEN
    messages: list[dict[str, str]] = []
    if rng.random() < SYSTEM_SHARE:
        # A row too short for a long system message has the shortest.
        system = rng.choice(SYSTEMS if num_chars > 1_000 else SYSTEMS[:1])
        messages.append({"role": "system", "content": system})
        num_chars -= len(system) + TOKENS_PER_MESSAGE * CHARS_PER_TOKEN
    weights = [rng.uniform(0.5, 1.5) for _ in range(num_turns)]
    for weight in weights:
        turn_chars = num_chars * weight / sum(weights)
        assistant_chars = turn_chars * rng.betavariate(ASSISTANT_ALPHA, ASSISTANT_BETA)
        messages.append({"role": "user", "content": _question(corpus, rng, turn_chars - assistant_chars)})
        messages.append({"role": "assistant", "content": _answer(corpus, rng, assistant_chars)})
    return messages


def _row_length(rng: Random) -> int:
    # Drawn again rather than cut, so that rows do not pile up at the limits.
    while True:
        num_tokens = round(MEDIAN_TOKENS * rng.lognormvariate(0.0, SIGMA_TOKENS))
        if MIN_TOKENS <= num_tokens <= MAX_TOKENS:
            return num_tokens


def _question(corpus: Corpus, rng: Random, num_chars: float) -> str:
    opener = rng.choice(OPENERS)
    return f"{opener} {_words(corpus, rng, num_chars - len(opener) - 1).rstrip('.,;:!?')}?"


def _answer(corpus: Corpus, rng: Random, num_chars: float) -> str:
    """Paragraphs, lists and code of about `num_chars` characters; paragraphs first and most often."""
    parts: list[str] = []
    while num_chars > 0:
        make = rng.choices((_paragraph, _list, _code), (8, 1, 1))[0] if parts and num_chars > 150 else _paragraph
        parts.append(make(corpus, rng, min(num_chars, rng.uniform(150, 700))))
        num_chars -= len(parts[-1]) + 2
    return "\n\n".join(parts)


def _paragraph(corpus: Corpus, rng: Random, num_chars: float) -> str:
    text = _words(corpus, rng, num_chars).rstrip(".,;:!?")
    return f"{text[:1].upper()}{text[1:]}."


def _list(corpus: Corpus, rng: Random, num_chars: float) -> str:
    mark: Callable[[int], str] = rng.choice((lambda i: "-", lambda i: f"{i}."))
    num_items = rng.randint(2, 5)
    items = [_words(corpus, rng, num_chars / num_items - 3) for _ in range(num_items)]
    return "\n".join(f"{mark(i)} {item}" for i, item in enumerate(items, start=1))


def _code(corpus: Corpus, rng: Random, num_chars: float) -> str:
    lines, size = [], 14  # the fence
    place = rng.randrange(len(corpus.code))
    while size < num_chars and place < len(corpus.code):
        # Other numbers in the same lines, as in the same program written by someone else.
        lines.append(re.sub(r"\b\d+\b", lambda _: str(rng.randrange(1_000)), corpus.code[place]))
        size += len(lines[-1]) + 1
        place += 1
    return "```python\n" + "\n".join(lines) + "\n```"


def _words(corpus: Corpus, rng: Random, num_chars: float) -> str:
    """Prose of about `num_chars` characters, one word at least."""
    words: list[str] = []
    place = rng.randrange(len(corpus.words))
    while num_chars > 0 or not words:
        run = corpus.words[place : place + rng.randint(2, 6)]
        if rng.random() < 0.12:
            run = [*run[:-1], _fresh_detail(rng), run[-1]]
        words += run
        num_chars -= sum(map(len, run)) + len(run)
        # A jump past the last word starts anywhere.
        place = (rng.choice(corpus.places[run[-1]]) + 1) % len(corpus.words)
    while num_chars < -len(words[-1]) and len(words) > 1:
        num_chars += len(words.pop()) + 1
    return " ".join(words)


def _fresh_detail(rng: Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_NAMES)
    if kind == 1:
        return str(rng.randrange(1, 400))
    return f"{rng.uniform(0, 90):.2f}" if kind == 2 else f"{rng.randrange(1_000, 2_000_000):,}"


def main() -> None:
    """Make the chats and the tokenizer, and print the files' SHA-256 so that runs can be told apart."""
    parser = argparse.ArgumentParser(description="Make the input of the data benchmarks.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--num-rows", type=int, default=50_000)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_tokenizer(args.directory / "tokenizer", args.vocab_size)
    make_chats(args.directory / "chats.jsonl", args.num_rows, args.seed)
    for path in (args.directory / "tokenizer" / "tokenizer.json", args.directory / "chats.jsonl"):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path)


if __name__ == "__main__":
    main()
