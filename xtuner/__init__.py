"""XTuner: fine-tune Hugging Face language models from a terminal."""

__version__ = "0.1.0"
