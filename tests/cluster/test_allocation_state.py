"""What became of an earlier job, asked while it may be on its way out still."""

import pytest

from pipeline.cluster.allocation import state_of
from tests.cluster.fake import Fake

pytestmark = pytest.mark.fast


def test_the_end_of_a_job_that_is_on_its_way_out_is_waited_for(slurm: Fake) -> None:
    assert state_of(7) is None
    calls = '$(tr -cd "\\036" < "${0%/*}/scontrol.calls" | wc -c)'
    slurm.forget()
    slurm.says("scontrol", f"[ {calls} -lt 3 ] && S=COMPLETING || S=CANCELLED; echo JobId=7 JobState=$S Reason=None")
    assert state_of(7) == "CANCELLED" and len(slurm.calls("scontrol")) == 3
