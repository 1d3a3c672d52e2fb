"""Models into files: external data, the lock beside an output, the one atomic writer."""
