"""The paper's controlled experiment: oracle → teacher → student, as a list of stages that are made once."""
