"""The whole chain as five real processes, which the tests share with the campaign of kills."""

from campaign.processes import MAGIC, PARTS, PASSWORDS, ROOT, Chain

__all__ = ["MAGIC", "PARTS", "PASSWORDS", "ROOT", "Chain"]
