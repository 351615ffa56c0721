"""A check as JUnit XML, one test case a limit, for whatever shows tests of a pipeline."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from shrinkc.report.check import FAILED, INCONCLUSIVE, MISSING, PASSED, SKIPPED, Check, Verdict, remarks

ELEMENTS = {FAILED: "failure", MISSING: "error", INCONCLUSIVE: "error", SKIPPED: "skipped"}
"""What stands inside a test case that did not pass.  An error is one that could not be judged."""

UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""Characters that XML has no way to write; logs of engines may hold them."""


def render(check: Check) -> str:
    """The file: ``testsuites`` with one ``testsuite``."""
    counts = {"tests": str(len(check.verdicts))}
    for status, element in ELEMENTS.items():
        name = element if element == "skipped" else f"{element}s"
        counts[name] = str(int(counts.get(name, "0")) + len(check.of_status(status)))
    root = ElementTree.Element("testsuites", {"name": "shrinkc check", **counts})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": _printable(f"{check.compressed} against {check.original}"), **counts}
    )
    _add_properties(suite, check)
    for verdict in check.verdicts:
        _add_case(suite, verdict)
    ElementTree.SubElement(suite, "system-out").text = _printable("\n".join(remarks(check)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_properties(suite: ElementTree.Element, check: Check) -> None:
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("original_sha256", "compressed_sha256"):
        ElementTree.SubElement(properties, "property", {"name": name, "value": getattr(check, name)})


def _add_case(suite: ElementTree.Element, verdict: Verdict) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": "shrinkc.check", "name": _printable(verdict.name)})
    if verdict.status == PASSED:
        ElementTree.SubElement(case, "system-out").text = _printable(_figures(verdict))
        return
    message = _printable(f"{verdict.found}; {verdict.allowed}")
    attributes = {"message": message} if verdict.status == SKIPPED else {"message": message, "type": verdict.status}
    ElementTree.SubElement(case, ELEMENTS[verdict.status], attributes).text = _printable(_figures(verdict))


def _figures(verdict: Verdict) -> str:
    lines = [f"allowed: {verdict.allowed}", f"found: {verdict.found}"]
    return "\n".join([*lines, verdict.detail] if verdict.detail else lines)


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("?", text)
