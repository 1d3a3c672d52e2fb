"""Normalisations that exporters write out: means and variances by their formulas, and their readers."""
