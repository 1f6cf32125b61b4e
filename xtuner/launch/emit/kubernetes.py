"""A PyTorchJob for the training operator of Kubeflow (https://github.com/kubeflow/trainer, kubeflow.org/v1)."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from xtuner.errors import UsageError
from xtuner.launch.emit.arguments import sft_arguments
from xtuner.launch.emit.grace import grace_s
from xtuner.launch.plan import LaunchPlan
from xtuner.v1.config import TrainerConfig

_HEAD = """\
# Fit these to your cluster: metadata.name, image (one with xtuner in it), claimName (a volume that all pods share).
# The volume is mounted where the files of the command line are on this machine.
"""
_BACKOFF_LIMIT = 3
_PLAIN = re.compile(r"[A-Za-z0-9/_.-]+")


def pytorch_job(plan: LaunchPlan) -> str:
    """The manifest: a master pod and a worker pod for each other machine; ranks go on where they were saved.

    Raises:
        UsageError: a path cannot stand in a manifest.
    """
    replicas = {"Master": _replica(plan, 1)}
    if plan.nnodes > 1:
        replicas["Worker"] = _replica(plan, plan.nnodes - 1)
    manifest = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "xtuner"},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": _BACKOFF_LIMIT},
            "pytorchReplicaSpecs": replicas,
        },
    }
    return _HEAD + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))


def _replica(plan: LaunchPlan, number: int) -> dict[str, Any]:
    directory = _shared_directory(plan.config)
    container = {
        "name": "pytorch",  # the operator sets its variables in the container of this name
        "image": "xtuner:latest",
        "workingDir": _as_text(os.getcwd()),
        "command": _command(plan),
        "resources": {"limits": {"nvidia.com/gpu": plan.nproc_per_node}},
        "volumeMounts": [
            {"name": "files", "mountPath": directory},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "terminationGracePeriodSeconds": grace_s(plan.config),
        "containers": [container],
        "volumes": [
            {"name": "files", "persistentVolumeClaim": {"claimName": "xtuner"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {"replicas": number, "restartPolicy": "OnFailure", "template": {"spec": pod}}


def _command(plan: LaunchPlan) -> list[str]:
    """Kubernetes puts variables in for `$(NAME)`, and a dollar for two of them."""
    command = [_as_text(argument).replace("$", "$$") for argument in sft_arguments(plan)]
    if plan.nnodes > 1:
        command += [f"--nnodes={plan.nnodes}", "--node-rank=$(RANK)", "--rdzv-endpoint=$(MASTER_ADDR):$(MASTER_PORT)"]
    return command


def _shared_directory(config: TrainerConfig) -> str:
    """The directory with all files that the command names, and the working directory, from which it may name them."""
    specs = [Path(spec.path) for spec in config.data_specs + config.eval_specs]
    given = (config.load_from, config.model_cfg, config.tokenizer_path, config.chat_template, config.cache_dir)
    paths = [Path.cwd(), config.work_dir, *specs, *(path for path in given if path is not None)]
    directory = os.path.commonpath([os.path.abspath(path) for path in paths])
    if directory == "/" or ":" in directory:
        raise UsageError(
            f"no volume can be mounted at {directory}, the directory that holds all files of this run",
            hint="put model, data and work dir below one directory, without a colon in its name, and start from there",
        )
    return _as_text(directory)


def _as_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"{text!r} is not UTF-8, and cannot stand in a manifest", hint="rename the file or directory"
        ) from None
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes all but plain words: in double quotes every character that matters is escaped."""


def _quote(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quote)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]
