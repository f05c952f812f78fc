"""The paper's controlled experiment: oracle → teacher → student, as stages that each run once."""
