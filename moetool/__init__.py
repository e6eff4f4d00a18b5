"""moetool: pull, plan, run and measure GGUF mixtures of experts over llama.cpp."""

__version__ = "0.1.0"
