"""From a file to a checked model in memory; the checker runs in the worker process."""
