"""Talking with a model directory: prompt, reply, memory. What a terminal shows of it is in `xtuner.cli`."""
