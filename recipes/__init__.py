"""The recipes that come with the package, as TOML files; ``--recipe NAME`` finds them."""
