#!/bin/sh
# An environment for `pip install 'vitstream[mds]'`, apart from ours: mosaicml-streaming wants transformers below 5 and
# numpy below 2.2, and a torchvision. torchvision's wheels need a CUDA torch, and mosaicml-streaming imports of it only
# two names that nothing here uses; so a stand-in with these two names takes its place.
# What it does not want otherwise (torch, 2 GB) it uses of our environment, by a path behind its own.
# Usage: tests/environments/mds.sh PYTHON FOLDER OURS
set -eu
python=$1
venv=$2
"$python" -m venv "$venv"
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site "$3" > "$(site "$venv")/ours.pth"
standin=$(mktemp -d)
trap 'rm -rf "$standin"' EXIT
mkdir -p "$standin/torchvision/transforms"
cat > "$standin/pyproject.toml" <<'END'
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "torchvision"
version = "0.10"
description = "Stand-in: the two names that mosaicml-streaming imports"
END
echo '"""Stand-in."""' > "$standin/torchvision/__init__.py"
cat > "$standin/torchvision/datasets.py" <<'END'
"""Stand-in."""


class VisionDataset:
    """Never made: a base class of datasets that are not used."""
END
echo '"""Stand-in."""' > "$standin/torchvision/transforms/__init__.py"
cat > "$standin/torchvision/transforms/functional.py" <<'END'
"""Stand-in."""


def to_tensor(picture: object) -> object:
    raise NotImplementedError
END
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet "$standin"
"$venv/bin/python" -m pip install --quiet -e '.[mds]'
"$venv/bin/python" -c 'import streaming'
touch "$venv/.installed"
