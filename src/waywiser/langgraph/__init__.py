"""The LangGraph surface: a chat model, a middleware, a wrapper for compiled graphs, and the shape of graphs."""
