import json
from dataclasses import replace

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from coterie.classifier.classifier_file import Classifier, open_classifier, save_classifier
from coterie.classifier.heads import KnnHead
from coterie.errors import UserError
from coterie.exporting.backbone_file import load_backbone, save_backbone
from coterie.exporting.file_kinds import CLASSIFIER_HEADER, holds_classifier
from coterie.exporting.model import Model, open_model
from coterie.models.own_backbone import OwnBackbone, own_name
from coterie.paths import run_folder

CLASSES = ("cat", "dog", "cow")


def heads() -> dict[str, nn.Module]:
    voters = torch.randn(8, 128)
    labels = torch.arange(8) % 3
    several = nn.functional.one_hot(labels, 3).to(torch.uint8)
    return {
        "linear": nn.Linear(128, 3),
        "knn": KnnHead(voters, labels, 3, k=4),
        "knn-several": KnnHead(voters, several, 3, k=4),
    }


@pytest.mark.parametrize("kind", ["linear", "knn", "knn-several"])
def test_a_saved_classifier_gives_the_same_probabilities(kind, tiny_model, tmp_path):
    several = kind == "knn-several"
    kept = Classifier(tiny_model, heads()[kind].eval(), CLASSES, several, 1.7, 0.4, {"model": "tiny"})
    file = save_classifier(tmp_path / "new", kept)
    state = torch.get_rng_state()
    opened = open_classifier(tmp_path / "new")
    assert torch.equal(torch.get_rng_state(), state)
    assert holds_classifier(tmp_path / "new")
    assert holds_classifier(file)
    images = torch.randn(2, 3, 24, 24)
    features = opened.model.network(images).detach()
    assert torch.equal(features, tiny_model.network(images))
    assert torch.equal(opened.probabilities(features), kept.probabilities(features))
    assert opened.model.preprocessing == tiny_model.preprocessing
    assert replace(opened, model=kept.model, head=kept.head) == kept
    assert not opened.model.network.training


def test_knn_counts_the_weighted_votes():
    head = KnnHead(torch.tensor([[2.0, 0], [0, 1], [1, 1]]), torch.tensor([0, 1, 1]), 2, k=2, vote_temperature=0.5)
    shares = head(torch.tensor([[3.0, 0]])).exp()
    far = torch.exp(torch.tensor((0.5**0.5 - 1) / 0.5))
    assert torch.allclose(shares, torch.stack([torch.tensor(1.1), far + 0.1])[None])
    several = KnnHead(head.voters, torch.tensor([[1, 1], [0, 1], [0, 1]], dtype=torch.uint8), 2, 2, 0.5)
    odds = several(torch.tensor([[3.0, 0]])).exp()
    assert torch.allclose(odds, torch.stack([1.1 / (far + 0.1), (1.1 + far) / 0.1])[None])


def test_a_module_of_the_users_own_is_given_again(tmp_path, tiny_model):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    settings = replace(tiny_model.backbone, name=own_name(module), width=1.0, stem="standard")
    own = OwnBackbone(module, 3, 32).eval()
    model = Model("own", own, settings, 32, tiny_model.preprocessing)
    save_classifier(tmp_path, Classifier(model, nn.Linear(4, 3), CLASSES))
    with pytest.raises(UserError, match=r"give a module of it"):
        open_classifier(tmp_path)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(open_classifier(tmp_path, backbone=other).model.network(images), own(images))


def test_a_model_is_no_classifier_and_the_reverse(tiny_model, tmp_path):
    look = tiny_model.preprocessing
    file = tmp_path / "run" / "model.safetensors"
    save_backbone(file, tiny_model.network, tiny_model.backbone, 32, look.mean, look.std)
    (tmp_path / "run" / "config.toml").write_text("")
    save_classifier(tmp_path / "own", Classifier(tiny_model, heads()["linear"], CLASSES))
    (tmp_path / "own" / "config.toml").write_text("")
    for other in (tmp_path / "run", file, "timm:resnet18"):
        assert not holds_classifier(other)
    for path, message in (
        (tmp_path / "run", r"run is a run: .*coterie train MODEL LABELED"),
        (file, r"is no classifier: coterie train .*model\.safetensors LABELED"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            open_classifier(path)
    for path in (tmp_path / "own", tmp_path / "own" / "classifier.safetensors"):
        for use in (load_backbone, open_model):
            with pytest.raises(UserError, match=r"is a classifier, not a MODEL: use coterie predict"):
                use(path)
    with pytest.raises(UserError, match=r"is a classifier, not a run"):
        run_folder(tmp_path / "own", "checkpoint")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["cat", "cat", "dog"]}, "another version"),
        ({"classes": ["cat", "dog"]}, "damaged"),
        ({"temperature": 0.0}, "another version"),
        ({"temperature": float("nan")}, "another version"),
        ({"threshold": 2}, "another version"),
        ({"size": 10**12}, "another version"),
        ({"crop": 0}, "another version"),
        ({"head": {"kind": "tree"}}, "another version"),
        ({"head": {"kind": "knn", "k": 10**9, "vote_temperature": 0.1}}, "another version"),
        ({"head": {"kind": "knn", "k": 4, "vote_temperature": 0.1}}, "damaged"),
        ({"about": []}, "another version"),
    ],
)
def test_a_header_that_anyone_may_have_written_is_checked(change, message, tiny_model, tmp_path):
    file = save_classifier(tmp_path, Classifier(tiny_model, heads()["linear"], CLASSES))
    with safetensors.safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()[CLASSIFIER_HEADER])
    (header["backbone"] if change.keys() <= {"size", "crop"} else header).update(change)
    save_file(load_file(file), file, {CLASSIFIER_HEADER: json.dumps(header)})
    with pytest.raises(UserError, match=message):
        open_classifier(tmp_path)


def test_damaged_weights_are_refused(tiny_model, tmp_path):
    file = save_classifier(tmp_path, Classifier(tiny_model, heads()["knn"], CLASSES))
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    for change in ({"head.labels": torch.arange(8)}, {"head.voters": torch.randn(8, 64)}, {"head.more": torch.ones(1)}):
        save_file(tensors | change, file, metadata)
        with pytest.raises(UserError, match="damaged"):
            open_classifier(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="complete safetensors"):
        open_classifier(file)
