"""Conformance checks for any environment, and small environments that find faults of what uses them."""
