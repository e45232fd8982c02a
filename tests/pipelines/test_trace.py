"""Traces against a double loop over documents and layers, and what their parts must add up to."""

import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from influence.documents.gradients import per_document_gradients
from influence.documents.scores import SIGN, UNIT, precondition
from influence.text import collate, encode_query
from pipelines import scoring
from pipelines.corpus import shards
from pipelines.curvature import read_curvature
from pipelines.duplicates import find_duplicates, read_clusters, sealed_duplicates
from pipelines.errors import RunError
from pipelines.queries import Query, read_queries
from pipelines.report.terminal import print_trace
from pipelines.report.trace_page import render_trace
from pipelines.runs import open_run, open_traced
from pipelines.tokens import read_chunks
from pipelines.traces import TraceOptions, run_traces
from pipelines.worker import language_model, layers_of
from tests.pipelines import small
from tests.pipelines.small import QUERIES, build, here, rows_by_id, traces
from tests.toys import assert_matches

LONG = "d05"
A, B = " Lima", " Oslo"


@pytest.fixture(scope="module")
def traced(finished):
    return traces(finished)


@pytest.fixture(scope="module")
def full(written, tmp_path_factory):
    """The same run with every number of a gradient kept, in float32."""
    return build(written, tmp_path_factory.mktemp("full"), store="full", store_dtype="float32")


def reference(run, query):
    """Scores ``{document: {layer: score}}`` by the formula, one document and chunk at a time."""
    loaded, layers = language_model(run.model), layers_of(run.model)
    curvature = read_curvature(run.curvature)

    def gradient(chunk):
        return per_document_gradients(loaded.model, layers, collate([chunk], loaded.pad_id))[0]

    asked = gradient(encode_query(loaded.tokenizer, query.prompt, query.completion, 48))
    solved = {n: precondition(curvature[n], run.config.damping, g) for n, g in asked.items()}
    scores = {}
    for path in shards(run.tokens):
        for chunk in read_chunks(path):
            own = scores.setdefault(f"d{chunk.document:02d}", dict.fromkeys(asked, 0.0))
            for name, rows in gradient(chunk).items():
                own[name] += float((solved[name].double() * rows.double()).sum()) / 40
    return scores


@pytest.mark.parametrize("number", [0, 1])
def test_scores_and_their_layers_equal_the_double_loop(finished, traced, number):
    expected = reference(finished, QUERIES[number])
    rows = rows_by_id(traced[number])
    assert set(rows) == set(expected)
    names = sorted(rows)
    total = np.array([sum(expected[n].values()) for n in names])
    found = np.array([rows[n]["score"] for n in names])
    np.testing.assert_allclose(found, total, rtol=0, atol=1e-5 * np.abs(total).max())
    for name in names:
        by_layer = {x["layer"]: x["score"] for x in rows[name]["layers"]}
        assert_matches(
            torch.tensor([by_layer[n] for n in expected[name]]),
            torch.tensor([*expected[name].values()]),
        )


def test_layers_and_tokens_sum_to_the_score(traced):
    for trace in traced:
        rows = rows_by_id(trace)
        largest = max(abs(row["score"]) for row in rows.values())
        for name, row in rows.items():
            for part in ("layers", "tokens"):
                total = sum(x["score"] for x in row[part])
                assert total == pytest.approx(row["score"], abs=1e-5 * largest), (name, part)


def test_a_document_of_several_chunks_is_one_row_whose_tokens_are_its_text(finished, traced):
    chunks = [c for p in shards(finished.tokens) for c in read_chunks(p) if c.document == 5]
    assert len(chunks) > 2
    row = rows_by_id(traced[0])[LONG]
    text = "".join(token["text"] for token in row["tokens"])
    assert text == "<s>" + row["text"]
    assert row["n_tokens"] == len(row["tokens"]) == 1 + sum(len(c.tokens) - 1 for c in chunks)


def test_token_texts_of_every_row_join_to_its_document(traced):
    for row in rows_by_id(traced[1]).values():
        assert "".join(token["text"] for token in row["tokens"]) == "<s>" + row["text"]


def test_few_queries_at_once_give_the_scores_of_many(finished, tmp_path, monkeypatch):
    asked = [*QUERIES, Query(id="road", completion="The road 7 from Rome to Paris.")]
    together = traces(finished, asked, exact=True)
    apart = open_run(shutil.copytree(finished.root, tmp_path / "apart"))
    for folder in ("traces", "exact"):
        shutil.rmtree(apart.root / folder, ignore_errors=True)
    monkeypatch.setattr(scoring, "QUERY_GIGABYTES", 1e-9)  # blocks of one query
    opened = open_traced(apart, True)
    assert [len(b) for b in scoring.blocks(opened, asked)] == [1, 1, 1]
    for one, other in zip(together, traces(apart, asked, exact=True), strict=True):
        a, b = rows_by_id(one), rows_by_id(other)
        largest = max(abs(row["score"]) for row in a.values())
        assert a.keys() == b.keys()
        for name in a:
            assert b[name]["score"] == pytest.approx(a[name]["score"], abs=1e-6 * largest)


def test_only_the_shards_of_the_candidates_are_read_and_each_candidate_once(finished, monkeypatch):
    run = open_traced(finished)
    read, seen = [], []
    reads, scores_of = scoring.read_chunks, scoring.exact_scores

    def reading(path, documents=None):
        read.append(path.name)
        return reads(path, documents)

    def scoring_of(model, layers, batch, queries):
        seen.append(batch)
        return scores_of(model, layers, batch, queries)

    monkeypatch.setattr(scoring, "read_chunks", reading)
    monkeypatch.setattr(scoring, "exact_scores", scoring_of)
    wanted = [5, 33, 6, 34]  # the sixth has several chunks; shards of eight
    found = scoring.score_documents(run, scoring.solve(run, QUERIES), wanted)
    assert found.rows.tolist() == sorted(wanted)
    assert read == ["shard-00000.arrow", "shard-00004.arrow"]
    rows = [(int(d), int(c)) for b in seen for d, c in zip(b.document, b.chunk, strict=True)]
    assert len(rows) == len(set(rows)) > len(wanted)
    assert {d for d, _ in rows} == set(wanted)
    assert any({6, 34} <= set(b.document.tolist()) for b in seen), "shards share batches"
    widths = [int(b.attention_mask.sum(dim=1).max()) for b in seen]
    assert widths == sorted(widths)


def test_proponents_fall_and_opponents_rise(traced):
    for trace in traced:
        positive = [row["score"] for row in trace["proponents"]]
        negative = [row["score"] for row in trace["opponents"]]
        assert positive == sorted(positive, reverse=True)
        assert negative == sorted(negative)
        assert min(positive) > 0 > max(negative)
        assert [row["rank"] for row in trace["proponents"]] == [*range(1, len(positive) + 1)]


def test_a_contrast_is_the_difference_of_two_traces(finished):
    prompt = "The capital of Peru is"
    asked = [
        Query(id="a", prompt=prompt, completion=A),
        Query(id="b", prompt=prompt, completion=B),
        Query(id="why", prompt=prompt, completion=A, contrast=B),
    ]
    a, b, why = (rows_by_id(trace) for trace in traces(finished, asked, exact=True))
    difference = {n: a[n]["score"] - b[n]["score"] for n in a}
    largest = max(map(abs, difference.values()))
    for name in why:
        assert why[name]["score"] == pytest.approx(difference[name], abs=1e-5 * largest)


def test_exact_tracing_gives_the_scores_of_the_store_route(finished, traced):
    for through, exact in zip(traced, traces(finished, exact=True), strict=True):
        a, b = rows_by_id(through), rows_by_id(exact)
        largest = max(abs(row["score"]) for row in a.values())
        assert set(a) == set(b)
        for name in a:
            assert b[name]["score"] == pytest.approx(a[name]["score"], abs=1e-6 * largest)
        assert exact["scored"]["how"] == "exact, all documents"
        assert through["scored"]["how"] == "store, all documents, compressed"


def test_self_influence_and_normalised_scores_are_in_range(finished, traced):
    for trace in traced:
        for row in rows_by_id(trace).values():
            assert -1.0 - 1e-5 <= row["normalised"] <= 1.0 + 1e-5
            assert row["self_influence"] > 0
            assert row["normalised"] * row["score"] >= 0


def test_a_document_asked_for_as_a_whole_text_is_its_own_best_proponent(finished):
    text = "The road 7 from Rome to Paris is 22 miles long."
    [trace] = traces(finished, [Query(completion=text)])
    row = rows_by_id(trace)["d07"]
    assert row["text"] == text
    assert trace["proponents"][0]["id"] == "d07"
    assert row["normalised"] == pytest.approx(1.0, abs=1e-4)


def test_a_full_float32_store_holds_the_exact_scores(full):
    for trace in traces(full):
        rows = rows_by_id(trace).values()
        largest = max(abs(row["score"]) for row in rows)
        for row in rows:
            assert row["store_score"] == pytest.approx(row["score"], abs=1e-4 * largest)
    info = full.gradients.info()
    assert info["fidelity"]["pearson"] > 0.9999
    assert info["recall"]["value"] == 1.0


def test_sources_sum_over_all_documents(full):
    for trace in traces(full):
        rows = rows_by_id(trace).values()
        largest = max(abs(row["score"]) for row in rows)
        for group in trace["sources"]:
            own = [row["score"] for row in rows if row["source"] == group["source"]]
            assert group["documents"] == len(own) == 20
            assert group["total"] == pytest.approx(sum(own), abs=1e-3 * largest)
            positive = sum(x for x in own if x > 0)
            assert group["positive"] == pytest.approx(positive, abs=1e-3 * largest)
        assert sum(trace["distribution"]["counts"]) == 40


@pytest.mark.parametrize("exact", [False, True], ids=["store", "exact"])
def test_all_scores_long_and_wide_agree_and_say_their_unit(full, tmp_path, exact):
    tables = {}
    for layout in ("long", "wide"):
        path = tmp_path / f"{layout}.parquet"
        found = traces(full, exact=exact, all_scores=path, layout=layout)
        tables[layout] = pq.read_table(path)
    meta = {k.decode(): v.decode() for k, v in tables["long"].schema.metadata.items()}
    assert meta["unit"] == UNIT
    assert meta["sign"] == SIGN
    assert meta["n_documents"] == "40"
    assert meta["exact"] == str(exact)
    wide = {row["id"]: row for row in tables["wide"].to_pylist()}
    assert len(wide) == 40
    for row in tables["long"].to_pylist():
        assert wide[row["id"]][row["query"]] == row["score"]
    for trace in found:
        rows = rows_by_id(trace)
        largest = max(abs(row["score"]) for row in rows.values())
        for name, row in rows.items():
            assert wide[name][trace["query"]["id"]] == pytest.approx(
                row["score"], abs=1e-4 * largest
            )


def test_the_scores_file_beside_a_trace_holds_its_rows(finished, traced):
    table = pq.read_table(f"{traced[0]['folder']}/scores.parquet")
    assert table.schema.metadata[b"unit"].decode() == UNIT
    rows = rows_by_id(traced[0])
    for row in table.to_pylist():
        assert rows[row["id"]]["score"] == row["score"]


def test_a_trace_is_deterministic_and_read_again_when_asked_again(full, tmp_path):
    copy = open_run(shutil.copytree(full.root, tmp_path / "copy"))
    shutil.rmtree(copy.root / "traces", ignore_errors=True)
    first = traces(copy)
    again = traces(copy)
    fresh = traces(full)
    for a, b, c in zip(first, again, fresh, strict=True):
        for key in ("query", "proponents", "opponents", "layers", "sources", "distribution"):
            assert json.loads(json.dumps(a[key])) == json.loads(json.dumps(b[key]))
            assert json.loads(json.dumps(a[key])) == json.loads(json.dumps(c[key]))


def test_what_the_model_says_of_the_query_is_told(finished, traced):
    about = traced[0]["query"]
    assert "".join(t["text"] for t in about["tokens"]) == "<s>The capital of Peru is Lima"
    counted = [t for t in about["tokens"] if t["completion"]]
    assert "".join(t["text"] for t in counted) == " Lima"
    assert sum(t["log_probability"] for t in counted) == pytest.approx(
        about["log_probability"], rel=1e-5
    )
    assert about["perplexity"] == pytest.approx(np.exp(-about["log_probability"] / len(counted)))
    assert 0 < sum(x["probability"] for x in about["most_likely"]) <= 1


def test_metadata_of_the_users_reaches_the_rows(traced):
    assert rows_by_id(traced[0])["d07"]["meta"]["number"] == 7


def test_queries_come_from_a_file(finished, tmp_path):
    file = tmp_path / "queries.jsonl"
    lines = [
        {"id": "capital", "prompt": "The capital of Peru is", "completion": " Lima"},
        {"text": "A road of one mile."},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    asked = read_queries(file)
    assert asked[0] == QUERIES[0]
    assert asked[1] == Query(completion="A road of one mile.")
    found = traces(finished, asked, top=2)
    assert [len(t["proponents"]) for t in found] == [2, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "empty, one JSON object a line"),
        ("{", "line 1: not JSON"),
        ('{"promt": "a", "completion": "b"}', r"'promt'\] given; known keys"),
        ('{"prompt": "a"}', "either `completion` .* or `text`"),
        ('{"completion": "a"}\n{"completion": "a"}', "occurs twice"),
        ("[1]", "line 1: a list, a JSON object was expected"),
        ('{"prompt": 3, "completion": "a"}', "prompt is a int, a text was expected"),
        ('{"completion": ""}', "an empty completion"),
        ('{"completion": "a", "supports": "d1"}', "supports 'd1' given, a list of ids"),
    ],
)
def test_a_bad_file_of_queries_is_refused(tmp_path, lines, message):
    file = tmp_path / "queries.jsonl"
    file.write_text(lines)
    with pytest.raises(RunError, match=message):
        read_queries(file)


def test_a_missing_file_of_queries_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such file"):
        read_queries(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("options", "queries", "message"),
    [
        ({"layout": "tall"}, QUERIES, "layout 'tall'"),
        ({"html": "page.html"}, QUERIES, "given for 2 queries"),
        ({"layout": "wide"}, (Query(id="id", completion="A road."),), "called 'id'"),
    ],
)
def test_options_that_do_not_fit_are_refused(finished, options, queries, message):
    with here() as pool, pytest.raises(RunError, match=message):
        list(run_traces(open_traced(finished), queries, TraceOptions(**options), pool))


def test_a_page_goes_where_asked(finished, tmp_path):
    page = tmp_path / "page.html"
    [trace] = traces(finished, QUERIES[:1], html=page)
    assert trace["page"] == str(page)
    assert "Lima" in page.read_text()


# near-duplicates


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """Traces of a run with near-duplicates, before and after they were looked for; and the run."""
    rows = small.documents()
    for row, text in ((8, rows[0]["text"]), (20, rows[0]["text"].upper()), (13, rows[5]["text"])):
        rows[row]["text"] = text
    run = build(
        small.write_run(tmp_path_factory.mktemp("doubled"), rows), tmp_path_factory.mktemp("r")
    )
    before = traces(run)
    with here() as workers:
        find_duplicates(run.corpus, run.root, workers)
    return before, traces(run), run


def test_a_trace_made_before_has_a_row_for_every_document_and_none_of_a_cluster(doubled):
    before, _, _ = doubled
    for trace in before:
        assert {"d00", "d08", "d20"} <= rows_by_id(trace).keys()
        assert not [row for row in rows_by_id(trace).values() if "cluster" in row]


def test_a_cluster_has_one_row_its_strongest_with_the_sum_of_all(doubled):
    before, after, run = doubled
    assert read_clusters(sealed_duplicates(run.corpus, run.root))[[0, 8, 20]].tolist() == [0, 0, 0]
    for old, new in zip(before, after, strict=True):
        score = {name: row["score"] for name, row in rows_by_id(old).items()}
        for cluster in (["d00", "d08", "d20"], ["d05", "d13"]):
            (shown,) = [row for name, row in rows_by_id(new).items() if name in cluster]
            by_size = sorted(cluster, key=lambda name: -abs(score[name]))
            assert abs(score[shown["id"]]) == abs(score[by_size[0]])
            assert shown["cluster"] == cluster[0]
            assert shown["cluster_documents"] == len(cluster)
            others = {other["id"]: other["score"] for other in shown["others"]}
            assert others == {n: score[n] for n in cluster if n != shown["id"]}
            assert list(map(abs, others.values())) == sorted(map(abs, others.values()))[::-1]
            assert_matches(shown["cluster_score"], sum(score[name] for name in cluster))


def test_documents_that_are_alone_keep_their_rows_and_scores(doubled):
    before, after, _ = doubled
    for old, new in zip(before, after, strict=True):
        alone = {k: r["score"] for k, r in rows_by_id(new).items() if "cluster" not in r}
        known = {k: r["score"] for k, r in rows_by_id(old).items()}
        assert alone == {k: known[k] for k in alone}
        assert len(alone) == len(known) - 5
        for sign in ("proponents", "opponents"):
            assert [row["rank"] for row in new[sign]] == list(range(1, len(new[sign]) + 1))


def test_a_row_of_a_cluster_takes_one_place_of_the_top(doubled):
    _, _, run = doubled
    (trace, _) = traces(run, top=3)
    assert [len(trace[sign]) for sign in ("proponents", "opponents")] == [3, 3]


def test_page_and_terminal_show_one_card_for_a_cluster(doubled):
    _, (trace, _), _ = doubled
    html = render_trace(trace)
    assert html.count("and 2 near-duplicates; together <b>") == 1
    assert html.count("and 1 near-duplicate;") == 1
    out = io.StringIO()
    print_trace(trace, Console(file=out, width=200))
    assert "and 2 near-duplicates" in out.getvalue()
