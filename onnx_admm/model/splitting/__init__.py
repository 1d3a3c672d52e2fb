"""A model cut into parts that run one after another."""
