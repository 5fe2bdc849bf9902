"""What `envs.testing.conformance` asks of an environment, one small file per group of questions."""
