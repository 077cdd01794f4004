"""Changing checkpoints on disk without loading them: tensors left out, renamed or cast, shard by shard."""
