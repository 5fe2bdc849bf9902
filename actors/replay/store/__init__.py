"""What a shard holds, in memory and on disk."""
