"""Where a run goes on from: what a manifest with a right hash holds need not be what a run has written."""

from types import SimpleNamespace

import pytest

from pipeline.config import Config
from pipeline.data.corpus import fit_order, open_corpus
from pipeline.data.ledger import Ledger
from pipeline.dataset.errors import UsageError
from pipeline.progress import Progress
from tests.checkpoint.test_manifest import manifest
from tests.datasets import make_dataset

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("progress") / "data"
    make_dataset(path, 96)
    return open_corpus(path)


def after(corpus, config, **data):
    sound = {"order": fit_order(corpus, 8, 0).to_json(), "ledger": Ledger().to_json()}
    made = manifest(step=2, consumed=16, data={"fingerprint": corpus.fingerprint} | sound | data)
    return Progress.after(made, config, corpus, SimpleNamespace(size=1, local_size=1, rank=0))


def test_it_goes_on_or_says_what_it_cannot(corpus, tmp_path):
    tree = {"run_dir": tmp_path, "data": {"train": tmp_path}, "model": {"name": "vit-ti/16"}, "batch_size": 8}
    config = Config.model_validate(tree | {"steps": 5})
    assert after(corpus, config).consumed == 16
    for wrong in ({"order": {"lanes": 3}}, {"order": {"samples": "many"}}, {"ledger": {}}, {"ledger": {"open": 3}}):
        with pytest.raises(UsageError, match=r"step-00000002: the manifest's data\.order"):
            after(corpus, config, **wrong)
