"""IoU, their mean and the accuracy of pixels, worked out by hand."""

import math

import numpy as np
import pytest

from coterie.segmentation.overlap import overlap

MASKS = np.array([[[0, 0, 1], [0, 255, 1]], [[2, 2, 0], [0, 0, 0]]], dtype=np.uint8)
FOUND = np.array([[[0, 1, 1], [0, 1, 0]], [[2, 0, 0], [0, 0, 1]]], dtype=np.uint8)


def test_a_case_worked_out_by_hand():
    """Of class 0 five pixels agree, of 1 one and of 2 one; the pixel of 255 counts nowhere.

    Class 0: 7 true, 7 found, 5 both: 5/9. Class 1: 2 true, 3 found, 1 both: 1/4. Class 2: 2 true, 1 found: 1/2. Class 3 is
    nowhere. Of 11 pixels 7 are right.
    """
    counted = overlap(list(zip(FOUND, MASKS, strict=True)), 4)
    assert counted.true.sum(0).tolist() == [7, 2, 2, 0]
    assert counted.found.sum(0).tolist() == [7, 3, 1, 0]
    assert counted.ious[:3] == pytest.approx([500 / 9, 25, 50])
    assert math.isnan(counted.ious[3])
    figures = counted.figures()
    assert figures["miou"] == pytest.approx((500 / 9 + 25 + 50) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(700 / 11)
    assert figures["mean_accuracy"] == pytest.approx(100 * (5 / 7 + 1 / 2 + 1 / 2) / 3)


def test_a_class_that_is_found_and_not_there_counts():
    found, mask = np.array([[0, 0, 1, 1]], dtype=np.uint8), np.array([[0, 0, 0, 0]], dtype=np.uint8)
    assert overlap([(found, mask)], 2).figures()["miou"] == pytest.approx(25)  # 1/2 and 0
    assert overlap([(mask, mask)], 2).figures()["miou"] == pytest.approx(100)


def test_the_deviation_is_that_of_other_samples_of_images():
    """Images that are all alike leave none; of two that are all right and all wrong, samples give 100, 0 and 1/3."""
    one, other = np.array([[0, 1]], dtype=np.uint8), np.array([[1, 0]], dtype=np.uint8)
    assert overlap([(one, one)] * 5, 2).figures()["miou_deviation"] == 0
    mixed = overlap([(one, one), (other, one)], 2).figures()
    assert mixed["miou"] == pytest.approx(100 / 3)
    assert mixed["miou_deviation"] == pytest.approx(np.std([100, 0, 100 / 3, 100 / 3]), rel=0.05)
