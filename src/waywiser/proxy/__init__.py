"""The proxy: an endpoint in OpenAI's and Anthropic's dialects, for everything that is not Python or not LangGraph."""
