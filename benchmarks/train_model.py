"""The models of the training benchmarks: Qwen3 of several sizes with random weights.

    python benchmarks/train_model.py DIRECTORY --tokenizer TOKENIZER_DIR --shape small --tied

writes a model directory as `save_pretrained` does, with the tokenizer in it, so that both tools start from the same
file. With `--config-only` no weights are written: both tools then draw their own.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, set_seed

# small: 21 million parameters with 4,096 tied ids, which two cores train at about a thousand tokens/s. The others are
# the published sizes of Qwen3.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    "0.6b": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "8b": {
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
}


def model_config(
    shape: str, tokenizer_dir: Path, *, is_tied: bool, num_layers: int | None = None, max_length: int = 65_536
) -> Qwen3Config:
    """The config of `shape` for a tokenizer; `num_layers` takes fewer layers of the same size."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    sizes = {"vocab_size": len(tokenizer), **SHAPES[shape]}
    if num_layers:
        sizes["num_hidden_layers"] = num_layers
    return Qwen3Config(
        **sizes,
        max_position_embeddings=max_length,
        tie_word_embeddings=is_tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_model(directory: Path, config: Qwen3Config, tokenizer_dir: Path, *, with_weights: bool, seed: int = 0) -> None:
    """Write config, tokenizer and, if wanted, fp32 weights."""
    directory.mkdir(parents=True, exist_ok=True)
    if with_weights:
        set_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    else:
        config.architectures = ["Qwen3ForCausalLM"]
        (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    shutil.copytree(tokenizer_dir, directory, dirs_exist_ok=True)


def main() -> None:
    """Make one model directory."""
    parser = argparse.ArgumentParser(description="Make a model for the training benchmarks.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--tied", action="store_true", help="one matrix for embeddings and head")
    parser.add_argument("--num-layers", type=int)
    parser.add_argument("--config-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = model_config(args.shape, args.tokenizer, is_tied=args.tied, num_layers=args.num_layers)
    make_model(args.directory, config, args.tokenizer, with_weights=not args.config_only, seed=args.seed)


if __name__ == "__main__":
    main()
