"""`xtuner plan`: text, JSON, exit codes."""

import json

import pytest


def test_a_plan_names_components_disk_and_verdict(xtuner, tiny_model):
    done = xtuner("plan", "--load-from", tiny_model("qwen3"), "--device-memory", 80)
    assert done.exit_code == 0
    for word in ("parameters", "gradients", "optimizer", "activations", "logits", "workspace", "disk"):
        assert word in done.stdout
    assert done.stdout.rstrip().endswith("OK: it fits into memory, by this estimate")


def test_what_does_not_fit_names_flags_that_do(xtuner, tiny_model):
    arguments = ("plan", "--load-from", tiny_model("qwen3"), "--pack-max-length", 1048576, "--json")
    assert xtuner(*arguments, "--device-memory", 80).exit_code == 0
    done = xtuner(*arguments, "--device-memory", 1.5)
    assert done.exit_code == 5
    plan = json.loads(done.stdout)
    assert not plan["fits"] and "--pack-max-length" in plan["fix"]["flags"]
    assert plan["fix"]["total"] < plan["memory_gib"]["usable"] < plan["memory_gib"]["total"]
    again = json.loads(xtuner(*arguments, "--device-memory", 1.5, *plan["fix"]["flags"]).stdout)
    assert again["fits"] and again["memory_gib"]["total"] == pytest.approx(plan["fix"]["total"])


def test_ranks_that_cannot_share_are_refused_as_by_sft(xtuner, tiny_model):
    done = xtuner("plan", "--load-from", tiny_model("qwen3"), "--nproc-per-node", 2, "--global-batch-size", 3)
    assert done.exit_code == 2 and "--global-batch-size 3 is not a multiple of the 2 ranks" in done.stderr
    assert xtuner("plan").exit_code == 3
