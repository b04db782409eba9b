"""Margins found on held-out classes: where the search stands, what it tries, what it settles on."""

import dataclasses
import math

import numpy as np
import pytest

from pipeline.calibration.rules import CalibrationConfig
from pipeline.canonical import canonical_json, parse_object
from pipeline.data.items import ItemsError
from pipeline.losses.config import TcmConfig
from pipeline.statistics.intervals import UNKNOWN, Interval
from pipeline.strict import RecipeError
from pipeline.training.margins import (
    candidates,
    first,
    pair_targets,
    require_held_out,
    require_share,
)
from pipeline.training.trials import Margins, Setting, Trial, choose, described, table
from pipeline.training.validation import Validation
from tests.training_world import recipe

MIDDLE = Margins(0.5, 0.8)


def found(recall, value, lower=None, upper=None):
    interval = Interval(value, value - 1e-4 if lower is None else lower,
                        value + 1e-4 if upper is None else upper)
    return Validation(recall, interval, 9e-3, 2e-3, classes=40, items=400, step=12)


def trial(margins, recall, value, lower=None, upper=None):
    return Trial(Setting(margins, 2e-3), found(recall, value, lower, upper))


BASE = trial(None, 0.700, 4e-3, 3.9e-3, 4.1e-3)


def words(line):
    return line.split()


def test_the_first_margins_are_the_similarities_at_the_targets():
    assert first(0.412, 0.688) == Margins(0.41, 0.69)


def test_there_is_a_tenth_between_the_first_margins_even_where_the_positives_lie_lower():
    assert first(0.75, 0.34) == Margins(0.75, 0.85)
    assert first(0.75, 0.86) == Margins(0.75, 0.86)
    # Nothing is more alike than 1: what is left of the tenth.
    assert first(0.94, 0.34) == Margins(0.94, 1.0)


def test_negatives_as_close_as_can_be_leave_no_room_for_margins():
    with pytest.raises(RecipeError, match=r"similarity 0\.962 or above; train it longer, or give"):
        first(0.9621, 0.99)


def test_the_targets_are_those_that_the_recipe_calibrates_to():
    def of(**calibration):
        return pair_targets(dataclasses.replace(
            recipe(), calibration=CalibrationConfig(far_target=3e-3, frr_target=0.2, **calibration)
        ))

    assert of() == (3e-3, 0.1)
    assert of(rule="frr_target") == (1e-2, 0.2)
    assert of(rule="both_targets") == (3e-3, 0.2)
    assert of(rule="max_mean_utility") == (1e-2, 0.1)


def test_the_candidates_are_the_middle_and_the_eight_around_it():
    tried = candidates(MIDDLE)
    assert tried[0] == MIDDLE
    assert sorted((m.negative, m.positive) for m in tried) == [
        (0.4, 0.7), (0.4, 0.8), (0.4, 0.9), (0.5, 0.7), (0.5, 0.8), (0.5, 0.9),
        (0.6, 0.7), (0.6, 0.8), (0.6, 0.9),
    ]  # fmt: skip


def test_no_candidate_is_narrower_than_a_tenth_or_beyond_what_a_cosine_can_be():
    # Around (.5, .6): (.5, .5), (.6, .5) and (.6, .6) are no margins.
    narrow = [(m.negative, m.positive) for m in candidates(Margins(0.5, 0.6))]
    assert sorted(narrow) == [
        (0.4, 0.5), (0.4, 0.6), (0.4, 0.7), (0.5, 0.6), (0.5, 0.7), (0.6, 0.7),
    ]  # fmt: skip
    high = [(m.negative, m.positive) for m in candidates(Margins(0.7, 0.95))]
    assert sorted(high) == [(0.6, 0.85), (0.6, 0.95), (0.7, 0.85), (0.7, 0.95), (0.8, 0.95)]
    assert all(m.negative >= -1 for m in candidates(Margins(-0.95, 0.2)))
    assert len(candidates(Margins(-0.95, 0.2))) == 6
    # .06 apart, all that the top leaves: kept, and so is what is no narrower.
    top = [(m.negative, m.positive) for m in candidates(Margins(0.94, 1.0))]
    assert top == [(0.94, 1.0), (0.84, 0.9), (0.84, 1.0)]


def test_every_candidate_is_one_that_the_loss_takes():
    rng = np.random.default_rng(0)
    for at_far, at_frr in rng.uniform(-1, 0.94, (300, 2)):
        for margins in candidates(first(at_far, at_frr)):
            given = Setting(margins, 2e-3).applied(recipe(tcm=True)).loss.tcm
            assert (given.negative_margin, given.positive_margin) == (
                margins.negative, margins.positive,
            )  # fmt: skip


def test_the_lowest_opis_wins_among_those_that_keep_recall():
    best = trial(Margins(0.4, 0.8), 0.698, 2e-3)
    trials = [
        trial(Margins(0.5, 0.8), 0.720, 3e-3),
        best,
        trial(Margins(0.5, 0.9), 0.6979, 1e-3),  # 0.21 points under .7
        Trial(Setting(Margins(0.6, 0.8), 2e-3), None, "the loss is nan at step 3"),
    ]
    choice = choose(BASE, trials)
    assert choice.trial == best
    assert choice.reason == (
        "The base loss alone has R@1 0.7000 and corrected OPIS 0.004 (0.0039 to 0.0041) on 40 "
        "held-out classes. Of 4 trials, 1 of which failed, 2 have R@1 0.6980 or more; the lowest "
        "corrected OPIS of these is 0.002 (0.0019 to 0.0021), with R@1 0.6980, at margins 0.8 and "
        "0.4."
    )


def test_a_gain_within_the_noise_is_called_one():
    wide = trial(MIDDLE, 0.7, 2e-3, upper=5e-3)
    assert choose(BASE, [wide]).reason.endswith("overlap: the gain may be chance.")
    # Touching intervals overlap; 1e-6 apart they do not.
    assert "chance" in choose(BASE, [trial(MIDDLE, 0.7, 2e-3, upper=3.9e-3)]).reason
    assert "chance" not in choose(BASE, [trial(MIDDLE, 0.7, 2e-3, upper=3.899e-3)]).reason


def test_where_no_trial_keeps_recall_the_term_is_left_out():
    choice = choose(BASE, [trial(MIDDLE, 0.69, 1e-3)])
    assert choice.trial == BASE
    assert choice.reason.endswith(
        "Of 1 trial, 0 have R@1 0.6980 or more. So the term is left out; give the margins to "
        "have it all the same."
    )


def test_where_no_trial_is_more_consistent_the_term_is_left_out():
    choice = choose(BASE, [trial(MIDDLE, 0.71, 4e-3), trial(MIDDLE, 0.71, math.nan)])
    assert choice.trial == BASE
    assert "2 have R@1 0.6980 or more, and none of these has a lower" in choice.reason


def test_of_equal_trials_the_first_wins():
    equal = [trial(Margins(0.4, 0.8), 0.70, 2e-3), trial(Margins(0.5, 0.8), 0.75, 2e-3)]
    assert choose(BASE, equal).trial == equal[0]


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (dataclasses.replace(BASE, found=dataclasses.replace(BASE.found, opis=UNKNOWN)),
         "its corrected OPIS is unknown"),
        (Trial(BASE.setting, None, "the loss is nan at step 3"), "the loss is nan at step 3"),
    ],
)  # fmt: skip
def test_without_the_base_loss_there_is_nothing_to_choose_by(base, why):
    with pytest.raises(RecipeError, match=f"^nothing to compare margins with: .*{why}"):
        choose(base, [trial(MIDDLE, 0.7, 1e-3)])


def test_a_setting_changes_margins_and_rate_alone():
    wanted = recipe(tcm=True, learning_rate=1e-2)
    wanted = dataclasses.replace(wanted, loss=dataclasses.replace(
        wanted.loss, tcm=TcmConfig(margins="auto", positive_weight=0.5, floor=3)
    ))
    set_up = Setting(MIDDLE, 3e-3).applied(wanted)
    assert set_up.loss.tcm == TcmConfig(
        margins="given", positive_margin=0.8, negative_margin=0.5, positive_weight=0.5, floor=3
    )
    assert set_up.train == dataclasses.replace(wanted.train, learning_rate=3e-3)
    assert Setting(None, 3e-3).applied(wanted).loss.tcm is None
    assert Setting(MIDDLE, 3e-3).applied(recipe()).loss.tcm == TcmConfig(
        positive_margin=0.8, negative_margin=0.5
    )


def test_settings_that_differ_have_names_that_differ():
    names = [Setting(m, rate).name for m in (None, *candidates(MIDDLE)) for rate in (1e-3, 2e-3)]
    assert len(set(names)) == 19  # the base loss alone is trained at the recipe's own rate
    assert names[0] == "base"


@pytest.mark.parametrize(
    "kept",
    [BASE, trial(MIDDLE, math.nan, 1e-3), Trial(BASE.setting, None, "why"),
     dataclasses.replace(BASE, found=dataclasses.replace(BASE.found, opis=UNKNOWN))],
)  # fmt: skip
def test_a_trial_is_read_as_it_was_written(kept):
    read = Trial.of_numbers(parse_object(canonical_json(kept.as_numbers())))
    assert repr(read) == repr(kept)  # NaN is not equal to itself


def test_the_table_has_a_line_for_each_trial_and_marks_the_chosen_one():
    failed = Trial(Setting(Margins(0.4, 0.8), 2e-3), None, "the loss is nan at step 3")
    best = trial(MIDDLE, 0.72, 2e-3)
    lines = table(BASE, [failed, best], best)
    assert len(lines) == 4
    assert words(lines[1]) == words("base alone 0.002 0.7000 0.004 (0.0039 to 0.0041)")
    assert words(lines[2]) == words("0.40 0.80 0.002 the loss is nan at step 3")
    assert words(lines[3]) == words("> 0.50 0.80 0.002 0.7200 0.002 (0.0019 to 0.0021)")
    assert table(BASE, [], BASE)[1].startswith(">")
    assert described(failed) == "failed: the loss is nan at step 3"
    assert described(best) == "R@1 0.7200, corrected OPIS 0.002 (0.0019 to 0.0021)"


def test_too_few_held_out_classes_are_refused_with_the_number_that_it_takes():
    labels = np.arange(30).repeat(4)
    wanted = recipe(validate_share=0.3)
    require_held_out(wanted, labels, labels < 10)
    with pytest.raises(ItemsError, match=r"^9 of 30 training classes .* at least 10, so about 34 "):
        require_held_out(wanted, labels, labels < 9)
    # A class of three items is in no corrected OPIS.
    short = np.delete(labels, 0)
    with pytest.raises(ItemsError, match=r"^9 of 30 "):
        require_held_out(wanted, short, short < 10)


def test_without_a_held_out_share_there_is_nothing_to_find_margins_on():
    require_share(recipe(validate_share=0.1), "loss.tcm.margins = 'auto'")
    with pytest.raises(RecipeError, match=r"^train\.validate_share: .* with loss\.tcm\.margins ="):
        require_share(recipe(), "loss.tcm.margins = 'auto'")


