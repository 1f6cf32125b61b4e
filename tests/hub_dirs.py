"""Model directories for the tests of `xtuner.hub`: a few KB each, weights written by hand."""

import json
import os
import pickle
from math import prod
from pathlib import Path

BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "U8": 8, "I8": 8, "BOOL": 8, "F8_E4M3": 8, "I32": 32, "I64": 64}
ROWS, WIDTH = 8, 4
LAYER = {
    **{f"self_attn.{name}_proj.weight": ("BF16", [WIDTH, WIDTH]) for name in "qo"},
    **{f"self_attn.{name}_proj.weight": ("BF16", [2, WIDTH]) for name in "kv"},
    **{f"self_attn.{name}_norm.weight": ("BF16", [2]) for name in "qk"},
    **{f"mlp.{name}_proj.weight": ("BF16", [6, WIDTH]) for name in ("gate", "up")},
    "mlp.down_proj.weight": ("BF16", [WIDTH, 6]),
    "input_layernorm.weight": ("BF16", [WIDTH]),
    "post_attention_layernorm.weight": ("BF16", [WIDTH]),
}


def make_tensors(num_layers=1):
    """The tensors of a tiny Qwen3 of 8 rows and 4 dimensions."""
    layers = {f"model.layers.{n}.{name}": entry for n in range(num_layers) for name, entry in LAYER.items()}
    embedding = ("BF16", [ROWS, WIDTH])
    ends = {"model.norm.weight": ("BF16", [WIDTH]), "lm_head.weight": embedding}
    return {"model.embed_tokens.weight": embedding, **layers, **ends}


TENSORS = make_tensors()
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": ROWS,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 7,
}
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
    "added_tokens": [{"id": 7, "content": "<|end|>", "special": True}],
}
TEMPLATE = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"


def header_bytes(header):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw


def safetensors_bytes(tensors=TENSORS, metadata=None):
    """A file whose numbers are small and not zero in any dtype."""
    header, end = ({"__metadata__": metadata} if metadata else {}), 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return header_bytes(header) + b"\x3c" * end


def edit_json(path, **changes):
    """Set keys of a JSON file; None removes one."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def make_model(directory: Path, *, shards: int = 1, tensors=TENSORS, **config) -> Path:
    """A trainable model directory of one file, or of numbered shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7]}))
    (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": TEMPLATE}))
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return directory
    items, weight_map = list(tensors.items()), {}
    for number in range(shards):
        part = dict(items[number::shards])
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        (directory / name).write_bytes(safetensors_bytes(part))
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def make_cached(root: Path, repo="models--Qwen--Qwen3-8B", revisions=("a" * 40,), main=0, shards=1) -> Path:
    """The folder of a model in a Hub cache: snapshots are links into blobs; `main` is an index or None."""
    folder = root / repo
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    for revision in revisions:
        snapshot = make_model(folder / "snapshots" / revision, shards=shards)
        for path in list(snapshot.iterdir()):
            blob = folder / "blobs" / f"{revision[:4]}{path.name}"
            path.rename(blob)
            path.symlink_to(Path("../../blobs") / blob.name)
    if main is not None:
        (folder / "refs" / "main").write_text(revisions[main])
    return folder


class Canary:
    """Unpickling one opens a file for writing."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return open, (self._path, "w")


def plant_canaries(directory: Path, executed: Path) -> None:
    """Put code and a pickle into every folder of `directory`; whoever runs one of them makes the file `executed`."""
    for folder, _, _ in os.walk(directory):
        for name in ("modeling_canary.py", "tokenization_canary.py", "__init__.py", "sitecustomize.py"):
            Path(folder, name).write_text(f"open({str(executed)!r}, 'w').close()\n")
        Path(folder, "training_args.bin").write_bytes(pickle.dumps(Canary(executed)))
