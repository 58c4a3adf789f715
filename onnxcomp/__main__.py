"""`python -m onnxcomp`."""

from onnxcomp.cli import main

main()
