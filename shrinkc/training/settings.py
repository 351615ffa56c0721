"""Settings of a training run, whatever the method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from shrinkc.errors import RecipeError
from shrinkc.training import budget as budgets
from shrinkc.training.budget import Budget
from shrinkc.training.ranges import NOT_NEGATIVE, POSITIVE, SHARE, WEIGHT, Range, check_ranges

OPTIMIZERS = ("sgd", "adamw")
RETRAINING = ("ft", "lrw", "slr", "clr", "llr", "allr")
SCHEDULES = ("constant", "linear", "cosine", "steps", *RETRAINING)
LOGIT_LOSSES = ("kl", "mse")
OTHER_LOSSES = ("mse", "l1")
BATCH_NORM = ("frozen", "batch", "settling")
PRECISIONS = ("float32", "bfloat16", "auto")
AUGMENTATIONS = ("shift", "flip", "mix")
NORMS = ("given", "refolded", "opened")
TEACHERS = ("original", "none")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """What every method shares; texts where the user gives texts.

    Attributes
    ----------
    method : str
        Plug-in of the group ``shrinkc.training``.
    budget : str
        Of one training phase, see :func:`shrinkc.training.budget.parse`.
    batch : int
        Samples of a step, over all processes.
    optimizer : str
        ``sgd`` (with Nesterov momentum) or ``adamw``.
    learning_rate : float
        The highest.
    momentum, weight_decay : float
        Momentum is the first of adamw's two decays.  Weight decay is for matrices and convolutions only: not for biases and
        normalisations.
    schedule : str
        ``constant``, ``linear``, ``cosine`` or ``steps`` (a tenth at each of the ``milestones``); or, after a removal, one of
        the retraining schedules ``ft``, ``lrw``, ``slr``, ``clr``, ``llr``, ``allr`` (see
        :func:`shrinkc.training.schedules.retraining`), for which the original training is taken to have followed half a cosine.
    original : str
        How long the training was that the model came from, in epochs or steps of these samples: ``lrw`` repeats its end,
        ``allr``, which cannot do without, compares its length.
    milestones : tuple of float
        Shares of the steps.
    warm_up : float
        Share of the steps in which the rate rises to its highest.
    clip : float
        Largest norm of the gradient, 0 for any.
    teacher : str
        ``original`` distils from the model as it was given; ``none`` needs labels.
    temperature : float
    classes : str
        Outputs that hold scores of classes of which one is right for each sample: names with commas between them, ``none``, or
        ``auto``: those of shape (samples, classes) that no sigmoid, tanh or normalisation to length one makes.
    logit_loss : str
        For those outputs: ``kl`` or ``mse``.
    other_loss : str
        For other outputs: ``mse`` (by the variance of the teacher's) or ``l1`` (by its mean deviation).
    feature_weight : float
        Of the distance between values inside; 0 does not look at them.
    features : int
        Most values inside that are compared.
    label_weight : float
        Share of the labels' cross-entropy in the loss, where there are labels and a teacher.
    label_smoothing : float
    augment : tuple of str
        ``shift`` and ``flip`` images, ``mix`` two of them.
    shift : int
        Most pixels.
    pool : int
        Samples that augmented copies bring the training set up to; the teacher sees each once if its
        answers fit into memory.  0 draws anew in every step.
    batch_norm : str
        ``frozen`` uses the stored statistics; ``batch`` those of every batch, and tracks them; ``settling`` those of every
        batch in the first half of a training phase and the stored ones in the second, where weights fit themselves to what is
        computed in the end (as Krishnamoorthi does before quantization, arXiv 1806.08342).
    norms : str
        What trains in the place of normalisations that an exporter folded into convolutions: ``given`` leaves them folded,
        ``refolded`` opens them for the training and folds them again, ``opened`` leaves them open in the result.
    reestimate : bool
        Measure the statistics anew at the end.
    ema : float
        Decay of the moving average of the weights, 0 for none.
    swa : float
        Share of the steps, at the end, whose weights are averaged, 0 for none.
    held_out : float
        Share of the samples that is not trained on but decides which model is the best.
    evaluations : int
        How often that is looked at in a phase.
    patience : int
        Evaluations without a better one before it stops early, 0 for never.
    threads : int
        Of the processor, 0 for all.
    device : str
    precision : str
        Of the arithmetic in training, by autocast: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 where the device
        has instructions for it and a batch's loss is nearly the same in it.  Weights and moments are of the type the model
        stores its weights in.  Losses are float32 in any case, and so is what decides which model is the best.
    """

    method: str = "distillation"
    budget: str = "5epochs"
    batch: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    original: str = ""
    milestones: tuple[float, ...] = (0.5, 0.75)
    warm_up: float = 0.05
    clip: float = 0.0
    teacher: str = "original"
    temperature: float = 4.0
    classes: str = "auto"
    logit_loss: str = "kl"
    other_loss: str = "mse"
    feature_weight: float = 0.0
    features: int = 4
    label_weight: float = 0.1
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()
    shift: int = 2
    pool: int = 0
    batch_norm: str = "frozen"
    norms: str = "given"
    reestimate: bool = False
    ema: float = 0.0
    swa: float = 0.0
    held_out: float = 0.1
    evaluations: int = 10
    patience: int = 0
    threads: int = 0
    device: str = "cpu"
    precision: str = "float32"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the method itself."""

    def length(self) -> Budget:
        """The budget, parsed."""
        return budgets.parse(self.budget, "budget")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data


CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "logit_loss": LOGIT_LOSSES,
    "other_loss": OTHER_LOSSES,
    "batch_norm": BATCH_NORM,
    "norms": NORMS,
    "teacher": TEACHERS,
    "device": DEVICES,
    "precision": PRECISIONS,
}
Need = tuple[Callable[[Settings], bool], str]
TEACHER: Need = (lambda settings: settings.teacher != "none", 'a teacher (teacher = "original")')
NEEDS: Mapping[str, tuple[Need, ...]] = {
    "original": (
        (
            lambda settings: settings.schedule in ("lrw", "allr") or settings.method == "iterative-magnitude",
            'a schedule that looks at it (schedule = "lrw")',
        ),
    ),
    "milestones": ((lambda settings: settings.schedule == "steps", 'schedule = "steps"'),),
    "temperature": (TEACHER, (lambda settings: settings.logit_loss == "kl", 'logit_loss = "kl"')),
    "logit_loss": (TEACHER,),
    "other_loss": (TEACHER,),
    "feature_weight": (TEACHER,),
    "features": (TEACHER, (lambda settings: settings.feature_weight > 0, "feature_weight")),
    "label_weight": (TEACHER,),
    "label_smoothing": ((lambda settings: settings.teacher == "none" or settings.label_weight > 0, "label_weight"),),
    "shift": ((lambda settings: "shift" in settings.augment, 'augment = ["shift"]'),),
    "pool": ((lambda settings: bool(settings.augment), 'an augmentation (augment = ["shift"])'),),
}
"""What a setting has no effect without."""

RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("warm_up", "swa", "held_out", "label_smoothing", "ema", "momentum"), SHARE),
    "label_weight": WEIGHT,
    **dict.fromkeys(("batch", "learning_rate", "temperature", "evaluations", "features"), POSITIVE),
    **dict.fromkeys(("weight_decay", "clip", "feature_weight", "shift", "pool", "patience", "threads", "seed"), NOT_NEGATIVE),
}


def check(settings: Settings) -> Settings:
    """The settings, if each is in its range and none contradicts another.

    Raises
    ------
    RecipeError
        One is not.
    """
    for name, allowed in CHOICES.items():
        if getattr(settings, name) not in allowed:
            raise RecipeError(
                "no such choice", where=f"{name} = {getattr(settings, name)}", hint=f"known: {', '.join(allowed)}"
            )
    unknown = [name for name in settings.augment if name not in AUGMENTATIONS]
    if unknown:
        raise RecipeError("no such augmentation", where=", ".join(unknown), hint=f"known: {', '.join(AUGMENTATIONS)}")
    check_ranges(settings, **RANGES)
    settings.length()
    _check_retraining(settings)
    if settings.ema and settings.swa:
        raise RecipeError("two averages of the weights contradict each other", where="ema, swa", hint="give one of them")
    if settings.swa and settings.batch_norm != "frozen" and not settings.reestimate:
        raise RecipeError(
            "statistics of batches are not those of averaged weights", where="swa, batch_norm", hint="reestimate = true"
        )
    return settings


def _check_retraining(settings: Settings) -> None:
    """Refuse what a retraining schedule cannot be counted by."""
    if settings.original and budgets.parse(settings.original, "original").seconds is not None:
        raise RecipeError("the schedule counts steps", where=f"original = {settings.original}", hint="epochs or steps")
    if settings.schedule == "allr" and not settings.original:
        raise RecipeError(
            "the schedule compares lengths of training",
            where='schedule = "allr"',
            hint='say how long the model was trained: original = "100epochs"',
        )
    is_counted = settings.schedule == "allr" or (settings.schedule == "lrw" and not settings.original)
    if is_counted and settings.length().seconds is not None:
        raise RecipeError(
            "the schedule counts steps",
            where=f'schedule = "{settings.schedule}", budget = {settings.budget}',
            hint="a budget of epochs or steps",
        )


def check_effects(given: Iterable[str], settings: Settings) -> None:
    """Refuse settings that were given, other than they are by default, and that the others leave without effect.

    Raises
    ------
    RecipeError
        Names the first, and what it needs.
    """
    usual = {field.name: field.default for field in fields(Settings)}
    for name in given:
        if getattr(settings, name) == usual[name]:
            continue
        for is_met, need in NEEDS.get(name, ()):
            if not is_met(settings):
                raise RecipeError(f"would have no effect without {need}", where=name)
