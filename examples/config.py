"""Options that are computed: a config file may be Python, and is `trainer`."""

import os

from xtuner.v1.train import TrainerConfig

TOKENS_A_STEP = 2**17
PACK_MAX_LENGTH = 8192

trainer = TrainerConfig(
    load_from=os.environ["MODEL_DIR"],
    dataset="examples/chats.jsonl",
    epoch_num=3,
    pack_max_length=PACK_MAX_LENGTH,
    max_length=PACK_MAX_LENGTH,
    global_batch_size=TOKENS_A_STEP // PACK_MAX_LENGTH,
    lr=2e-5,
    work_dir="work_dirs/config",
)
