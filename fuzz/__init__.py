"""Coverage-guided fuzzing (atheris, libFuzzer) of what comes from the network: `make fuzz`."""
