"""`vitstream verify`: every byte of a dataset against what the others say of it."""
