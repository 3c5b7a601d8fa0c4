#!/usr/bin/env python3
"""Writes tests/data/benchmark/goldens: what Python makes of the cases of those rewards that need nothing but text.

usage: python3 scripts/text-goldens.py

Letters, boxes, equal texts and F1 of sets are here written once more, with Python's regular expressions and strings, after the rules
of the original's rewards; `numeric` after its own: a number within five per cent. The cases follow from a fixed seed.
"""

import json
import pathlib
import random
import re

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "benchmark" / "goldens"
WORDS = "the of value mass Energy because then we find that option correct best fits ethanol p53 ΔG naïve Ünal ∞ 3.5 J/mol".split()


def write(name, cases):
    path = DATA / f"{name}.jsonl"
    path.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases), encoding="utf-8")
    print(path.name, len(cases))


def boxed(text):
    """What the last box holds, braces balanced; else the whole text."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text.strip()
    depth, begin = 0, start + len("\\boxed{")
    for at in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return text.strip()


def chosen(text):
    text = text.strip()
    for pattern in [r'"answer"\s*:\s*"([A-Za-z])"', r"answer\s*[:：]\s*([A-Za-z])\b", r"(?:answer|choice)\s+is\s+([A-Za-z])\b"]:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return found[1].upper()
    box = boxed(text)
    if box != text and box and box[0].isalpha():
        return box[0].upper()
    alone = re.findall(r"\b([A-Z])\b", text.upper())
    if alone:
        return alone[-1]
    return text[0].upper() if text and text[0].isalpha() else ""


def letter(answer, truth):
    return float(answer.strip().upper() == truth or chosen(answer) == truth)


def sentence(least=0):
    return " ".join(random.choice(WORDS) for _ in range(random.randint(least, 8)))


def letters():
    forms = [
        "{}", " {}\n", "({})", "{}.", '{{"answer": "{}"}}', "Answer: {}", "answer：{}", "The answer is {}.", "My choice is {}",
        "\\boxed{{{}}}", "so \\boxed{{{}}}.", "{}) ethanol", "It is {}", "**{}**", "Final: [{}]", "{}, not more",
    ]
    cases = []
    for _ in range(1200):
        truth, given = random.choice("ABCDEFGHIJ"), random.choice("ABCDEFGHIJ")
        # For the original "a" and "i" before a word, and a small letter after a capital of its own, are choices, too; they are none
        # here, and left out.
        wrote = given if random.random() < 0.7 or given in "AI" else given.lower()
        answer = random.choice(forms).format(wrote)
        if random.random() < 0.5:
            answer = f"{sentence()} {answer}"
        if random.random() < 0.2:
            answer = f"{answer} {sentence(1)}"
        answer = answer.replace("J/mol", "kJ")
        truth = given if random.random() < 0.5 else truth
        cases.append({"answer": answer, "truth": truth, "score": letter(answer, truth)})
    return cases


def boxes():
    pieces = ["\\boxed{", "{", "}", "}", "1", "\\frac{a}{b}", "x", " ", "\\text{m}", "\\boxed{7}", "ü", "\n"]
    texts = ["".join(random.choice(pieces) for _ in range(random.randint(0, 12))) for _ in range(900)]
    return [{"text": text, "boxed": boxed(text)} for text in sorted(set(texts))]


def exacts():
    cases = []
    # Characters whose lower case is longer, or depends on the place, are among them.
    pieces = WORDS + ["İstanbul", "ΣΑΣ", "Straße", "ǅ", "Ⅷ", "K", "ﬁ", "\u00a0", "\u3000", "\t"]
    for _ in range(900):
        truth = " ".join(random.choice(pieces) for _ in range(random.randint(0, 4)))
        change = random.randrange(5)
        answer = [truth, truth.upper(), truth.swapcase(), f"\n {truth}\u2003", truth + "."][change]
        cases.append({"answer": answer, "truth": truth, "score": float(answer.strip().lower() == truth.strip().lower())})
    return cases


def f1(answer, truth):
    answer, truth = ({item.strip().upper() for item in text.split(",") if item.strip()} for text in (answer, truth))
    common = len(answer & truth)
    if not common:
        return 0.0
    precision, recall = common / len(answer), common / len(truth)
    return 2 * precision * recall / (precision + recall)


def sets():
    items = list("ABCDEF") + ["a", "b", " c ", "", " ", "ß", "two words", "é"]
    cases = []
    for _ in range(900):
        answer, truth = (",".join(random.choices(items, k=random.randint(1, 6))) for _ in range(2))
        cases.append({"answer": answer, "truth": truth, "score": f1(answer, truth)})
    return cases


def numbers():
    cases = []
    for _ in range(900):
        truth = random.choice([random.randint(-999, 999), round(random.uniform(-50, 50), 3), random.uniform(1, 9) * 10 ** random.randint(-9, 12)])
        text = random.choice([repr, "{:.4g}".format])(truth)
        near = float(text) * random.choice([1, 1.03, 0.96, 1.07, 0.9, -1, 2])
        answer = random.choice([repr, "{:.6g}".format, "{:.8e}".format])(near)
        cases.append({"answer": answer, "truth": text, "score": float(abs(float(answer) - float(text)) <= 0.05 * abs(float(text)))})
    return cases


random.seed(20260102)
write("letter", letters())
write("boxed", boxes())
write("exact", exacts())
write("f1", sets())
write("numeric", numbers())
