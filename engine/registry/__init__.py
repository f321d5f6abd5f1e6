"""Tenants, keys, brands, campaigns, numbers, quotas: who may send what from where."""
