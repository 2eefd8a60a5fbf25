"""Measure the spec `ci` anew and write results/reference/ci.parquet, which `xmbench check` compares with.

Run it where a change of numbers is meant, commit the file with that change, and say why the numbers moved:

    python scripts/make_ci_reference.py
"""

from pathlib import Path

from xmbench.check import make_reference

if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "results" / "reference" / "ci.parquet"
    rows = make_reference(path)
    print(f"{path}: {len(rows)} rows of {rows['run_id'].nunique()} runs")
