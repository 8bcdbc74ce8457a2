"""MosaicML's format: read without its library, written with it."""
