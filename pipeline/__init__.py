"""vitstream: DATASET -> batches -> ZeRO step -> checkpoint. Start reading at `train.py`."""
