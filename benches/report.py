"""What `compare` says of its runs, as Markdown: an overview, the budgets, then a table for each case.

Nothing is measured here. Ratios are taken within a repetition, never between two.
"""

import statistics

import harness
import peers
from cases import BUDGET_PEERS, OLD_CHAIN, UNITS

# What every proxy is to do for every request.
DUTIES = ("refuse", "fields", "log", "share")
# A proxy that used less of its core could have done more.
FULL_CORE = 0.8
BETTER = "better of nginx and haproxy"


def ratios(runs, cases):
    """portico's CPU per request over each peer's and over the better one's: {case: {peer: a figure for each repetition}}."""
    found = {}
    for case in cases:
        for repetition in sorted({run["repetition"] for run in runs}):
            here = [run for run in runs if (run["case"], run["repetition"]) == (case.name, repetition)]
            cpu = {run["proxy"]: run["cpu_us"] for run in here}
            own = cpu.pop("portico", None)
            if own is None or not cpu:
                continue
            row = found.setdefault(case.name, {})
            if not cpu.keys().isdisjoint(BUDGET_PEERS):
                cpu[BETTER] = min(cpu[peer] for peer in BUDGET_PEERS if peer in cpu)
            for peer, value in cpu.items():
                row.setdefault(peer, []).append(own / value if value else float("inf"))
    return found


def markdown(report, cases, names):
    machine = report["machine"]
    lines = [
        f"{report['date']}, commit {report['commit']}, profile `{report['profile']}`, {harness.said_of(machine)}, load at start "
        f"{machine['load_at_start']:.1f}. {report['routes']:,} routes, {report['repetitions']} runs of {report['seconds']} s. "
        + "; ".join(dict.fromkeys(report["versions"].values()))
        + ".",
    ]
    loads = [case for case in cases if not case.rate]
    lines += overview(report, loads, names)
    lines += budgets(report, loads)
    for case in loads:
        lines += table(report, case, names)
    for case in cases:
        if case.rate:
            lines += latencies(report, case, names)
    if report["system_calls"]:
        lines += system_calls(report, cases)
    failed = [run for run in report["runs"] if run["errors"]]
    if failed:
        which = ", ".join(dict.fromkeys(f"{run['case']} of {run['proxy']}" for run in failed))
        lines += ["", f"**Worthless, for there were errors: {which}.**"]
    return "\n".join(lines) + "\n"


def overview(report, cases, names):
    """CPU of each proxy, the medians only; what a proxy cannot do is told below."""
    lines, notes = [], {}
    for group in ([case for case in cases if case.scheme != "tcp"], [case for case in cases if case.scheme == "tcp"]):
        able = [name for name in names if any(runs_of(report, case, name) for case in group)]
        if not able:
            continue
        lines += ["", "| CPU, median | per | " + " | ".join(able) + " |", "|---|---|" + "---:|" * len(able)]
        for case in group:
            unit, cells = UNITS[case.unit], []
            for name in able:
                runs = runs_of(report, case, name)
                note = reason(case, name)
                if runs:
                    cells.append(f"{median(runs, 'cpu_us') / unit.microseconds:{unit.cpu_form}}")
                else:
                    cells.append(f"- [{notes.setdefault(note, len(notes) + 1)}]" if note else "-")
            lines.append(f"| {case.title} | {unit.time}/{case.unit} | " + " | ".join(cells) + " |")
    if notes:
        lines += ["", *(f"[{number}] {why}.  " for why, number in notes.items())]
    lines += ["", "TLS, as agreed with a client that prefers AES-256: " + tls(report) + "."]
    others = {
        f"{run['proxy']} took {run['detail']['cipher']} in {run['case']}"
        for run in report["runs"]
        if "cipher" in run["detail"] and not report["tls"][run["proxy"]].endswith(run["detail"]["cipher"])
    }
    if others:
        lines += ["", f"**Not with every load program: {'; '.join(sorted(others))}.**"]
    less = [f"{name}: {peers.KINDS[name].cannot[what]}" for name in names for what in DUTIES if what in peers.KINDS[name].cannot]
    if less:
        lines += ["", "Measured all the same, and doing less than portico: " + "; ".join(less) + "."]
    return lines


def tls(report):
    """Version and suite of each; most agree on the same."""
    by_suite = {}
    for name, suite in report["tls"].items():
        by_suite.setdefault(suite, []).append(name)
    return "; ".join(f"{suite} ({', '.join(names)})" for suite, names in by_suite.items())


def reason(case, name):
    cannot = peers.KINDS[name].cannot
    lacks = sorted(case.needs & cannot.keys())
    return f"{name}: {cannot[lacks[0]]}" if lacks else None


def budgets(report, cases):
    lines = []
    for case in cases:
        row = report["ratios"].get(case.name, {})
        for over, budget in ((BETTER, case.budget), (OLD_CHAIN, case.old_chain)):
            if budget and over in row:
                met = "met" if statistics.median(row[over]) <= budget else "**not met**"
                there = [peer for peer in BUDGET_PEERS if peer in row]
                of = there[0] if over == BETTER and len(there) == 1 else over
                lines.append(f"| {case.title} | {of} | {harness.spread(row[over], '.2f')} | {budget:.2f} | {met} |")
    return lines and ["", "| CPU of portico | over that of | median [lowest-highest] | budget | |", "|---|---|---:|---:|---|", *lines]


def table(report, case, names):
    unit = UNITS[case.unit]
    lines = [
        "",
        f"**{case.title}** (`{case.name}`)",
        "",
        f"| | CPU {unit.time} per {case.unit} | portico over it | user | system | {unit.rate} | core used | by others | "
        "new upstream connections | errors |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        runs = runs_of(report, case, name)
        if not runs:
            continue
        spent = harness.spread([run["cpu_us"] / unit.microseconds for run in runs], unit.cpu_form)
        ratio = report["ratios"].get(case.name, {}).get(name)
        parts = [f"{median(runs, part) / unit.microseconds:{unit.cpu_form}}" for part in ("user_us", "system_us")]
        used = median(runs, "core_used")
        limit = " (load was the limit)" if used < FULL_CORE else ""
        upstream = "-" if case.scheme == "tcp" else f"{median(runs, 'upstream_connections'):.0f}"
        lines.append(
            f"| {name} | {spent} | {harness.spread(ratio, '.2f') if ratio else '-'} | {' | '.join(parts)} | "
            f"{harness.spread([run['rate'] for run in runs], unit.rate_form)} | {used:.0%}{limit} | "
            f"{median(runs, 'core_used_by_others'):.0%} | {upstream} | {sum(run['errors'] for run in runs)} |"
        )
    agreed = [name for name in names if any(run["detail"].get("post_quantum") for run in runs_of(report, case, name))]
    if agreed:
        lines += ["", f"X25519MLKEM768: {', '.join(agreed)}; the others took X25519."]
    return lines


def latencies(report, case, names):
    lines = [
        "",
        f"**{case.title}** (`{case.name}`): {case.rate:,.0f} requests/s on {case.connections} connections, whatever the proxy",
        "",
        "| | p50, us | p99, us | p99.9, us | samples | CPU us per request | by others | load program late by (p99), us | errors |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        runs = runs_of(report, case, name)
        if runs:
            cells = [harness.spread([run["detail"][key] for run in runs], ",.0f") for key in ("p50_us", "p99_us", "p999_us")]
            cells.append(f"{sum(run['detail']['samples'] for run in runs):,}")
            cells.append(harness.spread([run["cpu_us"] for run in runs], ",.1f"))
            cells.append(f"{median(runs, 'core_used_by_others'):.0%}")
            late = max(run["detail"]["late_p99_us"] for run in runs)
            late = f"{late:,}" + " (load late)" * any(run["load_late"] for run in runs)
            lines.append(f"| {name} | {' | '.join(cells)} | {late} | {sum(run['errors'] for run in runs)} |")
    return lines


def system_calls(report, cases):
    by_name = {case.name: case for case in cases}
    lines = ["", "| case | proxy | system calls | per | which |", "|---|---|---:|---|---|"]
    for row in report["system_calls"]:
        calls = sorted(row["per_unit"].items(), key=lambda call: -call[1])
        which = ", ".join(f"{name} {count:,.2f}" for name, count in calls)
        case, total = by_name[row["case"]], sum(row["per_unit"].values())
        lines.append(f"| {case.title} | {row['proxy']} | {total:,.2f} | {case.unit} | {which} |")
    return lines


def beside(report, earlier, cases):
    """Which figures differ from those of another run: those whose ranges do not overlap.

    Ratios first: the machine's pace changes, and they are of runs that followed each other.
    """
    ratios_then, ratios_now = (ratios(one["runs"], cases) for one in (earlier, report))
    compared = []
    for case in cases:
        for peer, now in ratios_now.get(case.name, {}).items():
            then = ratios_then.get(case.name, {}).get(peer)
            compared.append((f"| {case.title} | {peer} | portico over it", then, now, ".2f"))
    lines = [overlapping(compared, "ratios")]
    figures = [("CPU us", lambda run: run["cpu_us"])]
    figures += [(key.removesuffix("_us"), lambda run, key=key: run["detail"].get(key)) for key in ("p50_us", "p99_us", "p999_us")]
    figures.append(("rate", lambda run: None if run["detail"].get("late_p99_us") is not None else run["rate"]))
    compared = []
    for case in cases:
        for name in report["versions"]:
            for title, figure in figures:
                then, now = ([figure(run) for run in runs_of(one, case, name)] for one in (earlier, report))
                if None not in then + now:
                    compared.append((f"| {case.title} | {name} | {title}", then, now, ",.1f"))
    lines.append(overlapping(compared, "figures"))
    said = f"Beside the run of {earlier['date']}:"
    differ = [key for key in ("seconds", "latency_seconds", "routes", "profile", "versions") if earlier.get(key) != report.get(key)]
    rates = [{run["rate_asked"] for run in one["runs"] if run.get("rate_asked")} for one in (earlier, report)]
    differ += ["the rate of latency"] * (rates[0] != rates[1])
    machines = [{key: value for key, value in one["machine"].items() if key != "load_at_start"} for one in (earlier, report)]
    differ += ["machine"] * (machines[0] != machines[1])
    if differ:
        said += f" **the two differ in {', '.join(differ)}.**"
    return "\n".join(["", said, *lines]) + "\n"


def overlapping(compared, what):
    """How many of two runs' figures have ranges that overlap, and which have not."""
    compared = [row for row in compared if row[1] and row[2]]
    apart = [row for row in compared if max(row[1]) < min(row[2]) or max(row[2]) < min(row[1])]
    lines = ["", f"The ranges of {len(compared) - len(apart)} of {len(compared)} {what} overlap."]
    if apart:
        lines += ["", "| these do not | | | then | now |", "|---|---|---|---:|---:|"]
        lines += [f"{row} | {harness.spread(then, form)} | {harness.spread(now, form)} |" for row, then, now, form in apart]
    return "\n".join(lines)


def runs_of(report, case, name):
    return [run for run in report["runs"] if (run["case"], run["proxy"]) == (case.name, name)]


def median(runs, key):
    return statistics.median(run[key] for run in runs)

