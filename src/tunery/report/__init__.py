"""Pages and pictures made from what lies in a run directory."""
