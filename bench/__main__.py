import sys
from importlib import import_module

sys.exit(import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:]))
