"""Constants that operators compute from constants, within a budget."""
