"""What `--emit` prints runs the very command of the plan, whatever its paths are made of."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xtuner.errors import UsageError
from xtuner.launch.emit import EMITTERS
from xtuner.launch.emit.grace import grace_s
from xtuner.launch.plan import LaunchPlan, sft_command, torchrun_command
from xtuner.launch.shell import shell_join
from xtuner.run.layout import RunDir
from xtuner.run.metrics import MetricsWriter
from xtuner.run.text import visible
from xtuner.v1.config import TrainerConfig

TESTS = Path(__file__).parents[2]
HOSTILE = "a b'\"$(x)`;\n#SBATCH --nodes=9\t模型\x1b[31m\u202e\x85\u2028$$(RANK)\\x41😀"
NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=30)


def _plan(name="model", nnodes=1, **more):
    config = TrainerConfig(load_from=Path.cwd() / name, dataset=Path.cwd() / "d.jsonl", work_dir=Path.cwd() / "w")
    return LaunchPlan(config=config, nproc_per_node=8, nnodes=nnodes, **more)


def _words(line):
    """What bash makes of a line."""
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    return [os.fsdecode(word) for word in printed.split(b"\0")[:-1]]


def _hostile_name(random):
    """A file name of what shells, terminals and decoders trip over, and of any other bytes and characters."""
    pieces = ["-", "--", "~", "=", " ", "'", '"', "\\", "$(reboot)", "`", "${HOME}", "!", "#", ";", "&", "|", "*", "?"]
    pieces += [
        "\n",
        "\t",
        "\r",
        "\x1b[2J",
        "\x07",
        "\u202e",
        "\x85",
        "\u2028",
        "<<EOF",
        "$'",
        "\\x41",
        "{a,b}",
        "模型",
        "😀",
        "é\x07f0",
    ]
    kinds = (
        lambda: random.choice(pieces),
        lambda: os.fsdecode(bytes([random.randrange(1, 256)])),  # a byte that may be no UTF-8
        lambda: chr(random.choice([random.randrange(1, 0xD800), random.randrange(0xE000, 0x110000)])),
    )
    name = "".join(random.choice(kinds)() for _ in range(random.randrange(1, 12)))
    return os.fsdecode(os.fsencode(name))  # neighbouring bytes may be a character after all


def _hostile_commands(count, seed):
    random = Random(seed)
    for _ in range(count):
        model, data, work_dir = (Path(_hostile_name(random)) for _ in range(3))
        config = TrainerConfig(load_from=model, dataset=data, work_dir=work_dir)
        yield sft_command(LaunchPlan(config=config, nproc_per_node=2), default_nproc=1)


def test_a_thousand_hostile_commands_are_safe_to_print_and_bash_reads_them_back(tmp_path):
    commands = [[HOSTILE, "-d", "", "~", "é\x07f0"], *_hostile_commands(1_000, seed=0)]
    lines = list(map(shell_join, commands))
    assert all(visible(line) == line and "\n" not in line for line in lines)
    script = tmp_path / "commands.sh"
    # One bash for all: each line says how many words it has, and the words.
    said = 'say() { printf \'%s\\0\' "$#" "$@"; }\n' + "".join(f"say {line}\n" for line in lines)
    script.write_bytes(os.fsencode(said))
    subprocess.run(["bash", "-n", script], check=True)
    printed = subprocess.run(["bash", script], capture_output=True, check=True).stdout
    words = iter(map(os.fsdecode, printed.split(b"\0")))
    assert [[next(words) for _ in range(int(next(words)))] for _ in commands] == commands
    assert list(words) == [""]


def test_the_torchrun_line_is_the_command():
    plan = _plan(HOSTILE)
    assert _words(EMITTERS["torchrun"](plan)) == torchrun_command(plan)
    words = _words(EMITTERS["torchrun"](_plan(max_restarts=3)))
    assert words[:2] == ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"] and words[-1] == "--resume=auto"


@pytest.fixture
def slurm(tmp_path):
    """`slurm(script, exit_code)` runs a script as Slurm would, on its second node; arguments and what was queued."""
    programs = {
        "srun": 'exec "$@"',
        "scontrol": 'if [ "$1" = show ]; then printf "%s\\n" head other; else echo "$@" > "$OUT/queued"; fi',
        "xtuner": 'printf "%s\\0" "$@" > "$OUT/arguments"; exit "$EXIT_CODE"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def call(script, exit_code=0):
        path = tmp_path / "job.sh"
        path.write_bytes(os.fsencode(script))
        subprocess.run(["bash", "-n", path], check=True)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path), "EXIT_CODE": str(exit_code)}
        environment |= {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "head,other", "SLURM_NODEID": "1"}
        done = subprocess.run(["bash", path], env=environment, capture_output=True, check=False)
        assert done.returncode == exit_code, done.stderr
        queued = tmp_path / "queued"
        words = (tmp_path / "arguments").read_bytes().split(b"\0")[:-1]
        return [os.fsdecode(word) for word in words], queued.read_text().strip() if queued.exists() else None

    return call


@pytest.mark.parametrize("name", ["model", HOSTILE, "\udcff\udc80"])
@pytest.mark.parametrize("nnodes", [1, 2])
def test_the_sbatch_script_runs_the_command_on_each_node(slurm, name, nnodes):
    plan = _plan(name, nnodes)
    arguments, queued = slurm(EMITTERS["slurm"](plan))
    expected = ["sft", f"--load-from={plan.config.load_from}", f"--dataset={plan.config.dataset[0]}"]
    expected += [f"--work-dir={plan.config.work_dir}", "--resume=auto", "--nproc-per-node=8"]
    if nnodes == 2:
        expected += ["--nnodes=2", "--node-rank=1", "--rdzv-endpoint=head:20042"]
    assert arguments == expected and queued is None


def test_the_sbatch_script_asks_for_what_the_plan_needs_and_is_queued_again_when_it_was_saved(slurm):
    script = EMITTERS["slurm"](_plan(nnodes=2, rdzv_endpoint="ignored:29999", max_restarts=4))
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.MULTILINE))
    assert (directives["nodes"], directives["gpus-per-node"], directives["ntasks-per-node"]) == ("2", "8", "1")
    assert directives["signal"] == "TERM@120" and "#SBATCH --requeue\n" in script
    arguments, queued = slurm(script, exit_code=7)
    assert queued == "requeue 42" and "--max-restarts=4" in arguments and arguments[-1] == "--rdzv-endpoint=head:29999"


def test_a_script_that_failed_is_not_queued_again(slurm):
    assert slurm(EMITTERS["slurm"](_plan()), exit_code=6)[1] is None


# --- Kubernetes ---


def _faults(value, schema, root, where="$"):
    """What `schema` does not allow, as kubeconform -strict would say it."""
    schema = root[schema["$ref"]] if "$ref" in schema else schema
    kinds = {"object": dict, "array": list, "string": str, "integer": int}
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{where} is no {schema['type']}"]
    faults = []
    if "enum" in schema and value not in schema["enum"]:
        faults.append(f"{where} is {value}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        faults.append(f"{where} is {value}")
    if schema["type"] == "object":
        known = schema.get("properties", {})
        faults += [f"{where}.{name} is missing" for name in schema.get("required", []) if name not in value]
        faults += [f"{where}.{name} is unknown" for name in value if name not in known]
        for name in known.keys() & value.keys():
            faults += _faults(value[name], known[name], root, f"{where}.{name}")
    if schema["type"] == "array":
        for index, item in enumerate(value):
            faults += _faults(item, schema["items"], root, f"{where}[{index}]")
    return faults


SCHEMA = json.loads((TESTS / "pytorchjob_schema.json").read_text())


def _manifest(plan):
    """As it is printed, and read by whoever applies it."""
    return yaml.safe_load(visible(EMITTERS["k8s"](plan)))


def _expand(argument, variables):
    """What Kubernetes makes of an argument: `$$` is a dollar, `$(NAME)` a variable that is known."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)", lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]), argument, flags=re.DOTALL
    )


@settings(max_examples=150)
@given(NAMES)
@example(HOSTILE)
def test_the_manifest_holds_the_command(name):
    manifest = _manifest(_plan(name, nnodes=3))
    assert _faults(manifest, SCHEMA, SCHEMA) == []
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    assert {kind: replica["replicas"] for kind, replica in replicas.items()} == {"Master": 1, "Worker": 2}
    [container] = replicas["Worker"]["template"]["spec"]["containers"]
    variables = {"RANK": "2", "MASTER_ADDR": "xtuner-master-0", "MASTER_PORT": "23456"}
    command = [_expand(argument, variables) for argument in container["command"]]
    assert command[:3] == ["xtuner", "sft", f"--load-from={Path.cwd() / name}"]
    assert command[-3:] == ["--nnodes=3", "--node-rank=2", "--rdzv-endpoint=xtuner-master-0:23456"]


def test_the_manifest_of_one_machine_has_no_workers_and_mounts_what_is_named():
    manifest = _manifest(_plan())
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    assert list(replicas) == ["Master"] and _faults(manifest, SCHEMA, SCHEMA) == []
    pod = replicas["Master"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    [container] = pod["containers"]
    assert container["volumeMounts"][0]["mountPath"] == container["workingDir"] == str(Path.cwd())
    assert container["command"][-1] == "--nproc-per-node=8" and container["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_the_schema_refuses_what_the_operator_would():
    manifest = _manifest(_plan())
    replica = manifest["spec"]["pytorchReplicaSpecs"].pop("Master")
    del replica["template"]["spec"]["containers"][0]["image"]
    manifest["spec"]["pytorchReplicaSpecs"]["Chief"] = {**replica, "restartPolicy": "Sometimes"}
    faults = _faults(manifest, SCHEMA, SCHEMA)
    assert len(faults) == 2 and "Chief is unknown" in faults[1] and "Master is missing" in faults[0]
    manifest["spec"]["pytorchReplicaSpecs"] = {"Master": {**replica, "restartPolicy": "Sometimes"}}
    assert len(_faults(manifest, SCHEMA, SCHEMA)) == 2


@pytest.mark.parametrize(("model", "words"), [("/elsewhere/m", "no volume"), ("\udcff", "is not UTF-8")])
def test_what_cannot_stand_in_a_manifest_is_refused(model, words):
    with pytest.raises(UsageError, match=words):
        EMITTERS["k8s"](_plan(model))


# --- grace ---


def test_the_grace_time_follows_the_longest_step_of_the_newest_run(tmp_path):
    config = TrainerConfig(work_dir=tmp_path)
    assert grace_s(config) == 120
    run_dir = RunDir.create(tmp_path)
    writer = MetricsWriter(run_dir.rank_metrics(0))
    for step, seconds in enumerate((3.0, 100.0, float("nan")), start=1):
        writer.write({"step": step, "time": seconds, "data_time": 1.0, "total_loss": 1.0})
    writer.write({"kind": "resume", "after_step": 3})
    assert grace_s(config) == 300  # 2 * 101 s and 60 s, in whole minutes
    RunDir.create(tmp_path)  # which has no step yet
    assert grace_s(config) == 300


def test_the_command_line_prints_it(xtuner_command):
    flags = ["sft", "--load-from", "m", "--dataset", "d.jsonl", "--nproc-per-node", "2"]
    done = xtuner_command(*flags, "--nnodes", "2", "--emit", "slurm")
    assert (
        done.returncode == 0
        and done.stdout.startswith("#!/bin/bash\n#SBATCH")
        and "--checkpoint-interval" in done.stderr
    )
    assert xtuner_command(*flags, "--emit", "k8s", "--checkpoint-interval", "1h").stderr == ""
    line = xtuner_command(*flags, "--emit", "torchrun").stdout
    assert "--nproc-per-node=2" in shlex.split(line)
    assert xtuner_command(*flags, "--nnodes", "2", "--emit", "torchrun").returncode == 2  # where do they meet?
    assert xtuner_command("sft", "--emit", "slurm").returncode == 2


@pytest.fixture
def xtuner_command():
    from commands import run

    return lambda *arguments: run("xtuner", *arguments)
