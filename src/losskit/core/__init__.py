"""What every loss shares: checks of the arguments, the choice of the backend, the reduction. It knows no particular
loss."""
