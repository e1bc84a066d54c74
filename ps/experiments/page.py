"""The report of a sweep: one page, Markdown, CSV, LaTeX, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ps.errors import ConfigError
from ps.experiments.drawing import is_named, overviews, pictures
from ps.experiments.findings import Finding, caution, counted, findings
from ps.experiments.packages import need
from ps.experiments.results import Results
from ps.experiments.style import Picture
from ps.experiments.summary import AXIS_WORDS, Summary, by_axis, by_condition, summarize
from ps.experiments.tables import (
    Table,
    condition_table,
    environment_table,
    failure_table,
    finding_table,
    latex,
    markdown,
    resource_table,
    summary_csv,
    summary_table,
    tuning_table,
    waiting_table,
)


@dataclass(frozen=True)
class Group:
    """The arms of one time axis under one condition."""

    title: str
    note: str
    findings: list[Finding]
    caution: str
    pictures: list[Picture]


def write_report(results: Results, folder: Path) -> Path:
    """Writes report.html, report.md, summary.csv, summary.tex and figures/*.pdf, and gives the first.

    Raises: ConfigError when a package is missing or the folder cannot be written.
    """
    need("matplotlib", "jinja2")
    summaries = summarize(results)
    groups = _groups(summaries, results)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for old in (folder / "figures").glob("*.pdf"):
            if is_named(old.stem):  # of an earlier report, which may have had more
                old.unlink()
        for group in groups:
            for drawn in group.pictures:
                drawn.save(folder / "figures")
        tables = _tables(summaries, groups, results)
        (folder / "summary.csv").write_text(summary_csv(summaries))
        (folder / "summary.tex").write_text(latex(summary_table(summaries, results)))
        for name in ("report.md", "report.html"):
            (folder / name).write_text(_rendered(name, results, groups, tables))
    except OSError as error:
        raise ConfigError(f"{folder}: expected a folder to write into, got: {error.strerror or error}") from None
    return folder / "report.html"


def _groups(summaries: Sequence[Summary], results: Results) -> list[Group]:
    """Of each axis: a group for each of its conditions, then one over all of them where there is a figure of that."""
    found: list[Group] = []
    for axis, alike in by_axis(summaries).items():
        links = ", ".join(sorted({one.links for one in alike}))
        note = f"Time is {AXIS_WORDS[axis]}. Links: {links}."
        conditions = by_condition(alike, results.experiment)
        for place, (condition, group) in enumerate(conditions.items(), start=1):
            tag = axis if len(conditions) == 1 else f"{axis}-{place}"
            title = f"What came out ({axis} time{f', {condition}' if condition else ''})"
            said = findings(group, results.experiment.report, condition)
            found.append(Group(title, note, said, caution(said), pictures(group, results, tag)))
        if drawn := overviews(alike, results):
            found.append(Group(f"Over all arms ({axis} time)", note, [], "", drawn))
    return found


def _tables(summaries: Sequence[Summary], groups: Sequence[Group], results: Results) -> list[Table]:
    found: list[Table | None] = [condition_table(alike, results) for alike in by_axis(summaries).values()]
    found += [summary_table(summaries, results)] if summaries else []
    found += [finding_table(finding) for group in groups for finding in group.findings if len(finding.behind) > 1]
    found += [tuning_table(results)]
    found += [failure_table(results)] if results.failures or results.begun else []
    found += [waiting_table(summaries), resource_table(summaries)]
    found += [environment_table(results.environment)] if results.environment else []
    return [table for table in found if table is not None]


def state(results: Results) -> str:
    """How far the sweep has come."""
    ended = len(results.runs)
    seeds = ", ".join(map(str, results.experiment.seeds))
    return f"{ended} of {ended + results.missing} cells have ended; {len(results.arms)} arms, seeds {seeds}."


def warnings(results: Results) -> list[str]:
    """What a reader must know before reading on."""
    found = []
    if results.missing:
        found.append(f"Unfinished, {counted(results.missing, 'cell')} missing: psctl sweep goes on where it has ended.")
    if results.failures:
        found.append(f"{counted(len(results.failures), 'cell')} failed: listed below, and counted in nothing else.")
    if results.foreign:
        found.append(f"{counted(results.foreign, 'cell')} that experiment.toml does not have (any more): left out.")
    mixed = "Runs of different versions of {} stand side by side: run the sweep to its end."
    return found + [mixed.format(script) for script in results.edited]


def _rendered(name: str, results: Results, groups: Sequence[Group], tables: Sequence[Table]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("ps.experiments")
    made = Environment(
        loader=loader,
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return made.get_template(name).render(
        experiment=results.experiment,
        state=state(results),
        warnings=warnings(results),
        groups=groups,
        tables=tables,
        markdown=markdown,
    )
