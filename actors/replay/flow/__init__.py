"""What moves when: batches, credits, write-backs, the limiter."""
