"""The replay: chunk store, selectors, limiter, shards and their service."""
