"""Prepared data as tensors: which packs a step takes, and what a rank feeds the model."""
