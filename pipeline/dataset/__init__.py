"""What a DATASET is: keys, manifest, index and images. Torch-free; both sides of the product use it.

DATASET/dataset.json            manifest.py   written last: no manifest, no dataset
DATASET/shards/shard-*.tar      an ordinary WebDataset tar; keys.py names its samples, images.py reads them
DATASET/shards/shard-*.arrow    index.py      where in the tar each sample's image lies

It lies in a folder or behind a URL: location.py, blob.py, remote/.

And what both sides need besides: errors.py (exit codes), files.py (whole or not there), processes.py (nobody outlives
who started them), names.py (paths as text), quantities.py (512MB as bytes).
"""
