"""The device of the demo, as a process: runs plans of a bundle through the bundle's own client."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import partc


def main() -> None:
    """Run each plan on each photograph; print latencies and save what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--photos", type=Path, required=True, help="an .npz of inputs by name")
    parser.add_argument("--plans", nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", type=int, help="run on this CPU alone")
    parser.add_argument("--outputs", type=Path, required=True, help="the .npz to write")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    client = partc.load(options.bundle).connect(options.server)
    photos = dict(np.load(options.photos))
    latencies_ms, outputs = {}, {}
    for plan in options.plans:
        samples_ms = []
        for name, photo in photos.items():
            for repeat in range(options.repeats + 1):
                started = time.perf_counter()
                outputs[f"{plan}/{name}"] = client(image=photo, plan=plan).logits
                if repeat > 0:  # the first call pays for cold caches and a cold connection
                    samples_ms.append((time.perf_counter() - started) * 1e3)
        latencies_ms[plan] = statistics.median(samples_ms)
    np.savez(options.outputs, **outputs)
    json.dump(latencies_ms, sys.stdout)


if __name__ == "__main__":
    main()
