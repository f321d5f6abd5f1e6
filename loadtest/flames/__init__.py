"""Where an engine's processor time goes: flame graphs and a table by stage, of the paths that matter."""
