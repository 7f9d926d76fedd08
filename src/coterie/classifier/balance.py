"""Lets all classes count alike, however many images each has: by the frequencies of the classes, not by training anew."""

from dataclasses import replace
from typing import cast

from jaxtyping import Float
from torch import Tensor

from coterie.classifier.choose_head import ChosenHead
from coterie.classifier.heads import Head, KnnHead, linear_head

BALANCED = "balanced"
"""The fact of a classifier that says so."""


def balance_shift(shares: Float[Tensor, " c"], temperature: float) -> Float[Tensor, " c"]:
    """What is added to the logits of classes so that their probabilities are those of equally frequent classes.

    By Bayes' rule ``p(class | image)`` is divided by the frequency of the class (Menon et al. 2021, arXiv 2007.07314, equation
    9). Of a classifier with a free bias, such as logistic regression, this is what training with the frequencies added to the
    logits gives (their equation 10).

    Args:
        shares: of each class among the images that the classifier was fitted to; their sum may be any.
        temperature: by which logits are divided.
    """
    return -temperature * (shares / shares.sum()).log().float()


def shifted(chosen: ChosenHead, shift: Float[Tensor, " c"]) -> ChosenHead:
    """A head with something added to its logits.

    Args:
        chosen: the head, on the CPU.
        shift: of each class.
    """
    return replace(chosen, head=_shifted(chosen.head, shift), logits=chosen.logits + shift)


def _shifted(head: Head, shift: Float[Tensor, " c"]) -> Head:
    if isinstance(head, KnnHead):
        bias = shift if head.bias is None else head.bias + shift
        return KnnHead(head.voters, head.labels, head.classes, head.k, head.vote_temperature, bias)
    return linear_head(head.weight, cast(Tensor, head.bias).detach().cpu() + shift)
