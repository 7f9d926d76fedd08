"""Parts that cannot be combined are refused: the message names path, value, rule and fix."""

import pytest

from coterie.config.facts import Facts
from coterie.config.overrides import parse_override, set_path
from coterie.config.rules import doubts
from coterie.config.toml import from_dict, to_dict
from coterie.errors import BadConfig
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from tests.config.presets import changed, smog


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("target.momentum=1.5",), "target.momentum runs from 1.5 to 1.5: keep it within 0 and 1"),
        (("groups.momentum=-0.1",), "groups.momentum runs from -0.1 to -0.1"),
        (("assignment.kind=centered", "assignment.momentum=2"), "assignment.momentum is 2"),
        (("memory=none",), "refresh needs a memory: use --set memory.length=N"),
        (("refresh=none",), "--set refresh.every_epochs=1, or groups.kind='learned'"),
        (("groups.counts=[]",), "each head needs at least 2 groups"),
        (("memory.length=400",), "more than the 256 rows available to a refresh: set memory.length to 512"),
        (("memory.start_epoch=3",), "memory.start_epoch is 3, but a refresh needs the memory from the start"),
        (("target.kind=same",), "refresh.reset_teacher is true, but there is no teacher"),
        (("target.covers_groups=true",), "target.covers_groups"),
        (("refresh.labels=true",), "set memory.rows_from='target'"),
        (("groups.kind=learned", "refresh.reset_teacher=false", "assignment.kind=sinkhorn"), "refresh has no effect"),
        (("groups.kind=batch",), "--set memory=none --set refresh=none"),
        (("assignment.kind=identity",), "groups.kind='batch'"),
        (("predictor.width=64",), "predictor.width is 64 but projector.width is 128"),
        (("backbone.channels=1",), "set both to the same number"),
        (("run.activation_checkpointing=true", "batch_norm_scope=joint"), "needs all sizes of views in each block"),
        (("views.student_views=[1,2,3]",), "leaves out view 0, which is a target or grouped view"),
        (("views.bn_only_views=[2]", "target.kind=same", "refresh.reset_teacher=false"), "need a momentum teacher"),
        (("memory.length=100",), "memory.length"),
        (("refresh=none", "groups.kind=learned"), "memory is used only by a balanced assignment (sinkhorn)"),
        (
            ("memory=none", "refresh=none", "groups.kind=learned"),
            "all end in a few of them: use --set regularizer.kind=mean_entropy",
        ),
    ],
)
def test_parts_that_cannot_be_combined_are_refused_with_path_and_fix(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadConfig) as raised:
        from_dict(smog(*settings))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_batch_far_too_small_for_the_groups_is_refused_with_the_fix() -> None:
    with pytest.raises(BadConfig, match=r"too many to balance 64 rows over: use --set memory\.length=6000"):
        from_dict(changed("batch_size=64", "groups.counts=3000", "memory=none"))
    from_dict(changed("batch_size=64", "groups.counts=3000", "memory.length=6000"))
    from_dict(changed("batch_size=64", "groups.counts=500", "memory=none"))


def test_as_many_groups_as_in_the_published_ablation_are_doubted_not_refused() -> None:
    """SwAV, appendix C: 300 to 100,000 prototypes at batch 4096."""
    imagenet = {"method": "swav_imagenet_4096", "facts": Facts(1_281_167, 375)}
    for count, said in ((3000, 0), (32_000, 0), (33_000, 1), (100_000, 1)):
        found = doubts(from_dict(changed(f"groups.counts={count}", **imagenet)))
        assert len(found) == said
        assert all(f"groups.counts is {count}" in line and "\n" not in line for line in found)
    assert doubts(from_dict(changed("groups.counts=100000", "memory.length=12288", **imagenet))) == []
    with pytest.raises(BadConfig, match=r"too many to balance 4096 rows over"):
        from_dict(changed("groups.counts=110000", **imagenet))
    assert (
        doubts(from_dict(changed("groups.counts=[100000]", method="sela_v2_imagenet_400", facts=Facts(1_281_167, 375))))
        == []
    )


def test_a_preset_that_is_refused_works_after_the_fix_in_the_message() -> None:
    """The rules are checked on complete settings, not by the preset."""
    content = to_dict(METHODS["swav_imagenet_4096"](Planner(Facts(1_281_167, 375), batch_size=64)))
    with pytest.raises(BadConfig, match=r"--set memory\.length=6000 --set memory\.start_epoch=1"):
        from_dict(content)
    for setting in ("memory.length=6000", "memory.start_epoch=1"):
        set_path(content, *parse_override(setting))
    assert from_dict(content).memory.length == 6000


def test_labels_that_are_kept_need_a_converged_balance() -> None:
    settings = changed("assignment.kind=sinkhorn", method="deepcluster_v2")
    with pytest.raises(BadConfig, match=r"--set assignment\.iterations=1000 --set assignment\.tolerance=0\.001"):
        from_dict(settings)
