"""The main job on simulated models: three customers, one support desk, every step on its tier.

    make demo        or        python examples/support_desk/demo.py

The shop is a real SQLite database in a temporary folder; the models are simulated, so nothing is called or paid.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from support_desk.make_shop import make_shop  # noqa: E402 - the folder above comes first
from waywiser.cli import main  # noqa: E402

CUSTOMERS = """\
Hi! I want to cancel order #W10561, I don't need it any more. I am farid.fontaine@example.com, zip code 53707.
I am moving. Please send order #W10603 to 12 Oak Street, Denver, CO 80202 instead. I am Jonas Berger, zip code 83710.
""".splitlines()


def demo() -> int:
    """Run each customer through the support desk; the exit code is the worst of the runs'."""
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop.sqlite"
        make_shop(shop)
        os.environ["SUPPORT_DESK_DB"] = str(shop)
        for text in CUSTOMERS:
            graph, policy = ROOT / "graphs/support_desk.yaml", ROOT / "policies/simulated.yaml"
            worst = max(
                worst, main(["run", str(graph), "--policy", str(policy), "--store", ":memory:", "--input", text])
            )
            print()
    return worst


if __name__ == "__main__":
    sys.exit(demo())
