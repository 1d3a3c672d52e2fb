"""What lint found in a model file: as data, as SARIF, and as a table."""
