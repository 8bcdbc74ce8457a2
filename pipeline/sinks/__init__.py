"""Where a run's metrics are shown besides its folder, without a gap or a fold in the curve after a resume.

metrics.jsonl is the truth: a sink is given its lines, once they are written. RUN/sinks.json says up to where each sink
has them for certain. A start goes on from there with the lines of metrics.jsonl, up to the step from which training
goes on: so a sink also gets what was lost with a process that was killed, what it refused in an earlier attempt, and
all that was before it was asked for. Torch-free.
"""
