"""What others packed: tars.py reads the headers of any tar and trusts none, packed.py makes samples of them."""
