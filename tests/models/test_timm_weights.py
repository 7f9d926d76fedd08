"""``timm:NAME`` from a real cache of the hub, without a network."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from coterie.errors import UserError
from coterie.models.timm_weights import timm_name

LOAD = """
import json, sys, torch
from coterie.errors import UserError
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import find_backbone
from coterie.models.pretrained import load_weights
def answer(spec):
    try:
        found = find_backbone(spec)
        torch.manual_seed(7)
        network = build_backbone(found.config, 64).eval()
        before = torch.get_rng_state()
        line = load_weights(network, spec, 3)
    except UserError as error:
        return str(error)
    assert torch.equal(before, torch.get_rng_state())
    images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    with torch.no_grad():
        return [found.config.name, found.image_size, line, network(images).tolist()]

print(json.dumps([answer(spec) for spec in sys.argv[1:]]))
"""


def run(specs: Iterable[str], cache: Path, **variables: str) -> list[Any]:
    """What a process of its own, which imports the hub's library anew, answers of each."""
    environment = {name: each for name, each in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(cache), "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "-c", LOAD, *specs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr, "the hub was asked"
    return json.loads(done.stdout)


def fill_cache(folder: Path, name: str, file: str) -> torch.nn.Module:
    """Write what a download leaves behind: the blob, the snapshot that links to it, and the branch that names it."""
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    base = folder / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = base / "snapshots" / ("0123456789abcdef" * 3)[:40]
    for each in (base / "blobs", base / "refs", snapshot):
        each.mkdir(parents=True)
    (base / "refs" / "main").write_text(snapshot.name)
    if file.endswith(".safetensors"):
        safetensors.torch.save_file(network.state_dict(), base / "blobs" / "weights")
    else:
        torch.save(network.state_dict(), base / "blobs" / "weights")
    (snapshot / file).symlink_to(base / "blobs" / "weights")
    return network


FILES = {"timm:resnet18.a1_in1k": "model.safetensors", "timm:vit_tiny_patch16_224": "pytorch_model.bin"}


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """For each of the files: the network that is in the cache, and the answer."""
    folder = tmp_path_factory.mktemp("cache")
    theirs = [fill_cache(folder, spec.removeprefix("timm:"), file) for spec, file in FILES.items()]
    return dict(zip(FILES, zip(theirs, run(FILES, folder), strict=True), strict=True))


@pytest.mark.parametrize("spec", FILES)
@torch.no_grad()
def test_the_cache_is_enough(spec, cached):
    """Also where no variable says that there is no network."""
    theirs, answer = cached[spec]
    assert isinstance(answer, list), answer
    name, size, line, features = answer
    assert (name, size) == (spec.removeprefix("timm:").partition(".")[0], 224)
    assert line.startswith(f"{spec}: took ")
    assert "left fc" in line or "left head" in line
    if "vit" in name:
        assert "resampled the positions" in line
        return
    images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    assert torch.equal(torch.tensor(features), expected)


def test_weights_that_are_nowhere(tmp_path):
    (answer,) = run(["timm:resnet18.a1_in1k"], tmp_path, HF_HUB_OFFLINE="1")
    assert isinstance(answer, str)
    assert answer.startswith(
        "timm:resnet18.a1_in1k is not in the cache and cannot be downloaded (there is no network): "
    )
    assert "timm.create_model('resnet18.a1_in1k', pretrained=True)" in answer
    assert "\n" not in answer
    assert "://" not in answer


def test_no_network_is_noticed_at_once(tmp_path):
    """The hub's own library tries five times, for most of a minute."""
    (answer,) = run(["timm:resnet18"], tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert isinstance(answer, str)
    assert "(there is no network)" in answer


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnt18", r"timm has no network 'resnt18': did you mean timm:resnet18"),
        ("timm:", r"timm has no network '': for example timm:resnet18"),
        ("timm:resnet18.a1_in2k", r"timm has no weights resnet18\.a1_in2k: it has timm:resnet18\.a1_in1k"),
        ("timm:ssl_resnet50", r"timm has no weights for ssl_resnet50|timm has no network"),
        ("timm:../../etc/passwd", r"timm has no network ''"),
    ],
)
def test_names_that_timm_does_not_have(spec, message):
    with pytest.raises(UserError, match=message):
        timm_name(spec)
