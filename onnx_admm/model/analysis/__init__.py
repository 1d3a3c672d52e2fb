"""Questions about a model, without edits: shapes, profiles, channel groups, kernels, fingerprint."""
