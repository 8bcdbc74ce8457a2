"""DATASET -> batches. The way of a sample:

order.py       consumed count -> sample id (permutation.py, keyed.py: the mathematics)
read.py        sample id -> bytes, by one ranged read of the tar
augment.py     sample id -> crop box and flip, keyed: no random state
decode.py      bytes, box -> pixels
loader.py      step -> micro-batches, through torch's DataLoader workers
ledger.py      what was really read, added up and proved against the manifest
"""
