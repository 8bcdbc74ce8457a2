"""Tables of images: CSV, TSV, JSON lines and Parquet, local or remote, read in a stream.

formats.py: rows out of files. columns.py: which column is what. cells.py: one cell's image or labels.
source.py: tables of paths and URLs. packed.py: Parquet with the images in it.
"""

from data_prep.sources.tables.formats import is_table
from data_prep.sources.tables.opening import open_table
from data_prep.sources.tables.packed import PackedTableSource
from data_prep.sources.tables.source import TableSource

__all__ = ["PackedTableSource", "TableSource", "is_table", "open_table"]
