"""The files that a run reads and writes: overlaps, changes, digests, checkpoints, results."""
