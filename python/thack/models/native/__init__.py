"""The native decoder of the Llama family: modules, gradients, key-value cache."""
