"""An allocation that fails: what the rank says, and what it advises."""

import engine_parts
import pytest
import ranks
import torch

from xtuner.errors import OutOfMemory, TrainingFailed
from xtuner.v1.config import FSDPConfig, TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.oom import answer_out_of_memory, is_out_of_memory, memory_shares

_TOO_MUCH = 2**50  # bytes; no machine has them, so the allocator itself refuses


def _starve(model):
    """Let the second block ask for more memory than there is."""
    model.model.layers[1].register_forward_pre_hook(lambda *_: torch.empty(_TOO_MUCH, dtype=torch.uint8))


def _fail(mesh, model_dir, config):
    engine = engine_parts.engine(mesh, model_dir, fsdp=config.fsdp_config)
    _starve(engine.model)
    data = engine_parts.prepared([[(40, 25), (11, 3)], [(20, 5)]])
    batch = Batches(data, sequences_per_step=2, seed=0).fetch(1)
    with (
        pytest.raises(TrainingFailed) as caught,
        answer_out_of_memory(engine.model, config, "cpu", step=7, batch=batch),
    ):
        engine.train_step(batch, lr=1e-3)
    return caught.value


def test_rank_step_lengths_and_memory_are_named(mesh, tiny_model):
    error = _fail(mesh, tiny_model("qwen3"), TrainerConfig())
    assert "rank 0 ran out of memory in step 7" in error.message
    assert f"asking for {_TOO_MUCH / 2**30:.2f} GiB" in error.message
    assert "longest pack has 51 tokens, its longest document 40" in error.message
    assert "GiB were allocated" in error.message
    assert isinstance(error, OutOfMemory) and 0 < error.needed_gib - _TOO_MUCH / 2**30 < 64


def test_the_hint_names_only_flags_that_are_not_on(mesh, tiny_model):
    wide = {"pack_max_length": 2**20, "loss_chunk_size": 2**20}
    hint = _fail(mesh, tiny_model("qwen3"), TrainerConfig(**wide)).hint
    assert "--pack-max-length 524288" in hint
    on = TrainerConfig(**wide, fsdp_config=FSDPConfig(recompute_ratio=1.0))
    assert "--fsdp-config.recompute-ratio" not in _fail(mesh, tiny_model("qwen3"), on).hint


def test_offloading_is_the_first_advice_where_there_is_a_device(mesh, tiny_model):
    from xtuner.v1.engine.oom import _what_helps

    model = engine_parts.sharded_model(mesh, tiny_model("qwen3"))
    shares = memory_shares(model, TrainerConfig(), "cuda", 4096)
    hint = _what_helps(shares, TrainerConfig(), "cuda")
    assert "--fsdp-config.cpu-offload" in hint
    offloaded = TrainerConfig(fsdp_config=FSDPConfig(cpu_offload=True))
    assert "--fsdp-config.cpu-offload" not in _what_helps(shares, offloaded, "cuda")


def test_recomputing_frees_what_blocks_keep(mesh, tiny_model):
    model = engine_parts.sharded_model(mesh, tiny_model("qwen3"))
    kept, recomputed = (
        memory_shares(model, TrainerConfig(fsdp_config=FSDPConfig(recompute_ratio=ratio)), "cpu", 4096)
        for ratio in (0.0, 1.0)
    )
    assert kept.kept - kept.recomputable == pytest.approx(recomputed.kept)
    assert recomputed.recomputable == 0 < kept.recomputable
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert kept.parameters == pytest.approx(4 * num_parameters / 2**30)
    assert kept.optimizer == pytest.approx(2 * kept.gradients)


def test_other_errors_pass():
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    with (
        pytest.raises(RuntimeError, match="shape mismatch"),
        answer_out_of_memory(torch.nn.Linear(1, 1), TrainerConfig(), "cpu", step=1),
    ):
        raise RuntimeError("shape mismatch")


def test_sharing_packs_is_advice_where_there_are_ranks_for_it(tiny_model, tmp_path):
    [alone] = ranks.run_ranks(1, _advice, tmp_path / "1", tiny_model("qwen3"))
    assert "--sp-size" not in alone
    for hint in ranks.run_ranks(2, _advice, tmp_path / "2", tiny_model("qwen3")):
        assert "--sp-size 2" in hint


def _advice(mesh, model_dir):
    from xtuner.v1.engine.oom import _what_helps

    shares = memory_shares(engine_parts.sharded_model(mesh, model_dir), TrainerConfig(), "cpu", 2**16)
    return _what_helps(shares, TrainerConfig(), "cpu")
