"""A GPU's memory by part, and how many blocks are recomputed so that it fits: arithmetic."""

from pathlib import Path

import pytest

from pipeline.config import Config, load_config
from pipeline.launch.gpu_memory import USABLE, gpu_memory
from tests.runs import write_run

pytestmark = pytest.mark.fast
H14 = {"name": "vit-h/14", "pooling": "gap"}


def config_of(folder: Path, **overrides: object) -> Config:
    return load_config(write_run(folder / "run.yaml", Path("x"), model=H14, precision="bf16", **overrides))


def test_no_block_is_recomputed_where_there_is_room_and_as_few_as_needed_where_not(tmp_path: Path) -> None:
    config = config_of(tmp_path, zero="zero1")
    roomy, tight = (gpu_memory(config, 1000, 8, 1, 256, capacity) for capacity in (141 * 10**9, 80 * 10**9))
    assert roomy.recomputed == 0 and roomy.fits(141 * 10**9)
    assert 0 < tight.recomputed < tight.blocks == 32 and tight.fits(80 * 10**9)
    asked = config_of(tmp_path, zero="zero1", engine={"activation_checkpointing": (tight.recomputed - 1) / 32})
    assert not gpu_memory(asked, 1000, 8, 1, 256, 80 * 10**9).fits(80 * 10**9)


def test_what_can_never_fit_says_so(tmp_path: Path) -> None:
    memory = gpu_memory(config_of(tmp_path, zero="zero1"), 1000, 8, 1, 4096, 80 * 10**9)
    assert memory.recomputed == memory.blocks and not memory.fits(80 * 10**9)


def test_without_a_gpu_nothing_is_recomputed_unless_asked(tmp_path: Path) -> None:
    assert gpu_memory(config_of(tmp_path), 1000, 1, 1, 64, None).recomputed == 0
    half = config_of(tmp_path, engine={"activation_checkpointing": 0.5})
    assert gpu_memory(half, 1000, 1, 1, 64, None).recomputed == 16


def test_of_several_image_sizes_the_largest_has_to_fit(tmp_path: Path) -> None:
    small, large, both = (
        gpu_memory(config_of(tmp_path, resolution=sizes), 1000, 8, 1, 64, None).activations
        for sizes in ([{"image_size": 112, "until": 0.5}], [{"image_size": 448, "until": 0.5}], [])
    )
    assert small == both and large > 3 * both


@pytest.mark.parametrize("zero", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_the_peak_is_states_and_activations_or_the_update(zero: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, zero=zero)
    one, many = (gpu_memory(config, 1000, 8, 1, images, None) for images in (1, 128))
    assert many.activations == 128 * one.activations
    assert many.peak == many.states.gpu + many.buffers + many.activations
    assert one.peak >= one.states.gpu + one.update
    assert 0 < USABLE < 1
