"""What the operator sees of steps. Torch-free."""

from collections.abc import Sequence
from typing import Any

from pipeline.run.console import eta
from pipeline.run.starvation import mean_could_feed


def progress_line(lines: Sequence[dict[str, Any]], total_steps: int, steps_left: float) -> str:
    """Where the run is: the last of some lines of metrics.jsonl, with rates that are means over all of them.

    `steps_left`: as many steps of today's cost as what is left costs.
    """
    line, step_s = lines[-1], sum(each["step_s"] for each in lines)
    rate = sum(each["images_per_s"] * each["step_s"] for each in lines) / step_s
    wait = sum(each["data_wait_s"] for each in lines) / step_s
    feeds = mean_could_feed(lines)
    could = f" (could feed {feeds:,.0f})" if feeds else ""
    left = eta(steps_left * step_s / len(lines))
    mfu = f", MFU {line['mfu']:.1%}" if line["mfu"] is not None else ""
    return (
        f"step {line['step']:,}/{total_steps:,}, {left} left  epoch {line['epoch']}  "
        f"loss {line['loss']:.4f}  {rate:,.0f} images/s{could}{mfu}  data wait {wait:.0%}  lr {line['lr']:.2e}"
    )
