"""From a corpus to a DATASET. Knows nothing of training, and of `pipeline` only what a dataset is.

build.py    the story of `vitstream shard`: planning.py -> stages.py -> publish.py; request.py, options.py, work.py
sources/    which images there are; remote/ reads them from afar, foreign/ from what others packed
catalog/    which goes to which shard, and which went where
shards/     one image, one tar, one index
audit/      `verify`           repair.py  one shard, made again      views.py  parts of a dataset, by links
adopt/      `index`            mds/       `convert`                  dedup/    equal and near images
card/       `inspect`          common/    what all of them need
"""
