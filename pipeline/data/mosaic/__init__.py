"""`loader: {name: mosaic}`: mosaicml-streaming's StreamingDataset in torch's DataLoader, in place of order and loader.

loader.py      the rank's side: micro-batches, and the state that a checkpoint keeps
order.py       what is known of its order: how many samples, which of them are repeats
samples.py     in its workers: what we make of its samples
workers.py     where these processes are born
"""
