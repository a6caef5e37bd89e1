"""Measurements of sealserve. `python -m benchmarks` lists them; each is a module here with `main(argv)`."""
