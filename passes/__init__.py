"""Passes: from a Relax module to a layer graph with costs, a cut and segments."""
