"""Benchmarks of fastpmf for airspeed velocity; one module is one suite."""
