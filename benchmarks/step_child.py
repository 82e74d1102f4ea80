"""One contender in a process of its own: `step_child.py JOB RESULT`, both JSON files. Started by step.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import step_official, step_ours
from benchmarks.step_networks import SIZES


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    measure = {"ours": step_ours.measure, "official": step_official.measure}[job["contender"]["loop"]]
    size = SIZES[job["backbone"]][job["size"]]
    result = measure(job["backbone"], size, job["contender"], job["device"], job["steps"])
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
