"""The faults of the table can still be made, and three of them are caught here; `make mutants` runs all."""

import ast
import re

import pytest

from tests.mutants.run import ROOT, mutated, outcome
from tests.mutants.table import MUTANTS, QUICK, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_fault_can_still_be_made(mutant: Mutant) -> None:
    """Its text stands there once, what comes of it is Python, and its test is there."""
    ast.parse(mutated(mutant))
    file, _, test = mutant.test.partition("::")
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert set(QUICK) <= set(names)


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name in QUICK], ids=lambda mutant: mutant.name)
def test_a_quick_one_is_caught(mutant: Mutant) -> None:
    assert outcome(mutant) == "caught"


def test_without_a_fault_nothing_is_caught() -> None:
    assert outcome(next(one for one in MUTANTS if one.name in QUICK), apply=False) == "survived"
