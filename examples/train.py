"""Training from Python: `torchrun --standalone --nproc-per-node 2 examples/train.py MODEL_DIR`."""

import sys

from xtuner.v1.train import Trainer, TrainerConfig

config = TrainerConfig(
    load_from=sys.argv[1],
    dataset="examples/chats.jsonl",
    total_step=10,
    lr=2e-5,
    work_dir="work_dirs/train",
)
Trainer(config).fit()
