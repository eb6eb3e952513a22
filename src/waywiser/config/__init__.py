"""Configuration files: YAML with places, pydantic schemas at the edge, core types behind them."""
