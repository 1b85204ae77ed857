"""A client of OpenAI-compatible chat completions: retries, failover between endpoints, a cap on what is spent.

chat = Chat(endpoints_from_environment("VZOOM_EXPERT"), budget=Budget(max_cost=5.0))
reply = chat.complete([{"role": "user", "content": "Hello"}], tag="record-7", task="distill")

The standard library only; no part of it knows videos.
"""

from .budget import Budget, BudgetSpent, Usage
from .circuit import EndpointsRefuse
from .client import Chat, ChatFailed, Reply
from .endpoint import Endpoint, endpoints_from_environment

__all__ = [
    "Budget",
    "BudgetSpent",
    "Chat",
    "ChatFailed",
    "Endpoint",
    "EndpointsRefuse",
    "Reply",
    "Usage",
    "endpoints_from_environment",
]
