"""Equal and nearly equal images: found by hashes, within a corpus and against evaluation sets."""
