"""The demo's tokenizer: a byte-level BPE in the style of Qwen, trained on the demo chats, and a ChatML template.

`tokenizer.json` holds the pipeline that transformers' `Qwen2Tokenizer` would build itself (tokenization_qwen2.py):
whichever of the two a reader trusts, the ids are the same.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 2048
# The trainer numbers special tokens first, in this order.
PAD_ID, IM_START_ID, EOS_ID = 0, 1, 2
PAD_TOKEN, IM_START_TOKEN, EOS_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD_TOKEN, IM_START_TOKEN, EOS_TOKEN)

# Qwen's split: words with the blank or sign before them, single digits, signs, line breaks.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('the role ' ~ message.role ~ ' is not one of system, user, assistant') }}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def write_tokenizer(directory: Path, chats: list[list[dict[str, str]]], *, max_length: int) -> None:
    """Train on the text of `chats`, write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Args:
        directory: an existing directory.
        chats: rows of messages; the same rows give the same bytes.
        max_length: tokens the model can take.
    """
    tokenizer = train_tokenizer(chats)
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "eos_token": EOS_TOKEN,
        "pad_token": PAD_TOKEN,
        "model_max_length": max_length,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def train_tokenizer(chats: list[list[dict[str, str]]]) -> Tokenizer:
    """A tokenizer of exactly `VOCAB_SIZE` ids: the special tokens, all 256 bytes, and the most frequent merges."""
    # The roles stand in every rendered chat, so they should be tokens of their own.
    texts = [text for chat in chats for message in chat for text in (message["role"] + "\n", message["content"])]
    return train_bpe(texts, VOCAB_SIZE)


def train_bpe(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE in the style of Qwen with exactly `vocab_size` ids, trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == vocab_size, "the texts are too few for a vocabulary of this size"
    return tokenizer
