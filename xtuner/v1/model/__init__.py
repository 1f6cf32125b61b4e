"""`transformers` models as sharded, packed-sequence models: build, attend, shard, load, export."""
