"""`influence hallucination`: fitted, scored, kept, told; nothing computed twice; mistakes are told."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from influence.hallucination.choice import SIGNALS
from pipelines import cli, detector_fit, evidence, evidence_steps, hallucination_result, states
from pipelines.cluster import Workers
from pipelines.detector_files import load_detector
from pipelines.detector_fit import FitOptions, fit
from pipelines.errors import RunError
from pipelines.hallucination import ScoreOptions, score
from pipelines.input_models import find_model
from pipelines.labelled_answers import as_answer, read_answers, read_labelled
from tests.toys import save_toy, toy_llama, toy_tokenizer

PLACES = ("Oslo", "Lima", "Rome", "Paris")
NAMES = "answer-log-prob,names-gain,probe,emergence,lookback,prompt-share,length"
WEIGHED = tuple(NAMES.split(",")[:-1])


def lines(count=96):
    """Answers about made-up roads; right where the road's number is even."""
    random = np.random.default_rng(0)
    rows = []
    for n in range(count):
        place = PLACES[random.integers(4)]
        rows.append(
            {
                "id": f"q{n}",
                "prompt": f"The road {n % 8} from {PLACES[n % 3]} to",
                "completion": f" {place} is {n % 5} miles long",
                "label": ("right", "wrong")[n % 2],
                "entity": f"e{n // 2}",
                "topic": f"t{n % 4 // 2}",
                "popularity": float(n % 7),
            }
        )
    rows.append(rows[0] | {"id": "evasive", "completion": " it is", "label": "evasive"})
    return rows


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_model(folder, seed):
    tokenizer = toy_tokenizer(bos=True)
    model = toy_llama(vocab=len(tokenizer), d=16, layers=2, dtype=torch.float32, seed=seed)
    return save_toy(folder, model, tokenizer)


def pool():
    return Workers(0, None, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("hallucination")
    save_model(root / "model", seed=0)
    written(root / "labelled.jsonl", lines())
    return root


@pytest.fixture(scope="module")
def model(place):
    return find_model(str(place / "model"), place / "runs", device="cpu")


@pytest.fixture(scope="module")
def fitted(place, model):
    answers = read_labelled(place / "labelled.jsonl")
    with pool() as workers:
        return fit(model, answers, FitOptions(name="roads", signals=NAMES), workers)


def scored(model, rows, **options):
    answers = [as_answer(row, "test") for row in rows]
    with pool() as workers:
        return list(score(model, answers, ScoreOptions(**options), workers))


def test_a_fit_tells_signals_probe_stacks_and_controls_in_one_table(fitted):
    kinds = {row["name"]: row["kind"] for row in fitted["table"]}
    assert kinds["answer-log-prob"] == "signal"
    assert kinds["probe"] == "probe"
    assert kinds["everything"] == "stack"
    assert kinds["length"] == kinds["shuffled labels"] == kinds["popularity"] == "control"
    for row in fitted["table"]:
        assert 0 <= row["low"] <= row["auroc"] <= row["high"] <= 1, row
        assert row["n"] + row["missing"] == 96
    assert fitted["data"] | {"topics": None, "hash": None} == {
        **{"hash": None, "answers": 97, "right": 48, "wrong": 48, "evasive": 1},
        **{"entities": 48, "topics": None},
    }
    assert {gain["over"] for gain in fitted["gains"]} == {
        "probability of the answer and probe",
        "all others",
    }
    assert sum(one["count"] for one in fitted["calibration"]["bins"]) == 96
    assert len(fitted["layers"]["layers"]) == 3
    json.dumps(fitted, allow_nan=False)


def test_what_a_detector_was_fitted_to_is_kept(place, model, fitted):
    saved = load_detector(None, place / "runs", model.spec.fingerprint)
    assert saved.about["data_hash"] == fitted["data"]["hash"]
    assert saved.detector.signals == WEIGHED  # a control is judged, not weighed
    assert saved.probe.layer == fitted["layers"]["chosen"]
    table = pq.read_table(saved.folder / "values.parquet")
    assert table.num_rows == 96
    assert set(NAMES.split(",")) <= set(table.column_names)
    assert not list(saved.folder.glob("*.pkl"))


def test_a_score_is_the_detectors_sum_of_contributions(model, fitted, place):
    (result,) = scored(model, [lines()[4]])
    saved = load_detector("roads", place / "runs", model.spec.fingerprint)
    total = saved.detector.average_log_odds + sum(s["contribution"] for s in result["signals"])
    assert result["hallucination_probability"] == pytest.approx(1 / (1 + np.exp(-total)))
    assert {s["signal"] for s in result["signals"]} == set(WEIGHED)
    answer = next(span for span in result["spans"] if span["is_answer"])
    assert answer["hallucination_probability"] == result["hallucination_probability"]
    assert result["completion"][answer["start"] : answer["end"]] == answer["text"]
    assert len(result["spans"]) > 1  # the place and the number
    assert result["low"] <= result["high"]
    details = result["details"][answer["lookup"]]
    assert len(details["layers"]["probe_log_odds"]) == 3
    assert len(details["lens"]["layers"]) == len(details["lens"]["entropy"])
    shares = sum(unit["share"] for unit in details["inputs"]["units"])
    assert shares == pytest.approx(details["inputs"]["prompt_share"], abs=1e-6)


def test_the_values_of_a_scored_answer_are_those_it_was_fitted_with(model, fitted, place):
    (result,) = scored(model, [lines()[6]])
    table = pq.read_table(place / "runs/hallucination/detectors/roads/values.parquet").to_pylist()
    row = next(row for row in table if row["id"] == "q6")
    for signal in result["signals"]:
        if signal["signal"] != "probe":  # fitted with a probe that did not see the answer
            assert signal["value"] == pytest.approx(row[signal["signal"]], rel=1e-3), signal


def test_the_model_answers_where_nothing_is_given_and_says_the_same_again(model, fitted):
    rows = [{"prompt": "The road 3 from Oslo to"}, {"prompt": "The road 4 from Rome to"}]
    first, again = scored(model, rows), scored(model, rows)
    for one, other in zip(first, again, strict=True):
        assert one["generated"]
        assert one["completion"] == other["completion"] != ""
        assert one["hallucination_probability"] == other["hallucination_probability"]


def test_an_answer_that_claims_nothing_is_evasive(model, fitted):
    (result,) = scored(model, [lines()[0] | {"completion": " it is"}])
    assert result["verdict"] == "evasive"
    assert result["hallucination_probability"] is None
    assert result["threshold"] == fitted["threshold"]


@pytest.mark.parametrize(
    ("verdict", "against", "support", "expected"),
    [
        ("supported", [], [], None),
        ("supported", ["A."], ["B."], "like those of right answers. B. But: A."),
        ("wrong", ["A."], [], "without checking it. A."),
        ("wrong", ["A.", "C."], ["B."], "without checking it. A. C. But: B."),
        ("unsupported", [], ["B."], "that can be shown. But: B."),
        ("unsupported", [], [], None),
    ],
)
def test_a_verdict_tells_what_speaks_for_and_against(verdict, against, support, expected):
    said = hallucination_result._verdict_words(
        {"verdict": verdict, "against": against, "support": support}
    )
    assert (said or "").endswith(expected or "")
    assert (said is None) == (expected is None)


def test_an_answer_unlike_all_labelled_ones_is_said_to_be(model, fitted):
    (result,) = scored(model, [lines()[0] | {"completion": " Paris" + " the road" * 4 + " 5"}])
    assert "lie beyond those of all labelled answers" in " ".join(result["notes"])
    (result,) = scored(model, [lines()[0]])
    assert result["notes"] == []


def test_an_answer_that_cannot_be_read_is_a_result_not_a_gap(model, fitted):
    rows = [lines()[0] | {"id": "long", "completion": " Lima" * 90}, lines()[2]]
    long, fine = scored(model, rows)
    assert long["status"] == "failed"
    assert "expected at most 64" in long["notes"][0]
    assert long["hallucination_probability"] is None
    assert fine["status"] == "scored"


def test_pages_and_an_index_are_written(model, fitted, place):
    nasty = "<script>alert(1)</script>"
    rows = [lines()[0] | {"id": nasty, "prompt": f"The road 3 {nasty} from Oslo to"}, lines()[3]]
    for result in scored(model, rows):
        page = open(result["page"]).read()
        assert nasty not in page
        assert "%" in page
    index = (place / "runs/hallucination/index.html").read_text()
    assert nasty not in index
    assert pq.read_table(f"{result['folder']}/spans.parquet").num_rows >= len(WEIGHED)


def test_nothing_is_computed_twice(place, model, fitted, monkeypatch):
    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(states, "read", refuse)
    monkeypatch.setattr(evidence, "collect", refuse)
    answers = read_labelled(place / "labelled.jsonl")
    with pool() as workers:
        again = fit(model, answers, FitOptions(name="again", signals=NAMES), workers)
    assert again["table"] == fitted["table"]
    (place / "runs/hallucination/detectors/again/detector.json").unlink()


def test_work_survives_a_stop_in_the_middle(place, tmp_path, monkeypatch):
    model = find_model(str(place / "model"), tmp_path, device="cpu")
    answers = read_labelled(place / "labelled.jsonl")
    done, original = [], evidence_steps.reliance

    def stopping(loaded, passage, span):
        if len(done) == 40:
            raise KeyboardInterrupt
        done.append(passage.text)
        return original(loaded, passage, span)

    monkeypatch.setattr(evidence_steps, "reliance", stopping)
    with pytest.raises(KeyboardInterrupt), pool() as workers:
        fit(model, answers, FitOptions(name="stopped", signals=NAMES), workers)
    monkeypatch.setattr(evidence_steps, "reliance", lambda *a: done.append(1) or original(*a))
    done.clear()
    with pool() as workers:
        fit(model, answers, FitOptions(name="stopped", signals=NAMES), workers)
    assert len(done) == 97 - 32  # two parts of 16 were written


def test_a_damaged_part_is_computed_again(place, model, fitted):
    part = next((place / "runs/hallucination/parts").glob("*/shares-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:200] + b"damaged!" + whole[208:])
    (result,) = scored(model, [lines()[4]])
    assert result["status"] == "scored"


def test_a_detector_reads_only_the_model_it_was_made_for(place, fitted, tmp_path):
    save_model(tmp_path / "other", seed=1)
    other = find_model(str(tmp_path / "other"), place / "runs", device="cpu")
    with pytest.raises(RunError, match="no detector for this model yet"):
        scored(other, [lines()[0]])
    with pytest.raises(RunError, match="made for model"):
        scored(other, [lines()[0]], detector="roads")


def test_a_damaged_or_unknown_detector_is_told(place, model, fitted):
    with pytest.raises(RunError, match=r"Detector no: not found.*Known here: .*roads"):
        scored(model, [lines()[0]], detector="no")
    probes = place / "runs/hallucination/detectors/roads/probes.safetensors"
    whole = probes.read_bytes()
    try:
        probes.write_bytes(whole[:-4] + b"oops")
        with pytest.raises(RunError, match="checksum differs"):
            scored(model, [lines()[0]])
    finally:
        probes.write_bytes(whole)


BAD = {
    "one class": ([r | {"label": "right"} for r in lines()], "97 right, 0 wrong"),
    "few": (lines(30), "at least 20 right and 20 wrong"),
    "class": ([lines()[0] | {"label": "maybe"}], "label 'maybe', one of right, wrong, evasive"),
    "empty": ([lines()[0] | {"completion": " "}], "An empty answer claims nothing"),
    "no label": ([*lines(), {"prompt": "a", "completion": "b"}], "has no label"),
    "twice": ([lines()[0], lines()[0]], "'q0' occurs twice"),
    "folds": (
        [r | {"fold": n % 5} for n, r in enumerate(lines())],
        "entity 'e0' is in folds 0 and 1",
    ),
    "some folds": ([lines()[0] | {"fold": 1}, *lines()[1:]], "1 of 97 answers have a fold"),
    "span": ([lines()[0] | {"span": [3, 900]}], r"span \[3, 900\]"),
    "cause": ([lines()[1] | {"cause": "mis-learned"}], "Did you mean 'mislearned'"),
    "cause of a right one": ([lines()[0] | {"cause": "fabricated"}], "only a wrong answer has one"),
    "prompt": ([{"promt": "a", "label": "right"}], "Did you mean 'prompt' by 'promt'"),
    "json": (["not an object"], "a str, a JSON object was expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_gets_one_clear_message(tmp_path, name):
    rows, message = BAD[name]
    with pytest.raises(RunError, match=message):
        read_labelled(written(tmp_path / "bad.jsonl", rows))


def test_bad_options_get_one_clear_message(place, model, fitted, capsys):
    labelled = str(place / "labelled.jsonl")
    base = ["hallucination", "fit", str(place / "model"), "--data", labelled, "--workers", "0"]
    base += ["--runs", str(place / "runs")]
    cases = {
        ("--signals", "answer-logprob"): "Nearest: answer-log-prob",
        ("--signals", "count-ratio"): "needs a run",
        ("--place", "middle"): "place 'middle'",
        ("--kind", "logistik"): "Nearest: logistic",
    }
    for options, message in cases.items():
        monkey = [*base, *options]
        code = cli.guarded(
            lambda standalone_mode, words=monkey: cli.app(words, standalone_mode=False)
        )
        assert code == 2, options
        assert message in " ".join(capsys.readouterr().err.split()), options


def test_the_commands_print_and_write(place, model, fitted, capsys):
    answers = written(
        place / "answers.jsonl", [{k: v for k, v in r.items() if k != "label"} for r in lines()[:2]]
    )
    common = ["--runs", str(place / "runs"), "--workers", "0"]
    for words in (
        ["hallucination", "score", str(place / "model"), "--texts", str(answers), "--json"],
        ["hallucination", "report", str(place / "model"), "--prompt", "The road 3 from Oslo to"],
    ):
        everything = [*words, *common]
        assert (
            cli.guarded(lambda standalone_mode, w=everything: cli.app(w, standalone_mode=False))
            == 0
        )
    out = capsys.readouterr().out
    first = json.loads(out.splitlines()[0])
    assert first["verdict"] in ("supported", "wrong", "unsupported")
    assert "report.html" in out


def test_answers_without_labels_are_read_as_they_are(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "a"}]}])
    (one,) = read_answers(path)
    assert one.completion is None
    assert one.messages == [{"role": "user", "content": "a"}]


def test_the_usual_signals_need_no_answer_lens_or_attention():
    usual = {signal.name for signal in detector_fit._signals(None, has_run=True)}
    assert {"probe", "answer-log-prob", "names-gain", "prompt-share", "count-ratio"} <= usual
    families = {SIGNALS[name].family for name in usual}
    assert families == {"probability", "states", "inputs", "training", "control"}
    assert {s.name for s in detector_fit._signals("all", has_run=True)} == set(SIGNALS)
    without = {signal.name for signal in detector_fit._signals(None, has_run=False)}
    assert without == {name for name in usual if SIGNALS[name].family != "training"}
