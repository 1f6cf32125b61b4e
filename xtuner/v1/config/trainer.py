"""`TrainerConfig`: the options of a fine-tuning run and the rules between them."""

import json
import math
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from xtuner.data.options import FormatName, MaskPolicy, Overlong, Packing, SourceSpec
from xtuner.errors import UsageError
from xtuner.v1.config.option import Options, expand_home, option
from xtuner.v1.config.parts import (
    AttentionChoice,
    DatasetConfig,
    FSDPConfig,
    LoraConfig,
    OptimizerName,
    seconds_or_none,
    steps_or_seconds,
)
from xtuner.v1.config.rules import require_consistent

TrackerName = Literal["tensorboard", "wandb", "trackio"]


class TrainerConfig(Options):
    """Everything that decides a run; the same values on the same data and world size give the same run.

    Rules between options are checked by `check`, not by the constructor, so that a config can be built in steps.
    """

    load_from: Path | None = option(
        None, "Hugging Face model directory: config.json, safetensors weights and tokenizer.", group="Model"
    )
    model_cfg: Path | None = option(
        None,
        "A config.json, or a directory with one: train from random weights of this architecture.",
        group="Model",
    )
    tokenizer_path: Path | None = option(
        None, "Directory with tokenizer and chat template.  [default: the model directory]", group="Model"
    )
    chat_template: Path | None = option(
        None, "Jinja file to show chats with.  [default: the model's own chat template]", group="Model"
    )
    dataset: tuple[Path, ...] = option(
        (), "File of chats, directory or glob; may be given several times.", group="Data", unit="path"
    )
    datasets: tuple[DatasetConfig, ...] = option(
        (), "Data with a ratio and a format each; in a config file a list, as a flag JSON.", group="Data"
    )
    dataset_format: FormatName = option(
        "auto",
        "Shape of the rows of --dataset and --eval-dataset; auto looks at the first row of each file.",
        group="Data",
    )
    mask_policy: MaskPolicy = option(
        "all-assistant", "Which text is trained; a message's own `loss` wins.", group="Data"
    )
    max_length: int = option(4096, "Longest row; for longer ones see --overlong.", group="Data", unit="tokens", ge=2)
    overlong: Overlong = option(
        "truncate", "What becomes of a row that is longer than --max-length; counted in any case.", group="Data"
    )
    packing: Packing = option(
        "best-fit", "How rows share a sequence; none trains one row a sequence, padded.", group="Data"
    )
    pack_max_length: int = option(
        4096, "Rows are packed into sequences of at most this length.", group="Data", unit="tokens", ge=2
    )
    cache_dir: Path | None = option(None, "Directory for tokenised data.  [default: the user's cache]", group="Data")
    num_data_workers: int | None = option(
        None, "Processes that tokenise.  [default: one a core]", group="Data", unit="processes", ge=1
    )
    total_step: int | None = option(None, "Optimizer steps to train.", group="Length of the run", unit="steps", ge=1)
    epoch_num: int | None = option(
        None,
        "Passes over the data.  [default: 1, if --total-step is not given]",
        group="Length of the run",
        unit="epochs",
        ge=1,
    )
    global_batch_size: int | None = option(
        None,
        "Packed sequences in one optimizer step, over all ranks.  [default: one a rank]",
        group="Length of the run",
        unit="sequences",
        ge=1,
    )
    seed: int = option(
        42, "Seed of the data order and of random weights.", group="Length of the run", ge=0, le=2**63 - 1
    )
    optimizer: OptimizerName = option(
        "adamw",
        "adamw-8bit is AdamW with its state in 8 bits, by torchao; muon orthogonalises the updates of the hidden "
        "matrices and leaves the rest to AdamW, with updates as large as AdamW's, so that --lr means about the same.",
        group="Optimization",
    )
    lr: float = option(6e-5, "Peak learning rate.", group="Optimization", gt=0)
    lr_min: float = option(1e-6, "Learning rate at the last step.", group="Optimization", ge=0)
    scheduler_type: Literal["cosine", "linear", "constant", "wsd"] = option(
        "cosine",
        "How the learning rate falls after the warm-up; wsd holds the peak and falls in the last tenth.",
        group="Optimization",
    )
    warmup_ratio: float = option(
        0.03,
        "Share of the steps in which the learning rate rises to its peak.",
        group="Optimization",
        ge=0,
        lt=1,
    )
    weight_decay: float = option(0.01, "Weight decay, on matrices and embeddings.", group="Optimization", ge=0)
    adam_beta1: float = option(0.9, "AdamW's first-moment decay.", group="Optimization", ge=0, lt=1)
    adam_beta2: float = option(0.95, "AdamW's second-moment decay.", group="Optimization", ge=0, lt=1)
    muon_momentum: float = option(
        0.95, "Muon's decay of the running mean of gradients.", group="Optimization", ge=0, lt=1
    )
    loss_chunk_size: int = option(
        1024,
        "Rows whose logits exist at a time: fewer take less memory, more are a little faster.",
        group="Optimization",
        unit="tokens",
        ge=1,
    )
    z_loss: float = option(
        0.0,
        "Weight of log(Z)^2 in the objective, Z the softmax denominator; 1e-4 is common.",
        group="Optimization",
        ge=0,
    )
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this global L2 norm.", group="Optimization", gt=0)
    on_nonfinite: Literal["stop", "skip"] = option(
        "stop",
        "What comes of a step whose loss or gradient is not finite: stop ends the run, skip goes on with the next "
        "step; the weights stay as they are in any case.",
        group="Optimization",
    )
    max_nonfinite_skips: int = option(
        10,
        "With --on-nonfinite skip, how many steps of a run may be skipped; one more ends it.",
        group="Optimization",
        unit="steps",
        ge=1,
    )
    attention: AttentionChoice = option(
        "auto",
        "Attention kernel; auto takes flash-attention 3 or 2 where installed, else PyTorch's own.",
        group="Sharding and precision",
    )
    sp_size: int = option(
        1,
        "Neighbouring ranks that share each pack, for packs too long for one device (Ulysses sequence parallel). "
        "Divides the number of ranks and of attention heads.",
        group="Sharding and precision",
        unit="ranks",
        ge=1,
    )
    tp_size: int = option(
        1,
        "Neighbouring ranks that share the matrices of each block, by the model's own plan (tensor parallel), for "
        "devices in one machine. Divides the number of ranks, of attention heads and of key-value heads.",
        group="Sharding and precision",
        unit="ranks",
        ge=1,
    )
    fsdp_config: FSDPConfig = FSDPConfig()
    lora: LoraConfig = LoraConfig()
    eval_dataset: tuple[Path, ...] = option(
        (),
        "File of chats to evaluate on, directory or glob; may be given several times. Read like --dataset.",
        group="Evaluation",
        unit="path",
    )
    eval_interval: int | None = option(
        None,
        "Optimizer steps between evaluations; one before the first step and one after the last come besides.  "
        "[default: one epoch]",
        group="Evaluation",
        unit="steps",
        ge=1,
    )
    eval_max_packs: int | None = option(
        None,
        "Evaluate on this many packs at most, the same ones each time.  [default: all]",
        group="Evaluation",
        unit="sequences",
        ge=1,
    )
    early_stopping_patience: int | None = option(
        None,
        "End the run after this many evaluations in a row without improvement.  [default: never]",
        group="Evaluation",
        unit="evaluations",
        ge=1,
    )
    early_stopping_min_delta: float = option(
        0.0, "A smaller drop of the evaluation loss is no improvement.", group="Evaluation", unit="nats", ge=0
    )
    eval_generations: int = option(
        0,
        "Chats of the evaluation data whose last turn the model writes anew at each evaluation.",
        group="Evaluation",
        unit="chats",
        ge=0,
    )
    eval_generation_tokens: int = option(
        128, "Longest reply of --eval-generations.", group="Evaluation", unit="tokens", ge=1
    )
    work_dir: Path = option(
        Path("work_dirs"), "Directory that holds the runs; each run gets its own inside.", group="Output"
    )
    checkpoint_interval: str | None = option(
        None,
        "How often the state of the run is saved to resume from: a number of steps, or a time such as 30min.  "
        "[default: when a signal or `touch RUN/save-now` asks for it]",
        group="Checkpoints",
        unit="steps or time",
    )
    checkpoint_maxkeep: int = option(
        2, "Checkpoints that are kept; older ones are removed.", group="Checkpoints", unit="checkpoints", ge=1
    )
    save_first_step: bool = option(
        False, "Save after the first step too, to see that saving works.", group="Checkpoints"
    )
    async_checkpoint: bool = option(
        False, "Write checkpoints beside the training, from a copy in host memory.", group="Checkpoints"
    )
    resume: str = option(
        "none",
        "Go on from a checkpoint: auto takes the newest whole one of the newest run in --work-dir, if there is any; "
        "or the path of a run or of a checkpoint.",
        group="Checkpoints",
        unit="auto|PATH|none",
        shorthands={"auto_resume": "auto"},
    )
    allow_data_change: bool = option(
        False, "Resume even though data, packing or batch are not those of the checkpoint.", group="Checkpoints"
    )
    hang_timeout: str = option(
        "10min",
        "How long a rank may make no progress, beyond the time of five steps; then the stacks of all ranks go to "
        "their logs and the run ends. Six times as long at the start, in exports and in saves; off waits for ever.",
        group="Checkpoints",
        unit="time or off",
    )
    hf_interval: int | None = option(
        None, "Steps between exports of the model, besides the one at the end.", group="Output", unit="steps", ge=1
    )
    hf_max_keep: int | None = option(
        None,
        "Exports that are kept, the best one besides; older ones are removed.  [default: all]",
        group="Output",
        unit="exports",
        ge=1,
    )
    report_to: tuple[TrackerName, ...] = option(
        (),
        "Metric tracker that gets the values of steps and evaluations too; may be given several times.",
        group="Output",
    )

    @field_validator(
        "load_from", "model_cfg", "tokenizer_path", "chat_template", "cache_dir", "work_dir", mode="before"
    )
    @classmethod
    def _expand_home(cls, value: object) -> object:
        return expand_home(value)

    @field_validator("dataset", "eval_dataset", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        paths = [value] if isinstance(value, str | Path) else value
        return [expand_home(path) for path in paths] if isinstance(paths, list | tuple) else paths

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("checkpoint_interval", mode="before")
    @classmethod
    def _steps_or_time(cls, value: object) -> object:
        text = str(value) if isinstance(value, int) else value
        if isinstance(text, str):
            steps_or_seconds(text)
        return text

    @field_validator("hang_timeout", mode="before")
    @classmethod
    def _time_or_off(cls, value: object) -> object:
        text = "off" if value is False else value  # YAML reads the word so
        if isinstance(text, str):
            seconds_or_none(text)
        return text

    @field_validator("datasets", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    def check(self) -> None:
        """Raise `UsageError` for options that contradict each other or are missing."""
        require_consistent(self)

    def check_world_size(self, world_size: int) -> None:
        """Raise `UsageError` when `world_size` ranks cannot share the global batch evenly."""
        sharing = {"--tp-size": self.tp_size, "--sp-size": self.sp_size}
        group_size = math.prod(sharing.values())
        if world_size % group_size:
            flags = " times ".join(f"{flag} {size}" for flag, size in sharing.items() if size > 1)
            raise UsageError(
                f"{flags} does not divide the {world_size} rank{'s' if world_size > 1 else ''}",
                hint=f"start a multiple of {group_size} ranks with --nproc-per-node, or use a divisor of their number",
            )
        num_sequences, num_groups = self.sequences_per_step(world_size), world_size // group_size
        if num_sequences % num_groups:
            next_multiple = (num_sequences // num_groups + 1) * num_groups
            ranks = f"{num_groups} ranks" if group_size == 1 else f"{num_groups} groups of {group_size} ranks"
            raise UsageError(
                f"--global-batch-size {num_sequences} is not a multiple of the {ranks}",
                hint=f"use --global-batch-size {next_multiple}, or another number of ranks",
            )
        sharding_size = self.fsdp_config.hsdp_sharding_size
        if sharding_size is not None and world_size % sharding_size:
            raise UsageError(
                f"--fsdp-config.hsdp-sharding-size {sharding_size} does not divide the {world_size} ranks",
                hint="use a divisor of the number of ranks; the ranks of one machine are the usual choice",
            )
        if sharding_size is not None and sharding_size % self.tp_size:
            raise UsageError(
                f"--fsdp-config.hsdp-sharding-size {sharding_size} is not a multiple of --tp-size {self.tp_size}",
                hint="ranks that share the blocks share one copy of the model: use a multiple",
            )

    def check_num_heads(self, num_heads: int) -> None:
        """Raise `UsageError` when ranks that share a pack cannot share `num_heads` attention heads evenly."""
        if self.sp_size == 1 or num_heads % (self.sp_size * self.tp_size) == 0:
            return
        fitting = [size for size in range(1, num_heads + 1) if num_heads % (size * self.tp_size) == 0]
        of_rank = f" (of {num_heads}, by --tp-size {self.tp_size})" if self.tp_size > 1 else ""
        raise UsageError(
            f"--sp-size {self.sp_size} does not divide the {num_heads // self.tp_size} attention heads{of_rank}",
            hint=f"use one of {', '.join(map(str, fitting))}" if fitting else "use another --tp-size",
        )

    def sequences_per_step(self, world_size: int) -> int:
        """Packed sequences in one optimizer step over all ranks."""
        return self.global_batch_size or world_size // (self.sp_size * self.tp_size)

    @property
    def checkpoint_every(self) -> tuple[int | None, float | None]:
        """Steps, or seconds, between checkpoints; neither of them without `checkpoint_interval`."""
        return steps_or_seconds(self.checkpoint_interval) if self.checkpoint_interval else (None, None)

    @property
    def hang_timeout_s(self) -> float | None:
        """Seconds without progress after which a rank is taken for hung; None for never."""
        return seconds_or_none(self.hang_timeout)

    @property
    def row_limit(self) -> int:
        """Tokens a row may have: it must also fit into a pack."""
        return min(self.max_length, self.pack_max_length)

    @property
    def data_specs(self) -> list[SourceSpec]:
        """All data, from `dataset` and `datasets`."""
        plain = [SourceSpec(str(path), format=self.dataset_format) for path in self.dataset]
        return plain + [SourceSpec(str(data.path), data.ratio, data.format) for data in self.datasets]

    @property
    def eval_specs(self) -> list[SourceSpec]:
        """The evaluation data; no items where there is none."""
        return [SourceSpec(str(path), format=self.dataset_format) for path in self.eval_dataset]

    @property
    def tokenizer_dir(self) -> Path:
        """Where tokenizer and chat template come from; call `check` first."""
        directory = self.tokenizer_path or self.load_from
        assert directory is not None, "check() guarantees one of them"
        return directory
