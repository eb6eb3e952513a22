"""What a client's `model` means here: `auto`, `tier:NAME`, `policy:NAME`, or a model of a policy, pinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from waywiser.core.policy import Policy
from waywiser.proxy.troubles import Denied


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which policy decides, and what the caller pinned: a tier, a model, or nothing."""

    policy: str
    tier: str = ""
    model: str = ""


class Names:
    """The names that can be asked for. The first policy is the one for `auto`, tiers and models."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self._policies = policies
        self.resolve = lru_cache(maxsize=1024)(self._resolve)

    def _resolve(self, name: str, allowed: tuple[str, ...]) -> Wanted:
        """Find what `name` means for a caller who may use the policies `allowed` (empty: all).

        Raises `Denied` (404) for a name that means nothing, (403) for a policy the caller may not use.
        """
        usable = self._usable(allowed)
        if not usable:
            raise Denied(403, "policy_not_allowed", "this key may use no policy that is served here")
        if name in ("", "auto"):
            return Wanted(usable[0].name)
        kind, _, rest = name.partition(":")
        if kind == "policy" and rest in self._policies:
            if allowed and rest not in allowed:
                raise Denied(403, "policy_not_allowed", f"this key may not use the policy `{rest}`", param="model")
            return Wanted(rest)
        for policy in usable:
            if kind == "tier" and any(tier.name == rest for tier in policy.tiers):
                return Wanted(policy.name, tier=rest)
            if (model := _model_of(policy, name)) is not None:
                return Wanted(policy.name, model=model)
        known = ", ".join(self.listed(allowed))
        raise Denied(
            404, "model_not_found", f"the model `{name[:100]}` does not exist; there are {known}", param="model"
        )

    def listed(self, allowed: tuple[str, ...]) -> list[str]:
        """Every name a caller can ask for, `auto` first."""
        usable = self._usable(allowed)
        names = ["auto"]
        names += [f"tier:{tier.name}" for policy in usable for tier in policy.tiers]
        names += [f"policy:{policy.name}" for policy in usable]
        names += [model.name for policy in usable for tier in policy.tiers for model in tier.models]
        return list(dict.fromkeys(names))

    def _usable(self, allowed: Sequence[str]) -> list[Policy]:
        return [policy for name, policy in self._policies.items() if not allowed or name in allowed]


def _model_of(policy: Policy, name: str) -> str | None:
    """Find a model by its full name, or by the provider's own name for it where only one model has that."""
    models = {model.name: model for tier in policy.tiers for model in tier.models}
    if name in models:
        return name
    short = [full for full, model in models.items() if name in (model.remote, full.partition("/")[2])]
    return short[0] if len(short) == 1 else None
