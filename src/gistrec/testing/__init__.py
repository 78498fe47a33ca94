"""Conformance classes that a new component's test subclasses, and tiny deterministic data."""
