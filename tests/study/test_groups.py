"""Runs by experiment, and short names that tell experiments apart."""

from dsrun.inspection import open_runs
from dsrun.study.groups import Group, differing_keys, group_runs, short_names, shown, usual_baseline
from tests.study.run_folders import write_run_folder

FLOAT16 = {"arithmetic.storage.format": "float16"}


def groups_of(tmp_path, *configs, **more) -> list[Group]:
    for number, config in enumerate(configs):
        write_run_folder(tmp_path / f"run{number}", config=config, **more)
    return group_runs(open_runs([tmp_path]))


def test_runs_that_differ_in_the_seed_alone_are_one_group_by_seed(tmp_path):
    groups = groups_of(tmp_path, {"seed": 3}, FLOAT16, {"seed": 1}, FLOAT16 | {"seed": 10}, FLOAT16 | {"seed": 9})
    assert [(g.label, g.seeds) for g in groups] == [("float32", (1, 3)), ("float16", (1, 9, 10))]
    assert differing_keys(groups) == ["arithmetic.storage.format"]


def test_settings_that_change_no_result_and_paths_of_equal_data_make_no_group(tmp_path):
    settings = {"training.hash_every_steps": 5, "batches.prefetch": 0, "data.train": "/elsewhere/train.jsonl"}
    (group,) = groups_of(tmp_path, {}, settings | {"seed": 2})
    assert group.seeds == (1, 2)


def test_other_data_of_the_same_name_are_another_experiment(tmp_path):
    write_run_folder(tmp_path / "a")
    write_run_folder(tmp_path / "b", facts={"data.train": "d" * 64})
    groups = group_runs(open_runs([tmp_path]))
    assert differing_keys(groups) == ["data.train"]
    assert [g.label for g in groups] == ["float32, train corpus/train aaaaaa", "float32, train corpus/train dddddd"]


def test_runs_that_began_with_the_same_weights_are_one_experiment_wherever_those_lay(tmp_path):
    for seed, path, digest in ((1, "/a/old", "d"), (2, "/b/copy", "d"), (3, "/a/old", "e")):
        facts = {"init_from.digest": 64 * digest}
        write_run_folder(tmp_path / f"{seed}", config={"seed": seed, "init_from": path}, facts=facts)
    write_run_folder(tmp_path / "4", config={"seed": 4, "init_from": None})
    write_run_folder(tmp_path / "5", config={"seed": 5})  # of before there was the setting: random weights too
    groups = group_runs(open_runs([tmp_path]))
    assert differing_keys(groups) == ["init_from"]
    assert [(g.label, g.seeds) for g in groups] == [
        ("float32, init_from old dddddd", (1, 2)),
        ("float32, init_from old eeeeee", (3,)),
        ("float32, init_from -", (4, 5)),
    ]


def test_a_run_repeated_with_its_seed_begins_a_group_named_by_its_folder(tmp_path):
    groups = groups_of(tmp_path, {}, {"seed": 2}, {})
    assert [(g.label, g.seeds) for g in groups] == [("float32, run run0", (1, 2)), ("float32, run run2", (1,))]
    assert all(group.are_mixed for group in groups)
    assert not any(group.are_mixed for group in groups_of(tmp_path / "alone", {}, {})), "each is one run"


def test_runs_from_before_and_after_a_change_of_the_code_are_not_mixed(tmp_path):
    """A seed that only one of the two has is of the group of its commit, whatever the order."""
    for name, commit, seeds in (("a-new", "2222222", (1, 2, 3)), ("b-old", "1111111", (1, 2))):
        for seed in seeds:
            write_run_folder(tmp_path / f"{name}-{seed}", config={"seed": seed}, facts={"git.commit": commit})
    runs = open_runs([tmp_path])
    for order in (runs, runs[::-1], runs[2:] + runs[:2]):
        groups = {group.label: group for group in group_runs(order)}
        assert {label: group.seeds for label, group in groups.items()} == {
            "float32, commit 2222222": (1, 2, 3),
            "float32, commit 1111111": (1, 2),
        }
        for label, group in groups.items():
            assert {run.commit for run in group.runs} == {label[-7:]}
            assert not group.are_mixed


def test_seeds_of_two_commits_without_a_repetition_are_one_group(tmp_path):
    for seed, commit in ((1, "1111111"), (2, "2222222")):
        write_run_folder(tmp_path / f"{seed}", config={"seed": seed}, facts={"git.commit": commit})
    (group,) = group_runs(open_runs([tmp_path]))
    assert (group.label, group.seeds) == ("float32", (1, 2))


def test_runs_of_one_commit_are_told_apart_by_folder_or_device(tmp_path):
    for place in "ab":
        for seed in (1, 2):
            write_run_folder(tmp_path / "places" / place / f"{seed}", config={"seed": seed})
            device = {"jax.device_kinds": [{"a": "NVIDIA H100", "b": "NVIDIA H200"}[place]]}
            write_run_folder(tmp_path / "devices" / f"{place}{seed}", config={"seed": seed}, facts=device)
    labels = [(g.label, g.seeds) for g in group_runs(open_runs([tmp_path / "places" / "a", tmp_path / "places" / "b"]))]
    assert labels == [("float32, folder a", (1, 2)), ("float32, folder b", (1, 2))]
    labels = [(g.label, g.seeds) for g in group_runs(open_runs([tmp_path / "devices"]))]
    assert labels == [("float32, device NVIDIA H100", (1, 2)), ("float32, device NVIDIA H200", (1, 2))]


def test_folders_of_one_name_that_nothing_tells_apart_are_numbered(tmp_path):
    for place in ("1/a", "2/a"):
        write_run_folder(tmp_path / place / "run")
    labels = [g.label for g in group_runs(open_runs([tmp_path / "1" / "a", tmp_path / "2" / "a"]))]
    assert labels == ["float32, folder a, run run (1)", "float32, folder a, run run (2)"]


def test_labels_name_few_other_settings_and_of_many_those_that_tell_apart(tmp_path):
    few = groups_of(tmp_path / "few", {}, {"model.hidden": 32}, FLOAT16)
    assert [g.label for g in few] == ["float32, hidden 16", "float32, hidden 32", "float16, hidden 16"]
    many = {f"model.m{n}": 1 for n in range(4)}
    labels = [g.label for g in groups_of(tmp_path / "many", {}, many, FLOAT16 | many | {"model.m0": 2})]
    assert labels == ["float32, m0 -", "float32, m0 1", "float16"]


def test_arithmetic_that_the_name_leaves_out_is_added_where_it_tells_apart(tmp_path):
    away = {"arithmetic.storage.rounding": "ties_to_away"}
    labels = [g.label for g in groups_of(tmp_path, {}, FLOAT16, FLOAT16 | away)]
    assert labels == ["float32", "float16, storage.rounding ties_to_even", "float16, storage.rounding ties_to_away"]


def test_a_short_name_is_the_end_of_one_key_only():
    keys = ["arithmetic.storage.format", "arithmetic.rules", "model.hidden", "features.kind", "schedule.kind"]
    assert list(short_names(keys).values()) == ["storage.format", "rules", "hidden", "features.kind", "schedule.kind"]


def test_shown_values_are_short(tmp_path):
    (group,) = groups_of(tmp_path, {"augment": {"speeds": [0.9, 1.0]}})
    assert shown(group, "augment.speeds") == "[0.9, 1.0]"
    assert shown(group, "arithmetic.storage.format") == "float32"
    assert shown(group, "data.dev") == "corpus/dev bbbbbb"
    assert shown(group, "no.such") == "-"


def test_the_usual_baseline_is_the_first_float32_that_was_scored_and_says_so_where_it_is_a_choice(tmp_path):
    write_run_folder(tmp_path / "a", config={"training.epochs": 2}, steps=0, dev_cer=[0.5], state="running")
    write_run_folder(tmp_path / "b", config={"arithmetic.storage.format": "float16"})
    write_run_folder(tmp_path / "c", config={"training.epochs": 3})
    groups = group_runs(open_runs([tmp_path]))
    chosen, why = usual_baseline(groups)
    assert [run.name for run in chosen.runs] == ["c"]
    assert (
        why
        == f"baseline: {chosen.label}, the first of 2 float32 settings that was scored and is done; --baseline takes another"
    )
    assert usual_baseline(groups[1:]) == (groups[2], None)
    chosen, why = usual_baseline(groups[:2])
    assert [run.name for run in chosen.runs] == ["b"]
    assert "no plain float32 was scored" in why


def test_how_often_dev_is_evaluated_is_in_no_label_that_something_else_tells_apart(tmp_path):
    for name, epochs, every in (("a", 15, 5), ("b", 2, 1)):
        own = {"training.epochs": epochs, "training.evaluate_every_epochs": every}
        write_run_folder(tmp_path / name, config=own)
    assert [group.label for group in group_runs(open_runs([tmp_path]))] == ["float32, epochs 15", "float32, epochs 2"]
    write_run_folder(tmp_path / "c", config={"training.epochs": 2, "training.evaluate_every_epochs": 2})
    labels = [group.label for group in group_runs(open_runs([tmp_path]))]
    assert labels[0] == "float32, epochs 15"
    assert labels[2] == "float32, epochs 2, evaluate_every_epochs 2"
