#!/usr/bin/env bash
# TensorBoard 2.21.0: event files of a run that was resumed once from an earlier step.
# Expected: a SessionLog of START at step 5 replaces what an interrupted session wrote from step 5
# on: this is what torch's SummaryWriter(purge_step=5) writes, and how it is documented.
# Seen: EventAccumulator (and `tensorboard --load_fast=false`) takes the first START of a directory
# for the beginning of the run and keeps both: it replaces only if the first session wrote a START,
# too, which SummaryWriter does not do by default. TensorBoard's default reader replaces.
# Output: steps [0, ..., 9, 5, ..., 9]; with a START in the first session [0, ..., 4, 5, ..., 9].
# Why it matters for VAEs: training resumed from a checkpoint repeats the steps since then. Curves
# read back in Python double back, with values of a state that was thrown away. A first writer with
# purge_step=0 helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    tensorboard==2.21.0 tensorboard-data-server==0.7.2 numpy==2.4.6 "setuptools<81"
venv/bin/python - 2> log <<'PYTHON' || { cat log; exit 1; }
import time

import tensorboard
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def steps(directory, starts):
    for session, first in enumerate((0, 5)):
        writer = EventFileWriter(directory, filename_suffix=f".{session}")
        if first in starts:
            log = SessionLog(status=SessionLog.START)
            writer.add_event(Event(wall_time=time.time(), step=first, session_log=log))
        for step in range(first, 10):
            value = Summary.Value(tag="loss", simple_value=100.0 * session + step)
            summary = Summary(value=[value])
            writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        writer.close()
        time.sleep(1.1)  # The names of files are by the second.
    events = EventAccumulator(directory)
    events.Reload()
    return [event.step for event in events.Tensors("loss")]


resumed, both = steps("resumed", {5}), steps("both", {0, 5})
print("tensorboard", tensorboard.__version__)
print("a START at 5:", resumed, "STARTs at 0 and 5:", both)
assert resumed == [*range(10), *range(5, 10)], "changed"
assert both == [*range(10)], "changed"
PYTHON
