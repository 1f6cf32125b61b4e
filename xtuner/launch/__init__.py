"""From a checked config to running ranks: the command, the processes, the first failing rank."""
