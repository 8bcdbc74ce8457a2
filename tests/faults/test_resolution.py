"""A run whose images grow: killed on both sides of the switch, gone on with exactly there; nothing differs."""

import shutil

import pytest

from pipeline.run.metrics import read_lines
from tests.datasets import damage, make_dataset
from tests.faults.test_kill_resume import until_step
from tests.runs import start, steps_of, train, vitstream, write_run

LAST_SMALL, STEPS = 5, 13


@pytest.fixture(scope="module")
def holed(tmp_path_factory):
    """352 samples of which every twelfth is no image."""
    path = tmp_path_factory.mktemp("holed") / "train"
    make_dataset(path, 352)
    damage(path, first=5, every=12)
    return path


def test_kills_on_both_sides_of_a_switch_and_a_resume_at_it_leave_no_trace(holed, tmp_path):
    long = {
        "epochs": None,
        "steps": STEPS,
        "data": {"train": str(holed), "max_hole_rate": 0.5},
        "resolution": [{"image_size": 16, "until": LAST_SMALL / STEPS}],
        "loader": {"workers": 1, "pixel_digest": True},
        "checkpoint": {"every_steps": 1, "keep_last": 100},
        "regularization": {"dropout": 0.1, "patch_dropout": 0.25},
        "augment": {"mixup": 0.2, "random_erasing": 0.5},
    }
    whole, run = (write_run(tmp_path / f"{name}.yaml", holed, **long) for name in ("whole", "killed"))
    said = train(whole, 2).stdout
    assert f"at 16 px to step {LAST_SMALL}, then 32 px" in said
    assert said.index(f"step {LAST_SMALL}/") < said.index(f"from step {LAST_SMALL + 1} on, images are 32 px")
    for step in (LAST_SMALL - 1, LAST_SMALL + 1):
        launcher = start("train", run, "--nproc", 2)
        assert until_step(launcher, run, step), launcher.communicate()
        launcher.kill()
        launcher.communicate()
    for path in (run.with_suffix("") / "checkpoints").glob("step-*"):
        if path.name > f"step-{LAST_SMALL:08d}":
            shutil.rmtree(path)
    said = train(run, 2).stdout
    assert f"from step-{LAST_SMALL:08d}, which verifies" in said and "at 32 px, fp32" in said
    undisturbed, steps = steps_of(whole), steps_of(run)
    assert [steps[step]["attempt"] for step in (1, LAST_SMALL + 1)] == [0, 2] and steps.keys() == undisturbed.keys()
    assert sum(line["holes"] for line in undisturbed.values()) > STEPS
    for step, line in undisturbed.items():
        for field in ("batch_digest", "pixel_digest", "loss", "grad_norm", "lr", "consumed", "holes"):
            assert steps[step][field] == line[field], (step, field)
    assert all(c["exactly_once"] for c in read_lines(run.with_suffix("") / "digest.jsonl"))
    other = vitstream("train", run, "--nproc", 2, "--set", "resolution=[]", "--set", "steps=14")
    assert other.returncode == 2 and "resolution: " in other.stderr and "--accept-changes" in other.stderr
