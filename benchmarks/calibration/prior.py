"""PneumoniaMNIST: three in four images of the tuning set are pneumonia, five in eight of the test set."""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from data_schemas.card import Output, PrevalenceRow
from data_schemas.plan import OperatingRule
from pipeline.evaluate.calibration import fit_calibration
from pipeline.evaluate.operating_points import choose
from pipeline.evaluate.prevalence import prevalence_rows
from pipeline.model import decision

OUTPUT = Output(label="pneumonia", classes=("0", "1"), columns=(0,), positive_classes=(1,))


def shifted(file: Path, stated: float) -> tuple[PrevalenceRow, ...]:
    """Return what prior corrections make of the test set, scored by a logistic regression of pixels.

    A classifier of seconds: the question is the prior, not the score. It is fitted on the training
    set, calibrated on the tuning set, and the labels of the test set measure only.
    """
    with np.load(file) as stored:
        images = {s: stored[f"{s}_images"].reshape(-1, 784) / 255 for s in ("train", "val", "test")}
        labels = {s: stored[f"{s}_labels"][:, 0].astype(np.int64) for s in images}
    network = LogisticRegression(C=0.01, max_iter=300).fit(images["train"], labels["train"])
    logits = {s: network.decision_function(images[s])[:, None] for s in ("val", "test")}
    output = fit_calibration(logits["val"], labels["val"], OUTPUT).applied(OUTPUT)
    found = {s: decision.of_positive(output, logits[s]) for s in logits}
    point = choose(labels["val"], found["val"], OperatingRule(), label=OUTPUT.label)
    return prevalence_rows(labels["test"], found["test"], point, stated)
