"""`engine.*`: what cannot be done is refused by name, and what is done is said."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.config import load_config
from pipeline.dataset.errors import UsageError
from pipeline.engine import build_model
from pipeline.levers import pull_levers
from tests.models.foreign import write_bit
from tests.runs import write_run

SMALL = {"name": "vit-ti/8", "image_size": 32, "depth": 4, "width": 64, "heads": 2, "mlp_dim": 128}


def pulled(folder: Path, **overrides: object) -> tuple[list[str], object]:
    config = load_config(write_run(folder / "run.yaml", Path("x"), **({"model": SMALL} | overrides)))
    model = build_model(config, 5)
    return pull_levers(config, model, 2, 1, 8), model


def test_half_of_the_blocks(tmp_path: Path) -> None:
    said, model = pulled(tmp_path, engine={"activation_checkpointing": 0.5, "compile": False})
    assert model.recomputed_blocks == 2 and said == ["2 of 4 blocks are recomputed in the backward pass"]


def test_without_a_gpu_nothing_is_done_by_itself(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    said, model = pulled(tmp_path)
    assert (said, model.recomputed_blocks) == ([], 0)


def test_what_cannot_be_compiled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"engine\.compile: at ZeRO stage 3"):
        pulled(tmp_path, zero="zero3", engine={"compile": True})


def test_without_the_compiler_that_torch_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = {"zero": "zero1", "engine": {"compile": True}}
    language, variable, compiler = ("C", "CC", "gcc") if torch.cuda.is_available() else ("C++", "CXX", "g++")
    lacking = rf"engine\.compile: no {re.escape(language)} compiler is here"
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(UsageError, match=f"{lacking}.* {variable}=no-such-compiler is none"):
        pulled(tmp_path, **compiled)
    monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin/cc")  # a C compiler, by the one name that nobody looks for
    with pytest.raises(UsageError, match=f"{lacking}.* install {re.escape(compiler)}"):
        pulled(tmp_path, **compiled)
    program(tmp_path / "bin" / compiler)
    assert pulled(tmp_path, **compiled)[0] == ["blocks are compiled, in the first steps"]


def program(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o755)


def test_a_model_of_transformers_is_left_as_it_is(tmp_path: Path) -> None:
    bit = {"name": f"hf:{write_bit(tmp_path / 'bit')}", "image_size": 32}
    assert pulled(tmp_path, model=bit)[0] == []
    for key, value in {"compile": True, "activation_checkpointing": 1.0}.items():
        with pytest.raises(UsageError, match=rf"engine\.{key}: .*hf:"):
            pulled(tmp_path, model=bit, zero="zero1", engine={key: value})
