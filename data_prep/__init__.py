"""Corpus -> DATASET. Start reading at `build.py`. Knows nothing of training; never imports torch."""
