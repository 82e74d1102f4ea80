"""Values, names, choices, links and tensors that no node was written for, through the real nodes in the host's process."""

from __future__ import annotations

import random

import oddities
import torch

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
# Whose own limits are far beyond what a test waits for; odd values of these that are allowed are few and quick.
PATIENT = {"steps", "rank", "batch_size", "accumulation", "refinements", "frame_count", "width", "height"}


def _widgets(schema, given):
    """Every widget in force: where its value stands, and the input."""
    for item in schema.inputs:
        if item.io_type == DYNAMIC:
            group = given[item.id]
            (option,) = [option for option in item.options if option.key == group[item.id]]
            yield from ((group, inner, f"{item.id}.{inner.id}") for inner in option.inputs)
        else:
            yield given, item, item.id


def _label(value) -> str:
    return f"{type(value).__name__} {str(value)[:20]!a}"


def test_inputs_that_work_work(world, field):
    for node in world.works:
        field.attack(f"{node} as it is", lambda node=node: world.call(node, world.inputs(node)))
        assert not field.last, f"{node}: {field.last}"
    field.check()


def test_odd_values_in_every_widget(world, field):
    drawn, asked = random.Random(1), 0
    for node in world.works:
        schema = world.host.node(node).define_schema()
        names = [name for _, _, name in _widgets(schema, world.inputs(node))]
        for name in names:
            for _ in range(5):
                given = world.inputs(node)
                place, item = next((place, item) for place, item, own in _widgets(schema, given) if own == name)
                place[item.id] = value = oddities.value(drawn, item.io_type)
                label = f"{node} {name} = {_label(value)}"
                field.attack(label, lambda node=node, given=given: world.call(node, given))
                asked += 1
    assert asked > 300
    field.check()


def test_values_at_the_ends_of_what_widgets_take(world, field):
    for node in world.works:
        schema = world.host.node(node).define_schema()
        for name in [name for _, item, name in _widgets(schema, world.inputs(node)) if hasattr(item, "min")]:
            for end in ("min", "max"):
                given = world.inputs(node)
                place, item = next((place, item) for place, item, own in _widgets(schema, given) if own == name)
                if getattr(item, end) is None or (end == "max" and item.id in PATIENT):
                    continue
                place[item.id] = getattr(item, end)
                field.attack(f"{node} {name} = {end}", lambda node=node, given=given: world.call(node, given))
    field.check()


def test_odd_names_of_files(world, field):
    drawn = random.Random(2)
    for _ in range(60):
        name = oddities.name(drawn)
        inputs = world.inputs("SMA_SaveMotionLoRA") | {"filename_prefix": name}
        field.attack(f"save as {name[:40]!a}", lambda inputs=inputs: world.call("SMA_SaveMotionLoRA", inputs))
    for _ in range(15):
        name = oddities.name(drawn)
        field.attack(f"train as {name[:40]!a}", lambda name=name: world.train(save_prefix=name))
    for node, key, place in (
        ("SMA_LoadMotionClip", "file", None),
        ("SMA_LoadOfficialConfig", "file", None),
        ("SMA_LoadMotionLoRA", "file", "source"),
        ("SMA_TrainMotionLoRA", "resume_from", None),
    ):
        for _ in range(15):
            inputs, name = world.inputs(node), oddities.name(drawn)
            (inputs[place] if place else inputs)[key] = name
            field.attack(f"{node} {key} {name[:40]!a}", lambda node=node, inputs=inputs: world.call(node, inputs))
    field.check()


def test_two_saves_never_share_a_file(world, field):
    """Names that a file system takes for one another."""
    folder, drawn = world.output / "loras", random.Random(3)
    names = ["twin", "twin/", "twin/.", "./twin", "twin.", "twin ", "a/../twin", "a\\..\\twin", "twin/./", "TWIN"]
    drawn.shuffle(names)
    before = set(folder.rglob("*"))
    for name in names:
        inputs = world.inputs("SMA_SaveMotionLoRA") | {"filename_prefix": name, "prompt": name}
        assert (
            field.attack(f"save as {name!r}", lambda inputs=inputs: world.call("SMA_SaveMotionLoRA", inputs))
            == "worked"
        )
    made = [path for path in set(folder.rglob("*")) - before if path.is_file()]
    assert len(made) == len(names)
    field.check()


def test_choices_that_are_not_there(world, field):
    drawn = random.Random(4)
    for node in world.works:
        for item in world.host.node(node).define_schema().inputs:
            if item.io_type != DYNAMIC:
                continue
            for _ in range(8):
                inputs = world.inputs(node)
                group = inputs[item.id]
                match drawn.randrange(5):
                    case 0:
                        how, group[item.id] = "unknown", drawn.choice([*oddities.TEXTS, *oddities.OTHERS])
                    case 1:
                        how, _ = "a part is missing", group.pop(drawn.choice(list(group)))
                    case 2:
                        other = drawn.choice([option.key for option in item.options])
                        how, inputs[item.id] = f"only {other!r}", {item.id: other}
                    case 3:
                        how, group["unheard_of"] = "a part too many", 1
                    case _:
                        how, inputs[item.id] = "no mapping", drawn.choice([*oddities.OTHERS, group[item.id]])
                field.attack(f"{node} {item.id}: {how}", lambda node=node, inputs=inputs: world.call(node, inputs))
    field.check()


def test_links_of_every_wrong_kind(world, field):
    drawn, links = random.Random(7), list(oddities.wrong_links(world))
    for node in world.works:
        schema = world.host.node(node).define_schema()
        for name in [name for _, _, name in _widgets(schema, world.inputs(node))]:
            for kind, value in drawn.sample(links, 4):
                inputs = world.inputs(node)
                place, item = next((place, item) for place, item, own in _widgets(schema, inputs) if own == name)
                place[item.id] = value
                field.attack(f"{node} {name} <- {kind}", lambda node=node, inputs=inputs: world.call(node, inputs))
    field.check()


def test_odd_tensors(world, field):
    drawn = random.Random(5)
    odd = {
        "latent": lambda: oddities.latent(drawn, world.latent),
        "inverted": lambda: oddities.latent(drawn, world.latent),
        "positive": lambda: oddities.conditioning(drawn, world.positive),
        "lora": lambda: oddities.lora(drawn, dict(world.lora)),
        "image": lambda: oddities.tensor(drawn, world.frames),
    }
    sockets = [
        *[("SMA_TrainMotionLoRA", "latent", "latent")] * 30,
        *[("SMA_TrainMotionLoRA", "positive", "positive")] * 20,
        *[("SMA_InvertClip", "latent", "latent")] * 40,
        *[("SMA_InvertClip", "positive", "positive")] * 40,
        *[("SMA_MotionNoise", "inverted", "inverted")] * 40,
        *[("SMA_MotionResiduals", "clip", "image")] * 40,
        *[("SMA_MotionResiduals", "clip", "latent")] * 40,
        *[("SMA_SaveMotionLoRA", "lora", "lora")] * 40,
        *[("SMA_LoadMotionLoRA", "lora", "lora")] * 40,
    ]
    for node, name, kind in sockets:
        inputs = world.inputs(node)
        how, value = odd[kind]()
        if node == "SMA_LoadMotionLoRA":
            inputs["source"] = {"source": "trained", "lora": value}
        else:
            inputs[name] = value
        field.attack(f"{node} {name}: {how}", lambda node=node, inputs=inputs: world.call(node, inputs))
    field.check()


def test_what_was_trained_of_odd_inputs_holds_numbers(world):
    """An answer that worked is worth something: no NaN goes on."""
    drawn = random.Random(6)
    for _ in range(12):
        _, value = oddities.latent(drawn, world.latent)
        try:
            lora, _ = world.train(latent=value)
        except ValueError:
            continue
        assert all(torch.isfinite(tensor.float()).all() for tensor in lora.values())
