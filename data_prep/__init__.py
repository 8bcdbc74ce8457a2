"""From a corpus to a DATASET. Knows nothing of training, and of `pipeline` only what a dataset is.

sources.py   which images there are               plan.py     which goes to which shard (pure)
images.py    one image, encoded                   shards.py   one shard, written whole
catalog.py   samples.parquet and rejects.jsonl    work.py     what is done already
build.py     the story of `vitstream shard`       verify.py   the story of `vitstream verify`
"""
