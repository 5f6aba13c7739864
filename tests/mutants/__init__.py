"""Deliberate breaks of the code, each of which a named test must notice (``make mutants``)."""
