"""What a DATASET is: keys, manifest, index and images. Torch-free; both sides of the product use it.

DATASET/dataset.json            manifest.py   written last: no manifest, no dataset
DATASET/shards/shard-*.tar      an ordinary WebDataset tar; keys.py names its samples, images.py reads them
DATASET/shards/shard-*.arrow    index.py      where in the tar each sample's image lies

And what both sides need besides: errors.py (exit codes), files.py (whole or not there), processes.py (nobody outlives
who started them).
"""
