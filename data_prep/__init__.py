"""From a corpus to a DATASET. Knows nothing of training, and of `pipeline` only what a dataset is.

build.py     the story of `vitstream shard`        audit/    the story of `vitstream verify`
sources/     which images there are                catalog/  which goes to which shard, and which went where
shards/      one image, one tar, one index         work.py   what is done already
"""
