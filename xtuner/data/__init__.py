"""From a JSONL file to packed token sequences, without torch: what the launcher, `preview` and the trainer share."""
