"""Compares what CPython's tests did inside and outside: every difference needs its reason.

usage: compare.py INSIDE.xml OUTSIDE.xml EXPECTED.toml
"""

import fnmatch
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter


def outcomes(path):
    """Test name to pass, skip or fail; one name may stand for several subtests, of which the worst counts."""
    worst = {}
    for case in ElementTree.parse(path).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "fail"
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            outcome = "skip"
        else:
            outcome = "pass"
        name = case.get("name").removeprefix("test.")
        worst[name] = max(outcome, worst.get(name, ""), key=["", "pass", "skip", "fail"].index)
    return worst


def main(inside_path, outside_path, expected_path):
    inside, outside = outcomes(inside_path), outcomes(outside_path)
    with open(expected_path, "rb") as file:
        expected = tomllib.load(file)["difference"]
    for side, found in (("inside", inside), ("outside", outside)):
        print(f"{side}: {len(found)} tests,", ", ".join(f"{n} {o}" for o, n in sorted(Counter(found.values()).items())))
    # A run that broke off would have little to differ in.
    if min(len(inside), len(outside)) < 1500:
        print("too few tests ran")
        return 1
    unexplained, used = [], set()
    for name in sorted(inside.keys() | outside.keys()):
        pair = (inside.get(name, "absent"), outside.get(name, "absent"))
        if pair[0] == pair[1]:
            continue
        for at, entry in enumerate(expected):
            known = (entry["inside"], entry["outside"])
            if known == pair and any(fnmatch.fnmatchcase(name, pattern) for pattern in entry["tests"]):
                used.add(at)
                print(f"explained: {name}: {pair[0]} inside, {pair[1]} outside: {entry['reason']}")
                break
        else:
            unexplained.append((name, pair))
    for at, entry in enumerate(expected):
        if at not in used:
            print(f"not seen on this host: {', '.join(entry['tests'])}")
    for name, pair in unexplained:
        print(f"UNEXPLAINED: {name}: {pair[0]} inside, {pair[1]} outside")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
