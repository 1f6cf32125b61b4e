"""Everything that can be known before the first training step, checked before any process group exists.

The launcher and the training entry both come through here, so a wrong path gets the same words from either.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from xtuner.data.cache import TokenCache
from xtuner.data.options import RowOptions
from xtuner.errors import DataError, ModelError, UsageError
from xtuner.hub.model_dir import require_model
from xtuner.run.layout import check_work_dir

if TYPE_CHECKING:
    from xtuner.data.options import SourceSpec
    from xtuner.data.prepare import DataRequest, Progress
    from xtuner.data.prepared import PreparedData
    from xtuner.v1.config import TrainerConfig


# Set by the launcher for its ranks: what it checked is what they must train on.
FINGERPRINT_VARIABLE = "XTUNER_DATA_FINGERPRINT"
EVAL_FINGERPRINT_VARIABLE = "XTUNER_EVAL_DATA_FINGERPRINT"


def check_inputs(config: "TrainerConfig", world_size: int) -> None:
    """Check options, model directory and work dir: seconds, whatever the size of the data.

    Raises:
        UsageError: options that contradict each other, do not fit `world_size` ranks or need a package that is missing.
        ModelError: the model directory cannot be trained.
        EnvironmentFault: the work dir cannot be written.
    """
    config.check()
    config.check_world_size(world_size)
    if config.lora.rank:
        require_package("peft", f"--lora.rank {config.lora.rank} needs", extra="lora")
    if config.optimizer == "adamw-8bit":
        require_package("torchao", "--optimizer adamw-8bit needs", extra="adamw-8bit")
    for name in config.report_to:
        require_package(name, f"--report-to {name} needs", extra=name)
    if config.load_from is not None:
        own_tokenizer = config.tokenizer_path is None
        # Plain text is trained without a chat template: the first chat that needs one asks for it.
        report = require_model(config.load_from, needs_tokenizer=own_tokenizer, needs_chat_template=False)
        if report.summary and report.summary.num_heads:
            config.check_num_heads(report.summary.num_heads)
    elif config.model_cfg is not None and not config.model_cfg.exists():
        raise ModelError(f"there is no model config {config.model_cfg}", hint="pass a config.json or its directory")
    check_work_dir(config.work_dir)


def prepare_training_data(
    config: "TrainerConfig", on_progress: "Callable[[Progress], None] | None" = None
) -> "PreparedData":
    """Tokenise and pack the data of `config`, or find it in the cache; call `check_inputs` first.

    Raises:
        ModelError: no tokenizer or chat template.
        DataError: unreadable data, rows in error, nothing to train on, data that changed since the launcher saw it.
        EnvironmentFault: the cache cannot be written.
    """
    return _prepare(data_request(config, config.data_specs), config, FINGERPRINT_VARIABLE, on_progress)


def prepare_evaluation_data(
    config: "TrainerConfig", on_progress: "Callable[[Progress], None] | None" = None
) -> "PreparedData | None":
    """The same for the evaluation data, through the same tokenizer, template, mask and cache; None without any.

    Raises:
        DataError, EnvironmentFault: see `prepare_training_data`.
    """
    if not config.eval_dataset:
        return None
    return _prepare(data_request(config, config.eval_specs), config, EVAL_FINGERPRINT_VARIABLE, on_progress)


def data_request(config: "TrainerConfig", specs: "list[SourceSpec]") -> "DataRequest":
    """What `config` asks to be made of the rows of `specs`."""
    from xtuner.data.prepare import DataRequest

    return DataRequest(
        specs,
        config.tokenizer_dir,
        config.chat_template,
        RowOptions(config.row_limit, config.overlong, config.mask_policy),
        config.packing,
        config.pack_max_length,
        config.seed,
        config.num_data_workers,
    )


def _prepare(
    request: "DataRequest",
    config: "TrainerConfig",
    fingerprint_variable: str,
    on_progress: "Callable[[Progress], None] | None",
) -> "PreparedData":
    from xtuner.data.prepare import prepare_data

    data = prepare_data(request, TokenCache(config.cache_dir), on_progress)
    expected = os.environ.get(fingerprint_variable)
    if expected not in (None, data.fingerprint()):
        raise DataError(
            "the data, the tokenizer or the chat template changed since the launcher checked them",
            hint="start again with files that stay as they are",
        )
    return data


def require_package(name: str, what_needs: str, *, extra: str) -> None:
    """Refuse what needs a package that is not installed; looked up without importing.

    Raises:
        UsageError: it is missing.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a directory of that name is no package: wandb leaves one where it runs
        raise UsageError(
            f"{what_needs} the package {name}, which is not installed", hint=f"pip install 'xtuner[{extra}]'"
        )
