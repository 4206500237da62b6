"""How kernels are compiled by Numba, and where what is compiled is kept."""
