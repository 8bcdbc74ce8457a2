"""What a worker tells its rank of its rows of a micro-batch. A rank whose workers decode needs no decoder itself."""

from dataclasses import dataclass

from pipeline.data.sample import Hole
from pipeline.dataset.remote.traffic import Fetched


@dataclass
class Part:
    """What a worker says of its part of an item; the pixels are in the ring."""

    item: int
    rows: list[list[int]]  # [accounts][ROW]
    holes: list[tuple[int, int, Hole]]  # part, epoch, hole
    images: int  # guests included
    read_s: float
    decode_s: float
    fetched: Fetched  # from afar, since the part before
