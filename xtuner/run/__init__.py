"""The run directory: where the trainer and every screen meet. Standard library only."""
