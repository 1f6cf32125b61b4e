"""One optimizer step over all ranks, and the process group under it."""
