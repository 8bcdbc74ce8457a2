"""A small BiT, as a folder that `hf:` takes."""

from pathlib import Path
from typing import Any

from transformers import BitConfig

BIT = {"depths": [1, 2, 1], "hidden_sizes": [16, 32, 64], "embedding_size": 16, "num_groups": 4}


def write_bit(folder: Path, **changes: Any) -> Path:
    BitConfig(**(BIT | changes)).save_pretrained(folder)
    return folder
