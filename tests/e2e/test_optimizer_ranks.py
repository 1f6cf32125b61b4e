"""Optimizers over several ranks: the steps of plain torch on whole weights, however the weights are cut."""

import engine_parts
import optimizer_reference as reference
import pytest
import ranks
import torch
import torch.distributed.checkpoint as dcp
from commands import ENTRY, run
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import FSDPConfig, TrainerConfig
from xtuner.v1.engine.distributed import mesh_of_ranks
from xtuner.v1.optim.build import torch_optimizers
from xtuner.v1.optim.muon import ShardedMuon, orthogonalized
from xtuner.v1.train.optimizer import optimizer_of

# Fewer rows than ranks, one row, no divisor in common with them; tall, wide; fewer experts than ranks, more.
SHAPES = ((64, 96), (96, 64), (7, 40), (3, 40), (40, 7), (1, 16), (30, 30), (5, 12, 20), (2, 20, 12))
CONFIG = TrainerConfig(
    optimizer="muon",
    lr=reference.LR,
    adam_beta1=reference.BETAS[0],
    adam_beta2=reference.BETAS[1],
    weight_decay=reference.WEIGHT_DECAY,
    muon_momentum=reference.MOMENTUM,
)


class _Matrices(torch.nn.Module):
    """Parameters of `SHAPES`, by names that tell which are stacks of experts."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for index, shape in enumerate(SHAPES):
            holder = torch.nn.Module()
            name = "down_proj" if len(shape) == 3 else "weight"
            holder.register_parameter(name, torch.nn.Parameter(0.1 * torch.randn(shape, generator=generator)))
            self.add_module(f"m{index}", torch.nn.ModuleDict({"experts" if len(shape) == 3 else "q_proj": holder}))

    def weights(self):
        """By names as in a model."""
        return {f"model.layers.0.{name}": parameter for name, parameter in self.named_parameters()}


def _muon(mesh, model_dirs, all_options):
    """Weights before and after steps of Muon and AdamW: of each model and of `SHAPES`, with each set of options."""
    results = []
    for options in all_options:
        fsdp = FSDPConfig(**options)
        size = fsdp.hsdp_sharding_size
        mesh_here = mesh_of_ranks("cpu", mesh.size(), size) if size else mesh
        for model_dir in model_dirs:
            model = engine_parts.sharded_model(mesh_here, model_dir, fsdp)
            before = engine_parts.full_weights(model)
            reference.drive(dict(model.named_parameters()), optimizer_of(model, CONFIG))
            results.append((before, engine_parts.full_weights(model)))
        results.append(_muon_on_odd_shapes(mesh_here))
    return results


def _muon_on_odd_shapes(mesh):
    model = _Matrices()
    before = {name: parameter.detach().clone() for name, parameter in model.weights().items()}
    fully_shard(model, mesh=mesh)
    options = {"lr": reference.LR, "momentum": reference.MOMENTUM, "weight_decay": reference.WEIGHT_DECAY}
    reference.drive(model.weights(), ShardedMuon(model.parameters(), **options))
    return before, {name: parameter.full_tensor().detach() for name, parameter in model.weights().items()}


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_muon_equals_torch_muon_on_whole_weights(tiny_model, tmp_path, num_ranks):
    options = [{}, {"cpu_offload": True}] + [{"hsdp_sharding_size": size} for size in (1, 2) if size < num_ranks]
    model_dirs = [tiny_model("qwen3"), tiny_model("gpt_oss")]
    of_ranks = ranks.run_ranks(num_ranks, _muon, tmp_path, model_dirs, options)
    expected = [reference.after_muon(before) for before, _ in of_ranks[0][:3]]
    for of_rank in of_ranks:
        assert len(of_rank) == 3 * len(options)
        for index, (before, after) in enumerate(of_rank):
            assert after.keys() == expected[index % 3].keys()
            for name, weight in after.items():
                torch.testing.assert_close(weight, expected[index % 3][name], rtol=0, atol=1e-6)
                assert (weight - before[name]).abs().max() > 1e-3, name


def test_rows_by_themselves_have_another_direction():
    """The control: what each of two ranks would make of its own rows is not what both make of the whole."""
    matrix = reference.gradient("w", torch.Size((64, 96)), 0).bfloat16()
    [whole], halves = orthogonalized([matrix]), orthogonalized(list(matrix.split(32)))
    assert (torch.cat(halves) - whole).norm() > 0.1 * whole.norm()


def _cut_in_two(mesh, model_dir, directory):
    """The weights after all steps, and after all steps of two runs of which the second goes on from the first."""
    whole, first, second = (engine_parts.sharded_model(mesh, model_dir) for _ in range(3))
    reference.drive(dict(whole.named_parameters()), optimizer_of(whole, CONFIG))
    optimizer = optimizer_of(first, CONFIG)
    reference.drive(dict(first.named_parameters()), optimizer, reference.RATES[:2])
    dcp.save(get_optimizer_state_dict(first, torch_optimizers(optimizer)), checkpoint_id=directory)
    second.load_state_dict(first.state_dict())
    optimizer = optimizer_of(second, CONFIG)
    state = get_optimizer_state_dict(second, torch_optimizers(optimizer))
    dcp.load(state, checkpoint_id=directory)
    set_optimizer_state_dict(second, torch_optimizers(optimizer), state)
    reference.drive(dict(second.named_parameters()), optimizer, reference.RATES[2:], first_step=2)
    return engine_parts.full_weights(whole), engine_parts.full_weights(second)


def test_a_saved_state_goes_on_bit_for_bit(tiny_model, tmp_path):
    model_dir = tiny_model("gpt_oss")
    for whole, resumed in ranks.run_ranks(2, _cut_in_two, tmp_path / "ranks", model_dir, tmp_path / "state"):
        for name, weight in resumed.items():
            assert torch.equal(weight, whole[name]), name


@pytest.mark.parametrize(
    ("architecture", "flags"),
    [("llama-tied", ()), ("qwen3_moe", ("--fsdp-config.cpu-offload",)), ("gpt_oss", ("--lora.rank", 5))],
)
def test_losses_with_muon_do_not_depend_on_ranks(tiny_model, chats, tmp_path, architecture, flags):
    """Through torchrun: 12 steps on one rank and on two."""
    curves = []
    for num_ranks in (1, 2):
        work_dir = tmp_path / str(num_ranks)
        done = run(
            *("torchrun", "--nproc-per-node", num_ranks, ENTRY, "--load-from", tiny_model(architecture)),
            *("--dataset", chats, "--work-dir", work_dir, "--pack-max-length", 512, "--global-batch-size", 4),
            *("--total-step", 12, "--lr", "1e-2", "--optimizer", "muon", *flags),
        )
        assert done.returncode == 0, done.stderr
        [run_dir] = list_runs(work_dir)
        assert "optimizer: Muon for " in run_dir.rank_log(0).read_text()
        curves.append([record["reduced_llm_loss"] for record in read_metrics(run_dir.rank_metrics(0))])
    one, two = curves
    assert len(one) == 12 and one[-1] < one[0] - 0.3
    # bfloat16 in the iteration makes of other roundings of a gradient another direction, a little.
    assert two == pytest.approx(one, abs=2e-2)


def _in_8_bits(mesh, offload):
    """How weights moved with fp32 moments and with 8-bit ones, and the bytes of this rank's state; run eagerly."""
    results = []
    for name in ("adamw", "adamw-8bit"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(256, rows) for rows in (256, 66, 3)))
        fully_shard(model, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False) if offload else OffloadPolicy())
        before = engine_parts.full_weights(model)
        optimizer = reference.optimizer_of_module(name, model)
        with torch.compiler.set_stance("force_eager"):  # one rank in test_optimizers.py runs it compiled
            reference.drive(dict(model.named_parameters()), optimizer)
        moved = {key: weight - before[key] for key, weight in engine_parts.full_weights(model).items()}
        results.append((moved, reference.state_bytes(optimizer)))
    return results


@pytest.mark.parametrize("offload", [False, True])
def test_8_bits_a_moment_are_close_to_adamw_on_two_ranks(tmp_path, offload):
    pytest.importorskip("torchao")
    for (exact, exact_bytes), (rounded, rounded_bytes) in ranks.run_ranks(2, _in_8_bits, tmp_path, offload):
        assert exact.keys() == rounded.keys()
        for name, moved in exact.items():
            assert (rounded[name] - moved).norm() < 0.03 * moved.norm(), name
        assert (rounded["0.weight"] - exact["0.weight"]).norm() > 0
        assert rounded_bytes < 0.3 * exact_bytes


def test_a_run_with_8_bit_adamw(tiny_model, chats, tmp_path):
    """Few shapes, since each is compiled."""
    pytest.importorskip("torchao")
    done = run(
        *("torchrun", "--nproc-per-node", 2, ENTRY, "--load-from", tiny_model("llama"), "--dataset", chats),
        *("--work-dir", tmp_path, "--pack-max-length", 512, "--total-step", 3, "--lr", "1e-2"),
        *("--optimizer", "adamw-8bit", "--lora.rank", 64, "--lora.target-modules", "q_proj"),
    )
    assert done.returncode == 0, done.stderr
    [run_dir] = list_runs(tmp_path)
    assert "optimizer: AdamW of torchao" in run_dir.rank_log(0).read_text()
    losses = [record["reduced_llm_loss"] for record in read_metrics(run_dir.rank_metrics(0))]
    assert len(losses) == 3 and losses[-1] < losses[0]
