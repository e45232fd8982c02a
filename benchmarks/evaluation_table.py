"""Print an evaluation as the README's table.

influence run benchmarks/evaluation.yaml
influence evaluate evaluation lds facts tail-patch
python benchmarks/evaluation_table.py runs/evaluation/evaluations/*/evaluation.json
"""

import json
import sys
from pathlib import Path

SHOWN = {"lds": "LDS", "tail-patch": "tail-patch, nats", "facts": "fact tracing, MRR"}


def main(path):
    result = json.loads(Path(path).read_text("utf-8"))
    measures = {m["name"]: m for m in result["measures"] if m["name"] in SHOWN}
    rows = {name: {r["method"]: r for r in m["rows"]} for name, m in measures.items()}
    names = sorted((m["name"] for m in result["methods"]), key=lambda n: -rows["lds"][n]["mean"])
    print("| method | " + " | ".join(SHOWN[m] for m in measures) + " |")
    print("|---" * (1 + len(measures)) + "|")
    for name in names:
        cells = [
            f"{r[name]['mean']:.2f} ({r[name]['low']:.2f} to {r[name]['high']:.2f})"
            for r in rows.values()
        ]
        print(f"| `{name}` | " + " | ".join(cells) + " |")
    reference = measures["lds"]["reference"]
    size = f"{result['n_documents']:,} documents, {result['n_queries']} queries"
    print(f"\n{size}; LDS's ceiling {reference['value']:.2f}.")


if __name__ == "__main__":
    main(sys.argv[1])
