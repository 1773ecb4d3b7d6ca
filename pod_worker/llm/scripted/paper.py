"""Scripted replies for the operations of paper.

The text says only what the facts say, names every number by its key, and states that no model interpreted it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.research.literature import normalized
from pod_worker.core.run import Json

SELECTED_LIMIT = 3  # works of one query
_NUMBER_WORDS = re.compile(
    r"(?<![A-Za-z-])\d|\b(?:percent|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    r"|hundreds?|thousands?|millions?|billions?|half|times|fold|points?)\b",
    re.IGNORECASE,
)
# With such a verb a summary begins that can follow the names of its authors.
_VERB_WORDS = """
    adds analyses combines compares hurts introduces normalises presents proposes relates separates shows studies
    surveys trains
"""
_VERBS = frozenset(_VERB_WORDS.split())
_COMMON_WORDS = """
    about after and are based can does for from help helps how into its more not of on the their this to with when
    which while using small data study learning machine method methods model models new
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def _plots(request: CompletionRequest) -> Json:
    metric = str(request.facts["metric"]["name"]).replace("_", " ")
    caption = (
        f"Search split against hidden split, {metric}: mean over seeds of each node. Nodes on the dashed line "
        "score the same on both; the distance below it is what selection on the search split would overstate."
    )
    return {
        "code": _PLOT,
        "figures": [{"file": "search-hidden.png", "label": "search-hidden", "caption": caption}],
    }


_PLOT = '''"""Search split against hidden split."""

import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

data = json.load(open("data.json"))
figure, axes = plt.subplots(figsize=(3.25, 2.3), layout="constrained")
markers, colors = "osD^v", ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
low, high = [], []
for index, stage in enumerate(data["stages"]):
    pairs = [(sum(node["search_scores"]) / len(node["search_scores"]), sum(node["scores"]) / len(node["scores"]))
             for node in stage["nodes"] if node["search_scores"]]
    if pairs:
        x, y = zip(*pairs)
        style = {"marker": markers[index % 5], "color": colors[index % 5], "markersize": 4, "linestyle": ""}
        axes.plot(x, y, label=stage["title"], **style)
        low += [min(x), min(y)]
        high += [max(x), max(y)]
if low:
    axes.plot([min(low), max(high)], [min(low), max(high)], "--", color="#666666", linewidth=0.8)
    axes.legend(fontsize=6.5, frameon=False)
name, unit = data["metric"]["name"].replace("_", " "), data["metric"]["unit"]
suffix = f" ({unit})" if unit else ""
axes.set_xlabel(f"{name}, search split{suffix}", fontsize=8)
axes.set_ylabel(f"{name}, hidden split{suffix}", fontsize=8)
axes.tick_params(labelsize=7)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("search-hidden.png", dpi=220)
'''


def _queries(request: CompletionRequest) -> Json:
    idea = request.facts["idea"]
    words = [word for word in normalized(str(idea["Short Hypothesis"])).split() if word not in _COMMON]
    return {
        "queries": [
            str(idea["Title"])[:150] or "machine learning",
            " ".join(words[:8]) or "machine learning",
            "statistical tests comparing learning algorithms evaluation variance",
        ],
        "is_done": True,
    }


def _select(request: CompletionRequest) -> Json:
    """The first candidates that share a word with the query."""
    wanted = _significant(str(request.facts["query"]))
    selected = []
    for work in request.facts["candidates"]:
        shared = sorted(wanted & _significant(f"{work['title']} {work['abstract']}"))
        if shared:
            selected.append({"id": work["id"], "reason": f"shares {', '.join(shared[:4])} with the query"})
    return {"selected": selected[:SELECTED_LIMIT]}


def _significant(text: str) -> set[str]:
    return {word.removesuffix("s") for word in normalized(text).split() if len(word) > 3} - _COMMON


def _paper(request: CompletionRequest) -> Json:
    facts = request.facts
    idea, findings = facts["idea"], facts["findings"]
    keys = {str(number["key"]) for number in facts["numbers"]}
    better = [each for each in findings if each.get("is_better_than_baseline_beyond_noise")]
    title = _clean(str(idea["Title"])) or "An automated research run"
    sections = [
        ("Introduction", _introduction(facts, better)),
        ("Related work", _related_work(facts["references"])),
        ("Method", _method(facts)),
        ("Experimental setup", _setup(facts, keys)),
        ("Results", _results(facts, keys)),
        ("Ablations", _ablations(facts)),
        ("Limitations", _limitations(idea)),
        ("Conclusion", _conclusion(better, findings)),
    ]
    return {
        "title": title,
        "abstract": _abstract(facts, keys, better),
        "sections": [{"heading": heading, "body": body} for heading, body in sections if body],
    }


def _abstract(facts: Json, keys: set[str], better: list[Json]) -> str:
    best = _last_best(keys)
    claim = _sentences(str(facts["idea"]["Short Hypothesis"]), 1).rstrip(".?!")
    task = rf"\emph{{{_clean(str(facts['task']))}}}"
    question = f"We test the hypothesis that {claim[:1].lower()}{claim[1:]}." if claim else ""
    parts = [
        question or "We report an automated research run.",
        f"The task is {task}. A search proposes changes to a program, executes each one, and repeats the best "
        "with fresh seeds; rows that no program sees decide.",
    ]
    if best:
        parts.append(
            rf"The best method reaches \result{{{best}}} ({_metric(facts)}, hidden split), and the baseline "
            rf"\result{{baseline}}."
            if "baseline" in keys
            else rf"The best method reaches \result{{{best}}} ({_metric(facts)}, hidden split)."
        )
    parts.append(
        "The improvement lies beyond the noise of the baseline."
        if better
        else "No method improves on the baseline by more than its noise; we report this as a negative result."
    )
    return " ".join(part for part in parts if part)


def _introduction(facts: Json, better: list[Json]) -> str:
    hypothesis = _sentences(str(facts["idea"]["Short Hypothesis"]), 1)
    outcome = (
        "The selected method improves on the baseline by more than the noise."
        if better
        else "Within this budget, no method improved on the baseline by more than the noise."
    )
    figures, tables = ({str(each["label"]) for each in facts[name]} for name in ("figures", "tables"))
    places = [r"Figure~\ref{fig:stages}"] * ("stages" in figures) + [r"Table~\ref{tab:results}"] * (
        "results" in tables
    )
    paragraphs = [
        _sentences(str(facts["idea"]["Abstract"]), 6) or "This paper reports an automated research run.",
        f"The hypothesis is: \\emph{{{hypothesis.rstrip('.')}}}." if hypothesis else "",
        "The run tested it in stages: a preliminary investigation with a replicated baseline, tuning of the "
        "baseline, a research agenda, and ablations. Programs were scored on rows whose labels no program "
        f"could read, and every score was repeated with several seeds. {outcome}"
        + (f" The results are in {_joined(places)}." if places else ""),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _related_work(references: list[Json]) -> str:
    if not references:
        return "No literature search was available for this run, so this paper does not discuss related work."
    lines, others = [], []
    for each in references:
        author, summary = rf"\citet{{{each['key']}}}", _sentences(str(each["abstract"]), 1)
        verb, _, rest = summary.partition(" ")
        if verb.lower() in _VERBS:
            lines.append(f"{author} {_conjugated(verb.lower(), rest, len(each['authors']))}")
        else:
            others.append(author)
    if others:
        lines.append(f"The search {'also ' if lines else ''}found {_joined(others)}.")
    return " ".join(lines)


def _conjugated(verb: str, rest: str, authors: int) -> str:
    """A summary as what one author or several do; verbs after `and` too."""
    if authors == 1:
        return f"{verb} {rest}"
    return re.sub(r"\band (\w+)", lambda found: f"and {_plural(found[1])}", f"{_plural(verb)} {rest}")


def _plural(word: str) -> str:
    return word.removesuffix("s") if word in _VERBS else word


def _method(facts: Json) -> str:
    experiments = [_sentences(str(each), 1) for each in facts["idea"]["Experiments"]]
    listed = "\n".join(rf"\item {each}" for each in experiments if each)
    plan = f"The plan lists these experiments:\n\\begin{{itemize}}\n{listed}\n\\end{{itemize}}\n" if listed else ""
    return (
        plan
        + "The search proposes one change at a time to a program, executes it, and keeps it when its score is "
        "better than that of its parent by more than the noise band. The noise band follows from repeated "
        r"executions of the baseline. For a method with mean $m$ and a baseline with mean $b$, whose "
        r"intervals have the half "
        r"widths $h_m$ and $h_b$, the difference $m - b$ has the half width $\sqrt{h_m^2 + h_b^2}$."
    )


def _setup(facts: Json, keys: set[str]) -> str:
    direction = facts["metric"]["direction"]
    rows = [
        rf"\result{{{number['key']}}} {_clean(str(number['meaning']))}"
        for number in facts["numbers"]
        if str(number["key"]).startswith("task.")
    ]
    data = f" The task has {_joined(rows)}." if rows else ""
    nodes = (
        r" The search executed \result{nodes.executed} programs: \result{nodes.scored} were scored and "
        r"\result{nodes.buggy} had a bug that was not repaired."
        if {"nodes.executed", "nodes.scored", "nodes.buggy"} <= keys
        else ""
    )
    return (
        f"The task is {_clean(str(facts['task']))}, measured by {_metric(facts)} ({direction} is better).{data} "
        "The split was fixed and hashed before the first program ran. The hidden split served for selection "
        "only, and "
        f"programs never received its labels.{nodes} All intervals are 95\\% confidence intervals of Student's "
        "$t$ distribution over seeds that the controller chose."
    )


def _results(facts: Json, keys: set[str]) -> str:
    lines = []
    if "baseline" in keys:
        lines.append(r"The baseline reaches \result{baseline} over \result{baseline.seeds} seeds.")
    for each in facts["findings"]:
        if "is_better_than_baseline_beyond_noise" not in each:
            continue
        key = str(each["key"])
        best = key.removesuffix(".gain") + ".best"
        decision = "beyond" if each["is_better_than_baseline_beyond_noise"] else "within"
        lines.append(
            rf"The best program of the stage \emph{{{_clean(str(each['stage']))}}}{_quoted(each, facts)} reaches "
            rf"\result{{{best}}}. Its difference from the baseline, \result{{{key}}}, is {decision} the noise."
        )
    figures = [str(each["label"]) for each in facts["figures"] if each["label"] not in ("ablations",)]
    where = _joined([rf"Figure~\ref{{fig:{label}}}" for label in figures])
    if where:
        lines.append(f"{where} show the scores with their intervals, the learning curves, and the two splits.")
    if any(each["label"] == "results" for each in facts["tables"]):
        lines.append(r"Table~\ref{tab:results} lists the numbers.")
    return " ".join(lines)


def _ablations(facts: Json) -> str:
    rows = [each for each in facts["findings"] if "is_worse_than_full_method_beyond_noise" in each]
    if not rows:
        return ""
    lines = [r"Table~\ref{tab:ablations} removes one component at a time."]
    if any(each["label"] == "ablations" for each in facts["figures"]):
        lines.append(r"Figure~\ref{fig:ablations} shows the same scores.")
    for each in rows[:6]:
        effect = (
            "the component contributes"
            if each["is_worse_than_full_method_beyond_noise"]
            else "this is within the noise"
        )
        label = _quoted(each, facts).strip(" ()") or "next in the table"
        lines.append(rf"The ablation \emph{{{label}}} changes the score by \result{{{each['key']}}}; {effect}.")
    return " ".join(lines)


def _limitations(idea: Json) -> str:
    risks = [_sentences(str(each), 1) for each in idea["Risk Factors and Limitations"]]
    stated = " ".join(risk for risk in risks if risk)
    return (
        f"{stated} The study uses one task. The scripted model of pod\\_worker wrote this text from recorded "
        f"facts; "
        "it does not interpret results. A language model or a person must judge what they mean."
    ).strip()


def _conclusion(better: list[Json], findings: list[Json]) -> str:
    components = sum(bool(each.get("is_worse_than_full_method_beyond_noise")) for each in findings)
    first = (
        "At least one method improves on the replicated baseline by more than the noise."
        if better
        else "The data do not support the hypothesis at this budget: no difference exceeds the noise."
    )
    second = (
        "The ablations attribute a part of the score to a component."
        if components
        else "The ablations do not attribute the score to a single component."
    )
    return f"{first} {second} The programs, seeds and scores of every number are artifacts of the run."


def _last_best(keys: set[str]) -> str:
    found = sorted(key for key in keys if re.fullmatch(r"stage[1-3]\.best", key))
    return found[-1] if found else ""


def _metric(facts: Json) -> str:
    return _clean(str(facts["metric"]["name"]).replace("_", " "))


def _quoted(finding: Json, facts: Json) -> str:
    """The label of a change in brackets; empty where it could be read as a result."""
    label = str(finding["change"])
    has_digits = bool(re.search(r"\d", label))
    if len(label) > 60 or (has_digits and ("%" in label or normalized(_metric(facts)) in normalized(label))):
        return ""
    return f" ({_plain(label)})"


def _sentences(text: str, most: int) -> str:
    """The first sentences that hold no number of their own."""
    found = [_plain(each) for each in re.split(r"(?<=[.!?])\s+", text.strip()) if not _NUMBER_WORDS.search(each)]
    return " ".join(each if each.endswith((".", "!", "?")) else f"{each}." for each in found[:most] if each)


def _clean(text: str) -> str:
    """A short text without numbers of its own."""
    return " ".join(word for word in _plain(text).split() if not _NUMBER_WORDS.search(word))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[\\${}~^#]", " ", text).split())


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def _repair(request: CompletionRequest) -> Json:
    """The scripted text has nothing to correct; the writer then leaves out its LaTeX."""
    del request
    return {"replacements": []}


def _review(request: CompletionRequest) -> Json:
    """Scores from the checks and from the decisions about noise."""
    facts, sample = request.facts, request.sample
    failed = [str(each["name"]) for each in facts["checks"] if not each["holds"]]
    has_gain = any(each.get("is_better_than_baseline_beyond_noise") for each in facts["findings"])
    has_component = any(each.get("is_worse_than_full_method_beyond_noise") for each in facts["findings"])
    overall = 4 + 2 * has_gain + has_component - 2 * bool(failed)
    overall -= sample % 3 == 2 and not has_gain  # the third reviewer is stricter with negative results
    overall = max(1, min(10, overall))
    weaknesses = ["The study uses one task.", *(f"A check does not hold: {name}" for name in failed)]
    weaknesses += [] if has_gain else ["No method improves on the baseline by more than the noise."]
    weaknesses += [] if has_component else ["The ablations attribute the score to no component."]
    strengths = ["Every number traces to a recorded result.", "The baseline is replicated with several seeds."]
    strengths += ["The improvement lies beyond the noise."] if has_gain else []
    return {
        "Summary": "Scripted review, computed from the checks and the decisions about noise. There was no reader.",
        "Strengths": strengths,
        "Weaknesses": weaknesses,
        "Questions": ["Do the results hold on a second task?"],
        "Limitations": ["The scripted model cannot judge novelty."],
        "Ethical Concerns": False,
        "Originality": 2,
        "Quality": 2 + has_gain,
        "Clarity": 3,
        "Significance": 2 + (has_gain and has_component),
        "Soundness": 1 if failed else 3,
        "Presentation": 3 if facts["figures"] else 1,
        "Contribution": 2 + has_gain,
        "Overall": int(overall),
        "Confidence": 2 + sample % 2,
        "Decision": "Accept" if overall >= 6 else "Reject",
    }


REPLIES: dict[str, Callable[[CompletionRequest], Json]] = {
    "plots.write": _plots,
    "citations.query": _queries,
    "citations.select": _select,
    "paper.write": _paper,
    "paper.repair": _repair,
    "review.write": _review,
}
