"""Benchmarks behind `worldfleet bench`: one module a topic, each yielding BenchRow records."""
