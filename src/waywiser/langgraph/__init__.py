"""The LangGraph surface: a chat model, a middleware, a wrapper for compiled graphs, and what a graph tells of itself."""
