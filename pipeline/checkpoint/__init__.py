"""A checkpoint is a transaction.

state.py     the engine's fp32 weights, moments and average as named, flat slices: what this rank owns
files.py     slices <-> safetensors, and reading any slice of any tensor back
manifest.py  what a checkpoint holds and the hash of every byte of it
commit.py    write aside, hash, publish by rename, prune
restore.py   verify every byte; choose the newest that verifies
load.py      slices into an engine of any world size and any ZeRO stage
listing.py   what checkpoints there are; which are kept
export.py    to Hugging Face and plain safetensors, with a model card (card.py)
source.py, start.py       model.init: a fresh run's weights from elsewhere
adopt.py, native.py       import of DeepSpeed's own checkpoints (native.py unpickles, in a process of its own;
                          zero_layout.py: where what lies in them)
"""
