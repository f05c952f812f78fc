"""`python -m thack`, for torchrun and srun."""

from thack.cli import main

if __name__ == "__main__":
    main()
