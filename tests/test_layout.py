"""Rules about the source itself that would otherwise erode."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import CHECKOUT

PACKAGES = ("pipeline", "data_prep")
FILES = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
TORCH_FREE = [
    "data_prep",
    "pipeline.cli",
    "pipeline.cluster",
    "pipeline.config",
    "pipeline.config_optim",
    "pipeline.config_preset",
    "pipeline.config_model",
    "pipeline.config_sinks",
    "pipeline.dataset",
    "pipeline.launch",
    "pipeline.checkpoint.card",
    "pipeline.checkpoint.listing",
    "pipeline.checkpoint.manifest",
    "pipeline.checkpoint.source",
    "pipeline.checkpoint.zero_layout",
    "pipeline.data.augment",
    "pipeline.data.decode",
    "pipeline.data.corpus",
    "pipeline.data.ledger",
    "pipeline.data.lookup",
    "pipeline.data.mix",
    "pipeline.data.mixture",
    "pipeline.data.order",
    "pipeline.data.permutation",
    "pipeline.data.read",
    "pipeline.models.architecture",
    "pipeline.models.flops",
    "pipeline.models.hub",
    "pipeline.models.mfu",
    "pipeline.models.resnet",
    "pipeline.models.resolution",
    "pipeline.models.shapes",
    "pipeline.models.variants",
    "pipeline.optim.groups",
    "pipeline.optim.kinds",
    "pipeline.optim.schedule",
    "pipeline.run",
    "pipeline.sinks",
]
NEEDS_TORCH = {"pipeline.run.journal"}
UNPICKLES = "pipeline/checkpoint/native.py"  # a foreign checkpoint, in a process of its own, where the user trusts it
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def relative(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, wherever the import stands; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def test_what_a_login_node_uses_imports_without_torch() -> None:
    """In one fresh process, in which importing torch, DeepSpeed or transformers raises."""
    modules = [module_name(path) for path in FILES]
    free = [
        name
        for name in modules
        if any(name == root or name.startswith(f"{root}.") for root in TORCH_FREE)
        and name not in NEEDS_TORCH
        and not name.endswith(".__main__")
    ]
    assert all(any(name == root or name.startswith(f"{root}.") for name in free) for root in TORCH_FREE)
    code = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'deepspeed', 'transformers')))\n"  # None: ImportError
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        print(name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *free], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.fast
def test_data_prep_knows_only_the_dataset_format() -> None:
    for path in FILES:
        if path.is_relative_to(CHECKOUT / "data_prep"):
            foreign = [n for n in imports(parsed(path)) if n.startswith("pipeline") and ".dataset" not in n]
            assert not foreign, f"{relative(path)} imports {foreign}"
            assert all(n.startswith("pipeline.dataset") for n in imports(parsed(path)) if n.startswith("pipeline"))


@pytest.mark.fast
def test_the_dataset_format_knows_nothing_else() -> None:
    for path in FILES:
        if path.is_relative_to(CHECKOUT / "pipeline/dataset"):
            ours = [n for n in imports(parsed(path)) if n.partition(".")[0] in PACKAGES]
            assert all(n.startswith("pipeline.dataset") for n in ours), f"{relative(path)} imports {ours}"


@pytest.mark.fast
def test_training_knows_nothing_of_data_prep() -> None:
    for path in FILES:
        if path.is_relative_to(CHECKOUT / "pipeline") and path.parent.name != "cli":
            assert not [n for n in imports(parsed(path)) if n.startswith("data_prep")], relative(path)


def unsafe(tree: ast.Module) -> Iterator[str]:
    for name in imports(tree):
        if name.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"):
            yield f"imports {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        owner = getattr(getattr(called, "value", None), "id", "")
        if isinstance(called, ast.Name) and name in ("eval", "exec"):
            yield f"line {node.lineno}: {name}()"
        if name in ("extractall", "extract", "all_gather_object", "broadcast_object_list", "gather_object"):
            yield f"line {node.lineno}: {name}()"
        if (owner, name) in (("torch", "load"), ("os", "system"), ("yaml", "load"), ("os", "popen")):
            yield f"line {node.lineno}: {owner}.{name}()"
        for keyword in node.keywords:
            if keyword.arg in ("shell", "allow_pickle") and getattr(keyword.value, "value", None) is not False:
                yield f"line {node.lineno}: {keyword.arg}=..."


@pytest.mark.fast
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    found = [(relative(path), what) for path in FILES for what in unsafe(parsed(path))]
    others = [each for each in found if each[0] != UNPICKLES]
    assert not others
    assert len(found) == 1 and found[0][1].endswith("torch.load()")


@pytest.mark.fast
def test_what_unpickles_is_imported_by_nothing_that_trains() -> None:
    module = module_name(CHECKOUT / UNPICKLES)
    users = [relative(path) for path in FILES if any(name.startswith(module) for name in imports(parsed(path)))]
    assert users == ["pipeline/checkpoint/adopt.py"], "which starts it as a process of its own"


@pytest.mark.fast
@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import tarfile; tarfile.open('x').extractall()",
        "import torch; torch.load('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
    ],
)
def test_the_check_finds_what_it_is_for(source: str) -> None:
    assert list(unsafe(ast.parse(source)))


@pytest.mark.fast
def test_files_and_functions_stay_readable() -> None:
    long = []
    for path in FILES:
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES:
            long.append(f"{relative(path)}: {lines} lines")
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long.append(f"{relative(path)}: {node.name} has {length} lines")
    assert not long


@pytest.mark.fast
def test_every_module_says_what_it_is() -> None:
    assert not [relative(path) for path in FILES if not ast.get_docstring(parsed(path))]
