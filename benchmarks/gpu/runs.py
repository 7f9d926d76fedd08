"""The runs by name, in order of value: what each decides, and the jobs that it is made of, with the minutes that each takes.

A job is a command that writes one JSON file; ``run.py`` adds ``--out`` to it. ``LEASE`` is cut to what 15 minutes of one GPU
hold and is worked through without being named; ``MORE`` is for whoever has more time. Minutes are of one H200 with 16 cores,
imports and the compiler included; estimates until a run has been timed. At toy size each job is a matter of seconds on a CPU:
the same commands on tiny images, a narrow network and few steps.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent
TOY_MINUTES = 0.01
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
    """A command that leaves one file of results.

    Attributes:
        name: of that file.
        minutes: that it takes.
        command: without ``--out``.
        lightly: whether it needs that package.
    """

    name: str
    minutes: float
    command: tuple[str, ...]
    lightly: bool = False


@dataclass(frozen=True)
class Run:
    """Some jobs that decide something together."""

    name: str
    decides: str
    jobs: Callable[[Where], list[Job]]


def script(
    at: Where, minutes: float, name: str, path: str, *arguments: str | float | Path, lightly: bool = False
) -> Job:
    """A job that is a script of this folder."""
    command = (sys.executable, str(BENCHMARKS / path), *map(str, arguments))
    return Job(name, TOY_MINUTES if at.toy else minutes, command, lightly)


GPU_TESTS = (
    "tests/test_gpu.py", "tests/training/test_synchronization.py", "tests/parity/test_trajectories.py",
    "tests/evaluation/probes/test_linear.py", "tests/training/profiling/test_profile.py",
)  # fmt: skip
"""The files with tests that need a GPU: to collect all would take longer than these tests."""


def tests(at: Where) -> list[Job]:
    call = "tests/optim/test_schedule.py" if at.toy else f"-n 0 -m gpu {' '.join(GPU_TESTS)}"
    return [script(at, 1.5, "tests", "gpu/checks.py", "tests", call)]


AS_DOCUMENTED = "lightly, float32;lightly, 16-mixed"


def step_jobs(at: Where, method: str) -> list[Job]:
    """Ours compiled and not, lightly's as documented and channels-last."""
    who = f"coterie, bfloat16;coterie, bfloat16, not compiled;{AS_DOCUMENTED};lightly, 16-mixed, best"
    given = ("step.py", "--device", at.device, "--precision", "float32,bfloat16", "--repeats", 3, "--contestants", who)
    return [
        script(at, minutes, f"step_{method}_{network}", *given, "--case", f"{method}, {case}", lightly=True)
        for network, case, minutes in (("resnet50", "ResNet-50", 2.0), ("resnet18", "ResNet-18, 2x32 + 4x18", 1.3))
    ]


def step(at: Where) -> list[Job]:
    if at.toy:
        return [script(at, 0, "step", "step.py", "--device", at.device, "--toy", "--repeats", 1, lightly=True)]
    return step_jobs(at, "swav")


def step_smog(at: Where) -> list[Job]:
    if at.toy:
        small = ("--toy", "--case", "smog, toy, 2x16 + 2x8", "--repeats", 1)
        return [script(at, 0, "step_smog", "step.py", "--device", at.device, *small, lightly=True)]
    return step_jobs(at, "smog")


def end_to_end(at: Where) -> list[Job]:
    small = ("--toy", "--images", 64, "--workers", 1, "--steps", 2, "--repeats", 1)
    given = small if at.toy else ("--steps", 20, "--repeats", 2)
    return [script(at, 2.3, "end_to_end", "end_to_end.py", "--device", at.device, *given, lightly=True)]


def grouping(at: Where) -> list[Job]:
    small = ("--toy", "--groups", 20, "--batch", 32, "--network-batch", 4, "--repeats", 1) if at.toy else ()
    return [script(at, 0.7, "grouping", "grouping.py", "--device", at.device, *small)]


def memory(at: Where) -> list[Job]:
    what = ("--toy", "--case", "swav") if at.toy else ("--case", "swav, ResNet-50", "--precision", "float32,bfloat16")
    who = () if at.toy else ("--contestants", f"coterie, bfloat16;{AS_DOCUMENTED}")
    return [script(at, 1.6, "step_memory", "step.py", "--memory", "--device", at.device, *what, *who, lightly=True)]


def decoding(at: Where) -> list[Job]:
    small = ("--images", 8, "--batch", 4, "--workers", 1, "--repeats", 1) if at.toy else ("--repeats", 2)
    return [script(at, 0.7, "decoding", "decoding.py", "--device", at.device, *small)]


def loader(at: Where) -> list[Job]:
    return [script(at, 0.8, "loader", "loader.py", "--case", "photos", "--repeats", 1, lightly=True)]


def profile(at: Where) -> list[Job]:
    cifar, seconds = at.cifar / "train.parquet", ("--seconds", 0.1 if at.toy else 10)
    if at.toy:
        toy = (*seconds, *TOY_NETWORK, "--set", "run.workers=1")
        return [script(at, 0, "profile_smog", "gpu/checks.py", "profile", "smog", cifar, *toy)]
    photos = ("--set", "batch_size=128", "--set", "groups.counts=[120]", "--set", "memory=none")
    return [
        script(at, 0.7, "profile_swav", "gpu/checks.py", "profile", "swav", cifar, *seconds),
        script(
            at, 0.8, "profile_photos", "gpu/checks.py", "profile", "swav_imagenet_256", at.photos, *photos, *seconds
        ),
        script(at, 0.7, "profile_smog", "gpu/checks.py", "profile", "smog", cifar, *seconds),
    ]


def cifar_job(at: Where, minutes: float, name: str, contestant: str, *more: str | int) -> Job:
    """One network trained and judged; its checkpoints lie in a folder of its own."""
    given: tuple[str | int | Path, ...] = ("--data", at.cifar, "--work", at.work / name, "--device", at.device)
    given += ("--epochs", 2, "--workers", 0) if at.toy else ()
    ours = contestant.startswith("coterie")
    if at.toy:
        given += TOY_NETWORK if ours else ("--width", 0.125, "--batch", 64)
    return script(at, minutes, name, "gpu/cifar.py", contestant, *given, *more, lightly=not ours)


CONTESTANTS = ("coterie-swav", "lightly-swav-fed", "coterie-smog")


def cifar_40(at: Where) -> list[Job]:
    more = () if at.toy else ("--epochs", 40)
    return [cifar_job(at, 2.8, f"{name}_40_epochs", name, *more) for name in CONTESTANTS[: 2 if at.toy else None]]


def cifar(at: Where) -> list[Job]:
    return [cifar_job(at, 11, f"{name}_seed0", name) for name in CONTESTANTS[: 1 if at.toy else None]]


def step_all(at: Where) -> list[Job]:
    given = ("--toy", "--case", "swav", "--repeats", 1) if at.toy else ("--compile",)
    return [script(at, 25, "step_all", "step.py", "--device", at.device, *given, lightly=True)]


def lightly_cifar(at: Where) -> list[Job]:
    return [cifar_job(at, 60, "lightly-swav_seed0", "lightly-swav")]


def seeds(at: Where) -> list[Job]:
    names = ("coterie-swav",) if at.toy else ("coterie-swav", "coterie-smog")
    return [
        cifar_job(at, 11, f"{name}_seed{seed}", name, "--seed", seed)
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
    first = script(at, 0.2, "split", "gpu/checks.py", "split", at.cifar)
    split = ("--train", "learning.parquet", "--test", "tuning.parquet")
    return [first] + [
        cifar_job(
            at,
            10,
            f"ablation_swav_{name}",
            "coterie-swav",
            *split,
            *(part for each in change for part in ("--set", each)),
        )
        for name, change in changes.items()
    ]


def family(at: Where) -> list[Job]:
    names = ("simclr",) if at.toy else ("simclr", "resa", "deepcluster_v2", "sela_v2")
    return [cifar_job(at, 11, f"coterie-{name}_seed0", f"coterie-{name}") for name in names]


def looks(at: Where) -> list[Job]:
    given = (
        "--looks", "--set", "run.snapshots=2" if at.toy else "run.snapshots=20",
        "--set", f"probe.train=['{at.cifar / 'train.parquet'}']", "--set", f"probe.test=['{at.cifar / 'test.parquet'}']",
        "--set", f"probe.every_epochs={1 if at.toy else 10}",
    )  # fmt: skip
    names = ("smog",) if at.toy else ("swav", "smog")
    return [cifar_job(at, 13, f"looks_{name}", f"coterie-{name}", *given) for name in names]


def plan(at: Where) -> list[Job]:
    if at.toy:
        small = ("--set", "backbone.width=0.125", "--set", "run.snapshots=0", "--epochs", 1, "--set", "run.workers=0")
        return [script(at, 2.5, "plan_swav", "gpu/checks.py", "plan", "swav", at.cifar / "train.parquet", *small)]
    photos = ("gpu/checks.py", "plan", "smog_imagenet", at.photos, "--epochs", 60, "--batch", 128)
    return [
        script(at, 2.5, "plan_swav", "gpu/checks.py", "plan", "swav", at.cifar / "train.parquet", "--epochs", 20),
        script(at, 2.5, "plan_smog", *photos, "--set", "memory.length=128", "--set", "groups.counts=[50,50,50]"),
    ]


LEASE = (
    Run("tests", "whether the CUDA paths work, and whether golden trajectories hold there in float64", tests),
    Run("step", "2 times lightly's step as documented, SwAV; whether compiling works and what it gains", step),
    Run("end_to_end", "95 % of the step on views that are there, 5 times lightly's pipeline", end_to_end),
    Run("grouping", "3 % or less of the step at 3,000 groups, 4,096 images; else a fused kernel is written", grouping),
    Run("memory", "peak memory beside lightly at the same batch, SwAV, ResNet-50", memory),
    Run("decoding", "whether nvJPEG is built in", decoding),
    Run("cifar_40", "kNN and linear after 40 epochs, with lightly's recipe beside it; wall time of an epoch", cifar_40),
    Run("loader", "images a second and core with that processor, photographs", loader),
    Run("profile", "where the time of a step goes, and so what to speed up next", profile),
    Run("step_smog", "the same of SMoG, with its teacher and its memory", step_smog),
)
"""What a lease of 15 minutes is for, from the top."""
MORE = (
    Run("cifar", "kNN and linear after 200 epochs (.91 is the aim), wall time, with lightly's recipe beside it", cifar),
    Run("step_all", "every case and contestant of step.py, lightly's compiled too; SMoG's joint batch norm", step_all),
    Run("plan", "whether time and memory of the plan hold on a GPU, within 30 %", plan),
    Run("seeds", "the spread over seeds", seeds),
    Run("lightly_cifar", "wall time and accuracy of lightly's own pipeline, as far as the time goes", lightly_cifar),
    Run("ablations", "groups, crops, epsilon, optimizer of the small-image preset, on a tuning split", ablations),
    Run("family", "kNN of the other presets after 200 epochs", family),
    Run("looks", "which figure without labels follows kNN over 200 epochs, and whether `select` chooses well", looks),
)
"""What takes longer, if there is ever more."""
RUNS = LEASE + MORE
