"""Becomes torchrun, and ends with the process that supervises it: agent.py SUPERVISOR_PID TORCHRUN ARGUMENTS..."""

import os
import runpy
import sys

from xtuner.run.orphan import AGENT_PID_VARIABLE, end_with_parent


def main() -> None:
    """Bind this process to its supervisor, and run the command of the arguments in its place."""
    _, supervisor_pid, *command = sys.argv
    may_execute = end_with_parent(int(supervisor_pid))
    os.environ[AGENT_PID_VARIABLE] = str(os.getpid())
    if may_execute:
        os.execv(command[0], command)
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
