"""The pure core: what is decided, never how it is performed. Standard library and networkx only."""
