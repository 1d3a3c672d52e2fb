"""Questions about a model, without edits: shapes, profiles, kernels, fingerprint."""
