"""Models that say a given text: real ones, loaded and run by transformers like any other.

The embedding is one-hot, the only layer adds nothing, and the head leads from each token to the next one of the text.
So a reply is a walk along its tokens, which therefore have to be all different.
"""

import json
from pathlib import Path

import tiny_models
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

END = 2  # <|im_end|>
# No two bytes of it are the same, and each character has three: as tokens, twelve of a byte each.
CHINESE = "你夏星火"


def make_scripted_model(
    directory: Path,
    reply: str,
    *,
    is_endless: bool = False,
    context_length: int = 4096,
    template: str = tiny_models.CHATML,
    tags: tuple[str, ...] = (),
    eos_token_id: int | None = END,
) -> Path:
    """A model that always replies with `reply`, or, endless, with `reply` over and over.

    `tags` become tokens of their own, as `<think>` is in Qwen3's tokenizer.
    """
    tiny_models.write_tokenizer(directory, template)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    tokenizer.save(str(directory / "tokenizer.json"))
    vocab_size = tokenizer.get_vocab_size()
    [before] = tokenizer.encode("\n").ids  # the last token of the generation prompt
    said = tokenizer.encode(reply, add_special_tokens=False).ids
    assert len({before, *said}) == 1 + len(said), "each token of a scripted reply is said once"
    head = torch.zeros(vocab_size, vocab_size)
    for token, following in zip([before, *said], [*said, said[0] if is_endless else END], strict=True):
        head[following, token] = 100.0
    _save(directory, head, context_length, eos_token_id)
    return directory


def _save(directory: Path, head: torch.Tensor, context_length: int, eos_token_id: int | None) -> None:
    size = len(head)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=8,
        max_position_embeddings=context_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    layer = model.model.layers[0]
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(head)
    model.save_pretrained(directory)
    generation = {"eos_token_id": eos_token_id, "pad_token_id": 0, "do_sample": False}
    (directory / "generation_config.json").write_text(json.dumps(generation))
