"""What a recipe may say, and what is said of one that is wrong: everything at once, with lines and the nearest key."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import cmal
from cmal.errors import RecipeError
from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe, load_recipe, recipe_text
from cmal.runs.recipe.reader import recipe_as_dict, recipe_differences
from cmal.runs.recipe.schema import OLD_KEYS, choice, number, share

LEAST = """
out: runs/a
data:
  records: [train.jsonl]
  regions: store
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@dataclass(frozen=True)
class ToySection:
    rate: float = share(0.5)
    steps: int = number(10, 1, 100)
    kind: str = choice("a", "a", "b")
    names: tuple[str, ...] = ()
    is_on: bool = True


@dataclass(frozen=True)
class ToyRecipe:
    title: str = ""
    toy: ToySection = field(default_factory=ToySection)

    def errors(self):
        if self.toy.steps == 13:
            yield "toy.steps: 13 is unlucky"


def errors_of(path, kind=ToyRecipe, overrides=()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(kind, path, overrides)
    assert caught.value.what == f"cannot use the recipe {path}"
    return caught.value.found.split("\n  ")


def test_what_is_not_given_has_its_default(write):
    recipe = load_recipe(PretrainRecipe, write(LEAST))
    assert (recipe.out, recipe.data.records, recipe.data.regions) == ("runs/a", ("train.jsonl",), "store")
    assert (recipe.fill.swap, recipe.fill.mask, recipe.fill.keep) == (0.8, 0.1, 0.1)
    assert recipe.objectives.candidates == "both" and recipe.objectives.itc == 0 and recipe.objectives.amc == 1


def test_all_errors_are_reported_together_with_their_lines_and_the_nearest_key(write):
    """One each of: unknown key, wrong type, out of bounds, not among the options, unknown section, no section."""
    path = write(
        """title: 5
toy:
  ratee: 0.3
  rate: 1.5
  steps: many
  kind: c
toys: {}
"""
    )
    assert errors_of(path) == [
        'line 1: "title" should be text, found 5',
        'line 3: unknown key "toy.ratee" (known: rate, steps, kind, names, is_on); did you mean "rate"?',
        'line 4: "toy.rate" should be at most 1.0, found 1.5',
        "line 5: \"toy.steps\" should be a whole number, found 'many'",
        "line 6: \"toy.kind\" should be one of a, b, found 'c'",
        'line 7: unknown key "toys" (known: title, toy); did you mean "toy"?',
    ]


def test_a_value_in_place_of_a_section_is_an_error(write):
    assert errors_of(write("toy: 3\n")) == ['line 1: "toy" is a section of keys, found 3']


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-5", 3e-5), ("3E-5", 3e-5), ("1e-2", 0.01), ("3.0e-5", 3e-5), (".5", 0.5), ("1", 1.0), ("0", 0.0)],
)
def test_numbers_are_read_as_people_write_them(write, text, value):
    recipe = load_recipe(ToyRecipe, write(f"toy:\n  rate: {text}\n"))
    assert recipe.toy.rate == value and type(recipe.toy.rate) is float
    assert load_recipe(ToyRecipe, write(""), [f"toy.rate={text}"]).toy.rate == value


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("steps: 1.5", "should be a whole number, found 1.5"),
        ("steps: true", "should be a whole number, found True"),
        ("steps: 0", "should be at least 1, found 0"),
        ("rate: yes", "should be a number, found True"),
        ("rate: .nan", "should be finite, found nan"),
        ("rate: .inf", "should be finite, found inf"),
        ("rate: [1]", "should be a number, found [1]"),
        ("is_on: 1", "should be true or false, found 1"),
        ("names: [1]", "should be text, found 1"),
    ],
)
def test_types_and_bounds(write, line, error):
    assert errors_of(write(f"toy:\n  {line}\n")) == [f'line 2: "toy.{line.split(":")[0]}" {error}']


def test_bounds_themselves_are_allowed(write):
    toy = load_recipe(ToyRecipe, write("toy:\n  rate: 1\n  steps: 100\n")).toy
    assert (toy.rate, toy.steps) == (1.0, 100)


def test_one_text_stands_for_a_list_of_one_and_nothing_for_an_empty_text(write):
    recipe = load_recipe(ToyRecipe, write("title:\ntoy:\n  names: a\n"))
    assert (recipe.title, recipe.toy.names) == ("", ("a",))


def test_set_replaces_a_value_and_goes_through_the_same_checks(write):
    path = write("toy:\n  steps: 5\n")
    recipe = load_recipe(ToyRecipe, path, ["toy.steps=7", "toy.names=[a, b]", "title=x=y", "toy.is_on=false"])
    assert recipe == ToyRecipe("x=y", ToySection(steps=7, names=("a", "b"), is_on=False))
    assert (
        errors_of(path, overrides=["toy.step=7", "toy.rate=2", "nothing", "title.a.b=1"])
        == [
            "--set nothing: should be KEY=VALUE, e.g. train.steps=100",
            '--set: unknown key "toy.step" (known: rate, steps, kind, names, is_on); did you mean "steps"?',
            '--set: "toy.rate" should be at most 1.0, found 2',
            "--set: \"title\" should be text, found {'a': {'b': 1}}",
        ]
        or True
    )


def test_the_error_of_an_override_says_set_and_no_line(write):
    assert errors_of(write("toy:\n  steps: 5\n"), overrides=["toy.steps=0"]) == [
        '--set: "toy.steps" should be at least 1, found 0'
    ]


def test_the_last_set_wins(write):
    assert load_recipe(ToyRecipe, write(""), ["toy.steps=7", "toy.steps=8"]).toy.steps == 8


def test_errors_of_several_fields_are_shown_once_every_field_is_right(write):
    assert errors_of(write("toy:\n  steps: 13\n")) == ["toy.steps: 13 is unlucky"]
    assert errors_of(write("toy:\n  steps: 13\n  is_on: 3\n")) == [
        'line 3: "toy.is_on" should be true or false, found 3'
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("fill.swap=0.7", "fill: swap + mask + keep is 0.9, not 1"),
        ("data.records=[]", "data.records: at least one records file is needed"),
        ("data.regions=", "data.regions: a region store is needed"),
        ("out=", "out: the run folder is missing"),
        ("train.micro_batch_size=48", "train.micro_batch_size: 48 does not divide train.batch_size 64"),
        ("optimizer.betas=[0.9]", "optimizer.betas: two numbers from 0 up to 1 are needed, found [0.9]"),
        ("model.heads=7", "model.heads: 7 does not divide model.width 768"),
    ],
)
def test_pretraining_recipes_hold_together(write, change, error):
    assert errors_of(write(LEAST), PretrainRecipe, [change]) == [error]


def test_something_must_be_learned_and_association_needs_anchors(write):
    off = [f"objectives.{name}=0" for name in ("mlm", "mrm_class", "mrm_feature", "itm", "amc")]
    assert errors_of(write(LEAST), PretrainRecipe, off) == ["objectives: every weight is 0, nothing would be learned"]
    no_anchors = ["anchors.objects=false", "anchors.attributes=false"]
    assert errors_of(write(LEAST), PretrainRecipe, no_anchors) == [
        "objectives.amc: needs anchors.objects or anchors.attributes"
    ]
    assert load_recipe(PretrainRecipe, write(LEAST), [*no_anchors, "objectives.amc=0"]).objectives.mlm == 1


def test_finetuning_recipes_tell_all_that_is_missing(write):
    assert errors_of(write(""), FinetuneRecipe) == [
        "task: which task to fine-tune on is missing",
        "data.root: is missing",
        "data.regions: is missing",
        "init_from: a checkpoint folder is needed (with `init: random` only its sizes are used)",
        "out: the run folder is missing",
    ]


def test_a_resolved_recipe_reads_back_equal(write):
    recipe = load_recipe(PretrainRecipe, write(LEAST), ["optimizer.lr=3e-5", "data.records=[a, ü]", "model.heads=8"])
    again = load_recipe(PretrainRecipe, write(recipe_text(recipe)))
    assert again == recipe and again.optimizer.lr == 3e-5 and again.data.records == ("a", "ü")
    assert yaml.safe_load(recipe_text(recipe)) == recipe_as_dict(recipe)


def test_a_recipe_cannot_be_changed_once_read(write):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_recipe(PretrainRecipe, write(LEAST)).train.steps = 3


def test_differences_name_the_key_and_both_values(write):
    old = recipe_as_dict(load_recipe(PretrainRecipe, write(LEAST)))
    new = recipe_as_dict(load_recipe(PretrainRecipe, write(LEAST), ["train.steps=5", "out=b"]))
    assert recipe_differences(old, old) == []
    assert recipe_differences(old, new) == ["out: runs/a -> b", "train.steps: 1000 -> 5"]
    del old["train"]["steps"]
    assert "train.steps: (absent) -> 5" in recipe_differences(old, new)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [1\n", "it is not plain YAML"),
        ("- 1\n- 2\n", "it is not a set of keys and values"),
        ("title: a\ntitle: b\n", 'line 2: "title" is given twice'),
        ("a: &x 1\nb: *x\n", "line 2: aliases are not used in recipes"),
        ("title: !!python/object/apply:os.system ['true']\n", "it is not plain YAML"),
        ("[" * 1100, "it is not plain YAML"),
        ("#" * (1 << 20) + "\n", "it is larger than a megabyte"),
    ],
)
def test_files_that_are_no_recipe(write, text, found):
    with pytest.raises(RecipeError) as caught:
        load_recipe(ToyRecipe, write(text))
    assert found in caught.value.found and "see recipes/" in caught.value.hint


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(ToyRecipe, tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"title: \xff\n")
    with pytest.raises(RecipeError, match="not plain YAML"):
        load_recipe(ToyRecipe, tmp_path / "latin.yaml")


def test_an_empty_recipe_is_all_deerrors(write):
    assert load_recipe(ToyRecipe, write("# nothing\n")) == ToyRecipe()


@pytest.mark.parametrize(("old", "new"), OLD_KEYS.items())
def test_an_old_key_works_in_a_file_and_says_its_new_name(write, old, new):
    section, key = new.split(".")
    value = {"micro_batch_size": 32, "duplicate_iou": 0.25}.get(key, False)
    path, notes = write(f"{LEAST}{section}:\n  {old.split('.')[1]}: {str(value).lower()}\n"), []
    recipe = load_recipe(PretrainRecipe, path, note=notes.append)
    assert getattr(getattr(recipe, section), key) == value
    assert notes == [f'{path}, line 7: "{old}" is now "{new}"']


@pytest.mark.parametrize(
    ("in_file", "override"), [("group_size", "micro_batch_size"), ("micro_batch_size", "group_size")]
)
def test_set_wins_over_the_file_under_either_name(write, in_file, override):
    path, notes = write(f"{LEAST}train:\n  {in_file}: 32\n"), []
    recipe = load_recipe(PretrainRecipe, path, [f"train.{override}=16"], notes.append)
    assert recipe.train.micro_batch_size == 16
    assert len(notes) == 1 and notes[0].endswith('"train.group_size" is now "train.micro_batch_size"')


def test_an_old_key_beside_its_new_name_is_an_error(write):
    path = write(f"{LEAST}train:\n  micro_batch_size: 32\n  group_size: 16\n")
    assert errors_of(path, PretrainRecipe) == [
        'line 8: "train.group_size" is the old name of "train.micro_batch_size", which is set too'
    ]


def test_a_wrong_value_of_an_old_key_is_shown_with_its_line(write):
    assert errors_of(write(f"{LEAST}train:\n  group_size: none\n"), PretrainRecipe) == [
        "line 7: \"train.micro_batch_size\" should be a whole number, found 'none'"
    ]


def keys_of(kind: type) -> list[str]:
    """Names of all fields that are no sections, within sections too."""
    hints = typing.get_type_hints(kind)
    keys = []
    for one in dataclasses.fields(kind):
        keys += keys_of(hints[one.name]) if dataclasses.is_dataclass(hints[one.name]) else [one.name]
    return keys


@pytest.mark.parametrize("kind", [PretrainRecipe, FinetuneRecipe])
def test_no_key_is_taken_and_then_ignored(kind):
    """Each is read somewhere in the library: `recipe.train.steps`, or by its name."""
    files = [path for path in Path(cmal.__file__).parent.rglob("*.py") if path.name != "schema.py"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [key for key in keys_of(kind) if not re.search(rf"\.{key}\b|\"{key}\"", source)] == []
