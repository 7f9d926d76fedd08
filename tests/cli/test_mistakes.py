"""What many type by mistake, and the line that they get: what is wrong, and what to write instead."""

from pathlib import Path

import pytest

from coterie.cli import mistakes
from coterie.cli.main import VERBS, app
from coterie.config.overrides import known_kinds, parse_override, set_path
from coterie.methods.names import METHOD_NAMES
from coterie.methods.presets import METHODS
from tests.config.presets import changed

METHODS_LISTED = f"one of {', '.join(METHOD_NAMES)}"


def test_the_names_of_methods_are_those_of_the_presets() -> None:
    assert tuple(METHODS) == METHOD_NAMES


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pretrian swav photos", "there is no verb 'pretrian'; did you mean pretrain? (coterie --help)"),
        ("xyz", f"there is no verb 'xyz': choose one of {', '.join(VERBS)} (coterie --help)"),
        ("--verison", "there is no --verison; did you mean --version? (coterie --help)"),
        ("swav photos --out run", "swav is a method: write a verb before it, as in coterie pretrain swav IMAGES"),
        ("pretrain swva photos --out run", "unknown method 'swva'; did you mean swav?"),
        ("pretrain SwAV photos --out run", "unknown method 'SwAV'; did you mean swav?"),
        ("plan deepcluster-v2 photos", "unknown method 'deepcluster-v2'; did you mean deepcluster_v2?"),
        ("profile nowhere", f"unknown method 'nowhere'; choose {METHODS_LISTED}"),
        ("plan photos", "no image can be decoded (tried 1)"),  # the method may be left out
        ("plan photos/*.png", "no image can be decoded (tried 1)"),
        ("plan", "name the images"),
        ("plan photos --time 0", "--time 0: give a duration above 0, such as 90s, 30m, 2h, 1h30m"),
        ("plan photos --time=-5m", "--time -5m: give a duration above 0"),
        ("plan photos --time nan", "--time nan: give a duration above 0"),
        ("plan photos --time parsecs", "--time parsecs: give a duration above 0"),
        ("plan swav", "name the images"),
        ("pretrain swav photos --out run --resume", "run the same command again, and the run resumes"),
        ("pretrain swav photos --output run", "there is no --output: write --out"),
        ("pretrain swav photos -o run", "there is no -o: write --out"),
        ("pretrain swav photos --out run --lr 0.1", "there is no --lr: write --set learning_rate.peak=0.1"),
        ("pretrain swav photos --out run --gpus=4", "there is no --gpus: start one process per GPU with torchrun"),
        ("pretrain swav photos --out run --num_workers 4", "there is no --num_workers: write --set run.workers=8"),
        ("pretrain swav photos --out run --init w.pth", "there is no --init: write --start-from"),
        ("plan swav photos --pretrained w.pth", "there is no --pretrained: write --start-from"),
        ("pretrain swav photos --out run --ckpt_path w.pth", "there is no --ckpt_path: write --start-from"),
        ("evaluate run photos --num-workers 4", "there is no --num-workers: write --workers"),
        ("pretrain swav photos --out run --max-epochs 4", "there is no --max-epochs: write --epochs"),
        ("pretrain swav photos --out run --device cuda", "there is no --device: write --set run.device=cuda:0"),
        ("plan swav photos --groups.counts 30", "write --set groups.counts=VALUE"),
        ("plan swav photos --groups.counts=30", "write --set groups.counts=30"),
        ("pretrain swav photos --out run --report-to wandb", "there is no --report-to: write --track"),
        ("pretrain swav photos --out run --track tensorbord", 'Did you mean "tensorboard"?'),
        ("pretrain swav photos --out run --on-collapse stopp", 'Did you mean "stop"?'),
        ("pretrain swav photos --out run --epohcs 3", "Did you mean --epochs?"),
        ("select run --by kn", 'Did you mean "knn"?'),
        ("evaluate run photos --probes knm", "did you mean knn?"),
        ("evaluate run photos --device cud", "did you mean cuda?"),
        ("evaluate run photos --device gpu", "did you mean cuda?"),
        ("evaluate run photos --device tpu", "use auto, cpu, cuda or cuda:0\n"),
        ("plan swav photos --epochs 1.5", "--epochs is 1.5: give a whole number, such as --epochs 10"),
        ("embed run photos --out rows --actors two", "--actors is two: give a whole number"),
        ("pretrain swav photos", "--out is missing (coterie pretrain --help)"),
        ("pretrain swav photos --out", "--out needs a value (coterie pretrain --help)"),
        ("select", "RUN is missing (coterie select --help)"),
        ("schema x", "schema does not take 'x' (coterie schema --help)"),
        ("--install-completion --shell bah", 'Did you mean "bash"?'),
        ("demo --out photos/a.png", "photos/a.png"),
    ],
)
def test_one_line_says_what_to_write(
    words: str, expected: str, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    (Path("photos") / "a.png").touch()
    status, out, err = call(*words.split())
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("coterie: ")
    assert expected in err
    assert not Path("run").exists()


def test_an_underscore_is_as_good_as_a_hyphen() -> None:
    _, bound, _ = app.parse_args("plan swav photos --batch_size 32", exit_on_error=False)
    assert bound.arguments["options"] == {"batch_size": 32}


def test_every_setting_that_is_suggested_exists() -> None:
    settings = changed()
    for suggestion in mistakes.SETTINGS:
        if suggestion.partition("=")[0] in known_kinds(settings):
            set_path(settings, *parse_override(suggestion))
        else:  # of a part that these settings lack
            assert suggestion.partition(".")[0] in ("memory", "probe", "learning_rate"), suggestion


def test_every_option_that_is_suggested_exists() -> None:
    known = {name for verb in VERBS for each in app[verb].assemble_argument_collection() for name in each.names}
    assert mistakes.OTHER_OPTIONS.keys() <= known
    for table in (mistakes.OTHER_OPTIONS, mistakes.SETTINGS, mistakes.SENTENCES):
        words = " ".join(table.values()).split()
        assert len(words) == len(set(words)), "one name, two meanings"
