"""The built-in rules; each is registered as an entry point, and has a section in ``docs/lint.md``."""
