#!/usr/bin/env python3
"""Writes tests/data/benchmark/goldens: what the Python packages make of the cases that the native rewards are tested with.

usage: python3 -m venv V && V/bin/pip install rouge-score==0.1.2 math-verify==0.9.0 && V/bin/python scripts/reward-goldens.py

The cases follow from a fixed seed, from the rows in tests/data/benchmark and from the words of the repository's documents.
"""

import itertools
import json
import pathlib
import random
import re

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "benchmark"
random.seed(20260101)


def write(name, cases):
    path = DATA / "goldens" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases), encoding="utf-8")
    print(path.relative_to(ROOT), len(cases))


def rows():
    for path in sorted(DATA.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def sentences():
    found = []
    for row in rows():
        texts = [row["problem_statement"], *row.get("choices", []), *row.get("input_files", {}).values()]
        for text in texts:
            found += re.split(r"(?<=[.?!])\s+", text)
    return [text[:400] for text in found if text.strip()]


def stems():
    words = set()
    for text in sentences():
        words.update(re.findall(r"[a-z0-9]+", text.lower()))
    roots = """relat condit ration val hesit digit conform radic differ vile analog vietnam operat feudal decis hope call formal
    sensit sens triplic form electr good adjust irritat homolog depend probat rat control roll sky die lie tie new ski happ
    agre plaster motor conflat troubl siz hop tann fall hiss fizz fail fil hoard trap cr cri cry prob ceas generat""".split()
    endings = """s es ies sses ss ed eed ing ingly y ied ational tional enci anci izer bli alli entli eli ousli ization ation ator
    alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible
    ant ement ment ent ion sion tion ou ism ate iti ous ive ize e l ll""".split()
    made = sorted(root + ending for root, ending in itertools.product(roots, endings))
    words.update(random.sample(made, 2000))
    words.update("sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed".split())
    stemmer = PorterStemmer()
    return [{"word": word, "stem": stemmer.stem(word)} for word in sorted(words)]


def rouge():
    pool = sentences()
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    pairs = [("", "x"), ("x", ""), ("...", "!"), ("İstanbul Kelvin K", "i̇stanbul kelvin k"), ("naïve café", "naive cafe")]
    for _ in range(700):
        text = random.choice(pool)
        words = text.split()
        kind = random.randrange(4)
        if kind == 0:
            other = random.choice(pool)
        elif kind == 1:
            other = " ".join(word for word in words if random.random() > 0.3)
        elif kind == 2:
            other = " ".join(random.sample(words, len(words)))
        else:
            other = " ".join(word + random.choice(["", "s", "ing", "ed", ",", "."]) for word in words)
        pairs.append((text, other))
    return [
        {"expected": expected, "answer": answer, "score": scorer.score(expected, answer)["rougeL"].fmeasure}
        for expected, answer in pairs
    ]


def equal(answer, truth):
    truth = parse("\\boxed{%s}" % truth, extraction_config=[LatexExtractionConfig()])
    answer = parse("\\boxed{%s}" % answer, extraction_config=[ExprExtractionConfig(), LatexExtractionConfig()])
    return bool(verify(truth, answer))


def forms(a, b):
    """Ways to write a fraction, or something near it."""
    yield from [f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{a}}}{{{b}}}", f"{a}/{b}", f"{a / b:.4f}", f"{a / b:.8f}"]
    if a % b == 0:
        n = a // b
        yield from [str(n), f"{n}.0", f"{n}.", f"{n:,}", f"+{n}" if n > 0 else str(n), f"0{n}" if n > 0 else str(n)]


def maths():
    truths = [row["ground_truth"] for row in rows() if row["domain"] == "math"]
    truths += ["\\sqrt{2}", "x+1", "\\frac{\\pi}{4}", "(1,2)", "[0,1)", "2\\sqrt{3}", "\\{1,2\\}", "10^{3}", "3^{2}", "50\\%"]
    pairs = list(itertools.product(truths, repeat=2))
    for _ in range(150):
        a, b = random.randint(-60, 60), random.choice([1, 1, 2, 3, 4, 5, 8, 10])
        c, d = random.choice([(a, b), (a * 2, b * 2), (a + 1, b), (-a, b)])
        pairs += [(answer, truth) for answer, truth in zip(forms(a, b), forms(c, d))]
        pairs.append((random.choice(list(forms(a, b))), random.choice(list(forms(c, d)))))
    for n in [1234, 1234567, 10**12, 999]:
        pairs += [(f"{n:,}", str(n)), (str(n), f"{n:,}"), (f"{n:,}".replace(",", "{,}"), str(n))]
    spaces = ["{}", " {} ", "${}$", "\\({}\\)", "{}."]
    pairs += [(random.choice(spaces).format(answer), truth) for answer, truth in random.sample(pairs, 200)]
    pairs = sorted(set(pairs))
    return [{"answer": answer, "truth": truth, "equal": equal(answer, truth)} for answer, truth in pairs]


write("stem", stems())
write("rouge_l", rouge())
write("math", maths())
