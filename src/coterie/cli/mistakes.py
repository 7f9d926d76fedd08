"""What to write instead of an option or a verb that other programs have."""

from collections.abc import Collection, Sequence

from coterie.errors import did_you_mean
from coterie.methods.names import METHOD_NAMES

RUN_VERBS = ("plan", "profile", "pretrain")

ALONE = ("--help", "-h", "--version", "--install-completion")
"""What can be written without a verb."""

OTHER_OPTIONS = {
    "--out": "--output --outdir --out-dir --output-dir --save-dir --log-dir --run-dir --checkpoint-dir --default-root-dir -o",
    "--epochs": "--max-epochs --num-epochs --num-train-epochs -e",
    "--batch-size": "--batch --bs --per-device-train-batch-size --train-batch-size -b",
    "--backbone": "--arch --model --model-name --encoder --network --net -a -m",
    "--start-from": (
        "--init --init-from --pretrained --pretrained-weights --weights --ckpt --ckpt-path --checkpoint --finetune --from"
    ),
    "--config": "--config-file --cfg -c",
    "--set": "--override --opts",
    "--seed": "--random-seed --manual-seed",
    "--workers": "--num-workers --loader-workers -j",
    "--device": "--accelerator --gpu",
    "--precision": "--amp --bf16 --fp16 --mixed-precision",
    "--track": "--tracker --logger --report-to --log-to",
    "--test": "--val --validation --test-dir --val-dir",
    "--probes": "--probe --metrics",
}
"""By option, its names elsewhere."""

SETTINGS = {
    "run.device=cuda:0": "--device --accelerator --gpu",
    "run.workers=8": "--workers --num-workers --loader-workers -j",
    "run.precision=bfloat16": "--precision --amp --bf16 --fp16 --mixed-precision",
    "run.compile=always": "--compile --torch-compile",
    "run.fsdp=true": "--fsdp",
    "run.save_minutes=10": "--save-minutes --save-every --checkpoint-every --save-freq",
    "run.save_steps=1000": "--save-steps",
    "run.log_steps=10": "--log-steps --logging-steps --log-every-n-steps --print-freq",
    "learning_rate.peak=0.1": "--lr --learning-rate --base-lr --max-lr",
    "learning_rate.warmup_epochs=5": "--warmup --warmup-epochs",
    "optimizer.kind=lars": "--optimizer --optim --opt",
    "optimizer.weight_decay=1e-4": "--weight-decay --wd",
    "clip_grad_norm=1.0": "--clip --clip-grad --clip-grad-norm --gradient-clip-val --max-grad-norm",
    "temperature=0.1": "--temperature --tau",
    "groups.counts=300": "--groups --num-groups --clusters --num-clusters --prototypes --num-prototypes --nmb-prototypes -k",
    "memory.length=3840": "--queue --queue-length --queue-size --memory",
    "views.crops.0.size=96": "--image-size --img-size --crop-size --size-crops --input-size",
    "probe.probes=['knn','linear']": "--probes",
    "probe.every_epochs=5": "--probe-every --eval-every",
}
"""By setting of a run, with an example of its value, the options that it has elsewhere."""

SENTENCES = {
    "run the same command again, and the run resumes": "--resume --resume-from --resume-from-checkpoint --continue",
    "choose another --out, or delete the folder": "--overwrite --force --overwrite-output-dir -f",
    "start one process per GPU with torchrun, or choose one with --set run.device=cuda:0 (docs/processes.md)": (
        "--gpus --devices --num-gpus --ngpu --world-size --num-processes --num-nodes --distributed --strategy"
    ),
    "write the method before the images, as in coterie pretrain swav IMAGES": "--method --preset --algorithm --ssl-method",
    "write the images after the method, as in coterie pretrain swav IMAGES": (
        "--data --data-dir --data-path --dataset --train --train-dir --images-dir --input -i -d"
    ),
}
"""By what to do, the options that do it elsewhere."""


def explain_word(verb: str, word: str, options: Collection[str]) -> str | None:
    """Say what to write instead of an option that a verb does not have.

    Args:
        verb: the verb.
        word: the option, perhaps with ``=`` and a value.
        options: the options that the verb has.

    Returns:
        One line; None if there is nothing to say.
    """
    name, equals, value = word.partition("=")
    plain = name.replace("_", "-").lower()
    missing = f"there is no {name}"
    for option, others in OTHER_OPTIONS.items():
        if option in options and plain in others.split():
            return f"{missing}: write {option}"
    if verb in RUN_VERBS:
        if "." in name:
            return f"{missing}: write --set {name.lstrip('-')}{equals or '='}{value or 'VALUE'}"
        for setting, others in SETTINGS.items():
            if plain in others.split():
                return f"{missing}: write --set {setting}"
        for sentence, others in SENTENCES.items():
            if plain in others.split():
                return f"{missing}: {sentence}"
    if plain in options:
        return f"{missing}: write {plain}"
    return None


def explain_mistake(words: Sequence[str], verbs: Collection[str], options: Collection[str]) -> str | None:
    """Say what is wrong with a command line that could not be parsed, if it is a mistake that many make.

    Args:
        words: the command line, without the program.
        verbs: the verbs that there are.
        options: the options of its verb; empty if the first word is no verb.

    Returns:
        One line; None if it is another mistake.
    """
    verb, *rest = words
    if verb in METHOD_NAMES:
        return f"{verb} is a method: write a verb before it, as in coterie pretrain {verb} IMAGES --out RUN"
    if verb not in verbs and not verb.startswith("-"):
        return f"there is no verb {verb!r}{did_you_mean(verb, verbs) or ': choose one of ' + ', '.join(verbs)}"
    if verb not in verbs and verb not in ALONE:
        return f"there is no {verb}{did_you_mean(verb, ALONE)}"
    for word in rest:
        if word == "--":
            break
        if word.startswith("-") and word.partition("=")[0] not in options:
            line = explain_word(verb, word, options)
            if line:
                return line
    return None
