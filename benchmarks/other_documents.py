"""Write the documents of evaluation_gpt2.yaml: reference prose, docstrings and code that the embedded
corpus leaves out (it takes up to 40 words; these have 41 to 90).

    python benchmarks/other_documents.py
"""

import json
import random
from pathlib import Path

from datasets_cfg import prose

FOLDER = Path(__file__).parent / "documents"
EACH = {"reference": 400, "docstrings": 350, "code": 250}


def main():
    FOLDER.mkdir(exist_ok=True)
    rows = []
    for source, count in EACH.items():
        texts = dict(getattr(prose, source)(range(41, 91)))
        chosen = random.Random(7).sample(sorted(texts), min(count, len(texts)))
        rows += [{"id": name, "text": texts[name], "source": source} for name in chosen]
    random.Random(8).shuffle(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (FOLDER / "documents.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(rows)} documents in {FOLDER / 'documents.jsonl'}")


if __name__ == "__main__":
    main()
