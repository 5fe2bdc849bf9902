"""MuJoCo 3D navigation."""
