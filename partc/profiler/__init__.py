"""Measure what layers take on a machine, and fit predictors to it."""
