"""One clip in, a motion-transferred video out, through a real ComfyUI on the CPU.

    python scripts/demo.py                  the example clip that ships with the pack
    python scripts/demo.py --clip my.mp4    any film of at least a second

Starts a ComfyUI of its own with the pack installed, queues workflows/sprites-motion-transfer.json through the HTTP API, and leaves in
demo/: reference.mp4, without_lora.mp4, with_lora.mp4 (same prompt, same seed), contact_sheet.png, motion_lora.safetensors, report.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import harness

TEMPLATE = harness.ROOT / "tests" / "workflows" / "sprites-motion-transfer.api.json"
DEMO = harness.ROOT / "demo"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video file; without it, the example clip")
    parser.add_argument("--prompt", help="what the new video shows, in words of the sprites model: 'green square'")
    arguments = parser.parse_args()
    if arguments.clip and not arguments.clip.is_file():
        print(f"There is no file {arguments.clip}; give a video file.", file=sys.stderr)
        return 2
    harness.enter()
    # Only inside the environment is there a torch to read clips with.
    sys.path.append(str(harness.ROOT))
    import demo_report

    started = time.monotonic()
    python, host = harness.ensure_environment()
    prompt = json.loads(TEMPLATE.read_text())
    nodes = {node["class_type"]: node["inputs"] for node in prompt.values()}
    if arguments.prompt:
        positive = nodes["KSampler"]["positive"][0]
        prompt[positive]["inputs"]["text"] = arguments.prompt
    print(f"Starting ComfyUI from {host.name} on the CPU ...", flush=True)
    with harness.serve(python, host) as client:
        if arguments.clip:
            folder = client.base / "input"
            shutil.copy2(arguments.clip, folder)
            nodes["SMA_LoadMotionClip"]["file"] = arguments.clip.name
            # A real clip shows nothing the sprites model has a word for.
            prompt[nodes["SMA_TrainMotionLoRA"]["positive"][0]]["inputs"]["text"] = ""
        progress = Progress(prompt)
        videos = {}
        # The second prompt differs in the strength alone, so the host takes everything up to the trained LoRA from its cache.
        for name, strength in (("with_lora", 1.0), ("without_lora", 0.0)):
            nodes["LoraModelLoader"]["strength_model"] = strength
            progress.title(name.replace("_", " "))
            result = client.run(prompt, on_event=progress)
            if result.status != "success":
                error = result.event("execution_error") or {}
                print(f"The host stopped: {error.get('exception_message', result.messages)}", file=sys.stderr)
                return 1
            videos[name] = client.output_file(entry_of(result.outputs, prompt, "SaveVideo"))
        loras = list((client.base / "output" / "loras").glob("*.safetensors"))
        source = arguments.clip or harness.ROOT / "clips" / nodes["SMA_LoadMotionClip"]["file"].split(" [")[0]
        demo_report.collect(DEMO, source, videos, max(loras), nodes["SMA_LoadMotionClip"])
    text = prompt[nodes["KSampler"]["positive"][0]]["inputs"]["text"]
    facts = {"clip": source.name, "prompt": text, "seconds": round(time.monotonic() - started, 1)}
    demo_report.report(DEMO, facts, nodes, scored=arguments.clip is None)
    return 0


def entry_of(outputs: dict[str, dict[str, Any]], prompt: dict[str, Any], class_type: str) -> dict[str, str]:
    """The first file that the node of this type left."""
    shown = next(outputs[key] for key, node in prompt.items() if node["class_type"] == class_type)
    return next(entries[0] for entries in shown.values() if isinstance(entries[0], dict))


class Progress:
    """Prints what the host is doing, one line per node and one that grows for the long ones."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.prompt = prompt
        self.shown = -1

    def title(self, text: str) -> None:
        print(f"Sampling {text}:", flush=True)

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        if event == "executing" and data.get("node"):
            print(f"  {self.prompt[data['node']]['class_type']}", flush=True)
            self.shown = -1
        elif event == "progress" and data["max"] >= 50:
            tenth = 10 * data["value"] // data["max"]
            if tenth > self.shown:
                self.shown = tenth
                print(f"    step {data['value']} of {data['max']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
