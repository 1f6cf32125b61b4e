"""Everything that can be known before the first training step, checked before any process group exists.

The launcher and the training entry both come through here, so a wrong path gets the same words from either.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from xtuner.data.prepare import PreparedData, prepare_data
from xtuner.errors import ModelError
from xtuner.hub.model_dir import require_model
from xtuner.run.layout import check_work_dir

if TYPE_CHECKING:
    from xtuner.v1.config import TrainerConfig


def check_inputs(config: "TrainerConfig", world_size: int) -> None:
    """Check options, model directory and work dir: seconds, whatever the size of the data.

    Raises:
        UsageError: options that contradict each other or do not fit `world_size` ranks.
        ModelError: the model directory cannot be trained.
        EnvironmentFault: the work dir cannot be written.
    """
    config.check()
    config.check_world_size(world_size)
    if config.load_from is not None:
        own_tokenizer = config.tokenizer_path is None
        require_model(config.load_from, needs_tokenizer=own_tokenizer, needs_chat_template=own_tokenizer)
    elif config.model_cfg is not None and not config.model_cfg.exists():
        raise ModelError(f"there is no model config {config.model_cfg}", hint="pass a config.json or its directory")
    check_work_dir(config.work_dir)


def prepare_training_data(
    config: "TrainerConfig", world_size: int, on_progress: Callable[[int], None] | None = None
) -> PreparedData:
    """Tokenise and pack the data of `config`; call `check_inputs` first.

    Raises:
        ModelError: no tokenizer or chat template.
        DataError: unreadable data, nothing to train on, too few rows for one step of `world_size` ranks.
    """
    assert config.dataset is not None, "check_inputs() guarantees it"
    return prepare_data(
        config.dataset,
        config.tokenizer_dir,
        row_limit=config.row_limit,
        pack_length=config.pack_max_length,
        min_packs=config.sequences_per_step(world_size),
        on_progress=on_progress,
    )
