"""Load Motion Clip, Empty Video Latent and Motion Residuals inside the real host."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import av
import harness
import pytest
import torch
from PIL import Image
from tiny_models import write_wan


@pytest.fixture(scope="module")
def vae_name(host):
    """A tiny random Wan VAE: 8 pixels to a latent pixel, 1 + 4n frames to 1 + n latent frames."""
    return write_wan(host.base / "models")[1]


@pytest.fixture
def wan(host, vae_name):
    return host.call("VAELoader", vae_name=vae_name)[0]


@pytest.fixture(scope="module")
def wan_model(host, vae_name):
    return host.call("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default")[0]


@pytest.fixture(scope="module")
def clips(host, vae_name):
    """The host's input folder with a film, a gif, two folders of images and things that are no clips."""
    folder = host.base / "input"
    ramp = torch.linspace(0, 1, 40 * 30).view(30, 40, 1)
    frames = torch.stack([ramp.roll(3 * i, dims=1).expand(30, 40, 3) for i in range(24)])
    host.module("sma.clip").write_video(frames, 12, folder / "film.mp4")
    pictures = [Image.new("RGB", (16, 12), (20 * i, 40, 90)) for i in range(6)]
    pictures[0].save(folder / "loop.gif", save_all=True, append_images=pictures[1:], duration=100)
    for name, count in (("walk", 5), ("single", 1), ("deep/run", 3)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pictures[i].save(folder / name / f"{i + 1}.png")
    (folder / "notes.txt").write_text("not a clip")
    return folder


@pytest.fixture
def example(host, clips, tmp_path, monkeypatch):
    """A pack whose own clips are film.mp4 alone, as drift.mp4."""
    shutil.copy(clips / "film.mp4", tmp_path / "drift.mp4")
    monkeypatch.setattr(host.module("nodes.host.clips"), "EXAMPLES", tmp_path)
    return "drift.mp4 [example]"


def load(host, file, **changes):
    settings = {"start": 0.0, "frame_count": 4, "timing": {"timing": "fps", "fps": 6.0}, "width": 20, "height": 16}
    return host.call("SMA_LoadMotionClip", file=file, **{**settings, "crop": "centre", "folder_fps": 8.0, **changes})


def prompt(file, **changes):
    """Load Motion Clip in API format, feeding Motion Residuals, whose latent goes on to VAE Decode."""
    settings = {"start": 0.0, "frame_count": 5, "width": 16, "height": 24, "crop": "centre", "folder_fps": 8.0}
    timing = {"timing": "stride", "timing.stride": 1}
    return {
        "1": {"class_type": "SMA_LoadMotionClip", "inputs": {"file": file, **settings, **timing, **changes}},
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": "tiny_wan_vae.safetensors"}},
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["2", 0]}},
        "4": {"class_type": "SMA_MotionResiduals", "inputs": {"clip": ["3", 0]}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["2", 0]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        "7": {"class_type": "SMA_MotionResiduals", "inputs": {"clip": ["1", 0]}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    }


def encode(host, vae, images):
    return host.call("VAEEncode", pixels=images, vae=vae)[0]["samples"]


def fingerprint(graph, node_id):
    """The fingerprint that the host keeps of a node before a run."""
    import execution
    from comfy_execution.graph import DynamicPrompt

    return asyncio.run(execution.IsChangedCache("prompt", DynamicPrompt(copy.deepcopy(graph)), None).get(node_id))


def refusal(graph):
    """Why the host refuses a prompt; "" where it takes it."""
    import execution

    valid, _, _, errors = asyncio.run(execution.validate_prompt("prompt", graph, None))
    return "" if valid else str(errors)


def test_the_list_names_films_gifs_image_folders_and_the_packs_own_clips(host, clips, example):
    schema = host.module("nodes.clip").LoadMotionClip.define_schema()
    assert schema.inputs[0].options == ["film.mp4", "loop.gif", "walk/", example]


@pytest.mark.parametrize("file", ["film.mp4", "loop.gif", "walk/"])
@pytest.mark.parametrize("rounded", [False, True])
def test_cancel_is_heard_while_a_clip_is_read(host, clips, wan_model, file, rounded):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        load(host, file, **({"model": wan_model} if rounded else {}))


def test_the_list_names_nothing_that_cannot_be_read(host, clips, monkeypatch, tmp_path):
    import folder_paths

    case = Path(__file__).parents[1] / "cases" / "offered_but_unreadable"
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    monkeypatch.setattr(host.module("nodes.host.clips"), "_examples", dict)
    for film in case.glob("a.*"):
        shutil.copy(film, tmp_path)
    # What the host's own pickers take for videos, hidden files, playlists, pictures, and folders that only seem to hold images.
    foreign = [
        "a.mjpeg",
        "a.m1v",
        "a.h264",
        "a.m3u8",
        "a.mpd",
        "a.sdp",
        "a.txt",
        "a.png",
        ".a.mp4",
        "._a.wmv",
        "a.mp4.part",
    ]
    for name in foreign:
        (tmp_path / name).write_bytes(b"something")
    for folder, names in (
        {"walk": ["1.png", "2.png"], ".thumbs": ["1.png", "2.png"], "one": ["1.png", "._1.png"]}
    ).items():
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(clips / "walk" / "1.png", tmp_path / folder / name)
    (tmp_path / "nested" / "1.png").mkdir(parents=True)
    (tmp_path / "nested" / "2.png").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    offered = host.module("nodes.host.clips").choices()
    assert offered == ["a.mpg", "a.ogv", "a.wmv", "walk/"]
    for file in offered[:3]:
        assert load(host, file, timing={"timing": "stride", "stride": 1})[1] == 24


def test_hidden_files_are_no_reason_to_run_again(host, clips):
    node = host.node("SMA_LoadMotionClip")
    before = node.fingerprint_inputs(file="walk/")
    for name in ("._1.png", ".thumb.png", "Thumbs.db"):
        (clips / "walk" / name).write_bytes(b"hidden")
    assert node.fingerprint_inputs(file="walk/") == before
    assert load(host, "walk/", timing={"timing": "stride", "stride": 1})[2] == 4


def test_a_gap_and_a_broken_image_are_told_on_the_node(host, clips, said):
    folder = clips / "gap"
    folder.mkdir()
    for number in (1, 2, 4, 5, 6):
        Image.new("RGB", (16, 12), (20 * number, 40, 90)).save(folder / f"{number}.png")
    (folder / "5.png").write_bytes(b"")
    stride = {"timing": "stride", "stride": 1}
    with pytest.raises(ValueError, match=r"5.png in gap \(image 4 of 5, 0.38 s\) is an empty file") as refused:
        load(host, "gap/", timing=stride)
    assert str(folder) not in str(refused.value)
    said.clear()
    assert load(host, "gap/", timing=stride, skip_damaged=True)[2] == 4
    assert said == [
        "5 images at 8 fps → 4 at 6 fps on average (uneven, 0.12 to 0.25 s apart), 0.0-0.67 s, 16x12 → 20x16 centre crop",
        "images missing by their numbers: 3",
        "1 damaged image passed over: 5.png",
    ]  # each once
    shutil.rmtree(folder)


def test_the_outputs_are_frames_rate_count_and_what_was_said_on_the_node(host, clips, said):
    images, fps, count, report = load(host, "film.mp4")
    assert images.shape == (4, 16, 20, 3) and images.dtype == torch.float32
    assert (fps, count) == (6.0, 4)
    assert report == "24 frames at 12 fps → 4 at 6 fps, 0.0-0.67 s, 40x30 → 20x16 centre crop"
    assert said == [report]


def test_the_preview_is_the_clip_itself(host, clips):
    before = set((host.base / "temp").rglob("*.mp4"))
    images, *_ = load(host, "film.mp4", width=21, height=17)
    (preview,) = set((host.base / "temp").rglob("*.mp4")) - before
    with av.open(str(preview)) as container:
        shown = [torch.from_numpy(f.to_ndarray(format="rgb24")) / 255 for f in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 6
    assert (torch.stack(shown) - images[:, :16, :20]).abs().mean() < 0.05


def test_folders_gifs_subfolders_and_the_packs_own_clips_load(host, clips, example):
    stride = {"timing": "stride", "stride": 1}
    assert load(host, "walk/", timing=stride)[3].startswith("5 images at 8 fps → 4 at 8 fps")
    assert load(host, "walk/", timing=stride, folder_fps=2.0)[1] == 2.0
    assert load(host, "loop.gif", timing=stride)[3].startswith("6 frames at 10 fps → 4 at 10 fps")
    assert load(host, "deep/run", frame_count=2)[2] == 2
    assert load(host, example)[2] == 4


@pytest.mark.parametrize("file", ["film.mp4", "loop.gif", "walk/", "deep/run/", "film.mp4 [input]"])
def test_the_host_accepts_clips_of_the_input_folder(host, clips, file):
    assert refusal(prompt(file)) == ""


@pytest.mark.parametrize("route", ["/view", "/api/view"])
def test_the_page_can_fetch_the_packs_own_clips_under_the_name_it_chooses_them_by(server, route):
    own = list((harness.ROOT / "clips").glob("*.mp4"))
    assert own
    for clip in own:
        query = urllib.parse.urlencode(
            {"filename": f"{clip.name} [example]", "type": "input", "subfolder": "", "rand": "0.5"}
        )
        request = urllib.request.Request(
            f"{server.url}{route}?{query}", headers={"Range": "bytes=0-99"}
        )  # as a player asks
        with urllib.request.urlopen(request) as response:
            assert (response.status, response.headers["Content-Type"]) == (206, "video/mp4")
            assert response.read() == clip.read_bytes()[:100]
    for name in ("../pyproject.toml [example]", "red-circle-circling.mp4"):
        with pytest.raises(urllib.error.HTTPError, match="40[04]"):
            urllib.request.urlopen(f"{server.url}{route}?{urllib.parse.urlencode({'filename': name, 'type': 'input'})}")
    assert list((server.base / "input").glob("red-circle*")) == []


def shown_size(server, name, dest="video", **query):
    """Width, height and frame count of the film that the page gets for a chosen file."""
    query = urllib.parse.urlencode({"filename": name, "type": "input", "subfolder": "", **query})
    request = urllib.request.Request(f"{server.url}/api/view?{query}", headers={"Sec-Fetch-Dest": dest})
    with urllib.request.urlopen(request) as response:
        if response.headers["Content-Type"] != "video/mp4":
            return response.headers["Content-Type"]
        data = response.read()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height, len(list(container.decode(stream)))


def test_the_page_shows_films_that_browsers_do_not_play_and_folders(server, clips):
    inputs = server.base / "input"
    shutil.copytree(clips / "walk", inputs / "sub" / "walk")
    shutil.copytree(clips / "walk", inputs / "walk_shown")
    shutil.copy(clips / "loop.gif", inputs / "shown.gif")
    shutil.copy(Path(__file__).parents[1] / "cases" / "offered_but_unreadable" / "a.wmv", inputs / "shown.wmv")
    assert shown_size(server, "walk_shown") == shown_size(server, "walk", subfolder="sub") == (16, 12, 5)
    assert shown_size(server, "walk_shown", dest="empty") == (16, 12, 5)
    assert shown_size(server, "shown.gif") == (16, 12, 6)
    assert shown_size(server, "shown.wmv") == (64, 64, 24)
    assert shown_size(server, "shown.gif", dest="image") == "image/gif"  # another node shows the picture
    (inputs / "walk_shown" / "5.png").unlink()
    assert shown_size(server, "walk_shown") == (16, 12, 4)
    (inputs / "shown.gif").write_bytes(b"no gif")
    assert shown_size(server, "shown.gif") == "image/gif"  # as ever: the node says what is wrong
    for name in ("gone", "", "../input", "../models"):
        with pytest.raises(urllib.error.HTTPError, match="40[034]"):
            shown_size(server, name)
    for name in ("sub", "walk_shown", "shown.gif", "shown.wmv"):
        (shutil.rmtree if (inputs / name).is_dir() else os.unlink)(inputs / name)


@pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "gone.mp4", "../models", "../x.mp4 [example]"])
def test_the_host_refuses_everything_else(host, clips, file):
    assert "no clip" in refusal(prompt(file))
    with pytest.raises(ValueError):
        load(host, file)


@pytest.mark.parametrize(
    "file", ["", ".", "..", "/", "./", "walk/..", "deep/run/../..", "[output]", " [temp]", "film.mp4/.."]
)
def test_a_whole_folder_of_the_host_is_no_clip(host, clips, file):
    (host.base / "temp").mkdir(exist_ok=True)
    assert refusal(prompt(file)).count("There is no clip") == 1
    with pytest.raises(ValueError, match="There is no clip"):
        load(host, file)


@pytest.mark.parametrize("file", ["../outside.mp4", "walk/../../outside.mp4", "../outside.mp4 [output]", "absolute"])
def test_no_name_leads_out_where_an_older_host_lets_it(host, clips, monkeypatch, file):
    """Up to 0.24 the host joins its folder and the name, whatever the name."""
    import folder_paths

    outside = host.base / "outside.mp4"
    shutil.copy(clips / "film.mp4", outside)

    def joined(name: str) -> str:
        name, base = folder_paths.annotated_filepath(name)
        return str(Path(base or folder_paths.get_input_directory()) / name)

    monkeypatch.setattr(folder_paths, "get_annotated_filepath", joined)
    monkeypatch.setattr(folder_paths, "exists_annotated_filepath", lambda name: Path(joined(name)).exists())
    assert "no clip" in refusal(prompt(str(outside) if file == "absolute" else file))
    assert refusal(prompt("film.mp4")) == refusal(prompt("deep/run")) == ""


def test_a_missing_file_is_said_once(server):
    with pytest.raises(harness.HarnessError) as refused:
        server.queue(prompt("gone.mp4"))
    assert str(refused.value).count("There is no clip 'gone.mp4'") == 1


def test_the_packs_own_clips_cannot_lead_out_of_their_folder(host, example, tmp_path):
    assert refusal(prompt(example)) == ""
    shutil.copy(tmp_path / "drift.mp4", tmp_path.parent / "secret.mp4")
    assert "no clip" in refusal(prompt("../secret.mp4 [example]"))
    assert "no clip" in refusal(prompt("secret.mp4 [example]"))


@pytest.mark.parametrize("wrong", [{"frame_count": -1}, {"width": 1}, {"timing.stride": 0}, {"crop": "pad"}])
def test_the_host_still_checks_the_other_inputs(host, clips, wrong):
    assert next(iter(wrong)) in refusal(prompt("film.mp4", **wrong))


def test_a_changed_file_is_read_again(host, clips):
    node = host.node("SMA_LoadMotionClip")
    film = node.fingerprint_inputs(file="film.mp4", start=0.0)
    assert film == node.fingerprint_inputs(file="film.mp4", start=0.0)
    os.utime(clips / "film.mp4", ns=(1, 10**15))
    assert film != node.fingerprint_inputs(file="film.mp4", start=0.0)
    folder = node.fingerprint_inputs(file="walk/")
    (clips / "walk" / "5.png").rename(clips / "walk" / "6.png")
    assert folder != node.fingerprint_inputs(file="walk/")


def test_a_linked_file_is_no_reason_to_run_again(host, clips, caplog):
    graph = prompt(["9", 0])
    graph["9"] = {"class_type": "PrimitiveString", "inputs": {"value": "film.mp4"}}
    assert fingerprint(graph, "1") == fingerprint(graph, "1")
    assert not caplog.records


@pytest.mark.parametrize("file", ["gone.mp4", "gone/", "../../etc/passwd", "gone.mp4 [example]"])
def test_a_clip_that_is_gone_is_left_to_the_run_to_refuse(host, clips, file):
    assert host.node("SMA_LoadMotionClip").fingerprint_inputs(file=file, start=0.0) == []


def test_a_still_clip_and_one_of_a_size_the_model_never_saw_are_warned_of(host, clips, said):
    folder = clips / "still"
    folder.mkdir()
    for number in range(4):
        Image.linear_gradient("L").save(folder / f"{number}.png")
    load(host, "still/", timing={"timing": "stride", "stride": 1})
    assert said[-1].startswith("The clip does not move: ")
    shutil.rmtree(folder)
    said.clear()
    vae = host.module("nodes.host.sprites").SpritesVAE()
    report = load(host, "film.mp4", vae=vae)[3]
    (warning,) = [text for text in said if text != report]
    assert warning.startswith(
        "The model of this VAE was trained on 8 frames of 16x16 pixels and never saw 4 frames of 20x16"
    )
    said.clear()
    report = load(host, "film.mp4", frame_count=8, width=16, height=16, vae=vae)[3]
    host.call("SMA_EmptyVideoLatent", vae=vae, width=16, height=16, frame_count=8, batch_size=1)
    assert said == [report, "8 frames, 16x16"]
    host.call("SMA_EmptyVideoLatent", vae=vae, width=256, height=256, frame_count=4, batch_size=1)
    assert "never saw 4 frames of 256x256 pixels" in said[-1]


def test_a_damaged_frame_is_refused_or_passed_over_with_a_warning(host, clips, said):
    path = clips / "torn.mp4"
    with av.open(str(clips / "film.mp4")) as film:
        packets = [(packet.pos, packet.size) for packet in film.demux(video=0) if packet.size]
    data = bytearray((clips / "film.mp4").read_bytes())
    position, size = packets[-2]
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    every = {"frame_count": 0, "timing": {"timing": "stride", "stride": 1}}
    with pytest.raises(ValueError, match="^torn.mp4 cannot be read at .*damaged.* connect true to skip_damaged"):
        load(host, "torn.mp4", **every)
    said.clear()
    *_, count, report = load(host, "torn.mp4", **every, skip_damaged=True)
    path.unlink()
    assert count == len(packets) - 1
    assert "1 damaged frame passed over at" in report
    assert said[1] == report.split("; ")[-1]


def test_the_report_tells_the_frames_a_video_vae_leaves_out(host, clips, wan, said):
    images, _, count, report = load(host, "film.mp4", frame_count=8, width=32, height=16, vae=wan)
    assert report.endswith("→ 32x16 centre crop; this VAE sees 5 of the 8 frames, choose 5 or 9")
    assert said[-1] == report
    assert count == len(images) == 8
    spoilt = images.clone()
    spoilt[5:] = 1 - spoilt[5:]
    assert torch.equal(encode(host, wan, spoilt), encode(host, wan, images))
    spoilt[4] = 1 - spoilt[4]
    assert not torch.equal(encode(host, wan, spoilt), encode(host, wan, images))
    assert load(host, "film.mp4", frame_count=3, width=32, height=16, vae=wan)[3].endswith("3 frames, choose 5")


@pytest.mark.parametrize("frames", [5, 9])
def test_the_report_says_where_the_vae_sees_everything(host, clips, wan, frames):
    *_, report = load(host, "film.mp4", frame_count=frames, width=32, height=16, vae=wan)
    assert report.endswith("→ 32x16 centre crop")


def test_the_report_tells_the_pixels_a_vae_crops(host, clips, wan):
    images, *_, report = load(host, "film.mp4", frame_count=5, width=36, height=30, vae=wan)
    assert report.endswith("; this VAE sees 32x24 of the 36x30 pixels, choose multiples of 8 such as 32x32")
    spoilt = torch.ones_like(images)
    spoilt[:, 3:27, 2:34] = images[:, 3:27, 2:34]
    assert torch.equal(encode(host, wan, spoilt), encode(host, wan, images))
    *_, report = load(host, "film.mp4", frame_count=8, width=36, height=32, vae=wan)
    assert report.endswith(
        "; this VAE sees 5 of the 8 frames, choose 5 or 9; "
        "it sees 32x32 of the 36x32 pixels, choose multiples of 8 such as 32x32"
    )


def test_vaes_that_take_each_frame_by_itself_leave_none_out(host, clips):
    sprites = host.module("nodes.host.sprites").SpritesVAE()
    assert load(host, "film.mp4", frame_count=8, vae=sprites)[3].endswith(" crop")
    still = SimpleNamespace(downscale_ratio=8, crop_input=True, spacial_compression_encode=lambda: 8)
    assert load(host, "film.mp4", frame_count=6, height=24, width=24, vae=still)[3].endswith(" crop")
    still.crop_input = False  # pads instead
    assert load(host, "film.mp4", frame_count=6, vae=still)[3].endswith(" crop")


def test_a_clip_snaps_to_what_the_model_takes(host, clips, wan, wan_model):
    film = {"timing": {"timing": "stride", "stride": 1}}
    images, _, count, report = load(host, "film.mp4", frame_count=16, width=40, height=30, model=wan_model, **film)
    assert images.shape == (17, 32, 32, 3) and count == 17
    assert report.endswith("→ 32x32 centre crop; for Wan 17 frames instead of 16, 32x32 instead of 40x30")
    *_, report = load(host, "film.mp4", frame_count=5, width=32, height=16, model=wan_model, vae=wan)
    assert report.endswith("→ 32x16 centre crop")
    sprites = host.module("nodes.host.sprites").load_model()
    assert load(host, "film.mp4", frame_count=7, width=20, height=18, model=sprites)[0].shape == (7, 18, 20, 3)


def test_a_film_that_is_too_short_for_the_longer_count_gives_the_shorter(host, clips, wan_model):
    film = {"width": 16, "height": 16, "timing": {"timing": "stride", "stride": 1}, "model": wan_model}
    *_, count, report = load(host, "film.mp4", frame_count=24, **film)  # the film has 24, 25 would be the nearest
    assert count == 21
    assert report.endswith("; for Wan 21 frames instead of 24")
    *_, count, report = load(host, "film.mp4", frame_count=0, **film)
    assert count == 21
    assert report.endswith("; for Wan 21 frames instead of 24")


def test_a_film_that_is_too_short_for_any_count_is_refused_by_the_one_asked_for(host, clips, wan_model):
    film = {"width": 16, "height": 16, "timing": {"timing": "stride", "stride": 1}, "model": wan_model}
    for count in (0, 2):
        with pytest.raises(ValueError, match="5 frames at 8 fps need .* Wan takes 5 frames at least"):
            load(host, "walk/", start=0.3, frame_count=count, **film)
    with pytest.raises(ValueError, match="33 frames at 12 fps need [^W]*$"):  # not the 29 that were tried too
        load(host, "film.mp4", frame_count=32, **film)
    with pytest.raises(ValueError, match="too few for 30 fps: its frame at 0.0 s would be repeated[^W]*$"):
        load(host, "film.mp4", frame_count=9, **film | {"timing": {"timing": "fps", "fps": 30.0}})


def test_compression_is_what_the_host_knows(host, wan_model):
    """The table of families holds it too, for whoever uses it without a host."""
    import comfy.latent_formats

    module, roles = host.module("nodes.host.rules"), host.module("sma.roles")
    formats = {"Wan": "Wan21", "LTX-Video": "LTXV", "HunyuanVideo": "HunyuanVideo"}
    for family in roles.FAMILIES:
        if family.name in formats:
            known = getattr(comfy.latent_formats, formats[family.name])
            assert (family.temporal, family.spatial) == (known.temporal_downscale_ratio, known.spacial_downscale_ratio)
    folds_more = wan_model.clone()
    folds_more.add_object_patch("latent_format", comfy.latent_formats.Wan22())
    assert [module.family_of_model(model).size_multiple for model in (wan_model, folds_more)] == [16, 32]
    unknown = wan_model.clone()
    unknown.add_object_patch("diffusion_model", torch.nn.Linear(1, 1))
    family = module.family_of_model(unknown)
    assert (family.name, family.nearest_frames(16), family.size_multiple) == ("Linear", 17, 8)


def test_the_patch_is_what_the_network_has(host, wan_model):
    """HunyuanVideo 1.5 makes one token of one latent pixel, its elder one of four."""
    elder, younger = wan_model.clone(), wan_model.clone()
    for model, patch in ((elder, [1, 2, 2]), (younger, 1)):
        network = torch.nn.Linear(1, 1)
        network.patch_size = patch
        model.add_object_patch("diffusion_model", network)
    module = host.module("nodes.host.rules")
    assert [module.family_of_model(model).size_multiple for model in (elder, younger)] == [16, 8]


def test_later_inputs_move_no_widget_of_saved_workflows(host):
    *widgets, vae, model, skip = host.module("nodes.clip").LoadMotionClip.define_schema().inputs
    assert [(item.id, item.optional, item.get_io_type()) for item in (vae, model, skip)] == [
        ("vae", True, "VAE"),
        ("model", True, "MODEL"),
        ("skip_damaged", True, "BOOLEAN"),
    ]
    assert skip.as_dict()["forceInput"]
    order = ["file", "start", "frame_count", "timing", "width", "height", "crop", "folder_fps"]
    assert [widget.id for widget in widgets] == order
    saved = json.loads((Path(__file__).parents[2] / "workflows" / "sprites-motion-transfer.json").read_text())
    (node,) = (node for node in saved["nodes"] if node["type"] == "SMA_LoadMotionClip")
    slots = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert slots == [*order[:4], "timing.fps", *order[4:], "upload"]
    assert len(node["widgets_values"]) == len(slots)


def test_empty_latents_are_as_large_as_what_the_vae_makes_of_a_clip(host, wan, said):
    vaes = {"sprites": host.module("nodes.host.sprites").SpritesVAE(), "wan": wan}
    for vae, frames, told in (
        ("sprites", 7, "7 frames"),
        ("wan", 9, "9 frames"),
        ("wan", 7, "5 frames, 32x16 (7 asked"),
    ):
        (encoded,) = host.call("VAEEncode", pixels=torch.rand(frames, 16, 32, 3), vae=vaes[vae])
        settings = {"width": 32, "height": 16, "frame_count": frames, "batch_size": 2}
        (empty,) = host.call("SMA_EmptyVideoLatent", vae=vaes[vae], **settings)
        assert empty["samples"].shape[1:] == encoded["samples"].shape[1:]
        assert empty["samples"].shape[0] == 2 and not empty["samples"].any()
        assert empty["downscale_ratio_spacial"] == 32 / empty["samples"].shape[-1]
        line = next(line for line in reversed(said) if "trained on" not in line)
        assert line.startswith(told)
        if vae == "wan":
            (decoded,) = host.call("VAEDecode", samples=encoded, vae=wan)
            assert line.startswith(f"{len(decoded)} frames, 32x16")
    with pytest.raises(ValueError, match="Width is 36; this VAE needs multiples of 8. Use 32."):
        host.call("SMA_EmptyVideoLatent", vae=wan, width=36, height=16, frame_count=5, batch_size=1)


def test_residuals_keep_the_kind_of_what_came_in(host):
    frames = torch.rand(5, 12, 10, 3)
    residuals, pictures = host.call("SMA_MotionResiduals", clip=frames)
    assert torch.allclose((residuals - 0.5) * 2, frames[1:] - frames[:-1], atol=1e-6)
    assert pictures.shape[0] == 4 and pictures.shape[2] >= 512 and pictures.shape[3] == 3
    assert 0 <= pictures.min() and pictures.max() <= 1
    with_alpha = torch.cat([frames, torch.rand(5, 12, 10, 1)], dim=-1)  # as some loaders of other packs give them
    assert torch.equal(host.call("SMA_MotionResiduals", clip=with_alpha)[0], residuals)
    video = torch.randn(2, 16, 5, 6, 4)
    residuals, _ = host.call("SMA_MotionResiduals", clip={"samples": video})
    assert torch.equal(residuals["samples"], video[:, :, 1:] - video[:, :, :-1])
    batch = torch.randn(5, 4, 6, 8)  # what image VAEs make of 5 frames
    residuals, _ = host.call("SMA_MotionResiduals", clip={"samples": batch})
    assert torch.equal(residuals["samples"], batch[1:] - batch[:-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_residuals_of_values_that_are_no_numbers_are_refused_with_their_count(host, value):
    frames, video, batch = torch.rand(5, 4, 6, 3), torch.randn(1, 16, 5, 4, 6), torch.randn(5, 4, 6, 8)
    for clip, values in ((frames, frames), ({"samples": video}, video), ({"samples": batch}, batch)):
        values.view(-1)[:3] = value
        with pytest.raises(ValueError, match=f"holds 3 NaN or infinite values of {values.numel()}; finite"):
            host.call("SMA_MotionResiduals", clip=clip)


def test_a_single_frame_has_no_residuals(host):
    for clip in (torch.rand(1, 8, 8, 3), {"samples": torch.rand(1, 4, 1, 8, 8)}):
        with pytest.raises(ValueError, match="has 1 frame; motion needs at least 2"):
            host.call("SMA_MotionResiduals", clip=clip)


def test_the_whole_graph_runs_on_a_server(server, clips, vae_name):
    write_wan(server.base / "models")
    for entry in ("loop.gif", "walk"):
        source = clips / entry
        (shutil.copytree if source.is_dir() else shutil.copy)(source, server.base / "input" / entry)
    for file in ("loop.gif", "walk/"):
        result = server.run(prompt(file))
        assert result.status == "success", result.messages
        (shown,) = result.outputs["1"]["images"]
        assert server.output_file(shown).suffix == ".mp4"
        assert len(result.outputs["4"]["images"]) == 4
        assert result.outputs["6"]["images"] and result.outputs["8"]["images"]
    assert server.object_info()["SMA_LoadMotionClip"]["input"]["required"]["file"][1]["options"][:1] == ["loop.gif"]
