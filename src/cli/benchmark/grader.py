"""Serves the Python of an evaluation task: one JSON request a line, one JSON answer a line.

Runs inside the grader sandbox. Usage: grader.py [TASK_DIRECTORY]
"""

import importlib.util
import json
import math
import os
import random
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


def checkers():
    """The checkers of IFBench and IFEval by the name of the instruction; each takes it, its arguments, prompt and answer.

    Both packages import what fetches models or data sets, and IFBench fetches at once: here nothing is fetched.
    """
    if "checkers" in loaded:
        return loaded["checkers"]
    import types

    import langdetect
    import nltk

    # Without a seed the same text is of another language now and then.
    langdetect.DetectorFactory.seed = 0
    found = importlib.util.find_spec("llama_index")
    for place in found.submodule_search_locations if found else []:
        nltk.data.path.append(os.path.join(place, "core", "_static", "nltk_cache"))
    nltk.download = lambda *_, **__: True
    absent = {"spacy": None, "spacy.cli": "download", "datasets": "load_dataset"}
    own = {}
    for name, attribute in absent.items():
        own[name] = sys.modules.get(name)
        sys.modules[name] = types.ModuleType(name)
        if attribute:
            setattr(sys.modules[name], attribute, lambda *_, **__: None)
    try:
        from if_verifiable.common import evaluate_instructions
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT as ifeval
        from ifbench import evaluation_lib
        from ifbench.instructions_registry import INSTRUCTION_DICT as ifbench
    finally:
        for name, module in own.items():
            del sys.modules[name]
            if module:
                sys.modules[name] = module

    def by_ifbench(name, arguments, prompt, answer):
        ifbench[name](name).build_description(**arguments)
        example = evaluation_lib.InputExample(0, [name], prompt, [arguments])
        return lambda: evaluation_lib.test_instruction_following_loose(example, {prompt: answer}).follow_all_instructions

    def by_ifeval(name, arguments, prompt, answer):
        ifeval[name](name).build_description(**arguments)
        return lambda: evaluate_instructions(answer, [name], [arguments], prompt, ifeval)[1].binary_loose == 1.0

    loaded["checkers"] = {**dict.fromkeys(ifeval, by_ifeval), **dict.fromkeys(ifbench, by_ifbench)}
    return loaded["checkers"]


def follows(request):
    """1 when the answer follows every instruction, in the loose mode of the packages."""
    row = request["row"]
    truth = row["ground_truth"]
    truth = json.loads(truth) if isinstance(truth, str) else truth
    names, arguments = truth["instruction_id_list"], truth["kwargs"]
    if not names or len(names) != len(arguments):
        raise ValueError("the row needs as many kwargs as it has instructions, and at least one")
    known = checkers()
    missing = [name for name in names if name not in known]
    if missing:
        raise LookupError("there is no verifier for " + ", ".join(missing))
    for name, given in zip(names, arguments):
        given = {key: value for key, value in (given or {}).items() if value is not None}
        # Arguments that do not fit are the row's mistake, and no score; a checker that fails on an answer does not find it good.
        followed = known[name](name, given, row["problem_statement"], request["answer"])
        # What a row leaves open, or gives in a way that the checker does not take, is drawn by lot: always the same lot.
        random.seed(0)
        try:
            if not followed():
                return 0.0
        except LookupError as error:
            # The complaint of NLTK is a page long.
            if "nltk" in str(error):
                raise LookupError(f"{name} needs data of NLTK that the image of the grader lacks") from None
            return 0.0
        except Exception as error:
            print(f"{name}: {error!r}", flush=True)
            return 0.0
    return 1.0


def check(request):
    """An import that fails is found before a model is asked."""
    if request["what"] == "follows":
        return bool(checkers())
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
    operations = {"score": score, "prompt": prompt, "math": equal, "follows": follows, "check": check}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": operations[request["do"]](request)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


main()
