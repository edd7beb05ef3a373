"""Benchmarks of fastpmf for airspeed velocity; each module is a suite."""
