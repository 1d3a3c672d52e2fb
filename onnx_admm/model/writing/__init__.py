"""Writing models: external data, the lock of an output, the one atomic writer."""
