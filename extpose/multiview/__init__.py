"""People in 3D from several calibrated cameras: cameras, triangulation, refinement, body."""
