"""Remasking in place, with the operators of csrc/."""

from .api import extension_status, remask_, revoke_

__all__ = ["extension_status", "remask_", "revoke_"]
