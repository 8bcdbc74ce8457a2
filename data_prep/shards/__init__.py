"""Making one shard: an image, a tar, its index."""
