"""`python -m pipeline.cli`: what the launcher starts, whatever is on the PATH."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
