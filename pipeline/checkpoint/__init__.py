"""A checkpoint is a transaction.

state.py      the engine's fp32 weights, moments and average as named, flat slices: what this rank owns
snapshot.py   the slices' values at one moment, in host memory
stream.py     a file that is hashed as it is written
files.py      slices <-> safetensors, and reading any slice of any tensor back
manifest.py   what a checkpoint holds and the hash of every byte of it
commit.py     write aside, publish by rename
saver.py      the same beside training
copies.py     published ones, copied elsewhere
retention.py  what stays, what is pruned, what is set aside
verify.py     whether every byte is what was written, and which is not
restore.py    choose the newest that verifies
load.py       slices into an engine of any world size and any ZeRO stage
listing.py    what checkpoints there are; which are kept
export.py     to Hugging Face and plain safetensors, with a model card (card.py)
source.py, start.py  model.init: a fresh run's weights from elsewhere
adopt.py, native.py  import of DeepSpeed's own checkpoints (native.py unpickles, in a process of its own;
                     zero_layout.py: where what lies in them)
"""
