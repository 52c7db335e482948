"""Benchmarks: workloads, the time of each stage, memory, error, and a report that names the machine."""

from tvlt_deploy.bench.report import BenchReport, check_report_path
from tvlt_deploy.bench.results import BenchRow
from tvlt_deploy.bench.run import bench
from tvlt_deploy.bench.workloads import WORKLOADS

__all__ = ["WORKLOADS", "BenchReport", "BenchRow", "bench", "check_report_path"]
