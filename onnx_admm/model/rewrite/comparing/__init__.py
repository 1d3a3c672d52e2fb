"""Forms of models whose outputs can be compared: with fixed draws, fixed choices, and scores as outputs."""
