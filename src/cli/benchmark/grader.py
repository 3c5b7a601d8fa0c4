"""Serves the Python of an evaluation task: one JSON request a line, one JSON answer a line.

Runs inside the grader sandbox. Usage: grader.py [TASK_DIRECTORY]
"""

import importlib.util
import json
import math
import os
import sys

# What a task prints must not get between the answers.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
loaded = {}


def function(name, attribute):
    """The function of a file of the task, loaded once."""
    if name not in loaded:
        directory = sys.argv[1]
        spec = importlib.util.spec_from_file_location(name, os.path.join(directory, name + ".py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded[name] = module
    return getattr(loaded[name], attribute)


def score(request):
    row = request["row"]
    others = {key: value for key, value in row.items() if key != "ground_truth"}
    compute = function("reward", "compute_score")
    value = float(compute(request["answer"], row.get("ground_truth"), **others))
    if not math.isfinite(value):
        raise ValueError(f"compute_score gave {value}, which is no score")
    return value


def prompt(request):
    text = function("vanilla_llm_prompt", "create_prompt")(request["row"])
    if not isinstance(text, str):
        raise TypeError("create_prompt gave no text")
    return text


def equal(request):
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    truth = parse("\\boxed{%s}" % request["truth"], extraction_config=[LatexExtractionConfig()])
    if not truth:
        raise ValueError("math-verify cannot read the expected answer")
    given = parse(
        "\\boxed{%s}" % request["answer"],
        extraction_config=[ExprExtractionConfig(), LatexExtractionConfig()],
    )
    return bool(given) and bool(verify(truth, given))


def check(request):
    """An import that fails is found before a model is asked."""
    name, attribute = {
        "score": ("reward", "compute_score"),
        "prompt": ("vanilla_llm_prompt", "create_prompt"),
    }[request["what"]]
    if not callable(function(name, attribute)):
        raise TypeError(f"{attribute} is no function")
    return True


def main():
    if len(sys.argv) > 1:
        os.chdir(sys.argv[1])
        sys.path.insert(0, sys.argv[1])
    operations = {"score": score, "prompt": prompt, "math": equal, "check": check}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": operations[request["do"]](request)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


main()
