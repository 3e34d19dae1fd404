"""The runner of studies: what is written where, and what happens to a part that fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, ConfigDict

from ml_platform.evaluation.plot_style import new_figure
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError, Part, Study, StudyRun


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    n: int = 5


def measure(run: StudyRun[Config]) -> None:
    results = run.results(dataset_name="synthetic", dataset_sha256="0" * 64, synthetic=True)
    results.add("stage/variant/n", run.config.n + run.seed, protocol="counted")
    figure, [axes] = new_figure("A line")
    axes.plot([0, 1], [0, 1])
    run.picture("line", figure)
    assert run.scratch.is_dir()


def lacking(run: StudyRun[Config]) -> None:
    raise MissingInputError("no such data; fetch it")


def silent(run: StudyRun[Config]) -> None:
    pass


def interrupted(run: StudyRun[Config]) -> None:
    measure(run)
    raise KeyboardInterrupt


@pytest.fixture
def study(tmp_path: Path) -> Study[Config]:
    parts = [Part("line", "How many?", measure), Part("absent", "What of no data?", lacking)]
    return Study("toy", tmp_path / "toy", {"default": Config(), "smoke": Config(n=2)}, parts)


def test_a_full_run_writes_beside_the_algorithm(study: Study[Config]) -> None:
    assert study.main(["--only", "line"]) == 0
    results = Results.read(study.folder / "results" / "line.json")
    assert results["stage/variant/n"].value == 5
    assert (results.run.system, results.run.seed, results.run.config) == ("toy", 0, {"n": 5})
    picture = study.folder / "results" / "plots" / "line_line.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_data_label_their_results(tmp_path: Path) -> None:
    data = SimpleNamespace(name="toy ratings", sha256="1" * 64, synthetic=True)
    run = StudyRun("toy", "line", tmp_path, Config(), 0, Silent(), tmp_path)
    started = run.results_of(data).run
    assert started.dataset.model_dump() == {
        "name": "toy ratings", "sha256": "1" * 64, "synthetic": True,
    }  # fmt: skip
    assert run.written is not None


def test_another_seed_leaves_results_alone(study: Study[Config], capsys) -> None:
    assert study.main(["--only", "line", "--seed", "3"]) == 0
    assert not (study.folder / "results").exists()
    results = Results.read(study.folder / "artifacts" / "default-seed3" / "line.json")
    assert (results["stage/variant/n"].value, results.run.seed) == (8, 3)
    assert "not quoted" in capsys.readouterr().out


def test_a_small_run_leaves_results_alone(study: Study[Config], capsys) -> None:
    assert study.main(["--config", "smoke", "--only", "line"]) == 0
    assert not (study.folder / "results").exists()
    assert Results.read(study.folder / "artifacts/smoke/line.json")["stage/variant/n"].value == 2
    assert "not quoted" in capsys.readouterr().out


def test_a_part_without_its_data_is_named_and_the_others_run(
    study: Study[Config], tmp_path: Path, capsys
) -> None:
    assert study.main(["--out", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().out
    assert "no such data; fetch it" in said
    assert "not measured: absent" in said
    assert sorted(path.name for path in (tmp_path / "o").glob("*.json")) == ["line.json"]


def test_a_part_that_measures_nothing_is_an_error(study: Study[Config], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="silent of toy measured nothing"):
        study.run(Part("silent", "?", silent), "smoke", tmp_path, progress=Silent())


def test_an_interrupted_part_leaves_no_file(study: Study[Config], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        study.run(Part("cut", "?", interrupted), "smoke", tmp_path / "o", progress=Silent())
    assert not (tmp_path / "o").exists()


def test_results_are_opened_once(study: Study[Config], tmp_path: Path) -> None:
    def twice(run: StudyRun[Config]) -> None:
        measure(run)
        measure(run)

    with pytest.raises(ValueError, match="opened its results before"):
        study.run(Part("twice", "?", twice), "smoke", tmp_path, progress=Silent())


@pytest.mark.parametrize("wrong", [["--config", "huge"], ["--only", "nothing"]])
def test_a_wrong_name_ends_with_the_names_there_are(study: Study[Config], wrong, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        study.main(wrong)
    assert ended.value.code == 2
    assert "choose from" in capsys.readouterr().err
