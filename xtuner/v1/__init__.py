"""The training engine: the only part of XTuner that imports torch."""
