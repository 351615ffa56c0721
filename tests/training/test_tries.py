"""Settings that are found by trying them for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shrinkc.passes.training.distillation import Distillation
from training.lessons import convnet, lesson, loaded, pictures, settings

from shrinkc.errors import RecipeError, TrainingError
from shrinkc.log import Silent
from shrinkc.training import recipe_files
from shrinkc.training import tries as tries_of_training
from shrinkc.training.feeding import Feeder
from shrinkc.training.running import Trained, trained

FAST, FASTER, TOO_FAST = ({"learning_rate": rate} for rate in (0.05, 0.1, 100.0))
SLOW = {"learning_rate": 1e-5, "batch_norm": "frozen"}
DIVERGING = {"learning_rate": 1e30}
COMMON: dict[str, Any] = {"budget": "30steps", "batch_norm": "batch", "held_out": 0.5}


def done(folder: Path, *tried: dict[str, Any], share: float = 0.2, **given: Any) -> Trained:
    """A short recovery of one random network from another."""
    what = lesson(loaded(convnet(1), folder), pictures(96), loaded(convnet(2), folder))
    options = {"tried": tried, "share": share} if tried else {}
    return trained(what, settings(**{**COMMON, "options": options, **given}), Silent())


def tries(found: Trained) -> list[dict[str, Any]]:
    return [record for record in found.context.records if record["phase"] == "try"]


def test_the_first_that_does_not_spoil_the_model_trains_on_and_no_other_is_tried(tmp_path: Path) -> None:
    found = done(tmp_path, FAST, FASTER)
    alone = done(tmp_path, budget="6steps", evaluations=1, **FAST)
    assert [record["learning_rate"] for record in tries(found)] == [0.05]
    assert tries(found)[0]["after"] == pytest.approx(alone.after.loss), "a try is training with its settings"
    assert tries(found)[0]["before"] == pytest.approx(alone.before.loss)
    assert found.context.settings.learning_rate == 0.05
    assert found.context.records[-1]["before"]["loss"] == tries(found)[0]["after"], "the rest goes on from the try"


def test_one_that_spoils_the_model_gives_way_to_the_next_from_the_start(tmp_path: Path) -> None:
    found = done(tmp_path, TOO_FAST, FAST)
    assert [record["learning_rate"] for record in tries(found)] == [100.0, 0.05]
    assert tries(found)[0]["after"] > 1.25 * tries(found)[0]["before"]
    assert tries(found)[0]["before"] == tries(found)[1]["before"]
    assert found.context.settings.learning_rate == 0.05
    assert found.after.loss < 0.9 * found.before.loss


def test_one_that_is_no_more_behind_than_is_allowed_trains_on_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries_of_training, "SPOILED", 5.0)
    found = done(tmp_path, {"learning_rate": 2.0}, FAST, share=0.1)
    (record,) = tries(found)
    assert record["before"] < record["after"] < 5 * record["before"]
    assert found.context.records[-1]["before"]["loss"] == record["before"]
    assert found.after.loss <= found.before.loss


def test_the_last_one_is_taken_even_if_it_spoils_the_model(tmp_path: Path) -> None:
    found = done(tmp_path, TOO_FAST, TOO_FAST)
    assert len(tries(found)) == 2
    assert found.context.settings.learning_rate == TOO_FAST["learning_rate"]
    assert found.after.loss <= found.before.loss


@pytest.mark.parametrize(("tried", "steps"), [((FAST,), [27]), ((TOO_FAST, TOO_FAST, FAST), [21])])
def test_tries_and_what_follows_share_the_budget(tried: tuple[dict[str, Any], ...], steps: list[int], tmp_path: Path) -> None:
    found = done(tmp_path, *tried, share=0.1)
    assert [record["steps"] for record in found.context.records if record["phase"] == "train"] == steps
    assert found.context.steps_done == 30


def test_every_try_sees_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    at = Feeder.at

    def recording(self: Feeder, cycle: int, step: int) -> Any:
        batch = at(self, cycle, step)
        seen.append(batch.index)
        return batch

    monkeypatch.setattr(Feeder, "at", recording)
    done(tmp_path, TOO_FAST, FAST)
    assert [first.tolist() for first in seen[:6]] == [second.tolist() for second in seen[6:12]]


def test_a_try_that_diverges_is_passed_over(tmp_path: Path) -> None:
    found = done(tmp_path, DIVERGING, FAST)
    assert [record["after"] is None for record in tries(found)] == [True, False]
    assert found.context.settings.learning_rate == 0.05
    assert found.error is None


def test_a_try_whose_last_weights_have_no_finite_loss_has_diverged(tmp_path: Path) -> None:
    found = done(tmp_path, {"learning_rate": 8.0, "batch_norm": "frozen"}, FAST, share=0.1)
    assert tries(found)[0]["after"] is None
    assert found.context.settings.learning_rate == 0.05


def test_the_last_one_is_not_taken_if_it_diverges(tmp_path: Path) -> None:
    found = done(tmp_path, SLOW, DIVERGING)
    assert found.context.settings.learning_rate == SLOW["learning_rate"]
    assert found.error is None
    assert found.after.loss <= found.before.loss


def test_the_model_stays_what_it_was_where_every_try_diverges(tmp_path: Path) -> None:
    found = done(tmp_path, DIVERGING, DIVERGING)
    assert isinstance(found.error, TrainingError)
    assert "learning rates tried" in str(found.error)
    assert found.after.loss == found.before.loss


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options.tried = [{ momentum = 0.5 }]", "cannot be tried"),
        ('options.tried = [{ learning_rate = "0.05" }]', "wrong type"),
        ('options.tried = [{ batch_norm = "frozn" }]', "no such choice"),
        ("options.tried = [{ learning_rate = -1.0 }]", "more than 0"),
        ("options.tried = [0.1, 0.2]", "a list of tables"),
        ("options.tried = [{ learning_rate = 0.1 }]\noptions.share = 0.6", "half of the budget"),
    ],
)
def test_a_wrong_list_of_tries_is_refused_before_anything_is_cut(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'method = "distillation"\n{text}\n')
    with pytest.raises(RecipeError, match=message):
        recipe_files.resolve(tmp_path / "r.toml")


def test_without_a_list_nothing_is_tried() -> None:
    assert Distillation().tried == ()
