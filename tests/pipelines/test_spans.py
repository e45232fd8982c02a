"""The index of a corpus's words, the spans found with it, their page, and their place in a trace."""

import json
import re

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from influence.mixture.verbatim import Texts, spans_of, tokens_of
from pipelines.cli import app, guarded
from pipelines.cluster import Workers
from pipelines.config import read_run
from pipelines.corpus import build_corpus
from pipelines.errors import RunError
from pipelines.queries import Query
from pipelines.report.spans_page import render_spans
from pipelines.report.spans_terminal import print_spans
from pipelines.run_folder import damaged_files
from pipelines.suffix_array import SuffixArrays, build_suffix_arrays, suffix_stage
from pipelines.traces import TraceOptions
from pipelines.verbatim import (
    SpansOptions,
    VerbatimIndex,
    asked_for,
    beside_trace,
    cheap_index,
    find_spans,
    open_index,
    run_spans,
    shared_texts,
    spans_table,
)
from tests.pipelines import small

EVIL = "<script>alert(1)</script> \u202e reversed & so on"


def corpus_of(folder, texts):
    rows = [
        {"id": f"d{i}", "text": t, "source": "s", "language": "en"} for i, t in enumerate(texts)
    ]
    return build_corpus(read_run(small.write_run(folder / "data", rows)), folder / "run")


def index_of(folder, texts, part_bytes=1 << 20, workers=None):
    corpus = corpus_of(folder, texts)
    stage = build_suffix_arrays(corpus, folder / "run", workers or small.here(), part_bytes)
    return VerbatimIndex(SuffixArrays(stage), corpus)


# -- the index --------------------------------------------------------------------------------------


def texts_of(draw_words):
    return st.lists(draw_words.map(" ".join), min_size=2, max_size=6)


@pytest.mark.parametrize("part_bytes", [1, 12, 1 << 20], ids=["each", "some", "one"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=texts_of(st.lists(st.sampled_from(["a", "b", "ab", "."]), min_size=1, max_size=10)),
    outputs=st.lists(
        st.lists(st.sampled_from(["a", "b", "ab", ".", "new"]), min_size=1, max_size=12),
        min_size=4,
        max_size=8,
    ),
)
def test_spans_and_counts_are_those_of_a_search_through_the_texts(
    tmp_path_factory, part_bytes, texts, outputs
):
    arrays = index_of(tmp_path_factory.mktemp("any"), texts, part_bytes).arrays
    documents = [tokens_of(text) for text in texts]
    slow = Texts(documents)
    assert arrays.size == slow.size
    for tokens in outputs:
        found = spans_of(tokens, arrays)
        assert found == spans_of(tokens, slow)
        for span in found:
            own = tokens[span.first : span.last]
            count, places = arrays.find(own, 99)
            holding = [row for row, one in enumerate(documents) if Texts([one]).count(own)]
            assert (count, [place.row for place in places]) == (len(holding), holding)
            for place in places:
                first = documents[place.row][place.token :]
                assert first[: len(own)] == own
                assert Texts([documents[place.row][: place.token + len(own) - 1]]).count(own) == 0


def test_parts_are_cut_by_size_and_a_larger_document_is_one(tmp_path):
    texts = ["a b c d e f", "x " * 50, "c d", "e f"]
    corpus = corpus_of(tmp_path, texts)
    stage = build_suffix_arrays(corpus, tmp_path / "run", small.here(), part_bytes=20)
    assert stage.info()["ends"] == [1, 2, 4]
    assert stage.info()["tokens"] == 6 + 50 + 2 + 2
    assert build_suffix_arrays(corpus, tmp_path / "run", small.here(), part_bytes=20) == stage


def test_an_index_goes_on_after_a_kill_and_its_bytes_are_the_same_with_workers(tmp_path):
    texts = [f"text {i} of some {i % 3} and more" for i in range(30)]
    whole = index_of(tmp_path / "a", texts, 100)
    corpus = corpus_of(tmp_path / "b", texts)
    stage = suffix_stage(corpus, tmp_path / "b" / "run", 100)
    build_suffix_arrays(corpus, tmp_path / "b" / "run", small.here(), 100)
    (stage.path / "sealed.json").unlink()
    gone = sorted(stage.path.glob("documents-*.arrow"))[2]
    gone.unlink()
    kept = {p: p.stat().st_mtime_ns for p in stage.path.glob("documents-*.arrow")}
    with Workers(2, None, small.quiet()) as workers:
        build_suffix_arrays(corpus, tmp_path / "b" / "run", workers, 100)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    first = suffix_stage(whole.corpus, tmp_path / "a" / "run", 100)
    for path in first.path.glob("*.arrow"):
        assert (stage.path / path.name).read_bytes() == path.read_bytes()
    next(stage.path.glob("suffixes-*")).write_bytes(b"damaged")
    assert len(damaged_files(stage)) == 1


def test_without_the_library_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydivsufsort", None)
    with pytest.raises(RunError, match=r"pip install 'whydidit\[mixture\]'"):
        index_of(tmp_path, ["a b", "c d"])


def test_a_cheap_index_is_built_for_a_trace_and_missing_without_the_library(copied, monkeypatch):
    from pipelines.runs import open_run

    run = open_run(copied)
    monkeypatch.setitem(__import__("sys").modules, "pydivsufsort", None)
    assert cheap_index(run, small.here()) is None
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.verbatim.CHEAP", 10)
    assert cheap_index(run, small.here()) is None  # too large to be built unasked
    open_index(run, small.here())
    found = cheap_index(run, small.here())  # but it is there now
    assert found is not None
    assert found.arrays.documents == 40


# -- spans of an output ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    texts = [
        "The capital of France is\nParis, as any atlas will tell you.",
        f"{EVIL}. A line: {'x' * 100_000} the end of the long line.",
        "法国的首都是巴黎。",
        "Der Weg ist das Ziel, sagt man. Der Weg ist das Ziel, sagt man.",
        "of the and the " * 20,
    ]
    return index_of(tmp_path_factory.mktemp("spans"), texts)


def spans(index, prompt, completion, **options):
    query = Query(prompt=prompt, completion=completion)
    return find_spans(index, query, SpansOptions(**options))


def test_a_span_names_its_documents_with_what_is_around_it(index):
    found = spans(index, "So: the capital of France is", " Paris, they say")
    [one] = found["spans"]
    assert (one["text"], one["tokens"]) == ("capital of France is Paris,", 6)
    assert (one["occurrences"], one["documents"]) == (1, 1)
    [place] = one["places"]
    assert (place["id"], place["left"]) == ("d0", "The ")
    assert place["text"] == "capital of France is\nParis,"
    assert place["right"].startswith(" as any atlas")
    assert not place["cut_left"]
    assert found["covered"] == 2 / 4  # of Paris , they say
    assert found["longest"] == 2
    text = found["query"]["text"]
    assert text[one["start"] : one["end"]] == one["text"]


def test_occurrences_and_documents_are_told_apart(index):
    [one] = spans(index, None, "Der Weg ist das Ziel")["spans"]
    assert (one["occurrences"], one["documents"], len(one["places"])) == (2, 1, 1)


def test_spans_of_the_prompt_alone_do_not_count(index):
    found = spans(index, "Der Weg ist das Ziel", " nowhere")
    assert (found["maximal"], found["shown"], found["covered"]) == (0, 0, 0.0)


def test_scripts_without_spaces_are_matched_by_characters(index):
    [one] = spans(index, None, "首都是巴黎吗")["spans"]
    assert one["text"] == "首都是巴黎"


def test_trivial_spans_are_counted_and_shown_only_when_asked_for(index):
    found = spans(index, None, "of the cat")
    assert (found["maximal"], found["shown"]) == (1, 0)
    asked = spans(index, None, "of the cat", min_tokens=2)
    assert [one["text"] for one in asked["spans"]] == ["of the"]
    assert not asked["spans"][0]["telling"]
    assert spans(index, None, "of the cat", min_tokens=3)["shown"] == 0


def test_a_text_longer_than_any_document_and_one_that_matches_nothing(index):
    long = "Der Weg ist das Ziel, sagt man. " * 300
    found = spans(index, None, long)
    assert found["spans"][0]["tokens"] == 18
    assert found["covered"] == 1.0
    nothing = spans(index, None, "zqx wvu")
    assert (nothing["maximal"], nothing["spans"], nothing["covered"]) == (0, [], 0.0)


@pytest.mark.parametrize("completion", ["", " \n\t"])
def test_an_output_without_a_word_is_refused(index, completion):
    with pytest.raises(RunError, match="holds no word and no mark"):
        spans(index, "The capital", completion)


def test_half_a_character_is_refused(index):
    with pytest.raises(RunError, match="UTF-8"):
        spans(index, None, "Paris \udc80")


@pytest.mark.parametrize(
    "values",
    [
        (None, None, None, None),
        ("a", None, None, "b"),
        (None, None, "prompt", None),
        ("text", None, "prompt", None),
    ],
)
def test_a_command_line_names_one_output(values):
    with pytest.raises(RunError, match="give one of --texts"):
        asked_for(*values)


# -- pages ------------------------------------------------------------------------------------------


def test_a_page_shows_markup_and_hidden_characters_and_folds_long_lines(index):
    text = f"{EVIL}. A line: {'x' * 100_000} the end of the long line."
    found = spans(index, None, text)
    assert found["covered"] == 1.0
    html = render_spans([found, spans(index, None, "zqx")])
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\u202e" not in html
    assert "[U+202E]" in html
    assert "x" * 1000 not in html
    assert re.search(r"99,\d{3} characters", html)
    assert len(html) < 100_000


def test_the_terminal_marks_spans_without_colour_and_names_control_characters(index):
    console = Console(width=300, no_color=True, record=True, file=small.quiet().file)
    print_spans(spans(index, "Say: ", f"the capital of France is Paris \x1b[31m {EVIL}"), console)
    said = console.export_text()
    assert "capital of France is Paris" in said
    assert re.search(r"\{\d:capital of France is Paris\}", said)
    assert "[ESC]" in said
    assert "\x1b" not in said


# -- the command, and a trace ---------------------------------------------------------------------


def test_the_command_writes_json_parquet_and_a_page(copied, capsys):
    (copied.parent / "t.jsonl").write_text(
        json.dumps({"id": "one", "text": "from Paris to Rome is 5 miles"})
        + "\n"
        + json.dumps({"id": "two", "prompt": "The road 7 from", "completion": " Rome to Paris"})
    )
    words = ["spans", str(copied), "--texts", str(copied.parent / "t.jsonl")]
    code = guarded(lambda **kw: app([*words, "--workers", "0", "--json"], **kw))
    assert code == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["query"]["id"] for r in results] == ["one", "two"]
    assert results[1]["spans"][0]["text"] == "The road 7 from Rome to Paris"
    table = pq.read_table(f"{results[0]['folder']}/spans.parquet")
    assert table.equals(spans_table(results))
    assert set(table.column("query").to_pylist()) == {"one", "two"}
    assert json.loads(open(f"{results[0]['folder']}/spans.json").read())[1]["shown"] == 1
    assert "<!doctype html>" in open(results[0]["page"]).read()


def test_a_run_without_documents_is_refused(tmp_path, capsys):
    code = guarded(lambda **kw: app(["spans", str(tmp_path), "--text", "a"], **kw))
    assert code == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_trace_marks_what_stands_in_the_corpus_and_in_each_document(copied):
    from pipelines.runs import open_run

    run = open_run(copied)
    index = open_index(run, small.here())
    query = Query(id="q", prompt="The road 7 from Rome to", completion=" Paris")
    [trace] = small.traces(run, [query], verbatim=index)
    assert trace["verbatim"]["spans"][0]["text"] == "The road 7 from Rome to Paris"
    rows = small.rows_by_id(trace)
    assert rows["d07"]["shared"][0] == "The road 7 from Rome to Paris"
    html = open(trace["page"]).read()
    assert "Word for word in the corpus" in html
    assert "Word for word in the output too" in html
    [bare] = small.traces(run, [query])
    assert bare["verbatim"] is None
    assert "Word for word in the corpus" not in open(bare["page"]).read()


def test_a_trace_of_white_space_has_no_marks(index):
    trace = {
        "query": {"id": "q", "prompt": "a", "completion": " "},
        "proponents": [],
        "opponents": [],
    }
    assert beside_trace(index, trace)["verbatim"] is None


def test_shared_texts_are_long_distinct_and_few():
    tokens = tokens_of("one two three four five six")
    text = "one two. two three four! five, six. one two"
    assert shared_texts(text, tokens) == ["two three four", "one two"]


def test_results_are_the_same_when_they_are_asked_for_again(copied):
    from pipelines.runs import open_run

    run = open_run(copied)
    queries = [Query(completion="from Rome to Paris is")] * 1
    one = run_spans(run, queries, SpansOptions(), small.here())
    two = run_spans(run, queries, SpansOptions(), small.here())
    drop = {"cpu_seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in one] == [
        {k: v for k, v in r.items() if k not in drop} for r in two
    ]
    assert TraceOptions().verbatim is None
