import os

# Workers of pytest-xdist share the cores, so each computes with one thread (read when torch loads);
# sums then have the same order on every machine.
os.environ["OMP_NUM_THREADS"] = "1"

from hypothesis import settings

# a deadline measures how busy the machine is
settings.register_profile("gistrec", deadline=None)
settings.load_profile("gistrec")


def pytest_sessionfinish(session):
    # tests kept until the interpreter ends would keep duckdb, whose bindings then report a leak
    session.items.clear()
