"""Measures what traces cost the engine: durable SubmitMessage without them, at 1 in 100, and with all, over both edges.

The collector is a process that forgets (`trace_sink`). It takes from the same processors as the engine, so what counts
is the engine's own processor time.
"""

from pathlib import Path
from typing import Final

from loadtest.benchmarks.accept_edges import accept_over
from loadtest.benchmarks.accept_unary_native import check_tools, submission_frame
from loadtest.benchmarks.children import HOST, child, clean_environment, module_command
from loadtest.benchmarks.engine_process import EDGES
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import Plan

METHOD: Final = (
    "As accept-edges, with LONGWAVE_TRACES_ENDPOINT unset, and set with LONGWAVE_TRACES_RATIO 0.01 and 1; calls bring "
    "no traceparent; the collector forgets what it gets."
)
RATIOS: Final = ("0.01", "1")


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run. Raises BenchmarkError without h2load."""
    check_tools()
    body = folder / "frame"
    body.write_bytes(submission_frame())
    sink = module_command("loadtest.benchmarks.trace_sink")
    with child(sink, clean_environment({}), folder / "sink.log") as (_, line):
        endpoint = f"http://{HOST}:{int(line)}/v1/traces"
        for edge in EDGES:
            accept_over(edge, plan, folder, body, sheet, shown=", no traces")
            for ratio in RATIOS:
                settings = {"LONGWAVE_TRACES_ENDPOINT": endpoint, "LONGWAVE_TRACES_RATIO": ratio}
                accept_over(edge, plan, folder, body, sheet, settings, shown=f", ratio {ratio}")
