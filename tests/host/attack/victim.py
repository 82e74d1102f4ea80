"""A process that trains through the real host, to be killed or starved: python -I victim.py BASE

It reads one line of JSON at a time, inputs of Train Motion LoRA, and forks a child for each that trains and says on one line of JSON
what came of it. The child of a line is what there is to kill; this process and its host stay.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[2] / "scripts")]


def _say(**facts: object) -> None:
    os.write(int(os.environ["VICTIM_SAYS"]), json.dumps(facts).encode() + b"\n")


def _train(world: World, changes: dict) -> None:
    said: list[str] = []
    report = world.host.module("nodes.host.report").Report
    tell, warn = report.tell, report.warn
    report.tell = lambda self, text: (said.append(text), tell(self, text))[1]
    report.warn = lambda self, text: (said.append(text), warn(self, text))[1]
    try:
        lora, _ = world.train(**changes)
        digest = {name: tensor.double().abs().sum().item() for name, tensor in lora.items()}
        _say(done=True, said=said, digest=digest)
    except BaseException as error:  # noqa: BLE001  it is judged by the test
        _say(done=False, said=said, error=str(error), kind=type(error).__name__)


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("host_of_tests", HERE.parent / "conftest.py")
    host_of_tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host_of_tests)
    host = host_of_tests.load_host(Path(sys.argv[1]))

    # One thread: what others leave half done in a fork could hold a lock for ever.
    import torch

    torch.set_num_threads(1)
    from world import World

    world = World(host)
    _say(ready=True)
    for line in sys.stdin:
        if child := os.fork():
            _say(child=child)
            _, status = os.waitpid(child, 0)
            _say(ended=status)
        else:
            _train(world, json.loads(line))
            os._exit(0)
