"""The runs by name, in order of value: what each decides, and the jobs that it is made of.

A job is a command that writes one JSON file; ``run.py`` adds ``--out`` to it. At toy size each is a matter of seconds on a
CPU: the same commands on tiny images, a narrow network and few steps.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent
TOY_NETWORK = ("--set", "backbone.width=0.125", "--set", "run.snapshots=0")


@dataclass(frozen=True)
class Where:
    """What the jobs are run with.

    Attributes:
        data: the folder that holds ``data/cifar10`` and ``data/photos``.
        work: a folder for checkpoints, kept between two calls.
        device: ``cpu`` or ``cuda``.
        toy: whether it is a trial.
    """

    data: Path
    work: Path
    device: str
    toy: bool

    @property
    def cifar(self) -> Path:
        """CIFAR-10's two parquet files."""
        return self.data / "data" / "cifar10"

    @property
    def photos(self) -> Path:
        """The photographs."""
        return self.data / "data" / "photos"


@dataclass(frozen=True)
class Job:
    """A command; ``name`` is that of its result. ``lightly`` says that it needs that package."""

    name: str
    command: tuple[str, ...]
    lightly: bool = False


@dataclass(frozen=True)
class Run:
    """Some jobs that decide something together."""

    name: str
    decides: str
    jobs: Callable[[Where], list[Job]]


def script(name: str, path: str, *arguments: str | int | Path, lightly: bool = False) -> Job:
    """A job that is a script of this folder."""
    return Job(name, (sys.executable, str(BENCHMARKS / path), *map(str, arguments)), lightly)


def tests(at: Where) -> list[Job]:
    calls = ["-m gpu tests", "tests/parity tests/grouping tests/matrix tests/data/augmentation/test_gpu.py"]
    return [script("tests", "gpu/checks.py", "tests", *(["tests/optim/test_schedule.py"] if at.toy else calls))]


def profile(at: Where) -> list[Job]:
    toy = ("--seconds", 0.1, *TOY_NETWORK, "--set", "run.workers=1") if at.toy else ()
    jobs = [
        script(f"profile_{method}", "gpu/checks.py", "profile", method, at.cifar / "train.parquet", *toy)
        for method in (("smog",) if at.toy else ("swav", "smog"))
    ]
    if not at.toy:
        photos = ("gpu/checks.py", "profile", "swav_imagenet_256", at.photos, "--set", "batch_size=128")
        jobs.append(script("profile_photos", *photos, "--set", "groups.counts=[120]", "--set", "memory=none"))
    return jobs


def step(at: Where) -> list[Job]:
    if at.toy:
        toy = ("step.py", "--device", at.device, "--toy", "--repeats", 1)
        return [script("step", *toy, lightly=True)]
    cases = {
        "swav_resnet18": "swav, ResNet-18",
        "smog_resnet18": "smog, ResNet-18",
        "swav_resnet50": "swav, ResNet-50",
        "smog_resnet50": "smog, ResNet-50",
    }
    given = ("step.py", "--device", at.device, "--compile")
    return [script(f"step_{name}", *given, "--case", case, lightly=True) for name, case in cases.items()]


def memory(at: Where) -> list[Job]:
    what = ("--toy", "--case", "swav") if at.toy else ("--case", "ResNet-50", "--case", "4x18")
    return [script("step_memory", "step.py", "--memory", "--device", at.device, *what, lightly=True)]


def grouping(at: Where) -> list[Job]:
    small = ("--toy", "--groups", 20, "--batch", 32, "--network-batch", 4, "--repeats", 1) if at.toy else ()
    return [script("grouping", "grouping.py", "--device", at.device, *small)]


def loader(at: Where) -> list[Job]:
    return [script("loader", "loader.py", "--repeats", 1 if at.toy else 5, lightly=True)]


def end_to_end(at: Where) -> list[Job]:
    small = ("--toy", "--images", 64, "--workers", 1, "--steps", 2, "--repeats", 1) if at.toy else ()
    return [script("end_to_end", "end_to_end.py", "--device", at.device, *small, lightly=True)]


def decoding(at: Where) -> list[Job]:
    small = ("--images", 8, "--batch", 4, "--workers", 1, "--repeats", 1) if at.toy else ()
    return [script("decoding", "decoding.py", "--device", at.device, *small)]


def cifar_job(at: Where, name: str, contestant: str, *more: str | int) -> Job:
    """One network trained and judged; its checkpoints lie in a folder of its own."""
    given: tuple[str | int | Path, ...] = ("--data", at.cifar, "--work", at.work / name, "--device", at.device)
    given += ("--epochs", 2, "--workers", 0) if at.toy else ()
    ours = contestant.startswith("coterie")
    if at.toy:
        given += TOY_NETWORK if ours else ("--width", 0.125, "--batch", 64)
    return script(name, "gpu/cifar.py", contestant, *given, *more, lightly=not ours)


def cifar(at: Where) -> list[Job]:
    names = ("coterie-swav", "coterie-smog", "lightly-swav-fed")
    return [cifar_job(at, f"{name}_seed0", name) for name in names]


def lightly_cifar(at: Where) -> list[Job]:
    return [cifar_job(at, "lightly-swav_seed0", "lightly-swav")]


def seeds(at: Where) -> list[Job]:
    names = ("coterie-swav",) if at.toy else ("coterie-swav", "coterie-smog")
    return [
        cifar_job(at, f"{name}_seed{seed}", name, "--seed", seed)
        for name in names
        for seed in ((1,) if at.toy else (1, 2))
    ]


def ablations(at: Where) -> list[Job]:
    changes = {
        "plain": (),
        "groups_300": ("groups.counts=[300]",),
        "groups_1000": ("groups.counts=[1000]",),
        "crops_32_18": ("views.crops.0.size=32", "views.crops.1.size=18", "views.crops.1.count=4"),
        "epsilon_05": ("assignment.temperature=0.05",),
        "sgd": ("optimizer.kind=sgd", "optimizer.weight_decay=5e-4", "learning_rate.peak=0.1"),
    }
    if at.toy:
        changes = {"sgd": (*changes["sgd"], "groups.counts=[10]")}
    first = script("split", "gpu/checks.py", "split", at.cifar)
    split = ("--train", "learning.parquet", "--test", "tuning.parquet")
    return [first] + [
        cifar_job(
            at,
            f"ablation_swav_{name}",
            "coterie-swav",
            *split,
            *(part for each in change for part in ("--set", each)),
        )
        for name, change in changes.items()
    ]


def family(at: Where) -> list[Job]:
    names = ("simclr",) if at.toy else ("simclr", "resa", "deepcluster_v2", "sela_v2")
    return [cifar_job(at, f"coterie-{name}_seed0", f"coterie-{name}") for name in names]


def looks(at: Where) -> list[Job]:
    given = (
        "--looks", "--set", "run.snapshots=2" if at.toy else "run.snapshots=20",
        "--set", f"probe.train=['{at.cifar / 'train.parquet'}']", "--set", f"probe.test=['{at.cifar / 'test.parquet'}']",
        "--set", f"probe.every_epochs={1 if at.toy else 10}",
    )  # fmt: skip
    names = ("smog",) if at.toy else ("swav", "smog")
    return [cifar_job(at, f"looks_{name}", f"coterie-{name}", *given) for name in names]


def plan(at: Where) -> list[Job]:
    if at.toy:
        small = ("--set", "backbone.width=0.125", "--set", "run.snapshots=0", "--epochs", 1, "--set", "run.workers=0")
        return [script("plan_swav", "gpu/checks.py", "plan", "swav", at.cifar / "train.parquet", *small)]
    photos = ("gpu/checks.py", "plan", "smog_imagenet", at.photos, "--epochs", 60, "--batch", 128)
    return [
        script("plan_swav", "gpu/checks.py", "plan", "swav", at.cifar / "train.parquet", "--epochs", 20),
        script("plan_smog", *photos, "--set", "memory.length=128", "--set", "groups.counts=[50,50,50]"),
    ]


RUNS = (
    Run("tests", "whether the CUDA paths work: device, bfloat16, compiled network; parity there", tests),
    Run("profile", "where the time of a step goes, and so what to speed up next", profile),
    Run("step", "2 times lightly's step as documented; what the joint batch norm of SMoG costs", step),
    Run("end_to_end", "95 % of the step on views that are there, 5 times lightly's pipeline", end_to_end),
    Run("grouping", "3 % or less of the step at 3,000 groups, 4,096 images; else a fused kernel is written", grouping),
    Run("memory", "peak memory beside lightly at the same batch", memory),
    Run("loader", "images a second and core with that processor", loader),
    Run("decoding", "whether nvJPEG is built in", decoding),
    Run("cifar", "kNN and linear after 200 epochs (.91 is the aim), wall time, with lightly's recipe beside it", cifar),
    Run("seeds", "the spread over seeds", seeds),
    Run("lightly_cifar", "wall time and accuracy of lightly's own pipeline, as far as the time goes", lightly_cifar),
    Run("ablations", "groups, crops, epsilon, optimizer of the small-image preset, on a tuning split", ablations),
    Run("family", "kNN of the other presets after 200 epochs", family),
    Run("looks", "which figure without labels follows kNN over 200 epochs, and whether `select` chooses well", looks),
    Run("plan", "whether time and memory of the plan hold on a GPU, within 30 %", plan),
)
