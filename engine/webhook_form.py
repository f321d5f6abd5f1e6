"""What the receipts edge takes from the core: the form in which carriers write a webhook's request.

It holds nothing; `engine/_core.pyi` says what it does.
"""

from engine._core import WebhookForm

__all__ = ["WebhookForm"]
