"""The same in Python: a graph, its model routed, and what each step cost."""

from waywiser import Router
from waywiser.workflow import load_graph

with Router.from_policy("policy.yaml") as router, router.session() as session:
    graph = load_graph("graph.yaml", router.chat_model())  # or any LangGraph graph made with this model
    print(graph.invoke({"messages": [("user", "Where is my order W1001?")]})["messages"][-1].text)
    for receipt in session.receipts():
        print(receipt.kind, receipt.model, f"{receipt.cost_nanos / 1e9:.6f} USD")
