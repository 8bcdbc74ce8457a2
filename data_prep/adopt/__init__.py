"""`vitstream index`: a dataset of shards that others made, where they lie, without rewriting them."""
