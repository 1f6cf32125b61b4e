"""Tiny models of many architectures, made at test time: random weights, one tokenizer, a ChatML template."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

ARCHITECTURES: dict[str, dict] = {
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
    "qwen3-untied": {"model_type": "qwen3", "tie_word_embeddings": False},
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-4-kv-heads": {"model_type": "llama", "num_key_value_heads": 4},
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "head_dim": 8,
    },
    "qwen3_moe": {"model_type": "qwen3_moe", "tie_word_embeddings": False, **_MOE},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "mistral": {"model_type": "mistral", "sliding_window": 8},
    "gemma2": {"model_type": "gemma2", "sliding_window": 8, "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False, "pad_token_id": 0},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
}


def make_model(directory: Path, architecture: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write a loadable model directory with tokenizer and chat template, through transformers' own saving."""
    options = {**_SIZES, **ARCHITECTURES[architecture]}
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # initial weights are so small that nothing depends on anything; make mistakes visible
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() >= 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path, template: str = CHATML) -> None:
    """A byte-level BPE of 512 ids and the given chat template."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 1024,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(template)


TEXTS = [
    "The user asks and the assistant answers in a few sentences, then waits for the next question.",
    "Water boils at one hundred degrees Celsius at sea level; on a mountain it boils at less.",
    "A week has seven days, a day has twenty-four hours, and an hour has sixty minutes.",
]


def make_chats(path: Path, num_rows: int = 120, seed: int = 0) -> Path:
    """Multi-sentence chats of very different lengths, one bare list of messages a line."""
    generator = torch.Generator().manual_seed(seed)

    def pick(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    with path.open("w", encoding="utf-8") as file:
        for row in range(num_rows):
            messages = [{"role": "system", "content": "Answer briefly."}] if pick(3) == 0 else []
            for _ in range(1 + pick(3)):
                a, b = pick(90), pick(90)
                messages.append({"role": "user", "content": f"What is {a} plus {b}? Please explain question {row}."})
                reply = f"{a} plus {b} is {a + b}. " + " ".join(TEXTS[pick(3)] for _ in range(pick(4)))
                messages.append({"role": "assistant", "content": reply.strip()})
            file.write(json.dumps(messages) + "\n")
    return path
